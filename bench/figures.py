"""How plots look and are written, whoever draws them.

matplotlib is imported only to draw, so that the bench runs without it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

MISSING = "plots need matplotlib: pip install --group test"

OURS = "#d55e00"
PIPE = "#009e73"
SERVER = "#0072b2"
"""Of Okabe and Ito's colours, which most eyes can tell apart: the same thing has the same one in
each plot."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "cleanup-job",  # the same figures give the same file
    "figure.facecolor": "white",  # readable on dark pages too
}


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def styled() -> AbstractContextManager[None]:
    """In which figures are made and saved."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def figure(width: float, height: float) -> Any:
    """An empty one, of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def grid(axes: Any) -> None:
    """Lines that stay behind what is drawn."""
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)


def few_numbers(axis: Any) -> None:
    """1, 2, 5, 10, 20 on a logarithmic axis that has few decades."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    plain_numbers(axis)


def plain_numbers(axis: Any) -> None:
    """0.01 and 1000 rather than powers of ten."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def save(drawn: Iterable[tuple[str, Any]], folder: Path) -> list[Path]:
    """Write each figure as SVG under its name; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, one in drawn:
        paths.append(folder / f"{name}.svg")
        one.savefig(paths[-1], metadata={"Date": None})
    return paths
