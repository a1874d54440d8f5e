"""The result as SVG. The only module of the load test that needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.load.phases import State

SHADES = {State.ARRIVALS: "#c9d6e8", State.SWEEP: "#f2b872", State.PIPE: "#d9a3c7"}

LINES = {
    State.ALONE: "#333333",
    State.ARRIVALS: "#4878b0",
    State.SWEEP: "#dd7700",
    State.PIPE: "#aa3377",
    State.BURNER: "#88aa55",
    State.BURNERS: "#447733",
}

PERCENTS = (50, 90, 99, 99.9, 99.99)


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write the plots; returns their files."""
    # The same figures give the same file.
    mpl.rcParams["svg.hashsalt"] = "cleanup-job"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"load-server.svg": _server(result), "load-latency.svg": _latency(result)}
    for name, figure in drawn.items():
        figure.savefig(folder / name, metadata={"Date": None})
    return [folder / name for name in drawn]


def _server(result: dict[str, Any]) -> Figure:
    """CPU and memory over time, with what was going on in the background."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    cpu, memory = figure.subplots(2, 1, sharex=True)
    series = result["series"]
    for axes in (cpu, memory):
        _shade(axes, result["phases"])
    cpu.plot(series["at_s"], [100 * share for share in series["server_cpu_share"]], "k", lw=0.8)
    cpu.set_ylabel("server CPU, % of a core")
    cpu.set_ylim(bottom=0)
    for name, label, style in (
        ("used_memory_bytes", "used", "k-"),
        ("rss_bytes", "resident", "k:"),
    ):
        memory.plot(series["at_s"], [n / 1e6 for n in series[name]], style, lw=1, label=label)
    memory.set_ylabel("memory, MB")
    memory.set_xlabel("time, s")
    memory.set_ylim(bottom=0)
    cpu.legend(loc="upper right", ncols=3, fontsize="small")
    memory.legend(*_named(memory, ("used", "resident")), loc="upper right", fontsize="small")
    plan = result["plan"]
    cpu.set_title(
        f"{plan['coordinators']:,} dead coordinators per cycle, {plan['rate']:g} foreground op/s"
    )
    return figure


def _latency(result: dict[str, Any]) -> Figure:
    """A line per state: how much latency at which percentile."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for state, colour in LINES.items():
        figures = result["foreground"][state]
        # So few operations say nothing about so rare a latency; and 100 % has no place here.
        points = [
            (1 / (1 - share), ms)
            for share, ms in figures["curve"]
            if share >= 0.5 and (1 - share) * figures["operations"] >= 1
        ]
        if points:
            label = f"{state} ({figures['operations']:,})"
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=".", lw=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - percent / 100) for percent in PERCENTS]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 1 / x):.6g} %"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.set_xlabel("of the foreground's operations")
    axes.set_ylabel("took no longer than, ms")
    axes.grid(alpha=0.3, which="both")
    axes.legend(title="state (operations)", fontsize="small")
    return figure


def _shade(axes: Axes, phases: list[dict[str, Any]]) -> None:
    named: set[str] = set()
    for phase in phases:
        state = phase["state"]
        if state in SHADES:
            label = "_" if state in named else state
            named.add(state)
            begin_s, end_s = phase["begin_s"], phase["end_s"]
            axes.axvspan(begin_s, end_s, color=SHADES[State(state)], lw=0, label=label)


def _named(axes: Axes, names: tuple[str, ...]) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    pairs = [pair for pair in zip(handles, labels, strict=True) if pair[1] in names]
    return [handle for handle, _ in pairs], [label for _, label in pairs]
