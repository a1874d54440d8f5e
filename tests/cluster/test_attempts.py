"""Workers that die on clusters, where heartbeats wait until all that is theirs is settled."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from cleanup_job import plan, purge, waves
from cleanup_job.model import Outcome, PurgeTask
from cleanup_job.purge import look_at_lost
from tests.cluster.test_revival import losses_of, lost_keys
from tests.cluster.test_run import sizes, write_many
from tests.deadly import arm, runs
from tests.keys import (
    assert_adds_up,
    beat,
    heartbeat_key,
    keys_of,
    now_ms,
    owned_keys,
    sweep,
)
from tests.server.test_attempts import Killer, codes
from tests.servers import ServerCluster

pytestmark = pytest.mark.default_server

COORDINATORS = 600
POISONED = 600
OWNED = len(owned_keys("x"))
ALL = (COORDINATORS + POISONED) * (OWNED + 1)


@pytest.fixture(autouse=True)
def _small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are named poison are one of their own, more than can be in flight at once."""
    monkeypatch.setattr(plan, "KEYS_PER_PORTION", POISONED * (OWNED + 1))
    monkeypatch.setattr(purge, "MOST_KEYS_IN_FLIGHT", purge.KEYS_IN_FLIGHT)


@pytest.fixture
def client(cluster_client: redis.RedisCluster) -> redis.RedisCluster:
    write_many(cluster_client, COORDINATORS)
    write_many(cluster_client, POISONED, "poison")
    return cluster_client


def test_heartbeats_go_when_the_second_run_has_settled_their_keys(
    cluster: ServerCluster,
    client: redis.RedisCluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    arm(monkeypatch, tmp_path, "purge", deaths=1)
    report = sweep(cluster, workers=2)
    assert sum(sizes(cluster)) == 0
    assert_adds_up(report)
    assert report.keys.failed == report.keys.gone == 0
    assert report.keys.unknown > 0
    # All heartbeats were there when their turn came, and nobody came back.
    assert report.keys.by_family["heartbeat"].deleted == COORDINATORS + POISONED
    assert report.coordinators.purged == COORDINATORS + POISONED
    assert (report.losses, codes(report)) == ([], (["worker_lost"], ["worker_lost"]))
    assert client.ping()


def test_heartbeats_stay_while_their_keys_are_left(
    cluster: ServerCluster,
    client: redis.RedisCluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    arm(monkeypatch, tmp_path, "purge")
    report = sweep(cluster, workers=2, max_attempts=1)
    assert_adds_up(report)
    left = keys_of(client)
    assert report.keys.failed == len(left)
    assert report.keys.deleted + report.keys.unknown == ALL - len(left)
    assert "max_attempts" in codes(report)[1]
    of_left = [n for n in range(POISONED) if left.intersection(owned_keys(f"poison-{n}"))]
    assert left.issuperset(heartbeat_key(f"poison-{n}") for n in of_left)
    assert 0 < len(of_left) < POISONED
    monkeypatch.undo()
    assert sweep(cluster, engine="serial").status == "complete"
    assert sum(sizes(cluster)) == 0


def test_one_that_comes_back_is_named_with_what_it_may_have_lost(
    cluster: ServerCluster,
    client: redis.RedisCluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Nobody has the dead worker's replies, but what is gone is gone."""
    names = [f"poison-{number}" for number in range(POISONED)]

    def look_later(task: PurgeTask) -> tuple[Outcome, PurgeTask | None]:
        fresh = beat(now_ms(client))
        if task.lots[0].ids[0].startswith(b"poison"):
            for name in names:
                assert client.set(heartbeat_key(name), fresh, xx=True)
        return look_at_lost(task)

    arm(monkeypatch, tmp_path, "purge", deaths=1)
    monkeypatch.setattr(waves, "look_at_lost", look_later)
    report = sweep(cluster, workers=2)
    assert_adds_up(report)
    lost = lost_keys(client, names)
    assert lost
    assert losses_of(report) == lost
    assert report.coordinators.revived == POISONED
    assert report.keys.by_family["heartbeat"].spared == POISONED


def test_a_walk_that_kills_every_worker_is_not_covered(
    cluster: ServerCluster,
    client: redis.RedisCluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """And it is not begun more often because servers of a cluster may be walked again."""
    victim = cluster.primaries[0]
    ledger = arm(monkeypatch, tmp_path, "survey", node=victim.address)
    report = sweep(cluster, workers=2, max_attempts=2)
    assert runs(ledger) == 2
    assert report.status == "partial"
    assert_adds_up(report)
    assert {"worker_lost", "uncovered"} <= set(codes(report)[0])
    # What a key could name may be in what was not walked, and so may the keys of a heartbeat.
    assert report.coordinators.purged == 0
    assert report.keys.deleted == ALL - sum(sizes(cluster))
    monkeypatch.undo()
    assert sweep(cluster, engine="serial", orphans="ignore").status == "complete"
    assert client.ping()


def test_workers_killed_at_any_moment(cluster: ServerCluster, client: redis.RedisCluster) -> None:
    report = sweep(cluster, workers=2, observer=Killer(1, "purge"))
    assert_adds_up(report)
    assert sum(sizes(cluster)) == 0
    assert report.keys.deleted + report.keys.unknown + report.keys.gone == ALL
    assert report.coordinators.purged <= COORDINATORS + POISONED
    assert client.ping()
