"""All figures as one dict, which the file, the tables and the plots are made of. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.load.clients import Work
from bench.load.cycles import Cycle
from bench.load.latency import summary
from bench.load.phases import Operation, Phase, State, by_phase, by_state, state_at
from bench.load.plan import Plan
from bench.load.sampler import Sample, series
from bench.slowlog import Slowest


def result(
    plan: Plan,
    cycles: Sequence[Cycle],
    phases: Sequence[Phase],
    work: Work,
    samples: Sequence[Sample],
) -> dict[str, Any]:
    """What the file has of it, without the server's name."""
    origin_s = phases[0].begin_s
    found = by_phase(work.operations, phases)
    foreground = _foreground(by_state(found, phases), phases, samples, plan.sample_s)
    slowest = slowest_of(cycles, State.SWEEP)
    return {
        "plan": {**asdict(plan), "pipes": sum(c.state is State.PIPE for c in cycles)},
        "good": all(cycle.good for cycle in cycles),
        "foreground": {str(state): figures for state, figures in foreground.items()},
        "foreground_cpu_share": work.cpu_s / (phases[-1].end_s - origin_s),
        "slowest_command": asdict(slowest) if slowest else {"name": None, "ms": None},
        "slowest_commands": _all_slowest(cycles),
        "cycles": [
            {**cycle.to_json(), "foreground": summary(_cleaned(found, phases, cycle))}
            for cycle in cycles
        ],
        "phases": [
            {
                "state": str(phase.state),
                "cycle": phase.cycle,
                "begin_s": round(phase.begin_s - origin_s, 4),
                "end_s": round(phase.end_s - origin_s, 4),
            }
            for phase in phases
        ],
        "series": series(samples, origin_s),
    }


def foreground_p99(found: Mapping[str, Any]) -> dict[str, float | None] | None:
    """The p99 that a target reads, in ms; None if there is none alone or during a sweep."""
    p99 = {state: figures["p99_ms"] for state, figures in found["foreground"].items()}
    if p99[State.ALONE] is None or p99[State.SWEEP] is None:
        return None
    return {
        "p99_without_ms": p99[State.ALONE],
        "p99_during_ms": p99[State.SWEEP],
        "p99_pipe_ms": p99[State.PIPE],
        "p99_burner_ms": p99[State.BURNER],
        "p99_burners_ms": p99[State.BURNERS],
    }


def slowest_of(cycles: Sequence[Cycle], state: State) -> Slowest | None:
    """The longest call in all cycles, of whoever cleaned so."""
    found = [one for cycle in cycles if cycle.state is state for one in cycle.slowest]
    return max(found, key=lambda one: one.ms, default=None)


def _foreground(
    states: dict[State, list[Operation]],
    phases: Sequence[Phase],
    samples: Sequence[Sample],
    sample_s: float,
) -> dict[State, dict[str, Any]]:
    shares: dict[State, list[float]] = {state: [] for state in State}
    for sample in samples:
        # A sample's share is of the time before it.
        shares[state_at(sample.at_s - sample_s / 2, phases)].append(sample.cpu_share)
    return {
        state: {
            **summary(operations),
            "seconds": sum(p.end_s - p.begin_s for p in phases if p.state is state),
            "server_cpu_share": _mean(shares[state]),
        }
        for state, operations in states.items()
    }


def _cleaned(
    found: Sequence[list[Operation]], phases: Sequence[Phase], cycle: Cycle
) -> list[Operation]:
    """The operations during the cycle's sweep or pipe."""
    pairs = zip(phases, found[:-1], strict=True)
    mine = [some for p, some in pairs if (p.cycle, p.state) == (cycle.number, cycle.state)]
    return [operation for some in mine for operation in some]


def _all_slowest(cycles: Sequence[Cycle]) -> dict[str, dict[str, float]]:
    """Of each command the longest call, by who sent it."""
    logs: dict[str, list[Slowest]] = {"arrivals": [], "sweep": [], "pipe": []}
    for cycle in cycles:
        logs["arrivals"] += cycle.arrival_slowest
        logs[str(cycle.state)] += cycle.slowest
    return {
        who: {one.name: one.ms for one in sorted(log, key=lambda one: one.ms)}
        for who, log in logs.items()
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
