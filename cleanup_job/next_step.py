"""What to do after a run: a few steps, by what the report says (pure).

Each has its command where there is one, to be copied as it is: the one that was given, with what is
to change in it, quoted for a shell. What the environment holds is not repeated, and a password is
left out, which REDIS_PASSWORD can give. What overrides a refusal is taken from its message, so that
it stands in one place.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cleanup_job.brakes import CLOCK_SKEW
from cleanup_job.config import without_password
from cleanup_job.measures import counted
from cleanup_job.model import Problem
from cleanup_job.report import Report

REPORT_IT = "report this as a bug, with what --json FILE writes"

MOST_STEPS = 3
"""More than that is no advice."""

LOOK_AT = "20"
"""Samples of each verdict, for somebody who wants to see more of them."""

_OVERRIDE = re.compile(r"\bgive (--[a-z-]+)(?: ([0-9.]+))?")

_WHERE = ("-c", "--config", "--profile", "--url", "--ca-file")
"""Flags that say where the server is; all of them take a value."""

_ENDED_BY = {
    "time_budget": "the time budget ended the run",
    "lease_lost": "the lease was lost, and that ended the run",
}
"""What ended a run, by the code of `Report.stopped_by`; all others are signals."""

_WOULD_REFUSE = "a run would be refused: "
"""How the warnings of a dry run begin that tell what a run would refuse: see `remarks`."""


def next_steps(report: Report, words: Sequence[str] | None = None) -> list[Step]:
    """The steps, the most urgent first; none if there is nothing to do.

    Args:
        report: of the run.
        words: its command line, without the name of the program; None where it is not known.
    """
    command = Command(words or ("run",))
    steps = [*_losses(report, command)]
    if report.status == "failed":
        steps.append(Step(REPORT_IT))
    elif report.status == "refused":
        steps += _refused(report.errors, command)
    elif report.status == "partial":
        steps.append(_once_more(report, command))
    else:
        steps += _complete(report, command)
    return steps[:MOST_STEPS]


class Step(NamedTuple):
    """What to do, and the words of the command for it if there is one."""

    text: str
    words: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command in one line, as a shell takes it."""
        return shlex.join(self.words)


class Command:
    """The words of a command, and what can be changed in them."""

    def __init__(self, words: Sequence[str]) -> None:
        """Begin with these words, of which the first is `run` or `restore`."""
        self._given = [*words]

    @property
    def words(self) -> tuple[str, ...]:
        """All of them, without secrets."""
        return ("cleanup-job", *_without_secrets(self._given))

    def has(self, flag: str) -> bool:
        """Whether a flag is among them."""
        return any(word == flag or word.startswith(f"{flag}=") for word in self._given)

    def without(self, flag: str) -> Command:
        """Without a flag that takes no value."""
        return Command([word for word in self._given if word != flag])

    def having(self, flag: str, value: str | None = None) -> Command:
        """With a flag, in place of the same one with another value."""
        if value is None:
            return Command([*(word for word in self._given if word != flag), flag])
        words = [word for word in self._given if not word.startswith(f"{flag}=")]
        while flag in words:
            at = words.index(flag)
            del words[at : at + 2]
        return Command([*words, flag, value])

    def where(self) -> list[str]:
        """The flags that say where the server is."""
        found: list[str] = []
        for number, word in enumerate(self._given):
            if word in _WHERE:
                found += self._given[number : number + 2]
            elif word.startswith(tuple(f"{flag}=" for flag in _WHERE)):
                found.append(word)
        return found


def _without_secrets(words: Sequence[str]) -> Iterator[str]:
    before = ""
    for word in words:
        if before == "--url":
            yield _bare(word)
        elif word.startswith("--url="):
            yield "--url=" + _bare(word.removeprefix("--url="))
        else:
            yield word
        before = word


def _bare(url: str) -> str:
    """A URL that can be given again; without its password, or where that is in doubt, no URL."""
    bare = without_password(url).replace(":***@", "@", 1).replace("://@", "://", 1)
    return "URL" if "***" in bare else bare


