"""Colour, where it helps and where somebody can see it.

A word gets its colour after it was laid out, so that columns are the same without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

import msgspec

WHEN = ("auto", "always", "never")

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class Style(msgspec.Struct, frozen=True):
    """Puts text in colour, or leaves it as it is."""

    colours: bool = False

    def __call__(self, text: str, *names: str) -> str:
        """The text in these colours: bold, dim, red, green or yellow."""
        if not self.colours or not text:
            return text
        return f"\x1b[{';'.join(_CODES[name] for name in names)}m{text}\x1b[0m"


PLAIN = Style()


def style_for(stream: TextIO, when: str, environ: Mapping[str, str]) -> Style:
    """How to write to a stream.

    Args:
        stream: where it goes.
        when: always, never, or auto: on a terminal that has colours, unless NO_COLOR is set
            (https://no-color.org) or TERM is dumb.
        environ: the environment.
    """
    if when != "auto":
        return Style(when == "always")
    unwanted = environ.get("NO_COLOR") or environ.get("TERM") == "dumb"
    return Style(not unwanted and stream.isatty())
