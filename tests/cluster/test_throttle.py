"""One primary in trouble pauses the sweep of all of them."""

from __future__ import annotations

import pytest
import redis

from tests.cluster.test_run import sizes, write_many
from tests.keys import assert_adds_up, sweep
from tests.server.test_throttle import Trouble, blocked, pause_of
from tests.servers import ServerCluster

pytestmark = pytest.mark.default_server


@pytest.mark.parametrize("workers", [1, 2])
def test_one_in_trouble_pauses_all(
    cluster: ServerCluster, cluster_client: redis.RedisCluster, workers: int
) -> None:
    write_many(cluster_client, 300)
    keys = sum(sizes(cluster))
    node = next(node for node in cluster.primaries if has_slot_of(node.client(), "bell"))
    with node.client() as client, blocked(node.client()):
        trouble = Trouble(lambda: sum(sizes(cluster)), lambda: client.lpush("bell", "x"))
        # Without a lease, which would be a key more.
        report = sweep(
            cluster, workers=workers, max_blocked_clients=0, observer=trouble, lock=False
        )
    assert report.status == "complete"
    assert (trouble.left, report.keys.deleted) == (keys, keys)
    assert f"blocked at {node.address}" in str(trouble.reasons[0])
    assert pause_of(report, "max_blocked_clients") is not None
    assert_adds_up(report)


def has_slot_of(client: redis.Redis, key: str) -> bool:
    with client:
        try:
            client.exists(key)
        except redis.exceptions.MovedError:
            return False
    return True


def test_others_are_heard_at_each_primary(
    cluster: ServerCluster, cluster_client: redis.RedisCluster
) -> None:
    """Ours are not theirs: without hash tags a sweep sends some commands for each key."""
    write_many(cluster_client, 300)
    report = sweep(cluster, workers=2, max_foreground_ops=200, max_latency_ms=500.0)
    assert report.status == "complete"
    assert pause_of(report, "max_foreground_ops") is None
    assert pause_of(report, "listening") is not None
