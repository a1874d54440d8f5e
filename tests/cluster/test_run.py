"""The main job on clusters of three primaries."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import redis

from cleanup_job.config import Keys
from cleanup_job.demo import seed
from cleanup_job.keyspace import slot_of
from cleanup_job.topology import PROBES
from tests.keys import (
    STALE_MS,
    assert_adds_up,
    beat,
    heartbeat_key,
    owned_keys,
    sweep,
)
from tests.servers import ServerCluster


def sizes(cluster: ServerCluster) -> list[int]:
    return [int(node.client().dbsize()) for node in cluster.primaries]


def command(cluster: ServerCluster, *words: str) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "cleanup_job", "run", "--url", cluster.url, "--json", "-", *words],
        capture_output=True,
        check=False,
    )
    assert done.stderr == b""
    return done.returncode, json.loads(done.stdout)


def test_the_seed_case(cluster: ServerCluster, cluster_client: redis.RedisCluster) -> None:
    """Issue 3, show it 1."""
    live = seed(cluster_client, 10_000)
    before = sizes(cluster)
    assert sum(before) == 40_040

    code, report = command(cluster, "--dry-run")
    assert (code, report["status"], report["target"]["mode"]) == (0, "complete", "cluster")
    assert report["keys"]["planned"] == 40_000
    assert sizes(cluster) == before

    code, report = command(cluster)
    assert (code, report["status"]) == (0, "complete")
    assert report["keys"]["deleted"] == report["keys"]["planned"] == 40_000
    assert report["coordinators"]["purged"] == 10_000
    assert sum(sizes(cluster)) == 40
    assert all(cluster_client.get(key) == value.encode() for key, value in live.items())
    nodes = {int(node["address"].rpartition(":")[2]): node for node in report["nodes"]}
    for node, keys_before, keys_after in zip(
        cluster.primaries, before, sizes(cluster), strict=True
    ):
        assert nodes[node.port]["keys_before"] == keys_before
        assert nodes[node.port]["keys_after"] == keys_after

    code, report = command(cluster)
    assert (code, report["keys"]["planned"]) == (0, 0)


def write_many(client: redis.RedisCluster, count: int, name: str = "dead", tag: str = "") -> None:
    now = client.time()[0] * 1000
    pipeline = client.pipeline()
    for number in range(count):
        coordinator = f"{name}-{number}{tag}"
        pipeline.set(heartbeat_key(coordinator), beat(now - STALE_MS))
        for key in owned_keys(coordinator):
            pipeline.set(key, "1")
    pipeline.execute()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_one_walk_on_primaries_only(
    cluster: ServerCluster, cluster_client: redis.RedisCluster, workers: int
) -> None:
    """Issue 3, show it 6."""
    write_many(cluster_client, 5_000)
    for node in cluster.primaries:
        node.client().config_resetstat()
    # A server that is held up gets smaller commands, and so more of them.
    report = sweep(cluster, workers=workers, max_block_ms=1000)
    calls: Counter[str] = Counter()
    for node in cluster.primaries:
        for name, stat in node.client().info("commandstats").items():
            calls[name.removeprefix("cmdstat_")] += stat["calls"]
    assert report.keys.deleted == 30_000
    assert calls["keys"] == 0
    assert calls["scan"] <= 1.4 * 30_000 / 1000 + PROBES * 3
    assert_adds_up(report)


@pytest.mark.parametrize("heavy", [False, True])
def test_partitions_are_even(
    cluster: ServerCluster, cluster_client: redis.RedisCluster, heavy: bool
) -> None:
    """Issue 3, show it 4: also where 30 % of the keys sit in one slot."""
    write_many(cluster_client, 10_000)
    if heavy:
        pipeline = cluster_client.pipeline()
        for number in range(26_000):
            pipeline.set(b"blocking:signal:{heavy}%d" % number, "1")
        pipeline.execute()
    report = sweep(cluster, workers=4, dry_run=True)
    scanned = [partition.scanned for partition in report.partitions]
    assert max(scanned) <= 1.3 * sum(scanned) / len(scanned), report.partitions
    assert report.keys.matched == sum(sizes(cluster))


class TestHashTags:
    KEYS = Keys(
        heartbeat="blocking:heartbeat:{{id}}",
        owned={"signal": "blocking:signal:{{id}}", "ack": "blocking:ack:{{id}}:*"},
    )

    def test_a_coordinator_goes_in_one_guarded_step(
        self, cluster: ServerCluster, cluster_client: redis.RedisCluster
    ) -> None:
        now = cluster_client.time()[0] * 1000
        for number in range(200):
            age_ms = STALE_MS if number % 2 else 1000
            cluster_client.set(f"blocking:heartbeat:{{c{number}}}", beat(now - age_ms))
            cluster_client.set(f"blocking:signal:{{c{number}}}", "1")
            cluster_client.set(f"blocking:ack:{{c{number}}}:s1", "1")
        report = sweep(cluster, keys=self.KEYS)
        assert report.keys.deleted == 300
        assert report.coordinators.purged == 100
        assert sum(sizes(cluster)) == 300
        assert "GET" in report.commands
        # Nothing but the rehearsal is deleted without the script.
        assert report.commands["UNLINK"].calls <= 3 * 3

    def test_one_slot_for_all_its_keys(self) -> None:
        schema_keys = [b"blocking:heartbeat:{a:b}", b"blocking:ack:{a:b}:s1"]
        assert len({slot_of(key) for key in schema_keys}) == 1


def test_slots_are_computed_as_the_cluster_does(
    cluster: ServerCluster, cluster_client: redis.RedisCluster
) -> None:
    chosen = random.Random(7)
    alphabet = b"ab:{}x\x00\xff"
    node = cluster.primaries[0].client()
    for _ in range(500):
        key = bytes(chosen.choice(alphabet) for _ in range(chosen.randrange(12)))
        assert slot_of(key) == node.execute_command("CLUSTER", "KEYSLOT", key), key
