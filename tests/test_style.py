"""Colours: where somebody can see them, and never in what a program reads."""

from __future__ import annotations

import io

import pytest

from cleanup_job.style import PLAIN, Style, style_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "when", "environ", "colours"),
    [
        (Terminal(), "auto", {}, True),
        (Terminal(), "auto", {"NO_COLOR": "", "TERM": "xterm"}, True),
        (Terminal(), "auto", {"NO_COLOR": "1"}, False),
        (Terminal(), "auto", {"TERM": "dumb"}, False),
        (Terminal(), "never", {}, False),
        (Terminal(), "always", {"NO_COLOR": "1"}, True),
        (io.StringIO(), "auto", {}, False),
        (io.StringIO(), "always", {}, True),
    ],
)
def test_when(stream: io.StringIO, when: str, environ: dict[str, str], colours: bool) -> None:
    assert style_for(stream, when, environ) == Style(colours)


def test_what() -> None:
    assert Style(True)("x", "bold", "red") == "\x1b[1;31mx\x1b[0m"
    assert Style(True)("", "red") == ""
    assert PLAIN("x", "red") == "x"
