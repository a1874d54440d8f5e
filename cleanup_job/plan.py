"""Verdicts to batches (pure): what is deleted together, and in which order.

A batch holds whole coordinators, so that one guarded call decides and deletes each of them at
once. A coordinator with more keys than a batch holds is *spread*: its owned keys go in batches
of wave 0, guarded by its heartbeat; the heartbeat goes in wave 1, when all of wave 0 came
through. So a run that is killed anywhere leaves the heartbeat, and the next run finds the rest.

Orphans have no heartbeat to lose: their guards are the heartbeats of every id that the key
could name, each expected to be absent.

A script's keys must lie in one slot of a cluster. So a coordinator that lies in one slot (with
hash tags, all do) is batched with others of that slot, and nothing changes for it. Any other is
spread too: its owned keys go in *scattered* batches, whose guards are read just before, and its
heartbeat in a batch of its slot in wave 1.

Where a plan that was made before is executed (`plan_file`), it only takes away from the verdicts:
`scope_of` says what it leaves, and keys that name others too are guarded as ever.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

from msgspec import structs

from cleanup_job.judge import MOST_NAMED, Verdicts, candidates_within
from cleanup_job.keyspace import SLOTS, slot_of
from cleanup_job.model import (
    ABSENT,
    BYTES_PER_BATCH,
    HEARTBEAT,
    KEYS_PER_BATCH,
    Batch,
    Kind,
    Lot,
    Owned,
    Planned,
    Schema,
    length_of,
)

_SCATTER = 6_367
"""Odd, and about 0.39 of all slots, so that neighbours in a list are far apart in the cluster."""


class _Draft:
    """A batch in the making, key by key."""

    def __init__(self, families: int) -> None:
        self.guards: dict[bytes, bytes] = {}
        self.keys: list[list[bytes]] = [[] for _ in range(families)]
        self.size = 0
        self.bytes = 0

    @property
    def is_full(self) -> bool:
        return self.size >= KEYS_PER_BATCH or self.bytes >= BYTES_PER_BATCH

    def add(self, family: int, key: bytes, guards: Iterable[tuple[bytes, bytes]]) -> None:
        """Add a key, and those of its guards that are new: ids with fingerprints."""
        for coordinator_id, value in guards:
            if coordinator_id not in self.guards:
                self.guards[coordinator_id] = value
                self.size += 1
                self.bytes += _weight(coordinator_id, value)
        self.keys[family].append(key)
        self.size += 1
        self.bytes += len(key)


class _Batcher:
    """Turns drafts into batches as they fill up."""

    def __init__(self, schema: Schema, *, min_idle_s: int = 0, slot: int | None = 0) -> None:
        self.draft = _Draft(len(schema.owned))
        self._schema = schema
        self._min_idle_s = min_idle_s
        self._slot = slot
        self._batches: list[Batch] = []

    def flush_if_full(self) -> None:
        if self.draft.is_full:
            self.flush()

    def flush(self) -> None:
        draft, self.draft = self.draft, _Draft(len(self._schema.owned))
        if draft.guards:
            self._batches.append(
                Batch(
                    guard_ids=list(draft.guards),
                    own_heartbeats=0,
                    expected=list(draft.guards.values()),
                    keys=draft.keys,
                    min_idle_s=self._min_idle_s,
                    slot=self._slot,
                )
            )

    def finish(self) -> list[Batch]:
        self.flush()
        return self._batches


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be deleted, in this order.

    Attributes:
        lot: coordinators whose heartbeats go with their keys; and the keys of those whose
            heartbeats wait, since they lie in several slots, or since not all was covered.
        batches: keys of coordinators that are spread, and of orphans.
        last: the heartbeats that wait until all of that is through.
        counts: keys by family.
        orphans: the orphaned ids that `batches` cover.
        min_idle_s: for how long the orphans' keys must have been untouched; 0 without orphans.
    """

    lot: Lot
    batches: tuple[Batch, ...]
    last: Lot
    counts: dict[str, int]
    orphans: frozenset[bytes] = frozenset()
    min_idle_s: int = 0

    @property
    def size(self) -> int:
        """How many keys will go."""
        return sum(self.counts.values())

    @property
    def coordinators(self) -> int:
        """How many coordinators will go, orphaned ones with the stale."""
        return self.counts[HEARTBEAT] + len(self.orphans)


