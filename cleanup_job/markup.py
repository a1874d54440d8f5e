"""HTML that is made of values: text is escaped when it becomes part of an element (pure).

Invariants:
- What is `Html` was written by us. Any other string that is put into an element is text, and goes
  through `text`, the only function that escapes. Where the two are mixed up by mistake, markup
  shows as text; text never becomes markup.
- A character that does not print shows as its escape: control characters, marks that reverse the
  direction of what follows, invisible ones, halves of surrogate pairs.
- A text has an end, however long it is.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

MOST_CHARACTERS = 500
"""Of one text. Reports cut ids at 120 bytes, but a report may have been written by anybody."""

_VOID = frozenset({"meta", "br", "col"})


class Html(str):
    """Markup that we have written. A str that is none is text."""

    __slots__ = ()


def text(value: str) -> Html:
    """Any text, to be read as text within an element or an attribute."""
    shown = value[:MOST_CHARACTERS]
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else _escaped(char) for char in shown)
    if len(value) > MOST_CHARACTERS:
        shown += f"… ({len(value):,} characters)"
    return Html(html.escape(shown))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def element(name: str, *children: str | None, **attributes: str | float | None) -> Html:
    """One element.

    Args:
        name: of the tag.
        children: markup as it is, and text, which is escaped; None is nothing.
        attributes: `class_` is the attribute `class`, `aria_label` is `aria-label`. None: it has
            no such attribute.
    """
    named = (
        f' {attribute.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for attribute, value in attributes.items()
        if value is not None
    )
    opening = f"<{name}{''.join(named)}>"
    return Html(opening if name in _VOID else f"{opening}{together(*children)}</{name}>")


def _value(value: str | float) -> Html:
    return value if isinstance(value, Html) else text(str(value))


def together(*parts: str | None) -> Html:
    """Markup and text, one behind the other."""
    return Html("".join(p if isinstance(p, Html) else text(p) for p in parts if p is not None))


def listed(parts: Iterable[str], between: str = ", ") -> Html:
    """Markup and text with something between them."""
    separated: list[str] = []
    for part in parts:
        separated += [between, part] if separated else [part]
    return together(*separated)


def foreign(value: str) -> Html:
    """What others have named: ids, addresses, files. It is told from our words around it.

    Its direction is its own, and does not reach beyond it.
    """
    if not value.strip(" "):
        value = value.replace(" ", r"\x20") or "(empty)"
    return element("bdi", value, class_="id")
