"""The demo's case as the stages see it, without a server: 4 keys per coordinator, all stale."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.case import chunks
from bench.seed import stale_words
from cleanup_job import demo, judge
from cleanup_job.config import Config
from cleanup_job.cursors import Order, end_of
from cleanup_job.judge import fingerprint
from cleanup_job.model import Findings, Partition, Rule, Schema, StaleRun

SCHEMA: Schema = Config().schema()

RULE = Rule(stale_after_ms=600_000, fields=("timestamp", "lastHeartbeat"), unit_ms=1)

BEAT_MS = 1_760_000_000_000

NOW_MS = BEAT_MS + demo.STALE_AGE_MS

PAGE = 1_000
"""Keys of a SCAN, heartbeats of an MGET."""


@dataclass(frozen=True)
class Keyspace:
    """Keys with their values, in the order of a walk: one that no writer knows."""

    values: dict[bytes, bytes]

    @property
    def keys(self) -> list[bytes]:
        """All of them."""
        return [*self.values]

    def heartbeats(self) -> tuple[list[bytes], list[bytes]]:
        """Ids and values."""
        ids = SCHEMA.heartbeat.ids(self.keys)
        return ids, [self.values[key] for key in SCHEMA.heartbeat.keys_for(ids)]


def keyspace(coordinators: int) -> Keyspace:
    """So many stale coordinators."""
    pairs: list[tuple[bytes, bytes]] = []
    for words in stale_words(coordinators, BEAT_MS):
        encoded = [word.encode() for word in words]
        pairs += zip(encoded[::2], encoded[1::2], strict=True)
    random.Random(1).shuffle(pairs)
    return Keyspace(dict(pairs))


def findings(found: Keyspace) -> Findings:
    """What one partition's survey hands over: a family's keys in order, page by page."""
    ids, values = found.heartbeats()
    pages = [sorted(page) for page in chunks(found.keys, PAGE)]
    return Findings(
        partition=Partition(
            "127.0.0.1:6379", Order.REVERSED, ((0, end_of(Order.REVERSED)),), len(found.keys)
        ),
        scanned=len(found.keys),
        seconds=1.0,
        attempts=1,
        live=[],
        stale=_runs_of_stale(ids, values),
        kept=[],
        owned=[[pattern.pick(page) for page in pages] for _, pattern in SCHEMA.owned],
        timings={},
        longest=max(map(len, found.keys), default=0),
    )


def _runs_of_stale(ids: Sequence[bytes], values: Sequence[bytes]) -> list[StaleRun]:
    rows = [sorted(some) for some in chunks([*zip(ids, values, strict=True)], PAGE)]
    return [
        StaleRun(
            [name for name, _ in some],
            [fingerprint(value) for _, value in some],
            [demo.STALE_AGE_MS] * len(some),
        )
        for some in rows
    ]


def verdicts(found: Keyspace) -> judge.Verdicts:
    """What the reduce hands over."""
    return judge.decide([findings(found)], SCHEMA)


def script_call(ids: Sequence[bytes], expected: Sequence[bytes], *, joined: bool) -> list[bytes]:
    """KEYS and ARGV of `lua/purge.lua` for coordinators that each have the demo's four keys.

    As its header documents them; the number of keys first, as EVALSHA takes it.
    """
    guards = SCHEMA.heartbeat.keys_for(ids)
    owned = [_owned(name, ids) for name, _ in SCHEMA.owned]
    keys = [*guards, *(key for family in owned for key in family)]
    numbers = (len(guards), len(guards), 0, len(owned), *map(len, owned))
    values = [b"\0".join(expected)] if joined else [*expected]
    return [b"%d" % len(keys), *keys, *(b"%d" % number for number in numbers), *values]


def _owned(family: str, ids: Sequence[bytes]) -> list[bytes]:
    match family:
        case "signal":
            return [b"blocking:signal:%b" % name for name in ids]
        case "ack":
            return [b"blocking:ack:%b:signal-%b" % (n, n.rpartition(b"-")[2]) for n in ids]
        case "activity":
            return [b"coordinator:activity:%b" % name for name in ids]
        case _:
            return []
