"""What a lost worker left of its task (pure): what may run again, and what had better not.

A worker that died may have deleted some of its keys, and nobody has its replies. What is not there
any more is counted as unknown; what is there becomes a task again. That one is guarded like any
other, and by the same heartbeats, so it does no more than the first would have done.

One case is not taken up again. A coordinator whose heartbeat was to go with its keys has lost it,
and has keys: they may have been written by one that comes back after its purge, and is about to
beat. They are *headless*. In the next run they are orphans, which have a grace.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import msgspec
from msgspec import structs

from cleanup_job.model import KEYS_PER_BATCH, Batch, Lot, Owned, PurgeTask, Schema


class Remains(msgspec.Struct, frozen=True):
    """What is still there of a task.

    Attributes:
        rest: the task of it that may run; None if there is nothing.
        headless: keys without their heartbeat, in batches that must not be sent.
    """

    rest: PurgeTask | None
    headless: tuple[Batch, ...]


def remains_of(task: PurgeTask, there: Collection[bytes]) -> Remains:
    """What is left of a task of which only the keys `there` are there."""
    lots: list[Lot] = []
    headless: list[Batch] = []
    for lot in task.lots:
        rest, without = _split(_with_keys(lot, there), task.schema, there)
        if rest.ids:
            lots.append(rest)
        headless += without
    batches = tuple(_batches_left(task.batches, there))
    if not (lots or batches):
        return Remains(None, tuple(headless))
    rest_task = structs.replace(task, lots=tuple(lots), batches=batches)
    return Remains(rest_task, tuple(headless))


def _with_keys(lot: Lot, there: Collection[bytes]) -> Lot:
    """The lot with the owned keys that are there."""
    owned = []
    for family in lot.owned:
        pairs = [(key, owner) for key, owner in family.pairs(lot.ids) if key in there]
        keys = [key for key, _ in pairs] if family.keys else []
        owned.append(Owned([owner for _, owner in pairs], keys, family.prefix))
    return structs.replace(lot, owned=owned)


def _split(lot: Lot, schema: Schema, there: Collection[bytes]) -> tuple[Lot, list[Batch]]:
    """Those that may go, and the keys of those that are without the heartbeat they should have.

    A heartbeat that waits for a later wave is none of this task's.
    """
    owners = {owner for family in lot.owned for owner in family.owners}
    goes: list[bool] = []
    lacks: list[bool] = []
    for place, heartbeat in enumerate(schema.heartbeat.keys_for(lot.ids)):
        waits = bool(lot.slots) and lot.slots[place] is None
        has_heartbeat = heartbeat in there
        goes.append(place in owners if waits else has_heartbeat)
        lacks.append(place in owners and not (waits or has_heartbeat))
    headless = lot.only(lacks)
    batches = headless.batches(lambda _: KEYS_PER_BATCH) if headless.ids else ()
    return lot.only(goes), [structs.replace(batch, own_heartbeats=0) for batch in batches]


def _batches_left(batches: Sequence[Batch], there: Collection[bytes]) -> Iterator[Batch]:
    """The batches with the keys that are there. Guards that are not needed any more do no harm.

    No batch of a plan has heartbeats of its own; those are all in lots.
    """
    for batch in batches:
        keys = [[key for key in family if key in there] for family in batch.keys]
        if any(keys):
            yield structs.replace(batch, keys=keys)
