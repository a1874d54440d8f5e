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
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from msgspec import structs

from cleanup_job.judge import MOST_NAMED, Verdicts, candidates_within, length_of
from cleanup_job.keyspace import SLOTS, slot_of
from cleanup_job.model import ABSENT, HEARTBEAT, Batch, Schema

KEYS_PER_BATCH = 1000
"""Keys and guards of one call: about 1–4 ms of the server, and far from the 8,000 values at
which Lua's unpack fails (shared facts §3, §5)."""

BYTES_PER_BATCH = 512 * 1024
"""Names of keys, and values of heartbeats, in one call. Ids of 10 kB exist, and a script's
arguments are copied."""

_SCATTER = 6_367
"""Odd, and about 0.39 of all slots, so that neighbours in a list are far apart in the cluster."""


class _Draft:
    """A batch in the making."""

    def __init__(self, families: int) -> None:
        self.guards: dict[bytes, int] = {}
        self.expected: list[bytes] = []
        self.own_heartbeats = 0
        self.keys: list[list[bytes]] = [[] for _ in range(families)]
        self.needs: list[list[tuple[int, ...]]] = [[] for _ in range(families)]
        self.size = 0
        self.bytes = 0

    @property
    def is_full(self) -> bool:
        return self.size >= KEYS_PER_BATCH or self.bytes >= BYTES_PER_BATCH

    def take_heartbeat(self, coordinator_id: bytes, value: bytes) -> tuple[int, ...]:
        """Have a heartbeat deleted with the batch. Not to be mixed with `watch`."""
        self.own_heartbeats += 1
        return self.watch([(coordinator_id, value)])

    def watch(self, guards: Iterable[tuple[bytes, bytes]]) -> tuple[int, ...]:
        """The places of these guards, which are added where they are new."""
        places = []
        for coordinator_id, value in guards:
            place = self.guards.setdefault(coordinator_id, len(self.guards))
            if place == len(self.expected):
                self.expected.append(value)
                self.size += 1
                # The script reads the heartbeats, and a long one takes its time.
                self.bytes += len(coordinator_id) + length_of(value)
            places.append(place)
        return tuple(places)

    def add(self, family: int, keys: Sequence[bytes], needs: tuple[int, ...]) -> None:
        self.keys[family] += keys
        self.needs[family] += [needs] * len(keys)
        self.size += len(keys)
        self.bytes += sum(map(len, keys))


class _Batcher:
    """Turns drafts into batches as they fill up."""

    def __init__(
        self, schema: Schema, *, min_idle_s: int = 0, wave: int = 0, slot: int | None = 0
    ) -> None:
        self.draft = _Draft(len(schema.owned))
        self._schema = schema
        self._min_idle_s = min_idle_s
        self._wave = wave
        self._slot = slot
        self._batches: list[Batch] = []

    def flush_if_full(self) -> None:
        if self.draft.is_full:
            self.flush()

    def flush(self) -> None:
        draft, self.draft = self.draft, _Draft(len(self._schema.owned))
        ids = tuple(draft.guards)
        if not ids:
            return
        self._batches.append(
            Batch(
                guards=tuple(map(self._schema.heartbeat.key_for, ids)),
                guard_ids=ids,
                own_heartbeats=draft.own_heartbeats,
                expected=tuple(draft.expected),
                keys=tuple(map(tuple, draft.keys)),
                needs=tuple(map(tuple, draft.needs)),
                min_idle_s=self._min_idle_s,
                wave=self._wave,
                slot=self._slot,
            )
        )

    def finish(self) -> list[Batch]:
        self.flush()
        return self._batches


