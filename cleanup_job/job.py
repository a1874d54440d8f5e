"""The coordinator process of the job, and its only composer.

`run` reads from top to bottom as the job does: find out what is there, walk all of it, judge,
plan, delete by plan, report. Stages do not know each other; frozen values pass through here.
"""

from __future__ import annotations

import heapq
import resource
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from time import perf_counter, process_time
from typing import TypeVar

from msgspec import structs

from cleanup_job import brakes, plan_file, topology, wire
from cleanup_job import journal as journals
from cleanup_job import report as reports
from cleanup_job.config import Config
from cleanup_job.errors import (
    BrokenOffError,
    CleanupJobError,
    ConfigError,
    CursorOrderError,
    NotNowError,
    OutOfMemoryError,
    RefusedError,
    ServerUnavailableError,
)
from cleanup_job.gauge import Gauge
from cleanup_job.judge import MOST_NAMED, Verdicts, decide
from cleanup_job.lease import LEASE_LOST, Lease, held, without_lease
from cleanup_job.model import (
    HEARTBEAT,
    UNTRIED,
    WORKER_LOST,
    Access,
    Batch,
    Broken,
    Findings,
    IdleTask,
    Importing,
    Kind,
    Lot,
    Outcome,
    Partition,
    Problem,
    PurgeTask,
    Rule,
    Sample,
    Schema,
    Server,
    SurveyTask,
    Target,
    Timings,
    merge_timings,
    pack,
    printable,
    unpack,
)
from cleanup_job.plan import (
    Plan,
    Preview,
    Scope,
    everything,
    hold_back,
    listed,
    make_plan,
    preview_of,
    scope_of,
)
from cleanup_job.plan_file import PlanFile
from cleanup_job.pool import Pool, map_again, open_pool, workers_for
from cleanup_job.purge import leave, look_at_lost, preflight, purge, spare
from cleanup_job.report import Report
from cleanup_job.survey import survey, survey_idle, without_slots
from cleanup_job.throttle import Throttle
from cleanup_job.watch import ADVICE, Check, RunWatch, stop_file, time_budget, told_to

T = TypeVar("T")

KEYS_PER_TASK = 8_000
"""Keys that a worker gets to delete at once: enough to keep several batches in flight, few
enough that a stop or a lost worker does not concern many."""

MAX_WALKS = 5
"""How often servers are walked because they restarted, failed over or took over slots."""

IDLE_KEYS_PER_TASK = 20_000
"""Keys of orphans whose idle time one task asks for: some 50 ms of work."""

MOST_SHOWN = 10
"""Coordinators that somebody sees who is asked to agree to a plan."""


class Observer:
    """What somebody who watches a run is told. This one ignores it; override what you need."""

    def found(self, target: Target) -> None:
        """These are the servers."""

    def began(self, phase: str, keys: int) -> None:
        """A phase over so many keys begins."""

    def advanced(self, keys: int) -> None:
        """So many more keys of the phase are done."""

    def walked(self, partition: Partition) -> None:
        """This share of the keyspace was walked to its end."""

    def ended(self) -> None:
        """The phase is over."""

    def confirm(self, preview: Preview) -> bool:  # noqa: ARG002 - for those who look
        """False to delete nothing. Asked of plans of more than `confirm_above` coordinators."""
        return True

    def paused(self, reason: str | None) -> None:
        """The throttle holds the run up, by this reason; None when it goes on.

        A reason begins with the name of its setting. What follows may change meanwhile.
        """

    def stopping(self) -> bool | str:
        """True to end the run: batches in flight finish, and the report says partial.

        A text says who asks for it.
        """
        return False


@dataclass(frozen=True)
class _Sweep:
    """What does not change during a run.

    Attributes:
        max_block_ms: the setting, or less where somebody else's latency asks for it.
    """

    config: Config
    access: Access
    schema: Schema
    rule: Rule
    observer: Observer
    watch: RunWatch
    gauge: Gauge
    max_block_ms: float
    dry_run: bool
    show: int
    run_id: str
    plan_path: Path | None
    lease: Lease | None
    journal: _Journal | None


