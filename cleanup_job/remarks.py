"""What is worth a warning when a run is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from msgspec import structs

from cleanup_job import brakes
from cleanup_job.judge import MOST_NAMED
from cleanup_job.lease import without_lease
from cleanup_job.model import WORKER_LOST, Kind, Outcome, Problem, Target, printable
from cleanup_job.outcomes import all_spared, losses_of
from cleanup_job.pool import Pool, deaths_of
from cleanup_job.sweep import Judged, Surveyed, Sweep, Swept
from cleanup_job.tally import Tally


def warnings_of(sweep: Sweep, swept: Swept, pool: Pool | None) -> list[Problem]:
    """All that was odd, and no error."""
    surveyed, tally, refused = swept.surveyed, swept.tally, swept.refused
    return [
        *without_lease(sweep.lease),
        *surveyed.warnings,
        *_in_waves(sweep, swept.judged),
        *(_would_be_refused(refused) if sweep.dry_run else ()),
        *_clock_warnings(sweep, surveyed.target, tally, refused),
        *_plan_warnings(sweep, swept.judged),
        *_of_coordinators(tally),
        *_of_orphans(sweep, surveyed, tally),
        *_of_outcomes(tally, swept.outcomes),
        *_lost_workers(pool),
    ]


def _in_waves(sweep: Sweep, judged: Judged) -> Iterator[Problem]:
    if judged.ranges > 1 and sweep.config.memory_limit is not None:
        message = f"names did not fit into memory_limit: ids were judged in {judged.ranges} waves"
        yield Problem("in_waves", message, judged.ranges)


def _would_be_refused(refused: Sequence[Problem]) -> Iterator[Problem]:
    """For a dry run, which refuses nothing, but is made to find out."""
    for problem in refused:
        yield structs.replace(problem, message=f"a run would be refused: {problem.message}")


def _clock_warnings(
    sweep: Sweep, target: Target, tally: Tally, refused: Sequence[Problem]
) -> list[Problem]:
    """That clocks differ, unless that is said already."""
    if any(problem.code == brakes.CLOCK_SKEW for problem in refused):
        return []
    future = [tally.ahead] if tally.ahead else []
    return brakes.clock_warnings(sweep.config.limits(), target.clocks_ahead_ms, future)


def _plan_warnings(sweep: Sweep, judged: Judged) -> Iterator[Problem]:
    scope, plan_use = judged.scope, judged.plan_use
    if isinstance(plan_use, Problem):
        yield plan_use
    if scope.changed:
        message = "coordinators have keys that the plan does not name, and were left as a whole"
        yield Problem("changed_since_plan", message, len(scope.changed), _names(scope.changed))
    is_executed = plan_use is not None and not sweep.dry_run
    if is_executed and scope.orphans and sweep.config.orphans != "purge":
        message = "orphans of the plan were left; --orphans purge, as planned, deletes their keys"
        yield Problem("orphans_left", message, len(scope.orphans), _names(scope.orphans))


def _of_coordinators(tally: Tally) -> Iterator[Problem]:
    for kind, code in ((Kind.UNREADABLE, "unreadable"), (Kind.FUTURE, "future")):
        count = tally.unreadable if kind is Kind.UNREADABLE else tally.future
        if count:
            message = f"{code} heartbeats: their coordinators were kept"
            names = _names(sample.coordinator_id for sample in tally.kept_as(kind))
            yield Problem(code, message, count, names)


def _of_orphans(sweep: Sweep, surveyed: Surveyed, tally: Tally) -> Iterator[Problem]:
    orphans, names = tally.orphaned, _names(name for name, _ in tally.orphans)
    if orphans and sweep.config.orphans == "report":
        message = "orphaned coordinators were only reported; --orphans purge deletes their keys"
        yield Problem("orphans_reported", message, orphans, names)
    if orphans and sweep.config.orphans == "purge":
        young, young_names = tally.young
        if not surveyed.target.tracks_idle_time:
            message = (
                "orphans were not purged: under its LFU eviction policy the server does not "
                "know how long a key was untouched"
            )
            yield Problem("no_idle_time", message, orphans, names)
        elif young:
            message = (
                f"orphans were kept: a key was touched within {sweep.config.orphan_grace} s, or "
                "the server can't tell (small integers), or it could name too many ids"
            )
            yield Problem("orphans_kept", message, young, _names(young_names))


def _of_outcomes(tally: Tally, outcomes: Sequence[Outcome]) -> Iterator[Problem]:
    crowded, keys = tally.crowded
    if crowded:
        message = f"keys were kept that name more than {MOST_NAMED} stale coordinators"
        yield Problem("crowded", message, crowded, _names(keys))
    losses = losses_of(outcomes)
    if losses:
        message = "coordinators came back when some of their keys were deleted already"
        names = (f"{printable(name)} ({keys} keys)" for name, keys in losses.items())
        yield Problem("revived_with_losses", message, len(losses), tuple(islice(names, 3)))
    spared = all_spared(outcomes)
    if spared:
        message = "coordinators changed after they were judged, and were spared"
        yield Problem("spared", message, len(spared), _names(sorted(spared)))


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
