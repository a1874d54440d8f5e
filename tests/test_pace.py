"""Sizes of commands: towards the time that one may take, quickly down and slowly up."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.pace import (
    LAST_TIMES,
    LEAST_SLACK,
    MOST_GROWTH,
    MOST_SLACK,
    SMALLEST,
    Depth,
    Pace,
    depth_of,
)

MOST = 1000


def settle(pace: Pace, key_ms: float, commands: int = 60) -> int:
    """The size after so many commands to a server that takes so long for each key."""
    for _ in range(commands):
        pace.took(pace.size, pace.size * key_ms / 1000)
    return pace.size


def test_one_answer_of_a_slow_server_is_enough() -> None:
    pace = Pace(MOST, 2)
    pace.took(pace.size, 0.02)
    assert pace.size == MOST / 10


def test_a_quick_server_gets_the_largest() -> None:
    assert settle(Pace(MOST, 2), key_ms=0.001) == MOST


def test_grows_step_by_step() -> None:
    pace = Pace(MOST, 2)
    settle(pace, key_ms=0.02)
    before = pace.size
    for _ in range(9):
        pace.took(before, 0)
        assert pace.size <= before * MOST_GROWTH
        before = pace.size
    assert pace.size == MOST


def test_a_slow_server_gets_as_much_as_it_can_do_in_time() -> None:
    assert settle(Pace(MOST, 2), key_ms=0.02) == 100
    assert settle(Pace(MOST, 10), key_ms=0.02) == 500


def test_a_server_that_gets_slow_soon_gets_less() -> None:
    pace = Pace(MOST, 2)
    settle(pace, key_ms=0.001)
    assert settle(pace, key_ms=0.2, commands=4) < MOST / 20


def test_one_that_recovers_gets_more_again() -> None:
    pace = Pace(MOST, 2)
    settle(pace, key_ms=1)
    assert pace.size == SMALLEST
    assert settle(pace, key_ms=0.001) == MOST


def test_one_hiccup_does_not_last() -> None:
    pace = Pace(MOST, 2)
    settle(pace, key_ms=0.001)
    pace.took(MOST, 0.1)
    assert settle(pace, key_ms=0.001, commands=30) == MOST


def test_a_way_that_takes_now_little_and_now_much_is_no_work_of_the_server() -> None:
    """A page of 1000 took ten keys in the end, and a survey a minute."""
    pace = Pace(MOST, 2)
    chance = random.Random(1)
    sizes = []
    for _ in range(500):
        work_s, beyond_s = pace.size * 0.5e-6, max(0.0, chance.uniform(-0.005, 0.015))
        pace.took(pace.size, work_s + beyond_s)
        sizes.append(pace.size)
    assert sum(sizes) / len(sizes) > MOST / 4


def test_what_nobody_can_tell_changes_nothing() -> None:
    pace = Pace(MOST, 2)
    settle(pace, key_ms=0.02)
    before = pace.size
    pace.took(before, None)
    assert pace.size == before


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 100)), max_size=50))
def test_stays_within_bounds_whatever_it_is_told(took: list[tuple[int, float]]) -> None:
    pace = Pace(MOST, 2)
    for keys, seconds in took:
        pace.took(keys, seconds)
        assert SMALLEST <= pace.size <= MOST


seconds = st.floats(0, 10)
each = st.floats(1e-7, 1)
counts = st.integers(1, 1_000)


@given(seconds, each, counts, counts)
def test_as_many_are_in_flight_as_the_way_needs(
    latency_s: float, each_s: float, least: int, more: int
) -> None:
    depth = depth_of(latency_s, each_s, least, least + more)
    assert least <= depth <= least + more
    if depth < least + more:
        # The slower side never waits for the way, and no more wait than at a near server.
        assert depth * each_s >= latency_s
        assert (depth - least) * each_s <= latency_s * (1 + 1e-9)


@given(seconds, seconds, each, each, counts, counts)
def test_they_grow_with_the_way_and_shrink_with_the_work(
    one_s: float, other_s: float, quick_s: float, slow_s: float, least: int, more: int
) -> None:
    most = least + more
    near_s, far_s = sorted((one_s, other_s))
    quick_s, slow_s = sorted((quick_s, slow_s))
    assert depth_of(near_s, quick_s, least, most) <= depth_of(far_s, quick_s, least, most)
    assert depth_of(far_s, slow_s, least, most) <= depth_of(far_s, quick_s, least, most)


def test_a_near_server_gets_two() -> None:
    assert depth_of(0.0001, 0.0005, 2, 400) == 2


FAR_S, WORK_S = 0.08, 0.0005


def far_depth(work_s: float = WORK_S) -> Depth:
    depth = Depth(2, 400, 0.002)
    for _ in range(LAST_TIMES):
        depth.took(1, work_s)
    return depth


def test_it_grows_as_quickly_as_the_server_works() -> None:
    depth = far_depth()
    now_s = before = 0.0
    depth.now(FAR_S, now_s)
    while (level := depth.now(FAR_S, now_s := now_s + WORK_S)) < depth.wanted(FAR_S):
        assert level <= before + 2 or not before
        before = level
    assert FAR_S * 0.9 < now_s < FAR_S * 1.1


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), max_size=40))
def test_depth_stays_within_bounds_whatever_it_is_told(
    told: list[tuple[float, float, float]],
) -> None:
    depth = Depth(2, 400, 0.002)
    now_s, before = 0.0, 2
    for took_s, queued_s, passed_s in told:
        now_s += passed_s
        depth.took(1, took_s)
        depth.queued(queued_s, FAR_S, now_s)
        level = depth.now(FAR_S, now_s)
        assert 2 <= level <= min(400, before + 2)
        before = level
    depth.restart()
    assert depth.now(FAR_S, now_s) == 2


def test_work_that_stands_still_now_and_then_needs_no_less() -> None:
    depth = far_depth()
    before = depth.wanted(FAR_S)
    for _ in range(4):
        depth.took(1, 0.05)
        depth.took(1, WORK_S)
    assert depth.wanted(FAR_S) == before


def test_a_queue_makes_it_less_and_none_makes_it_more() -> None:
    for queued_s, slack in ((0.0, MOST_SLACK), (0.02, LEAST_SLACK)):
        depth = far_depth()
        usual = depth.wanted(FAR_S) - 2
        for look in range(50):
            depth.queued(queued_s, FAR_S, look * FAR_S)
        assert depth.wanted(FAR_S) - 2 == pytest.approx(usual * slack, abs=1)


def test_replies_that_turn_out_to_be_large_are_fewer() -> None:
    depth = far_depth()
    assert depth.wanted(FAR_S) > 100
    depth.most = 0
    assert depth.wanted(FAR_S) == depth.now(FAR_S, 1.0) == 2
