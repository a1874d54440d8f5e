"""A plan of a cluster is for its primaries as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from msgspec import structs

from cleanup_job import plan_file
from cleanup_job.config import Config, Redis
from cleanup_job.errors import RefusedError
from cleanup_job.job import run
from tests.cluster.test_run import sizes, write_many
from tests.keys import assert_adds_up
from tests.servers import ServerCluster


@pytest.mark.default_server
def test_a_plan_of_a_cluster(
    cluster: ServerCluster, cluster_client: redis.RedisCluster, tmp_path: Path
) -> None:
    config = Config(redis=Redis(cluster.url), expect_all_dead=True)
    path = tmp_path / "plan.gz"
    write_many(cluster_client, 300)
    run(config, dry_run=True, plan_path=str(path))
    found = plan_file.read(path)
    assert len(set(found.header.target.run_ids)) == 3
    assert found.header.coordinators == 300

    write_many(cluster_client, 100, "new")
    cluster_client.set("blocking:ack:dead-7:new", "1")
    report = run(config, plan_path=str(path))
    assert_adds_up(report)
    assert report.plan is not None
    assert (report.plan.due, report.plan.changed) == (299, 1)
    assert report.keys.deleted == 299 * 6
    assert sum(sizes(cluster)) == 100 * 6 + 7

    target = structs.replace(found.header.target, run_ids=["f00", *found.header.target.run_ids[1:]])
    plan_file.write(path, structs.replace(found.header, target=target), [*found.coordinators()])
    with pytest.raises(RefusedError) as caught:
        run(config, plan_path=str(path))
    assert f"is for {target.nodes[0]} (run_id f00), and here is {target.nodes[0]} (run_id " in (
        str(caught.value)
    )
    assert sum(sizes(cluster)) == 100 * 6 + 7
