"""The coordinator process of the job, and its only composer.

`run` reads from top to bottom as the job does: find out what is there, walk all of it, judge,
plan, delete by plan, report. Stages do not know each other; frozen values pass through here.
"""

from __future__ import annotations

import heapq
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from time import perf_counter
from typing import TypeVar

from cleanup_job import report as reports
from cleanup_job import topology, wire
from cleanup_job.config import Config
from cleanup_job.errors import CleanupJobError, CursorOrderError, ServerUnavailableError
from cleanup_job.judge import Verdicts, decide
from cleanup_job.model import (
    HEARTBEAT,
    Batch,
    Endpoint,
    Findings,
    IdleTask,
    Kind,
    Outcome,
    Partition,
    Problem,
    PurgeTask,
    Rule,
    Sample,
    Schema,
    Server,
    SurveyTask,
    merge_timings,
    pack,
    printable,
)
from cleanup_job.plan import Plan, hold_back, make_plan
from cleanup_job.pool import Pool, open_pool, workers_for
from cleanup_job.purge import account_for_lost, leave, preflight, purge
from cleanup_job.report import Report
from cleanup_job.survey import survey, survey_idle

T = TypeVar("T")

BATCHES_PER_TASK = 8
"""Batches that a worker gets at once: enough to keep two in flight, few enough that a stop
or a lost worker concerns some 8,000 keys."""

MAX_SURVEYS = 3
"""How often the survey is made because the server restarted under it."""

IDLE_KEYS_PER_TASK = 20_000
"""Keys of orphans whose idle time one task asks for: some 50 ms of work."""


class Observer:
    """What somebody who watches a run is told. This one ignores it; override what you need."""

    def found(self, server: Server) -> None:
        """This is the server."""

    def began(self, phase: str, keys: int) -> None:
        """A phase over so many keys begins."""

    def advanced(self, keys: int) -> None:
        """So many more keys of the phase are done."""

    def ended(self) -> None:
        """The phase is over."""

    def stopping(self) -> bool:
        """True to end the run: batches in flight finish, and the report says partial."""
        return False


@dataclass(frozen=True)
class _Sweep:
    """What does not change during a run."""

    config: Config
    endpoint: Endpoint
    schema: Schema
    rule: Rule
    observer: Observer
    dry_run: bool
    show: int


@dataclass(frozen=True)
class _Surveyed:
    """All partitions' findings. Without `covered` they are worth nothing."""

    server: Server
    findings: list[Findings]
    covered: bool
    warnings: tuple[Problem, ...]


def run(
    config: Config, *, dry_run: bool = False, show: int = 5, observer: Observer | None = None
) -> Report:
    """Find dead coordinators and delete what is theirs.

    Args:
        config: what to do, validated.
        dry_run: only tell what would go; sends no command that writes.
        show: how many samples of each verdict the report has.
        observer: is told of progress, and may stop the run.

    Raises:
        ServerUnavailableError: the server could not be surveyed; nothing was deleted.
        ServerRefusedError: it will not let us; nothing was deleted.
    """
    clock = _Clock(observer or Observer())
    sweep = _Sweep(
        config, config.endpoint(), config.schema(), config.rule(), clock.observer, dry_run, show
    )
    server = topology.discover(wire.borrow(sweep.endpoint))
    sweep.observer.found(server)
    workers = workers_for(config.workers, config.engine, server.keys)
    wire.discard(sweep.endpoint)  # workers are forked next, and no connection should exist then
    with open_pool(config.engine, workers) as pool:
        with clock.phase("survey", server.keys):
            surveyed = _survey(sweep, pool, server)
        with clock.phase("judge", 0):
            verdicts = decide(surveyed.findings, sweep.schema)
            plan = _plan(sweep, pool, surveyed, verdicts)
        with clock.phase("purge", plan.size):
            outcomes = [] if dry_run else _purge(sweep, pool, plan)
    usage = _usage(sweep)
    return _report(sweep, clock, pool.workers, surveyed, verdicts, plan, outcomes, usage)


