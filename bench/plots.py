"""The plots, drawn from what the JSON file has: see `record`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import figures
from bench.load import plots as load_plots
from bench.record import CaseRecord, Record, RowRecord

BAR_SIZE = 100_000

_COLOURS = {
    "floor": "#000000",
    "ours-1": figures.OURS,
    "ours-2": "#e69f00",
    "ours-4": "#f0c987",
    "redis-py": "#56b4e9",
    "redis-py-pipelined": "#0072b2",
    "pipe": figures.PIPE,
    "pipe-count": "#7fceb9",
    "lua": "#cc79a7",
    "shell": "#999999",
    "shell-10": "#666666",
}
"""Okabe and Ito's, and shades of them for rows of one kind."""

_LABELS = {
    "floor": "plain SCAN, MGET, UNLINK: no guard",
    "ours-1": "cleanup-job run",
    "ours-2": "cleanup-job run, 2 workers",
    "ours-4": "cleanup-job run, 4 workers",
    "redis-py": "redis-py, key by key",
    "redis-py-pipelined": "redis-py, pipelined",
    "pipe": "redis-cli --scan | xargs unlink, blind",
    "pipe-count": "the same with --count 1000",
    "lua": "the Lua script",
    "shell": "the shell script",
    "shell-10": "the shell script, 10 at once",
}

_LINES = tuple(name for name in _LABELS if name not in ("ours-2", "ours-4", "shell-10"))

_BARS = ("floor", "ours-1", "ours-2", "redis-py-pipelined", "pipe", "pipe-count")


def draw(record: Record, folder: Path) -> list[Path]:
    """Draw what the record has enough for; returns the files."""
    with figures.styled():
        return figures.save(_drawn(record), folder)


def _drawn(record: Record) -> Iterator[tuple[str, Any]]:
    series = _longest_series(record)
    if len({case.coordinators for case in series}) > 1:
        yield "time-by-size", _time_by_size(series)
    cases = [*record.find(BAR_SIZE)]
    if cases:
        yield "wall-and-cpu", _wall_and_cpu(cases)
    if record.load:
        yield from load_plots.drawn(record.load)


def _longest_series(record: Record) -> list[CaseRecord]:
    """The plain cases of the server that has the most of them, by size."""
    plain = [case for case in record.cases if case.is_plain]
    by_server = {case.server: [one for one in plain if one.server == case.server] for case in plain}
    longest = max(by_server.values(), key=len, default=[])
    return sorted(longest, key=lambda case: case.coordinators)


def _time_by_size(series: Sequence[CaseRecord]) -> Any:
    figure = figures.figure(8, 4.8)
    axes = figure.subplots()
    for name in _LINES:
        _line(axes, name, [(case.coordinators, case.rows.get(name)) for case in series])
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="stale coordinators, 4 keys each",
        ylabel="seconds for the sweep",
        title=f"{series[0].product}: time by number of coordinators",
    )
    sizes = [case.coordinators for case in series]
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    figures.plain_numbers(axes.yaxis)
    figures.grid(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _line(axes: Any, name: str, points: Iterable[tuple[int, RowRecord | None]]) -> None:
    """One row: solid where it was measured, open circles where it was projected."""
    known = [
        (size, spread, row.projected)
        for size, row in points
        if row is not None and (spread := row.spread("sweep_s"))
    ]
    if not known:
        return
    is_sample = any(projected for *_, projected in known)
    axes.errorbar(
        [size for size, *_ in known],
        [spread.median for _, spread, _ in known],
        yerr=[
            [spread.median - spread.low for _, spread, _ in known],
            [spread.high - spread.median for _, spread, _ in known],
        ],
        label=_LABELS[name] + (" (projected)" if is_sample else ""),
        color=_COLOURS[name],
        linewidth=2.4 if name == "ours-1" else 1.3,
        linestyle="--" if is_sample else "-",
        marker="o",
        markersize=4,
        markerfacecolor="white" if is_sample else _COLOURS[name],
        capsize=2,
    )


def _wall_and_cpu(cases: Sequence[CaseRecord]) -> Any:
    """A panel per server: for each row, how long it took and how long the server worked."""
    figure = figures.figure(8, 0.9 + 2.3 * len(cases))
    panels = figure.subplots(len(cases), 1, squeeze=False, sharex=True)
    for axes, case in zip(panels[:, 0], cases, strict=True):
        _bars(axes, case)
    panels[-1, 0].set_xlabel("seconds; the thin line is least to most of the rounds")
    figure.suptitle(f"{cases[0].coordinators:,} stale coordinators: the sweep and the server")
    # One legend: the colours are the same in each panel.
    panels[0, 0].legend(loc="lower right", frameon=False, fontsize=8)
    return figure


def _bars(axes: Any, case: CaseRecord) -> None:
    rows = [case.rows[name] for name in _BARS if name in case.rows and case.rows[name].runs]
    places = range(len(rows))
    for shift, figure, label, colour in (
        (-0.19, "sweep_s", "sweep, wall", figures.OURS),
        (0.19, "server_cpu_s", "server CPU", figures.SERVER),
    ):
        spreads = [row.spread(figure) for row in rows]
        middles = [0.0 if spread is None else spread.median for spread in spreads]
        reach = [
            [0.0 if spread is None else spread.median - spread.low for spread in spreads],
            [0.0 if spread is None else spread.high - spread.median for spread in spreads],
        ]
        bars = axes.barh(
            [place + shift for place in places],
            middles,
            0.36,
            xerr=reach,
            label=label,
            color=colour,
            error_kw={"linewidth": 0.8},
        )
        axes.bar_label(bars, fmt="%.2f", padding=5, fontsize=7)
    axes.margins(x=0.1)
    axes.set_yticks([*places], [_LABELS[row.name] for row in rows])
    axes.invert_yaxis()
    axes.set_title(case.product, loc="left", fontsize=9)
