"""What verdicts and a plan come to: counts and a few examples, without the names (pure).

It is all that the job has to know of who is what, and what the report says of it. So it can be
made where the names are, of each range of ids by itself, and put together elsewhere.

Where ids are judged in ranges, an orphan whose id lies just below a bound may have keys on both
sides of it. Such a one is named (`straddling`), so that it is not counted twice.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import msgspec

from cleanup_job.ages import Ages, ages_of, all_ages
from cleanup_job.brakes import NO_CLOCK_MS
from cleanup_job.judge import Verdicts
from cleanup_job.model import HEARTBEAT, Kind, Sample, Schema
from cleanup_job.plan import Plan, Preview

MOST_SHOWN = 10
"""Coordinators that somebody sees who is asked to agree to a plan; a report may want more."""

Name = TypeVar("Name", str, bytes)

Named = tuple[bytes, int]
"""An id, with its age in milliseconds or the number of its keys."""


class Fate(IntEnum):
    """What becomes of an orphan; where ranges differ, the least counts."""

    REPORTED = 0
    YOUNG = 1
    PLANNED = 2


class Straddler(NamedTuple):
    """An orphan that may have keys in several ranges; `keys`: those of this one, by family."""

    fate: Fate
    keys: dict[str, int]


class Tally(msgspec.Struct, frozen=True):
    """Verdicts and plan in numbers, with the first few names of each kind.

    Attributes:
        live: coordinators of this kind, as `stale`, `unreadable`, `future` and `orphaned` are.
        reasons: how many heartbeats could not be understood, by what is wrong with them.
        matched: distinct keys by family, heartbeats last.
        ages: of the stale ones.
        oldest: of the stale ones, the oldest first.
        orphans: some of the orphaned, with the number of their keys.
        straddling: the orphaned that may have keys elsewhere too. They count nowhere else, not even
            as planned, until it is known what all ranges say of them.
        kept: some whose heartbeat could not be understood, of each kind.
        ahead: of heartbeats in the future, the one that says most of clocks.
        crowded: keys that name too many stale coordinators, with some of them.
        planned: keys that are to go, by family.
        orphans_planned: orphaned coordinators whose keys are to go.
        young: the orphans that may not go yet, with some of them.
        oldest_planned: of the stale ones that are to go.
        newest_planned: the least old of them.
    """

    live: int = 0
    stale: int = 0
    unreadable: int = 0
    future: int = 0
    orphaned: int = 0
    reasons: dict[str, int] = {}
    matched: tuple[int, ...] = ()
    ages: Ages = Ages()
    oldest: tuple[Named, ...] = ()
    orphans: tuple[Named, ...] = ()
    straddling: dict[bytes, Straddler] = {}
    kept: tuple[Sample, ...] = ()
    ahead: Sample | None = None
    crowded: tuple[int, tuple[bytes, ...]] = (0, ())
    planned: dict[str, int] = {}
    orphans_planned: int = 0
    young: tuple[int, tuple[bytes, ...]] = (0, ())
    oldest_planned: tuple[Named, ...] = ()
    newest_planned: Named | None = None

    @property
    def checked(self) -> int:
        """Coordinators that have a heartbeat of any kind."""
        return self.live + self.stale + self.unreadable + self.future

    @property
    def size(self) -> int:
        """How many keys will go."""
        return sum(self.planned.values())

    @property
    def purged(self) -> int:
        """How many coordinators will go, orphaned ones with the stale."""
        return self.planned.get(HEARTBEAT, 0) + self.orphans_planned

    def kept_as(self, kind: Kind) -> list[Sample]:
        """Some of the kept coordinators of one kind."""
        return [sample for sample in self.kept if sample.kind is kind]

    def preview(self) -> Preview:
        """The plan for somebody who is to agree to it."""
        return Preview(
            self.purged,
            self.planned,
            self.orphans_planned,
            [*self.oldest_planned[:MOST_SHOWN]],
            self.newest_planned,
        )


def tally_of(
    verdicts: Verdicts,
    plan: Plan,
    schema: Schema,
    *,
    show: int,
    left_out: Collection[int] = (),
    young: Collection[bytes] = (),
    straddles: Mapping[bytes, Straddler] = MappingProxyType({}),
) -> Tally:
    """What these verdicts and their plan come to.

    Args:
        verdicts: of all coordinators, or of one range.
        plan: what is to go of that.
        schema: the families.
        show: how many examples of each kind the report has.
        left_out: places of stale coordinators that are not planned.
        young: orphans that may not go yet.
        straddles: the orphans that may be counted elsewhere too; they are in no plan.
    """
    stale = verdicts.stale
    guests = {stale.places[name] for name in verdicts.guests}
    not_planned = guests.union(left_out)
    oldest = _oldest(_aged(verdicts, guests), show)
    kinds = Counter(sample.kind for sample in verdicts.kept.values())
    orphans = verdicts.orphan_ids()
    newest = min(_aged(verdicts, not_planned), default=None)
    return Tally(
        live=len(verdicts.live),
        stale=verdicts.stale_count,
        unreadable=kinds[Kind.UNREADABLE],
        future=kinds[Kind.FUTURE],
        orphaned=len(orphans.difference(straddles)),
        reasons=dict(Counter(sample.reason for sample in verdicts.kept.values())),
        matched=tuple(verdicts.matched),
        ages=ages_of([age for age, _ in _aged(verdicts, guests)] if guests else stale.ages_ms),
        oldest=oldest,
        orphans=tuple((name, _keys_of(name, verdicts)) for name in _first(orphans, show)),
        straddling=dict(straddles),
        kept=tuple(_kept(verdicts, show)),
        ahead=_furthest_ahead(verdicts.kept_as(Kind.FUTURE)),
        crowded=(len(verdicts.crowded), _first(verdicts.crowded, show)),
        planned={name: plan.counts[name] for name in schema.family_names},
        orphans_planned=len(plan.orphans),
        young=(len({*young}.difference(straddles)), _first(young, show)),
        oldest_planned=_oldest(_aged(verdicts, not_planned), show) if left_out else oldest,
        newest_planned=None if newest is None else (newest[1], newest[0]),
    )


def whole_of(parts: Sequence[Tally], show: int) -> Tally:
    """All ranges together."""
    straddling = _straddlers(parts)
    fates = Counter(one.fate for one in straddling.values())
    young_ones = tuple(name for name, one in straddling.items() if one.fate is Fate.YOUNG)
    young = len(young_ones), young_ones
    planned = [one.keys for one in straddling.values() if one.fate is Fate.PLANNED]
    ahead = [part.ahead for part in parts if part.ahead is not None]
    newest = [part.newest_planned for part in parts if part.newest_planned is not None]
    return Tally(
        live=sum(part.live for part in parts),
        stale=sum(part.stale for part in parts),
        unreadable=sum(part.unreadable for part in parts),
        future=sum(part.future for part in parts),
        orphaned=sum(part.orphaned for part in parts) + len(straddling),
        reasons=_summed(part.reasons for part in parts),
        matched=tuple(map(sum, zip(*(part.matched for part in parts), strict=True))),
        ages=all_ages(part.ages for part in parts),
        oldest=_oldest_of((part.oldest for part in parts), show),
        orphans=_orphans_of(parts, show),
        kept=_kept_of(parts, show),
        ahead=_furthest_ahead(ahead),
        crowded=_counted((part.crowded for part in parts), show),
        straddling=straddling,
        planned=_summed([*(part.planned for part in parts), *planned]),
        orphans_planned=sum(part.orphans_planned for part in parts) + fates[Fate.PLANNED],
        young=_counted([*(part.young for part in parts), young], show),
        oldest_planned=_oldest_of((part.oldest_planned for part in parts), show),
        newest_planned=min(newest, key=lambda named: (named[1], named[0]), default=None),
    )


def _aged(verdicts: Verdicts, apart: Collection[int]) -> Iterable[tuple[int, bytes]]:
    """Stale coordinators with their ages, without those of these places."""
    aged = zip(verdicts.stale.ages_ms, verdicts.stale.ids, strict=True)
    return (one for place, one in enumerate(aged) if place not in apart) if apart else aged


def _oldest(aged: Iterable[tuple[int, bytes]], show: int) -> tuple[Named, ...]:
    most = max(show, MOST_SHOWN)
    return tuple((name, age_ms) for age_ms, name in heapq.nlargest(most, aged))


def _oldest_of(parts: Iterable[Iterable[Named]], show: int) -> tuple[Named, ...]:
    return _oldest(((age_ms, name) for part in parts for name, age_ms in part), show)


def _first(names: Iterable[bytes], show: int) -> tuple[bytes, ...]:
    return tuple(heapq.nsmallest(max(show, MOST_SHOWN), names))


def _keys_of(orphan: bytes, verdicts: Verdicts) -> int:
    return sum(len(family.get(orphan, ())) for family in verdicts.orphans)


def _orphans_of(parts: Sequence[Tally], show: int) -> tuple[Named, ...]:
    keys = _summed(dict(part.orphans) for part in parts)
    return tuple((name, keys[name]) for name in _first(keys, show))


def _kept(verdicts: Verdicts, show: int) -> Iterator[Sample]:
    for kind in (Kind.UNREADABLE, Kind.FUTURE):
        yield from _first_samples(verdicts.kept_as(kind), show)


def _kept_of(parts: Sequence[Tally], show: int) -> tuple[Sample, ...]:
    kinds = (Kind.UNREADABLE, Kind.FUTURE)
    of_kind = (chain.from_iterable(part.kept_as(kind) for part in parts) for kind in kinds)
    return tuple(chain.from_iterable(_first_samples(some, show) for some in of_kind))


def _first_samples(samples: Iterable[Sample], show: int) -> list[Sample]:
    most = max(show, MOST_SHOWN)
    return heapq.nsmallest(most, samples, key=lambda sample: sample.coordinator_id)


def _furthest_ahead(future: Iterable[Sample]) -> Sample | None:
    """The heartbeat that lies furthest in the future, of those that say something of a clock."""
    of_clocks = (sample for sample in future if -(sample.age_ms or 0) < NO_CLOCK_MS)
    return min(of_clocks, key=lambda sample: sample.age_ms or 0, default=None)


def _summed(parts: Iterable[Mapping[Name, int]]) -> dict[Name, int]:
    total: Counter[Name] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def _counted(
    parts: Iterable[tuple[int, tuple[bytes, ...]]], show: int
) -> tuple[int, tuple[bytes, ...]]:
    every = [*parts]
    names = {*chain.from_iterable(some for _, some in every)}
    return sum(count for count, _ in every), _first(names, show)


def _straddlers(parts: Sequence[Tally]) -> dict[bytes, Straddler]:
    """What all ranges together say of each."""
    together: dict[bytes, Straddler] = {}
    for part in parts:
        for name, here in part.straddling.items():
            other = together.get(name, Straddler(here.fate, {}))
            fate = min(here.fate, other.fate)
            together[name] = Straddler(fate, _summed([here.keys, other.keys]))
    return together