def make_plan(
    verdicts: Verdicts,
    schema: Schema,
    *,
    clustered: bool = False,
    covered: bool = True,
    orphans: Iterable[bytes] = (),
    orphan_grace_s: int = 0,
    left_out: Collection[int] = (),
) -> Plan:
    """Plan the purge of all stale coordinators but those `left_out`, and of these orphans.

    An orphan with a key that could name more ids than can be checked is left out. What was not
    `covered` may hold keys of any coordinator, so that all heartbeats wait for the last wave.
    The heartbeats of those that are left out still guard the keys that name them too.
    """
    # A batch of few enough keys may still be too long to send.
    # For each of its keys it has a name, or a name and a heartbeat.
    is_long = 2 * verdicts.longest * KEYS_PER_BATCH > BYTES_PER_BATCH
    guests = {verdicts.stale.places[name] for name in verdicts.guests}
    spread = _spread_places(verdicts, is_long).union(guests).difference(left_out)
    slots = _slots(verdicts, schema, clustered=clustered, covered=covered)
    waiting = spread - guests
    if slots:
        waiting = {*spread, *_places_of(None, slots)}.difference(left_out, guests)
    batches = _spread_batches(verdicts, spread, schema, clustered=clustered)
    checkable = frozenset(name for name in orphans if is_checkable(name, verdicts, schema))
    if checkable:
        batches += orphan_batches(checkable, verdicts, schema, orphan_grace_s, clustered=clustered)
    return Plan(
        _lot(verdicts, spread.union(left_out), slots, is_long),
        tuple(batches),
        _heartbeats(verdicts, waiting, schema, is_long, clustered=clustered),
        _counts(verdicts, schema, checkable, left_out),
        checkable,
        orphan_grace_s if checkable else 0,
    )


def _counts(
    verdicts: Verdicts, schema: Schema, orphans: Collection[bytes], left_out: Collection[int]
) -> dict[str, int]:
    counts = {
        name: _count(owned, left_out) + sum(len(lost.get(orphan, ())) for orphan in orphans)
        for (name, _), owned, lost in zip(
            schema.owned, verdicts.owned, verdicts.orphans, strict=True
        )
    }
    return {**counts, HEARTBEAT: verdicts.stale_count - len(left_out)}


def _count(owned: Owned, left_out: Collection[int]) -> int:
    if not left_out:
        return len(owned.owners)
    return sum(owner not in left_out for owner in owned.owners)


# -- a plan that was made before ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scope:
    """What a plan that was made before leaves of the verdicts.

    Attributes:
        orphans: those that may go.
        left_out: the stale coordinators that must stay, as places in `verdicts.stale.ids`.
        changed: ids that were planned and have a key that was not.
        gone_or_alive: how many were planned and are not what they were: alive, gone, or their
            heartbeats expired or can't be read.
    """

    orphans: frozenset[bytes]
    left_out: frozenset[int] = frozenset()
    changed: tuple[bytes, ...] = ()
    gone_or_alive: int = 0


def everything(verdicts: Verdicts) -> Scope:
    """Without such a plan, all that is stale or orphaned may go."""
    return Scope(frozenset(verdicts.orphan_ids()))


def scope_of(verdicts: Verdicts, schema: Schema, planned: Iterable[Planned]) -> Scope:
    """Only what was planned may go, and of that only what is still as dead as it was.

    A coordinator with a key that was not planned is left as a whole. Else that key would stay
    without its heartbeat, and the next run could not tell whose it was.
    """
    stale = verdicts.stale
    goes = bytearray(len(stale.ids))
    orphans: set[bytes] = set()
    changed: list[bytes] = []
    gone_or_alive = 0
    for one in planned:
        name = one.coordinator_id
        place = stale.places.get(name)
        if one.kind is Kind.STALE and place is not None:
            now = [owned.between(place, place + 1, stale.ids) for owned in verdicts.owned]
        else:
            now = [lost.get(name, []) for lost in verdicts.orphans]
            if one.kind is Kind.STALE or not any(now):
                gone_or_alive += 1
                continue
        if not _names_all(one, now, schema):
            changed.append(name)
        elif one.kind is Kind.STALE and place is not None:
            goes[place] = True
        else:
            orphans.add(name)
    left_out = frozenset(place for place, may_go in enumerate(goes) if not may_go)
    return Scope(frozenset(orphans), left_out, tuple(changed), gone_or_alive)


