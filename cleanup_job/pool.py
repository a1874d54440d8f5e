"""Map a stage over its tasks: in this process, or over others (see `processes`).

A stage is a function of one picklable task and a `Pulse`. The pool runs it, passes on how it
gets on, and lets it know when to stop. It repeats nothing, since only the job knows what may be
repeated.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from cleanup_job.model import Stage, Watch

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
    """

    workers: int
    cpu_s: float

    def map(
        self, stage: Stage, tasks: Iterable[Task], watch: Watch, *, per_node: int | None = None
    ) -> Iterator[tuple[Task, Any | None]]:
        """Each task with its result as it comes; None where its worker was lost.

        Args:
            stage: what to do.
            tasks: with what, each made when a worker is about to have room; with `per_node`, each
                has a `node`.
            watch: is told of progress.
            per_node: no more than so many tasks of the same node are under way at once.

        Raises:
            CleanupJobError: what the stage raised.
        """


def workers_for(setting: int | str, engine: str, keys: int) -> int:
    """How many workers a keyspace of this size is worth."""
    if engine == "serial":
        return 1
    if isinstance(setting, int):
        return setting
    spare_cores = (os.cpu_count() or 2) - 1
    return max(1, min(keys // KEYS_PER_WORKER, MAX_AUTO_WORKERS, spare_cores))


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


class _SerialPulse:
    def __init__(self, watch: Watch) -> None:
        self.advance = watch.advanced
        self.stopping = watch.stopping


class _Serial:
    """Everything in this process."""

    workers = 1
    cpu_s = 0.0

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
            yield task, stage(task, pulse)
