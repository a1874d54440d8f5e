"""A journal of a cluster: keys in many slots, put back each where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from cleanup_job.config import Config, Keys, Redis
from cleanup_job.job import run
from cleanup_job.journal import Journal
from cleanup_job.keyspace import slot_of
from cleanup_job.undo import restore
from tests.cluster.test_run import write_many
from tests.keys import assert_adds_up
from tests.server.test_orphans import GRACE_S, orphan_keys
from tests.servers import ServerCluster

TAGGED = Keys(
    heartbeat="blocking:heartbeat:{{id}}",
    owned={
        "signal": "blocking:signal:{{id}}",
        "ack": "blocking:ack:{{id}}:*",
        "idempotency": "blocking:idempotency:*{{id}}*",
        "activity": "coordinator:activity:{{id}}",
    },
)


def snapshot(client: redis.RedisCluster) -> dict[bytes, tuple[Any, bool]]:
    keys = list(client.scan_iter(count=1000))
    return {key: (client.dump(key), client.pttl(key) > 0) for key in keys}


def test_byte_for_byte(
    cluster: ServerCluster, cluster_client: redis.RedisCluster, tmp_path: Path
) -> None:
    write_many(cluster_client, 60)
    cluster_client.pexpire("blocking:signal:dead-1", 9_000_000)
    cluster_client.set("template{t}", "some value")
    payload = cluster_client.dump("template{t}")
    cluster_client.delete("template{t}")
    for key in orphan_keys("orphan"):
        cluster_client.restore(key, 0, payload)
    before = snapshot(cluster_client)
    for key in orphan_keys("orphan"):
        cluster_client.restore(key, 0, payload, replace=True, idletime=10_000)
    journal = tmp_path / "j"
    config = Config(
        redis=Redis(cluster.url), orphans="purge", orphan_grace=GRACE_S, engine="serial"
    )
    report = run(config, journal=str(journal))
    assert (report.status, report.keys.deleted) == ("complete", 60 * 6 + 4)
    assert_adds_up(report)
    assert snapshot(cluster_client) == {}
    for entry in Journal(journal).entries():
        slots = entry.slots if entry.slot is None else [entry.slot] * len(entry.keys)
        assert slots == [*map(slot_of, entry.keys)]
    assert restore(config, str(journal), dry_run=True).keys.absent == 364
    told = restore(config, str(journal))
    assert (told.status, told.keys.restored) == ("complete", 364)
    assert snapshot(cluster_client) == before


@pytest.mark.default_server
def test_with_hash_tags(
    cluster: ServerCluster, cluster_client: redis.RedisCluster, tmp_path: Path
) -> None:
    write_many(cluster_client, 40, name="{dead", tag="}")
    before = snapshot(cluster_client)
    config = Config(redis=Redis(cluster.url), keys=TAGGED, engine="serial")
    report = run(config, journal=str(tmp_path / "j"))
    assert (report.status, report.keys.deleted) == ("complete", 240)
    assert restore(config, str(tmp_path / "j")).keys.restored == 240
    assert snapshot(cluster_client) == before