@dataclass(frozen=True)
class _Surveyed:
    """The findings of all walks, and what they leave out.

    Attributes:
        target: the servers as they were after the last walk.
        uncovered: slots of which keys may have been missed, with the reason in `warnings`.
        stopped: the run is to end before anything is deleted.
    """

    target: Target
    findings: list[Findings]
    uncovered: frozenset[int]
    warnings: tuple[Problem, ...]
    stopped: bool = False

    def without_names(self) -> _Surveyed:
        """The same for when the names are in the verdicts, so that nothing is held twice."""
        return replace(self, findings=[found.without_names() for found in self.findings])

    @property
    def covered(self) -> bool:
        return not (self.uncovered or self.stopped)


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
        config: what to do, validated.
        dry_run: only tell what would go; sends no command that writes.
        show: how many samples of each verdict the report has.
        observer: is told of progress, and may stop the run.
        profile: where worker processes write their profiles; see `open_pool`.
        plan_path: a plan file. A dry run writes it (if it can't, the report has no `plan`, and a
            warning), another run deletes nothing that is not in it.
        journal: a file that takes all that is deleted, before it is, for `undo.restore`; or a
            folder for it. Without anything to delete there will be none.

    Raises:
        ConfigError: the plan file can't be read, or is damaged; the journal can't be there; nothing
            was deleted.
        ServerUnavailableError: the servers could not be surveyed; nothing was deleted.
        LockedError: another run is at the same keys.
        ServerRefusedError: they will not let us; nothing was deleted.
        RefusedError: part of a cluster is not there, and that was not allowed; the plan is for
            other servers or settings, or too old.
        NotNowError: the stop file is there already.
        OutOfMemoryError: this process got no more memory; nothing was deleted.
        BrokenOffError: the same in the middle of the purge; the next run goes on.
    """
    clock = _Clock(observer or Observer())
    _require_no_stop_file(config)
    journaled = _Journal(journal, clock) if journal else None
    by_plan = None if dry_run else _read_plan(config, plan_path)
    first = topology.discover(config.access())
    _require_whole(config, first)
    began_ms = topology.clock_ms(first.servers[0]) if plan_path else 0
    if by_plan:
        plan_file.require_target(by_plan, first)
        plan_file.require_young(by_plan, began_ms, config)
    clock.observer.found(first)
    workers = workers_for(config.workers, config.engine, first.keys)
    sweep = _prepare(
        config, clock, first, workers, journaled, dry_run=dry_run, show=show, plan_path=plan_path
    )
    with (
        held(sweep.lease, first.uncovered),
        open_pool(config.engine, workers, profile) as pool,
        closing(sweep.gauge),
    ):
        clock.pool = pool
        with clock.phase("survey", first.keys):
            surveyed = _survey(sweep, pool, first)
        with clock.phase("judge", 0):
            verdicts = decide(surveyed.findings, sweep.schema, surveyed.uncovered)
            surveyed = surveyed.without_names()
            scope = _scope(sweep, surveyed, verdicts, by_plan)
            plan = _plan(sweep, pool, surveyed, verdicts, scope)
            surveyed = _stopped_since(sweep, surveyed)
        refused = _refusals(sweep, surveyed.target, verdicts, plan)
        with clock.phase("purge", plan.size):
            goes = not (dry_run or refused)
            outcomes = _purge(sweep, pool, surveyed, plan) if goes else []
    plan_use = (
        _plan_use(by_plan, scope, plan)
        if by_plan
        else _write_plan(sweep, surveyed, verdicts, plan, began_ms)
    )
    hopeless = any(outcome.hopeless for outcome in outcomes)
    after = _look_once_more(sweep, surveyed.target, 0 if hopeless else None)
    seen = _Seen(first, surveyed.target, after)
    return _report(sweep, clock, seen, surveyed, verdicts, scope, plan, outcomes, refused, plan_use)


def _prepare(
    config: Config,
    clock: _Clock,
    target: Target,
    workers: int,
    journal: _Journal | None,
    *,
    dry_run: bool,
    show: int,
    plan_path: str | None,
) -> _Sweep:
    schema, run_id, bounds = config.schema(), clock.run_id, config.bounds()
    gauge = Gauge(Throttle(bounds, workers))
    lease = None if dry_run or not config.lock else Lease(target.routes, schema, run_id)
    checks = _checks(config, clock, lease)
    return _Sweep(
        config=config,
        access=config.access(),
        schema=schema,
        rule=config.rule(),
        observer=clock.observer,
        watch=RunWatch(clock.observer, checks, gauge if bounds.any else None, lease),
        gauge=gauge,
        max_block_ms=bounds.block_ms(config.max_block_ms, workers),
        dry_run=dry_run,
        show=show,
        run_id=run_id,
        plan_path=Path(plan_path) if plan_path else None,
        lease=lease,
        journal=journal,
    )


def _checks(config: Config, clock: _Clock, lease: Lease | None) -> Iterator[Check]:
    """What may end the run; the first that does is told in the report."""
    yield told_to(clock.observer)
    if config.stop_file is not None:
        yield stop_file(config.stop_file)
    if config.time_budget is not None:
        yield time_budget(config.time_budget, lambda: clock.duration_s)
    if lease is not None:
        yield lambda: lease.keep(deleting=clock.now == "purge")


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


class _Clock:
    """When the run began, and what its phases took: seconds, and the CPU of all processes.

    Attributes:
        now: the phase at hand.
    """

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.started_at = datetime.now(UTC)
        self.run_id = secrets.token_hex(4)
        self.pool: Pool | None = None
        self.now = ""
        self.wall_s: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}
        self._started = perf_counter()
        self._cpu_before_s = process_time()
        self._whole_cpu_before_s = _whole_cpu_s()

    @property
    def started_at_text(self) -> str:
        """RFC 3339, UTC."""
        return self.started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @contextmanager
    def phase(self, name: str, keys: int) -> Iterator[None]:
        began, cpu_before_s = perf_counter(), self.client_cpu_s
        self.now = name
        self.observer.began(name, keys)
        try:
            yield
        except MemoryError:
            raise _out_of_memory(name) from None
        finally:
            self.observer.ended()
            self.wall_s[name] = round(perf_counter() - began, 4)
            self.cpu_s[name] = round(self.client_cpu_s - cpu_before_s, 4)

    @property
    def duration_s(self) -> float:
        return round(perf_counter() - self._started, 4)

    @property
    def whole_cpu_s(self) -> float:
        """Of this process and of all that it has waited for: its workers, when they are gone."""
        return round(_whole_cpu_s() - self._whole_cpu_before_s, 4)

    @property
    def client_cpu_s(self) -> float:
        of_workers = self.pool.cpu_s if self.pool else 0.0
        return process_time() - self._cpu_before_s + of_workers


def _out_of_memory(phase: str) -> CleanupJobError:
    """What to tell when this process gets no more memory. A worker is replaced: see `processes`."""
    remedy = "give it more, or look for a limit (ulimit -v, MemoryMax=)"
    if phase == "purge":
        return BrokenOffError(
            f"out of memory in the middle of the purge, so there is no report; {remedy}; the next "
            "run goes on where this one ended",
            "out_of_memory",
        )
    return OutOfMemoryError(
        f"out of memory in the phase {phase}; nothing was deleted; {remedy}", "out_of_memory"
    )


class _Journal:
    """The journal of a run: see `journal`. It is made when the first key is about to go.

    Attributes:
        written: what is in it, when the run has ended.
        problems: why it has no end, although it may be whole.
    """

    def __init__(self, name: str, clock: _Clock) -> None:
        stamp = f"{clock.started_at:%Y%m%dT%H%M%SZ}-{clock.run_id}"
        self.path = journals.choose(name, stamp)
        self.written: journals.Written | None = None
        self.problems: list[Problem] = []
        self._clock = clock

    @property
    def partial(self) -> str:
        """What workers append to."""
        return str(journals.partial(self.path))

    @contextmanager
    def open(self, sweep: _Sweep, target: Target) -> Iterator[None]:
        """For as long as keys are deleted; gets its name however that ends.

        Raises:
            ConfigError: if it can't be made.
        """
        first = target.servers[0]
        opening = journals.Opening(
            format=journals.FORMAT,
            run_id=self._clock.run_id,
            started_at=self._clock.started_at_text,
            product=first.product,
            version=first.version,
            mode=target.mode,
            db=sweep.access.endpoint.db,
            nodes=[journals.Node(server.address, server.run_id) for server in target.servers],
            patterns={
                **{name: pattern.text for name, pattern in sweep.schema.owned},
                HEARTBEAT: sweep.schema.heartbeat.text,
            },
        )
        journals.begin(self.path, opening)
        try:
            yield
        except BaseException:
            # Workers may still be at it, so there is no end yet to be written.
            with suppress(OSError):
                journals.settle(self.path)
            raise
        try:
            self.written = journals.finish(self.path, opening)
        except journals.JournalError as error:
            self.problems.append(Problem(error.code, str(error), 1, (str(self.path),)))


def _whole_cpu_s() -> float:
    waited_for = resource.getrusage(resource.RUSAGE_CHILDREN)
    return process_time() + waited_for.ru_utime + waited_for.ru_stime


@dataclass(frozen=True)
class _Seen:
    """The servers as they were before the survey, behind it, and in the end if they answered."""

    first: Target
    surveyed: Target
    last: Target | None

    def nodes(self) -> list[reports.NodeUse]:
        """Those that were surveyed, with what they did from first to last."""
        known = {server.run_id: server for server in self.first.servers}
        before = [known.get(server.run_id, server) for server in self.surveyed.servers]
        return reports.nodes_of(before, self.last.servers if self.last else ())

    def server_cpu_s(self) -> dict[str, float | None]:
        """By phase. The judge asks little, and only of orphans: that is counted with the purge."""
        now = self.last.servers if self.last else ()
        return {
            "survey": _cpu_s_between(self.first.servers, self.surveyed.servers),
            "judge": None,
            "purge": _cpu_s_between(self.surveyed.servers, now),
        }


def _cpu_s_between(before: Sequence[Server], after: Sequence[Server]) -> float | None:
    """None if one of the servers is not there any more, or if nobody looked again."""
    known = {server.run_id for server in after}
    if before is after or any(server.run_id not in known for server in before):
        return None
    return reports.sum_up(reports.nodes_of(before, after)).cpu_s


# -- survey ----------------------------------------------------------------------------------


def _survey(sweep: _Sweep, pool: Pool, target: Target) -> _Surveyed:
    """Walk all servers, and again those that may have got keys behind the walk's back.

    One that is *deadly*, since every worker dies on its way through it, is not walked again.
    Findings are kept by server, since a new walk of one is worth more than the last.
    """
    warnings: list[Problem] = []
    findings: dict[str, list[Findings]] = {}
    settled: frozenset[tuple[str, Importing]] = frozenset()
    again: tuple[Server, ...] = target.servers
    deadly: set[str] = set()
    for walk in range(MAX_WALKS):
        results = _walk(sweep, pool, again, target, warnings)
        for server in again:
            findings[server.address] = [
                found
                for found in results
                if isinstance(found, Findings) and found.partition.node == server.address
            ]
        if sweep.watch.stopping():
            warnings.append(_stopped(sweep, "in the survey: nothing was judged or deleted"))
            return _Surveyed(target, [], frozenset(), tuple(warnings), stopped=True)
        if walk:
            settled |= {(server.node_id, slot) for server in again for slot in server.importing}
        broken = {found.partition.node: found for found in results if isinstance(found, Broken)}
        _require_walked(broken, target)
        of_deadly = [found for found in broken.values() if found.kills_workers]
        deadly.update(found.partition.node for found in of_deadly)
        warnings += [Problem(found.code, found.reason, 1) for found in of_deadly]
        before, target = target, topology.rediscover(sweep.access, target)
        again = topology.to_walk_again(before, target, settled)
        again += tuple(s for s in target.servers if s.address in broken and s not in again)
        again = tuple(server for server in again if server.address not in deadly)
        if not again:
            break
        names = tuple(server.address for server in again)
        message = "servers restarted, failed over or took over slots, and were walked again"
        warnings.append(Problem("walked_again", message, len(again), names[:3]))
    again += tuple(server for server in target.servers if server.address in deadly)
    uncovered = target.uncovered.union(*(server.slot_set() for server in again))
    if uncovered and not target.clustered:
        raise ServerUnavailableError(
            f"{target.servers[0].address} restarted in each of {MAX_WALKS} surveys; nothing was "
            "deleted",
            "restarting",
        )
    if uncovered:
        message = "slots were not covered: their server was gone or kept changing, or workers died"
        where = (*(server.address for server in again), *target.unreachable)
        samples = (*topology.slot_texts(uncovered)[:3], *where[:3])
        warnings.append(Problem("uncovered", message, len(uncovered), samples))
    everything = [found for some in findings.values() for found in some]
    if target.uncovered:
        everything = [without_slots(f, sweep.schema, target.uncovered) for f in everything]
    return _Surveyed(target, everything, uncovered, tuple(reports.merge_problems(warnings)))


def _stopped(sweep: _Sweep, when: str) -> Problem:
    """Who ended the run, and when."""
    ended_by = sweep.watch.ended_by
    assert ended_by is not None, "it was ended"
    advice = ADVICE.get(ended_by.code)
    return Problem("stopped", f"{ended_by.message} {when}" + (f"; {advice}" if advice else ""), 1)


def _stopped_since(sweep: _Sweep, surveyed: _Surveyed) -> _Surveyed:
    """The same, but marked if the run was ended since the survey."""
    if surveyed.stopped or not sweep.watch.stopping():
        return surveyed
    warning = _stopped(sweep, "before the purge: nothing was deleted")
    return replace(surveyed, stopped=True, warnings=(*surveyed.warnings, warning))


def _require_walked(broken: dict[str, Broken], target: Target) -> None:
    """A standalone server that can't be walked ends the run; a cluster's may fail over.

    Raises:
        ServerUnavailableError: with the reason of the walk.
    """
    if broken and not target.clustered:
        first = next(iter(broken.values()))
        raise ServerUnavailableError(f"{first.reason}; nothing was deleted", first.code)


def _walk(
    sweep: _Sweep, pool: Pool, servers: Sequence[Server], target: Target, warnings: list[Problem]
) -> list[Findings | Broken]:
    """Walk these servers once, each in partitions if it has an order to cut by."""
    ready = [topology.confirmed(server) for server in servers]
    partitions = topology.partitions(ready, pool.workers)
    wire.close_all()  # workers are forked at their first task, and no connection should exist then
    try:
        return _walk_partitions(sweep, pool, partitions, target)
    except CursorOrderError as error:
        warnings.append(Problem(error.code, f"{error}; walked in one sequence instead", 1))
        return _walk_partitions(sweep, pool, [*map(topology.whole, servers)], target)


def _walk_partitions(
    sweep: _Sweep, pool: Pool, partitions: Sequence[Partition], target: Target
) -> list[Findings | Broken]:
    endpoints = {server.address: server.endpoint for server in target.servers}
    tasks = [
        SurveyTask(
            endpoints[partition.node],
            partition,
            sweep.schema,
            sweep.rule,
            target.clustered,
            sweep.max_block_ms,
            sweep.config.max_attempts,
        )
        for partition in partitions
    ]
    results: list[Findings | Broken] = []

    def again(task: SurveyTask, runs: int) -> SurveyTask | None:
        """A walk only reads, so what a lost worker had may simply be done again."""
        if runs < sweep.config.max_attempts and not sweep.watch.stopping():
            return structs.replace(task, attempt=runs + 1)
        results.append(_broken(task.partition, pool))
        return None

    per_node = _per_node(sweep, pool, target)
    sweep.gauge.watch(server.endpoint for server in target.servers)
    for task, found in map_again(pool, survey, tasks, sweep.watch, again, per_node=per_node):
        results.append(_broken(task.partition, pool) if found is UNTRIED else found)
        if isinstance(found, Findings):
            sweep.observer.walked(task.partition)
    return results


def _broken(partition: Partition, pool: Pool) -> Broken:
    """A partition whose walks ended with their workers."""
    reason = (
        f"worker processes died ({', '.join(_deaths(pool))}) on the way through {partition.range} "
        f"of {partition.node}; look for a memory limit, set fewer workers or engine: serial"
    )
    return Broken(partition, reason, WORKER_LOST)


def _deaths(pool: Pool) -> tuple[str, ...]:
    """How workers died, the usual way first."""
    causes = Counter(pool.deaths or ["nobody saw how"])
    return tuple(f"{cause}: {times}" for cause, times in causes.most_common(3))


def _per_node(sweep: _Sweep, pool: Pool, target: Target) -> int:
    """How many workers may be on one primary; by default its share of them, at least two."""
    if sweep.config.per_node != "auto":
        return sweep.config.per_node
    return max(2, -(-pool.workers // len(target.servers)))


# -- plan ------------------------------------------------------------------------------------


def _plan(sweep: _Sweep, pool: Pool, surveyed: _Surveyed, verdicts: Verdicts, scope: Scope) -> Plan:
    """What will go: everything of stale coordinators, and of orphans if it is asked for."""
    target = surveyed.target
    if sweep.config.orphans != "purge" or not _tracks_idle_time(target):
        return make_plan(
            verdicts,
            sweep.schema,
            clustered=target.clustered,
            covered=surveyed.covered,
            left_out=scope.left_out,
        )
    young = _young_orphans(sweep, pool, surveyed, verdicts, scope.orphans)
    return make_plan(
        verdicts,
        sweep.schema,
        clustered=target.clustered,
        covered=surveyed.covered,
        orphans=scope.orphans - young,
        orphan_grace_s=sweep.config.orphan_grace,
        left_out=scope.left_out,
    )


def _tracks_idle_time(target: Target) -> bool:
    return all(server.tracks_idle_time for server in target.servers)


def _young_orphans(
    sweep: _Sweep,
    pool: Pool,
    surveyed: _Surveyed,
    verdicts: Verdicts,
    orphans: frozenset[bytes],
) -> set[bytes]:
    """Those of which some key was touched within `orphan_grace`, or nobody can tell."""
    owner = {
        key: name
        for family in verdicts.orphans
        for name, keys in family.items()
        if name in orphans
        for key in keys
    }
    tasks = [
        IdleTask(surveyed.target.routes, sweep.schema, pack(keys), sweep.config.orphan_grace)
        for keys in _chunks(list(owner), IDLE_KEYS_PER_TASK)
    ]
    young: set[bytes] = set()

    def again(task: IdleTask, runs: int) -> IdleTask | None:
        if runs < sweep.config.max_attempts and not sweep.watch.stopping():
            return task
        # As good as touched: nobody knows.
        young.update(owner[key] for key in unpack(task.keys))
        return None

    for task, touched in map_again(pool, survey_idle, tasks, sweep.watch, again):
        touched = unpack(task.keys) if touched is UNTRIED else touched
        young.update(owner[key] for key in touched)
    return young


# -- brakes ----------------------------------------------------------------------------------


def _refusals(sweep: _Sweep, target: Target, verdicts: Verdicts, plan: Plan) -> list[Problem]:
    """Why nothing may be deleted: what looks wrong, or that somebody says no."""
    scale = brakes.Scale(
        live=len(verdicts.live),
        known=verdicts.checked + len(plan.orphans),
        dead=len(verdicts.stale.ids) + len(plan.orphans),
        purged=plan.coordinators,
        keys=plan.size,
    )
    refused = brakes.refusals(
        sweep.config.limits(), scale, _clocks_ahead_ms(target), verdicts.kept_as(Kind.FUTURE)
    )
    if refused or sweep.dry_run or scale.purged <= sweep.config.confirm_above:
        return refused
    if sweep.observer.confirm(preview_of(plan, verdicts, MOST_SHOWN)) or sweep.watch.stopping():
        return []
    message = "the plan was not confirmed: --yes does not ask"
    return [Problem("not_confirmed", message, scale.purged)]


def _clocks_ahead_ms(target: Target) -> dict[str, int]:
    return {server.address: server.clock_ahead_ms for server in target.servers}


# -- the plan as a file ------------------------------------------------------------------------


def _read_plan(config: Config, path: str | None) -> PlanFile | None:
    """The plan to execute, if there is one; all is checked that takes no server."""
    if path is None:
        return None
    by_plan = plan_file.read(Path(path))
    plan_file.require_settings(by_plan, config, config.endpoint().db)
    return by_plan


def _scope(
    sweep: _Sweep, surveyed: _Surveyed, verdicts: Verdicts, by_plan: PlanFile | None
) -> Scope:
    """What may go: anything dead, or only what is in the plan and still dead."""
    if by_plan is None or surveyed.stopped:
        return everything(verdicts)
    plan_file.require_target(by_plan, surveyed.target)
    return scope_of(verdicts, sweep.schema, by_plan.coordinators())


def _plan_use(by_plan: PlanFile, scope: Scope, plan: Plan) -> reports.PlanUse:
    header = by_plan.header
    return reports.PlanUse(
        file=str(by_plan.path),
        created_at=header.created_at,
        coordinators=header.coordinators,
        keys=by_plan.keys,
        due=plan.coordinators,
        gone_or_alive=scope.gone_or_alive,
        changed=len(scope.changed),
    )


def _write_plan(
    sweep: _Sweep, surveyed: _Surveyed, verdicts: Verdicts, plan: Plan, began_ms: int
) -> reports.PlanUse | Problem | None:
    """Write the plan of a dry run, if it is asked for; what came of it."""
    path = sweep.plan_path
    if path is None:
        return None
    if surveyed.stopped:
        message = f"--plan: {path} is not written, since the run was stopped"
        return Problem(plan_file.UNFINISHED, message, 1)
    header = plan_file.header_for(
        sweep.config,
        plan_file.PlannedTarget.of(surveyed.target, sweep.access.endpoint.db),
        sweep.run_id,
        began_ms,
        plan.coordinators,
        plan.counts,
    )
    try:
        plan_file.write(path, header, listed(verdicts, sweep.schema, plan.orphans))
    except ConfigError as error:
        # The run was good for its report, which must not be lost with the file.
        return Problem(plan_file.NOT_WRITTEN, str(error), 1)
    count = header.coordinators
    return reports.PlanUse(str(path), header.created_at, count, plan.size, due=count)


# -- purge -----------------------------------------------------------------------------------


def _purge(sweep: _Sweep, pool: Pool, surveyed: _Surveyed, plan: Plan) -> list[Outcome]:
    """Delete by plan, wave after wave: see `plan` for why heartbeats may have to wait."""
    target = surveyed.target
    if not plan.size:
        return []
    if sweep.watch.stopping():
        return [leave(_task(sweep, target, (plan.lot, plan.last), plan.batches))]
    target = _rehearsed(sweep, target, plan.min_idle_s)
    with sweep.journal.open(sweep, target) if sweep.journal else nullcontext():
        return _purge_waves(sweep, pool, surveyed, target, plan)


def _purge_waves(
    sweep: _Sweep, pool: Pool, surveyed: _Surveyed, target: Target, plan: Plan
) -> list[Outcome]:
    outcomes = _purge_wave(sweep, pool, target, plan.lot, plan.batches)
    if not surveyed.covered:
        # There may be keys of anybody's in what was not covered. Without its heartbeat the next
        # run would take them for an orphan's.
        return [*outcomes, _leave(sweep, target, plan.last)]
    last, failed = hold_back(plan.last, _all(outcome.unsettled for outcome in outcomes))
    last, spared = hold_back(last, _all(outcome.spared for outcome in outcomes))
    problem = _may_come_back(sweep, target, outcomes) if last.ids else None
    if _is_unrecorded(outcomes):
        outcomes.append(_leave(sweep, target, last))
    elif problem is None:
        outcomes += _purge_wave(sweep, pool, target, last)
    else:
        left = _leave(sweep, target, last)
        outcomes.append(structs.replace(left, problems=(*left.problems, problem)))
    return [*outcomes, _leave(sweep, target, failed), spare(_task(sweep, target, (spared,)))]


def _rehearsed(sweep: _Sweep, target: Target, min_idle_s: int) -> Target:
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


def _is_unrecorded(outcomes: Iterable[Outcome]) -> bool:
    """True if the journal could not be written, so that nothing more may be deleted."""
    problems = chain.from_iterable(outcome.problems for outcome in outcomes)
    return any(problem.code == "journal" for problem in problems)


def _may_come_back(sweep: _Sweep, target: Target, outcomes: Sequence[Outcome]) -> Problem | None:
    """Why keys that were deleted may come back without their heartbeats, so that those must stay.

    A server that restarted may have loaded a snapshot from before the first wave. In a cluster, a
    replica that takes over may not have heard of the last deletes; on one server that is no harm,
    since heartbeats go last there too, but in a cluster a heartbeat is on another server. Without
    it the keys would be an orphan's.
    """
    left = "heartbeats were left, since"
    if any(outcome.hopeless for outcome in outcomes):
        return Problem("heartbeats_left", f"{left} a server was gone", 1)
    try:
        now = topology.rediscover(sweep.access, target)
        new = topology.replaced(target, now)
        behind = topology.behind(now) if target.clustered else ()
    except CleanupJobError as error:
        return Problem("heartbeats_left", f"{left} {error}", 1)
    if new:
        message = f"{left} servers restarted or failed over"
        return Problem("heartbeats_left", message, len(new), _addresses(new))
    if behind:
        message = f"{left} replicas do not have all deletions yet"
        return Problem("heartbeats_left", message, len(behind), _addresses(behind))
    return None


def _addresses(servers: Iterable[Server]) -> tuple[str, ...]:
    return tuple(server.address for server in islice(servers, 3))


class _PurgeWatch:
    """The run's, and no new batch for anybody once a server is gone for good.

    Every task would wait for it anew.
    """

    def __init__(self, watch: RunWatch) -> None:
        self.advanced = watch.advanced
        self.allowance = watch.allowance
        self._watch = watch
        self.hopeless = False

    @property
    def holds_until_s(self) -> float:
        return self._watch.holds_until_s

    def stopping(self) -> bool:
        return self.hopeless or self._watch.stopping()


def _purge_wave(
    sweep: _Sweep, pool: Pool, target: Target, lot: Lot, batches: Sequence[Batch] = ()
) -> list[Outcome]:
    tasks = _tasks(sweep, target, lot, batches, pool.workers)
    outcomes: list[Outcome] = []
    watch = _PurgeWatch(sweep.watch)
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
            take(leave(rest, _used_up(runs)))
            return None
        return rest

    for task, outcome in map_again(pool, purge, tasks, watch, again):
        if outcome is UNTRIED:
            outcome = leave(task, None if watch.stopping() else _no_workers(pool))
        take(outcome)
    return outcomes


def _used_up(runs: int) -> CleanupJobError:
    times = "the worker process died" if runs == 1 else f"each of {runs} worker processes died"
    return CleanupJobError(
        f"{times} that had these keys to delete (max_attempts): they were left", "max_attempts"
    )


def _no_workers(pool: Pool) -> CleanupJobError:
    return CleanupJobError(
        f"worker processes die whatever they do ({', '.join(_deaths(pool))}), so keys were left; "
        "look for a memory limit, set fewer workers or engine: serial",
        WORKER_LOST,
    )


def _tasks(
    sweep: _Sweep, target: Target, lot: Lot, batches: Sequence[Batch], workers: int
) -> Iterator[PurgeTask]:
    """The wave in tasks: one where nobody shares it, so that its batches never stop flowing."""
    if workers == 1:
        yield _task(sweep, target, (lot,), batches)
        return
    for part in lot.parts(KEYS_PER_TASK):
        yield _task(sweep, target, (part,))
    for some in _task_sized(batches):
        yield _task(sweep, target, (), some)


def _task_sized(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """The batches in groups of about `KEYS_PER_TASK` keys."""
    group: list[Batch] = []
    size = 0
    for batch in batches:
        group.append(batch)
        size += batch.size
        if size >= KEYS_PER_TASK:
            yield group
            group, size = [], 0
    if group:
        yield group


def _leave(sweep: _Sweep, target: Target, lot: Lot) -> Outcome:
    return leave(_task(sweep, target, (lot,)))


def _task(
    sweep: _Sweep, target: Target, lots: Sequence[Lot], batches: Sequence[Batch] = ()
) -> PurgeTask:
    return PurgeTask(
        target.routes,
        sweep.schema,
        sweep.rule,
        tuple(lots),
        tuple(batches),
        sweep.max_block_ms,
        sweep.journal.partial if sweep.journal else "",
    )


# -- report ----------------------------------------------------------------------------------


def _look_once_more(sweep: _Sweep, before: Target, patience_s: float | None) -> Target | None:
    """How the servers are when all is done; None if they are out of reach by now."""
    try:
        return topology.rediscover(sweep.access, before, patience_s)
    except CleanupJobError:
        return None


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
    return [Problem("failed_over", message, len(new), _addresses(new))]


def _report(
    sweep: _Sweep,
    clock: _Clock,
    seen: _Seen,
    surveyed: _Surveyed,
    verdicts: Verdicts,
    scope: Scope,
    plan: Plan,
    outcomes: Sequence[Outcome],
    refused: Sequence[Problem],
    plan_use: reports.PlanUse | Problem | None,
) -> Report:
    target = surveyed.target
    matched = dict(zip(sweep.schema.family_names, verdicts.matched, strict=True))
    # The report names the heartbeats first, as people think of them.
    matched = {HEARTBEAT: matched[HEARTBEAT], **matched}
    # The lease was among them when they were counted.
    scanned = target.keys - (sweep.lease is not None and sweep.lease.forgone is None)
    keys = reports.count_keys(scanned, matched, plan.counts, outcomes)
    problems = chain.from_iterable(outcome.problems for outcome in outcomes)
    errors = reports.merge_problems(problems)
    goes = not (sweep.dry_run or refused)
    if goes:
        errors += reports.imbalances(keys)
    elif not sweep.dry_run:
        errors += refused
    if sweep.watch.ended_by is not None and sweep.watch.ended_by.code == LEASE_LOST:
        errors.append(sweep.watch.ended_by)
    not_attempted = sum(outcome.not_attempted for outcome in outcomes)
    ended_by = sweep.watch.ended_by
    if not_attempted:
        why = f": {ended_by.message}; the next run goes on" if ended_by else ""
        message = f"planned keys were left in place when the run ended{why}"
        errors.append(Problem("not_attempted", message, not_attempted))
    if sweep.journal:
        errors += sweep.journal.problems
    if plan.size and goes:
        errors += _undone(target, seen.last)
    timings = {
        "survey": merge_timings(found.timings for found in surveyed.findings),
        "judge": {},
        "purge": merge_timings(outcome.timings for outcome in outcomes),
    }
    losses = _losses(outcomes)
    nodes = seen.nodes()
    return Report(
        status=_status(sweep, surveyed, keys, errors, refused),
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
        coordinators=_coordinators(verdicts, outcomes),
        keys=keys,
        phases=reports.Phases(**{f"{name}_s": wall_s for name, wall_s in clock.wall_s.items()}),
        commands=reports.summarize_timings(merge_timings(timings.values())),
        costs=_costs(clock, seen, timings),
        server=reports.sum_up(nodes),
        client=reports.ClientUse(clock.whole_cpu_s),
        nodes=nodes,
        workers=clock.pool.workers if clock.pool else 1,
        journal=sweep.journal.written if sweep.journal else None,
        partitions=reports.walks(surveyed.findings),
        throttle=_pauses(sweep, clock),
        stopped_by=ended_by.code if ended_by and (surveyed.stopped or not_attempted) else None,
        losses=[reports.Loss(printable(name), keys) for name, keys in losses.items()],
        samples=[reports.example(sample) for sample in _samples(verdicts, sweep)],
        plan=plan_use if isinstance(plan_use, reports.PlanUse) else None,
        warnings=[
            *without_lease(sweep.lease),
            *surveyed.warnings,
            *(_would_be_refused(refused) if sweep.dry_run else ()),
            *_clock_warnings(sweep, target, verdicts, refused),
            *_plan_warnings(sweep, scope, plan_use),
            *_warnings(sweep, surveyed, verdicts, scope, plan, outcomes),
            *_lost_workers(clock.pool),
        ],
        errors=errors,
    )


def _status(
    sweep: _Sweep,
    surveyed: _Surveyed,
    keys: reports.Keys,
    errors: Sequence[Problem],
    refused: Sequence[Problem],
) -> str:
    if refused and not sweep.dry_run:
        return "refused"
    return reports.status_of(keys, errors, covered=surveyed.covered, dry_run=sweep.dry_run)


def _would_be_refused(refused: Sequence[Problem]) -> Iterator[Problem]:
    """For a dry run, which refuses nothing, but is made to find out."""
    for problem in refused:
        yield structs.replace(problem, message=f"a run would be refused: {problem.message}")


def _clock_warnings(
    sweep: _Sweep, target: Target, verdicts: Verdicts, refused: Sequence[Problem]
) -> list[Problem]:
    """That clocks differ, unless that is said already."""
    if any(problem.code == brakes.CLOCK_SKEW for problem in refused):
        return []
    future = verdicts.kept_as(Kind.FUTURE)
    return brakes.clock_warnings(sweep.config.limits(), _clocks_ahead_ms(target), future)


def _costs(
    clock: _Clock, seen: _Seen, timings: Mapping[str, Timings]
) -> dict[str, reports.PhaseCost]:
    server_cpu_s = seen.server_cpu_s()
    return {
        name: reports.PhaseCost(
            wall_s=wall_s,
            client_cpu_s=clock.cpu_s[name],
            server_cpu_s=server_cpu_s[name],
            commands=reports.summarize_timings(timings[name]),
        )
        for name, wall_s in clock.wall_s.items()
    }


def _pauses(sweep: _Sweep, clock: _Clock) -> list[reports.Pause]:
    ledger = sweep.gauge.throttle.ledger
    waited_s = clock.pool.waited_s if clock.pool else 0.0
    code = "max_keys_per_second"
    ledger.rested(code, f"{code}: rests between batches", waited_s)
    return [
        reports.Pause(code, entry.message, entry.pauses, round(entry.seconds, 3))
        for code, entry in ledger.entries.items()
    ]


def _coordinators(verdicts: Verdicts, outcomes: Sequence[Outcome]) -> reports.Coordinators:
    orphans = _all(outcome.orphans_purged for outcome in outcomes)
    kept = _all(outcome.spared | outcome.unsettled for outcome in outcomes)
    return reports.Coordinators(
        checked=verdicts.checked,
        live=len(verdicts.live),
        stale=len(verdicts.stale.ids),
        unreadable=len(verdicts.kept_as(Kind.UNREADABLE)),
        future=len(verdicts.kept_as(Kind.FUTURE)),
        orphaned=len(verdicts.orphan_ids()),
        purged=sum(len(outcome.purged) for outcome in outcomes),
        revived=len(_revived(outcomes)),
        orphans_purged=len(orphans - kept),
    )


def _all(parts: Iterable[frozenset[bytes]]) -> set[bytes]:
    return set[bytes]().union(*parts)


def _revived(outcomes: Sequence[Outcome]) -> set[bytes]:
    """Those that came back before they were purged; one that did so later began anew."""
    return _without_purged(_all(outcome.revived for outcome in outcomes), outcomes)


def _without_purged(ids: set[bytes], outcomes: Iterable[Outcome]) -> set[bytes]:
    return ids.difference(*(outcome.purged for outcome in outcomes)) if ids else ids


def _losses(outcomes: Sequence[Outcome]) -> dict[bytes, int]:
    """Keys that coordinators had lost when they came back, by id: see `purge`.

    One whose new heartbeat can't be read, or lies in the future, is not called revived. It lost
    its keys all the same.
    """
    back = _without_purged(_all(outcome.rewritten for outcome in outcomes), outcomes)
    if not back:
        return {}
    begun: Counter[bytes] = Counter()
    for outcome in outcomes:
        begun.update(outcome.begun)
    return {name: begun[name] for name in sorted(back) if begun[name]}


def _samples(verdicts: Verdicts, sweep: _Sweep) -> Iterator[Sample]:
    """Some of each verdict: the oldest of the stale, and the first of the others."""
    show = sweep.show
    stale = verdicts.stale
    oldest = heapq.nlargest(show, zip(stale.ages_ms, stale.ids, strict=True))
    for age_ms, name in oldest:
        yield Sample(name, Kind.STALE, "older than stale_after", age_ms)
    orphans = [] if sweep.config.orphans == "ignore" else sorted(verdicts.orphan_ids())
    for name in orphans[:show]:
        keys = sum(len(family.get(name, ())) for family in verdicts.orphans)
        yield Sample(name, Kind.ORPHANED, f"no heartbeat, {keys} keys")
    for kind in (Kind.UNREADABLE, Kind.FUTURE):
        yield from islice(verdicts.kept_as(kind), show)


def _plan_warnings(
    sweep: _Sweep, scope: Scope, plan_use: reports.PlanUse | Problem | None
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
    sweep: _Sweep,
    surveyed: _Surveyed,
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
        if not _tracks_idle_time(surveyed.target):
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
    spared = _all(outcome.spared for outcome in outcomes)
    if verdicts.crowded:
        message = f"keys were kept that name more than {MOST_NAMED} stale coordinators"
        yield Problem("crowded", message, len(verdicts.crowded), _names(verdicts.crowded))
    losses = _losses(outcomes)
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
        yield Problem(WORKER_LOST, message, pool.reruns, _deaths(pool))
    else:
        message = "worker processes died"
        yield Problem(WORKER_LOST, message, len(pool.deaths), _deaths(pool))


def _names(ids: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(printable(name) for name in islice(ids, 3))


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
