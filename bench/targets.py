"""The seven targets: ratios within one run, each a pure function of its results.

A target has parts, which are judged one by one: on one server, at one size. It is met when all
of them are. What a run did not include is not measured, and never called a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from textwrap import wrap
from typing import Any

from bench.record import CaseRecord, Foreground, Record, Spread, ratio
from bench.rows import LARGE_COUNT

PASS, MISSED, PARTLY, UNMEASURED = "pass", "missed", "pass so far", "not measured"

FLOOR_MOST = {"redis-debian": 1.5, "valkey-9.1": 2.0}
"""Sweep wall against the floor's server CPU, by server: what a guard costs is not the same."""

OWN_CPU_MOST = 1.15

PIPE_LEAST = 3.0

LUA_LEAST = 400.0

LINEAR_MOST = 1.3

PEAK_MOST_MB = 1_000.0

IMPORT_MOST = 2.0

HAYSTACK_MOST = 1.3

COMMAND_MOST_MS = 5.0

FOREGROUND_MOST = 3.0

WIDTH = 100
"""Of the text, in columns."""


@dataclass(frozen=True)
class Part:
    """One figure against its limit.

    Attributes:
        what: in words, with size and server.
        limit: the most that it may be, or the least if `at_least`.
        reached: over the rounds; None if the run did not include it.
        beside: something to read it by.
    """

    what: str
    limit: float
    reached: Spread | None = None
    at_least: bool = False
    unit: str = ""
    beside: str = ""

    @property
    def status(self) -> str:
        """`PASS`, `MISSED` or `UNMEASURED`."""
        if self.reached is None:
            return UNMEASURED
        return PASS if self.missed_by <= 0 else MISSED

    @property
    def missed_by(self) -> float:
        """How far the median is on the wrong side of the limit."""
        if self.reached is None:
            return 0.0
        over = self.reached.median - self.limit
        return -over if self.at_least else over

    @property
    def in_words(self) -> str:
        """The status, and if it was missed by how much."""
        if self.status != MISSED:
            return self.status
        share = self.missed_by / self.limit
        return f"missed by {_number(self.missed_by)}{self.unit} ({share:.0%})"

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        reached = None if self.reached is None else asdict(self.reached)
        return {**asdict(self), "reached": reached, "status": self.status, "text": self.in_words}


@dataclass(frozen=True)
class Verdict:
    """On one target."""

    number: int
    title: str
    parts: tuple[Part, ...]

    @property
    def status(self) -> str:
        """`PASS` only if all parts were measured and pass."""
        found = [part.status for part in self.parts]
        if MISSED in found:
            return MISSED
        if PASS not in found:
            return UNMEASURED
        return PARTLY if UNMEASURED in found else PASS

    @property
    def in_words(self) -> str:
        """The status, with the worst miss."""
        if self.status != MISSED:
            return self.status
        missed = [part for part in self.parts if part.status == MISSED]
        return max(missed, key=lambda part: part.missed_by / part.limit).in_words

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "number": self.number,
            "title": self.title,
            "status": self.status,
            "text": self.in_words,
            "parts": [part.to_json() for part in self.parts],
        }


def judge(record: Record) -> list[Verdict]:
    """The verdicts on all targets."""
    return [target(record) for target in _TARGETS]


def near_the_floor(record: Record) -> Verdict:
    """The sweep against what the server alone needs, for the least and for ours."""
    parts: list[Part] = []
    for server, most in FLOOR_MOST.items():
        cases = [case for case in record.find(100_000) if case.server == server]
        case = cases[0] if cases else None
        where = f"100,000 on {server if case is None else case.product}"
        floor = Part(f"sweep ÷ the floor's server CPU, {where}", most)
        own = Part(f"sweep ÷ its own server CPU, {where}", OWN_CPU_MOST)
        if case is not None:
            sweep, least = case.ours, case.rows.get("floor")
            floor = replace(floor, reached=ratio(sweep, "sweep_s", least, "server_cpu_s"))
            own = replace(own, reached=ratio(sweep, "sweep_s", sweep, "server_cpu_s"))
        parts += [floor, own]
    return Verdict(1, "near the floor", tuple(parts))


