"""A sweep with redis-py, as people write it: key by key, and with pipelines.

Neither looks again before it deletes, and ids are cut at `:` as this data happens to have it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import redis

STALE_AFTER_MS = 600_000

PATTERNS = ("blocking:*", "coordinator:activity:*")


def per_key(client: redis.Redis) -> None:
    """A round trip for each key."""
    stale = set()
    for key in client.scan_iter("blocking:heartbeat:*"):
        if is_stale(client.get(key)):
            stale.add(id_of(key))
    for pattern in PATTERNS:
        for key in client.scan_iter(pattern):
            if id_of(key) in stale:
                client.delete(key)


def pipelined(client: redis.Redis) -> None:
    """A thousand keys per round trip."""
    stale = set()
    for keys in chunks(client.scan_iter("blocking:heartbeat:*", count=1000)):
        for key, value in zip(keys, client.mget(keys), strict=True):
            if is_stale(value):
                stale.add(id_of(key))
    for pattern in PATTERNS:
        for keys in chunks(client.scan_iter(pattern, count=1000)):
            with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    if id_of(key) in stale:
                        pipeline.unlink(key)
                pipeline.execute()


def is_stale(value: Any) -> bool:
    """Whether a heartbeat is too old, by this machine's clock."""
    if value is None:
        return False
    age_ms = time.time() * 1000 - json.loads(value)["timestamp"]
    return bool(age_ms > STALE_AFTER_MS)


def id_of(key: bytes) -> bytes:
    """The third part of the key's name."""
    return key.split(b":")[2]


def chunks(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    """A thousand at a time."""
    while some := list(islice(keys, 1000)):
        yield some


def main(url: str, way: str) -> None:
    """`python -m bench.clients.redis_py URL per_key|pipelined`."""
    began = time.perf_counter()
    with redis.Redis.from_url(url) as client:
        {"per_key": per_key, "pipelined": pipelined}[way](client)
    print(json.dumps({"sweep_s": time.perf_counter() - began}))


if __name__ == "__main__":
    main(*sys.argv[1:])
