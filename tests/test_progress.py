"""What a terminal shows of a walk over a cluster's slots."""

from __future__ import annotations

import pytest

from cleanup_job.cursors import Lane, Order, cut_by_weight, cut_evenly
from cleanup_job.model import Partition, SlotRange
from cleanup_job.progress import describe_walk

NODE = "127.0.0.1:7000"


def describe(order: Order, lane: Lane, slots: list[SlotRange]) -> str:
    return describe_walk(Partition(NODE, order, (lane,), 1), slots)


BORDERS = cut_by_weight([1] * 16_384, 2)


@pytest.mark.parametrize(
    ("lane", "slots", "expected"),
    [
        ((BORDERS[0], BORDERS[2]), [(0, 5460)], "0-5,460"),
        ((BORDERS[0], BORDERS[1]), [(5461, 10_921)], "5,461-8,191"),
        ((BORDERS[1], BORDERS[2]), [(5461, 10_921)], "8,192-10,921"),
        ((BORDERS[0], BORDERS[2]), [(7, 7), (9, 10)], "7, 9-10"),
        ((BORDERS[0], BORDERS[2]), [(n, n) for n in (1, 3, 5, 7)], "4 from 1 to 7"),
        ((BORDERS[1], BORDERS[2]), [(0, 100)], "of others"),
    ],
)
def test_slot_by_slot(lane: Lane, slots: list[SlotRange], expected: str) -> None:
    assert describe(Order.SLOTS, lane, slots) == f"walked slots {expected} of {NODE}"


def test_a_share_of_all_slots() -> None:
    start, end, _ = cut_evenly(2)
    assert describe(Order.REVERSED, (start, end), [(0, 5460)]) == (
        f"walked slots 0-5,460 of {NODE}, cursors 0.0% to 50.0%"
    )