def faster_than_the_pipe(record: Record) -> Verdict:
    """Against `redis-cli --scan | xargs redis-cli unlink`, which checks nothing at all.

    At 10,000 the start of a Python would be most of the figure, so the sweep stands against the
    pipe there; at 100,000 command stands against command.
    """

    def sweep(case: CaseRecord | None) -> Part:
        return _against_pipe(case, f"our sweep, {_where(10_000, case)}", "sweep_s")

    def command(case: CaseRecord | None) -> Part:
        return _against_pipe(case, f"our command, {_where(100_000, case)}", "command_s")

    parts = (*_each(record.find(10_000), sweep), *_each(record.find(100_000), command))
    return Verdict(2, "faster than the blind pipe", parts)


def _against_pipe(case: CaseRecord | None, ours: str, figure: str) -> Part:
    part = Part(f"blind pipe (COUNT 10) ÷ {ours}", PIPE_LEAST, at_least=True)
    if case is None:
        return part
    reached = ratio(case.rows.get("pipe"), "command_s", case.ours, figure)
    larger = ratio(case.rows.get("pipe-count"), "command_s", case.ours, figure)
    beside = f"with --count {LARGE_COUNT}: {_spread(larger)}" if larger else ""
    return replace(part, reached=reached, beside=beside)


def faster_than_lua(record: Record) -> Verdict:
    """Sweep against sweep."""

    def part(case: CaseRecord | None) -> Part:
        text = f"Lua's sweep ÷ ours, {_where(10_000, case)}"
        lua = None if case is None else case.rows.get("lua")
        reached = None if case is None else ratio(lua, "sweep_s", case.ours, "sweep_s")
        return Part(text, LUA_LEAST, reached, at_least=True)

    return Verdict(3, "faster than the Lua script", tuple(_each(record.find(10_000), part)))


def linear(record: Record) -> Verdict:
    """A coordinator among a million costs what one among ten thousand does, and little memory."""
    larger = 1_000_000 // 10_000

    def per_coordinator(case: CaseRecord | None) -> Part:
        name = "" if case is None else case.server
        small = next((one for one in record.find(10_000) if one.server == name), None)
        text = f"sweep per coordinator ÷ that at 10,000, {_where(1_000_000, case)}"
        if case is None or small is None:
            return Part(text, LINEAR_MOST)
        reached = _over(case, small, "ours-1", "sweep_s", larger)
        floor = _over(case, small, "floor", "server_cpu_s", larger)
        beside = f"the floor's server CPU: {_number(floor.median)}" if floor else ""
        return Part(text, LINEAR_MOST, reached, beside=beside)

    def memory(case: CaseRecord | None) -> Part:
        text = f"peak memory of all processes, {_where(1_000_000, case)}"
        ours = None if case is None else case.ours
        reached = None if ours is None else ours.spread("peak_mb")
        return Part(text, PEAK_MOST_MB, reached, unit=" MB")

    cases = [*record.find(1_000_000)]
    parts = [*_each(iter(cases), per_coordinator), *_each(iter(cases), memory)]
    return Verdict(4, "linear", tuple(parts))


def small(record: Record) -> Verdict:
    """A sweep of next to nothing takes little longer than a Python that imports its client."""

    def part(case: CaseRecord | None) -> Part:
        text = f'command ÷ python -c "import redis", {_where(100, case)}'
        imports = None if case is None else case.rows.get("import-redis")
        reached = None if case is None else ratio(case.ours, "command_s", imports, "command_s")
        return Part(text, IMPORT_MOST, reached)

    return Verdict(5, "small sweeps", tuple(_each(record.find(100), part)))


def large_haystack(record: Record) -> Verdict:
    """Among very many keys of others, a sweep is one walk over them and little else."""

    def part(case: CaseRecord | None) -> Part:
        where = f"10,000 among 10,000,000{'' if case is None else f' on {case.product}'}"
        text = f"sweep ÷ a bare walk's server CPU, {where}"
        walk = None if case is None else case.rows.get("walk")
        reached = None if case is None else ratio(case.ours, "sweep_s", walk, "server_cpu_s")
        return Part(text, HAYSTACK_MOST, reached)

    return Verdict(6, "large haystack", tuple(_each(record.find(10_000, 10_000_000), part)))


def kind(record: Record) -> Verdict:
    """No other client waits long: no command holds the server, and their p99 stays near."""
    waited = Part("other clients' p99 during a sweep ÷ without", FOREGROUND_MOST)
    found = record.foreground or {}
    during, without = found.get("p99_during_ms"), found.get("p99_without_ms")
    if during and without:
        times = during / without
        waited = replace(waited, reached=Spread(times, times, times), beside=_p99_in_words(found))
    return Verdict(7, "kind to others", (_longest_command(record), waited))


