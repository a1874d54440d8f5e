"""Map a stage over its tasks: in this process, or over others (see `processes`).

A stage is a function of one picklable task and a `Pulse`. The pool runs it, passes on how it
gets on, and lets it know when to stop. By itself it repeats nothing, since only the job knows what
may be repeated; `map_again` repeats what the job lets it.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from cleanup_job.model import UNTRIED, Problem, Stage, Watch
from cleanup_job.pulse import Rests, unlimited

KEYS_PER_WORKER = 400_000
"""`workers: auto` adds a worker for so many keys. On two cores a
second one brought nothing at 100,000 coordinators (docs/design.md has the measurement)."""

MAX_AUTO_WORKERS = 2
"""Reading a key costs the client about as much as the server, and a standalone server has one
thread: two workers always saturate it."""

Task = TypeVar("Task")


class Pool(Protocol):
    """Runs a stage over tasks.

    Attributes:
        cpu_s: what other processes have used for tasks so far.
        deaths: how each worker ended that died by itself, in words.
        reruns: how many tasks `map_again` has run again.
        waited_s: what a worker, on the average, has rested for `max_keys_per_second` so far.
        ended: why no stage can be run any more.
        is_far: tasks go to other machines, so that few large ones are better than many small ones.
    """

    workers: int
    cpu_s: float
    deaths: list[str]
    reruns: int
    ended: Problem | None
    is_far: bool

    @property
    def waited_s(self) -> float:
        """See above."""

    def map(
        self, stage: Stage, tasks: Iterable[Task], watch: Watch, *, per_node: int | None = None
    ) -> Iterator[tuple[Task, Any | None]]:
        """Each task with its result as it comes.

        The result is None where its worker was lost and it may have begun. It is `UNTRIED` where
        it never began: workers die whatever they do, or one died and the run is to end.

        Args:
            stage: what to do.
            tasks: with what, each made when a worker is about to have room; with `per_node`, each
                has a `node`.
            watch: is told of progress.
            per_node: no more than so many tasks of the same node are under way at once.

        Raises:
            CleanupJobError: what the stage raised.
        """


def map_again(
    pool: Pool,
    stage: Stage,
    tasks: Iterable[Task],
    watch: Watch,
    again: Callable[[Task, int], Task | None],
    *,
    per_node: int | None = None,
) -> Iterator[tuple[Task, Any]]:
    """As `Pool.map`, but what was lost with its worker runs again as long as `again` lets it.

    A worker that dies takes others with it, and the tasks that these were at. So lost tasks run
    again one at a time, when all others are through: who loses a worker then has nobody else to
    blame, and a task that kills every worker costs the others no attempt.

    Args:
        pool: where to.
        stage: what to do.
        tasks: with what.
        watch: is told of progress.
        again: is given a task that was lost, and how often it was begun. Returns what is to be
            run in its place, or None if that was all.
        per_node: as for `Pool.map`.

    Raises:
        CleanupJobError: what the stage raised.
    """
    return run_again(
        pool,
        lambda some, most: pool.map(stage, some, watch, per_node=most),
        tasks,
        again,
        per_node=per_node,
    )


def run_again(
    pool: Pool,
    run: Callable[[Iterable[Task], int | None], Iterator[tuple[Task, Any]]],
    tasks: Iterable[Task],
    again: Callable[[Task, int], Task | None],
    *,
    per_node: int | None = None,
) -> Iterator[tuple[Task, Any]]:
    """The same for whatever runs tasks on a pool; `run` is given them, and `per_node`."""
    lost: list[Task] = []
    for task, result in run(tasks, per_node):
        if result is None:
            lost.append(task)
        else:
            yield task, result
    for task in lost:
        runs = 1
        while (rest := again(task, runs)) is not None:
            [(task, result)] = run([rest], None)
            if result is not UNTRIED:
                pool.reruns += 1
            if result is not None:
                yield task, result
                break
            runs += 1


def deaths_of(pool: Pool) -> tuple[str, ...]:
    """How workers died, the usual way first."""
    causes = Counter(pool.deaths or ["nobody saw how"])
    return tuple(f"{cause}: {times}" for cause, times in causes.most_common(3))


def workers_for(setting: int | str, engine: str, keys: int) -> int:
    """How many workers a keyspace of this size is worth."""
    if engine == "serial" or _may_have_no_children():
        return 1
    if isinstance(setting, int):
        return setting
    spare_cores = (os.cpu_count() or 2) - 1
    return max(1, min(keys // KEYS_PER_WORKER, MAX_AUTO_WORKERS, spare_cores))


def _may_have_no_children() -> bool:
    """True in a worker of somebody else's pool that is daemonic, as those of many task queues."""
    # What was never imported did not make this process, and its import takes its time.
    multiprocessing: Any = sys.modules.get("multiprocessing.process")
    return bool(multiprocessing and multiprocessing.current_process().daemon)


@contextmanager
def open_pool(engine: str, workers: int, profile: str | None = None) -> Iterator[Pool]:
    """A pool for the length of a run. One worker needs no process of its own.

    Args:
        engine: serial or processes.
        workers: how many.
        profile: where each worker process writes its cProfile, with its number behind the name.
    """
    if engine == "serial" or workers == 1:
        yield _Serial()
        return
    # Imported where it is needed: it takes longer than the sweep of a small server.
    from cleanup_job.processes import Processes

    pool = Processes(workers, profile)
    try:
        yield pool
    except KeyboardInterrupt:
        pool.kill()  # the second signal: at once
        raise
    finally:
        pool.close()


class _SerialPulse(Rests):
    def __init__(self, watch: Watch) -> None:
        super().__init__(watch.allowance or unlimited, watch.stopping)
        self.advance = watch.advanced
        self.stopping = watch.stopping


class _Serial:
    """Everything in this process."""

    workers = 1
    cpu_s = 0.0
    reruns = 0
    waited_s = 0.0
    ended: Problem | None = None
    is_far = False

    def __init__(self) -> None:
        self.deaths: list[str] = []

    def map(
        self,
        stage: Stage,
        tasks: Iterable[Task],
        watch: Watch,
        *,
        per_node: int | None = None,  # noqa: ARG002 - one at a time is always few enough
    ) -> Iterator[tuple[Task, Any | None]]:
        pulse = _SerialPulse(watch)
        for task in tasks:
            pulse.begin()
            before_s = pulse.waited_s
            result = stage(task, pulse)
            self.waited_s += pulse.waited_s - before_s
            yield task, result