class _Clock:
    """When the run began, and how long its phases took."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.started_at = datetime.now(UTC)
        self.started = perf_counter()
        self.phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, keys: int) -> Iterator[None]:
        began = perf_counter()
        self.observer.began(name, keys)
        try:
            yield
        finally:
            self.observer.ended()
            self.phases[f"{name}_s"] = round(perf_counter() - began, 4)

    @property
    def duration_s(self) -> float:
        return round(perf_counter() - self.started, 4)


# -- survey ----------------------------------------------------------------------------------


def _survey(sweep: _Sweep, pool: Pool, server: Server) -> _Surveyed:
    """Walk all partitions on one and the same server process.

    The order of a walk depends on a seed that each server process draws anew, so shares from
    before and after a restart do not make a whole.
    """
    warnings: list[Problem] = []
    for _ in range(MAX_SURVEYS):
        try:
            findings = _walk(sweep, pool, topology.partitions(server, pool.workers), server)
        except CursorOrderError as error:
            warnings.append(Problem(error.code, f"{error}; walked in one sequence instead", 1))
            findings = _walk(sweep, pool, topology.whole(server), server)
        if sweep.observer.stopping():
            message = "stopped during the survey: nothing was judged or deleted"
            return _Surveyed(server, [], False, (*warnings, Problem("stopped", message, 1)))
        before, server = server, topology.discover(wire.borrow(sweep.endpoint))
        if before.run_id == server.run_id:
            return _Surveyed(before, findings, True, tuple(warnings))
        message = "the server restarted during the survey, which began anew"
        warnings.append(Problem("restarted", message, 1))
    raise ServerUnavailableError(
        f"{server.address} restarted in each of {MAX_SURVEYS} surveys; nothing was deleted",
        "restarting",
    )


def _walk(
    sweep: _Sweep, pool: Pool, partitions: Sequence[Partition], server: Server
) -> list[Findings]:
    tasks = [
        SurveyTask(sweep.endpoint, partition, sweep.schema, sweep.rule, server.keys)
        for partition in partitions
    ]
    results = list(pool.map(survey, tasks, sweep.observer))
    # A walk only reads, so what a lost worker had may simply be done again.
    lost = [task for task, found in results if found is None]
    with open_pool("serial", 1) as here:
        results += here.map(survey, lost, sweep.observer)
    return [found for _, found in results if found is not None]


# -- plan ------------------------------------------------------------------------------------


def _plan(sweep: _Sweep, pool: Pool, surveyed: _Surveyed, verdicts: Verdicts) -> Plan:
    """What will go: everything of stale coordinators, and of orphans if it is asked for."""
    if sweep.config.orphans != "purge" or not surveyed.server.tracks_idle_time:
        return make_plan(verdicts, sweep.schema)
    young = _young_orphans(sweep, pool, verdicts)
    return make_plan(
        verdicts,
        sweep.schema,
        orphans=verdicts.orphan_ids() - young,
        orphan_grace_s=sweep.config.orphan_grace,
    )


def _young_orphans(sweep: _Sweep, pool: Pool, verdicts: Verdicts) -> set[bytes]:
    """The orphans of which some key was touched within `orphan_grace`."""
    owner = {
        key: name for family in verdicts.orphans for name, keys in family.items() for key in keys
    }
    tasks = [
        IdleTask(sweep.endpoint, pack(keys), sweep.config.orphan_grace)
        for keys in _chunks(list(owner), IDLE_KEYS_PER_TASK)
    ]
    young: set[bytes] = set()
    for task, touched in pool.map(survey_idle, tasks, sweep.observer):
        if touched is None:
            raise ServerUnavailableError(
                f"lost a worker while it looked at orphans ({len(task.keys)} bytes of names); "
                "nothing was deleted",
                "worker_lost",
            )
        young.update(owner[key] for key in touched)
    return young


# -- purge -----------------------------------------------------------------------------------


def _purge(sweep: _Sweep, pool: Pool, plan: Plan) -> list[Outcome]:
    """Delete by plan, wave after wave: see `plan` for why heartbeats may have to wait."""
    if not plan.batches or sweep.observer.stopping():
        return [_leave(sweep, plan.batches)]
    preflight(sweep.endpoint, sweep.schema, plan.min_idle_s)
    first = [batch for batch in plan.batches if batch.wave == 0]
    outcomes = _purge_wave(sweep, pool, first)
    unsettled = frozenset[bytes]().union(*(outcome.unsettled for outcome in outcomes))
    last, held_back = hold_back((batch for batch in plan.batches if batch.wave == 1), unsettled)
    outcomes += _purge_wave(sweep, pool, last)
    return [*outcomes, _leave(sweep, held_back)]


def _purge_wave(sweep: _Sweep, pool: Pool, batches: Sequence[Batch]) -> list[Outcome]:
    tasks = [_task(sweep, some) for some in _chunks(batches, BATCHES_PER_TASK)]
    outcomes = []
    for task, outcome in pool.map(purge, tasks, sweep.observer):
        outcomes.append(outcome or account_for_lost(task))
    return outcomes


def _leave(sweep: _Sweep, batches: Sequence[Batch]) -> Outcome:
    return leave(_task(sweep, batches))


def _task(sweep: _Sweep, batches: Sequence[Batch]) -> PurgeTask:
    return PurgeTask(sweep.endpoint, sweep.schema, sweep.rule, tuple(batches))


# -- report ----------------------------------------------------------------------------------


def _usage(sweep: _Sweep) -> topology.Usage | None:
    """What the server has used; None if it is out of reach by now, which loses no report."""
    try:
        return topology.usage(wire.borrow(sweep.endpoint))
    except CleanupJobError:
        return None


def _report(
    sweep: _Sweep,
    clock: _Clock,
    workers: int,
    surveyed: _Surveyed,
    verdicts: Verdicts,
    plan: Plan,
    outcomes: Sequence[Outcome],
    usage: topology.Usage | None,
) -> Report:
    server = surveyed.server
    matched = dict(zip(sweep.schema.family_names, verdicts.matched, strict=True))
    # The report names the heartbeats first, as people think of them.
    matched = {HEARTBEAT: matched[HEARTBEAT], **matched}
    keys = reports.count_keys(server.keys, matched, plan.counts(sweep.schema), outcomes)
    problems = chain.from_iterable(outcome.problems for outcome in outcomes)
    errors = reports.merge_problems(problems)
    if not sweep.dry_run:
        errors += reports.imbalances(keys)
    not_attempted = sum(outcome.not_attempted for outcome in outcomes)
    if not_attempted:
        message = "planned keys were left in place when the run ended"
        errors.append(Problem("not_attempted", message, not_attempted))
    timings = [found.timings for found in surveyed.findings]
    timings += [outcome.timings for outcome in outcomes]
    return Report(
        status=reports.status_of(keys, errors, covered=surveyed.covered, dry_run=sweep.dry_run),
        dry_run=sweep.dry_run,
        run_id=secrets.token_hex(4),
        started_at=clock.started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        duration_s=clock.duration_s,
        target=reports.Target(
            product=server.product,
            version=server.version,
            mode=server.mode,
            nodes=[server.address],
            db=sweep.endpoint.db,
        ),
        coordinators=_coordinators(verdicts, plan, outcomes),
        keys=keys,
        phases=reports.Phases(**clock.phases),
        commands=reports.summarize_timings(merge_timings(timings)),
        server=reports.ServerUse()
        if usage is None
        else reports.ServerUse(
            cpu_s=round(usage.cpu_s - server.cpu_s, 4),
            used_memory_before=server.used_memory,
            used_memory_after=usage.used_memory,
        ),
        workers=workers,
        partitions=reports.walks(surveyed.findings),
        samples=[reports.example(sample) for sample in _samples(verdicts, sweep)],
        warnings=[*surveyed.warnings, *_warnings(sweep, surveyed, verdicts, plan, outcomes)],
        errors=errors,
    )


def _coordinators(
    verdicts: Verdicts, plan: Plan, outcomes: Sequence[Outcome]
) -> reports.Coordinators:
    purged = set[bytes]().union(*(outcome.purged for outcome in outcomes))
    spared = set[bytes]().union(*(outcome.spared for outcome in outcomes))
    unsettled = set[bytes]().union(*(outcome.unsettled for outcome in outcomes))
    revived = set[bytes]().union(*(outcome.revived for outcome in outcomes))
    purged -= spared | unsettled
    return reports.Coordinators(
        checked=verdicts.checked,
        live=len(verdicts.live),
        stale=len(verdicts.stale),
        unreadable=len(verdicts.kept_as(Kind.UNREADABLE)),
        future=len(verdicts.kept_as(Kind.FUTURE)),
        orphaned=len(verdicts.orphan_ids()),
        purged=len(purged & verdicts.stale.keys()),
        revived=len(revived),
        orphans_purged=len(purged & plan.orphans),
    )


def _samples(verdicts: Verdicts, sweep: _Sweep) -> Iterator[Sample]:
    """Some of each verdict: the oldest of the stale, and the first of the others."""
    show = sweep.show
    stale = heapq.nlargest(show, verdicts.stale.items(), key=lambda item: item[1].age_ms)
    for name, beat in stale:
        yield Sample(name, Kind.STALE, "older than stale_after", beat.age_ms)
    orphans = [] if sweep.config.orphans == "ignore" else sorted(verdicts.orphan_ids())
    for name in orphans[:show]:
        keys = sum(len(family.get(name, ())) for family in verdicts.orphans)
        yield Sample(name, Kind.ORPHANED, f"no heartbeat, {keys} keys")
    for kind in (Kind.UNREADABLE, Kind.FUTURE):
        yield from islice(verdicts.kept_as(kind), show)


def _warnings(
    sweep: _Sweep,
    surveyed: _Surveyed,
    verdicts: Verdicts,
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
        if not surveyed.server.tracks_idle_time:
            message = (
                "orphans were not purged: under its LFU eviction policy the server does not "
                "know how long a key was untouched"
            )
            yield Problem("no_idle_time", message, len(orphans), _names(orphans))
        elif orphans - plan.orphans:
            young = orphans - plan.orphans
            message = (
                f"orphans were kept: a key was touched within {sweep.config.orphan_grace} s, or "
                "the server can't tell (small integers), or it could name too many ids"
            )
            yield Problem("orphans_kept", message, len(young), _names(young))
    spared = set[bytes]().union(*(outcome.spared for outcome in outcomes))
    if spared:
        message = "coordinators changed after they were judged, and were spared"
        yield Problem("spared", message, len(spared), _names(spared))


def _names(ids: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(printable(name) for name in islice(ids, 3))


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
