"""The job's half of judging: verdicts, what is planned of them, and what of that is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from cleanup_job.errors import ServerUnavailableError
from cleanup_job.judge import Verdicts, decide
from cleanup_job.model import WORKER_LOST
from cleanup_job.plan import Plan, Scope, make_plan
from cleanup_job.planned import plan_use_of, scope_of_run, write_plan
from cleanup_job.pool import Pool, deaths_of
from cleanup_job.ranged import FindingsLostError, judge_in_ranges
from cleanup_job.sweep import Judged, Surveyed, Sweep
from cleanup_job.tally import tally_of
from cleanup_job.walks import stopped_since, walk_all, young_orphans

if TYPE_CHECKING:
    from cleanup_job.plan_file import PlanFile


def judge_all(
    sweep: Sweep, pool: Pool, surveyed: Surveyed, by_plan: PlanFile | None, began_ms: int
) -> tuple[Surveyed, Judged]:
    """Who is what, and what will go of it; and the survey, which may have had to be made again.

    Here and all at once, or in ranges, where the findings are.

    Raises:
        ServerUnavailableError: workers die whatever they do.
    """
    if sweep.shelf is None:
        return surveyed, _judge_here(sweep, pool, surveyed, by_plan, began_ms)
    for _ in range(sweep.config.max_attempts):
        if surveyed.stopped:
            break
        try:
            judged = judge_in_ranges(sweep, sweep.shelf, pool, surveyed)
        except FindingsLostError:
            surveyed = walk_all(sweep, pool, surveyed.target)
            continue
        if judged is None:
            break
        return surveyed, judged
    else:
        raise ServerUnavailableError(
            f"workers were lost ({', '.join(deaths_of(pool))}) with what they had found, in each "
            f"of {sweep.config.max_attempts} surveys; nothing was deleted",
            WORKER_LOST,
        )
    surveyed = structs.replace(surveyed, findings=[])
    return surveyed, _judge_here(sweep, pool, surveyed, by_plan, began_ms)


def _judge_here(
    sweep: Sweep, pool: Pool, surveyed: Surveyed, by_plan: PlanFile | None, began_ms: int
) -> Judged:
    verdicts = decide(surveyed.findings, sweep.schema, surveyed.uncovered)
    scope = scope_of_run(sweep, surveyed, verdicts, by_plan)
    plan = _plan(sweep, pool, surveyed, verdicts, scope)
    tally = tally_of(
        verdicts,
        plan,
        sweep.schema,
        show=sweep.show,
        left_out=scope.left_out,
        young=scope.orphans - plan.orphans if sweep.config.orphans == "purge" else (),
    )
    plan_use = (
        plan_use_of(by_plan, scope, plan)
        if by_plan
        else write_plan(sweep, stopped_since(sweep, surveyed), verdicts, plan, began_ms)
    )
    return Judged(tally, plan, scope, plan_use=plan_use)


def _plan(sweep: Sweep, pool: Pool, surveyed: Surveyed, verdicts: Verdicts, scope: Scope) -> Plan:
    """What will go: everything of stale coordinators, and of orphans if it is asked for."""
    target = surveyed.target
    orphans: frozenset[bytes] = frozenset()
    if sweep.config.orphans == "purge" and target.tracks_idle_time:
        orphans = scope.orphans - young_orphans(sweep, pool, surveyed, verdicts, scope.orphans)
    return make_plan(
        verdicts,
        sweep.schema,
        clustered=target.clustered,
        covered=surveyed.covered,
        orphans=orphans,
        orphan_grace_s=sweep.config.orphan_grace,
        left_out=scope.left_out,
    )
