"""What was going on when, and which operations fall into it. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """What else was going on while the foreground worked."""

    ALONE = "alone"
    ARRIVALS = "arrivals"
    STARTING = "starting"
    SWEEP = "sweep"
    PIPE = "pipe"
    BURNER = "burner"
    BURNERS = "burners"
    OTHER = "other"


TITLES = {
    State.ALONE: "nobody else",
    State.ARRIVALS: "dead coordinators are written, paced",
    State.STARTING: "the sweep's interpreter starts; it has sent nothing yet",
    State.SWEEP: "cleanup-job sweeps",
    State.PIPE: "the blind pipe deletes",
    State.BURNER: "no sweep; a process burns as much CPU as the sweep's client",
    State.BURNERS: "no sweep; another one burns what the server did for the sweep",
    State.OTHER: "between these: processes start and end, the server is checked",
}


class Operation(NamedTuple):
    """One GET or SET of the foreground; a clock that all processes share, in ns."""

    scheduled_ns: int
    late_ns: int
    """From its scheduled time until it was sent: the client's own delay."""
    latency_ns: int
    """From its scheduled time until its reply was read."""


@dataclass(frozen=True)
class Phase:
    """A stretch of time, its end excluded."""

    state: State
    begin_s: float
    end_s: float
    cycle: int = 0
    """Which cycle it belongs to; 0 is what comes before the first."""


def by_phase(operations: Iterable[Operation], phases: Sequence[Phase]) -> list[list[Operation]]:
    """The operations of each phase, by their scheduled time; in the end those of none.

    An operation that is scheduled in a sweep and answered after it counts for the sweep, and one
    that is scheduled before it does not, however long it takes.

    Args:
        operations: in any order.
        phases: in order of time, not overlapping.
    """
    begins = [round(phase.begin_s * 1e9) for phase in phases]
    ends = [round(phase.end_s * 1e9) for phase in phases]
    found: list[list[Operation]] = [[] for _ in range(len(phases) + 1)]
    for operation in operations:
        place = bisect_right(begins, operation.scheduled_ns) - 1
        inside = place >= 0 and operation.scheduled_ns < ends[place]
        found[place if inside else -1].append(operation)
    return found


def by_state(
    found: Sequence[Sequence[Operation]], phases: Sequence[Phase]
) -> dict[State, list[Operation]]:
    """What `by_phase` found, put together by state; those of no phase are `OTHER`."""
    states: dict[State, list[Operation]] = {state: [] for state in State}
    for phase, operations in zip(phases, found[:-1], strict=True):
        states[phase.state] += operations
    states[State.OTHER] += found[-1]
    return states


def state_at(moment_s: float, phases: Sequence[Phase]) -> State:
    """What was going on at that moment."""
    place = bisect_right(phases, moment_s, key=lambda phase: phase.begin_s) - 1
    inside = place >= 0 and moment_s < phases[place].end_s
    return phases[place].state if inside else State.OTHER
