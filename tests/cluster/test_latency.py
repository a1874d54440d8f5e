"""A cluster that is far away: its slots are cut on the way, and its keys go with many in flight."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import redis

from bench.delay_line import delayed
from cleanup_job.config import Config, Redis
from cleanup_job.job import run
from tests.cluster.test_run import write_many
from tests.keys import assert_adds_up
from tests.servers import ServerCluster

pytestmark = pytest.mark.default_server

COORDINATORS = 2_000
DELAY_MS = 20


@pytest.mark.parametrize("tag", ["", "{tag}"])
def test_all_is_found_and_deleted(
    cluster: ServerCluster, cluster_client: redis.RedisCluster, tag: str
) -> None:
    """Without tags over all slots, with one all in a single slot."""
    write_many(cluster_client, COORDINATORS, tag=tag)
    with ExitStack() as stack:
        addresses = {
            f"127.0.0.1:{node.port}": stack.enter_context(delayed(node.port, DELAY_MS))
            for node in cluster.primaries
        }
        address_map = {node: f"127.0.0.1:{port}" for node, port in addresses.items()}
        url = f"redis://{next(iter(address_map.values()))}"
        config = Config(
            redis=Redis(url, address_map=address_map), engine="serial", expect_all_dead=True
        )
        report = run(config)
    assert_adds_up(report)
    assert (report.status, report.keys.deleted) == ("complete", 6 * COORDINATORS)
    assert sum(node.client().dbsize() for node in cluster.primaries) == 0
