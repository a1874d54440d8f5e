"""The pool: all tasks once, in one process or several; lost workers handed back, errors raised."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cleanup_job import processes
from cleanup_job.errors import CleanupJobError, ServerRefusedError
from cleanup_job.model import UNTRIED, Pulse
from cleanup_job.pool import KEYS_PER_WORKER, MAX_AUTO_WORKERS, map_again, open_pool, workers_for

ENGINES = [("serial", 1), ("processes", 1), ("processes", 2), ("processes", 3)]


class Task(NamedTuple):
    number: int
    node: str = "127.0.0.1:6379"


class Watch:
    """Adds up what it is told; asks to stop when it is told to."""

    allowance = None
    holds_until_s = math.inf

    def __init__(self, *, stop: bool = False) -> None:
        self.keys = 0
        self.stop = stop

    def advanced(self, keys: int) -> None:
        self.keys += keys

    def stopping(self) -> bool:
        return self.stop


# Stages stand at the top of the module, since they are looked up by name in the workers.


def square(task: Task, pulse: Pulse) -> int:
    pulse.advance(task.number)
    return task.number**2


def where(_task: Task, _pulse: Pulse) -> int:
    time.sleep(0.01)
    return os.getpid()


def refuse_the_third(task: Task, pulse: Pulse) -> int:
    if task.number == 3:
        raise ServerRefusedError("no right", "no_permission")
    return square(task, pulse)


def die_on_the_third(task: Task, pulse: Pulse) -> int:
    if task.number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(task, pulse)


def die_after_a_mark(task: Task, pulse: Pulse) -> int:
    """Leaves a file for each run; the third kills its worker."""
    (Path(os.environ["MARKS"]) / f"{task.number}.{os.getpid()}").touch()
    return die_on_the_third(task, pulse)


def die_on_the_third_slowly(task: Task, pulse: Pulse) -> int:
    result = die_on_the_third(task, pulse)
    time.sleep(0.02)
    return result


def run_out_of_memory_on_the_third(task: Task, pulse: Pulse) -> int:
    if task.number == 3:
        raise MemoryError
    return square(task, pulse)


class Unpackable:
    def __reduce__(self) -> Any:
        raise MemoryError


def give_what_takes_too_much_memory(task: Task, pulse: Pulse) -> Any:
    return Unpackable() if task.number == 3 else square(task, pulse)


def die_before_the_first(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_stop(_task: Task, pulse: Pulse) -> bool:
    deadline = time.monotonic() + 20
    while not pulse.stopping() and time.monotonic() < deadline:
        time.sleep(0.01)
    return pulse.stopping()


def deaf_to_signals(_task: Task, _pulse: Pulse) -> list[bool]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    return [signal.getsignal(number) is signal.SIG_IGN for number in numbers]


def tasks(count: int) -> list[Task]:
    return [Task(number) for number in range(count)]


def run(engine: str, workers: int, stage: Any, given: Sequence[Task], watch: Watch) -> list[Any]:
    with open_pool(engine, workers) as opened:
        return list(opened.map(stage, given, watch))


@pytest.fixture(autouse=True)
def _no_process_stays() -> Any:
    yield
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("engine", "workers"), ENGINES)
class TestMap:
    def test_every_task_comes_back_once_with_its_result(self, engine: str, workers: int) -> None:
        watch = Watch()
        results = run(engine, workers, square, tasks(20), watch)
        assert sorted(results) == [(Task(number), number**2) for number in range(20)]
        assert watch.keys == sum(range(20))

    def test_no_tasks(self, engine: str, workers: int) -> None:
        assert run(engine, workers, square, [], Watch()) == []

    def test_again_in_the_same_pool(self, engine: str, workers: int) -> None:
        with open_pool(engine, workers) as opened:
            for count in (3, 0, 5):
                watch = Watch()
                assert len(list(opened.map(square, tasks(count), watch))) == count
                assert watch.keys == sum(range(count))

    def test_an_error_of_a_stage_is_raised_as_it_is(self, engine: str, workers: int) -> None:
        with pytest.raises(CleanupJobError) as caught:
            run(engine, workers, refuse_the_third, tasks(6), Watch())
        assert type(caught.value) is ServerRefusedError
        assert (str(caught.value), caught.value.code) == ("no right", "no_permission")
        assert caught.value.exit_code == 2

    def test_a_stage_learns_that_it_should_stop(self, engine: str, workers: int) -> None:
        began = time.monotonic()
        results = run(engine, workers, wait_for_stop, tasks(3), Watch(stop=True))
        assert [stopped for _, stopped in results] == [True] * 3
        assert time.monotonic() - began < 10

    def test_where_the_work_is_done(self, engine: str, workers: int) -> None:
        pids = {pid for _, pid in run(engine, workers, where, tasks(12), Watch())}
        if workers == 1:
            assert pids == {os.getpid()}
        else:
            assert os.getpid() not in pids
            assert 1 <= len(pids) <= workers


class TestProcesses:
    def test_a_lost_worker_is_handed_back_and_nothing_is_done_twice(self) -> None:
        with open_pool("processes", 2) as opened:
            results = list(opened.map(die_on_the_third, tasks(10), Watch()))
            assert Counter(task for task, _ in results) == Counter(tasks(10))
            assert (Task(3), None) in results
            assert all(got in (None, task.number**2) for task, got in results)
            # And the pool is good for the next stage.
            again = list(opened.map(square, tasks(4), Watch()))
            assert sorted(again) == [(Task(number), number**2) for number in range(4)]

    def test_only_what_may_have_begun_is_lost(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Not what was handed out ahead, nor what the pool broke too early for."""
        monkeypatch.setenv("MARKS", str(tmp_path))
        results = run("processes", 2, die_after_a_mark, tasks(12), Watch())
        assert Counter(task for task, _ in results) == Counter(tasks(12))
        begun = Counter(int(path.name.partition(".")[0]) for path in tmp_path.iterdir())
        lost = [task.number for task, result in results if result is None]
        assert 3 in lost
        assert all(begun[number] <= 1 for number in range(12))
        # Workers get tasks in their order, so none behind the last that was begun is lost. One that
        # was on its way into the other worker may be.
        assert len([number for number in lost if not begun[number]]) <= 1

    @pytest.mark.parametrize(
        ("stage", "deaths"),
        [
            (die_on_the_third, ["killed by SIGKILL"]),
            (run_out_of_memory_on_the_third, ["out of memory"]),
            (give_what_takes_too_much_memory, []),
        ],
    )
    def test_a_worker_that_dies_or_has_no_memory_is_replaced(
        self, stage: Any, deaths: list[str]
    ) -> None:
        with open_pool("processes", 2) as opened:
            results = dict(opened.map(stage, tasks(5), Watch()))
            assert results[Task(3)] is None
            assert opened.deaths == deaths

    def test_a_stop_starts_no_new_pool(self) -> None:
        watch = Watch()

        def stop_with_the_third() -> Iterator[Task]:
            for task in tasks(20):
                watch.stop = task.number >= 3
                yield task

        with open_pool("processes", 2) as opened:
            results = dict(opened.map(die_on_the_third_slowly, stop_with_the_third(), watch))
            assert results[Task(3)] is None
            assert UNTRIED in results.values()
            assert opened.deaths == ["killed by SIGKILL"]

    def test_workers_that_never_begin_are_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "_start_worker", die_before_the_first)
        monkeypatch.setattr(processes, "MOST_UNBEGUN", 1)
        with open_pool("processes", 2) as opened:
            assert dict(opened.map(square, tasks(9), Watch())) == dict.fromkeys(tasks(9), UNTRIED)
            assert dict(opened.map(square, tasks(2), Watch())) == dict.fromkeys(tasks(2), UNTRIED)

    def test_pools_that_break_in_vain_are_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "MOST_IN_VAIN", 1)
        with open_pool("processes", 2) as opened:
            results = dict(opened.map(die_on_the_third, [Task(3)] * 3, Watch()))
            assert set(results) == {Task(3)}
            assert dict(opened.map(square, tasks(1), Watch())) == {Task(0): UNTRIED}

    def test_a_worker_killed_while_it_waits_does_not_keep_the_pool_from_its_end(self) -> None:
        """It holds the lock of the tasks, for which the others wait."""
        with open_pool("processes", 3) as opened:
            assert len(list(opened.map(square, tasks(6), Watch()))) == 6
            for worker in multiprocessing.active_children()[:2]:
                worker.kill()

    def test_signals_of_the_group_do_not_reach_the_work(self) -> None:
        results = run("processes", 2, deaf_to_signals, tasks(2), Watch())
        assert [deaf for _, deaf in results] == [[True, True]] * 2

    def test_it_forks_only_where_no_thread_is(self) -> None:
        wait = threading.Event()
        thread = threading.Thread(target=wait.wait)
        thread.start()
        try:
            assert processes._start_method() == "spawn"
        finally:
            wait.set()
            thread.join()

    def test_an_error_in_the_job_ends_the_workers(self) -> None:
        def fail() -> None:
            with open_pool("processes", 2) as opened:
                list(opened.map(square, tasks(2), Watch()))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert not multiprocessing.active_children()


