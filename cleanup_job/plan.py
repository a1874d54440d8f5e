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

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
        guard_ids=[batch.guard_ids[i] for i in places],
        expected=[batch.expected[i] for i in places],
        own_heartbeats=len(places),
    )


# -- stale coordinators ----------------------------------------------------------------------


def stale_batches(
    verdicts: Verdicts, schema: Schema, *, clustered: bool = False, covered: bool = True
) -> list[Batch]:
    """Batches for all stale coordinators with all that they own, wave 0 first.

    Coordinators are numbered by their places in `Verdicts.stale`. This handles every key of a
    purge, so it goes through lists of them and makes no object for any.
    """
    ids, prints = list(verdicts.stale), list(verdicts.stale.values())
    sizes = _Sizes.of(verdicts)
    spread = _spread_places(verdicts, sizes)
    slots: Sequence[int | None] = [0] * len(ids)
    if clustered:
        slots = _common_slots(verdicts, schema)
    if not covered:
        slots = [None] * len(ids)
    numbers, batch_slots = _number(slots, spread, sizes)
    batches = _fill(verdicts, numbers, batch_slots)
    apart = _spread_batches(verdicts, spread, schema, clustered=clustered)
    waiting = [place for place, slot in enumerate(slots) if slot is None or place in spread]
    last = _heartbeat_batches(waiting, ids, prints, schema, clustered=clustered)
    return [*batches, *apart, *last]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """How large each stale coordinator is with its heartbeat: keys, and bytes where they matter.

    Where names are as short as they usually are, a batch that has few enough keys is short
    enough, and nobody needs to count bytes.
    """

    keys: list[int]
    bytes: list[int] | None

    @classmethod
    def of(cls, verdicts: Verdicts) -> _Sizes:
        keys = [1] * len(verdicts.stale)
        for owned in verdicts.owned:
            for place in owned.owners:
                keys[place] += 1
        return cls(keys, _bytes_of(verdicts) if _is_long(verdicts) else None)

    def is_large(self, place: int) -> bool:
        """True if this coordinator fills a batch by itself, or does not fit into one."""
        if self.keys[place] > KEYS_PER_BATCH:
            return True
        return self.bytes is not None and self.bytes[place] >= BYTES_PER_BATCH


def _is_long(verdicts: Verdicts) -> bool:
    longest = max((max(map(len, owned.keys), default=0) for owned in verdicts.owned), default=0)
    if longest * KEYS_PER_BATCH > BYTES_PER_BATCH:
        return True
    return any(value[:1] == b"#" for value in verdicts.stale.values())


def _bytes_of(verdicts: Verdicts) -> list[int]:
    sizes = [_weight(name, value) for name, value in verdicts.stale.items()]
    for owned in verdicts.owned:
        for key, place in zip(owned.keys, owned.owners, strict=True):
            sizes[place] += len(key)
    return sizes


def _weight(coordinator_id: bytes, print_: bytes) -> int:
    # The script reads the heartbeats, and a long one takes its time.
    return len(coordinator_id) + length_of(print_)


def _spread_places(verdicts: Verdicts, sizes: _Sizes) -> frozenset[int]:
    """The coordinators that can't go in one step with their heartbeat.

    They have more keys than a batch holds, or one that names other stale coordinators too: that
    one has to watch heartbeats which are deleted elsewhere.
    """
    large = [place for place in range(len(sizes.keys)) if sizes.is_large(place)]
    if not verdicts.co_owners:
        return frozenset(large)
    shared = [
        place
        for owned in verdicts.owned
        for key, place in zip(owned.keys, owned.owners, strict=True)
        if key in verdicts.co_owners
    ]
    return frozenset(large + shared)


def _common_slots(verdicts: Verdicts, schema: Schema) -> list[int | None]:
    """The slot in which all keys of a coordinator lie; None if they lie in several."""
    slots: list[int | None] = [slot_of(key) for key in schema.heartbeat.keys_for(verdicts.stale)]
    for owned in verdicts.owned:
        for key, place in zip(owned.keys, owned.owners, strict=True):
            if slots[place] is not None and slots[place] != slot_of(key):
                slots[place] = None
    return slots


def _number(
    slots: Sequence[int | None], spread: frozenset[int], sizes: _Sizes
) -> tuple[list[int], list[int | None]]:
    """Which batch each coordinator goes in, and each batch's slot; -1 for those that are spread."""
    numbers: list[int] = []
    batch_slots: list[int | None] = []
    open_batches: dict[int | None, tuple[int, int, int]] = {}
    full = (-1, KEYS_PER_BATCH, 0)
    for place, slot in enumerate(slots):
        if place in spread:
            numbers.append(-1)
            continue
        number, keys, size = open_batches.get(slot, full)
        if keys >= KEYS_PER_BATCH or size >= BYTES_PER_BATCH:
            number, keys, size = len(batch_slots), 0, 0
            batch_slots.append(slot)
        numbers.append(number)
        size += sizes.bytes[place] if sizes.bytes is not None else 0
        open_batches[slot] = (number, keys + sizes.keys[place], size)
    return numbers, batch_slots


