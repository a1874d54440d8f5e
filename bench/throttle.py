"""`python -m bench.throttle`: does a sweep give way to a foreground client, if it is told to?

One client offers GETs and SETs at a steady rate while nobody else is there, while a sweep goes as
fast as it can, and while one goes with `max_latency_ms`. Each latency counts from the time at
which the operation was due, so a server that stalls shows in every operation that waited.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import redis

from bench import cli, machine, rows, servers
from bench.cli import EXIT_BAD, EXIT_GOOD, say
from bench.load import latency
from bench.load.clients import Foreground, working
from bench.load.foreground import KEYS
from bench.load.phases import Phase, State, by_phase
from bench.measure import measure
from bench.seed import seed
from cleanup_job import demo

ALONE_S = 3.0

SETTLE_S = 0.5
"""Between two states, so that what one leaves behind does not count for the next."""

TIMEOUT_S = 120.0

NICE = 9
"""Of both sweeps: the foreground is to wait for the server, not for a processor. On two cores a
sweep, the foreground and the server would have to take turns, and no probe of the sweep's can see
how long others wait for that."""

ALONE, FREE, THROTTLED = "no sweep", "a sweep, not throttled", "a sweep, throttled"


@dataclass(frozen=True)
class Stretch:
    """One state of the bench: what it is called, when it was, and the report of its sweep."""

    title: str
    begin_s: float
    end_s: float
    report: Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if only the throttled sweep keeps the limit, 1 if not, 2 for usage."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.throttle",
        description="A foreground client's p99 beside a sweep with and without max_latency_ms.",
    )
    parser.add_argument("--coordinators", type=cli.positive, default=30_000, metavar="N")
    parser.add_argument(
        "--rate", type=cli.amount, default=1_000.0, metavar="N", help="operations per second"
    )
    parser.add_argument("--max-latency-ms", type=cli.amount, default=2.0, metavar="MS")
    parser.add_argument("--rounds", type=cli.positive, default=1, metavar="N")
    parser.add_argument("--server", choices=servers.NAMES, default=servers.DEFAULT)
    arguments = parser.parse_args(argv)
    return cli.supervised("bench.throttle", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    with servers.running(arguments.server) as server, server.client() as client:
        say(f"{machine.product(client)}; {arguments.rate:g} operations/s in the foreground")
        good = [_round(server, client, arguments) for _ in range(arguments.rounds)]
    return EXIT_GOOD if all(good) else EXIT_BAD


def _round(server: servers.Server, client: redis.Redis, arguments: argparse.Namespace) -> bool:
    limit = ["--max-latency-ms", f"{arguments.max_latency_ms:g}"]
    client.flushall()
    with (
        tempfile.TemporaryDirectory(prefix="cleanup-job-bench-") as folder,
        working(server.port, 1, arguments.rate, Path(folder)) as foreground,
    ):
        time.sleep(SETTLE_S)
        stretches = [
            _alone(),
            _sweep(server, client, foreground, FREE, arguments.coordinators, []),
            _sweep(server, client, foreground, THROTTLED, arguments.coordinators, limit),
        ]
        operations = foreground.finish().operations
    phases = [Phase(State.SWEEP, each.begin_s, each.end_s) for each in stretches]
    found = [latency.summary(some) for some in by_phase(operations, phases)[:-1]]
    for line in table(stretches, found, arguments.max_latency_ms):
        print(line, flush=True)
    return holds(
        {s.title: f["round_trip_p99_ms"] for s, f in zip(stretches, found, strict=True)}, arguments
    )


def holds(p99_ms: Mapping[str, float], arguments: argparse.Namespace) -> bool:
    """Whether the throttled sweep keeps the limit, and the other one does not."""
    return bool(p99_ms[THROTTLED] <= arguments.max_latency_ms < p99_ms[FREE])


def table(
    stretches: Sequence[Stretch], found: Sequence[Mapping[str, Any]], limit_ms: float
) -> list[str]:
    """What the foreground saw in each state, and what held the sweeps up.

    `late` is how long after it was due an operation was sent, `trip` how long it took from there.
    The client never waits for a reply before it sends the next, so its lateness is the machine's
    doing: three processes on two cores. The verdict is by `trip`.
    """
    lines = [
        f"{f'limit {limit_ms:g} ms':<24}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}"
        f"{'late p99':>10}{'trip p99':>10}{'sweep s':>9}"
    ]
    for each, figures in zip(stretches, found, strict=True):
        took = f"{each.report['duration_s']:.2f}" if each.report else ""
        lines.append(
            f"{each.title:<24}{figures['p50_ms']:>9.2f}{figures['p99_ms']:>9.2f}"
            f"{figures['max_ms']:>9.2f}{figures['late_p99_ms']:>10.2f}"
            f"{figures['round_trip_p99_ms']:>10.2f}{took:>9}".rstrip()
        )
        lines += [
            f"  {pause['pauses']} pauses, {pause['seconds']:.2f} s: {pause['message']}"
            for pause in each.report.get("throttle", ())
        ]
    return lines


def _alone() -> Stretch:
    begin_s = time.monotonic()
    time.sleep(ALONE_S)
    return Stretch(ALONE, begin_s, time.monotonic(), {})


def _sweep(
    server: servers.Server,
    client: redis.Redis,
    foreground: Foreground,
    title: str,
    coordinators: int,
    words: Sequence[str],
) -> Stretch:
    """From the first to the last command of a sweep, without the start of its process.

    Raises:
        RuntimeError: if it did not delete what it should.
    """
    seed(client, coordinators)
    time.sleep(SETTLE_S)
    foreground.check()
    # The report has the clock of the wall.
    offset_s = time.time() - time.monotonic()
    command = ["nice", "-n", str(NICE), *rows.our_command(server, "auto"), *words]
    done = measure(command, TIMEOUT_S)
    ended_s = time.monotonic()
    if done.failure:
        raise RuntimeError(done.failure)
    report = json.loads(done.stdout)
    left: Any = client.dbsize()
    if left != demo.LIVE * demo.KEYS_PER_COORDINATOR + KEYS:
        raise RuntimeError(f"{left:,} keys are left")
    begin_s = datetime.fromisoformat(report["started_at"]).timestamp() - offset_s
    time.sleep(SETTLE_S)
    return Stretch(title, begin_s, min(begin_s + report["duration_s"], ended_s), report)


if __name__ == "__main__":
    sys.exit(main())
