"""The ages of stale heartbeats as a histogram that a person can read (pure)."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from functools import partial

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


def bands_of(ages_ms: Sequence[int]) -> list[AgeBand]:
    """How many are how old, from the youngest band to the oldest one; none in between is left out.

    Args:
        ages_ms: of all stale heartbeats, in any order.
    """
    if not ages_ms:
        return []
    youngest_s, oldest_s = min(ages_ms) / 1000, max(ages_ms) / 1000
    edges_s = _edges_s(youngest_s, oldest_s)
    found = Counter(map(partial(bisect_right, [edge * 1000 for edge in edges_s]), ages_ms))
    bounds: list[float | None] = [0.0, *map(float, edges_s), None]
    return [
        AgeBand(bounds[i] or 0.0, bounds[i + 1], found[i])
        for i in range(min(found), max(found) + 1)
    ]


def _edges_s(youngest_s: float, oldest_s: float) -> Sequence[int]:
    if oldest_s >= CLOSE * max(youngest_s, 1):
        return EDGES_S
    steps = (step for step in STEPS_S if (oldest_s - youngest_s) / step <= MOST_STEPS)
    step_s = next(steps, STEPS_S[-1])
    first = int(youngest_s // step_s)
    return range(first * step_s, (int(oldest_s // step_s) + 2) * step_s, step_s)