class TestMapAgain:
    def test_what_kills_its_worker_runs_so_many_times_and_costs_nobody_else(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MARKS", str(tmp_path))
        given_up: list[tuple[Task, int]] = []

        def again(task: Task, runs: int) -> Task | None:
            if runs < 2:
                return task
            given_up.append((task, runs))
            return None

        with open_pool("processes", 2) as opened:
            results = list(map_again(opened, die_after_a_mark, tasks(8), Watch(), again))
            assert given_up == [(Task(3), 2)]
            assert sorted(results) == [(Task(n), n**2) for n in range(8) if n != 3]
            assert len(list(tmp_path.glob("3.*"))) == 2
            assert opened.deaths == ["killed by SIGKILL"] * 2
            assert opened.reruns >= 1

    @pytest.mark.parametrize("workers", [1, 2])
    def test_what_is_not_lost_is_not_run_again(self, workers: int) -> None:
        def again(task: Task, runs: int) -> Task | None:
            raise AssertionError(task, runs)

        with open_pool("processes", workers) as opened:
            results = list(map_again(opened, square, tasks(8), Watch(), again))
            assert sorted(results) == [(Task(n), n**2) for n in range(8)]
            assert (opened.deaths, opened.reruns) == ([], 0)


class TestSizes:
    @pytest.mark.parametrize("setting", [1, 2, 7, 256])
    def test_a_number_is_a_number(self, setting: int) -> None:
        assert workers_for(setting, "processes", 0) == setting

    @pytest.mark.parametrize("setting", ["auto", 1, 8])
    def test_serial_is_one(self, setting: int | str) -> None:
        assert workers_for(setting, "serial", 10**9) == 1

    @pytest.mark.parametrize(
        ("cores", "keys", "workers"),
        [
            (8, 0, 1),
            (8, 40_040, 1),
            (8, 2 * KEYS_PER_WORKER - 1, 1),
            (8, 2 * KEYS_PER_WORKER, 2),
            (8, 10**9, MAX_AUTO_WORKERS),
            (2, 10**9, 1),
            (1, 10**9, 1),
            (None, 10**9, 1),
        ],
    )
    def test_auto_goes_by_keys_and_cores(
        self, monkeypatch: pytest.MonkeyPatch, cores: int | None, keys: int, workers: int
    ) -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        assert workers_for("auto", "processes", keys) == workers


def stops_at_once(_task: Task, pulse: Pulse) -> bool:
    return pulse.stopping()


def test_a_lease_that_was_renewed_between_two_stages_is_good_for_the_second() -> None:
    """Once the first tasks of a purge were left, where the judge before had taken long."""
    watch = Watch()
    with open_pool("processes", 2) as opened:
        watch.holds_until_s = time.monotonic() + 0.2
        assert len([*opened.map(square, tasks(4), watch)]) == 4
        time.sleep(0.3)
        watch.holds_until_s = math.inf
        assert not any(result for _, result in opened.map(stops_at_once, tasks(8), watch))