def _names_all(planned: Planned, now: Sequence[Sequence[bytes]], schema: Schema) -> bool:
    """True if every key that the coordinator has by now was planned."""
    for (family, _), keys in zip(schema.owned, now, strict=True):
        named = planned.keys.get(family, [])
        if keys != named and not set(keys) <= set(named):
            return False
    return True


def listed(verdicts: Verdicts, schema: Schema, orphans: Collection[bytes]) -> Iterator[Planned]:
    """All stale coordinators and these orphans with their keys, in the order of ids."""
    names = [name for name, _ in schema.owned]
    stale = verdicts.stale

    def of_stale(place: int, name: bytes) -> Planned:
        keys = [owned.between(place, place + 1, stale.ids) for owned in verdicts.owned]
        by_family = dict(zip(names, keys, strict=True))
        return Planned(name, Kind.STALE, by_family, stale.ages_ms[place])

    def of_orphan(name: bytes) -> Planned:
        keys = [lost.get(name, []) for lost in verdicts.orphans]
        return Planned(name, Kind.ORPHANED, dict(zip(names, keys, strict=True)))

    return heapq.merge(
        map(of_stale, range(len(stale.ids)), stale.ids), map(of_orphan, sorted(orphans))
    )


# -- what a worker gets --------------------------------------------------------------------------

KEYS_PER_PORTION = 8_000
"""Keys that a worker gets to delete at once: enough to keep several batches in flight, few
enough that a stop or a lost worker does not concern many."""

COARSE_KEYS_PER_PORTION = 50_000
"""The same where a task costs messages between machines, or there is one worker anyway."""


class Portion(NamedTuple):
    """What a worker gets to delete at once."""

    lots: tuple[Lot, ...] = ()
    batches: tuple[Batch, ...] = ()

    def counts(self, schema: Schema) -> dict[str, int]:
        """How many keys it has, by family; heartbeats that wait for another wave are not its."""
        families = [
            sum(len(lot.owned[place].owners) for lot in self.lots)
            + sum(len(batch.keys[place]) for batch in self.batches)
            for place in range(len(schema.owned))
        ]
        heartbeats = sum(len(lot.ids) - lot.slots.count(None) for lot in self.lots)
        heartbeats += sum(batch.own_heartbeats for batch in self.batches)
        return dict(zip(schema.family_names, (*families, heartbeats), strict=True))


def portions(lot: Lot, batches: Iterable[Batch] = (), *, coarse: bool = False) -> Iterator[Portion]:
    """All of this in portions, small or `coarse`."""
    most = COARSE_KEYS_PER_PORTION if coarse else KEYS_PER_PORTION
    for part in lot.parts(most):
        yield Portion((part,))
    group: list[Batch] = []
    size = 0
    for batch in batches:
        group.append(batch)
        size += batch.size
        if size >= most:
            yield Portion((), tuple(group))
            group, size = [], 0
    if group:
        yield Portion((), tuple(group))


# -- what is left ------------------------------------------------------------------------------


class Preview(NamedTuple):
    """A plan for somebody who is to agree to it.

    Attributes:
        keys: how many will go, by family.
        orphans: how many of the coordinators are orphaned.
        oldest: of the stale ones, with their ages in milliseconds, the oldest first.
        newest: the least old of them, None without any.
    """

    coordinators: int
    keys: dict[str, int]
    orphans: int
    oldest: list[tuple[bytes, int]]
    newest: tuple[bytes, int] | None


def hold_back(lot: Lot, ids: Collection[bytes]) -> tuple[Lot, Lot]:
    """Split heartbeats into those that may go and those of `ids`, which must stay.

    A heartbeat stays if some key of its coordinator is left, so that the next run finds it.
    """
    stays = [name in ids for name in lot.ids]
    return lot.only([not yes for yes in stays]), lot.only(stays)


