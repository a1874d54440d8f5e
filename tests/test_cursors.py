"""Cursors, places, and borders of shares."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.cursors import (
    Order,
    cursor_at,
    cut_by_weight,
    cut_evenly,
    describe,
    end_of,
    place_of,
    reverse_bits,
)
from cleanup_job.keyspace import SLOTS

weights = st.lists(st.integers(0, 50), min_size=1, max_size=40).map(
    lambda some: (some * SLOTS)[:SLOTS]
)


@given(st.integers(0, (1 << 64) - 1))
def test_reversing_twice_gives_the_number_back(number: int) -> None:
    assert reverse_bits(reverse_bits(number)) == number


@given(st.integers(0, (1 << 50) - 1), st.integers(0, SLOTS - 1))
def test_place_and_cursor_are_inverse(bucket: int, slot: int) -> None:
    cursor = bucket << 14 | slot
    for order in (Order.REVERSED, Order.SLOTS):
        assert cursor_at(order, place_of(order, cursor)) == cursor


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 16])
def test_equal_shares_make_up_the_line(parts: int) -> None:
    borders = cut_evenly(parts)
    assert (borders[0], borders[-1]) == (0, end_of(Order.REVERSED))
    sizes = [end - start for start, end in itertools.pairwise(borders)]
    assert max(sizes) - min(sizes) <= 1


@given(weights, st.integers(1, 20))
def test_weighed_shares_make_up_the_line(counts: list[int], parts: int) -> None:
    borders = cut_by_weight(counts, parts)
    assert len(borders) == parts + 1
    assert (borders[0], borders[-1]) == (0, end_of(Order.SLOTS))
    assert borders == sorted(borders)


@given(st.lists(st.integers(0, SLOTS - 1), max_size=5), st.integers(1, 12))
def test_weighed_shares_are_even_also_where_slots_are_heavy(heavy: list[int], parts: int) -> None:
    counts = [10] * SLOTS
    for slot in heavy:
        counts[slot] = 100_000
    borders = cut_by_weight(counts, parts)
    shares = [held(counts, start, end) for start, end in itertools.pairwise(borders)]
    assert max(shares) <= 1.3 * sum(counts) / parts


def held(counts: list[int], start: int, end: int) -> float:
    """How many keys lie between two places, if each slot's are spread evenly over it."""
    space = end_of(Order.REVERSED)
    first, last = start // space, min(end // space, SLOTS - 1)
    total = 0.0
    for slot in range(first, last + 1):
        overlap = min(end, (slot + 1) * space) - max(start, slot * space)
        total += counts[slot] * max(0, overlap) / space
    return total


def test_cuts_inside_of_a_slot_fit_into_a_cursor() -> None:
    counts = [0] * SLOTS
    counts[7] = 1_000_000
    for border in cut_by_weight(counts, 16)[1:-1]:
        assert border // end_of(Order.REVERSED) == 7
        assert cursor_at(Order.SLOTS, border) < 1 << 64
        assert place_of(Order.SLOTS, cursor_at(Order.SLOTS, border)) == border


def test_shares_in_words() -> None:
    half = end_of(Order.REVERSED) // 2
    assert describe(Order.SEQUENCE, (0, 1)) == "all"
    assert describe(Order.REVERSED, (0, half)) == "cursors 0.0% to 50.0%"
    assert describe(Order.SLOTS, (5 * 2 * half, 7 * 2 * half + half)) == "slots 5 to 7 + 50%"
    assert describe(Order.SLOTS, (0, end_of(Order.SLOTS))) == "slots 0 to 16383"
