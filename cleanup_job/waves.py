"""The job's half of the purge: waves of tasks, and which heartbeats have to stay.

The first wave deletes whole coordinators where one step can, and the owned keys of all others; the
last wave has the heartbeats of those (see `plan`). A heartbeat of it stays where something of its
coordinator is left, or may come back: the next run must find it. A lost task is never repeated
blindly: what is left of it runs again (see `remains`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from msgspec import structs

from cleanup_job import topology
from cleanup_job.errors import CleanupJobError, ServerUnavailableError
from cleanup_job.model import (
    UNTRIED,
    WORKER_LOST,
    Batch,
    Lot,
    Outcome,
    Problem,
    PurgeTask,
    Target,
)
from cleanup_job.outcomes import all_spared, all_unsettled, is_hopeless, is_unrecorded
from cleanup_job.plan import Plan, hold_back, portions
from cleanup_job.pool import Pool, deaths_of, map_again
from cleanup_job.purge import leave, look_at_lost, purge, spare, used_up
from cleanup_job.rehearsal import preflight
from cleanup_job.sweep import Surveyed, Sweep
from cleanup_job.watch import RunWatch


def purge_all(sweep: Sweep, pool: Pool, surveyed: Surveyed, plan: Plan) -> list[Outcome]:
    """Delete by plan, wave after wave: see `plan` for why heartbeats may have to wait."""
    target = surveyed.target
    if not plan.size:
        return []
    if sweep.watch.stopping():
        return [leave(task_of(sweep, target, (plan.lot, plan.last), plan.batches))]
    target = rehearsed(sweep, target, plan.min_idle_s)
    with journal_of(sweep, target):
        return _purge_waves(sweep, pool, surveyed, target, plan)


def _purge_waves(
    sweep: Sweep, pool: Pool, surveyed: Surveyed, target: Target, plan: Plan
) -> list[Outcome]:
    outcomes = _purge_wave(sweep, pool, target, plan.lot, plan.batches)
    if not surveyed.covered:
        # There may be keys of anybody's in what was not covered. Without its heartbeat the next
        # run would take them for an orphan's.
        return [*outcomes, _leave(sweep, target, plan.last)]
    last, failed = hold_back(plan.last, all_unsettled(outcomes))
    last, spared = hold_back(last, all_spared(outcomes))
    problem = may_come_back(sweep, target, outcomes) if last.ids else None
    if is_unrecorded(outcomes):
        outcomes.append(_leave(sweep, target, last))
    elif problem is None:
        outcomes += _purge_wave(sweep, pool, target, last)
    else:
        left = _leave(sweep, target, last)
        outcomes.append(structs.replace(left, problems=(*left.problems, problem)))
    return [*outcomes, _leave(sweep, target, failed), spare(task_of(sweep, target, (spared,)))]


def journal_of(sweep: Sweep, target: Target) -> AbstractContextManager[None]:
    """The journal, if there is one, for as long as keys are deleted."""
    if sweep.journal is None:
        return nullcontext()
    return sweep.journal.open(sweep.schema, target, sweep.access.endpoint.db)


def rehearsed(sweep: Sweep, target: Target, min_idle_s: int) -> Target:
    """Make sure of all rights; if a cluster fails over right now, when it has done so.

    Raises:
        CleanupJobError: as `preflight` does.
    """
    try:
        preflight(target, sweep.schema, min_idle_s, bool(sweep.journal))
    except ServerUnavailableError:
        if not target.clustered:
            raise
        target = topology.rediscover(sweep.access, target)
        preflight(target, sweep.schema, min_idle_s, bool(sweep.journal))
    return target


def may_come_back(sweep: Sweep, target: Target, outcomes: Sequence[Outcome]) -> Problem | None:
    """Why keys that were deleted may come back without their heartbeats, so that those must stay.

    A server that restarted may have loaded a snapshot from before the first wave. In a cluster, a
    replica that takes over may not have heard of the last deletes; on one server that is no harm,
    since heartbeats go last there too, but in a cluster a heartbeat is on another server. Without
    it the keys would be an orphan's.
    """
    left = "heartbeats were left, since"
    if is_hopeless(outcomes):
        return Problem("heartbeats_left", f"{left} a server was gone", 1)
    try:
        now = topology.rediscover(sweep.access, target)
        new = topology.replaced(target, now)
        behind = topology.behind(now) if target.clustered else ()
    except CleanupJobError as error:
        return Problem("heartbeats_left", f"{left} {error}", 1)
    if new:
        message = f"{left} servers restarted or failed over"
        return Problem("heartbeats_left", message, len(new), topology.addresses(new))
    if behind:
        message = f"{left} replicas do not have all deletions yet"
        return Problem("heartbeats_left", message, len(behind), topology.addresses(behind))
    return None


class PurgeWatch:
    """The run's, and no new batch for anybody once a server is gone for good.

    Every task would wait for it anew.
    """

    def __init__(self, watch: RunWatch) -> None:
        """Watch over a purge for this run."""
        self.advanced = watch.advanced
        self.allowance = watch.allowance
        self._watch = watch
        self.hopeless = False

    @property
    def holds_until_s(self) -> float:
        """As `model.Watch` says."""
        return self._watch.holds_until_s

    def stopping(self) -> bool:
        """Whether no new batch should be begun."""
        return self.hopeless or self._watch.stopping()


def _purge_wave(
    sweep: Sweep, pool: Pool, target: Target, lot: Lot, batches: Sequence[Batch] = ()
) -> list[Outcome]:
    tasks = _tasks(sweep, target, lot, batches, pool.workers)
    outcomes: list[Outcome] = []
    watch = PurgeWatch(sweep.watch)
    sweep.gauge.watch(server.endpoint for server in target.servers)

    def take(outcome: Outcome) -> None:
        outcomes.append(outcome)
        watch.hopeless = watch.hopeless or outcome.hopeless

    def again(task: PurgeTask, runs: int) -> PurgeTask | None:
        """What is left of a lost task, as long as it may run again; else it is left."""
        looked_at, rest = look_at_lost(task)
        take(looked_at)
        if rest is None:
            return None
        if watch.stopping():
            take(leave(rest))
            return None
        if runs == sweep.config.max_attempts:
            take(leave(rest, used_up(runs)))
            return None
        return rest

    for task, outcome in map_again(pool, purge, tasks, watch, again):
        if outcome is UNTRIED:
            outcome = leave(task, None if watch.stopping() else no_workers(pool))
        take(outcome)
    return outcomes


def no_workers(pool: Pool) -> CleanupJobError:
    """Why keys are left that no worker ever began."""
    return CleanupJobError(
        f"worker processes die whatever they do ({', '.join(deaths_of(pool))}), so keys were left; "
        "look for a memory limit, set fewer workers or engine: serial",
        WORKER_LOST,
    )


def _tasks(
    sweep: Sweep, target: Target, lot: Lot, batches: Sequence[Batch], workers: int
) -> Iterator[PurgeTask]:
    """The wave in tasks: one where nobody shares it, so that its batches never stop flowing."""
    if workers == 1:
        yield task_of(sweep, target, (lot,), batches)
        return
    for portion in portions(lot, batches):
        yield task_of(sweep, target, *portion)


def _leave(sweep: Sweep, target: Target, lot: Lot) -> Outcome:
    return leave(task_of(sweep, target, (lot,)))


def task_of(
    sweep: Sweep, target: Target, lots: Sequence[Lot] = (), batches: Sequence[Batch] = ()
) -> PurgeTask:
    """The task to delete these."""
    return PurgeTask(
        target.routes,
        sweep.schema,
        sweep.rule,
        tuple(lots),
        tuple(batches),
        sweep.max_block_ms,
        sweep.journal.partial if sweep.journal else "",
    )