# -- stale coordinators ----------------------------------------------------------------------


def _spread_places(verdicts: Verdicts, is_long: bool) -> set[int]:
    """The coordinators that can't go in one step with their heartbeat.

    They have more keys than a batch holds, or one that names other stale coordinators too: that
    one has to watch heartbeats which are deleted elsewhere.
    """
    large = {place for place in _may_be_large(verdicts, is_long) if _is_large(place, verdicts)}
    if not verdicts.co_owners:
        return large
    return large.union(
        place
        for owned in verdicts.owned
        for key, place in owned.pairs(verdicts.stale.ids)
        if key in verdicts.co_owners
    )


def _may_be_large(verdicts: Verdicts, is_long: bool) -> Iterable[int]:
    """All coordinators that may have too many keys, found without a look at each key.

    Such a one has more than its share in some family. These stand in a row, so that two that are
    half a share apart are both its own.
    """
    if is_long or 2 * len(verdicts.owned) > KEYS_PER_BATCH:
        return range(len(verdicts.stale.ids))
    step = KEYS_PER_BATCH // max(1, len(verdicts.owned)) // 2
    return {
        owner
        for owned in verdicts.owned
        for owner, later in zip(owned.owners[::step], owned.owners[step::step], strict=False)
        if owner == later
    }


def _is_large(place: int, verdicts: Verdicts) -> bool:
    """True if this coordinator fills a batch by itself, or does not fit into one."""
    keys = [owned.between(place, place + 1, verdicts.stale.ids) for owned in verdicts.owned]
    if 1 + sum(map(len, keys)) > KEYS_PER_BATCH:
        return True
    size = _weight(verdicts.stale.ids[place], verdicts.stale.prints[place])
    return size + sum(len(key) for family in keys for key in family) >= BYTES_PER_BATCH


def _weight(coordinator_id: bytes, print_: bytes) -> int:
    # The script reads the heartbeats, and a long one takes its time.
    return len(coordinator_id) + length_of(print_)


def _slots(
    verdicts: Verdicts, schema: Schema, *, clustered: bool, covered: bool
) -> Sequence[int | None]:
    """The slot in which all keys of each coordinator lie, or None; empty if all can be together."""
    if not covered:
        return [None] * len(verdicts.stale.ids)
    if not clustered:
        return ()
    slots: list[int | None] = [
        slot_of(key) for key in schema.heartbeat.keys_for(verdicts.stale.ids)
    ]
    for owned in verdicts.owned:
        for key, place in owned.pairs(verdicts.stale.ids):
            if slots[place] is not None and slots[place] != slot_of(key):
                slots[place] = None
    return slots


def _places_of(wanted: int | None, slots: Sequence[int | None]) -> Iterator[int]:
    return (place for place, slot in enumerate(slots) if slot == wanted)


def _lot(
    verdicts: Verdicts, apart: Collection[int], slots: Sequence[int | None], is_long: bool
) -> Lot:
    """All coordinators but those that are spread or left out, those of a slot together."""
    stale = verdicts.stale
    lot = Lot(stale.ids, stale.prints, verdicts.owned, slots, is_long)
    if not apart and len(set(slots)) <= 1:
        return lot  # as it is, which is how almost all are
    places = [place for place in range(len(stale.ids)) if place not in apart]
    if slots:
        places.sort(key=lambda place: _turn(slots[place]))
    new_places = dict(zip(places, range(len(places)), strict=True))
    return structs.replace(
        lot,
        ids=[stale.ids[place] for place in places],
        prints=[stale.prints[place] for place in places],
        owned=[_renumbered(owned, new_places, stale.ids) for owned in verdicts.owned],
        slots=[slots[place] for place in places] if slots else (),
    )


