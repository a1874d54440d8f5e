"""Rounds of all rows over one case, and what they come to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import redis

from bench import slowlog
from bench.case import Case, Check, check, prepare
from bench.measure import Measured, TimedOutError, measure
from bench.record import Spread
from bench.rows import Row, Setting, Told
from bench.servers import cpu_s

FIGURES = ("command_s", "sweep_s", "server_cpu_s", "client_cpu_s", "peak_mb", "longest_ms")

LOGGED_US = 1_000
"""Shorter commands are not logged: nobody notices them, and each entry costs the server some."""


@dataclass(frozen=True)
class Run:
    """One run of one row.

    Attributes:
        scale: by how much a sample's times were multiplied to stand for the whole case; None
            where it was too short for that, and the times are as measured.
        good: whether the server holds afterwards what it should.
        check: what it holds, in words.
        longest_ms: the longest single command on the server, as its slow log has it.
        longest_command: which that was; None if all were too short to be logged, and
            `longest_ms` is the least that is logged.
        report: what the row said about itself.
    """

    command_s: float
    sweep_s: float
    server_cpu_s: float
    client_cpu_s: float
    peak_mb: float | None
    scale: float | None
    good: bool
    check: str
    longest_ms: float
    longest_command: str | None
    report: dict[str, Any] | None = None


@dataclass(frozen=True)
class Result:
    """A row's runs, or why there are none."""

    row: Row
    runs: tuple[Run, ...] = ()
    skipped: str | None = None

    @property
    def good(self) -> bool:
        """Whether each run did on the server what it should."""
        return all(run.good for run in self.runs)

    @property
    def check(self) -> str:
        """The worst that was found, else the first."""
        return next((run.check for run in self.runs if not run.good), self.runs[0].check)

    @property
    def projected(self) -> bool:
        """Whether its figures stand for more than was done."""
        return any(run.scale not in (1, None) for run in self.runs)

    def spread(self, figure: str) -> Spread | None:
        """Median, least and most, or None where it was not measured.

        A run that did not do its work does not count: it would only look fast.
        """
        counting = [run for run in self.runs if run.good and run.scale is not None]
        values = [value for run in counting if (value := getattr(run, figure)) is not None]
        return Spread.of(values)

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        spreads = {figure: self.spread(figure) for figure in FIGURES}
        return {
            "name": self.row.name,
            "title": self.row.title,
            "promise": self.row.promise.name.lower(),
            "skipped": self.skipped,
            "good": self.good,
            "projected": self.projected,
            **{figure: spread and asdict(spread) for figure, spread in spreads.items()},
            "runs": [asdict(run) for run in self.runs],
        }


@dataclass(frozen=True)
class Plan:
    """How often and how long.

    Attributes:
        rounds: of all rows in turn.
        slow: rows also at sizes where they take minutes, once.
        timeout_s: for any one command.
        once: rows that have no part in rounds after the first.
        most_s: rows that would take longer, by a guess, are left out; None: none is.
    """

    rounds: int
    slow: bool
    timeout_s: float
    once: frozenset[str] = frozenset()
    most_s: float | None = None


def compare(
    setting: Setting, chosen: Sequence[Row], plan: Plan, say: Callable[[str], None]
) -> list[Result]:
    """Run the rows in turn, round after round, each round beginning with another row."""
    results = {row.name: Result(row, skipped=_unfit(row, setting, plan)) for row in chosen}
    fit = [row for row in chosen if results[row.name].skipped is None]
    with setting.server.client() as client:
        for number in range(plan.rounds):
            first = number % len(fit) if fit else 0
            for row in [*fit[first:], *fit[:first]]:
                if number and (row.name in plan.once or _oversized(row, setting.case)):
                    continue
                run = _run(row, setting, plan, client)
                before = results[row.name]
                results[row.name] = replace(before, runs=(*before.runs, run))
                size = f"{setting.case.coordinators:,}"
                say(f"{size}, round {number + 1}: {row.name}: {run.command_s:,.3f} s, {run.check}")
    return [*results.values()]


def _oversized(row: Row, case: Case) -> bool:
    return row.most is not None and case.coordinators > row.most


def _unfit(row: Row, setting: Setting, plan: Plan) -> str | None:
    if _oversized(row, setting.case) and not plan.slow:
        return f"above {row.most:,} coordinators only with --slow"
    guess_s = row.guess_s(setting.case)
    if plan.most_s is not None and guess_s > plan.most_s:
        return f"would take {_about(guess_s)}"
    if row.command(setting) is None:
        return "no redis-cli that can do it is installed"
    return None


def _about(seconds: float) -> str:
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"some {seconds / size:,.0f} {name}"
    return f"some {seconds:.0f} s"


def _run(row: Row, setting: Setting, plan: Plan, client: redis.Redis) -> Run:
    kept = prepare(client, setting.case)
    with tempfile.TemporaryDirectory(prefix="cleanup-job-bench-") as folder:
        own = replace(setting, folder=Path(folder))
        command = row.command(own)
        assert command is not None, "unfit rows are not run"
        slowlog.begin(client, LOGGED_US)
        before_s = cpu_s(client.info("cpu"))
        try:
            measured = measure(command, plan.timeout_s)
        except TimedOutError as error:
            # The server may still be busy with what the row asked of it.
            raise TimedOutError(f"{row.name}: {error}") from None
        server_cpu_s = cpu_s(client.info("cpu")) - before_s
        slowest = slowlog.slowest(client)
    told = _hear(row, setting, measured)
    scale = 1.0 if told.scale is None else told.scale
    found = check(client, setting.case, kept, row.promise, told.stale_done)
    return Run(
        command_s=measured.wall_s * scale,
        sweep_s=(measured.wall_s if told.sweep_s is None else told.sweep_s) * scale,
        server_cpu_s=server_cpu_s * scale,
        client_cpu_s=measured.cpu_s * scale,
        peak_mb=None if measured.peak_bytes is None else measured.peak_bytes / 1e6,
        scale=told.scale,
        good=found.good and told.error is None,
        check=_in_words(told, found),
        longest_ms=slowest[0].ms if slowest else LOGGED_US / 1000,
        longest_command=slowest[0].name if slowest else None,
        report=told.report,
    )


def _in_words(told: Told, found: Check) -> str:
    if told.error:
        return f"BAD: {told.error}"
    if told.scale is None and found.good:
        return "no stale one reached; raise --sample-s"
    return found.text


def _hear(row: Row, setting: Setting, measured: Measured) -> Told:
    if measured.failure:
        return Told(error=measured.failure)
    return row.hear(setting, measured)
