"""Lines of 80 columns, and commands that a shell reads as they were meant."""

from __future__ import annotations

import shlex
import subprocess

from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.layout import WIDTH, command, listed, prose, table

cells = st.text("abc 1", min_size=1, max_size=30)


@given(
    st.integers(1, 9).flatmap(
        lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1)
    )
)
def test_no_table_is_too_wide_and_no_cell_is_lost(rows: list[list[str]]) -> None:
    lines = table(rows)
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) % len(rows) == 0
    for number, row in enumerate(rows):
        shown = "".join(lines[number :: len(rows)])
        assert all(cell in shown for cell in row[1:])


@given(st.lists(st.text("abc", min_size=1, max_size=40), min_size=1))
def test_lists_and_prose_lose_nothing(words: list[str]) -> None:
    for lines, text in (
        (listed("head ", words, 4), ", ".join(words)),
        (prose("head ", " ".join(words), 4), " ".join(words)),
    ):
        assert max(map(len, lines)) <= WIDTH
        assert " ".join(line.strip() for line in lines) == f"head {text}"


plain = st.text(st.characters(exclude_characters="\x00\n\\"), max_size=40)


@given(st.lists(plain, min_size=1))
def test_a_command_is_read_as_it_was_meant(words: list[str]) -> None:
    # Python's shlex does not know that a line ends in the middle of a command.
    assert shlex.split("\n".join(command(words, 4)).replace("\\\n", "")) == words


def test_a_command_in_a_shell_ends_its_lines_between_flags() -> None:
    flags = [(f"--flag-{n}", f"a $value, {n}'") for n in range(6)]
    words = ["printf", "%s\n", *(word for flag in flags for word in flag)]
    lines = command(words, 4)
    assert len(lines) > 2
    assert max(map(len, lines)) <= WIDTH
    assert all(line.strip().startswith("--flag") for line in lines[1:])
    done = subprocess.run(["/bin/sh", "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.stdout.splitlines() == words[2:]
