"""Tables with bars in them: for eyes, for screen readers, and bounded in length (pure)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cleanup_job import figures
from cleanup_job.markup import Html, element, together

MOST_ROWS = 100
"""Of one table, however many there are to show."""

THINNEST = 0.6
"""Per cent: what is more than nothing can be seen."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        head: what it says at the top.
        kind: `text`, `number` (to the right), `bar`, or `id`, which may break anywhere.
    """

    head: str
    kind: str = "text"


class Part(NamedTuple):
    """A part of a bar: how much it stands for, and how it looks."""

    amount: float
    look: str


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    *,
    total: Sequence[str] = (),
    note: str | None = None,
) -> Html:
    """A table whose first column names its rows.

    It scrolls within itself where it is too wide, by keyboard as well.

    Args:
        caption: what it is about; its accessible name too.
        columns: as many as each row has cells.
        rows: the first `MOST_ROWS` are shown, and how many more there are.
        total: a last row.
        note: a remark in its caption.
    """
    rows = iter(rows)
    shown = [*itertools.islice(rows, MOST_ROWS)]
    more = sum(1 for _ in rows)
    feet = []
    if more:
        words = together("and ", figures.count(more), " more")
        feet.append(element("tr", element("td", words, colspan=len(columns), class_="more")))
    if total:
        feet.append(_row(columns, total))
    content = element(
        "table",
        element("caption", caption, element("span", note) if note else None),
        element("thead", element("tr", *map(_head, columns))),
        element("tbody", *(_row(columns, cells) for cells in shown)),
        element("tfoot", *feet) if feet else None,
    )
    return element("div", content, class_="scroll", role="region", tabindex=0, aria_label=caption)


def _head(column: Column) -> Html:
    return element("th", column.head, scope="col", class_=column.kind)


def _row(columns: Sequence[Column], cells: Sequence[str]) -> Html:
    (first, *others), (name, *values) = columns, cells
    return element(
        "tr",
        element("th", name, scope="row", class_=first.kind),
        *(
            element("td", value, class_=column.kind)
            for column, value in zip(others, values, strict=True)
        ),
    )


def bar(parts: Iterable[Part], longest: float) -> Html:
    """A bar of several parts. Its numbers stand beside it, so that nobody has to see it.

    Args:
        parts: from the left.
        longest: the amount that fills the column.
    """
    rects = []
    at = 0.0
    for part in parts:
        width = share(part.amount, longest)
        if width and at < 100:
            width = min(width, 100 - at)
            rects.append(
                element("rect", x=f"{at:.2f}%", width=f"{width:.2f}%", height=10, class_=part.look)
            )
            at += width
    return element("svg", *rects, class_="bar", height=10, aria_hidden="true")


def share(amount: float, whole: float) -> float:
    """Per cent of the whole, within 0 and 100; what is more than nothing can be seen."""
    if amount <= 0 or whole <= 0:
        return 0.0
    return max(THINNEST, min(100.0, 100 * amount / whole))


def swatch(look: str, label: str) -> Html:
    """What a look means."""
    box = element("rect", width=11, height=11, class_=look)
    sample = element("svg", box, width=11, height=11, class_="swatch", aria_hidden="true")
    return element("span", sample, label, class_="legend")