class _SlotBatchers:
    """One batcher per slot; on a standalone server, one for all."""

    def __init__(self, schema: Schema, *, clustered: bool, **settings: int) -> None:
        self._schema = schema
        self._clustered = clustered
        self._settings = settings
        self._batchers: dict[int, _Batcher] = {}

    def of(self, key: bytes) -> _Batcher:
        slot = slot_of(key) if self._clustered else 0
        if slot not in self._batchers:
            self._batchers[slot] = _Batcher(self._schema, **self._settings, slot=slot)
        return self._batchers[slot]

    def finish(self) -> list[Batch]:
        # Slots that follow each other lie on one server. Several servers are to work at once.
        slots = sorted(self._batchers, key=lambda slot: slot * _SCATTER % SLOTS)
        return [batch for slot in slots for batch in self._batchers[slot].finish()]


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be deleted.

    Attributes:
        batches: in the order of deletion.
        orphans: the orphaned ids that `batches` cover.
        min_idle_s: for how long the orphans' keys must have been untouched; 0 without orphans.
    """

    batches: tuple[Batch, ...]
    orphans: frozenset[bytes] = frozenset()
    min_idle_s: int = 0

    @property
    def size(self) -> int:
        """How many keys will go."""
        return sum(batch.size for batch in self.batches)

    def counts(self, schema: Schema) -> dict[str, int]:
        """How many keys of each family will go."""
        totals = dict.fromkeys(schema.family_names, 0)
        for batch in self.batches:
            totals[HEARTBEAT] += batch.own_heartbeats
            for (name, _), keys in zip(schema.owned, batch.keys, strict=True):
                totals[name] += len(keys)
        return totals


def make_plan(
    verdicts: Verdicts,
    schema: Schema,
    *,
    clustered: bool = False,
    covered: bool = True,
    orphans: Iterable[bytes] = (),
    orphan_grace_s: int = 0,
) -> Plan:
    """Plan the purge of all stale coordinators, and of these orphans.

    An orphan with a key that could name more ids than can be checked is left out. What was not
    `covered` may hold keys of any coordinator, so that all heartbeats wait for wave 1.
    """
    checkable = frozenset(name for name in orphans if _is_checkable(name, verdicts, schema))
    batches = stale_batches(verdicts, schema, clustered=clustered, covered=covered)
    if not checkable:
        return Plan(tuple(batches))
    batches += orphan_batches(checkable, verdicts, schema, orphan_grace_s, clustered=clustered)
    return Plan(tuple(batches), checkable, orphan_grace_s)


def hold_back(batches: Iterable[Batch], ids: Collection[bytes]) -> tuple[list[Batch], list[Batch]]:
    """Split batches of heartbeats into those that may go and those of `ids`, which must stay.

    A heartbeat stays if some key of its coordinator is left, so that the next run finds it.
    """
    go: list[Batch] = []
    stay: list[Batch] = []
    for batch in batches:
        staying = [name in ids for name in batch.guard_ids]
        for target, wanted in ((go, False), (stay, True)):
            places = [i for i, stays in enumerate(staying) if stays is wanted]
            if places:
                target.append(_heartbeats_only(batch, places))
    return go, stay


def _heartbeats_only(batch: Batch, places: Sequence[int]) -> Batch:
    return structs.replace(
        batch,
        guards=tuple(batch.guards[i] for i in places),
        guard_ids=tuple(batch.guard_ids[i] for i in places),
        expected=tuple(batch.expected[i] for i in places),
        own_heartbeats=len(places),
    )


def stale_batches(
    verdicts: Verdicts, schema: Schema, *, clustered: bool = False, covered: bool = True
) -> list[Batch]:
    """Batches for all stale coordinators with all that they own, wave 0 first."""
    whole = _SlotBatchers(schema, clustered=clustered)
    spread = _Batcher(schema, slot=None if clustered else 0)
    last = _SlotBatchers(schema, clustered=clustered, wave=1)
    for coordinator_id, heartbeat in verdicts.stale.items():
        owned = [keys.get(coordinator_id, ()) for keys in verdicts.owned]
        heartbeat_key = schema.heartbeat.key_for(coordinator_id)
        spreads = not covered or _is_spread(owned, verdicts)
        if spreads or (clustered and not _in_one_slot(heartbeat_key, owned)):
            _spread(coordinator_id, owned, verdicts, spread)
            batcher = last.of(heartbeat_key)
            batcher.draft.take_heartbeat(coordinator_id, heartbeat.value)
        else:
            batcher = whole.of(heartbeat_key)
            needs = batcher.draft.take_heartbeat(coordinator_id, heartbeat.value)
            for family, keys in enumerate(owned):
                if keys:
                    batcher.draft.add(family, keys, needs)
        batcher.flush_if_full()
    return [*whole.finish(), *spread.finish(), *last.finish()]


def _spread(
    coordinator_id: bytes, owned: Sequence[Sequence[bytes]], verdicts: Verdicts, spread: _Batcher
) -> None:
    """Batch a coordinator's keys, each watched by every stale heartbeat that it names."""
    for family, keys in enumerate(owned):
        for key in keys:
            named = (coordinator_id, *verdicts.co_owners.get(key, ()))
            guards = [(name, verdicts.stale[name].value) for name in named]
            spread.draft.add(family, (key,), spread.draft.watch(guards))
            spread.flush_if_full()


