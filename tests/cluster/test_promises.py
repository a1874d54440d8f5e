"""The model of the promises, on a cluster where a coordinator's keys are anywhere."""

from __future__ import annotations

import redis
from hypothesis import settings

from tests.server.test_promises import Keyspace, check, generated
from tests.servers import ServerCluster


@settings(max_examples=60)
@generated
def test_purge_equals_the_model(
    cluster: ServerCluster,
    cluster_client: redis.RedisCluster,
    space: Keyspace,
    dry_run: bool,
    orphans: str,
) -> None:
    check(cluster, cluster_client, space, dry_run=dry_run, orphans=orphans)