def _renumbered(owned: Owned, new_places: Mapping[int, int], ids: Sequence[bytes]) -> Owned:
    """The keys of those that have a new place, in the new order."""
    if not owned.keys:
        owners = sorted(new_places[place] for place in owned.owners if place in new_places)
        return Owned(owners, prefix=owned.prefix)
    rows = [(new_places[place], key) for key, place in owned.pairs(ids) if place in new_places]
    rows.sort(key=itemgetter(0))
    return Owned([place for place, _ in rows], [key for _, key in rows])


def _turn(slot: int | None) -> int:
    """Slots that follow each other lie on one server. Several servers are to work at once."""
    return -1 if slot is None else slot * _SCATTER % SLOTS


def _spread_batches(
    verdicts: Verdicts, spread: Collection[int], schema: Schema, *, clustered: bool
) -> list[Batch]:
    """Owned keys of spread coordinators, each watched by every stale heartbeat that it names."""
    batcher = _Batcher(schema, slot=None if clustered else 0)
    for place in sorted(spread):
        for family, owned in enumerate(verdicts.owned):
            for key in owned.between(place, place + 1, verdicts.stale.ids):
                named = (verdicts.stale.ids[place], *verdicts.co_owners.get(key, ()))
                guards = [(name, verdicts.stale.print_of(name)) for name in named]
                batcher.draft.add(family, key, guards)
                batcher.flush_if_full()
    return batcher.finish()


def _heartbeats(
    verdicts: Verdicts,
    places: Collection[int],
    schema: Schema,
    is_long: bool,
    *,
    clustered: bool,
) -> Lot:
    """The heartbeats of these coordinators, those of a slot together."""
    ids = verdicts.stale.ids
    slots = dict.fromkeys(sorted(places), 0)
    if clustered:
        slots = {place: slot_of(schema.heartbeat.key_for(ids[place])) for place in slots}
    in_turn = sorted(slots, key=lambda place: _turn(slots[place]))
    return Lot(
        ids=[ids[place] for place in in_turn],
        prints=[verdicts.stale.prints[place] for place in in_turn],
        owned=[Owned([])] * len(schema.owned),
        slots=[slots[place] for place in in_turn],
        is_long=is_long,
        wave=1,
    )


# -- orphans ---------------------------------------------------------------------------------


def orphan_batches(
    orphans: Iterable[bytes],
    verdicts: Verdicts,
    schema: Schema,
    orphan_grace_s: int,
    *,
    clustered: bool = False,
) -> list[Batch]:
    """Batches for these orphans, each key watched by every heartbeat that it could name."""
    batchers: dict[int | None, _Batcher] = {}
    for orphan_id in orphans:
        owned = [keys.get(orphan_id, ()) for keys in verdicts.orphans]
        named = [
            (family, key, tuple(pattern.candidates(key)))
            for family, (_, pattern) in enumerate(schema.owned)
            for key in owned[family]
        ]
        guards = dict.fromkeys(name for _, _, names in named for name in names)
        slot = _only_slot([*schema.heartbeat.keys_for(guards), *chain(*owned)]) if clustered else 0
        batcher = batchers.get(slot)
        if batcher is None:
            batcher = batchers[slot] = _Batcher(schema, min_idle_s=orphan_grace_s, slot=slot)
        # An orphan's keys stay together where they can, since one of them that was touched
        # lately keeps them all.
        if batcher.draft.size + len(named) + len(guards) > KEYS_PER_BATCH:
            batcher.flush()
        for family, key, names in named:
            batcher.draft.add(family, key, [(name, ABSENT) for name in names])
            batcher.flush_if_full()
    batches = chain(*(batcher.finish() for batcher in batchers.values()))
    return sorted(batches, key=lambda batch: _turn(batch.slot))


def _only_slot(keys: Iterable[bytes]) -> int | None:
    """The slot of all these keys; None if they lie in several."""
    slots = {slot_of(key) for key in keys}
    return slots.pop() if len(slots) == 1 else None


def is_checkable(orphan_id: bytes, verdicts: Verdicts, schema: Schema) -> bool:
    """False if it has a key that could name more ids than can be looked at."""
    return all(
        candidates_within(pattern, key, MOST_NAMED)
        for keys, (_, pattern) in zip(verdicts.orphans, schema.owned, strict=True)
        for key in keys.get(orphan_id, ())
    )
