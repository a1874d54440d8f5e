"""The coordinator process of the job: what it does, from top to bottom.

`run` finds out what is there, walks all of it, judges, plans, asks whether that looks wrong,
deletes by plan, and reports. Stages do not know each other; frozen values (`sweep`) pass through
here. Parts of it that are a matter of their own are `walks`, `waves`, `planned` and `account`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from cleanup_job import brakes, memory, topology, wire
from cleanup_job.account import coordinators_of, report_of
from cleanup_job.clock import Clock, out_of_memory
from cleanup_job.config import Config, validated
from cleanup_job.costs import Seen
from cleanup_job.errors import CleanupJobError, ConfigError, NotNowError, RefusedError
from cleanup_job.gauge import Gauge
from cleanup_job.lease import Lease, held
from cleanup_job.model import Access, Outcome, Problem, Target
from cleanup_job.observer import Observer
from cleanup_job.outcomes import is_hopeless
from cleanup_job.planned import read_plan, require_fit
from cleanup_job.pool import Pool, open_pool, workers_for
from cleanup_job.ranged import purge_in_ranges
from cleanup_job.report import Report
from cleanup_job.shelf import Shelf, file_shelf
from cleanup_job.sweep import Judged, Surveyed, Sweep, Swept
from cleanup_job.tally import Tally
from cleanup_job.throttle import Throttle
from cleanup_job.verdicts import judge_all
from cleanup_job.walks import stopped_since, walk_all
from cleanup_job.watch import Check, RunWatch, stop_file, time_budget, told_to
from cleanup_job.waves import purge_all

if TYPE_CHECKING:
    from cleanup_job.dask_pool import DaskPool
    from cleanup_job.run_journal import RunJournal

__all__ = ["Observer", "run"]


def run(
    config: Config,
    *,
    dry_run: bool = False,
    show: int = 5,
    observer: Observer | None = None,
    profile: str | None = None,
    plan_path: str | None = None,
    journal: str | None = None,
) -> Report:
    """Find dead coordinators and delete what is theirs.

    Args:
        config: what to do; one that was made by hand is checked like any other.
        dry_run: only tell what would go; sends no command that writes.
        show: how many samples of each verdict the report has.
        observer: is told of progress, and may stop the run.
        profile: where worker processes write their profiles; see `open_pool`.
        plan_path: a plan file. A dry run writes it (if it can't, the report has no `plan`, and a
            warning), another run deletes nothing that is not in it.
        journal: a file that takes all that is deleted, before it is, for `undo.restore`; or a
            folder for it. Without anything to delete there will be none.

    Raises:
        ConfigError: the configuration makes no sense, the plan file can't be read or is damaged,
            the journal can't be there; nothing was deleted.
        ServerUnavailableError: the servers could not be surveyed; nothing was deleted.
        LockedError: another run is at the same keys.
        ServerRefusedError: they will not let us; nothing was deleted.
        RefusedError: part of a cluster is not there, and that was not allowed; the plan is for
            other servers or settings, or too old.
        NotNowError: the stop file is there already.
        OutOfMemoryError: this process got no more memory; nothing was deleted.
        BrokenOffError: the same in the middle of the purge; the next run goes on.
    """
    config = validated(config)
    clock = Clock(observer or Observer())
    clock.observer.started(clock.run_id, clock.started_at_text)
    try:
        return _run(config, clock, dry_run, show, profile, plan_path, journal)
    except MemoryError:
        raise out_of_memory(clock.now) from None
    finally:
        wire.close_all()  # who embeds a run keeps its process, and need not keep our connections


def _run(
    config: Config,
    clock: Clock,
    dry_run: bool,
    show: int,
    profile: str | None,
    plan_path: str | None,
    journal: str | None,
) -> Report:
    _require_no_stop_file(config)
    journaled = _journal(journal, clock)
    by_plan = None if dry_run else read_plan(config, plan_path)
    _require_names(config, plan_path, journal)
    with ExitStack() as ends:
        access, remote = ends.enter_context(_engine(config, clock.run_id))
        first = topology.discover(access)
        _require_whole(config, first)
        began_ms = topology.clock_ms(first.servers[0]) if plan_path else 0
        require_fit(by_plan, first, began_ms, config)
        clock.observer.found(first)
        workers = (
            remote.workers if remote else workers_for(config.workers, config.engine, first.keys)
        )
        sweep = _prepare(
            config,
            access,
            clock,
            first,
            workers,
            journaled,
            dry_run=dry_run,
            show=show,
            plan_path=plan_path,
        )
        ends.enter_context(held(sweep.lease, first.uncovered))
        pool = ends.enter_context(
            closing(remote) if remote else open_pool(config.engine, workers, profile)
        )
        shelf = remote or ends.enter_context(_shelf(config, pool, first))
        ends.enter_context(closing(sweep.gauge))
        clock.pool = pool
        sweep = structs.replace(sweep, shelf=shelf)
        with clock.phase("survey", first.keys):
            surveyed = walk_all(sweep, pool, first)
        with clock.phase("judge", 0):
            surveyed, judged = judge_all(sweep, pool, surveyed, by_plan, began_ms)
            surveyed = stopped_since(sweep, surveyed.without_names())
        tally = judged.tally
        clock.observer.judged(coordinators_of(tally), tally.reasons)
        clock.observer.planned(tally.purged, tally.planned)
        refused = _refusals(sweep, surveyed.target, tally)
        goes = not (dry_run or refused)
        with clock.phase("purge", tally.size if goes else 0):
            outcomes = _purge(sweep, pool, surveyed, judged) if goes else []
    swept = Swept(surveyed, judged, refused, outcomes)
    after = _look_once_more(sweep, surveyed.target, 0 if is_hopeless(outcomes) else None)
    return report_of(sweep, clock, Seen(first, surveyed.target, after), swept)


@contextmanager
def _engine(config: Config, run_id: str) -> Iterator[tuple[Access, DaskPool | None]]:
    """How to get at the servers, and the workers that are elsewhere, if they are.

    Raises:
        EngineError: they can't be used as they are.
        EngineUnavailableError: they can't be reached.
    """
    access = config.access()
    if config.engine != "dask":
        yield access, None
        return
    # Imported where it is asked for: it takes a second, and may not be installed.
    from cleanup_job.dask_cluster import cluster
    from cleanup_job.dask_pool import DaskPool

    with cluster(config.dask, config.workers, access) as (client, theirs, admits):
        most = config.workers if isinstance(config.workers, int) else None
        with closing(DaskPool(client, run_id, most, admits)) as pool:
            yield theirs, pool


@contextmanager
def _shelf(config: Config, pool: Pool, target: Target) -> Iterator[Shelf | None]:
    """Where names are kept that are too many for this process; None if they are not."""
    limit = config.memory_bytes()
    if limit is None or memory.fits(limit, target.keys, pool.workers):
        yield None
        return
    with file_shelf(pool, memory.share_of(limit, pool.workers)) as shelf:
        yield shelf


def _purge(sweep: Sweep, pool: Pool, surveyed: Surveyed, judged: Judged) -> list[Outcome]:
    if judged.plan is not None:
        return purge_all(sweep, pool, surveyed, judged.plan)
    assert sweep.shelf is not None, "there the plan is, if it is not here"
    return purge_in_ranges(sweep, sweep.shelf, pool, surveyed, judged)


def _journal(name: str | None, clock: Clock) -> RunJournal | None:
    if not name:
        return None
    from cleanup_job.run_journal import RunJournal  # nobody else waits for its import

    return RunJournal(name, clock)


def _prepare(
    config: Config,
    access: Access,
    clock: Clock,
    target: Target,
    workers: int,
    journal: RunJournal | None,
    *,
    dry_run: bool,
    show: int,
    plan_path: str | None,
) -> Sweep:
    schema, run_id, bounds = config.schema(), clock.run_id, config.bounds()
    gauge = Gauge(Throttle(bounds, workers))
    lease = None if dry_run or not config.lock else Lease(target.routes, schema, run_id)
    checks = _checks(config, clock, lease)
    return Sweep(
        config=config,
        access=access,
        schema=schema,
        rule=config.rule(),
        observer=clock.observer,
        watch=RunWatch(clock, checks, gauge if bounds.any else None, lease),
        gauge=gauge,
        max_block_ms=bounds.block_ms(config.max_block_ms, workers),
        dry_run=dry_run,
        show=show,
        run_id=run_id,
        plan_path=Path(plan_path) if plan_path else None,
        lease=lease,
        journal=journal,
    )


def _checks(config: Config, clock: Clock, lease: Lease | None) -> Iterator[Check]:
    """What may end the run; the first that does is told in the report."""
    yield told_to(clock)
    yield lambda: clock.pool.ended if clock.pool else None
    if config.stop_file is not None:
        yield stop_file(config.stop_file)
    if config.time_budget is not None:
        yield time_budget(config.time_budget, lambda: clock.duration_s)
    if lease is not None:
        yield lambda: lease.keep(deleting=clock.now == "purge")


def _require_names(config: Config, plan_path: str | None, journal: str | None) -> None:
    """Refuse files of names where names do not come to this process, or to this machine.

    Raises:
        ConfigError: if that is so.
    """
    if plan_path is not None and config.memory_limit is not None:
        raise ConfigError(
            "--plan: with memory_limit names are not held all at once, as a plan file needs; leave "
            "out one of them"
        )
    if config.engine == "dask" and (plan_path or journal):
        raise ConfigError(
            f"{'--plan' if plan_path else '--journal'}: with engine dask names stay with its "
            "workers, and the file would be here; use engine processes"
        )


def _require_no_stop_file(config: Config) -> None:
    """Begin nothing that is to end at once.

    Raises:
        NotNowError: if the stop file is there.
    """
    if config.stop_file is not None and stop_file(config.stop_file)() is not None:
        raise NotNowError(
            f"the stop file {config.stop_file} is there: nothing was done; remove it, or name "
            "another with --stop-file",
            "stop_file",
        )


def _require_whole(config: Config, target: Target) -> None:
    """Refuse to sweep a part for the whole, unless that is asked for.

    Raises:
        RefusedError: if no reachable primary serves some slots.
    """
    if target.uncovered and not config.allow_partial:
        reasons = ""
        if target.unreachable:
            reasons = (
                f" ({'; '.join(target.unreachable)}; if an address that the cluster announces "
                "can't be reached from here, set redis.address_map)"
            )
        raise RefusedError(
            f"{len(target.uncovered):,} slots of the cluster are served by no primary that can "
            f"be reached{reasons}; nothing was deleted; --allow-partial sweeps the rest",
            "uncovered",
        )


def _refusals(sweep: Sweep, target: Target, tally: Tally) -> list[Problem]:
    """Why nothing may be deleted: what looks wrong, or that somebody says no."""
    scale = brakes.Scale(
        live=tally.live,
        known=tally.checked + tally.orphans_planned,
        dead=tally.stale + tally.orphans_planned,
        purged=tally.purged,
        keys=tally.size,
    )
    future = [tally.ahead] if tally.ahead else []
    refused = brakes.refusals(sweep.config.limits(), scale, target.clocks_ahead_ms, future)
    if refused or sweep.dry_run or scale.purged <= sweep.config.confirm_above:
        return refused
    if sweep.observer.confirm(tally.preview()) or sweep.watch.stopping():
        return []
    message = "the plan was not confirmed: --yes does not ask"
    return [Problem("not_confirmed", message, scale.purged)]


def _look_once_more(sweep: Sweep, before: Target, patience_s: float | None) -> Target | None:
    """How the servers are when all is done; None if they are out of reach by now."""
    try:
        return topology.rediscover(sweep.access, before, patience_s)
    except CleanupJobError:
        return None
