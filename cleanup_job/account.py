"""All that was seen and done in a run → its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from cleanup_job import report as reports
from cleanup_job import topology
from cleanup_job.ages import bands_of
from cleanup_job.clock import Clock
from cleanup_job.costs import Seen, costs_of, pauses_of
from cleanup_job.course import course_of, stops_of
from cleanup_job.lease import LEASE_LOST
from cleanup_job.measures import counted
from cleanup_job.model import (
    HEARTBEAT,
    SCHEDULER_LOST,
    Kind,
    Outcome,
    Problem,
    Sample,
    Target,
    printable,
)
from cleanup_job.outcomes import (
    all_not_attempted,
    all_orphans_purged,
    all_revived,
    all_spared,
    losses_of,
)
from cleanup_job.remarks import warnings_of
from cleanup_job.report import Report
from cleanup_job.sweep import Surveyed, Sweep, Swept
from cleanup_job.tally import Tally
from cleanup_job.timings import merge_timings


def report_of(sweep: Sweep, clock: Clock, seen: Seen, swept: Swept) -> Report:
    """The report, whose duration and costs end here."""
    surveyed, tally, outcomes = swept.surveyed, swept.tally, swept.outcomes
    plan_use = swept.judged.plan_use
    target = surveyed.target
    keys = _keys(sweep, swept)
    errors = _errors(sweep, seen, swept, keys)
    ended_by = sweep.watch.ended_by
    is_blind = _is_blind(ended_by, keys)
    timings = {
        "survey": merge_timings(found.timings for found in surveyed.findings),
        "judge": {},
        "purge": merge_timings(outcome.timings for outcome in outcomes),
    }
    all_timings = merge_timings(timings.values())
    nodes = seen.nodes()
    return Report(
        status=_status(sweep, surveyed, keys, errors, swept.refused),
        dry_run=sweep.dry_run,
        run_id=sweep.run_id,
        started_at=clock.started_at_text,
        duration_s=clock.duration_s,
        target=reports.Target(
            product=target.servers[0].product,
            version=", ".join(sorted({server.version for server in target.servers})),
            mode=target.mode,
            nodes=[server.address for server in target.servers],
            db=sweep.access.endpoint.db,
        ),
        coordinators=coordinators_of(tally, outcomes),
        keys=keys,
        phases=reports.Phases(**{f"{name}_s": wall_s for name, wall_s in clock.wall_s.items()}),
        commands=reports.summarize_timings(all_timings),
        costs=costs_of(clock, seen, timings),
        server=reports.sum_up(nodes),
        client=reports.ClientUse(clock.whole_cpu_s),
        nodes=nodes,
        workers=clock.pool.workers if clock.pool else 1,
        journal=sweep.journal.written if sweep.journal else None,
        partitions=reports.walks(surveyed.findings),
        throttle=pauses_of(sweep, clock),
        stopped_by=ended_by.code if ended_by and (_is_cut_short(swept) or is_blind) else None,
        losses=[reports.Loss(printable(name), lost) for name, lost in losses_of(outcomes).items()],
        samples=[
            *(reports.example(sample) for sample in _samples(tally, sweep)),
            *_back_to_life(outcomes, sweep.show),
        ],
        ages=bands_of(tally.ages),
        timeline=course_of(clock.spans, clock.done, all_timings, clock.began_s),
        stops=stops_of(sweep.gauge.throttle.ledger.pauses, clock.began_s, clock.duration_s),
        uncovered=[*topology.ranges_of(surveyed.uncovered)],
        config=sweep.config.shown(),
        plan=plan_use if isinstance(plan_use, reports.PlanUse) else None,
        warnings=warnings_of(sweep, swept, clock.pool),
        errors=errors,
    )


def _keys(sweep: Sweep, swept: Swept) -> reports.Keys:
    matched = dict(zip(sweep.schema.family_names, swept.tally.matched, strict=True))
    # The report names the heartbeats first, as people think of them.
    matched = {HEARTBEAT: matched[HEARTBEAT], **matched}
    # The lease was among them when they were counted.
    lease = sweep.lease is not None and sweep.lease.forgone is None
    scanned = swept.surveyed.target.keys - lease
    return reports.count_keys(scanned, matched, swept.tally.planned, swept.outcomes)


def _errors(sweep: Sweep, seen: Seen, swept: Swept, keys: reports.Keys) -> list[Problem]:
    """What went wrong, and what was left undone."""
    outcomes, ended_by = swept.outcomes, sweep.watch.ended_by
    problems = chain.from_iterable(outcome.problems for outcome in outcomes)
    errors = reports.merge_problems(problems)
    goes = not (sweep.dry_run or swept.refused)
    if goes:
        errors += reports.imbalances(keys)
    elif not sweep.dry_run:
        errors += swept.refused
    if ended_by is not None and ended_by.code == LEASE_LOST:
        errors.append(ended_by)
    if ended_by is not None and _is_blind(ended_by, keys):
        errors.append(ended_by)
    not_attempted = all_not_attempted(outcomes)
    if not_attempted:
        why = f": {ended_by.message}; the next run goes on" if ended_by else ""
        message = f"planned keys were left in place when the run ended{why}"
        errors.append(Problem("not_attempted", message, not_attempted))
    if sweep.journal:
        errors += sweep.journal.problems
    if swept.tally.size and goes:
        errors += _undone(swept.surveyed.target, seen.last)
    return errors


def _is_blind(ended_by: Problem | None, keys: reports.Keys) -> bool:
    """True if nobody could tell any more what became of some keys, although all were begun."""
    return ended_by is not None and ended_by.code == SCHEDULER_LOST and keys.unknown > 0


def _is_cut_short(swept: Swept) -> bool:
    return swept.surveyed.stopped or all_not_attempted(swept.outcomes) > 0


def _undone(before: Target, after: Target | None) -> list[Problem]:
    """The servers of which it can't be said that they still know what we deleted.

    One that restarted may have loaded an old snapshot, and a replica that took over may have
    missed the last deletes.
    """
    if after is None:
        message = "the server was out of reach when the run ended: run again to be sure"
        return [Problem("out_of_reach", message, 1, (before.servers[0].address,))]
    new = topology.replaced(before, after)
    if not new:
        return []
    message = (
        "servers restarted or failed over during the purge, and may have brought back what was "
        "deleted: run again"
    )
    return [Problem("failed_over", message, len(new), topology.addresses(new))]


def _status(
    sweep: Sweep,
    surveyed: Surveyed,
    keys: reports.Keys,
    errors: Sequence[Problem],
    refused: Sequence[Problem],
) -> str:
    if refused and not sweep.dry_run:
        return "refused"
    return reports.status_of(keys, errors, covered=surveyed.covered, dry_run=sweep.dry_run)


def coordinators_of(tally: Tally, outcomes: Sequence[Outcome] = ()) -> reports.Coordinators:
    """Who was found, and what became of them."""
    return reports.Coordinators(
        checked=tally.checked,
        live=tally.live,
        stale=tally.stale,
        unreadable=tally.unreadable,
        future=tally.future,
        orphaned=tally.orphaned,
        purged=sum(outcome.purged_count for outcome in outcomes),
        revived=len(all_revived(outcomes)),
        orphans_purged=len(all_orphans_purged(outcomes)),
    )


def _back_to_life(outcomes: Sequence[Outcome], show: int) -> Iterator[reports.Example]:
    """Some of those that were to go, and were kept when their turn came."""
    revived = all_revived(outcomes)
    others = all_spared(outcomes) - revived
    for verdict, names, reason in (
        ("revived", revived, "its heartbeat was fresh when its turn came"),
        ("spared", others, "its heartbeat, or a key of it, had changed when its turn came"),
    ):
        for name in sorted(names)[:show]:
            yield reports.Example(printable(name), verdict, reason)


def _samples(tally: Tally, sweep: Sweep) -> Iterator[Sample]:
    """Some of each verdict: the oldest of the stale, and the first of the others."""
    show = sweep.show
    for name, age_ms in tally.oldest[:show]:
        yield Sample(name, Kind.STALE, "older than stale_after", age_ms)
    for name, keys in tally.orphans[:show] if sweep.config.orphans != "ignore" else ():
        yield Sample(name, Kind.ORPHANED, f"no heartbeat, {counted(keys, 'key')}")
    for kind in (Kind.UNREADABLE, Kind.FUTURE):
        yield from tally.kept_as(kind)[:show]
