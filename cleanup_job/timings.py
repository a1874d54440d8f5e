"""How long commands took, and when: each by itself while they are few, else in groups (pure).

Where every key needs a command of its own, as in a cluster, there are millions of replies. All of
them would take more memory than the names, and more bytes between machines.

Invariants:
- Every reply is counted, and the longest of each command keeps its time.
- Times within a group differ by no more than `ALIKE`, so that a percentile may be too long by that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

Timings = dict[str, list[float]]
"""By command, in turn for each reply or group of replies: the moment (`perf_counter`), the seconds
that it took on the server's side of the wire, and how many there were."""

FEW = 6_000
"""Numbers of one command that are kept as they are: 2,000 replies, more than a sweep of 100,000
coordinators on one server has."""

ALIKE = 1.02
"""Seconds that differ by less than this factor are in one group."""

SLICE_S = 0.02
"""The same for moments, as far as that makes few enough groups; else they are coarser."""

_SHORTEST_S = 1e-6
_LOG = math.log(ALIKE)


def replies(stamped: list[float]) -> Iterator[tuple[float, float, int]]:
    """Moment, seconds and number of each reply or group of replies."""
    return zip(stamped[::3], stamped[1::3], map(int, stamped[2::3]), strict=True)


def merge_timings(parts: Iterable[Timings]) -> Timings:
    """All timings together."""
    merged: Timings = {}
    for part in parts:
        for command, stamped in part.items():
            together = merged.setdefault(command, [])
            together.extend(stamped)
            if len(together) > 4 * FEW:
                merged[command] = condensed(together)
    return merged


def moved(timings: Timings, by_s: float) -> Timings:
    """The same with all moments so much later."""
    later: Timings = {}
    for command, stamped in timings.items():
        later[command] = stamped.copy()
        later[command][::3] = [moment + by_s for moment in stamped[::3]]
    return later


def condensed(stamped: list[float]) -> list[float]:
    """The same in groups, if it is more than a few numbers; as few as that at most, half if can be.

    What took the same is one group in the end, and there are not that many times.
    """
    slice_s = SLICE_S
    while len(stamped) > FEW // 2:
        before = len(stamped)
        stamped = _grouped(stamped, slice_s)
        if slice_s > 1e6 and len(stamped) == before:
            break
        slice_s *= 4
    return stamped


def _grouped(stamped: list[float], slice_s: float) -> list[float]:
    groups: dict[tuple[int, int], list[float]] = {}
    for moment, seconds, count in replies(stamped):
        alike = int(math.log(max(seconds, _SHORTEST_S)) / _LOG)
        group = groups.setdefault((int(moment / slice_s), alike), [moment, seconds, 0.0])
        group[1] = max(group[1], seconds)
        group[2] += count
    return [number for group in groups.values() for number in group]
