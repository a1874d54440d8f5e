"""The data that every row gets, and the check on the server that its work was done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any, TypeVar

import redis

from bench.seed import seed
from cleanup_job import demo

T = TypeVar("T")

COVERING_GLOB = "[bc][lo]o[cr][kd]in[ga][:t]*"
"""Matches `blocking:` and `coordinator:` in one walk; for rows that must not see the haystack."""

UNRELATED_PER_SCRIPT = 50_000

_WRITE_UNRELATED = """
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  redis.call('SET', 'session:' .. number, number)
end
"""


class Promise(Enum):
    """What a row claims to do, and is checked against."""

    SWEEP = "every stale coordinator's keys go, live ones stay"
    BLIND = "everything goes, live ones too"
    SAMPLE = "some stale coordinators' keys go, live ones stay"
    LOOK = "nothing goes"


@dataclass(frozen=True)
class Case:
    """What is on the server: besides `coordinators` there are always the demo's live ones."""

    coordinators: int
    live_share: float = 0.0
    unrelated: int = 0

    @property
    def live(self) -> int:
        """How many of `coordinators` have a fresh heartbeat."""
        return round(self.coordinators * self.live_share)

    @property
    def stale(self) -> int:
        """How many of `coordinators` a sweep should find dead."""
        return self.coordinators - self.live

    @property
    def keys(self) -> int:
        """All keys on the server."""
        return (self.coordinators + demo.LIVE) * demo.KEYS_PER_COORDINATOR + self.unrelated

    @property
    def stale_keys(self) -> int:
        """The keys that a sweep should delete."""
        return self.stale * demo.KEYS_PER_COORDINATOR


@dataclass(frozen=True)
class Check:
    """What the server holds after a run, against what it should."""

    good: bool
    text: str


def prepare(client: redis.Redis, case: Case) -> dict[str, str]:
    """Write the case; returns live keys with the values that they must keep."""
    _clear(client, case.unrelated)
    kept = seed(client, case.coordinators)
    kept |= _refresh(client, case.live)
    if client.dbsize() != case.keys:
        raise RuntimeError(f"seeded {client.dbsize()} keys, not {case.keys}")
    return kept


def check(
    client: redis.Redis,
    case: Case,
    kept: dict[str, str],
    promise: Promise,
    stale_done: int | None = None,
) -> Check:
    """Ask the server, not the row.

    Args:
        client: its connection.
        case: what was seeded.
        kept: from `prepare`.
        promise: what the row claims to do.
        stale_done: how many stale coordinators it says it deleted; all, if it does not say.
    """
    left: Any = client.dbsize()
    if promise is Promise.BLIND:
        good = left == case.unrelated
        return Check(good, "done, but live ones deleted too" if good else f"BAD: {left} keys left")
    done = case.stale if stale_done is None else stale_done
    if promise is Promise.LOOK:
        done = 0
    expected = case.keys - done * demo.KEYS_PER_COORDINATOR
    if left != expected:
        return Check(False, f"BAD: {left:,} keys left, not {expected:,}")
    if not _untouched(client, kept):
        return Check(False, "BAD: live ones touched")
    if promise is Promise.LOOK:
        return Check(True, "done, nothing deleted")
    return Check(True, "done" if done == case.stale else f"a sample: {done:,} purged")


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items, so many at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _clear(client: redis.Redis, unrelated: int) -> None:
    """An empty server, except for the haystack, which is written once."""
    if unrelated:
        _unlink_case(client)
    if not unrelated or client.dbsize() != unrelated:
        # In the foreground: nothing may be freed while a row runs.
        flush_all: Any = client.execute_command
        flush_all("FLUSHALL", "SYNC")
        _write_unrelated(client, unrelated)


def _unlink_case(client: redis.Redis) -> None:
    keys = client.scan_iter(COVERING_GLOB, count=1000)
    while some := list(islice(keys, 1000)):
        client.unlink(*some)


def _write_unrelated(client: redis.Redis, count: int) -> None:
    for first in range(1, count + 1, UNRELATED_PER_SCRIPT):
        last = min(first + UNRELATED_PER_SCRIPT - 1, count)
        client.eval(_WRITE_UNRELATED, 0, str(first), str(last))


def _refresh(client: redis.Redis, count: int) -> dict[str, str]:
    """Give the first of the demo's stale coordinators a heartbeat of now."""
    seconds, micros = client.time()
    value = json.dumps({"timestamp": seconds * 1000 + micros // 1000, "iteration": 2})
    beats = {f"blocking:heartbeat:test-swarm-{n}": value for n in range(1, count + 1)}
    for some in chunks([*beats], 10_000):
        client.mset(dict.fromkeys(some, value))
    return beats


def _untouched(client: redis.Redis, kept: dict[str, str]) -> bool:
    def same(keys: Sequence[str]) -> bool:
        values: Any = client.mget(keys)
        return bool(values == [kept[key].encode() for key in keys])

    return all(same(keys) for keys in chunks([*kept], 10_000))
