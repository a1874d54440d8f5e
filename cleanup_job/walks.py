"""The job's half of the survey: who is walked, again, and what that leaves out.

All servers are walked once. Those that restarted, failed over or took over slots meanwhile may
have got keys behind the walk's back, and are walked again. A walk only reads, so one that was lost
with its worker is simply made again. What was not covered in the end is said, and never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from msgspec import structs

from cleanup_job import report as reports
from cleanup_job import topology, wire
from cleanup_job.errors import CursorOrderError, ServerUnavailableError
from cleanup_job.judge import Verdicts
from cleanup_job.model import (
    UNTRIED,
    WORKER_LOST,
    Broken,
    Findings,
    IdleTask,
    Importing,
    Partition,
    Problem,
    Server,
    SurveyTask,
    Target,
    pack,
    unpack,
)
from cleanup_job.pool import Pool, deaths_of, map_again
from cleanup_job.reduce import survey_and_keep
from cleanup_job.shelf import Done, Work, map_works
from cleanup_job.survey import survey, survey_idle, without_slots
from cleanup_job.sweep import Surveyed, Sweep
from cleanup_job.watch import ADVICE

T = TypeVar("T")

MAX_WALKS = 5
"""How often servers are walked because they restarted, failed over or took over slots."""

IDLE_KEYS_PER_TASK = 20_000
"""Keys of orphans whose idle time one task asks for: some 50 ms of work."""


def walk_all(sweep: Sweep, pool: Pool, target: Target) -> Surveyed:
    """Walk all servers, and again those that may have got keys behind the walk's back.

    One that is *deadly*, since every worker dies on its way through it, is not walked again.
    Findings are kept by server, since a new walk of one is worth more than the last.

    Raises:
        ServerUnavailableError: a standalone server can't be walked, or restarts each time.
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
            return Surveyed(target, [], frozenset(), tuple(warnings), stopped=True)
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
    if target.uncovered and sweep.shelf is None:
        everything = [without_slots(f, sweep.schema, target.uncovered) for f in everything]
    return Surveyed(target, everything, uncovered, tuple(reports.merge_problems(warnings)))


def _stopped(sweep: Sweep, when: str) -> Problem:
    """Who ended the run, and when."""
    ended_by = sweep.watch.ended_by
    assert ended_by is not None, "it was ended"
    advice = ADVICE.get(ended_by.code)
    return Problem("stopped", f"{ended_by.message} {when}" + (f"; {advice}" if advice else ""), 1)


def stopped_since(sweep: Sweep, surveyed: Surveyed) -> Surveyed:
    """The same, but marked if the run was ended since the survey."""
    if surveyed.stopped or not sweep.watch.stopping():
        return surveyed
    warning = _stopped(sweep, "before the purge: nothing was deleted")
    return structs.replace(surveyed, stopped=True, warnings=(*surveyed.warnings, warning))


def _require_walked(broken: dict[str, Broken], target: Target) -> None:
    """A standalone server that can't be walked ends the run; a cluster's may fail over.

    Raises:
        ServerUnavailableError: with the reason of the walk.
    """
    if broken and not target.clustered:
        first = next(iter(broken.values()))
        raise ServerUnavailableError(f"{first.reason}; nothing was deleted", first.code)


def _walk(
    sweep: Sweep, pool: Pool, servers: Sequence[Server], target: Target, warnings: list[Problem]
) -> list[Findings | Broken]:
    """Walk these servers once, each in partitions if it has an order to cut by."""
    ready = [topology.confirmed(server) for server in servers]
    partitions = topology.partitions(ready, pool.workers, is_far=pool.is_far)
    wire.close_all()  # workers are forked at their first task, and no connection should exist then
    try:
        return _walk_partitions(sweep, pool, partitions, target)
    except CursorOrderError as error:
        warnings.append(Problem(error.code, f"{error}; walked in one sequence instead", 1))
        return _walk_partitions(sweep, pool, [*map(topology.whole, servers)], target)


def _walk_partitions(
    sweep: Sweep, pool: Pool, partitions: Sequence[Partition], target: Target
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
    for task, found in _surveyed(sweep, pool, tasks, again, per_node):
        results.append(_broken(task.partition, pool) if found is UNTRIED else found)
        if isinstance(found, Findings):
            sweep.observer.walked(task.partition)
    return results


def _surveyed(
    sweep: Sweep,
    pool: Pool,
    tasks: Sequence[SurveyTask],
    again: Callable[[SurveyTask, int], SurveyTask | None],
    per_node: int,
) -> Iterator[tuple[SurveyTask, Any]]:
    """Each task with its findings, which may stay on the shelf."""
    if sweep.shelf is None:
        yield from map_again(pool, survey, tasks, sweep.watch, again, per_node=per_node)
        return

    def work_again(work: Work, runs: int) -> Work | None:
        task = again(work.task, runs)
        return None if task is None else Work(task)

    works = map(Work, tasks)
    for work, done in map_works(
        sweep.shelf, pool, survey_and_keep, works, sweep.watch, work_again, per_node=per_node
    ):
        found = done.told if isinstance(done, Done) else done
        if isinstance(found, Findings) and found.shelved is not None:
            there = structs.replace(found.shelved, ref=done.refs[0])
            found = structs.replace(found, shelved=there)
        yield work.task, found


def _broken(partition: Partition, pool: Pool) -> Broken:
    """A partition whose walks ended with their workers."""
    reason = (
        f"worker processes died ({', '.join(deaths_of(pool))}) on the way through "
        f"{partition.range} of {partition.node}; look for a memory limit, set fewer workers or "
        "engine: serial"
    )
    return Broken(partition, reason, WORKER_LOST)


def _per_node(sweep: Sweep, pool: Pool, target: Target) -> int:
    """How many workers may be on one primary; by default its share of them, at least two."""
    if sweep.config.per_node != "auto":
        return sweep.config.per_node
    return max(2, -(-pool.workers // len(target.servers)))


def young_orphans(
    sweep: Sweep,
    pool: Pool,
    surveyed: Surveyed,
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


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
