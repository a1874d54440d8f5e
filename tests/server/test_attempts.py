"""Workers that die: their tasks run again, at most `max_attempts` times, and counts stay true."""

from __future__ import annotations

import multiprocessing
import random
import threading
from pathlib import Path

import pytest
import redis

from cleanup_job import plan, processes, waves
from cleanup_job.errors import ServerUnavailableError
from cleanup_job.job import Observer
from cleanup_job.model import Outcome, PurgeTask
from cleanup_job.purge import look_at_lost
from cleanup_job.report import Report
from tests.deadly import arm, runs
from tests.keys import (
    assert_adds_up,
    heartbeat_key,
    keys_of,
    owned_keys,
    sweep,
    write_coordinator,
)
from tests.server.test_orphans import GRACE_S, orphan_keys, write_idle
from tests.server.test_revival import write_many
from tests.server.test_stopping import StopAt
from tests.servers import ServerProcess

COORDINATORS = 2_000
KEYS = COORDINATORS * 6
POISONED = 400
"""Coordinators that are a task by themselves, behind all others: five batches."""

ALL = KEYS + POISONED * 6


@pytest.fixture(autouse=True)
def _small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are several, of several batches each."""
    monkeypatch.setattr(plan, "KEYS_PER_PORTION", 3_000)


def write_with_poison(client: redis.Redis) -> None:
    write_many(client, COORDINATORS)
    write_many(client, POISONED, "poison")


def codes(report: Report) -> tuple[list[str], list[str]]:
    return [w.code for w in report.warnings], [e.code for e in report.errors]


def assert_true(report: Report, client: redis.Redis, before: int) -> None:
    """What the report says is what the server says; nothing that is there counts as unknown."""
    assert_adds_up(report)
    counts = report.keys
    left = int(client.dbsize())
    assert counts.deleted + counts.gone + counts.unknown == before - left
    assert counts.failed == left
    heartbeats = counts.by_family["heartbeat"]
    assert report.coordinators.purged == heartbeats.deleted + heartbeats.gone


def finish(server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next plain run does what is left."""
    monkeypatch.undo()
    assert sweep(server, engine="serial").status == "complete"
    assert client.dbsize() == 0


