"""The job's half of judging and deleting in ranges of ids, with names that never come here.

It gives out what `reduce` describes, and puts together what comes back: tallies, and outcomes. The
order is that of `waves`: first whole coordinators and owned keys, of all ranges, then the
heartbeats that had to wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from msgspec import structs

from cleanup_job.errors import ServerUnavailableError
from cleanup_job.model import UNTRIED, WORKER_LOST, Outcome, Problem, Ref, Shelved, Target
from cleanup_job.outcomes import all_spared, all_unsettled, is_hopeless, is_unrecorded
from cleanup_job.plan import Scope
from cleanup_job.pool import Pool, deaths_of
from cleanup_job.ranges import IdRange, bounds_of, ranges_between
from cleanup_job.reduce import (
    UNHEARD,
    CutTask,
    PortionInfo,
    PortionTask,
    RangeJudged,
    RangeTask,
    cut,
    judge_range,
    purge_portion,
    unheard,
    unsent,
)
from cleanup_job.shelf import Done, Shelf, ShelfStage, Work, map_works
from cleanup_job.sweep import Judged, Surveyed, Sweep
from cleanup_job.tally import Fate, whole_of
from cleanup_job.waves import (
    PurgeWatch,
    journal_of,
    may_come_back,
    no_workers,
    rehearsed,
    task_of,
)


class FindingsLostError(Exception):
    """Findings were lost with their worker: the walk has to be made again."""


class _Unfinished(Exception):  # noqa: N818 - it is no error
    """The run is to end before all is judged."""


def judge_in_ranges(sweep: Sweep, shelf: Shelf, pool: Pool, surveyed: Surveyed) -> Judged | None:
    """Who is what, and what will go of it: range by range, where the findings are.

    Returns:
        None if the run is to end.

    Raises:
        FindingsLostError: see there.
        ServerUnavailableError: workers die whatever they do.
    """
    findings = [found.shelved for found in surveyed.findings if found.shelved is not None]
    widths = frozenset[int]().union(*(found.widths for found in findings))
    names, size = sum(found.names for found in findings), sum(found.size for found in findings)
    ranges = shelf.ranges_for(names, size)
    bounds = bounds_of((found.sample for found in findings), ranges)
    pieces: list[list[Ref]] = []
    try:
        pieces = _cut(sweep, shelf, pool, surveyed, findings, widths, bounds)
        return _judge(sweep, shelf, pool, surveyed, widths, bounds, pieces)
    except _Unfinished:
        return None
    except FindingsLostError:
        # What is left of it is of no use beside another walk.
        shelf.drop(found.ref for found in findings)
        shelf.drop(chain.from_iterable(pieces))
        raise


def _cut(
    sweep: Sweep,
    shelf: Shelf,
    pool: Pool,
    surveyed: Surveyed,
    findings: Sequence[Shelved],
    widths: frozenset[int],
    bounds: Sequence[bytes],
) -> list[list[Ref]]:
    """Cut all findings; where the pieces of each range are."""
    refs = [found.ref for found in findings]
    task = CutTask(sweep.schema, widths, tuple(bounds), surveyed.target.uncovered)
    works = [Work(task, some) for some in shelf.together(refs)]
    pieces: list[list[Ref]] = [[] for _ in range(len(bounds) + 1)]
    for _, done in _all(sweep, shelf, pool, cut, works):
        for some, ref in zip(pieces, done.refs, strict=True):
            some.append(ref)
    shelf.drop(refs)
    return pieces


def _judge(
    sweep: Sweep,
    shelf: Shelf,
    pool: Pool,
    surveyed: Surveyed,
    widths: frozenset[int],
    bounds: Sequence[bytes],
    pieces: Sequence[Sequence[Ref]],
) -> Judged:
    target = surveyed.target

    def task(own: IdRange) -> RangeTask:
        return RangeTask(
            own,
            target.routes,
            sweep.schema,
            sweep.rule,
            widths,
            surveyed.uncovered,
            sweep.config.orphans == "purge" and target.tracks_idle_time,
            sweep.config.orphan_grace,
            sweep.show,
            not sweep.dry_run,
            # For one worker a portion is no more than a place where its pipeline runs dry.
            pool.is_far or pool.workers == 1,
        )

    works = [
        Work(task(own), tuple(refs))
        for own, refs in zip(ranges_between(bounds), pieces, strict=True)
    ]
    in_order = sorted(
        _all(sweep, shelf, pool, judge_range, works), key=lambda one: one[0].task.own.first
    )
    done = [one for _, one in in_order]
    told: list[RangeJudged] = [one.told for one in done]
    late = frozenset[bytes]().union(*(one.late for one in told))
    tally = whole_of([one.tally for one in told], sweep.show)
    portions = [
        (info, ref)
        for one in done
        for info, ref in zip(one.told.portions, one.refs, strict=True)
        if not info.straddler or tally.straddling[info.straddler].fate is Fate.PLANNED
    ]
    for some in pieces:
        shelf.drop(some)
    shelf.secure(ref for _, ref in portions)
    if not shelf.has(ref for _, ref in portions):
        # A worker was lost before there were copies. Nothing is deleted yet, so that it costs time.
        if sweep.watch.stopping():
            raise _Unfinished
        raise FindingsLostError
    return Judged(tally, None, Scope(frozenset()), tuple(portions), late, len(told))


def _all(
    sweep: Sweep, shelf: Shelf, pool: Pool, stage: ShelfStage, works: Sequence[Work]
) -> Iterator[tuple[Work, Done]]:
    """All of these done, or none of it is worth anything.

    Raises:
        FindingsLostError: what they need was lost with its worker.
        ServerUnavailableError: workers die whatever they do.
        _Unfinished: the run is to end.
    """

    def again(work: Work, runs: int) -> Work | None:
        if sweep.watch.stopping():
            return None
        if not shelf.has(work.refs):
            raise FindingsLostError
        return work if runs < sweep.config.max_attempts else None

    finished, is_lost = 0, False
    for work, done in map_works(shelf, pool, stage, works, sweep.watch, again):
        if isinstance(done, Done):
            finished += 1
            yield work, done
        else:
            is_lost = is_lost or not shelf.has(work.refs)
    if sweep.watch.stopping():
        raise _Unfinished
    if is_lost:
        raise FindingsLostError
    if finished < len(works):
        raise ServerUnavailableError(
            f"worker processes died ({', '.join(deaths_of(pool))}) while they judged; nothing was "
            "deleted; look for a memory limit, or set fewer workers",
            WORKER_LOST,
        )


# -- the purge -------------------------------------------------------------------------------


def purge_in_ranges(
    sweep: Sweep, shelf: Shelf, pool: Pool, surveyed: Surveyed, judged: Judged
) -> list[Outcome]:
    """Delete by plan, wave after wave, as `waves.purge_all` does."""
    if not judged.tally.size:
        return []
    if sweep.watch.stopping():
        return [_left(sweep, info) for info, _ in judged.portions]
    orphans_too = judged.tally.orphans_planned
    target = rehearsed(sweep, surveyed.target, sweep.config.orphan_grace if orphans_too else 0)
    with journal_of(sweep, target):
        return _Purging(sweep, shelf, pool, target, judged).run(covered=surveyed.covered)


def _left(sweep: Sweep, info: PortionInfo) -> Outcome:
    return unsent(info, sweep.schema.family_names, None)


class _Purging:
    """The state of a purge in ranges.

    Attributes:
        waiting: what of each portion is not told of yet: heartbeats that are late, in the end.
        is_nameless: something may be left of coordinators of which nobody knows the names.
    """

    def __init__(
        self, sweep: Sweep, shelf: Shelf, pool: Pool, target: Target, judged: Judged
    ) -> None:
        self._sweep = sweep
        self._shelf = shelf
        self._pool = pool
        self._target = target
        self._judged = judged
        self._watch = PurgeWatch(sweep.watch)
        self.outcomes: list[Outcome] = []
        self.waiting = {ref: Counter(info.counts) for info, ref in judged.portions}
        self.is_nameless = False
        is_shared = any(info.has_batches for info, _ in judged.portions) or bool(judged.late)
        self._blank = PortionTask(task_of(sweep, target), is_brief=not is_shared)

    def run(self, *, covered: bool) -> list[Outcome]:
        judged = self._judged
        first = [(info, ref) for info, ref in judged.portions if info.wave == 0]
        last = [(info, ref) for info, ref in judged.portions if info.wave == 1]
        self._wave(
            Work(structs.replace(self._blank, info=info, late=info.may_hold(judged.late)), (ref,))
            for info, ref in first
        )
        with_late = [(info, ref) for info, ref in first if self.waiting[ref].total()]
        if not (last or with_late):
            return self.outcomes
        problem = LOST_WITH_NAMES if self.is_nameless and not self._watch.stopping() else None
        if covered and problem is None:
            problem = may_come_back(self._sweep, self._target, self.outcomes)
        if covered and problem is None and not is_unrecorded(self.outcomes):
            self._last_wave(last, with_late)
        else:
            self._leave([*last, *with_late], problem)
        return self.outcomes

    def _last_wave(
        self,
        last: Sequence[tuple[PortionInfo, Ref]],
        with_late: Sequence[tuple[PortionInfo, Ref]],
    ) -> None:
        """The heartbeats whose coordinators are through, but those of which something is left."""
        spared, unsettled = all_spared(self.outcomes), all_unsettled(self.outcomes)

        def task(info: PortionInfo, late: frozenset[bytes]) -> PortionTask:
            return structs.replace(
                self._blank,
                info=info,
                late=late,
                only_late=bool(late),
                spared=info.may_hold(spared),
                unsettled=info.may_hold(unsettled),
            )

        none: frozenset[bytes] = frozenset()
        late = self._judged.late
        works = [Work(task(info, none), (ref,)) for info, ref in last]
        works += [Work(task(info, info.may_hold(late)), (ref,)) for info, ref in with_late]
        self._wave(works)

    def _leave(self, portions: Sequence[tuple[PortionInfo, Ref]], problem: Problem | None) -> None:
        """Count what waits for the last wave, which will not be."""
        self.outcomes += [_left(self._sweep, self._rest(info, ref)) for info, ref in portions]
        if problem is not None:
            outcome = self.outcomes.pop()
            problems = (*outcome.problems, problem)
            self.outcomes.append(structs.replace(outcome, problems=problems))

    def _rest(self, info: PortionInfo, ref: Ref) -> PortionInfo:
        """A portion without what is told of it already."""
        return structs.replace(info, counts=dict(self.waiting[ref]))

    def _wave(self, works: Iterable[Work]) -> None:
        self._sweep.gauge.watch(server.endpoint for server in self._target.servers)
        for work, done in map_works(
            self._shelf, self._pool, purge_portion, works, self._watch, self._again
        ):
            self._take(work, [self._untried(work)] if done is UNTRIED else done.told)

    def _again(self, work: Work, runs: int) -> Work | None:
        """What is left of a lost portion, as long as it may run again."""
        task: PortionTask = work.task
        if task.gives_up or not self._shelf.has(work.refs):
            self._take(work, [self._unheard(work)])
            return None
        ends = runs >= self._sweep.config.max_attempts or self._watch.stopping()
        return structs.replace(work, task=structs.replace(task, runs=runs, gives_up=ends))

    def _untried(self, work: Work) -> Outcome:
        task: PortionTask = work.task
        if task.runs:
            return self._unheard(work)  # it was begun, and nobody looked at it since
        self.is_nameless = True
        problem = None
        if not self._watch.stopping():
            error = no_workers(self._pool)
            problem = Problem(error.code, str(error), 0)
            if not self._shelf.has(work.refs):
                problem = UNHEARD
        rest = self._rest(task.info, work.refs[0])
        return unsent(rest, self._sweep.schema.family_names, problem)

    def _unheard(self, work: Work) -> Outcome:
        self.is_nameless = True
        rest = self._rest(work.task.info, work.refs[0])
        return unheard(rest, self._sweep.schema.family_names)

    def _take(self, work: Work, outcomes: Sequence[Outcome]) -> None:
        self.outcomes += outcomes
        for outcome in outcomes:
            for family, became in outcome.counts.items():
                self.waiting[work.refs[0]][family] -= sum(became.values())
        self._watch.hopeless = self._watch.hopeless or is_hopeless(outcomes)


LOST_WITH_NAMES = Problem(
    "heartbeats_left",
    "heartbeats were left, since keys were left with lost workers that may be theirs",
    1,
)
