"""The report as text, for people (pure).

What everybody wants to know comes first and last: the counts, what became of them, and what to do
next. What explains how it came about (`verbose`) is what to ask for when something seems odd.

Every line fits 80 columns, whatever the numbers are; a single word that does not, such as an id or
a path, has a line of its own. With and without colour the text is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cleanup_job.layout import command, listed, prose, table
from cleanup_job.measures import counted, duration, size
from cleanup_job.model import OUTCOMES, Problem, Written
from cleanup_job.next_step import Step, next_steps
from cleanup_job.report import (
    CommandTimes,
    Example,
    NodeUse,
    PartitionWalk,
    Pause,
    PlanUse,
    Report,
)
from cleanup_job.style import PLAIN, Style

MOST_PARTITIONS = 32
"""How many lines they may take; a large cluster has hundreds, and the JSON has them all."""

_LABEL = 14
"""Width of the labels on the left."""

_BAD = ("failed", "unknown")


def to_text(
    report: Report,
    style: Style = PLAIN,
    *,
    verbose: bool = False,
    words: Sequence[str] | None = None,
) -> str:
    """The report for people.

    Args:
        report: what to tell.
        style: how to paint it.
        verbose: with what each command took, each partition, and the reason of each sample.
        words: the command line, for what to do next: see `next_steps`.
    """
    blocks = [
        _headline(report),
        [*_coordinator_lines(report), *_plan_lines(report)],
        _key_table(report, style),
        _sample_lines(report.samples, style, verbose=verbose),
        _node_lines(report.nodes, style) if report.target.mode == "cluster" else [],
        _cost_lines(report, verbose=verbose),
        _partition_lines(report.partitions, style) if verbose else [],
        command_table(
            {name: cost.commands for name, cost in report.costs.items()} if verbose else {}, style
        ),
        [] if report.journal is None else _journal_lines(report.journal),
        problem_lines(report.warnings, report.errors, style),
        _conclusion(report, style),
        step_lines(next_steps(report, words), style),
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _headline(report: Report) -> list[str]:
    target = report.target
    what = "dry run" if report.dry_run else "run"
    product = f"{product_name(target.product)} {target.version} {target.mode}"
    where = f"{', '.join(target.nodes)} db {target.db}"
    if target.mode == "cluster":
        where = f"{len(target.nodes):,} primaries"
    return prose("", f"{what} {report.run_id} on {product}, {where}")


def _coordinator_lines(report: Report) -> list[str]:
    found = report.coordinators
    lines = listed(
        f"{'coordinators':<{_LABEL}}{found.checked:>10,} checked: ",
        [
            f"{found.live:,} live",
            f"{found.stale:,} stale",
            f"{found.unreadable:,} unreadable",
            f"{found.future:,} future",
        ],
        _LABEL + 11,
    )
    lines.append(f"{found.orphaned:>24,} orphaned (owned keys without any heartbeat)")
    if not report.dry_run:
        lines += listed(
            f"{found.purged:>24,} purged, ",
            [f"{found.revived:,} revived and spared", f"{found.orphans_purged:,} orphans purged"],
            _LABEL + 11,
        )
    return lines


def _plan_lines(report: Report) -> list[str]:
    """How much of the plan that is executed still holds."""
    plan: PlanUse | None = report.plan
    if plan is None or report.dry_run:
        return []
    due = f"by the plan of {plan.created_at}: {plan.due:,} of {plan.coordinators:,} coordinators"
    parts = [f"{plan.gone_or_alive:,} alive or gone since", f"{plan.changed:,} changed"]
    return [*prose("", due, _LABEL), *listed(" " * (_LABEL + 11), parts, _LABEL + 11)]


def _key_table(report: Report, style: Style) -> list[str]:
    columns = ("matched", "planned", *([] if report.dry_run else OUTCOMES))
    rows = [("keys", *columns)]
    for name, counts in (*report.keys.by_family.items(), ("total", report.keys)):
        rows.append((name, *(f"{getattr(counts, column):,}" for column in columns)))
    return outcome_table(rows, style)


def outcome_table(rows: Sequence[Sequence[str]], style: Style) -> list[str]:
    """What became of keys, by family: what failed, or is unknown, can be seen from afar."""

    def paint(row: int, column: str, cell: str) -> str:
        if row == 0:
            return style(cell, "dim")
        return style(cell, "red") if column in _BAD and cell.strip() != "0" else cell

    return table(rows, paint)


def _plain_table(rows: Sequence[Sequence[str]], style: Style) -> list[str]:
    return table(rows, lambda row, _, cell: style(cell, "dim") if row == 0 else cell)


def _sample_lines(samples: Sequence[Example], style: Style, *, verbose: bool) -> list[str]:
    """Some of each verdict. Of a stale one the age says why."""
    if not samples:
        return []
    lines = [style("samples", "dim")]
    for sample in samples:
        age = "" if sample.age_s is None else duration(sample.age_s)
        line = f"  {sample.verdict:<10} {age:>14}  {sample.id}"
        reason = f"({sample.reason})" if verbose or sample.verdict != "stale" else ""
        lines += prose(line, reason, 29)
    return lines


def _journal_lines(journal: Written) -> list[str]:
    written = f"{counted(journal.keys, 'key')} in {counted(journal.records, 'record')}"
    return prose(
        f"{'journal':<{_LABEL}}", f"{written}, {size(journal.bytes)}: {journal.path}", _LABEL
    )


def _node_lines(nodes: Sequence[NodeUse], style: Style) -> list[str]:
    """A line for each primary of a cluster."""
    rows = [("node", "slots", "keys before", "after", "server CPU")]
    rows += [
        (
            node.address,
            f"{node.slots:,}",
            f"{node.keys_before:,}",
            f"{node.keys_after:,}",
            duration(node.cpu_s),
        )
        for node in nodes
    ]
    return _plain_table(rows, style)


def _partition_lines(partitions: Sequence[PartitionWalk], style: Style) -> list[str]:
    rows = [("partition", "keys scanned", "time", "attempts")]
    rows += [
        (
            f"{walk.node} {walk.range}",
            f"{walk.scanned:,}",
            duration(walk.seconds),
            f"{walk.attempts:,}",
        )
        for walk in partitions[:MOST_PARTITIONS]
    ]
    more = len(partitions) - MOST_PARTITIONS
    return [*_plain_table(rows, style), *([f"and {more:,} more"] if more > 0 else [])]


def _cost_lines(report: Report, *, verbose: bool) -> list[str]:
    """Where the time went, so that "slow" can be answered without a profiler."""
    phases, server, costs = report.phases, report.server, report.costs
    on_server = [
        f"{name} {duration(cost.server_cpu_s)}"
        for name, cost in costs.items()
        if cost.server_cpu_s is not None
    ]
    in_phases = [f"{name} {duration(cost.client_cpu_s)}" for name, cost in costs.items()]
    lines = _entry(
        "time",
        f"{duration(report.duration_s)}: ",
        [
            f"survey {duration(phases.survey_s)}",
            f"judge {duration(phases.judge_s)}",
            f"purge {duration(phases.purge_s)}; {counted(report.workers, 'worker')}",
        ],
    )
    lines += _entry("server CPU", f"{duration(server.cpu_s)}: ", on_server or ["in all"])
    if verbose:
        used = f"{duration(report.client.cpu_s)}: "
        lines += _entry("client CPU", used, in_phases or ["in all"])
    lines += _entry(
        "server",
        f"{report.keys.scanned:,} keys scanned, ",
        [f"memory {size(server.used_memory_before)} → {size(server.used_memory_after)}"],
    )
    if report.throttle:
        total_s = sum(pause.seconds for pause in report.throttle)
        lines += _entry("throttle", f"{duration(total_s)}: ", [*map(_pause, report.throttle)])
    return lines


def _entry(label: str, head: str, parts: Sequence[str]) -> list[str]:
    return listed(f"{label:<{_LABEL}}{head}", parts, _LABEL)


def _pause(pause: Pause) -> str:
    often = f" ({pause.pauses:,} pauses)" if pause.pauses > 1 else ""
    return f"{pause.code} {duration(pause.seconds)}{often}"


def product_name(product: str) -> str:
    """A product as it calls itself."""
    return {"valkey": "Valkey", "redis": "Redis"}.get(product, product)


def command_table(
    commands: Mapping[str, Mapping[str, CommandTimes]], style: Style = PLAIN
) -> list[str]:
    """How often each command was called in a phase, and how long it took."""
    rows = [("command", "calls", "p50", "p99", "max")]
    for phase, often in commands.items():
        if often:
            rows.append((phase, "", "", "", ""))
        rows += [
            (
                f"  {name}",
                f"{times.calls:,}",
                duration(times.p50_ms / 1000),
                duration(times.p99_ms / 1000),
                duration(times.max_ms / 1000),
            )
            for name, times in often.items()
        ]
    return _plain_table(rows, style) if len(rows) > 1 else []


def problem_lines(
    warnings: Sequence[Problem], errors: Sequence[Problem], style: Style = PLAIN
) -> list[str]:
    """Each problem with how many there are, and examples."""
    return [
        line
        for title, colour, problems in (
            ("warning", "yellow", warnings),
            ("error", "red", errors),
        )
        for problem in problems
        for line in labelled(title, _told(problem), style, colour)
    ]


def labelled(label: str, text: str, style: Style, *colours: str) -> list[str]:
    """A text behind its label, of which only the label is painted."""
    first, *more = prose("", f"{label}: {text}")
    return [style(label, *colours) + first[len(label) :], *more]


def _told(problem: Problem) -> str:
    samples = f"; e.g. {', '.join(problem.samples)}" if problem.samples else ""
    return f"{problem.message} ({problem.count:,}){samples}"


def step_lines(steps: Sequence[Step], style: Style = PLAIN) -> list[str]:
    """What to do next, with commands that can be copied as they are."""
    if not steps:
        return []
    lines = [style("next", "bold")]
    for step in steps:
        lines += prose("  ", f"{step.text}:" if step.words else step.text)
        if step.words:
            lines += command(step.words, 4)
    return lines


def _conclusion(report: Report, style: Style) -> list[str]:
    """What became of it: the one line to read if there is time for one."""
    keys = report.keys
    done = f"{keys.deleted:,} of {counted(keys.planned, 'planned key')} deleted"
    would = f"{counted(keys.planned, 'key')} would be deleted; nothing was"
    if report.status == "failed":
        told = "the counts do not add up; please report this as a bug"
        return labelled("FAILED", told, style, "bold", "red")
    if report.status == "refused":
        return labelled("REFUSED", would, style, "bold", "red")
    if report.status == "partial" and report.dry_run:
        told = "not all of the keyspace was covered; run again"
        return labelled("PARTIAL", told, style, "bold", "yellow")
    if report.status == "partial":
        return labelled("PARTIAL", f"{done}; run again", style, "bold", "yellow")
    return labelled("complete", would if report.dry_run else done, style, "bold", "green")