@pytest.mark.default_server
class TestPurge:
    def test_a_task_that_lost_its_worker_runs_again(
        self,
        server: ServerProcess,
        client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        write_with_poison(client)
        ledger = arm(monkeypatch, tmp_path, "purge", deaths=1)
        report = sweep(server, workers=2)
        assert runs(ledger) == 2
        assert client.dbsize() == 0
        assert_true(report, client, ALL)
        assert report.keys.unknown > 0
        assert codes(report) == (["worker_lost"], ["worker_lost"])
        assert report.warnings[0].samples == ("killed by SIGKILL: 1",)

    @pytest.mark.parametrize("most", [1, 2])
    def test_one_that_kills_every_worker_is_left_in_the_end(
        self,
        server: ServerProcess,
        client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        most: int,
    ) -> None:
        write_with_poison(client)
        ledger = arm(monkeypatch, tmp_path, "purge")
        report = sweep(server, workers=2, max_attempts=most)
        assert runs(ledger) == most
        assert report.status == "partial"
        assert_true(report, client, ALL)
        assert report.keys.failed > 0
        assert codes(report)[0] == ["worker_lost"]
        assert set(codes(report)[1]) == {"worker_lost", "max_attempts"}
        if most > 1:
            # Those that were at work beside it lost no attempt of theirs.
            assert report.keys.failed < 3_000
        finish(server, client, monkeypatch)

    def test_a_spread_coordinator_goes_whole_in_the_second_run(
        self,
        server: ServerProcess,
        client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        """Its heartbeat waits for the second run of what the first one left."""
        write_coordinator(client, "poison", 700_000)
        client.mset({f"blocking:ack:poison:{number}": "1" for number in range(6_000)})
        before = client.dbsize()
        ledger = arm(monkeypatch, tmp_path, "purge", deaths=1)
        report = sweep(server, workers=2)
        # Two tasks of wave 0 and one of wave 1, of which one ran twice.
        assert runs(ledger) >= 4
        assert client.dbsize() == 0
        assert_true(report, client, before)
        assert report.coordinators.purged == 1
        assert codes(report) == (["worker_lost"], ["worker_lost"])

    def test_the_heartbeat_of_a_spread_one_stays_while_keys_of_it_are_left(
        self,
        server: ServerProcess,
        client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        write_coordinator(client, "poison", 700_000)
        client.mset({f"blocking:ack:poison:{number}": "1" for number in range(6_000)})
        before = client.dbsize()
        arm(monkeypatch, tmp_path, "purge")
        report = sweep(server, workers=2, max_attempts=1)
        assert client.exists(heartbeat_key("poison"))
        assert_true(report, client, before)
        assert report.coordinators.purged == 0
        finish(server, client, monkeypatch)

    def test_what_changed_before_the_second_run_is_spared_or_left(
        self,
        server: ServerProcess,
        client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        """The first of the task is gone with its worker, the last is still there."""
        write_many(client, POISONED, "poison")
        first, last, headless = "poison-0", "poison-99", "poison-98"

        def look_later(task: PurgeTask) -> tuple[Outcome, PurgeTask | None]:
            assert not client.exists(heartbeat_key(first))
            assert client.delete(heartbeat_key(headless))
            for name in (first, last):
                write_coordinator(client, name, 0)
            return look_at_lost(task)

        arm(monkeypatch, tmp_path, "purge", deaths=1)
        monkeypatch.setattr(waves, "look_at_lost", look_later)
        report = sweep(server, workers=2)
        assert_adds_up(report)
        alive = {heartbeat_key(n) for n in (first, last)}.union(*map(owned_keys, (first, last)))
        assert keys_of(client) == alive.union(owned_keys(headless))
        assert (report.keys.spared, report.keys.failed) == (len(alive), 5)
        assert report.coordinators.revived == 2
        assert codes(report)[1] == ["worker_lost", "heartbeat_gone"]

    def test_workers_that_die_whatever_they_do_leave_the_rest(
        self,
        server: ServerProcess,
        client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        write_many(client, COORDINATORS)
        write_many(client, POISONED, "a-poison")
        monkeypatch.setattr(processes, "MOST_IN_VAIN", 0)
        arm(monkeypatch, tmp_path, "purge")
        report = sweep(server, workers=2)
        assert_true(report, client, ALL)
        errors = [error.message for error in report.errors]
        assert any("die whatever they do (killed by SIGKILL: 1)" in text for text in errors)
        finish(server, client, monkeypatch)

    def test_a_stop_begins_nothing_again(
        self, server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_many(client, COORDINATORS)

        class KillAndStop(StopAt):
            def advanced(self, keys: int) -> None:
                super().advanced(keys)
                if self.now == "purge" and keys and not killed:
                    killed.extend(multiprocessing.active_children())
                    for worker in killed:
                        worker.kill()

            def stopping(self) -> bool:
                return bool(killed)

        killed: list[multiprocessing.Process] = []
        report = sweep(server, workers=2, observer=KillAndStop("purge", 0))
        assert_true(report, client, KEYS)
        assert [w.message for w in report.warnings] == ["worker processes died"]
        assert "max_attempts" not in codes(report)[1]
        finish(server, client, monkeypatch)


def test_orphans_whose_worker_died(
    server: ServerProcess,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Looking at a lost worker's keys does not touch them, or they would seem young."""
    names = [f"gone-{number}" for number in range(400)] + ["gone-poison"]
    for name in names:
        write_idle(client, orphan_keys(name), 10_000)
    arm(monkeypatch, tmp_path, "purge", deaths=1)
    report = sweep(server, orphans="purge", orphan_grace=GRACE_S, workers=2)
    assert_adds_up(report)
    assert client.dbsize() == 0
    assert report.keys.deleted + report.keys.unknown == len(names) * 4
    assert report.keys.unknown


@pytest.mark.default_server
@pytest.mark.parametrize(("deaths", "left"), [(1, 0), (1_000, 41 * 4)])
def test_a_worker_that_dies_while_it_looks_at_orphans(
    server: ServerProcess,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    deaths: int,
    left: int,
) -> None:
    """Another one looks; and if that is of no use either, they are kept."""
    for name in [*range(40), "poison"]:
        write_idle(client, orphan_keys(f"gone-{name}"), 10_000)
    ledger = arm(monkeypatch, tmp_path, "survey_idle", deaths=deaths)
    report = sweep(server, orphans="purge", orphan_grace=GRACE_S, workers=2, max_attempts=2)
    assert runs(ledger) == 2
    assert client.dbsize() == left
    assert report.status == "complete"
    assert codes(report)[0] == (["orphans_kept"] if left else []) + ["worker_lost"]


@pytest.mark.default_server
class TestSurvey:
    def test_a_walk_that_lost_its_worker_is_made_again(
        self,
        server: ServerProcess,
        client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        write_many(client, COORDINATORS)
        ledger = arm(monkeypatch, tmp_path, "survey", deaths=2, node=server.address)
        report = sweep(server, workers=2)
        assert runs(ledger) == 3
        assert (report.status, report.keys.deleted, client.dbsize()) == ("complete", KEYS, 0)
        assert report.partitions[0].attempts == 3
        # The other walk may have been under way too when the first worker died.
        assert all(partition.attempts <= 2 for partition in report.partitions[1:])
        assert codes(report) == (["worker_lost"], [])

    def test_one_that_kills_every_worker_ends_the_run(
        self,
        server: ServerProcess,
        client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        write_many(client, COORDINATORS)
        ledger = arm(monkeypatch, tmp_path, "survey", node=server.address)
        with pytest.raises(ServerUnavailableError) as caught:
            sweep(server, workers=2, max_attempts=2)
        assert runs(ledger) == 2
        assert (caught.value.code, caught.value.exit_code) == ("worker_lost", 75)
        assert "killed by SIGKILL: 2" in str(caught.value)
        assert str(caught.value).endswith("engine: serial; nothing was deleted")
        assert client.dbsize() == KEYS


class Killer(Observer):
    """Kills some workers of a phase, each at a random moment."""

    def __init__(self, seed: int, phase: str) -> None:
        self.random = random.Random(seed)
        self.phase = phase
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.kill)
        self.killed = 0

    def began(self, phase: str, keys: int) -> None:
        if phase == self.phase:
            self.thread.start()

    def ended(self) -> None:
        if self.thread.is_alive():
            self.over.set()
            self.thread.join()

    def kill(self) -> None:
        for _ in range(self.random.randint(1, 2)):
            if self.over.wait(self.random.uniform(0, 0.15)):
                return
            workers = multiprocessing.active_children()
            if workers:
                self.random.choice(workers).kill()
                self.killed += 1


@pytest.mark.default_server
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("phase", ["survey", "purge"])
def test_workers_killed_at_any_moment(
    server: ServerProcess, client: redis.Redis, phase: str, seed: int
) -> None:
    write_many(client, 2 * COORDINATORS)
    for number in range(50):
        write_coordinator(client, f"live-{number}", 1_000)
    alive = {
        key for n in range(50) for key in (heartbeat_key(f"live-{n}"), *owned_keys(f"live-{n}"))
    }
    report = sweep(server, workers=2, observer=Killer(seed, phase))
    assert_adds_up(report)
    counts = report.keys
    assert keys_of(client) == alive
    assert counts.deleted + counts.gone + counts.unknown == 2 * KEYS
    assert report.status == ("partial" if counts.unknown else "complete")
    if phase == "survey":
        assert counts.deleted == 2 * KEYS
    assert not multiprocessing.active_children()
