"""What a lost worker left: every key is in exactly one place, and guards stay who they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.config import Config
from cleanup_job.model import KEYS_PER_BATCH, Batch, Lot, Owned, PurgeTask
from cleanup_job.remains import remains_of
from cleanup_job.routes import standalone

CONFIG = Config()
SCHEMA = CONFIG.schema()
FAMILIES = len(SCHEMA.owned)


def task_of(lots: Sequence[Lot], batches: Sequence[Batch] = ()) -> PurgeTask:
    return PurgeTask(
        standalone(CONFIG.access()), SCHEMA, CONFIG.rule(), tuple(lots), tuple(batches)
    )


def keys_in(batches: Iterable[Batch]) -> list[bytes]:
    """All keys that these batches would delete."""
    keys = [key for batch in batches for family in batch.keys for key in family]
    for batch in batches:
        keys += SCHEMA.heartbeat.keys_for(batch.guard_ids[: batch.own_heartbeats])
    return keys


def batches_in(task: PurgeTask | None) -> list[Batch]:
    if task is None:
        return []
    in_lots = [batch for lot in task.lots for batch in lot.batches(lambda _: KEYS_PER_BATCH)]
    return [*in_lots, *task.batches]


@st.composite
def lots(draw: st.DrawFn) -> Lot:
    ids = draw(st.lists(st.sampled_from(b"abcdefgh"), unique=True, max_size=8).map(sorted))
    ids = [bytes([name]) for name in ids]
    slot = st.lists(st.sampled_from([None, 1, 2]), min_size=len(ids), max_size=len(ids))
    slots = draw(st.one_of(st.just([]), slot.map(lambda found: sorted(found, key=str))))
    owned = [Owned([])] * FAMILIES
    owners = draw(st.lists(st.integers(0, max(0, len(ids) - 1)), max_size=9).map(sorted))
    if ids:
        names = [b"blocking:ack:%b:%d" % (ids[owner], n) for n, owner in enumerate(owners)]
        owned[1] = Owned(owners, names)
        with_signal = sorted(set(owners))
        owned[0] = Owned(with_signal, prefix=b"blocking:signal:")
    return Lot(ids, [b"print-" + name for name in ids], owned, slots)


@given(lots(), st.data())
def test_each_key_is_left_or_headless_or_not_there(lot: Lot, data: st.DataObject) -> None:
    task = task_of([lot])
    keys = keys_in(batches_in(task))
    there = data.draw(st.sets(st.sampled_from(sorted(keys)))) if keys else set()
    remains = remains_of(task, there)
    left = keys_in(batches_in(remains.rest))
    headless = keys_in(remains.headless)
    assert Counter(left + headless) == Counter(there)
    for batch in [*batches_in(remains.rest), *remains.headless]:
        assert list(batch.expected) == [b"print-" + name for name in batch.guard_ids]
    # Nothing goes without a heartbeat that goes with it, unless that one waits.
    for batch in remains.headless:
        assert batch.own_heartbeats == 0
        assert there.isdisjoint(SCHEMA.heartbeat.keys_for(batch.guard_ids))
        assert batch.slot is not None


@given(lots())
def test_all_that_is_there_stays_as_it_was(lot: Lot) -> None:
    task = task_of([lot])
    keys = keys_in(batches_in(task))
    remains = remains_of(task, set(keys))
    assert remains.headless == ()
    assert sorted(keys_in(batches_in(remains.rest))) == sorted(keys)
    assert remains_of(task, set()).rest is None


def test_batches_keep_their_guards() -> None:
    owned: list[Sequence[bytes]] = [[] for _ in range(FAMILIES)]
    owned[1] = [b"blocking:ack:a:1", b"blocking:ack:a:2"]
    batch = Batch((b"a", b"b"), 0, (b"x", b"y"), owned, min_idle_s=5, slot=None)
    rest = remains_of(task_of([], [batch]), {b"blocking:ack:a:2"}).rest
    assert rest is not None
    (left,) = rest.batches
    assert (left.guard_ids, left.expected, left.min_idle_s) == ((b"a", b"b"), (b"x", b"y"), 5)
    assert left.slot is None
    assert keys_in([left]) == [b"blocking:ack:a:2"]
    assert remains_of(task_of([], [batch]), set()).rest is None
