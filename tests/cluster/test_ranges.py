"""Sweeps in waves of ids, where a coordinator's keys lie on several servers."""

from __future__ import annotations

import pytest
import redis

from cleanup_job import memory
from tests.keys import assert_adds_up, sweep
from tests.mixed import comparable, write_mixed
from tests.servers import ServerCluster


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_the_same_report_and_the_same_keys_are_left(
    cluster: ServerCluster,
    cluster_client: redis.RedisCluster,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    monkeypatch.setattr(memory, "fits", lambda *_: False)
    monkeypatch.setattr(memory, "share_of", lambda *_: 50_000)
    results = []
    for how in ({"engine": "serial"}, {"engine": engine, "workers": 2, "memory_limit": "1GB"}):
        cluster_client.flushall()
        write_mixed(cluster_client, 100, seed=11)
        report = sweep(cluster, **how)
        assert_adds_up(report)
        left = sorted(cluster_client.scan_iter(count=1000))
        results.append((comparable(report), left))
    assert results[1] == results[0]
