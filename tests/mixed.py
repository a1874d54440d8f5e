"""A population in which all rules of ownership meet, and reports without what may differ.

Ids are prefixes of each other, by bytes and by segments; keys name two of them; some have no
heartbeat, some one that can't be read. Engines and ranges of ids have to agree on all of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import redis

from cleanup_job.report import Report
from tests.keys import beat, heartbeat_key, now_ms, owned_keys

TIMES = (
    "run_id", "started_at", "duration_s", "phases", "commands", "costs", "server", "client",
    "nodes", "timeline", "stops", "throttle", "ages", "config", "partitions", "workers",
)  # fmt: skip
"""What differs from run to run, and what says how a run was made."""


def names(count: int) -> list[bytes]:
    """Ids of one to three segments, many of which begin like others."""
    flat = [b"test-swarm-%d" % number for number in range(count)]
    deep = [b"sw-%d:c-%d" % (number % 7, number) for number in range(count // 5)]
    return [*flat, *deep, b"a", b"a:b", b"a0", b"a:b:c", b"op", b"error"]


def write_mixed(client: redis.Redis | redis.RedisCluster, count: int, seed: int) -> None:
    """Write it; the same for the same seed, but for the clock."""
    now = now_ms(client)
    pipeline = client.pipeline(transaction=False) if isinstance(client, redis.Redis) else client
    for key, value in _keys(names(count), random.Random(seed), now):
        pipeline.set(key, value)
    if isinstance(pipeline, redis.client.Pipeline):
        pipeline.execute()


def _keys(ids: list[bytes], rng: random.Random, now: int) -> Iterator[tuple[bytes, str]]:
    for number, name in enumerate(ids):
        value = rng.choices(
            [
                beat(now - 700_000 - 1000 * number),
                beat(now),
                "no JSON",
                beat(now + 90_000 + number),
            ],
            [60, 10, 3, 3],
        )[0]
        if rng.random() < 0.8:
            yield heartbeat_key(name), value
        for key in owned_keys(name):
            if rng.random() < 0.8:
                yield key, rng.choice(["1", "text"])
        other = rng.choice(ids)
        yield b"blocking:idempotency:%b:%b:error:3:%d" % (name, other, rng.randrange(10**9)), "1"


def comparable(report: Report) -> dict[str, Any]:
    """The report without times, ages, and what says how it was made."""
    plain: dict[str, Any] = msgspec.to_builtins(report)
    for name in TIMES:
        del plain[name]
    # The oldest are shown, by ages that are counted when each was read.
    plain["samples"] = [one for one in plain["samples"] if one["verdict"] != "stale"]
    for sample in plain["samples"]:
        sample["age_s"] = None
    for problem in plain["warnings"]:
        problem["message"] = problem["message"].partition(" ahead ")[0][:30]
    plain["warnings"] = [
        problem
        for problem in plain["warnings"]
        if problem["code"] not in ("clock_skew", "in_waves")
    ]
    return plain
