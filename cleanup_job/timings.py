"""How long commands took, and when: each by itself while they are few, else in groups (pure).

Where every key needs a command of its own, as in a cluster, there are millions of replies. All of
them would take more memory than the names, and more bytes between machines.

Invariants:
- Every reply is counted, and the longest of each command keeps its time.
- Times within a group differ by no more than `ALIKE`, so that a percentile may be too long by that
  (or by a microsecond).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Timings = dict[str, list[float]]
"""By command, in turn for each reply or group of replies: the moment (`perf_counter`), the seconds
that it took on the server's side of the wire, and how many there were."""

FEW = 30_000
"""Numbers of one command that are kept as they are: 10,000 replies, more than a sweep of a million
coordinators on one server has. Grouping costs 0.6 µs for each."""

FEW_SENT = 1_000
"""The same where they are sent to another machine: of each task no more than some 9 kB."""

_DIGITS = 6
"""Binary digits of the microseconds by which times are told apart."""

ALIKE = 1 + 2 ** (1 - _DIGITS)
"""Seconds that differ by no more than this factor are in one group."""

LONGEST_SLICE_S = 1e6
"""Then moments make no difference any more."""

SLICE_S = 0.02
"""The same for moments, as far as that makes few enough groups; else they are coarser."""


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


def sent(timings: Timings, by_s: float) -> Timings:
    """The same for another machine: with all moments so much later, and in few groups."""
    later: Timings = {}
    for command, stamped in timings.items():
        later[command] = [*condensed(stamped, FEW_SENT)]
        later[command][::3] = [moment + by_s for moment in later[command][::3]]
    return later


def condensed(stamped: list[float], few: int = FEW) -> list[float]:
    """The same in so few groups that there is room for more, where `few` numbers have room."""
    slice_s = SLICE_S
    while len(stamped) > few // 5:
        stamped = _grouped(stamped, slice_s)
        if slice_s > LONGEST_SLICE_S:
            break  # there are only so many different times
        slice_s *= 4
    return stamped


def _grouped(stamped: list[float], slice_s: float) -> list[float]:
    groups: dict[tuple[int, int], list[float]] = {}
    for moment, seconds, count in zip(stamped[::3], stamped[1::3], stamped[2::3], strict=True):
        micros = int(seconds * 1e6)
        fine = max(0, micros.bit_length() - _DIGITS)
        key = int(moment / slice_s), micros >> fine << fine
        group = groups.get(key)
        if group is None:
            groups[key] = [moment, seconds, count]
        else:
            group[2] += count
            if seconds > group[1]:
                group[1] = seconds
    return [number for group in groups.values() for number in group]
