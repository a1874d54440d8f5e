"""The histogram of ages: nobody is left out, and its bands are ones that people would choose."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.ages import MOST_STEPS, ages_of, all_ages, bands_of


@given(st.lists(st.integers(0, 10**13), min_size=1))
def test_everybody_is_in_one_band_and_the_bands_meet(ages_ms: list[int]) -> None:
    bands = bands_of(ages_of(ages_ms))
    assert sum(band.coordinators for band in bands) == len(ages_ms)
    assert all(one.to_s == other.from_s for one, other in pairwise(bands))
    assert bands[0].coordinators
    assert bands[-1].coordinators
    assert len(bands) <= MOST_STEPS + 2
    for band in bands:
        within = [
            age_ms
            for age_ms in ages_ms
            if band.from_s <= age_ms / 1000 and (band.to_s is None or age_ms / 1000 < band.to_s)
        ]
        assert band.coordinators == len(within)


def test_none() -> None:
    assert bands_of(ages_of([])) == []


def test_ages_close_together_get_even_steps() -> None:
    bands = bands_of(ages_of([700_000, 705_000, 719_999]))
    assert [(band.from_s, band.coordinators) for band in bands if band.coordinators] == [
        (700, 1),
        (705, 1),
        (719, 1),
    ]


def test_ages_far_apart_get_bounds_as_people_count_time() -> None:
    bands = bands_of(ages_of([700_000, 7_200_000, 90_000_000, 10**12]))
    assert (bands[0].from_s, bands[0].to_s) == (600, 1200)
    assert (bands[-1].from_s, bands[-1].to_s) == (3650 * 86_400, None)
    assert next(band for band in bands if band.from_s == 7200).coordinators == 1


@given(st.lists(st.lists(st.integers(0, 10**13))))
def test_parts_together_are_the_whole(parts: list[list[int]]) -> None:
    together = all_ages(map(ages_of, parts))
    assert together == ages_of([age_ms for part in parts for age_ms in part])
