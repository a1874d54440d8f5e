"""The report as text, for people."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from cleanup_job.model import OUTCOMES, Problem, Written
from cleanup_job.report import CommandTimes, Example, NodeUse, Pause, PlanUse, Report

WIDTH = 80


def to_text(report: Report) -> str:
    """The report for people, in at most 80 columns where ids and messages allow."""
    lines = [_headline(report), ""]
    lines += _coordinator_lines(report)
    if report.plan and not report.dry_run:
        lines += _plan_lines(report.plan)
    lines += ["", *_key_table(report)]
    if report.samples:
        lines += ["", *_sample_lines(report.samples)]
    if report.target.mode == "cluster":
        lines += ["", *_node_lines(report.nodes)]
    lines += ["", *_cost_lines(report)]
    if report.journal is not None:
        lines += ["", *_journal_lines(report.journal)]
    for title, problems in (("warning", report.warnings), ("error", report.errors)):
        lines += [problem_line(title, problem) for problem in problems]
    lines += ["", _conclusion(report)]
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


def _key_table(report: Report) -> list[str]:
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
    return [f"{name:<{first}}" + "".join(map(str.rjust, cells, widths)) for name, *cells in rows]


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


def _node_lines(nodes: Sequence[NodeUse]) -> list[str]:
    """A line for each primary of a cluster."""
    lines = [f"{'node':<32}{'slots':>8}{'keys before':>14}{'after':>12}{'CPU s':>9}"]
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
    in_phases = [f"{name} {cost.client_cpu_s:.3f}" for name, cost in costs.items()]
    lines = [
        *_wrapped(
            f"time          {report.duration_s:.3f} s: survey {phases.survey_s:.3f}, ",
            [
                f"judge {phases.judge_s:.3f}",
                f"purge {phases.purge_s:.3f}; workers {report.workers}",
            ],
        ),
        *_wrapped(f"server CPU    {server.cpu_s:.3f} s: ", on_server or ["in all"]),
        *_wrapped(f"client CPU    {report.client.cpu_s:.3f} s: ", in_phases or ["in all"]),
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
    for name, cost in costs.items():
        often = {word: times for word, times in cost.commands.items() if times.calls > 1}
        lines += [name] if often else []
        lines += [command_line(word, times) for word, times in often.items()]
    return lines


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


def problem_line(title: str, problem: Problem) -> str:
    """A problem with its examples."""
    line = f"{title}: {problem.message} ({problem.count:,})"
    return line + (f"; e.g. {', '.join(problem.samples)}" if problem.samples else "")


def _conclusion(report: Report) -> str:
    keys = report.keys
    if report.status == "failed":
        return "FAILED: the counts do not add up; please report this as a bug"
    if report.status == "refused":
        return f"REFUSED: {keys.planned:,} keys would be deleted; nothing was"
    if report.status == "partial" and report.dry_run:
        return "PARTIAL: not all of the keyspace was covered; run again"
    if report.status == "partial":
        return f"PARTIAL: {keys.deleted:,} of {keys.planned:,} planned keys deleted; run again"
    if report.dry_run:
        return f"complete: {keys.planned:,} keys would be deleted; nothing was"
    return f"complete: {keys.deleted:,} of {keys.planned:,} planned keys deleted"


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"
