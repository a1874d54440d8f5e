"""The pool on workers of Dask: all tasks once, errors raised as they are, nobody waited for."""

from __future__ import annotations

import math
import secrets
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from distributed import Client

from cleanup_job.dask_pool import DaskPool
from cleanup_job.errors import ServerRefusedError
from cleanup_job.model import UNTRIED
from tests.dask import stages
from tests.dask.fleet import Fleet
from tests.dask.stages import Task


class Watch:
    """Adds up what it is told; asks to stop when it is told to."""

    allowance = None
    holds_until_s = math.inf

    def __init__(self) -> None:
        self.keys = 0
        self.stop = False

    def advanced(self, keys: int) -> None:
        self.keys += keys

    def stopping(self) -> bool:
        return self.stop


def tasks(count: int) -> list[Task]:
    return [Task(number) for number in range(count)]


@pytest.fixture
def dask(fleet: Fleet) -> Iterator[Client]:
    with Client(fleet.address, set_as_default=False) as client:
        yield client


@pytest.fixture
def pool(dask: Client) -> Iterator[DaskPool]:
    pool = DaskPool(dask, secrets.token_hex(4), None)
    yield pool
    pool.close()


def test_every_task_comes_back_once_with_its_result(pool: DaskPool) -> None:
    for count in (20, 0, 5):
        results = [*pool.map(stages.square, tasks(count), Watch())]
        assert sorted(results) == [(Task(number), number**2) for number in range(count)]
    assert pool.workers == 3


def test_no_more_of_a_node_at_once_than_its_share(pool: DaskPool) -> None:
    given = [Task(number, "ab"[number % 2]) for number in range(16)]
    spans = [span for _, span in pool.map(stages.span, given, Watch(), per_node=1)]
    for node in "ab":
        of_node = sorted(span for span in spans if span.node == node)
        assert all(one.ended_s <= next_one.began_s for one, next_one in pairwise(of_node))
    assert len({span.pid for span in spans}) > 1


@pytest.mark.parametrize(
    ("stage", "kind"), [(stages.refuse, ServerRefusedError), (stages.be_wrong, ZeroDivisionError)]
)
def test_an_error_of_a_stage_is_raised_as_it_is(
    pool: DaskPool, stage: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        [*pool.map(stage, tasks(6), Watch())]
    if isinstance(caught.value, ServerRefusedError):
        assert (str(caught.value), caught.value.code) == ("no right", "no_permission")
    else:
        assert "in be_wrong" in "".join(caught.value.__notes__)


def test_a_task_without_memory_is_lost(pool: DaskPool) -> None:
    results = dict(pool.map(stages.want_too_much, tasks(5), Watch()))
    assert results == {Task(n): None if n == 3 else n**2 for n in range(5)}


def test_a_stop_does_not_wait_for_somebody_elses_task(
    fleet: Fleet, dask: Client, pool: DaskPool
) -> None:
    """What waits behind it never begins, and is known not to have."""
    theirs = [
        dask.submit(stages.sleep, 30, key=f"theirs-{address}", workers=[address])
        for address in dask.scheduler_info(n_workers=-1)["workers"]
    ]
    watch = Watch()
    results = []

    def some() -> Iterator[Task]:
        yield from tasks(3)
        watch.stop = True

    results = [*pool.map(stages.square, some(), watch)]
    assert {future.status for future in theirs} == {"pending"}
    assert Counter(task for task, _ in results) == Counter(tasks(3))
    assert {result for _, result in results} == {UNTRIED}
    pool.close()
    for child in fleet.workers:
        child.end(signal.SIGKILL)