def orphan_batches(
    orphans: Iterable[bytes],
    verdicts: Verdicts,
    schema: Schema,
    orphan_grace_s: int,
    *,
    clustered: bool = False,
) -> list[Batch]:
    """Batches for these orphans."""
    slots = _SlotBatchers(schema, clustered=clustered, min_idle_s=orphan_grace_s)
    scattered = _Batcher(schema, min_idle_s=orphan_grace_s, slot=None)
    for orphan_id in orphans:
        owned = [keys.get(orphan_id, ()) for keys in verdicts.orphans]
        # The id that a key is counted under comes first: see Batch.needs.
        named = [
            (family, key, tuple(dict.fromkeys((orphan_id, *pattern.candidates(key)))))
            for family, (_, pattern) in enumerate(schema.owned)
            for key in owned[family]
        ]
        batcher = slots.of(schema.heartbeat.key_for(orphan_id))
        if clustered:
            ids = dict.fromkeys(chain.from_iterable(names for _, _, names in named))
            heartbeats = [schema.heartbeat.key_for(name) for name in ids]
            if not _in_one_slot(heartbeats[0], [heartbeats, *owned]):
                batcher = scattered
        # An orphan's keys stay together where they can, since one of them that was touched
        # lately keeps them all.
        guards = {name for _, _, names in named for name in names}
        if batcher.draft.size + len(named) + len(guards) > KEYS_PER_BATCH:
            batcher.flush()
        for family, key, names in named:
            needs = batcher.draft.watch((name, ABSENT) for name in names)
            batcher.draft.add(family, (key,), needs)
            batcher.flush_if_full()
    return [*slots.finish(), *scattered.finish()]


def _is_checkable(orphan_id: bytes, verdicts: Verdicts, schema: Schema) -> bool:
    return all(
        candidates_within(pattern, key, MOST_NAMED)
        for keys, (_, pattern) in zip(verdicts.orphans, schema.owned, strict=True)
        for key in keys.get(orphan_id, ())
    )


def _is_spread(owned: Sequence[Sequence[bytes]], verdicts: Verdicts) -> bool:
    """True if the heartbeat must wait until all owned keys are gone.

    That is so for a coordinator with more keys than a batch holds. Keys that name other
    stale coordinators too have to watch those heartbeats, which are deleted elsewhere, so
    they are batched the same way.
    """
    if sum(map(len, owned)) >= KEYS_PER_BATCH:
        return True
    if sum(len(key) for keys in owned for key in keys) >= BYTES_PER_BATCH:
        return True
    return bool(verdicts.co_owners) and any(
        key in verdicts.co_owners for keys in owned for key in keys
    )


def _in_one_slot(heartbeat_key: bytes, owned: Iterable[Sequence[bytes]]) -> bool:
    slot = slot_of(heartbeat_key)
    return all(slot_of(key) == slot for keys in owned for key in keys)
