"""SIGKILL of one of three workers, and of the scheduler: a few of what `faults` does at length."""

from __future__ import annotations

import signal
import time

import pytest
import redis

from tests.dask.faults import PHASES, RATE, WHAT, play
from tests.dask.fleet import Fleet
from tests.dask.scene import Strike, count_at, keys_at, populate, sweep, wrongs
from tests.servers import ServerCluster, ServerProcess

pytestmark = pytest.mark.default_server

DEAD = 1_200

QUICK = {
    "test_killed": [("worker", "purge"), ("scheduler", "purge")],
    "test_killed_on_a_cluster": [("worker", "heartbeats")],
    "test_who_was_held_up_deletes_nothing_when_its_word_has_expired": ["workers"],
}
"""What is played without `--all-faults`."""

ALL = {
    "test_killed": [(what, phase) for what in WHAT for phase in PHASES[:3]],
    "test_killed_on_a_cluster": [(what, phase) for what in WHAT for phase in PHASES],
    "test_who_was_held_up_deletes_nothing_when_its_word_has_expired": ["workers", "scheduler"],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = ALL if metafunc.config.getoption("--all-faults") else QUICK
    of_this = cases.get(metafunc.definition.originalname)
    if of_this is not None:
        names = ("what", "phase") if "what" in metafunc.fixturenames else "held_up"
        metafunc.parametrize(names, of_this)


def test_killed(
    fleet: Fleet, server: ServerProcess, client: redis.Redis, what: str, phase: str
) -> None:
    assert not play(fleet, server, what, phase, seed=1, dead=DEAD).wrong


def test_killed_on_a_cluster(
    fleet: Fleet,
    cluster: ServerCluster,
    cluster_client: redis.RedisCluster,
    what: str,
    phase: str,
) -> None:
    assert not play(fleet, cluster, what, phase, seed=2, dead=DEAD).wrong


def stop(fleet: Fleet, what: str) -> None:
    for child in fleet.workers if what == "workers" else [fleet.scheduler]:
        assert child is not None
        child.send(signal.SIGSTOP)


def go_on(fleet: Fleet) -> None:
    for child in [*fleet.workers, fleet.scheduler]:
        assert child is not None
        child.send(signal.SIGCONT)


def test_who_was_held_up_deletes_nothing_when_its_word_has_expired(
    fleet: Fleet, server: ServerProcess, client: redis.Redis, held_up: str
) -> None:
    population = populate(server, DEAD, seed=3)
    before = count_at(server)
    strike = Strike("purge", lambda: stop(fleet, held_up), keys=DEAD)
    try:
        report = sweep(server, fleet.address, strike, max_keys_per_second=RATE)
        left = keys_at(server)
    finally:
        go_on(fleet)
    assert report.status == "partial"
    assert report.stopped_by == ("scheduler_lost" if held_up == "scheduler" else None)
    assert left & population.dead
    time.sleep(0.5)
    # What was on its way when it was stopped, and no other batch.
    assert len(left) - len(keys_at(server)) <= 3 * 600
    found = wrongs(server, population, before, report)
    assert not [wrong for wrong in found if "vanished" not in wrong]


def test_one_that_is_held_up_and_goes_on(
    fleet: Fleet, server: ServerProcess, client: redis.Redis
) -> None:
    population = populate(server, DEAD, seed=4)
    before = count_at(server)

    def hold_up() -> None:
        fleet.workers[0].send(signal.SIGSTOP)
        time.sleep(3)
        fleet.workers[0].send(signal.SIGCONT)

    strike = Strike("purge", hold_up, keys=DEAD)
    report = sweep(server, fleet.address, strike, max_keys_per_second=RATE)
    strike.join()
    assert not [*wrongs(server, population, before, report)]
    fleet.workers[0].end(signal.SIGKILL)
