"""`python -m tests.engines`: the same sweep with each engine, on one server and on a cluster.

The reports have to be equal but for times, and their counts have to be the servers'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench import nodes
from bench.nodes import Nodes, Population, Seeder
from bench.servers import DEFAULT, NAMES
from cleanup_job.config import Config, Redis
from cleanup_job.job import run
from tests.keys import assert_adds_up
from tests.mixed import comparable

ENGINES: tuple[dict[str, Any], ...] = (
    {"engine": "serial"},
    {"engine": "processes", "workers": 2},
    {"engine": "dask", "workers": 2},
)


class Differ:
    """Sweeps the same data again and again."""

    def __init__(self, servers: Nodes, coordinators: int) -> None:
        self.servers = servers
        self.population = Population(coordinators)
        self.seeder = Seeder(servers, self.population)

    def sweep(self, **settings: Any) -> dict[str, Any]:
        """The report without times, when its counts are what the servers say."""
        live = self.seeder.seed()
        before = self.servers.keys()
        config = Config(redis=Redis(self.servers.url), expect_all_dead=True, **settings)
        report = run(config)
        assert_adds_up(report)
        assert report.status == "complete", report.errors
        assert report.keys.scanned == before == self.population.keys
        assert report.keys.deleted == before - self.servers.keys() == self.population.stale_keys
        assert report.coordinators.purged == self.population.coordinators
        assert report.coordinators.live == len(live) // 4
        assert nodes.untouched(self.servers, live)
        return comparable(report)


@contextmanager
def differ(server: str, primaries: int, coordinators: int) -> Iterator[Differ]:
    """For so many coordinators on so many primaries."""
    with nodes.running(server, primaries) as servers:
        yield Differ(servers, coordinators)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 if engines differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.engines", description=__doc__)
    parser.add_argument("--coordinators", type=int, default=100_000, metavar="N")
    parser.add_argument("--server", choices=NAMES, default=DEFAULT)
    arguments = parser.parse_args(argv)
    differences = 0
    for primaries in (1, 3):
        with differ(arguments.server, primaries, arguments.coordinators) as case:
            first, *others = [case.sweep(**settings) for settings in ENGINES]
            for settings, other in zip(ENGINES[1:], others, strict=True):
                wrong = [name for name in first if first[name] != other[name]]
                differences += len(wrong)
                said = f"differ in {', '.join(wrong)}" if wrong else "say the same"
                sys.stdout.write(
                    f"{arguments.server}, {primaries} primaries, {arguments.coordinators:,} "
                    f"coordinators: {settings['engine']} and serial {said}\n"
                )
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