_P99_NAMES = {
    "p99_without_ms": "alone",
    "p99_during_ms": "during a sweep",
    "p99_pipe_ms": "during the blind pipe",
    "p99_burner_ms": "without a sweep while as much CPU is burnt as by its client",
    "p99_burners_ms": "as by client and server",
}


def _p99_in_words(found: Foreground) -> str:
    """The last two are what a machine that is only as busy does to other clients."""
    known = [(name, ms) for key, name in _P99_NAMES.items() if (ms := found.get(key)) is not None]
    return ", ".join(f"{name} {_number(ms)} ms" for name, ms in known)


_TARGETS: tuple[Callable[[Record], Verdict], ...] = (
    near_the_floor,
    faster_than_the_pipe,
    faster_than_lua,
    linear,
    small,
    large_haystack,
    kind,
)


def text(verdicts: Sequence[Verdict]) -> str:
    """All verdicts, each with its parts if any of them was measured."""
    lines = ["== targets", ""]
    for verdict in verdicts:
        lines.append(f"{verdict.number} {verdict.title}: {verdict.in_words}")
        if verdict.status != UNMEASURED:
            lines += [line for part in verdict.parts for line in _wrapped(_line(part))]
    return "\n".join(lines) + "\n"


def _wrapped(line: str) -> list[str]:
    return wrap(
        line,
        WIDTH,
        initial_indent=" " * 4,
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _line(part: Part) -> str:
    bound = f"at {'least' if part.at_least else 'most'} {_number(part.limit)}{part.unit}"
    if part.reached is None:
        return f"{part.in_words}: {part.what} ({bound})"
    beside = f"; {part.beside}" if part.beside else ""
    return f"{part.in_words}: {part.what}: {_spread(part.reached)}{part.unit}, {bound}{beside}"


def _longest_command(record: Record) -> Part:
    """The longest of all runs of ours, since one is enough to be waited for.

    Its median is that single command: there is nothing to be in the middle of.
    """
    runs = [*_longest_of_rows(record), *_longest_of_load(record)]
    what = "longest single command of ours on the server"
    middle = Spread.of([ms for ms, *_ in runs])
    if middle is None:
        return Part(what, COMMAND_MOST_MS, unit=" ms")
    most_ms, command, where = max(runs, key=lambda run: run[0])
    beside = f"{command or 'none was logged'}, {where}; median of {len(runs)} runs' longest: "
    beside += f"{_number(middle.median)} ms"
    return Part(what, COMMAND_MOST_MS, Spread(most_ms, most_ms, most_ms), False, " ms", beside)


def _longest_of_rows(record: Record) -> Iterator[tuple[float, str | None, str]]:
    """Of each run of ours the longest command's ms, its name, and where it was."""
    for case in record.cases:
        where = f"{case.coordinators:,} coordinators on {case.product}"
        if case.unrelated:
            where += f" among {case.unrelated:,}"
        for run in case.ours.runs if case.ours else ():
            if run["good"]:
                yield run["longest_ms"], run["longest_command"], where


def _longest_of_load(record: Record) -> Iterator[tuple[float, str | None, str]]:
    """The same of each sweep in the load test."""
    if record.load is None:
        return
    size = record.load["plan"]["coordinators"]
    where = f"load test with {size:,} coordinators on {record.load['product']}"
    for cycle in record.load["cycles"]:
        if cycle["state"] == "sweep" and cycle["good"] and cycle["slowest"]:
            slowest = cycle["slowest"][0]
            yield slowest["ms"], slowest["name"], where


def _each(cases: Iterator[CaseRecord], part: Callable[[CaseRecord | None], Part]) -> list[Part]:
    """A part per case in which it was measured; one that was not, if there is none."""
    parts = [found for found in map(part, cases) if found.reached is not None]
    return parts or [part(None)]


def _over(
    large: CaseRecord, small: CaseRecord, row: str, figure: str, times: float
) -> Spread | None:
    """A figure per coordinator against that of a smaller case, with which no rounds are shared."""
    if row not in large.rows or row not in small.rows:
        return None
    above, below = large.rows[row].spread(figure), small.rows[row].spread(figure)
    if above is None or below is None or not below.low:
        return None
    return Spread(
        above.median / below.median / times,
        above.low / below.high / times,
        above.high / below.low / times,
    )


def _where(size: int, case: CaseRecord | None) -> str:
    return f"{size:,}" if case is None else f"{size:,} on {case.product}"


def _spread(spread: Spread) -> str:
    if spread.low == spread.high:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.low)}–{_number(spread.high)})"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
