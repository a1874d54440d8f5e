"""The reduce in ranges of ids: what workers do with findings that do not come to the job.

    survey and keep      partition  → findings, which stay
    cut                  findings   → a piece for each range, which stay
    judge range          pieces     → a tally for the job; portions of the plan, which stay
    purge portion        portion    → outcome

Each is a `shelf.ShelfStage`: a function of a picklable task, of the values that the task refers to,
and of the worker's pulse. They compose what `judge`, `plan`, `survey` and `purge` do for everybody.

A key may name ids of other ranges. They are asked for at the server (`survey.look_up`): of most
keys it is none, and nobody has to carry the ids of all ranges about. Those that are stale come in
as *guests*, whose heartbeats guard the key like any other. If a guest is the only dead one that a
key names, the key is the guest's, and the guest is *late*: its own range must not delete its
heartbeat before the key is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import msgspec
from msgspec import structs

from cleanup_job.judge import Guests, Verdicts, decide
from cleanup_job.keyspace import slot_of
from cleanup_job.model import (
    OUTCOMES,
    WORKER_LOST,
    Batch,
    Broken,
    Findings,
    IdleTask,
    Lot,
    Outcome,
    Problem,
    Pulse,
    PurgeTask,
    Ref,
    Routes,
    Rule,
    Schema,
    SurveyTask,
    pack,
)
from cleanup_job.plan import (
    Plan,
    Portion,
    hold_back,
    is_checkable,
    make_plan,
    orphan_batches,
    portions,
)
from cleanup_job.purge import leave, look_at_lost, purge, spare, used_up
from cleanup_job.ranges import IdRange, foreign_names, pieces, shelved, straddling
from cleanup_job.shelf import Left, just
from cleanup_job.survey import look_up, survey, survey_idle, without_slots
from cleanup_job.tally import Fate, Straddler, Tally, tally_of

NOWHERE = Ref("")


def survey_and_keep(task: SurveyTask, values: Iterator[object], pulse: Pulse) -> Left:
    """Walk one partition, and tell of it all but the names."""
    del values
    found = survey(task, pulse)
    if isinstance(found, Broken):
        return just(found)
    told = structs.replace(found.without_names(), shelved=shelved(found, task.schema, NOWHERE))
    return Left(lambda: told, [found])


class CutTask(msgspec.Struct, frozen=True):
    """Cut findings at these bounds.

    Attributes:
        lost_slots: what may go and lies there is left out: see `survey.without_slots`.
    """

    schema: Schema
    widths: frozenset[int]
    bounds: tuple[bytes, ...]
    lost_slots: frozenset[int] = frozenset()


def cut(task: CutTask, values: Iterator[Findings], pulse: Pulse) -> Left:
    """The findings of some partitions, cut into what is at home in each range."""
    del pulse
    ranges: list[list[Findings]] = [[] for _ in range(len(task.bounds) + 1)]
    for found in values:
        if task.lost_slots:
            found = without_slots(found, task.schema, task.lost_slots)
        for parts, part in zip(
            ranges, pieces(found, task.schema, task.widths, task.bounds), strict=True
        ):
            parts.append(part)
    return Left(lambda: None, ranges)


class RangeTask(msgspec.Struct, frozen=True):
    """Judge one range of ids, and plan what will go of it.

    Attributes:
        uncovered: slots of which keys may have been missed.
        purges_orphans: they go too, if all of their keys are idle for `orphan_grace_s`.
        plans: somebody will execute the plan.
        coarse: see `plan.portions`.
    """

    own: IdRange
    routes: Routes
    schema: Schema
    rule: Rule
    widths: frozenset[int]
    uncovered: frozenset[int]
    purges_orphans: bool
    orphan_grace_s: int
    show: int
    plans: bool
    coarse: bool


class PortionInfo(msgspec.Struct, frozen=True):
    """A portion of a plan, for those who do not have it.

    Attributes:
        counts: its keys by family.
        first: the least of its ids that have a heartbeat which goes with it.
        last: the greatest of these; both empty where there are none.
        wave: as of `model.Batch`.
        has_batches: it has keys that name coordinators of other portions too.
        straddler: the orphan whose keys they all are, if other ranges have a say in that.
    """

    counts: dict[str, int]
    first: bytes
    last: bytes
    wave: int
    has_batches: bool
    straddler: bytes = b""

    @property
    def size(self) -> int:
        """How many keys it has."""
        return sum(self.counts.values())

    def may_hold(self, names: Iterable[bytes]) -> frozenset[bytes]:
        """Those of these ids that may be in it."""
        return frozenset(name for name in names if self.first <= name <= self.last)


NO_INFO = PortionInfo({}, b"", b"", 0, has_batches=False)


class RangeJudged(msgspec.Struct, frozen=True):
    """What the job learns of one range.

    Attributes:
        portions: what it left, in that order.
        late: guests whose keys are in these portions.
    """

    tally: Tally
    portions: tuple[PortionInfo, ...]
    late: frozenset[bytes]


def judge_range(task: RangeTask, values: Iterator[list[Findings]], pulse: Pulse) -> Left:
    """Who is what in a range of ids, and what will go.

    Raises:
        CleanupJobError: as `look_up` and `survey_idle` do.
    """
    parts = [*chain.from_iterable(values)]
    verdicts = decide(parts, task.schema, task.uncovered, _guests(task, parts, pulse), task.widths)
    parts.clear()
    orphans = verdicts.orphan_ids()
    straddles = straddling(orphans, task.own)
    old = orphans - _young(task, verdicts, pulse) if task.purges_orphans else set[bytes]()
    plan = make_plan(
        verdicts,
        task.schema,
        clustered=task.routes.clustered,
        covered=not task.uncovered,
        orphans=old - straddles,
        orphan_grace_s=task.orphan_grace_s,
    )
    apart = {name: _straddler(task, name, verdicts, is_old=name in old) for name in straddles}
    tally = tally_of(
        verdicts,
        plan,
        task.schema,
        show=task.show,
        young=orphans - plan.orphans - straddles if task.purges_orphans else (),
        straddles=apart,
    )
    if not task.plans:
        return just(RangeJudged(tally, (), frozenset()))
    late = _late(verdicts)
    infos: list[PortionInfo] = []

    def left() -> Iterator[Portion]:
        """One by one, since they are copies of the plan."""
        for portion, wave in _portions(plan, task):
            infos.append(_info(portion, task.schema, wave))
            yield portion
        for name, one in apart.items():
            if one.fate is Fate.PLANNED:
                portion = _portion_of_straddler(task, name, verdicts)
                infos.append(structs.replace(_info(portion, task.schema, 0), straddler=name))
                yield portion

    return Left(lambda: RangeJudged(tally, tuple(infos), late), left())


def _guests(task: RangeTask, parts: Sequence[Findings], pulse: Pulse) -> Guests:
    names = foreign_names(parts, task.schema, task.widths, task.own)
    if task.uncovered:
        heartbeat = task.schema.heartbeat
        names = [n for n in names if slot_of(heartbeat.key_for(n)) not in task.uncovered]
    return look_up(names, task.routes, task.schema, task.rule, pulse)


def _young(task: RangeTask, verdicts: Verdicts, pulse: Pulse) -> set[bytes]:
    """Orphans of which some key was touched too lately, or nobody can tell."""
    owner = {
        key: name for family in verdicts.orphans for name, keys in family.items() for key in keys
    }
    idle = IdleTask(task.routes, task.schema, pack([*owner]), task.orphan_grace_s)
    return {owner[key] for key in survey_idle(idle, pulse)}


def _straddler(task: RangeTask, orphan: bytes, verdicts: Verdicts, *, is_old: bool) -> Straddler:
    """An orphan of which other ranges may have keys too: it goes if they say so as well."""
    families = zip(task.schema.family_names, verdicts.orphans, strict=False)
    keys = {name: len(family.get(orphan, ())) for name, family in families}
    if not task.purges_orphans:
        return Straddler(Fate.REPORTED, keys)
    may_go = is_old and is_checkable(orphan, verdicts, task.schema)
    return Straddler(Fate.PLANNED if may_go else Fate.YOUNG, keys)


def _portion_of_straddler(task: RangeTask, orphan: bytes, verdicts: Verdicts) -> Portion:
    batches = orphan_batches(
        [orphan], verdicts, task.schema, task.orphan_grace_s, clustered=task.routes.clustered
    )
    return Portion((), tuple(batches))


def _late(verdicts: Verdicts) -> frozenset[bytes]:
    """Guests that own keys here."""
    guests = {verdicts.stale.places[name] for name in verdicts.guests}
    if not guests:
        return frozenset()
    owners = set(chain.from_iterable(owned.owners for owned in verdicts.owned))
    return frozenset(verdicts.stale.ids[place] for place in guests & owners)


def _portions(plan: Plan, task: RangeTask) -> Iterator[tuple[Portion, int]]:
    for portion in portions(plan.lot, plan.batches, coarse=task.coarse):
        yield portion, 0
    for portion in portions(plan.last, coarse=task.coarse):
        yield portion, 1


def _info(portion: Portion, schema: Schema, wave: int) -> PortionInfo:
    ids = [
        name
        for lot in portion.lots
        for name, slot in zip(lot.ids, lot.slots or [0] * len(lot.ids), strict=True)
        if slot is not None
    ]
    return PortionInfo(
        portion.counts(schema),
        min(ids, default=b""),
        max(ids, default=b""),
        wave,
        has_batches=bool(portion.batches),
    )


class PortionTask(msgspec.Struct, frozen=True):
    """Delete a portion of a plan.

    Attributes:
        blank: what to delete by, without anything to delete.
        info: of the portion.
        late: ids whose heartbeats must not go before the last wave.
        only_late: this is the last wave, and only they go.
        spared: ids of whose heartbeats it is known that they are to stay.
        unsettled: the same, since something of theirs is left.
        runs: how often the portion may have been begun.
        gives_up: what is left of it is left.
        is_brief: the job is not to hold the names of what went well.
    """

    blank: PurgeTask
    info: PortionInfo = NO_INFO
    late: frozenset[bytes] = frozenset()
    only_late: bool = False
    spared: frozenset[bytes] = frozenset()
    unsettled: frozenset[bytes] = frozenset()
    runs: int = 0
    gives_up: bool = False
    is_brief: bool = True

    def split(self, portion: Portion) -> tuple[PurgeTask, PurgeTask, PurgeTask]:
        """What is to go; what is known to be spared; and what must be left."""
        lots, spared, left = [], [], []
        for lot in portion.lots:
            now = self._now(lot)
            now, stays = hold_back(now, self.unsettled)
            left.append(stays)
            now, stays = hold_back(now, self.spared)
            spared.append(stays)
            lots.append(now)
        batches = () if self.only_late else portion.batches
        return self._with(lots, batches), self._with(spared), self._with(left)

    def _now(self, lot: Lot) -> Lot:
        if not self.late:
            return lot
        rest, late = hold_back(lot, self.late)
        return late if self.only_late else rest

    def _with(self, lots: Iterable[Lot], batches: tuple[Batch, ...] = ()) -> PurgeTask:
        some = tuple(lot for lot in lots if lot.ids)
        return structs.replace(self.blank, lots=some, batches=batches)


def purge_portion(task: PortionTask, values: Iterator[Portion], pulse: Pulse) -> Left:
    """Delete it, and tell what became of each key.

    One that was lost with its worker is looked at first, as in `purge.look_at_lost`.
    """
    goes, spared, left = task.split(next(values))
    outcomes = [spare(spared)] if spared.lots else []
    outcomes += [leave(left)] if left.lots else []
    rest: PurgeTask | None = goes
    if task.runs:
        looked_at, rest = look_at_lost(goes)
        outcomes.append(looked_at)
    if rest is not None:
        outcomes.append(leave(rest, used_up(task.runs)) if task.gives_up else purge(rest, pulse))
    return just([outcome.brief() if task.is_brief else outcome for outcome in outcomes])


def unheard(info: PortionInfo, families: Sequence[str]) -> Outcome:
    """The outcome of a portion that nobody can tell of any more, nor look at: all is unknown."""
    return _nameless(info, families, "unknown", UNHEARD)


def unsent(info: PortionInfo, families: Sequence[str], problem: Problem | None) -> Outcome:
    """The outcome of a portion that was never begun: because of this, or since the run ended."""
    return _nameless(info, families, "failed", problem)


def _nameless(
    info: PortionInfo, families: Sequence[str], became: str, problem: Problem | None
) -> Outcome:
    counts = {name: dict.fromkeys(OUTCOMES, 0) for name in families}
    for name, keys in info.counts.items():
        counts[name][became] = keys
    none: frozenset[bytes] = frozenset()
    return Outcome(
        counts=counts,
        purged=[],
        orphans_purged=none,
        spared=none,
        revived=none,
        unsettled=none,
        begun={},
        not_attempted=0 if problem else info.size,
        problems=(structs.replace(problem, count=info.size),) if problem else (),
        timings={},
    )


UNHEARD = Problem(
    WORKER_LOST,
    "workers were lost with the names of keys that they were to delete, so that nobody can look "
    "what is left of them: the next run finds it",
    0,
)
