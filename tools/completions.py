"""Make the scripts that complete our command line in a shell.

    python -m tools.completions

writes them into the package, so that who installs it needs no shtab.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab

from cleanup_job.arguments import SHELLS, make_parser

FOLDER = Path(__file__).parent.parent / "cleanup_job" / "completions"


def script(shell: str) -> str:
    """The script for one shell."""
    parser = make_parser()
    _complete_files(parser)
    text: str = shtab.complete(parser, shell)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _complete_files(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command)
        elif action.metavar in ("FILE", "REPORT"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def main() -> None:
    """Write them all."""
    for shell in SHELLS:
        (FOLDER / shell).write_text(script(shell))


if __name__ == "__main__":
    main()
