"""The course of a run: nothing is counted twice or in the wrong stretch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.course import LEAST_S, MOST_MOMENTS, MOST_STOPS, Span, course_of, stops_of
from cleanup_job.report import Stop

SPANS = [Span("survey", 100.0, 101.0), Span("judge", 101.0, 101.5), Span("purge", 101.5, 104.0)]

moments_s = st.floats(100.0, 104.0)


@given(
    st.lists(st.tuples(moments_s, st.integers(0, 1000))),
    st.lists(st.tuples(st.floats(99.0, 106.0), st.floats(0, 1))),
)
def test_every_key_and_every_reply_within_the_run_is_in_it(
    done: list[tuple[float, int]], replies: list[tuple[float, float]]
) -> None:
    # On the border of two phases it would be in both.
    done = [(at_s, keys) for at_s, keys in done if at_s not in (101.0, 101.5)]
    replies = [(at_s, took_s) for at_s, took_s in replies if at_s not in (101.0, 101.5)]
    timings = {"SCAN": [number for reply in replies for number in (*reply, 1.0)]}
    course = course_of(SPANS, done, timings, 100.0)
    assert sum(moment.keys for moment in course) == sum(keys for _, keys in done)
    within = [took_s for at_s, took_s in replies if 100.0 <= at_s <= 104.0]
    assert sum(moment.commands for moment in course) == len(within)
    if within:
        assert max(moment.max_ms for moment in course) == round(1000 * max(within), 3)
    assert len(course) <= MOST_MOMENTS + len(SPANS)
    assert [moment.at_s for moment in course] == sorted(moment.at_s for moment in course)


def test_a_short_run_has_few_stretches_and_an_empty_phase_none() -> None:
    spans = [Span("survey", 0.0, 0.012), Span("purge", 0.012, 0.012 + LEAST_S / 2)]
    [moment] = course_of(spans, [(0.01, 5)], {}, 0.0)
    assert (moment.phase, moment.keys, moment.commands, moment.seconds) == ("survey", 5, 0, 0.012)


class TestStops:
    def test_a_few_are_listed(self) -> None:
        pauses = [("nice", 10.0, 11.5), ("pause_file", 12.0, 13.0)]
        assert stops_of(pauses, 9.0, 5.0) == [Stop("nice", 1.0, 1.5), Stop("pause_file", 3.0, 1.0)]

    def test_many_are_added_up(self) -> None:
        pauses = [("nice", i / 100, i / 100 + 0.005) for i in range(10_000)]
        stops = stops_of(pauses, 0.0, 100.0)
        assert len(stops) <= MOST_STOPS
        assert round(sum(stop.seconds for stop in stops), 2) == 50.0
