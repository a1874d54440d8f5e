"""What became of a journal's keys: the report of `restore` as text and JSON.

The identity `recorded = restored + absent + present + expired + failed + unknown` is checked here,
as `report` does it for a run.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cleanup_job.model import HEARTBEAT, Counts, Problem
from cleanup_job.report import SCHEMA_VERSION, CommandTimes, Target
from cleanup_job.restore import OUTCOMES
from cleanup_job.style import PLAIN, Style
from cleanup_job.text import command_line, problem_line, product_name


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


def to_text(report: RestoreReport, style: Style = PLAIN) -> str:
    """The report for people."""
    target, journal = report.target, report.journal
    what = "dry run of a restore" if report.dry_run else "restore"
    lines = [
        f"{what} on {product_name(target.product)} {target.version} {target.mode}, "
        f"{', '.join(target.nodes)} db {target.db}",
        f"journal       {journal.path}, {journal.bytes:,} bytes"
        + (f", of run {journal.run_id} at {journal.started_at}" if journal.run_id else ""),
    ]
    if report.only is not None:
        lines.append(f"only          {report.only}")
    lines += ["", *_table(report), "", f"time          {report.duration_s:.3f} s"]
    lines += [command_line(name, times) for name, times in report.commands.items()]
    for title, problems in (("warning", report.warnings), ("error", report.errors)):
        lines += [problem_line(title, problem, style) for problem in problems]
    lines += ["", _conclusion(report)]
    return "\n".join(lines) + "\n"


def _table(report: RestoreReport) -> list[str]:
    skipped = "restored" if report.dry_run else "absent"
    columns = ("recorded", *(name for name in OUTCOMES if name != skipped))
    rows = [("keys", *columns)]
    for name, counts in (*report.keys.by_family.items(), ("total", report.keys)):
        rows.append((name, *(f"{getattr(counts, column):,}" for column in columns)))
    first, *others = (max(map(len, cells)) for cells in zip(*rows, strict=True))
    widths = [max(10, width + 2) for width in others]
    return [f"{name:<{first}}" + "".join(map(str.rjust, cells, widths)) for name, *cells in rows]


def _conclusion(report: RestoreReport) -> str:
    keys = report.keys
    if report.status == "failed":
        return "FAILED: the counts do not add up; please report this as a bug"
    did = f"{keys.restored:,} of {keys.recorded:,} recorded keys put back"
    if report.dry_run:
        did = f"{keys.absent:,} of {keys.recorded:,} recorded keys would be put back; nothing was"
    return f"{'PARTIAL' if report.status == 'partial' else 'complete'}: {did}"
