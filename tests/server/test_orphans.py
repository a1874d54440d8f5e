"""Orphans: owned keys whose coordinator has no heartbeat at all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from cleanup_job.job import Observer
from tests.keys import (
    STALE_MS,
    assert_adds_up,
    keys_of,
    owned_keys,
    sweep,
    write_heartbeat,
)
from tests.servers import ServerProcess

GRACE_S = 600


def write_idle(client: redis.Redis, keys: list[bytes], idle_s: int) -> None:
    """Keys that nobody has touched for so long, by the server's own account."""
    client.set("template", "some value")
    payload = client.dump("template")
    client.delete("template")
    for key in keys:
        client.restore(key, 0, payload, idletime=idle_s)


def orphan_keys(name: str) -> list[bytes]:
    """Without the idempotency record, which counts under its leading segment."""
    return [key for key in owned_keys(name) if b"idempotency" not in key]


def test_report_names_and_keeps_them(server: ServerProcess, client: redis.Redis) -> None:
    write_idle(client, orphan_keys("gone"), 10_000)
    report = sweep(server, orphans="report")
    assert report.coordinators.orphaned == 1
    assert report.keys.planned == 0
    assert [warning.code for warning in report.warnings] == ["orphans_reported"]
    assert client.dbsize() == 4


def test_ignore_says_nothing_of_them(server: ServerProcess, client: redis.Redis) -> None:
    write_idle(client, orphan_keys("gone"), 10_000)
    report = sweep(server, orphans="ignore")
    assert report.warnings == []
    assert report.samples == []
    assert client.dbsize() == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_purge_deletes_them(server: ServerProcess, client: redis.Redis, workers: int) -> None:
    for number in range(500):
        write_idle(client, orphan_keys(f"gone-{number}"), 10_000)
    report = sweep(server, orphans="purge", orphan_grace=GRACE_S, workers=workers)
    assert report.status == "complete"
    assert report.coordinators.orphans_purged == 500
    assert report.keys.deleted == 2_000
    assert client.dbsize() == 0
    assert_adds_up(report)


def test_one_touched_key_keeps_its_coordinator(server: ServerProcess, client: redis.Redis) -> None:
    write_idle(client, orphan_keys("gone"), 10_000)
    write_idle(client, orphan_keys("young"), 10_000)
    client.get("blocking:ack:young:s2")
    report = sweep(server, orphans="purge", orphan_grace=GRACE_S)
    assert keys_of(client) == set(orphan_keys("young"))
    assert report.coordinators.orphans_purged == 1
    assert [warning.code for warning in report.warnings] == ["orphans_kept"]


def test_a_fresh_record_whose_value_the_server_shares_keeps_its_coordinator(
    server: ServerProcess, client: redis.Redis
) -> None:
    """Redis has one `1` for all keys, and one idle time with it, which no write resets."""
    client.set("other", "1")
    payload = client.dump("other")
    client.restore("other", 0, payload, replace=True, idletime=10_000)
    client.set("blocking:idempotency:new:x:completion:1:17", "1")
    sweep(server, orphans="purge", orphan_grace=GRACE_S)
    assert client.exists("blocking:idempotency:new:x:completion:1:17")


class DuringPurge(Observer):
    """Does something between the plan and the deletion."""

    def __init__(self, action: object) -> None:
        self.action = action

    def began(self, phase: str, keys: int) -> None:
        if phase == "purge":
            self.action()  # type: ignore[operator]


def test_heartbeat_that_appears_before_the_deletion_spares(
    server: ServerProcess, client: redis.Redis
) -> None:
    write_idle(client, orphan_keys("gone"), 10_000)
    write_idle(client, orphan_keys("back"), 10_000)
    observer = DuringPurge(lambda: write_heartbeat(client, "back", 0))
    report = sweep(server, orphans="purge", orphan_grace=GRACE_S, observer=observer)
    assert set(orphan_keys("back")) <= keys_of(client)
    assert report.keys.spared == 4
    assert report.keys.deleted == 4
    assert report.coordinators.orphans_purged == 1
    assert report.coordinators.revived == 0
    assert_adds_up(report)


def test_any_id_that_the_key_could_name_spares(server: ServerProcess, client: redis.Redis) -> None:
    key = b"blocking:idempotency:sender:receiver:completion:1:17"
    write_idle(client, [key], 10_000)
    observer = DuringPurge(lambda: write_heartbeat(client, "receiver", STALE_MS))
    report = sweep(server, orphans="purge", orphan_grace=GRACE_S, observer=observer)
    assert client.exists(key)
    assert report.keys.spared == 1


def test_key_touched_before_the_deletion_spares(server: ServerProcess, client: redis.Redis) -> None:
    write_idle(client, orphan_keys("gone"), 10_000)
    write_idle(client, orphan_keys("young"), 10_000)
    observer = DuringPurge(lambda: client.get("blocking:signal:young"))
    report = sweep(server, orphans="purge", orphan_grace=GRACE_S, observer=observer)
    assert keys_of(client) == set(orphan_keys("young"))
    assert report.keys.spared == 4


def test_a_key_that_could_name_too_many_ids_is_kept(
    server: ServerProcess, client: redis.Redis
) -> None:
    write_idle(client, [b"blocking:idempotency:" + b":".join([b"x"] * 100)], 10_000)
    report = sweep(server, orphans="purge", orphan_grace=GRACE_S)
    assert client.dbsize() == 1
    assert [warning.code for warning in report.warnings] == ["orphans_kept"]


@pytest.fixture
def lfu(client: redis.Redis) -> Iterator[None]:
    client.config_set("maxmemory-policy", "allkeys-lfu")
    yield
    client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.usefixtures("lfu")
def test_without_idle_times_orphans_are_reported_only(
    server: ServerProcess, client: redis.Redis
) -> None:
    client.mset(dict.fromkeys(orphan_keys("gone"), "some value"))
    report = sweep(server, orphans="purge", orphan_grace=1)
    assert client.dbsize() == 4
    assert report.coordinators.orphaned == 1
    assert [warning.code for warning in report.warnings] == ["no_idle_time"]


def test_one_whose_only_key_is_kept_for_another_is_not_purged(
    server: ServerProcess, client: redis.Redis
) -> None:
    write_idle(client, [b"blocking:idempotency:s:r:completion:1:17"], 10_000)
    observer = DuringPurge(lambda: write_heartbeat(client, "r", 0))
    report = sweep(server, orphans="purge", orphan_grace=GRACE_S, observer=observer)
    assert report.coordinators.orphans_purged == 0
    assert report.keys.spared == 1
