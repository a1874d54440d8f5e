"""Generated keyspaces against a slow, obvious model of the promises (issue 2, show it 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.keys import assert_adds_up, beat, heartbeat_key, keys_of, now_ms, sweep
from tests.servers import ServerCluster, ServerProcess

ORPHAN_GRACE_S = 600
IDLE_S = 10_000

SEGMENTS = [b"a", b"b", b"ab", b"error", b"", b"x*?[", b"\xff\x00", b"n\nl ", b"heartbeat"]
STATES = ["live", "stale", "unreadable", "future", "hash"]

ids = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3).map(b":".join)
rests = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5).map(b":".join)
prefixes = st.sampled_from(
    [
        b"blocking:signal:",
        b"blocking:ack:",
        b"blocking:idempotency:",
        b"coordinator:activity:",
        b"blocking:retry:",
        b"junk:",
    ]
)


@dataclass(frozen=True)
class Keyspace:
    """Heartbeats by id, other keys, and whether those were touched lately."""

    heartbeats: dict[bytes, str]
    keys: frozenset[bytes]
    touched: frozenset[bytes] = frozenset()


@st.composite
def keyspaces(draw: st.DrawFn) -> Keyspace:
    heartbeats = draw(st.dictionaries(ids, st.sampled_from(STATES), max_size=6))
    # Most keys name an id that exists, or two of them; some name anything.
    known = st.sampled_from(sorted(heartbeats) or [b"a"])
    named = st.lists(st.one_of(known, ids), min_size=1, max_size=3).map(b":".join)
    key = st.tuples(prefixes, st.one_of(named, rests)).map(b"".join)
    keys = draw(st.frozensets(key, max_size=12))
    touched = draw(st.frozensets(st.sampled_from(sorted(keys)), max_size=3)) if keys else keys
    return Keyspace(heartbeats, keys, touched)


@lru_cache(maxsize=10_000)
def readings(key: bytes) -> list[bytes]:
    """Every id that the key could name, by the words of the design, leading and short first."""
    segments = key.split(b":")
    runs = [
        (start, b":".join(segments[start:end]))
        for start in range(len(segments))
        for end in range(start + 1, len(segments) + 1)
    ]
    return [name for start, name in runs if name and names(key, start, name)]


def names(key: bytes, start: int, name: bytes) -> bool:
    if key.startswith(b"blocking:idempotency:"):
        return start >= 2
    return (
        key == b"blocking:signal:" + name
        or key == b"coordinator:activity:" + name
        or (start == 2 and key.startswith(b"blocking:ack:" + name + b":"))
    )


def expected_left(space: Keyspace, *, purge_orphans: bool) -> set[bytes]:
    """What the promises say must be there afterwards."""
    state = {name: s for name, s in space.heartbeats.items() if name}
    left = {heartbeat_key(n) for n, s in space.heartbeats.items() if s != "stale" or not n}
    touched_orphans = {readings(key)[0] for key in space.touched if is_orphan(state, readings(key))}
    for key in space.keys:
        named = readings(key)
        states = {state[name] for name in named if name in state}
        if states and states == {"stale"}:
            continue
        if purge_orphans and is_orphan(state, named) and named[0] not in touched_orphans:
            continue
        left.add(key)
    return left


def is_orphan(state: dict[bytes, str], named: Iterable[bytes]) -> bool:
    named = list(named)
    return bool(named) and not any(name in state for name in named)


def write(client: redis.Redis, space: Keyspace) -> None:
    client.flushall()
    now = now_ms(client)
    values = {
        "live": beat(now - 1000),
        "stale": beat(now - 700_000, field="lastHeartbeat"),
        "unreadable": "?",
        "future": beat(now + 3_600_000),
    }
    for name, state in space.heartbeats.items():
        if state == "hash":
            client.hset(heartbeat_key(name), "timestamp", now - 700_000)
        else:
            client.set(heartbeat_key(name), values[state])
    client.set("template", "no small number: those may share one idle time")
    payload = client.dump("template")
    client.delete("template")
    for key in space.keys:
        idle_s = 0 if key in space.touched else IDLE_S
        client.restore(key, 0, payload, idletime=idle_s)


def generated(test: Callable[..., None]) -> Any:
    """Run a test on generated keyspaces, and on those that were wrong once or easily are."""
    cases: list[tuple[Keyspace, bool, str]] = [
        (
            Keyspace({b"a": "stale", b"a:b": "live"}, frozenset({b"blocking:ack:a:b:s1"})),
            False,
            "purge",
        ),
        (
            Keyspace(
                {b"a": "stale", b"b": "live"}, frozenset({b"blocking:idempotency:a:b:error:1:2"})
            ),
            False,
            "purge",
        ),
        (Keyspace({b"": "stale"}, frozenset({b"blocking:idempotency:a::b"})), False, "report"),
    ]
    for case in cases:
        test = example(*case)(test)
    return given(keyspaces(), st.booleans(), st.sampled_from(["ignore", "report", "purge"]))(test)


@settings(max_examples=150)
@generated
def test_purge_equals_the_model(
    server: ServerProcess, client: redis.Redis, space: Keyspace, dry_run: bool, orphans: str
) -> None:
    check(server, client, space, dry_run=dry_run, orphans=orphans)


def check(
    server: ServerProcess | ServerCluster,
    client: redis.Redis,
    space: Keyspace,
    *,
    dry_run: bool,
    orphans: str,
) -> None:
    write(client, space)
    before = keys_of(client)
    expected = expected_left(space, purge_orphans=orphans == "purge")

    report = sweep(
        server, dry_run=dry_run, orphans=orphans, orphan_grace=ORPHAN_GRACE_S, engine="serial"
    )

    assert report.status == "complete"
    assert report.keys.planned == len(before - expected)
    assert keys_of(client) == (before if dry_run else expected)
    states = [s if n else "unreadable" for n, s in space.heartbeats.items()]
    states = ["unreadable" if s == "hash" else s for s in states]
    found = report.coordinators
    assert (found.live, found.stale, found.unreadable, found.future) == tuple(
        states.count(state) for state in ("live", "stale", "unreadable", "future")
    )
    if not dry_run:
        assert_adds_up(report)
        assert report.keys.deleted == len(before - expected)
        assert found.purged == found.stale
        again = sweep(server, orphans=orphans, orphan_grace=ORPHAN_GRACE_S, engine="serial")
        assert again.keys.planned == 0
