"""Tables with bars in them: for eyes, for screen readers, and bounded in length (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cleanup_job import figures
from cleanup_job.markup import Html, element, together

MOST_ROWS = 50
"""Of one table, or a group in it, if nothing else is said."""

THINNEST = 0.6
"""Per cent: what is more than nothing can be seen."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        head: what it says at the top.
        kind: `text`; `words`, more of it; `number`, to the right; `bar`; or `id`, which may break
            anywhere.
    """

    head: str
    kind: str = "text"


class Part(NamedTuple):
    """A part of a bar: how much it stands for, and how it looks."""

    amount: float
    look: str


class Group(NamedTuple):
    """Rows that belong together, under a heading of their own if there is one."""

    heading: str | None
    rows: Sequence[Sequence[str]]


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]] = (),
    *,
    groups: Iterable[Group] = (),
    total: Sequence[str] = (),
    note: str | None = None,
    look: str | None = None,
    most: int = MOST_ROWS,
) -> Html:
    """A table whose first column names its rows.

    It scrolls within itself where it is too wide, by keyboard as well.

    Args:
        caption: what it is about; its accessible name too.
        columns: as many as each row has cells.
        rows: those beyond `most` are only counted.
        groups: the same, in several parts.
        total: a last row.
        note: a remark in its caption.
        look: a class of its own.
        most: rows of a group to show.
    """
    content = element(
        "table",
        element("caption", caption, element("span", note) if note else None),
        element("thead", element("tr", *map(_head, columns))),
        *(_body(columns, group, most) for group in [Group(None, [*rows]), *groups] if group.rows),
        element("tfoot", _row(columns, total)) if total else None,
        class_=look,
    )
    return element("div", content, class_="scroll", role="region", tabindex=0, aria_label=caption)


def _body(columns: Sequence[Column], group: Group, most: int) -> Html:
    heading = None
    if group.heading is not None:
        cell = element("th", group.heading, scope="rowgroup", colspan=len(columns))
        heading = element("tr", cell, class_="group")
    left = len(group.rows) - most
    more = None
    if left > 0:
        words = together("and ", figures.count(left), " more")
        more = element("tr", element("td", words, colspan=len(columns), class_="more"))
    rows = (_row(columns, cells) for cells in group.rows[:most])
    return element("tbody", heading, *rows, more)


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
