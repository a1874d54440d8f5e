"""What travels between the job and its workers: `python -m bench.carry`.

A real sweep in one process, whose pool does with each task and each result what a pool of processes
does with them: pickle them, and read them again. So bytes are exact, and the CPU of the job's half
(packing tasks, reading results) is told from that of the workers'.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import process_time
from typing import Any
from unittest import mock

import cleanup_job
from bench import cli, machine, nodes
from bench.columns import aligned
from bench.nodes import Population, Seeder
from bench.scale import config_of
from bench.servers import DEFAULT, NAMES
from cleanup_job.model import Stage, Watch
from cleanup_job.pool import Pool, open_pool


@dataclass
class Carried:
    """What a stage's tasks and results came to; seconds are of the job's CPU."""

    tasks: int = 0
    out_bytes: int = 0
    back_bytes: int = 0
    largest_bytes: int = 0
    pack_s: float = 0.0
    read_s: float = 0.0


class CarryingPool:
    """A serial pool that carries all values as if its workers were other processes."""

    reruns = 0
    cpu_s = 0.0
    waited_s = 0.0
    ended = None
    is_far = False

    def __init__(self, serial: Pool, workers: int) -> None:
        self.workers = workers
        self.deaths: list[str] = []
        self.carried: dict[str, Carried] = {}
        self._serial = serial

    def map(
        self, stage: Stage, tasks: Iterable[Any], watch: Watch, *, per_node: int | None = None
    ) -> Iterator[tuple[Any, Any | None]]:
        """As `pool.Pool.map`."""
        carried = self.carried.setdefault(stage.__name__, Carried())

        def arrived() -> Iterator[Any]:
            for task in tasks:
                packed, pack_s = _timed(pickle.dumps, task)
                carried.tasks += 1
                carried.out_bytes += len(packed)
                carried.pack_s += pack_s
                yield pickle.loads(packed)

        for task, result in self._serial.map(stage, arrived(), watch, per_node=per_node):
            packed = pickle.dumps(result)
            carried.back_bytes += len(packed)
            carried.largest_bytes = max(carried.largest_bytes, len(packed))
            read, read_s = _timed(pickle.loads, packed)
            carried.read_s += read_s
            yield task, read


def _timed(work: Callable[[Any], Any], value: Any) -> tuple[Any, float]:
    before_s = process_time()
    return work(value), process_time() - before_s


def carry(seeder: Seeder, workers: int) -> dict[str, Carried]:
    """Sweep once, and tell what each stage's values came to.

    Raises:
        RuntimeError: the sweep left something else than it should.
    """
    pools: list[CarryingPool] = []

    @contextlib.contextmanager
    def carrying(engine: str, *_: Any, **__: Any) -> Iterator[CarryingPool]:  # noqa: ARG001
        with open_pool("serial", 1) as serial:
            pools.append(CarryingPool(serial, workers))
            yield pools[-1]

    live = seeder.seed()
    config = config_of(seeder.nodes, seeder.population, "processes", workers, loose=True)
    gc.disable()  # as the command does
    try:
        with mock.patch("cleanup_job.job.open_pool", carrying):
            report = cleanup_job.run(config)
    finally:
        gc.enable()
    deleted = seeder.population.stale_keys
    if report.keys.deleted != deleted or not nodes.untouched(seeder.nodes, live):
        raise RuntimeError(f"deleted {report.keys.deleted} keys, not {deleted}")
    return pools[0].carried


def table(found: dict[str, Carried], keys: int) -> list[str]:
    """A line per stage."""
    head = (
        *("stage", "tasks", "bytes/key to workers", "bytes/key back", "largest result, kB"),
        *("µs/key to pack", "µs/key to read"),
    )
    rows = [
        (
            stage,
            f"{some.tasks:,}",
            f"{some.out_bytes / keys:.1f}",
            f"{some.back_bytes / keys:.1f}",
            f"{some.largest_bytes / 1e3:,.0f}",
            f"{some.pack_s / keys * 1e6:.2f}",
            f"{some.read_s / keys * 1e6:.2f}",
        )
        for stage, some in found.items()
    ]
    return aligned([head, *rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if the sweep did its work."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.carry",
        description="Bytes that travel between the job and its workers.",
    )
    parser.add_argument("--coordinators", type=cli.positive, default=100_000, metavar="N")
    parser.add_argument("--primaries", type=cli.positive, default=12, metavar="N")
    parser.add_argument("--tagged", action="store_true", help="ids are hash tags")
    parser.add_argument("--workers", type=cli.positive, default=4, metavar="N")
    parser.add_argument("--server", choices=NAMES, default=DEFAULT)
    arguments = parser.parse_args(argv)

    def work() -> int:
        population = Population(arguments.coordinators, arguments.tagged)
        with nodes.running(arguments.server, arguments.primaries) as started:
            print(f"{machine.product(started.clients[0])}; {population.keys:,} keys", flush=True)
            found = carry(Seeder(started, population), arguments.workers)
        for line in table(found, population.keys):
            print(line, flush=True)
        return cli.EXIT_GOOD

    return cli.supervised("bench.carry", work)


if __name__ == "__main__":
    sys.exit(main())
