"""`python -m bench.memory`: does a sweep of very many coordinators keep its `memory_limit`?

One sweep by the command line. Peak memory is resident, of all its processes together, pages that
they share counted for each. The servers say whether what went is what should.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from bench import cli, machine, nodes
from bench.cli import EXIT_BAD, EXIT_GOOD, say
from bench.measure import measure
from bench.nodes import Population, Seeder
from bench.servers import DEFAULT, NAMES
from cleanup_job.memory import bytes_of

TIMEOUT_S = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if all that should went within the limit, 1 if not, 2 for usage."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--coordinators", type=cli.positive, default=3_000_000, metavar="N")
    parser.add_argument("--limit", default="500MB", metavar="SIZE")
    parser.add_argument("--workers", type=cli.positive, default=1, metavar="N")
    parser.add_argument("--server", choices=NAMES, default=DEFAULT)
    arguments = parser.parse_args(argv)
    return cli.supervised("bench.memory", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    population = Population(arguments.coordinators)
    with nodes.running(arguments.server, 1) as servers:
        say(machine.headline(machine.describe()))
        live = Seeder(servers, population).seed()
        words = f"run --url {servers.url} --workers {arguments.workers} --json - --yes"
        command = [sys.executable, "-m", "cleanup_job", *words.split()]
        done = measure([*command, "--memory-limit", arguments.limit], TIMEOUT_S)
        if done.failure:
            raise RuntimeError(done.failure)
        report = json.loads(done.stdout)
        waves = sum(one["count"] for one in report["warnings"] if one["code"] == "in_waves") or 1
        peak = done.peak_bytes or 0
        say(
            f"{report['status']}: {report['coordinators']['purged']:,} coordinators, "
            f"{report['keys']['deleted']:,} keys in {waves} waves, {report['duration_s']:.0f} s; "
            f"peak of all processes {peak / 1e6:.0f} MB, limit {arguments.limit}"
        )
        is_true = report["keys"]["deleted"] == population.stale_keys
        is_left = servers.keys() == len(live) and nodes.untouched(servers, live)
        is_kept = peak <= bytes_of(arguments.limit)
        return EXIT_GOOD if is_true and is_left and is_kept else EXIT_BAD


if __name__ == "__main__":
    sys.exit(main())
