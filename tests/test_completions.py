"""The scripts for shells: as shtab makes them of the parser, and good for a real shell."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from cleanup_job.arguments import SHELLS
from tools import completions


@pytest.mark.parametrize("shell", SHELLS)
def test_is_up_to_date(shell: str) -> None:
    made = (completions.FOLDER / shell).read_text()
    assert made == completions.script(shell), "run python -m tools.completions"


def test_is_what_the_command_prints() -> None:
    words = [sys.executable, "-m", "cleanup_job", "completion", "bash"]
    printed = subprocess.run(words, check=True, capture_output=True, text=True, timeout=30).stdout
    assert printed == (completions.FOLDER / "bash").read_text()


BASH = """
source {script}
COMP_WORDS=(cleanup-job {words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_cleanup_job
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("ru", ["run"]),
        ("run --dry", ["--dry-run"]),
        ("run --html README.m", ["README.md"]),
        ("run --summary c", ["classic"]),
        ("completion z", ["zsh"]),
    ],
)
def test_in_bash(words: str, completed: list[str]) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    script = BASH.format(script=completions.FOLDER / "bash", words=words)
    done = subprocess.run(
        [bash, "--norc", "-c", script], check=True, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.split() == completed
