"""The load test's plots, drawn from what its result has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench import figures
from bench.load.phases import State

COLOURS = {
    State.ALONE: "#000000",
    State.ARRIVALS: "#56b4e9",
    State.SWEEP: figures.OURS,
    State.PIPE: figures.PIPE,
    State.BURNER: "#bbbbbb",
    State.BURNERS: "#777777",
}

SHADED = (State.ARRIVALS, State.SWEEP, State.PIPE)
"""What stands behind the server's figures."""

PERCENTS = (50, 90, 99, 99.9, 99.99)


def drawn(result: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each plot's name and figure."""
    yield "load-server", _server(result)
    yield "load-latency", _latency(result)


def _server(result: Mapping[str, Any]) -> Any:
    """CPU and memory over time, with what was going on in the background."""
    figure = figures.figure(11, 6)
    cpu, memory = figure.subplots(2, 1, sharex=True)
    series = result["series"]
    for axes in (cpu, memory):
        _shade(axes, result["phases"])
    cpu.plot(series["at_s"], [100 * share for share in series["server_cpu_share"]], "k", lw=0.8)
    cpu.set_ylabel("server CPU, % of a core")
    for name, label, style in (
        ("used_memory_bytes", "used", "k-"),
        ("rss_bytes", "resident", "k:"),
    ):
        memory.plot(series["at_s"], [n / 1e6 for n in series[name]], style, lw=1, label=label)
    memory.set(xlabel="time, s", ylabel="memory, MB")
    for axes in (cpu, memory):
        axes.set_ylim(bottom=0)
    cpu.legend(loc="upper right", ncols=3, fontsize=8)
    memory.legend(*_named(memory, ("used", "resident")), loc="upper right", fontsize=8)
    plan = result["plan"]
    cpu.set_title(
        f"{result['product']}: {plan['coordinators']:,} dead coordinators per cycle, "
        f"{plan['rate']:g} foreground op/s"
    )
    return figure


def _latency(result: Mapping[str, Any]) -> Any:
    """A line per state: how much latency at which percentile."""
    figure = figures.figure(8, 5)
    axes = figure.subplots()
    for state, colour in COLOURS.items():
        found = result["foreground"][state]
        points = _points(found)
        if points:
            label = f"{state} ({found['operations']:,})"
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=".", lw=1)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="of the foreground's operations",
        ylabel="took no longer than, ms",
        title=f"{result['product']}: latency of other clients",
    )
    axes.set_xticks([_odds(percent / 100) for percent in PERCENTS], [f"{p} %" for p in PERCENTS])
    axes.set_xticks([], minor=True)
    figures.few_numbers(axes.yaxis)
    figures.grid(axes)
    axes.legend(title="state (operations)", frameon=False, fontsize=8)
    return figure


def _points(found: Mapping[str, Any]) -> list[tuple[float, float]]:
    # So few operations say nothing about so rare a latency; and 100 % has no place here.
    return [
        (_odds(share), ms)
        for share, ms in found["curve"]
        if share >= 0.5 and (1 - share) * found["operations"] >= 1
    ]


def _odds(share: float) -> float:
    """The place of a percentile on the axis: one operation of so many is slower."""
    return 1 / (1 - share)


def _shade(axes: Any, phases: Sequence[Mapping[str, Any]]) -> None:
    named: set[str] = set()
    for phase in phases:
        state = State(phase["state"])
        if state in SHADED:
            label = "_" if state in named else state
            named.add(state)
            begin_s, end_s = phase["begin_s"], phase["end_s"]
            axes.axvspan(begin_s, end_s, color=COLOURS[state], alpha=0.35, lw=0, label=label)


def _named(axes: Any, names: tuple[str, ...]) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    pairs = [pair for pair in zip(handles, labels, strict=True) if pair[1] in names]
    return [handle for handle, _ in pairs], [label for _, label in pairs]
