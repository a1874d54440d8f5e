"""The course of a run: what was done when, and how long commands took then (pure).

The job stamps the keys that are done, `wire` each reply where it arrives, with the same clock:
`perf_counter`, which is one for all processes of a machine; those of other machines are moved by
the difference of the clocks (`remote`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cleanup_job.report import Moment, Stop, Took, calls_of, percentile_ms
from cleanup_job.timings import Timings, replies

MOST_MOMENTS = 120
"""Stretches that a run is cut into: about what a page has room for."""

SHORTEST_S = 0.01
"""No stretch is shorter, so that each has some commands in it."""

LEAST_S = 0.001
"""A phase that took less, such as the purge of a dry run, has no course."""

MOST_STOPS = 200
"""Pauses that are listed one by one; where there are more, they are added up by stretches."""


class Span(NamedTuple):
    """A phase's first and last instant, by the clock of the stamps."""

    phase: str
    began_s: float
    ended_s: float


Done = Sequence[tuple[float, int]]
"""How many keys were done, and when."""


def course_of(spans: Sequence[Span], done: Done, timings: Timings, began_s: float) -> list[Moment]:
    """Cut each phase into stretches of about the same length.

    Args:
        spans: the phases, in order.
        done: keys, in any phase, in order of time.
        timings: of the whole run. A reply belongs to the phase in which it came, whichever took
            it over: the survey's last ones are told with the purge's.
        began_s: when the run began, by the clock of the stamps.
    """
    whole_s = sum(span.ended_s - span.began_s for span in spans)
    step_s = max(SHORTEST_S, whole_s / MOST_MOMENTS)
    return [
        moment
        for span in spans
        if span.ended_s - span.began_s >= LEAST_S
        for moment in _moments(span, step_s, done, timings, began_s)
    ]


def _moments(
    span: Span, step_s: float, done: Done, timings: Timings, began_s: float
) -> list[Moment]:
    length_s = span.ended_s - span.began_s
    count = max(1, round(length_s / step_s))
    bounds = [span.began_s + length_s * i / count for i in range(1, count)]
    keys = [0] * count
    for at_s, number in done:
        if span.began_s <= at_s <= span.ended_s:
            keys[bisect_right(bounds, at_s)] += number
    took: list[Took] = [[] for _ in range(count)]
    for stamped in timings.values():
        for at_s, seconds, number in replies(stamped):
            if span.began_s <= at_s <= span.ended_s:
                took[bisect_right(bounds, at_s)].append((seconds, number))
    return [
        _moment(span, began_s, length_s / count, i, keys[i], sorted(took[i])) for i in range(count)
    ]


def _moment(span: Span, began_s: float, length_s: float, i: int, keys: int, took: Took) -> Moment:
    times = (
        {
            "p50_ms": percentile_ms(took, 0.50),
            "p99_ms": percentile_ms(took, 0.99),
            "max_ms": round(took[-1][0] * 1000, 3),
        }
        if took
        else {}
    )
    return Moment(
        at_s=round(span.began_s - began_s + i * length_s, 4),
        seconds=round(length_s, 4),
        phase=span.phase,
        keys=keys,
        commands=calls_of(took),
        **times,
    )


def stops_of(
    pauses: Iterable[tuple[str, float, float]], began_s: float, duration_s: float
) -> list[Stop]:
    """The pauses in order, added up by stretches of the run where there are very many.

    Args:
        pauses: code, first and last instant of each.
        began_s: when the run began, by the same clock.
        duration_s: of the run.
    """
    stops = [
        Stop(code, round(first_s - began_s, 4), round(last_s - first_s, 4))
        for code, first_s, last_s in pauses
    ]
    if len(stops) <= MOST_STOPS:
        return stops
    step_s = max(SHORTEST_S, duration_s / MOST_MOMENTS)
    merged: dict[tuple[str, int], Stop] = {}
    for stop in stops:
        place = stop.code, int(stop.at_s / step_s)
        before = merged.get(place)
        if before is not None:
            stop = Stop(stop.code, before.at_s, round(before.seconds + stop.seconds, 4))
        merged[place] = stop
    return list(merged.values())
