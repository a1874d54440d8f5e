"""Results as text."""

from __future__ import annotations

from collections.abc import Sequence

from bench.case import Case
from bench.columns import aligned
from bench.record import Spread
from bench.rounds import Result
from cleanup_job import demo

COLUMNS = (
    "row",
    "command, s",
    "sweep, s",
    "server CPU, s",
    "client CPU, s",
    "peak, MB",
    "longest, ms",
    "command ÷ ours",
    "sweep ÷ floor CPU",
    "check",
)

LEGEND = """\
command: wall of the whole command; sweep: its own time, without starting its process.
Cells are the median and (least–most) of the rounds. command ÷ ours: against {ours}.
sweep ÷ floor CPU: against the server CPU of the plain pipelined sweep, which no sweep can beat
by much. ~: cut short and projected. Peak: resident memory of all its processes together, shared
pages counted for each. Longest: the longest single command on the server in any round."""


def table(case: Case, results: Sequence[Result], product: str) -> str:
    """One case: a line per row, and why others are missing."""
    ran = [result for result in results if result.runs]
    ours, floor = reference(ran), _spread_of(ran, "floor", "server_cpu_s")
    whole = _spread_of(ran, ours, "command_s")
    cells = [COLUMNS, *(_cells(result, whole, floor) for result in ran)]
    lines = [f"{_heading(case)}, on {product}", "", *aligned(cells)]
    lines += [f"{r.row.name}: left out: {r.skipped}" for r in results if r.skipped]
    return "\n".join(lines) + "\n"


def legend(results: Sequence[Result]) -> str:
    """What the rows and columns are."""
    width = max((len(result.row.name) for result in results), default=0)
    titles = [f"{result.row.name:<{width}}  {result.row.title}" for result in results]
    return "\n".join([*titles, "", LEGEND.format(ours=reference(results) or "none")]) + "\n"


def reference(results: Sequence[Result]) -> str | None:
    """The row that stands for us: the first of ours, as `workers: auto` takes for most sizes."""
    names = [result.row.name for result in results if result.row.name.startswith("ours-")]
    return names[0] if names else None


def _heading(case: Case) -> str:
    alive = f", {case.live:,} of them live" if case.live else ""
    among = f", among {case.unrelated:,} unrelated keys" if case.unrelated else ""
    coordinators = f"{case.coordinators:,} coordinators{alive}, and {demo.LIVE} live ones{among}"
    return f"== {coordinators}: {case.keys:,} keys"


def _cells(result: Result, ours: Spread | None, floor: Spread | None) -> tuple[str, ...]:
    mark = "~" if result.projected else ""
    command, sweep = result.spread("command_s"), result.spread("sweep_s")
    return (
        result.row.name,
        mark + _range(command),
        mark + _range(sweep),
        mark + _range(result.spread("server_cpu_s")),
        mark + _middle(result.spread("client_cpu_s")),
        _middle(result.spread("peak_mb"), "{:.0f}"),
        _longest(result),
        mark + _ratio(command, ours),
        mark + _ratio(sweep, floor),
        result.check,
    )


def _range(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.low == spread.high:
        return _seconds(spread.median)
    return f"{_seconds(spread.median)} ({_seconds(spread.low)}–{_seconds(spread.high)})"


def _middle(spread: Spread | None, form: str = "") -> str:
    if spread is None:
        return "–"
    return form.format(spread.median) if form else _seconds(spread.median)


def _longest(result: Result) -> str:
    """The worst of all rounds: one such command is enough to be waited for."""
    run = max(result.runs, key=lambda run: run.longest_ms)
    if run.longest_command is None:
        return f"< {run.longest_ms:.0f}"
    return f"{run.longest_command} {run.longest_ms:,.1f}"


def _ratio(spread: Spread | None, unit: Spread | None) -> str:
    if spread is None or unit is None or not unit.median:
        return "–"
    ratio = spread.median / unit.median
    return f"{ratio:,.2f}" if ratio < 10 else f"{ratio:,.0f}"


def _seconds(value: float) -> str:
    if value < 10:
        return f"{value:.3f}"
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _spread_of(results: Sequence[Result], name: str | None, figure: str) -> Spread | None:
    return next((result.spread(figure) for result in results if result.row.name == name), None)