def _fill(
    verdicts: Verdicts, numbers: Sequence[int], batch_slots: Sequence[int | None]
) -> list[Batch]:
    """The batches with what goes into them.

    Those without a slot only watch their heartbeats, which are in other slots.
    """
    # One more, for what is spread: its number, -1, is the last place of a list.
    count = len(batch_slots) + 1
    ids: list[list[bytes]] = [[] for _ in range(count)]
    prints: list[list[bytes]] = [[] for _ in range(count)]
    for number, name, value in zip(numbers, *_columns(verdicts.stale), strict=True):
        ids[number].append(name)
        prints[number].append(value)
    families: list[list[list[bytes]]] = []
    for owned in verdicts.owned:
        family: list[list[bytes]] = [[] for _ in range(count)]
        add_to = [keys.append for keys in family]
        for key, place in zip(owned.keys, owned.owners, strict=True):
            add_to[numbers[place]](key)
        families.append(family)
    batches = [
        Batch(
            guard_ids=ids[number],
            own_heartbeats=0 if slot is None else len(ids[number]),
            expected=prints[number],
            keys=[family[number] for family in families],
            slot=slot,
        )
        for number, slot in enumerate(batch_slots)
    ]
    return sorted(batches, key=_turn)


def _columns(stale: Mapping[bytes, bytes]) -> tuple[Iterable[bytes], Iterable[bytes]]:
    return stale.keys(), stale.values()


def _turn(batch: Batch) -> int:
    """Slots that follow each other lie on one server. Several servers are to work at once."""
    return -1 if batch.slot is None else batch.slot * _SCATTER % SLOTS


def _spread_batches(
    verdicts: Verdicts, spread: frozenset[int], schema: Schema, *, clustered: bool
) -> list[Batch]:
    """Owned keys of spread coordinators, each watched by every stale heartbeat that it names."""
    batcher = _Batcher(schema, slot=None if clustered else 0)
    if not spread:
        return []
    ids = list(verdicts.stale)
    of_owner: dict[int, list[tuple[int, bytes]]] = {place: [] for place in sorted(spread)}
    for family, owned in enumerate(verdicts.owned):
        for key, place in zip(owned.keys, owned.owners, strict=True):
            if place in spread:
                of_owner[place].append((family, key))
    for place, keys in of_owner.items():
        for family, key in keys:
            named = (ids[place], *verdicts.co_owners.get(key, ()))
            batcher.draft.add(family, key, [(name, verdicts.stale[name]) for name in named])
            batcher.flush_if_full()
    return batcher.finish()


def _heartbeat_batches(
    places: Iterable[int],
    ids: Sequence[bytes],
    prints: Sequence[bytes],
    schema: Schema,
    *,
    clustered: bool,
) -> list[Batch]:
    """Batches of wave 1, by slot, with these coordinators' heartbeats."""
    by_slot: dict[int, list[int]] = {}
    for place in places:
        slot = slot_of(schema.heartbeat.key_for(ids[place])) if clustered else 0
        by_slot.setdefault(slot, []).append(place)
    batches = [
        Batch(
            guard_ids=[ids[place] for place in some],
            own_heartbeats=len(some),
            expected=[prints[place] for place in some],
            keys=[[] for _ in schema.owned],
            wave=1,
            slot=slot,
        )
        for slot, in_slot in by_slot.items()
        for some in _few_enough(in_slot, ids, prints)
    ]
    return sorted(batches, key=_turn)


def _few_enough(
    places: Sequence[int], ids: Sequence[bytes], prints: Sequence[bytes]
) -> Iterator[list[int]]:
    some: list[int] = []
    size = 0
    for place in places:
        some.append(place)
        size += _weight(ids[place], prints[place])
        if len(some) >= KEYS_PER_BATCH or size >= BYTES_PER_BATCH:
            yield some
            some, size = [], 0
    if some:
        yield some


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
    return sorted(chain(*(batcher.finish() for batcher in batchers.values())), key=_turn)


def _only_slot(keys: Iterable[bytes]) -> int | None:
    """The slot of all these keys; None if they lie in several."""
    slots = {slot_of(key) for key in keys}
    return slots.pop() if len(slots) == 1 else None


def _is_checkable(orphan_id: bytes, verdicts: Verdicts, schema: Schema) -> bool:
    return all(
        candidates_within(pattern, key, MOST_NAMED)
        for keys, (_, pattern) in zip(verdicts.orphans, schema.owned, strict=True)
        for key in keys.get(orphan_id, ())
    )
