"""The report as text, for people."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence

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

WIDTH = 80

MOST_PARTITIONS = 20
"""A large cluster has hundreds; the JSON report has them all."""


def to_text(
    report: Report,
    style: Style = PLAIN,
    *,
    verbose: bool = False,
    words: Sequence[str] | None = None,
) -> str:
    """The report for people, in at most 80 columns where ids and messages allow.

    Args:
        report: of a run.
        style: for colours.
        verbose: tell of commands, partitions and our own CPU, too.
        words: the command line, for what to do next; see `next_steps`.
    """
    lines = [style(_headline(report), "bold"), ""]
    lines += _coordinator_lines(report)
    if report.plan and not report.dry_run:
        lines += _plan_lines(report.plan)
    lines += ["", *_key_table(report, style)]
    if report.samples:
        lines += ["", *_sample_lines(report.samples)]
    if report.target.mode == "cluster":
        lines += ["", *_node_lines(report.nodes, style)]
    lines += ["", *_cost_lines(report)]
    if verbose:
        lines += [*_client_lines(report), *_command_lines(report), *_partition_lines(report)]
    if report.journal is not None:
        lines += ["", *_journal_lines(report.journal)]
    for title, problems in (("warning", report.warnings), ("error", report.errors)):
        lines += [problem_line(title, problem, style) for problem in problems]
    lines += ["", _conclusion(report, style)]
    lines += [line for step in next_steps(report, words) for line in _step_lines(step, style)]
    return "\n".join(lines) + "\n"


def _headline(report: Report) -> str:
    target = report.target
    what = "dry run" if report.dry_run else "run"
    where = f"{', '.join(target.nodes)} db {target.db}"
    if target.mode == "cluster":
        where = f"{len(target.nodes):,} primaries"
    product = product_name(target.product)
    return f"{what} {report.run_id} on {product} {target.version} {target.mode}, {where}"


def _coordinator_lines(report: Report) -> list[str]:
    found = report.coordinators
    lines = _wrapped(
        f"coordinators  {found.checked:>10,} checked: ",
        [
            f"{found.live:,} live",
            f"{found.stale:,} stale",
            f"{found.unreadable:,} unreadable",
            f"{found.future:,} future",
        ],
    )
    lines.append(f"{found.orphaned:>24,} orphaned (owned keys without any heartbeat)")
    if not report.dry_run:
        lines += _wrapped(
            f"{found.purged:>24,} purged, ",
            [f"{found.revived:,} revived and spared", f"{found.orphans_purged:,} orphans purged"],
        )
    return lines


def _plan_lines(plan: PlanUse) -> list[str]:
    """How much of the plan that is executed still holds."""
    parts = [f"{plan.gone_or_alive:,} alive or gone since", f"{plan.changed:,} changed"]
    return [
        f"by the plan of {plan.created_at}: {plan.due:,} of {plan.coordinators:,} coordinators",
        *_wrapped(f"{'':>25}", parts),
    ]


def _wrapped(head: str, parts: Sequence[str]) -> list[str]:
    """The parts behind their head, on as many lines as they take."""
    lines = [head + parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(", ") + len(part) <= WIDTH:
            lines[-1] += f", {part}"
        else:
            lines[-1] += ","
            lines.append(" " * 25 + part)
    return lines


def _key_table(report: Report, style: Style) -> list[str]:
    columns = ("matched", "planned", *([] if report.dry_run else OUTCOMES))
    rows = [("keys", *columns)]
    for name, counts in (*report.keys.by_family.items(), ("total", report.keys)):
        rows.append((name, *(f"{getattr(counts, column):,}" for column in columns)))
    first, *others = (max(map(len, cells)) for cells in zip(*rows, strict=True))
    # Ten each where that fits, so that reports look alike; else as close as it takes.
    for widths in (
        [max(10, width + 1) for width in others],
        [width + 2 for width in others],
        [width + 1 for width in others],
    ):
        if first + sum(widths) <= WIDTH:
            break
    lines = [f"{name:<{first}}" + "".join(map(str.rjust, cells, widths)) for name, *cells in rows]
    if report.keys.failed or report.keys.unknown:
        lines[-1] = style(lines[-1], "yellow")
    return [style(lines[0], "dim"), *lines[1:]]


def _sample_lines(samples: Sequence[Example]) -> list[str]:
    lines = ["samples"]
    for sample in samples:
        age = "" if sample.age_s is None else f"{sample.age_s:>12,.1f} s"
        lines.append(f"  {sample.verdict:<10} {age:>14}  {sample.id}  ({sample.reason})")
    return lines


def _journal_lines(journal: Written) -> list[str]:
    return [
        f"journal       {journal.keys:,} keys in {journal.records:,} records, "
        f"{_megabytes(journal.bytes)}: {journal.path}",
        f"              cleanup-job restore {shlex.quote(journal.path)} puts them back",
    ]


def _node_lines(nodes: Sequence[NodeUse], style: Style) -> list[str]:
    """A line for each primary of a cluster."""
    head = f"{'node':<32}{'slots':>8}{'keys before':>14}{'after':>12}{'CPU s':>9}"
    lines = [style(head, "dim")]
    lines += [
        f"{node.address:<32}{node.slots:>8,}{node.keys_before:>14,}{node.keys_after:>12,}"
        f"{node.cpu_s:>9.3f}"
        for node in nodes
    ]
    return lines


def _cost_lines(report: Report) -> list[str]:
    """Where the time went, so that "slow" can be answered without a profiler."""
    phases, server, costs = report.phases, report.server, report.costs
    on_server = [
        f"{name} {cost.server_cpu_s:.3f}"
        for name, cost in costs.items()
        if cost.server_cpu_s is not None
    ]
    lines = [
        *_wrapped(
            f"time          {report.duration_s:.3f} s: survey {phases.survey_s:.3f}, ",
            [
                f"judge {phases.judge_s:.3f}",
                f"purge {phases.purge_s:.3f}; workers {report.workers}",
            ],
        ),
        *_wrapped(f"server CPU    {server.cpu_s:.3f} s: ", on_server or ["in all"]),
        *_wrapped(
            f"server        {report.keys.scanned:,} keys scanned, ",
            [
                f"memory {_megabytes(server.used_memory_before)} → "
                f"{_megabytes(server.used_memory_after)}",
            ],
        ),
    ]
    if report.throttle:
        total_s = sum(pause.seconds for pause in report.throttle)
        lines += _wrapped(f"throttle      {total_s:.1f} s: ", [*map(_pause, report.throttle)])
    return lines


def _client_lines(report: Report) -> list[str]:
    in_phases = [f"{name} {cost.client_cpu_s:.3f}" for name, cost in report.costs.items()]
    return _wrapped(f"client CPU    {report.client.cpu_s:.3f} s: ", in_phases or ["in all"])


def _command_lines(report: Report) -> list[str]:
    """What was sent how often, and how long it took."""
    lines = []
    for name, cost in report.costs.items():
        often = {word: times for word, times in cost.commands.items() if times.calls > 1}
        lines += [name] if often else []
        lines += [command_line(word, times) for word, times in often.items()]
    return lines


def _partition_lines(report: Report) -> list[str]:
    """How the keyspace was walked; of very many partitions the slowest."""
    slowest = sorted(report.partitions, key=lambda walk: -walk.seconds)[:MOST_PARTITIONS]
    more = len(report.partitions) - len(slowest)
    lines = ["partitions", *map(_partition_line, slowest)] if slowest else []
    return lines + ([f"  and {more:,} quicker ones"] if more else [])


def _partition_line(walk: PartitionWalk) -> str:
    again = f", {walk.attempts} attempts" if walk.attempts > 1 else ""
    return f"  {walk.node} {walk.range}: {walk.scanned:,} keys in {walk.seconds:.3f} s{again}"


def _pause(pause: Pause) -> str:
    often = f" ({pause.pauses:,} pauses)" if pause.pauses > 1 else ""
    return f"{pause.code} {pause.seconds:.1f} s{often}"


def product_name(product: str) -> str:
    """A product as it calls itself."""
    return {"valkey": "Valkey", "redis": "Redis"}.get(product, product)


def command_line(command: str, times: CommandTimes) -> str:
    """How often a command was called, and how long it took."""
    return (
        f"  {command:<10} {times.calls:>7,} calls   p50 {times.p50_ms:.2f} ms   "
        f"p99 {times.p99_ms:.2f} ms   max {times.max_ms:.2f} ms"
    )


def problem_line(title: str, problem: Problem, style: Style = PLAIN) -> str:
    """A problem with its examples."""
    colour = "red" if title == "error" else "yellow"
    line = f"{style(f'{title}:', colour)} {problem.message} ({problem.count:,})"
    return line + (f"; e.g. {', '.join(problem.samples)}" if problem.samples else "")


def _step_lines(step: Step, style: Style) -> list[str]:
    """A command stands in a line of its own, however long, so that it can be copied."""
    lines = textwrap.wrap(f"next: {step.text}", WIDTH, subsequent_indent=" " * 6)
    return lines + ([" " * 6 + style(step.command, "bold")] if step.command else [])


def _conclusion(report: Report, style: Style) -> str:
    word, rest = _concluded(report)
    colour = "green" if report.status == "complete" else "red"
    return f"{style(word, 'bold', colour)}: {rest}"


def _concluded(report: Report) -> tuple[str, str]:
    """A word and what it means."""
    keys = report.keys
    if report.status == "failed":
        return "FAILED", "the counts do not add up; please report this as a bug"
    if report.status == "refused":
        return "REFUSED", f"{keys.planned:,} keys would be deleted; nothing was"
    if report.status == "partial" and report.dry_run:
        return "PARTIAL", "not all of the keyspace was covered; run again"
    if report.status == "partial":
        done = f"{keys.deleted:,} of {keys.planned:,} planned keys deleted"
        return "PARTIAL", f"{done}; run again"
    if report.dry_run:
        return "complete", f"{keys.planned:,} keys would be deleted; nothing was"
    return "complete", f"{keys.deleted:,} of {keys.planned:,} planned keys deleted"


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"
