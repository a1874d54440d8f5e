"""The ages of stale heartbeats as a histogram that a person can read (pure)."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from cleanup_job.report import AgeBand

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400

_MINUTES = (10, 20, 30)
_HOURS = (1, 2, 3, 6, 12)
_DAYS = (1, 2, 4, 7, 14, 30, 60, 90, 180, 365, 730, 1825, 3650)

EDGES_S: tuple[int, ...] = (
    *(n * MINUTE_S for n in _MINUTES),
    *(n * HOUR_S for n in _HOURS),
    *(n * DAY_S for n in _DAYS),
)
"""Where bands meet when ages differ by much: as people count time."""

STEPS_S = (1, 2, 5, 10, 15, 30, *(n * MINUTE_S for n in (1, 2, 5, 10, 15, 30)), HOUR_S)
STEPS_S += tuple(n * HOUR_S for n in (2, 3, 6, 12)) + tuple(n * DAY_S for n in (1, 2, 7, 30, 90))
"""How wide they are when all ages lie close together, as after an incident."""

MOST_STEPS = 20

CLOSE = 4
"""The oldest is less than this many times as old as the youngest: that is close together."""


FINE = ((DAY_S, 1), (30 * DAY_S, MINUTE_S))
"""Ages up to so many seconds are counted in steps of so many; older ones in hours. All edges that
people use are such steps, so that counts by bands are exact, and few enough to be carried about."""


class Ages(msgspec.Struct, frozen=True):
    """How many heartbeats are how old: what the ages of any number come to.

    Attributes:
        counts: by age in seconds, in the steps of `FINE`.
        youngest_ms: None without any.
        oldest_ms: the same.
    """

    counts: dict[int, int] = {}
    youngest_ms: int | None = None
    oldest_ms: int | None = None


def ages_of(ages_ms: Sequence[int]) -> Ages:
    """Those of so many heartbeats, in any order."""
    if not ages_ms:
        return Ages()
    seconds = Counter(map((1000).__rfloordiv__, ages_ms))  # nothing is kept for each
    counts: Counter[int] = Counter()
    for age_s, found in seconds.items():
        counts[age_s - age_s % _fineness_s(age_s)] += found
    return Ages(dict(counts), min(ages_ms), max(ages_ms))


def all_ages(parts: Iterable[Ages]) -> Ages:
    """All of these together."""
    counts: Counter[int] = Counter()
    youngest_ms: list[int] = []
    oldest_ms: list[int] = []
    for part in parts:
        if part.youngest_ms is not None and part.oldest_ms is not None:
            counts.update(part.counts)
            youngest_ms.append(part.youngest_ms)
            oldest_ms.append(part.oldest_ms)
    return Ages(dict(counts), min(youngest_ms, default=None), max(oldest_ms, default=None))


def bands_of(ages: Ages) -> list[AgeBand]:
    """How many are how old, from the youngest band to the oldest one; none in between is left out.

    Args:
        ages: of all stale heartbeats.
    """
    if ages.youngest_ms is None or ages.oldest_ms is None:
        return []
    edges_s = _edges_s(ages.youngest_ms / 1000, ages.oldest_ms / 1000)
    found: Counter[int] = Counter()
    for age_s, coordinators in ages.counts.items():
        found[bisect_right(edges_s, age_s)] += coordinators
    bounds: list[float | None] = [0.0, *map(float, edges_s), None]
    return [
        AgeBand(bounds[i] or 0.0, bounds[i + 1], found[i])
        for i in range(min(found), max(found) + 1)
    ]


def _edges_s(youngest_s: float, oldest_s: float) -> Sequence[int]:
    if oldest_s >= CLOSE * max(youngest_s, 1):
        return EDGES_S
    finest_s = _fineness_s(int(oldest_s))
    steps = (
        step
        for step in STEPS_S
        if step >= finest_s and (oldest_s - youngest_s) / step <= MOST_STEPS
    )
    step_s = next(steps, STEPS_S[-1])
    first = int(youngest_s // step_s)
    return range(first * step_s, (int(oldest_s // step_s) + 2) * step_s, step_s)


def _fineness_s(age_s: int) -> int:
    """In which steps such an age is counted."""
    return next((step_s for most_s, step_s in FINE if age_s < most_s), HOUR_S)
