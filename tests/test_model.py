"""Packing, secrets and printable names."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.config import Config
from cleanup_job.cursors import Order
from cleanup_job.model import (
    Batch,
    Endpoint,
    Findings,
    Kind,
    Lot,
    Owned,
    Partition,
    PurgeTask,
    Sample,
    Secret,
    StaleRun,
    pack,
    printable,
    unpack,
)
from cleanup_job.routes import standalone

names = st.one_of(st.binary(), st.sampled_from([b"", b"\n", b"a\nb", b"m", b"\nm"]))


@given(st.lists(names))
def test_unpack_gives_back_what_was_packed(items: list[bytes]) -> None:
    assert unpack(pack(items)) == items


@given(st.binary())
def test_printable_names_hold_no_control_characters(name: bytes) -> None:
    assert printable(name, limit=1000).isprintable() or not name


def test_long_names_are_cut_and_say_so() -> None:
    assert printable(b"x" * 10_000) == "x" * 120 + "… (10000 bytes)"


def test_no_repr_shows_a_password() -> None:
    endpoint = Endpoint(password=Secret("hush"))
    assert "hush" not in repr(endpoint)
    assert pickle.loads(pickle.dumps(endpoint)).password == "hush"


some = st.lists(st.binary(max_size=4), max_size=5)


@given(some, some, st.lists(some, max_size=3))
def test_findings_reach_another_process_as_they_are(
    live: list[bytes], stale: list[bytes], owned: list[list[bytes]]
) -> None:
    found = Findings(
        partition=Partition("n", Order.SLOTS, ((0, 1),), 0),
        scanned=1,
        seconds=0.5,
        attempts=1,
        live=live,
        stale=[StaleRun(stale, stale, [7] * len(stale))],
        kept=[Sample(b"k", Kind.FUTURE, "r", -1)],
        owned=[owned, []],
        timings={"SCAN": [5.0, 0.1, 1.0]},
        longest=3,
    )
    assert pickle.loads(pickle.dumps(found)) == found


@given(some)
def test_purge_tasks_reach_another_process_as_they_are(ids: list[bytes]) -> None:
    lot = Lot(ids, ids, [Owned(list(range(len(ids))), ids)], [None] * len(ids), wave=1)
    batch = Batch(ids, 0, ids, [ids], slot=None)
    config = Config()
    routes = standalone(config.access())
    task = PurgeTask(routes, config.schema(), config.rule(), (lot,), (batch,), 7)
    assert pickle.loads(pickle.dumps(task)) == task
