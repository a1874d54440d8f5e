"""What a long way to the server costs: `python -m bench.latency`.

The same sweep, dry and real, through delay lines of different lengths to one server, in turns on
data that is written anew. A long way costs nothing but time on the way if enough is in flight; so
keys per second are compared with those of the first delay, for each phase and for the whole run.

A run also asks what has to be answered before it can go on. These round trips are a fixed cost,
which `waits` counts: requests, or groups of them, that were sent when nothing was in flight.

With `--loose`, `max_block_ms` is out of the way: on a machine that has something else to do, the
size of commands follows every delay.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import redis

from bench import cli, machine, servers
from bench.case import Case, Promise, check, prepare
from bench.delay_line import delayed
from bench.measure import measure
from bench.record import Spread

TIMEOUT_S = 600.0

LOOSE_MS = "1000"

SWEEP, DRY = "sweep", "dry run"

_SEEN = "in flight: "


@dataclass(frozen=True)
class Run:
    """One sweep, in keys per second; `purge` is 0 in a dry run.

    Attributes:
        depth: the most requests that were in flight on one connection.
        waits: requests that were sent when nothing was in flight on their connection.
    """

    survey: float
    purge: float
    whole: float
    survey_s: float
    purge_s: float
    whole_s: float
    depth: float
    waits: float
    peak_mb: float


FIGURES = tuple(Run.__annotations__)

RATIOS = ("survey", "purge", "whole")


def sweep(
    client: redis.Redis, case: Case, port: int, kept: dict[str, str], *, dry: bool, loose: bool
) -> Run:
    """Sweep the case through a delay line.

    Raises:
        RuntimeError: the sweep failed, or left something else than it should.
    """
    words = ["run", "--url", f"redis://127.0.0.1:{port}/0", "--json", "-", "--expect-all-dead"]
    words += ["--dry-run"] if dry else ["--yes"]
    words += ["--max-block-ms", LOOSE_MS] if loose else []
    done = measure([sys.executable, "-m", "bench.latency", "--watched", *words], TIMEOUT_S)
    found = check(client, case, kept, Promise.LOOK if dry else Promise.SWEEP)
    if done.failure or not found.good:
        raise RuntimeError(done.failure or found.text)
    report = json.loads(done.stdout)
    phases, keys = report["phases"], report["keys"]
    depth, waits = next(
        json.loads(line.removeprefix(_SEEN))
        for line in done.stderr.splitlines()
        if line.startswith(_SEEN)
    )
    return Run(
        survey=keys["scanned"] / phases["survey_s"],
        purge=0.0 if dry else keys["deleted"] / phases["purge_s"],
        whole=keys["scanned"] / report["duration_s"],
        survey_s=phases["survey_s"],
        purge_s=phases["purge_s"],
        whole_s=report["duration_s"],
        depth=depth,
        waits=waits,
        peak_mb=(done.peak_bytes or 0) / 1e6,
    )


def compare(
    server: servers.Server, size: int, delays_ms: Sequence[float], rounds: int, *, loose: bool
) -> None:
    """Print each way of each delay, and the ratios to the first."""
    case = Case(size)
    runs: dict[tuple[str, float], list[Run]] = {}
    with server.client() as client, contextlib.ExitStack() as stack:
        ports = {ms: stack.enter_context(delayed(server.port, ms)) for ms in delays_ms}
        for number in range(rounds):
            # Each round begins with another delay.
            first = number % len(delays_ms)
            for ms in (*delays_ms[first:], *delays_ms[:first]):
                kept = prepare(client, case)
                for name in (DRY, SWEEP):
                    run = sweep(client, case, ports[ms], kept, dry=name == DRY, loose=loose)
                    runs.setdefault((name, ms), []).append(run)
                    cli.say(f"{size:,}, {ms:g} ms, {name}: {run}")
    for name in (DRY, SWEEP):
        print()
        for line in table(size, name, {ms: runs[name, ms] for ms in delays_ms}):
            print(line, flush=True)


def table(size: int, name: str, runs: dict[float, list[Run]]) -> list[str]:
    """Medians, and the ratios of keys per second to the first delay's."""
    lines = [
        f"{size:,} coordinators, {name}",
        f"{'delay':>8}{'survey keys/s':>15}{'purge keys/s':>14}{'whole keys/s':>14}"
        f"{'survey':>8}{'purge':>7}{'whole':>7}{'depth':>7}{'waits':>7}{'peak MB':>9}",
    ]
    base: dict[str, float] = {}
    for ms, some in runs.items():
        spreads = {f: Spread.of([getattr(run, f) for run in some]) for f in FIGURES}
        median = {f: spread.median if spread else 0.0 for f, spread in spreads.items()}
        base = base or median
        ratios = {f: f"{median[f] / base[f]:.2f}" if base[f] else "–" for f in RATIOS}
        lines.append(
            f"{f'{ms:g} ms':>8}{median['survey']:>15,.0f}{median['purge']:>14,.0f}"
            f"{median['whole']:>14,.0f}{ratios['survey']:>8}{ratios['purge']:>7}"
            f"{ratios['whole']:>7}{median['depth']:>7.0f}{median['waits']:>7.0f}"
            f"{median['peak_mb']:>9.0f}"
        )
    return lines


def watched(words: Sequence[str]) -> None:
    """The command itself, which tells in the end how much it had in flight."""
    from cleanup_job import cli as command
    from cleanup_job.wire import Wire

    send = Wire.send_packed
    seen = [0, 0]

    def send_and_count(wire: Wire, *args: object, **options: object) -> None:
        seen[1] += not len(wire)
        send(wire, *args, **options)  # type: ignore[arg-type]
        seen[0] = max(seen[0], len(wire))

    Wire.send_packed = send_and_count  # type: ignore[method-assign, assignment]
    atexit.register(lambda: print(f"{_SEEN}{seen}", file=sys.stderr))
    command.main([*words])


def delays(text: str) -> list[float]:
    """Milliseconds with commas between them."""
    return [cli.amount(word) for word in text.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if all did their work; none says how fast it was."""
    words = sys.argv[1:] if argv is None else [*argv]
    if words[:1] == ["--watched"]:
        watched(words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m bench.latency",
        description="The same sweep over links of different lengths.",
    )
    parser.add_argument("--server", choices=servers.NAMES, default=servers.DEFAULT)
    parser.add_argument("--coordinators", type=cli.sizes, default=[100_000, 300_000], metavar="N,…")
    parser.add_argument("--delays", type=delays, default=[0.1, 1, 20, 80], metavar="MS,…")
    parser.add_argument("--rounds", type=cli.positive, default=3)
    parser.add_argument("--loose", action="store_true", help="max_block_ms out of the way")
    arguments = parser.parse_args(words)

    def work() -> int:
        print(machine.headline(machine.describe()))
        with servers.running(arguments.server) as server:
            for size in arguments.coordinators:
                compare(server, size, arguments.delays, arguments.rounds, loose=arguments.loose)
        return cli.EXIT_GOOD

    return cli.supervised("bench.latency", work)


if __name__ == "__main__":
    sys.exit(main())
