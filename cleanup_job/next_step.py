"""What to do after a run: one short block, by what the report says (pure)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cleanup_job.report import Report

NAME = "cleanup-job"


class Step(NamedTuple):
    """What to do, and the command for it if there is one."""

    text: str
    command: str = ""


def next_steps(report: Report, words: Sequence[str] | None = None) -> list[Step]:
    """The steps, the most urgent first; none if there is nothing to do.

    Args:
        report: of the run.
        words: its command line, without the name of the program and without secrets; None where
            it is to be left open.
    """
    return [*_steps(report, words)]


def _steps(report: Report, words: Sequence[str] | None) -> Iterator[Step]:
    keys, found = report.keys, report.coordinators
    if report.status == "failed":
        yield Step("report this as a bug, with the report that --json FILE writes")
        return
    if report.status == "refused":
        look = _command(words, drop=("--yes", "-y"), add=("--dry-run", "--show", "20"))
        yield Step("look at more of what would go", look)
        yield Step("if all of it is right, the error above names what overrides the limit")
        return
    if report.dry_run:
        yield from _after_a_dry_run(report, words)
    elif report.status == "partial":
        yield Step("run it again; it goes on where this one ended", _command(words))
    if report.losses:
        yield Step("tell the owners of the coordinators that came back what they have lost")
    reported = any(warning.code == "orphans_reported" for warning in report.warnings)
    if reported and not report.dry_run and report.status == "complete":
        purge = _command(words, add=("--orphans", "purge"))
        yield Step(f"delete what {found.orphaned:,} orphaned coordinators left", purge)
    if found.unreadable and not (keys.failed or keys.unknown):
        yield Step(
            "see why heartbeats could not be read: keys.timestamp of the configuration may not "
            "fit them, or somebody else writes keys of that name"
        )


def _after_a_dry_run(report: Report, words: Sequence[str] | None) -> Iterator[Step]:
    if report.status == "partial":
        yield Step("run it again, since not all was looked at", _command(words))
    elif any(w.message.startswith("a run would be refused") for w in report.warnings):
        yield Step("see why a run would be refused: the warning above names what overrides it")
    elif report.plan is not None:
        execute = _command(words, drop=(*DRY, "--plan"), add=("--plan", report.plan.file))
        yield Step("delete this, and nothing else", execute)
    elif report.keys.planned:
        yield Step("delete them; --journal FILE makes it undoable", _command(words, drop=DRY))


DRY = ("--dry-run",)

WITH_VALUE = ("--plan",)
"""Flags that may be dropped and have a value behind them."""


def _command(words: Sequence[str] | None, drop: Sequence[str] = (), add: Sequence[str] = ()) -> str:
    """The command line without some flags and with others, for a shell."""
    kept: list[str] = []
    dropped = ""
    for word in words or ("run",):
        flag, equals, _ = word.partition("=")
        # argparse takes the beginning of a flag for the whole of it.
        found = next((one for one in drop if flag == one or _is_start(flag, one)), "")
        is_value = dropped in WITH_VALUE and not word.startswith("-")
        if not (found or is_value):
            kept.append(word)
        dropped = "" if equals else found
    missing = not set(add) & set(kept) or not add[0].startswith("--")
    return shlex.join([NAME, *kept, *(add if missing else ())])


def _is_start(flag: str, of: str) -> bool:
    return len(flag) >= len("--pl") and of.startswith(flag)