def _losses(report: Report, command: Command) -> Iterator[Step]:
    if not report.losses:
        return
    who = f"{counted(len(report.losses), 'coordinator')} came back when keys were gone already"
    if report.journal is None:
        yield Step(f"{who}: look after them; --json FILE names them all, under losses")
        return
    name = report.losses[0].id
    # The report has ids as text. One that needed escapes can't be given back.
    is_plain = len(report.losses) == 1 and name.isascii() and "\\" not in name
    words = ["restore", report.journal.path, "--only", name if is_plain else "ID"]
    words += command.where()
    yield Step(f"{who}; put them back", Command(words).words)


def _refused(problems: Sequence[Problem], command: Command) -> Iterator[Step]:
    overridden = _overridden(problems, command)
    look = command.without("--yes").without("-y").having("--dry-run").having("--show", LOOK_AT)
    yield Step("look at more of what would go", look.words)
    if overridden is not None:
        skewed = any(problem.code == CLOCK_SKEW for problem in problems)
        first = "set the clocks right; or" if skewed else "if that is right,"
        yield Step(f"{first} override it", overridden.words)


def _overridden(problems: Sequence[Problem], command: Command) -> Command | None:
    """The command with all that overrides these refusals; None if one can't be overridden."""
    if not problems:
        return None
    for problem in problems:
        found = _OVERRIDE.search(problem.message)
        if not found:
            return None
        command = command.having(found[1], found[2])
    return command


def _again(report: Report, command: Command) -> Command:
    """The same once more, with another journal: a file that is there is never written again."""
    if report.journal is None:
        return command
    folder = report.journal.path.rpartition("/")[0]
    return command.having("--journal", f"{folder or '.'}/")


def _once_more(report: Report, command: Command) -> Step:
    if report.stopped_by == "time_budget" and not (report.keys.deleted or report.dry_run):
        # The same again would end at the same place.
        return Step(
            "give it more time, or less to rest: the time budget ended it before any delete"
        )
    return Step(_why_again(report), _again(report, command).words)


def _why_again(report: Report) -> str:
    keys = report.keys
    if report.stopped_by == "stop_file":
        return "remove the stop file, then go on where it ended this run"
    if report.stopped_by is not None:
        return f"{_ENDED_BY.get(report.stopped_by, 'the run was stopped')}; go on where it ended"
    reasons = []
    if keys.failed:
        reasons.append(f"{counted(keys.failed, 'key')} could not be deleted")
    if keys.unknown:
        reasons.append(f"of {counted(keys.unknown, 'key')} it is unknown who deleted them")
    if not reasons:
        reasons.append("see the errors" if report.errors else "not all of it was covered")
    return f"run it again: {', '.join(reasons)}"


def _complete(report: Report, command: Command) -> Iterator[Step]:
    if report.dry_run:
        yield from _after_dry_run(report, command)
    if report.journal is not None:
        words = ["restore", report.journal.path, *command.where()]
        yield Step("undo it, if that was wrong", Command(words).words)
    found, codes = report.coordinators, {problem.code for problem in report.warnings}
    if "orphans_reported" in codes:
        orphans = counted(found.orphaned, "orphan")
        text = f"{orphans} only reported; {'count' if report.dry_run else 'delete'} their keys too"
        yield Step(text, command.having("--orphans", "purge").words)
    unclear = found.unreadable + found.future
    if unclear:
        shown = sum(sample.verdict in ("unreadable", "future") for sample in report.samples)
        text = (
            f"{counted(unclear, 'heartbeat')} not understood, and kept: if keys.timestamp of the "
        )
        text += "configuration does not fit them, set it right"
        if shown >= unclear:
            yield Step(f"{text}; the samples above say what is wrong")
        else:
            look = command.having("--dry-run").having("--show", LOOK_AT)
            yield Step(f"{text}; see what is wrong", look.words)


def _after_dry_run(report: Report, command: Command) -> Iterator[Step]:
    run = command.without("--dry-run")
    refused = [p for p in report.warnings if p.message.startswith(_WOULD_REFUSE)]
    if not report.keys.planned or (command.has("--plan") and report.plan is None):
        return  # nothing is to go, or the plan could not be written, as the message says
    if refused:
        overridden = _overridden(refused, run)
        if overridden is None:
            yield Step("see why a run would be refused, in the warnings above")
        else:
            yield Step("a run would be refused; if all is right, override that", overridden.words)
    elif report.plan is not None:
        yield Step("delete this, and nothing else", run.words)
    else:
        undoable = "" if command.has("--journal") else "; --journal FILE makes it undoable"
        yield Step(f"delete them{undoable}", run.words)
