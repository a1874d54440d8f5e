"""The sections of the page: each is a heading and what there is to say, or nothing (pure)."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cleanup_job import charts, figures
from cleanup_job.markup import Html, element, foreign, listed, text, together
from cleanup_job.model import OUTCOMES, Problem, Written
from cleanup_job.report import (
    AgeBand,
    Example,
    FamilyKeys,
    Keys,
    NodeUse,
    PartitionWalk,
    PlanUse,
    Report,
)
from cleanup_job.tables import MOST_ROWS, Column, Group, Part, bar, swatch, table

MOST_BARS = 64
"""Of primaries, partitions and families; what is beyond is shown together."""

MOST_SETTINGS = 200
MOST_ITEMS = 10
"""Of the configuration, and of one list in it."""

_MOST_NAMED = 4
"""Samples of one problem, and ranges of one primary."""

_KINDS = {
    "unreadable": "Unreadable: kept, since nobody can say how old they are",
    "future": "In the future: kept, since a clock is wrong",
    "revived": "Revived: stale when judged, alive when their turn came; kept",
    "spared": "Spared: changed after they were judged; kept",
    "stale": "Stale: the oldest",
    "orphaned": "Orphaned: keys without any heartbeat",
}
"""Of samples, in the order in which somebody should look at them."""


def section(name: str, heading: str, *parts: Html | None) -> Html | None:
    """A section; nothing, if nothing is in it."""
    if not any(parts):
        return None
    head = element("h2", heading, id=name)
    return element("section", head, *parts, aria_labelledby=name)


def problems(report: Report) -> Html | None:
    """Errors and warnings."""
    parts = [
        element("li", _problem(tone, problem), class_=tone)
        for tone, found in (("error", report.errors), ("warning", report.warnings))
        for problem in found[:MOST_ROWS]
    ]
    more = sum(max(0, len(found) - MOST_ROWS) for found in (report.errors, report.warnings))
    if more:
        parts.append(element("li", "and ", figures.count(more), " more"))
    content = element("ul", *parts, class_="problems") if parts else None
    return section("problems", "Errors and warnings", content)


def _problem(tone: str, problem: Problem) -> Html:
    samples = [foreign(sample) for sample in problem.samples[:_MOST_NAMED]]
    return together(
        element("strong", "Error" if tone == "error" else "Warning"),
        " ",
        foreign(problem.message),
        element("span", " × ", figures.count(problem.count), class_="quiet"),
        element("div", "for example ", listed(samples), class_="quiet") if samples else None,
    )


def coordinators(report: Report) -> Html | None:
    """Who was found, what became of them, and how old the stale ones were."""
    if not report.coordinators.checked and not report.coordinators.orphaned:
        return None
    found, ages = _found(report), _ages(report.ages)
    both = element("div", found, ages, class_="pair") if ages else found
    return section("coordinators", "Coordinators", both)


def _found(report: Report) -> Html:
    found = report.coordinators
    none = text("")
    # Of what was found, what became of it: purged, revived.
    rows = [
        ("live", found.live, none, none),
        ("stale", found.stale, _quiet_zero(found.purged), _quiet_zero(found.revived)),
        ("orphaned", found.orphaned, _quiet_zero(found.orphans_purged), none),
        ("unreadable", found.unreadable, none, none),
        ("in the future", found.future, none, none),
    ]
    became = () if report.dry_run else ("purged", "revived")
    longest = max(number for _, number, *_ in rows)
    return table(
        "What was found",
        [
            Column("coordinators"),
            Column("how many", "bar"),
            *(Column(name, "number") for name in ("found", *became)),
        ],
        (
            (
                name,
                bar([Part(number, "plain")], longest),
                _quiet_zero(number),
                *what_became[: len(became)],
            )
            for name, number, *what_became in rows
        ),
        note=f"{found.checked:,} heartbeats checked",
    )


def _ages(ages: Sequence[AgeBand]) -> Html | None:
    ages = _together(_without_empty_ends(ages))
    total = sum(band.coordinators for band in ages)
    if not total:
        return None
    longest = max(band.coordinators for band in ages)
    return table(
        "Age of stale heartbeats",
        [
            Column("age"),
            Column("how many", "bar"),
            Column("coordinators", "number"),
            Column("share", "number"),
        ],
        (
            (
                _band(band),
                bar([Part(band.coordinators, "deleted")], longest),
                _quiet_zero(band.coordinators),
                figures.percent(band.coordinators, total),
            )
            for band in ages
        ),
        most=MOST_BARS,
    )


def _without_empty_ends(ages: Sequence[AgeBand]) -> Sequence[AgeBand]:
    filled = [number for number, band in enumerate(ages) if band.coordinators]
    return ages[filled[0] : filled[-1] + 1] if filled else []


def _together(ages: Sequence[AgeBand]) -> list[AgeBand]:
    """At most `MOST_BARS` bands."""
    size = max(1, math.ceil(len(ages) / MOST_BARS))
    groups = [ages[at : at + size] for at in range(0, len(ages), size)]
    return [
        AgeBand(group[0].from_s, group[-1].to_s, sum(band.coordinators for band in group))
        for group in groups
    ]


def _band(band: AgeBand) -> Html:
    if band.to_s is None:
        return together(figures.span(band.from_s), " and more")
    return together(figures.span(band.from_s), " – ", figures.span(band.to_s))


def samples(report: Report) -> Html | None:
    """Some coordinators by name, with the reason for their verdict; and what some have lost."""
    by_kind: dict[str, list[Example]] = {kind: [] for kind in (*_KINDS, "")}
    for sample in report.samples:
        by_kind[sample.verdict if sample.verdict in _KINDS else ""].append(sample)
    groups = [
        Group(_KINDS.get(kind, "Others"), [_sample(sample, kind) for sample in of_kind])
        for kind, of_kind in by_kind.items()
        if of_kind
    ]
    some = table(
        "Some coordinators of each verdict",
        [Column("coordinator", "id"), Column("reason", "words"), Column("age", "number")],
        groups=groups,
        look="samples",
    )
    return section("samples", "Samples", *([some] if groups else []), *_losses(report))


def _sample(sample: Example, kind: str) -> tuple[Html, ...]:
    reason = foreign(sample.reason) if kind else _other_reason(sample)
    return foreign(sample.id), reason, _age(sample.age_s)


def _age(age_s: float | None) -> Html:
    if age_s is None:
        return element("span", "–", class_="quiet")
    return together(figures.span(abs(age_s)), " ahead" if age_s < 0 else None)


def _other_reason(sample: Example) -> Html:
    return together(foreign(sample.verdict), ": ", foreign(sample.reason))


def _losses(report: Report) -> Iterator[Html]:
    if report.losses:
        yield table(
            "Came back when some of their keys were deleted",
            [Column("coordinator", "id"), Column("keys lost", "number")],
            ((foreign(loss.id), figures.count(loss.keys)) for loss in report.losses),
        )


def keys_by_family(report: Report) -> Html | None:
    """What became of the keys of each family."""
    keys = report.keys
    if not keys.matched and not keys.planned:
        return section("keys", "Keys", _scanned(keys))
    families = [*_first_families(keys)]
    longest = max(max(counts.matched, counts.planned) for _, counts in families)
    outcomes = () if report.dry_run else OUTCOMES
    return section(
        "keys",
        "Keys by family",
        _scanned(keys),
        table(
            "Keys by family and outcome",
            [
                Column("family"),
                Column("outcome", "bar"),
                *(Column(name, "number") for name in ("matched", "planned", *outcomes)),
            ],
            (_family(name, counts, outcomes, longest) for name, counts in families),
            total=_family_cells(text("all"), keys, outcomes, text("")),
            most=MOST_BARS + 1,
        ),
        element("p", *_key_legends(keys), class_="legends"),
    )


def _key_legends(keys: Keys) -> Iterator[Html]:
    """What the parts of the bars mean, of those that are there."""
    due = keys.planned - sum(getattr(keys, outcome) for outcome in OUTCOMES)
    for outcome in OUTCOMES:
        if getattr(keys, outcome):
            yield swatch(outcome, outcome)
    if due > 0:
        yield swatch("due", "planned, and left")
    if keys.matched > keys.planned:
        yield swatch("kept", "not planned: they are not of dead coordinators")


def _scanned(keys: Keys) -> Html:
    return element("p", figures.several(keys.scanned, "key"), " walked over.", class_="quiet")


def _first_families(keys: Keys) -> Iterator[tuple[Html, FamilyKeys]]:
    families = iter(keys.by_family.items())
    for name, counts in itertools.islice(families, MOST_BARS):
        yield foreign(name), counts
    others = [counts for _, counts in families]
    if others:
        names = FamilyKeys.__struct_fields__
        sums = {name: sum(getattr(counts, name) for counts in others) for name in names}
        yield together(figures.count(len(others)), " others"), FamilyKeys(**sums)
    if not keys.by_family:
        names = FamilyKeys.__struct_fields__
        yield text("keys"), FamilyKeys(**{name: getattr(keys, name) for name in names})


def _family(
    name: Html, counts: FamilyKeys, outcomes: Sequence[str], longest: float
) -> tuple[Html, ...]:
    done = [Part(getattr(counts, outcome), outcome) for outcome in OUTCOMES]
    due = Part(counts.planned - sum(part.amount for part in done), "due")
    kept = Part(counts.matched - counts.planned, "kept")
    return _family_cells(name, counts, outcomes, bar([*done, due, kept], longest))


def _family_cells(
    name: Html, counts: FamilyKeys | Keys, outcomes: Sequence[str], drawn: Html
) -> tuple[Html, ...]:
    numbers = (getattr(counts, column) for column in ("matched", "planned", *outcomes))
    return name, drawn, *map(_quiet_zero, numbers)


def _quiet_zero(number: int) -> Html:
    return figures.count(number) if number else element("span", "0", class_="quiet")


def over_time(report: Report) -> Html | None:
    """Throughput and latency over the run, with what held it up."""
    parts: list[Html] = []
    if report.timeline:
        line = charts.timeline(report.timeline, report.stops, report.duration_s)
        pause = [swatch("paused", "paused")] if line.pauses else []
        walked, deleted = swatch("survey", "keys walked"), swatch("purge", "keys deleted")
        spread, worst = swatch("spread", "p50 to p99"), swatch("longest", "longest")
        parts = [
            _figure("Keys per second", charts.throughput(line), [walked, deleted, *pause]),
            _figure("Time of commands", charts.latency(line), [spread, worst, *pause]),
        ]
    return section("over-time", "Over the run", *parts, _throttle(report))


def _figure(title: str, drawing: Html, legends: Sequence[Html]) -> Html:
    caption = element("figcaption", element("span", title, class_="title"), *legends)
    return element("figure", caption, drawing)


def _throttle(report: Report) -> Html | None:
    if not report.throttle:
        return (
            element("p", "The throttle never held it up.", class_="quiet")
            if report.timeline
            else None
        )
    return table(
        "What held the run up",
        [
            Column("setting", "id"),
            Column("reason", "words"),
            Column("pauses", "number"),
            Column("time", "number"),
            Column("share", "number"),
        ],
        (
            (
                foreign(pause.code),
                foreign(pause.message),
                figures.count(pause.pauses) if pause.pauses else text("rests"),
                figures.seconds(pause.seconds),
                figures.percent(pause.seconds, report.duration_s),
            )
            for pause in report.throttle
        ),
    )


def costs(report: Report) -> Html | None:
    """Where the time went, and what it cost the server."""
    if not report.costs and not report.commands:
        return None
    phases = table(
        "Time and processor by phase",
        [
            Column("phase"),
            Column("of the run", "bar"),
            Column("time", "number"),
            Column("server CPU", "number"),
            Column("client CPU", "number"),
        ],
        (
            (
                foreign(name),
                bar([Part(cost.wall_s, "plain")], report.duration_s),
                figures.seconds(cost.wall_s),
                text("–") if cost.server_cpu_s is None else figures.seconds(cost.server_cpu_s),
                figures.seconds(cost.client_cpu_s),
            )
            for name, cost in report.costs.items()
        ),
        total=(
            text("whole run"),
            text(""),
            figures.seconds(report.duration_s),
            figures.seconds(report.server.cpu_s),
            figures.seconds(report.client.cpu_s),
        ),
    )
    both = element("div", phases, *_commands(report), class_="pair")
    return section("costs", "What it cost", _memory(report), both)


def _memory(report: Report) -> Html:
    server = report.server
    return element(
        "p",
        "Memory of the server: ",
        figures.size(server.used_memory_before),
        " before, ",
        figures.size(server.used_memory_after),
        " after. ",
        figures.several(report.workers, "worker"),
        ". The server's CPU includes what others asked of it meanwhile.",
        class_="quiet",
    )


def _commands(report: Report) -> Iterator[Html]:
    rows = [
        (phase, command, times)
        for phase, cost in report.costs.items()
        for command, times in cost.commands.items()
    ] or [("", command, times) for command, times in report.commands.items()]
    if rows:
        yield table(
            "Commands by phase",
            [
                Column("command", "id"),
                Column("phase"),
                *(Column(name, "number") for name in ("calls", "p50", "p99", "max")),
            ],
            (
                (
                    foreign(command),
                    foreign(phase),
                    figures.count(times.calls),
                    figures.milliseconds(times.p50_ms),
                    figures.milliseconds(times.p99_ms),
                    figures.milliseconds(times.max_ms),
                )
                for phase, command, times in rows
            ),
        )


def servers(report: Report) -> Html | None:
    """Each primary, the slots of a cluster, and the partitions that were walked."""
    clustered = report.target.mode == "cluster" or bool(report.uncovered)
    return section(
        "servers",
        "Cluster" if clustered else "Server",
        *(_slots(report) if clustered else ()),
        _nodes(report.nodes, clustered) if report.nodes else None,
        _partitions(report.partitions, len(report.nodes) > 1) if report.partitions else None,
    )


def _slots(report: Report) -> Iterator[Html]:
    if report.uncovered:
        missing = sum(last - first + 1 for first, last in report.uncovered)
        yield element(
            "p",
            element("strong", figures.several(missing, "slot"), " not covered: "),
            _ranges(report.uncovered),
            ". What lies there was neither judged nor deleted.",
            class_="alert",
        )
    if any(node.ranges for node in report.nodes) or report.uncovered:
        legends = [text("Numbers are those of the table below.")]
        if report.uncovered:
            legends.append(swatch("missing", "not covered"))
        drawing = charts.slot_map(report.nodes, report.uncovered)
        yield _figure("Who serves which slots", drawing, legends)


def _ranges(ranges: Sequence[tuple[int, int]]) -> Html:
    shown: list[str] = [
        element("span", f"{first}–{last}" if last > first else f"{first}", class_="n")
        for first, last in ranges[:_MOST_NAMED]
    ]
    more = len(ranges) - _MOST_NAMED
    return listed([*shown, *([f"and {more:,} more"] if more > 0 else [])])


def _nodes(nodes: Sequence[NodeUse], clustered: bool) -> Html:
    named = [*_first_nodes(nodes, clustered)]
    longest = max(node.keys_before for _, node in named)
    slots = (Column("slots", "number"), Column("ranges", "words")) if clustered else ()
    return table(
        "Primaries" if clustered else "The server before and after",
        [
            Column("address", "id"),
            Column("keys", "bar"),
            Column("keys before", "number"),
            Column("keys after", "number"),
            Column("CPU", "number"),
            Column("memory before", "number"),
            Column("memory after", "number"),
            *slots,
        ],
        (
            (
                name,
                bar(_node_parts(node), longest),
                figures.count(node.keys_before),
                *_afterwards(node),
                *((figures.count(node.slots), _ranges(node.ranges)) if clustered else ()),
            )
            for name, node in named
        ),
        most=MOST_BARS + 1,
        note="bars: keys that stayed, and keys that went",
        look="nodes",
    )


def _first_nodes(nodes: Sequence[NodeUse], clustered: bool) -> Iterator[tuple[Html, NodeUse]]:
    for number, node in enumerate(nodes[:MOST_BARS], 1):
        yield together(f"{number} " if clustered else None, foreign(node.address)), node
    others = nodes[MOST_BARS:]
    if others:
        yield (
            together(figures.count(len(others)), " others"),
            NodeUse(
                address="",
                version="",
                slots=sum(node.slots for node in others),
                keys_before=sum(node.keys_before for node in others),
                keys_after=sum(node.keys_after for node in others),
                cpu_s=sum(node.cpu_s for node in others),
                used_memory_before=sum(node.used_memory_before for node in others),
                used_memory_after=sum(node.used_memory_after for node in others),
            ),
        )


def _node_parts(node: NodeUse) -> list[Part]:
    if _is_gone(node):
        return [Part(node.keys_before, "unknown")]
    stayed = min(node.keys_after, node.keys_before)
    return [Part(stayed, "kept"), Part(node.keys_before - stayed, "deleted")]


def _is_gone(node: NodeUse) -> bool:
    """True if it was not there any more afterwards: a server always uses memory."""
    return not node.used_memory_after


def _afterwards(node: NodeUse) -> tuple[Html, ...]:
    before = figures.size(node.used_memory_before)
    if _is_gone(node):
        return text("gone"), text("–"), before, text("gone")
    return (
        figures.count(node.keys_after),
        figures.seconds(node.cpu_s),
        before,
        figures.size(node.used_memory_after),
    )


def _partitions(walks: Sequence[PartitionWalk], of_several: bool) -> Html:
    size = max(1, math.ceil(len(walks) / MOST_BARS))
    groups = [walks[at : at + size] for at in range(0, len(walks), size)]
    scanned = [sum(walk.scanned for walk in group) for group in groups]
    longest = max(scanned)
    return table(
        "Partitions of the walk",
        [
            Column("range", "id"),
            Column("how many", "bar"),
            Column("keys", "number"),
            Column("time", "number"),
            Column("attempts", "number"),
            *((Column("server", "id"),) if of_several else ()),
        ],
        (
            (
                _ends([walk.range for walk in group]),
                bar([Part(keys, "plain")], longest),
                figures.count(keys),
                figures.seconds(sum(walk.seconds for walk in group)),
                figures.count(max(walk.attempts for walk in group)),
                *((_ends([walk.node for walk in group]),) if of_several else ()),
            )
            for group, keys in zip(groups, scanned, strict=True)
        ),
        note=f"{len(walks):,} partitions, {size:,} in each row" if size > 1 else None,
        most=MOST_BARS,
    )


def _ends(names: Sequence[str]) -> Html:
    """The first and the last of several."""
    if len(names) == 1:
        return foreign(names[0])
    return together(foreign(names[0]), " … ", foreign(names[-1]))


def files(report: Report) -> Html | None:
    """The journal that undoes the run, and the plan that it wrote or followed."""
    return section(
        "files",
        "Files",
        _journal(report.journal) if report.journal else None,
        _plan(report.plan, report.dry_run) if report.plan else None,
    )


def _journal(journal: Written) -> Html:
    restore = f"cleanup-job restore {shlex.quote(journal.path)}"
    return together(
        element("h3", "Journal"),
        element(
            "p",
            figures.several(journal.keys, "key"),
            " in ",
            figures.several(journal.records, "record"),
            ", ",
            figures.size(journal.bytes),
            ": ",
            foreign(journal.path),
        ),
        element("p", "To put them back:"),
        element("p", foreign(restore), class_="command"),
    )


def _plan(plan: PlanUse, written: bool) -> Html:
    return together(
        element("h3", "Plan"),
        element(
            "p",
            "Written: " if written else "Followed: ",
            figures.several(plan.coordinators, "coordinator"),
            ", ",
            figures.several(plan.keys, "key"),
            ", made at ",
            foreign(plan.created_at),
            ": ",
            foreign(plan.file),
        ),
        element("p", "To execute it, with the same settings:")
        if written
        else element(
            "p",
            figures.count(plan.due),
            " were still due; ",
            figures.count(plan.gone_or_alive),
            " were alive or gone since, ",
            figures.count(plan.changed),
            " had changed and were left.",
        ),
        element("p", foreign(f"cleanup-job run --plan {shlex.quote(plan.file)}"), class_="command")
        if written
        else None,
    )


def settings(report: Report) -> Html | None:
    """The configuration that was in effect, without its secrets."""
    rows = [*_flat(report.config)]
    if not rows:
        return None
    return section(
        "settings",
        "Configuration",
        table(
            "Settings in effect",
            [Column("setting", "id"), Column("value", "id")],
            ((foreign(name), value) for name, value in rows),
            most=MOST_SETTINGS,
        ),
    )


def _flat(config: Mapping[str, Any], path: str = "", depth: int = 0) -> Iterator[tuple[str, Html]]:
    """Each setting with the path to it."""
    for name, value in config.items():
        where = f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping) and value and depth < 8:
            yield from _flat(value, where, depth + 1)
        else:
            yield where, _value(value)


def _value(value: object) -> Html:
    if value is None or value == [] or value == {}:
        return element("span", "not set", class_="quiet")
    if isinstance(value, bool):
        return text("yes" if value else "no")
    if isinstance(value, list | tuple):
        items = [foreign(str(item)) for item in value[:MOST_ITEMS]]
        more = len(value) - MOST_ITEMS
        return listed([*items, *([f"and {more:,} more"] if more > 0 else [])])
    return foreign(str(value))
