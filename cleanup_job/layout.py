"""Lines of 80 columns: tables, lists and prose (pure).

Every number fits, however long it is: a table that is too wide is cut into several, one below the
other. What can't be broken is one word, such as a long id or a path: it stands alone on its line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence

WIDTH = 80

Row = Sequence[str]

Paint = Callable[[int, str, str], str]
"""Given the number of the row, the name of the column and the padded text of a cell."""


def _as_it_is(_row: int, _column: str, text: str) -> str:
    return text


def table(rows: Sequence[Row], paint: Paint = _as_it_is) -> list[str]:
    """Rows, of which the first are the headings: the first column to the left, others right.

    Ten columns each where that fits, so that reports look alike; else as close as it takes; else
    several tables, with the first column in each.
    """
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    first = min(widths[0], WIDTH - max(widths[1:], default=0) - 1)
    lines: list[str] = []
    for columns, padded in _fitting(first, widths):
        for number, row in enumerate(rows):
            cells = [paint(number, rows[0][0], f"{clipped(row[0], first):<{first}}")]
            cells += [
                paint(number, rows[0][column], f"{row[column]:>{width}}")
                for column, width in zip(columns, padded, strict=True)
            ]
            lines.append("".join(cells))
    return lines


def _fitting(first: int, widths: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Which columns stand in each table, and how wide they are."""
    others = widths[1:]
    for padded in (
        [max(10, width + 2) for width in others],
        [width + 2 for width in others],
        [width + 1 for width in others],
    ):
        if first + sum(padded) <= WIDTH:
            yield [*range(1, len(widths))], padded
            return
    columns: list[int] = []
    padded = []
    for column, width in enumerate(others, 1):
        if columns and first + sum(padded) + width + 1 > WIDTH:
            yield columns, padded
            columns, padded = [], []
        columns.append(column)
        padded.append(width + 1)
    yield columns, padded


def clipped(text: str, width: int) -> str:
    """The text, cut where it is too long."""
    return text if len(text) <= width else text[: width - 1] + "…"


def listed(head: str, parts: Sequence[str], indent: int) -> list[str]:
    """Parts behind their head, with commas, on as many lines as they take."""
    if not parts:
        return [head.rstrip()]
    words = [*(f"{part}," for part in parts[:-1]), parts[-1]]
    return _filled(head, words, " " * indent)


def prose(head: str, text: str, indent: int = 2) -> list[str]:
    """Words behind their head; nothing is broken but between words."""
    return _filled(head, [word for word in re.split(r"[ \t\n\r]", text) if word], " " * indent)


def command(words: Sequence[str], indent: int) -> list[str]:
    r"""A command as a shell takes it, on several lines with a \ where it is long."""
    lines = [" " * indent]
    margin = " " * (indent + 2)
    for group in _with_values(words):
        text = " ".join(map(shlex.quote, group))
        if lines[-1].strip() and len(lines[-1]) + len(text) + len(" \\") >= WIDTH:
            lines[-1] += " \\"
            lines.append(margin)
        lines[-1] += text if not lines[-1].strip() else f" {text}"
    return lines


def _with_values(words: Sequence[str]) -> Iterator[list[str]]:
    """Flags, each with its value if it has one, so that a line does not end between them."""
    group: list[str] = []
    for word in words:
        if group and (word.startswith("-") or not group[-1].startswith("--")):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _filled(head: str, words: Sequence[str], margin: str) -> list[str]:
    lines = [head]
    for word in words:
        gap = "" if lines[-1].endswith(" ") or not lines[-1] else " "
        if lines[-1].strip() and len(lines[-1]) + len(gap) + len(word) > WIDTH:
            lines[-1] = lines[-1].rstrip()
            lines.append(margin)
            gap = ""
        lines[-1] += gap + word
    return lines
