"""Sizes of commands: towards the time that one may take, quickly down and slowly up."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.pace import MOST_GROWTH, SMALLEST, Pace

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
