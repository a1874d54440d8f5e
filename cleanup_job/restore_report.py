"""What became of a journal's keys: the report of `restore` as text and JSON.

The identity `recorded = restored + absent + present + expired + failed + unknown` is checked here,
as `report` does it for a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from cleanup_job.layout import listed, prose
from cleanup_job.measures import counted, duration, size
from cleanup_job.model import HEARTBEAT, Counts, Problem
from cleanup_job.next_step import REPORT_IT, Command, Step
from cleanup_job.report import SCHEMA_VERSION, CommandTimes, Target
from cleanup_job.restore import OUTCOMES
from cleanup_job.style import PLAIN, Style
from cleanup_job.text import (
    command_table,
    labelled,
    outcome_table,
    problem_lines,
    product_name,
    step_lines,
)


class RestoredKeys(msgspec.Struct, frozen=True):
    """recorded = restored + absent + present + expired + failed + unknown.

    `absent` are those that a dry run would put back.
    """

    recorded: int = 0
    restored: int = 0
    absent: int = 0
    present: int = 0
    expired: int = 0
    failed: int = 0
    unknown: int = 0

    @property
    def adds_up(self) -> bool:
        """True if every recorded key ended in exactly one outcome."""
        outcomes: int = sum(getattr(self, name) for name in OUTCOMES)
        return self.recorded == outcomes


class AllRestoredKeys(RestoredKeys, frozen=True):
    """In total and by family."""

    by_family: dict[str, RestoredKeys] = {}


class JournalRead(msgspec.Struct, frozen=True):
    """The journal that was read.

    Attributes:
        ended: the run that wrote it came to its end, and so does the file.
        damage: first byte, and the one behind the last, of each part that could not be read.
    """

    path: str
    bytes: int
    ended: bool
    damage: list[tuple[int, int]]
    run_id: str | None = None
    started_at: str | None = None


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was in a journal and what became of it."""

    schema_version: int = SCHEMA_VERSION
    status: str
    dry_run: bool
    only: str | None
    started_at: str
    duration_s: float
    journal: JournalRead
    target: Target
    keys: AllRestoredKeys
    commands: dict[str, CommandTimes] = {}
    warnings: list[Problem] = []
    errors: list[Problem] = []


def count(recorded: Mapping[str, int], counts: Counts) -> AllRestoredKeys:
    """All counts by family, the heartbeats first, and their sums."""
    names = sorted(recorded, key=lambda name: name != HEARTBEAT)
    families = {
        name: RestoredKeys(recorded=recorded[name], **counts.get(name, {})) for name in names
    }
    sums = {
        column: sum(getattr(family, column) for family in families.values())
        for column in RestoredKeys.__struct_fields__
    }
    return AllRestoredKeys(by_family=families, **sums)


def to_text(
    report: RestoreReport,
    style: Style = PLAIN,
    *,
    verbose: bool = False,
    words: Sequence[str] | None = None,
) -> str:
    """The report for people; the arguments are those of `text.to_text`."""
    blocks = [
        _head_lines(report),
        _table(report, style),
        [f"{'time':<14}{duration(report.duration_s)}"],
        command_table({"restore": report.commands} if verbose else {}, style),
        problem_lines(report.warnings, report.errors, style),
        _conclusion(report, style),
        step_lines(_next_steps(report, Command(words or ("restore", report.journal.path))), style),
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _head_lines(report: RestoreReport) -> list[str]:
    target, journal = report.target, report.journal
    what = "dry run of a restore" if report.dry_run else "restore"
    product = f"{product_name(target.product)} {target.version} {target.mode}"
    lines = prose("", f"{what} on {product}, {', '.join(target.nodes)} db {target.db}")
    of = f"of run {journal.run_id} at {journal.started_at}"
    parts = [journal.path, size(journal.bytes), *([of] if journal.run_id else [])]
    lines += listed(f"{'journal':<14}", parts, 14)
    if report.only is not None:
        lines.append(f"{'only':<14}{report.only}")
    return lines


def _table(report: RestoreReport, style: Style) -> list[str]:
    skipped = "restored" if report.dry_run else "absent"
    columns = ("recorded", *(name for name in OUTCOMES if name != skipped))
    rows = [("keys", *columns)]
    for name, counts in (*report.keys.by_family.items(), ("total", report.keys)):
        rows.append((name, *(f"{getattr(counts, column):,}" for column in columns)))
    return outcome_table(rows, style)


def _conclusion(report: RestoreReport, style: Style) -> list[str]:
    keys = report.keys
    recorded = counted(keys.recorded, "recorded key")
    if report.status == "failed":
        told = "the counts do not add up; please report this as a bug"
        return labelled("FAILED", told, style, "bold", "red")
    done = f"{keys.restored:,} of {recorded} put back"
    if report.dry_run:
        done = f"{keys.absent:,} of {recorded} would be put back; nothing was"
    if report.status == "partial":
        return labelled("PARTIAL", done, style, "bold", "yellow")
    return labelled("complete", done, style, "bold", "green")


def _next_steps(report: RestoreReport, command: Command) -> list[Step]:
    keys = report.keys
    if report.status == "failed":
        return [Step(REPORT_IT)]
    if keys.failed or keys.unknown:
        text = "run it again for what failed or is unknown; what exists stays as it is"
        return [Step(text, command.words)]
    if report.dry_run and keys.absent:
        return [Step("put them back", command.without("--dry-run").words)]
    return []
