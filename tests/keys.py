"""Keys as the writers write them, for the server tests."""

from __future__ import annotations

import json
from typing import Any

import redis

from cleanup_job.config import Config, Redis
from cleanup_job.job import Observer, run
from cleanup_job.report import Report
from tests.servers import ServerCluster, ServerProcess

STALE_MS = 700_000


def now_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000


def beat(at_ms: int, field: str = "timestamp", **more: Any) -> str:
    return json.dumps({"coordinatorId": "x", field: at_ms, **more})


def write_heartbeat(client: redis.Redis, name: bytes | str, age_ms: int, **more: Any) -> None:
    client.set(heartbeat_key(name), beat(now_ms(client) - age_ms, **more))


def heartbeat_key(name: bytes | str) -> bytes:
    return b"blocking:heartbeat:" + as_bytes(name)


def owned_keys(name: bytes | str) -> list[bytes]:
    """One signal, two ACKs, one idempotency record and the activity of a coordinator."""
    name = as_bytes(name)
    return [
        b"blocking:signal:" + name,
        b"blocking:ack:" + name + b":s1",
        b"blocking:ack:" + name + b":s2",
        b"blocking:idempotency:op:" + name,
        b"coordinator:activity:" + name,
    ]


def write_owned(client: redis.Redis, name: bytes | str) -> None:
    client.mset(dict.fromkeys(owned_keys(name), "1"))


def write_coordinator(client: redis.Redis, name: bytes | str, age_ms: int) -> None:
    write_heartbeat(client, name, age_ms)
    write_owned(client, name)


def as_bytes(name: bytes | str) -> bytes:
    return name if isinstance(name, bytes) else name.encode()


def keys_of(client: redis.Redis) -> set[bytes]:
    return set(client.scan_iter(count=1000))


def sweep(
    server: ServerProcess | ServerCluster,
    *,
    dry_run: bool = False,
    observer: Observer | None = None,
    **settings: Any,
) -> Report:
    # Most cases are all about the dead, and some hold beats of an hour ahead.
    settings = {"expect_all_dead": True, "max_clock_skew": 10_000, **settings}
    config = Config(redis=Redis(server.url), **settings)
    return run(config, dry_run=dry_run, observer=observer)


def assert_adds_up(report: Report) -> None:
    for counts in (*report.keys.by_family.values(), report.keys):
        assert counts.planned == (
            counts.deleted + counts.gone + counts.spared + counts.failed + counts.unknown
        )
    found = report.coordinators
    assert found.checked == found.live + found.stale + found.unreadable + found.future
