"""What a journal costs: `python -m bench.journal`.

The same sweep with and without one, as whole commands, in turns on data that is written anew. A
disk is part of it: `--folder` says where journals are written.

With `--loose`, `max_block_ms` is out of the way: on a machine that has something else to do, the
size of calls follows every delay, and differs between the two.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import redis

from bench import cli, machine, servers
from bench.case import Case, Promise, check, prepare
from bench.measure import measure
from bench.record import Spread
from bench.servers import cpu_s

TIMEOUT_S = 300.0

LOOSE_MS = "1000"


@dataclass(frozen=True)
class Run:
    """One sweep."""

    sweep_s: float
    purge_s: float
    client_cpu_s: float
    server_cpu_s: float
    journal_mb: float


FIGURES = tuple(Run.__annotations__)


def sweep(
    server: servers.Server, client: redis.Redis, case: Case, folder: Path | None, *, loose: bool
) -> Run:
    """Write the case and sweep it, with a journal if there is a folder for it.

    Raises:
        RuntimeError: the sweep failed, or left something else than it should.
    """
    kept = prepare(client, case)
    words = [sys.executable, "-m", "cleanup_job", "run", "--url", server.url, "--json", "-"]
    words += ["--max-block-ms", LOOSE_MS] if loose else []
    words += ["--journal", str(folder)] if folder else []
    before_s = cpu_s(client.info("cpu"))
    measured = measure(words, TIMEOUT_S)
    server_cpu_s = cpu_s(client.info("cpu")) - before_s
    found = check(client, case, kept, Promise.SWEEP)
    if measured.failure or not found.good:
        raise RuntimeError(measured.failure or found.text)
    report = json.loads(measured.stdout)
    journal = report["journal"]
    if journal:
        if journal["keys"] != case.stale_keys:
            raise RuntimeError(f"the journal has {journal['keys']} keys")
        Path(journal["path"]).unlink()
    return Run(
        sweep_s=report["duration_s"],
        purge_s=report["phases"]["purge_s"],
        client_cpu_s=measured.cpu_s,
        server_cpu_s=server_cpu_s,
        journal_mb=journal["bytes"] / 1e6 if journal else 0.0,
    )


def compare(
    server: servers.Server, sizes: Sequence[int], rounds: int, folder: Path, *, loose: bool
) -> None:
    """Print both ways of each size, and their ratio."""
    print(f"{'coordinators':>12} {'':8} " + " ".join(f"{name:>22}" for name in FIGURES))
    with server.client() as client:
        for size in sizes:
            runs: dict[bool, list[Run]] = {False: [], True: []}
            for number in range(rounds):
                for yes in (number % 2 == 0, number % 2 != 0):
                    where = folder if yes else None
                    runs[yes].append(sweep(server, client, Case(size), where, loose=loose))
                    cli.say(f"{size:,}, round {number + 1}: {runs[yes][-1]}")
            _print(size, runs)


def _print(size: int, runs: dict[bool, list[Run]]) -> None:
    medians: dict[bool, list[float]] = {}
    for yes, some in runs.items():
        spreads = [Spread.of([getattr(run, figure) for run in some]) for figure in FIGURES]
        texts = [f"{s.median:.3f} ({s.low:.3f}-{s.high:.3f})" for s in spreads if s]
        medians[yes] = [s.median for s in spreads if s]
        name = "journal" if yes else "plain"
        print(f"{size:>12,} {name:8} " + " ".join(f"{text:>22}" for text in texts))
    ratios = [
        f"{with_it / without:.2f}" if without else "-"
        for with_it, without in zip(medians[True], medians[False], strict=True)
    ]
    print(f"{'':12} {'ratio':8} " + " ".join(f"{text:>22}" for text in ratios), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if both did their work; none says how fast it was."""
    parser = argparse.ArgumentParser(prog="bench.journal", description=__doc__)
    parser.add_argument("--server", choices=servers.NAMES, default=servers.DEFAULT)
    parser.add_argument("--sizes", type=cli.sizes, default=[10_000, 100_000])
    parser.add_argument("--rounds", type=cli.positive, default=5)
    parser.add_argument("--folder", type=Path, help="where journals are written")
    parser.add_argument("--loose", action="store_true", help="max_block_ms out of the way")
    arguments = parser.parse_args(argv)

    def work() -> int:
        print(machine.headline(machine.describe()))
        with (
            servers.running(arguments.server) as server,
            tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        ):
            compare(server, arguments.sizes, arguments.rounds, Path(folder), loose=arguments.loose)
        return cli.EXIT_GOOD

    return cli.supervised("bench.journal", work)


if __name__ == "__main__":
    sys.exit(main())
