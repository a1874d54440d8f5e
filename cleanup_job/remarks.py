"""What is worth a warning when a run is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from msgspec import structs

from cleanup_job import brakes
from cleanup_job.judge import MOST_NAMED, Verdicts
from cleanup_job.lease import without_lease
from cleanup_job.model import WORKER_LOST, Kind, Outcome, Problem, Target, printable
from cleanup_job.outcomes import all_spared, losses_of
from cleanup_job.plan import Plan, Scope
from cleanup_job.pool import Pool, deaths_of
from cleanup_job.report import PlanUse
from cleanup_job.sweep import Surveyed, Sweep, Swept


def warnings_of(sweep: Sweep, swept: Swept, pool: Pool | None) -> list[Problem]:
    """All that was odd, and no error."""
    surveyed, verdicts, refused = swept.surveyed, swept.verdicts, swept.refused
    return [
        *without_lease(sweep.lease),
        *surveyed.warnings,
        *(_would_be_refused(refused) if sweep.dry_run else ()),
        *_clock_warnings(sweep, surveyed.target, verdicts, refused),
        *_plan_warnings(sweep, swept.scope, swept.plan_use),
        *_warnings(sweep, surveyed, verdicts, swept.scope, swept.plan, swept.outcomes),
        *_lost_workers(pool),
    ]


def _would_be_refused(refused: Sequence[Problem]) -> Iterator[Problem]:
    """For a dry run, which refuses nothing, but is made to find out."""
    for problem in refused:
        yield structs.replace(problem, message=f"a run would be refused: {problem.message}")


def _clock_warnings(
    sweep: Sweep, target: Target, verdicts: Verdicts, refused: Sequence[Problem]
) -> list[Problem]:
    """That clocks differ, unless that is said already."""
    if any(problem.code == brakes.CLOCK_SKEW for problem in refused):
        return []
    future = verdicts.kept_as(Kind.FUTURE)
    return brakes.clock_warnings(sweep.config.limits(), target.clocks_ahead_ms, future)


def _plan_warnings(
    sweep: Sweep, scope: Scope, plan_use: PlanUse | Problem | None
) -> Iterator[Problem]:
    if isinstance(plan_use, Problem):
        yield plan_use
    if scope.changed:
        message = "coordinators have keys that the plan does not name, and were left as a whole"
        yield Problem("changed_since_plan", message, len(scope.changed), _names(scope.changed))
    is_executed = plan_use is not None and not sweep.dry_run
    if is_executed and scope.orphans and sweep.config.orphans != "purge":
        message = "orphans of the plan were left; --orphans purge, as planned, deletes their keys"
        yield Problem("orphans_left", message, len(scope.orphans), _names(scope.orphans))


def _warnings(
    sweep: Sweep,
    surveyed: Surveyed,
    verdicts: Verdicts,
    scope: Scope,
    plan: Plan,
    outcomes: Sequence[Outcome],
) -> Iterator[Problem]:
    for kind, code in ((Kind.UNREADABLE, "unreadable"), (Kind.FUTURE, "future")):
        kept = verdicts.kept_as(kind)
        if kept:
            message = f"{code} heartbeats: their coordinators were kept"
            yield Problem(code, message, len(kept), _names(s.coordinator_id for s in kept))
    orphans = verdicts.orphan_ids()
    if orphans and sweep.config.orphans == "report":
        message = "orphaned coordinators were only reported; --orphans purge deletes their keys"
        yield Problem("orphans_reported", message, len(orphans), _names(orphans))
    if orphans and sweep.config.orphans == "purge":
        if not surveyed.target.tracks_idle_time:
            message = (
                "orphans were not purged: under its LFU eviction policy the server does not "
                "know how long a key was untouched"
            )
            yield Problem("no_idle_time", message, len(orphans), _names(orphans))
        elif scope.orphans - plan.orphans:
            young = scope.orphans - plan.orphans
            message = (
                f"orphans were kept: a key was touched within {sweep.config.orphan_grace} s, or "
                "the server can't tell (small integers), or it could name too many ids"
            )
            yield Problem("orphans_kept", message, len(young), _names(young))
    spared = all_spared(outcomes)
    if verdicts.crowded:
        message = f"keys were kept that name more than {MOST_NAMED} stale coordinators"
        yield Problem("crowded", message, len(verdicts.crowded), _names(verdicts.crowded))
    losses = losses_of(outcomes)
    if losses:
        message = "coordinators came back when some of their keys were deleted already"
        names = (f"{printable(name)} ({keys} keys)" for name, keys in losses.items())
        yield Problem("revived_with_losses", message, len(losses), tuple(islice(names, 3)))
    if spared:
        message = "coordinators changed after they were judged, and were spared"
        yield Problem("spared", message, len(spared), _names(spared))


def _lost_workers(pool: Pool | None) -> Iterator[Problem]:
    if pool is None or not pool.deaths:
        return
    if pool.reruns:
        message = "worker processes died, and their tasks were run again"
        yield Problem(WORKER_LOST, message, pool.reruns, deaths_of(pool))
    else:
        message = "worker processes died"
        yield Problem(WORKER_LOST, message, len(pool.deaths), deaths_of(pool))


def _names(ids: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(printable(name) for name in islice(ids, 3))
