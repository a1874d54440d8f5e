"""Coordinators that come back during the purge of a cluster (issue 3, show it 3).

A coordinator's keys lie in several slots, so that one which comes back in the middle may have
lost some. What holds is that its heartbeat stays, and that the report names what it lost.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
import redis

from cleanup_job.job import Observer
from cleanup_job.report import Report
from tests.cluster.test_run import sizes, write_many
from tests.keys import (
    STALE_MS,
    assert_adds_up,
    beat,
    heartbeat_key,
    now_ms,
    owned_keys,
    sweep,
    write_heartbeat,
)
from tests.servers import ServerCluster

COORDINATORS = 3_000
EARLY = 100
OWNED = len(owned_keys("x"))
RUNS = 2


class Writer(Observer):
    """Refreshes heartbeats as fast as it can while the purge runs.

    A beat is written only onto a heartbeat that is there (`XX`), so `back` holds exactly those
    that came back in time. The first of them do so before anything is deleted.
    """

    def __init__(self, client: redis.RedisCluster, names: list[str]) -> None:
        self.client = client
        self.early, self.names = names[:EARLY], names[EARLY:]
        self.back: list[str] = []
        self.fresh = beat(now_ms(client), field="lastHeartbeat")
        self.thread = threading.Thread(target=self.refresh, args=(self.names,))
        self.over = threading.Event()

    def began(self, phase: str, keys: int) -> None:
        if phase == "purge":
            self.refresh(self.early)
            assert self.back == self.early
            self.thread.start()

    def ended(self) -> None:
        if self.thread.is_alive():
            self.over.set()
            self.thread.join()

    def refresh(self, names: list[str]) -> None:
        for name in names:
            if self.over.is_set():
                return
            if self.client.set(heartbeat_key(name), self.fresh, xx=True):
                self.back.append(name)


def lost_keys(client: redis.RedisCluster, names: list[str]) -> dict[str, int]:
    """How many owned keys each of these lost, of those that lost some."""
    pipeline = client.pipeline()
    for name in names:
        for key in owned_keys(name):
            pipeline.exists(key)
    there = pipeline.execute()
    left = {name: sum(there[i * OWNED : (i + 1) * OWNED]) for i, name in enumerate(names)}
    return {name: OWNED - keys for name, keys in left.items() if keys < OWNED}


def losses_of(report: Report) -> dict[str, int]:
    return {loss.id: loss.keys for loss in report.losses}


@pytest.mark.default_server
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_no_newer_heartbeat_is_deleted_and_losses_are_named(
    cluster: ServerCluster, cluster_client: redis.RedisCluster, workers: int
) -> None:
    shuffled = random.Random(workers)
    in_time = with_losses = 0
    for _ in range(RUNS):
        cluster_client.flushall()
        write_many(cluster_client, COORDINATORS)
        names = [f"dead-{number}" for number in range(COORDINATORS)]
        shuffled.shuffle(names)
        with cluster.client() as client:
            writer = Writer(client, names)
            report = sweep(cluster, workers=workers, observer=writer)

        for name in writer.back:
            value = cluster_client.get(heartbeat_key(name))
            assert value == writer.fresh.encode(), f"the new heartbeat of {name} was deleted"
        lost = lost_keys(cluster_client, writer.back)
        assert lost.keys().isdisjoint(writer.early)
        assert losses_of(report) == lost
        assert report.coordinators.revived == len(writer.back)
        assert report.coordinators.purged == COORDINATORS - len(writer.back)
        assert report.status == "complete"
        assert report.keys.deleted == COORDINATORS * (1 + OWNED) - sum(sizes(cluster))
        assert_adds_up(report)
        warned = [w.count for w in report.warnings if w.code == "revived_with_losses"]
        assert warned == ([len(lost)] if lost else [])
        in_time += len(writer.back) - EARLY
        with_losses += len(lost)
    assert in_time > 0, "the writer never came in time: this test showed nothing"
    assert with_losses > 0, "nobody came back in the middle: this test showed nothing"


def write_coordinator(client: redis.RedisCluster, name: str) -> None:
    write_heartbeat(client, name, STALE_MS)
    write_owned(client, name)


def write_owned(client: redis.RedisCluster, name: str) -> None:
    for key in owned_keys(name):
        client.set(key, "1")


class Nudge(Observer):
    """Does something once, when the first keys of the purge are done."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action: Callable[[], object] | None = action
        self.purging = False

    def began(self, phase: str, keys: int) -> None:
        self.purging = phase == "purge"

    def advanced(self, keys: int) -> None:
        if self.purging and keys and self.action is not None:
            action, self.action = self.action, None
            action()


def test_one_that_comes_back_between_its_keys_and_its_heartbeat_is_named(
    cluster: ServerCluster, cluster_client: redis.RedisCluster
) -> None:
    write_coordinator(cluster_client, "dead")
    write_coordinator(cluster_client, "late")
    report = sweep(
        cluster,
        engine="serial",
        observer=Nudge(lambda: write_heartbeat(cluster_client, "late", 0)),
    )
    assert set(cluster_client.scan_iter()) == {heartbeat_key("late")}
    assert losses_of(report) == {"late": OWNED}
    warning = next(w for w in report.warnings if w.code == "revived_with_losses")
    assert (warning.count, warning.samples) == (1, (f"late ({OWNED} keys)",))
    assert (report.coordinators.revived, report.coordinators.purged) == (1, 1)
    by_family = report.keys.by_family
    assert (by_family["heartbeat"].spared, by_family["heartbeat"].deleted) == (1, 1)
    assert report.keys.deleted == 2 * OWNED + 1
    assert report.status == "complete"
    assert_adds_up(report)


def test_what_it_wrote_anew_when_it_came_back_stays(
    cluster: ServerCluster, cluster_client: redis.RedisCluster
) -> None:
    write_coordinator(cluster_client, "late")

    def come_back() -> None:
        write_heartbeat(cluster_client, "late", 0)
        write_owned(cluster_client, "late")

    report = sweep(cluster, engine="serial", observer=Nudge(come_back))
    assert set(cluster_client.scan_iter()) == {heartbeat_key("late"), *owned_keys("late")}
    assert report.coordinators.revived == 1
    assert_adds_up(report)


def test_one_that_only_lost_its_heartbeat_is_as_dead_as_before(
    cluster: ServerCluster, cluster_client: redis.RedisCluster
) -> None:
    write_coordinator(cluster_client, "a")
    write_coordinator(cluster_client, "b")
    report = sweep(
        cluster,
        engine="serial",
        observer=Nudge(lambda: cluster_client.delete(heartbeat_key("a"))),
    )
    assert sum(sizes(cluster)) == 0
    assert report.keys.by_family["heartbeat"].gone == 1
    assert report.coordinators.purged == 2
    assert report.losses == []
    assert_adds_up(report)


def test_one_whose_clock_runs_ahead_is_named_with_what_it_lost(
    cluster: ServerCluster, cluster_client: redis.RedisCluster
) -> None:
    """It is not counted as revived, since its heartbeat says nothing; but it lost keys."""
    write_coordinator(cluster_client, "fast")
    report = sweep(
        cluster,
        engine="serial",
        observer=Nudge(lambda: write_heartbeat(cluster_client, "fast", -60_000)),
    )
    assert set(cluster_client.scan_iter()) == {heartbeat_key("fast")}
    assert report.coordinators.revived == 0
    assert losses_of(report) == {"fast": OWNED}
    assert_adds_up(report)
