"""The schedule: coordinators arrive, are swept or piped away, and the server is checked.

A cycle with a sweep: arrivals, settle, sweep, check, burner, burners, settle, alone. One with the
blind pipe: arrivals, settle, pipe, check, settle, alone. All states take turns, so that a machine
that is slower for a while is so for all of them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import redis

from bench import rows, slowlog
from bench.case import COVERING_GLOB, Case
from bench.load import LoadError, burner
from bench.load.clients import Foreground
from bench.load.foreground import NAME
from bench.load.phases import Phase, State
from bench.load.plan import Plan
from bench.load.sampler import Memory, memory_of
from bench.measure import Measured, measure
from bench.servers import Server, command_line_clients, cpu_s
from bench.slowlog import Slowest

WARM_UP_S = 0.5

SETTLE_S = 0.25
"""Between two states, so that what one leaves behind does not count for the next."""

BURN_LEAST_S, BURN_MOST_S = 0.3, 5.0
"""A burner burns as long as the sweep took, within these."""

LOGGED_US = 100
"""Low enough that the slowest command of each sweep is in the log."""


@dataclass(frozen=True)
class Cleaning:
    """A sweep or a pipe.

    Attributes:
        command_s: wall of the whole command.
        sweep_s: its own time without the start of its process; a pipe does not tell.
        client_busy: CPU of its processes in processors, over the whole command.
        server_busy: CPU of the server in processors over `sweep_s`, with the foreground's work.
        error: why its own words are enough to fail it.
    """

    command_s: float
    sweep_s: float
    client_busy: float
    server_busy: float
    error: str | None


@dataclass(frozen=True)
class Cycle:
    """One cycle's figures.

    Attributes:
        state: SWEEP or PIPE.
        full: memory when all have arrived.
        swept: memory after it.
        keys_left: on the server after it.
        check: what the server holds after it, in words.
        slowest: of each command, the longest call.
        arrival_slowest: the same for the writing of the arrivals.
    """

    number: int
    state: State
    cleaning: Cleaning
    full: Memory
    swept: Memory
    keys_left: int
    good: bool
    check: str
    slowest: list[Slowest]
    arrival_slowest: list[Slowest]
    took_s: float

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return asdict(self)


class Timeline:
    """What happened when, so far."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.cycle = 0

    def add(self, state: State, begin_s: float, end_s: float) -> None:
        """A state that has ended; after all that were added before."""
        self.phases.append(Phase(state, begin_s, end_s, self.cycle))

    def rest(self, state: State, seconds: float) -> None:
        """Do nothing for so long, and call it that state."""
        begin_s = time.monotonic()
        time.sleep(max(0.0, seconds))
        self.add(state, begin_s, time.monotonic())


@dataclass(frozen=True)
class Stage:
    """What a cycle works with."""

    plan: Plan
    server: Server
    client: redis.Redis
    foreground: Foreground
    timeline: Timeline


def run(stage: Stage, say: Callable[[str], None]) -> list[Cycle]:
    """All cycles, from the first quiet to the last."""
    slowlog.begin(stage.client, LOGGED_US)
    stage.timeline.rest(State.OTHER, WARM_UP_S)
    stage.timeline.rest(State.ALONE, stage.plan.alone_least_s)
    pipe = pipe_command(stage.server, stage.plan)
    if pipe is None:
        say("no redis-cli is installed: no cycles with the blind pipe")
    cycles = []
    for state in order(stage.plan, with_pipe=pipe is not None):
        stage.timeline.cycle += 1
        cycle = _cycle(stage, state, pipe or [])
        cycles.append(cycle)
        took = f"{cycle.cleaning.command_s:.2f} s, cycle {cycle.took_s:.1f} s"
        say(f"cycle {cycle.number}: {state}: {took}, {cycle.check}")
    return cycles


def order(plan: Plan, *, with_pipe: bool) -> list[State]:
    """Sweeps, with the pipes spread evenly among them."""
    states: list[State] = []
    pipes = plan.pipes if with_pipe else 0
    for number in range(1, plan.cycles + 1):
        states.append(State.SWEEP)
        due = number * pipes // plan.cycles - (number - 1) * pipes // plan.cycles
        states += [State.PIPE] * due
    return states


def pipe_command(server: Server, plan: Plan) -> list[str] | None:
    """The bench's row of that name, with the pattern that spares the foreground's keys."""
    case = Case(plan.coordinators, unrelated=plan.foreground_keys)
    setting = rows.Setting(server, case, command_line_clients(), 1.0, Path())
    (row,) = rows.named(["pipe"])
    command = row.command(setting)
    assert command is None or COVERING_GLOB in command, "it spares what is not ours"
    return command


def judge(
    left: int, expected: int, live: Mapping[str, str], found: Sequence[bytes | None]
) -> str | None:
    """What is wrong with what the server holds, if anything is."""
    if left != expected:
        return f"BAD: {left:,} keys left, not {expected:,}"
    if [value.encode() for value in live.values()] != [*found]:
        return "BAD: live ones touched"
    return None


def _cycle(stage: Stage, state: State, pipe: list[str]) -> Cycle:
    began_s = time.monotonic()
    plan, timeline, client = stage.plan, stage.timeline, stage.client
    slowlog.forget(client)
    live = _arrive(stage)
    arrival_slowest = slowlog.slowest(client, {NAME})
    time.sleep(SETTLE_S)
    full = memory_of(client)
    slowlog.forget(client)
    cleaning = _sweep(stage) if state is State.SWEEP else _pipe(stage, pipe)
    keys_left, found = _check(stage, state, live)
    cycle_slowest, swept = slowlog.slowest(client, {NAME}), memory_of(client)
    if state is State.SWEEP:
        _burn(stage, cleaning)
    time.sleep(SETTLE_S)
    stage.foreground.check()
    left_s = began_s + plan.cycle_s - time.monotonic()
    timeline.rest(State.ALONE, max(plan.alone_least_s, left_s))
    wrong = cleaning.error or found
    right = "only what lives is left" if state is State.SWEEP else "done, live ones deleted too"
    return Cycle(
        number=timeline.cycle,
        state=state,
        cleaning=cleaning,
        full=full,
        swept=swept,
        keys_left=keys_left,
        good=wrong is None,
        check=wrong or right,
        slowest=cycle_slowest,
        arrival_slowest=arrival_slowest,
        took_s=time.monotonic() - began_s,
    )


def _arrive(stage: Stage) -> dict[str, str]:
    """Returns the live ones' keys with the values that a sweep must not touch."""
    plan = stage.plan
    words = [stage.server.url, str(plan.coordinators), str(plan.arrivals_s)]
    told = _told(_measure(plan, [sys.executable, "-m", "bench.load.arrivals", *words]))
    stage.timeline.add(State.ARRIVALS, told["began_s"], told["ended_s"])
    live: dict[str, str] = told["live"]
    return live


def _sweep(stage: Stage) -> Cleaning:
    plan, timeline = stage.plan, stage.timeline
    cpu_before_s, wall_before_s = _cpu_s(stage), time.monotonic()
    # The report has the clock of the wall.
    offset_s = time.time() - wall_before_s
    done = _measure(plan, rows.our_command(stage.server, plan.workers))
    ended_s = time.monotonic()
    server_cpu_s = _cpu_s(stage) - cpu_before_s
    report = json.loads(done.stdout) if done.stdout.startswith("{") else None
    if report is None:
        timeline.add(State.SWEEP, wall_before_s, ended_s)
        return _cleaning(done, done.wall_s, server_cpu_s, done.failure or "it has no report")
    started_s = datetime.fromisoformat(report["started_at"]).timestamp() - offset_s
    # Clocks of the wall are set now and then.
    started_s = min(max(started_s, wall_before_s), ended_s)
    sweep_s = report["duration_s"]
    timeline.add(State.STARTING, wall_before_s, started_s)
    timeline.add(State.SWEEP, started_s, min(started_s + sweep_s, ended_s))
    error = rows.report_error(report, plan.stale_keys)
    return _cleaning(done, sweep_s, server_cpu_s, error)


def _pipe(stage: Stage, command: list[str]) -> Cleaning:
    cpu_before_s, began_s = _cpu_s(stage), time.monotonic()
    done = _measure(stage.plan, command)
    stage.timeline.add(State.PIPE, began_s, began_s + done.wall_s)
    server_cpu_s = _cpu_s(stage) - cpu_before_s
    return _cleaning(done, done.wall_s, server_cpu_s, done.failure)


def _cleaning(done: Measured, sweep_s: float, server_cpu_s: float, error: str | None) -> Cleaning:
    return Cleaning(
        command_s=done.wall_s,
        sweep_s=sweep_s,
        client_busy=done.cpu_s / done.wall_s,
        server_busy=min(1.0, server_cpu_s / sweep_s),
        error=error and f"BAD: {error}",
    )


def _check(stage: Stage, state: State, live: Mapping[str, str]) -> tuple[int, str | None]:
    """How many keys are left, and what is wrong with them."""
    left: Any = stage.client.dbsize()
    if state is State.PIPE:
        return left, judge(left, stage.plan.foreground_keys, {}, [])
    values: Any = stage.client.mget([*live])
    return left, judge(left, stage.plan.foreground_keys + len(live), live, values)


def _burn(stage: Stage, cleaning: Cleaning) -> None:
    """The control states: as busy as the sweep's client, then as busy as the server too."""
    seconds = min(max(cleaning.sweep_s, BURN_LEAST_S), BURN_MOST_S)
    client_shares = burner.shares_of(cleaning.client_busy)
    server_shares = burner.shares_of(cleaning.server_busy)
    for state, shares in (
        (State.BURNER, client_shares),
        (State.BURNERS, client_shares + server_shares),
    ):
        words = [str(seconds), *map(str, shares)]
        told = _told(_measure(stage.plan, [sys.executable, "-m", "bench.load.burner", *words]))
        stage.timeline.add(state, told["began_s"], told["ended_s"])


def _cpu_s(stage: Stage) -> float:
    return cpu_s(stage.client.info("cpu"))


def _measure(plan: Plan, command: Sequence[str]) -> Measured:
    yielding = ["nice", "-n", str(plan.nice)] if plan.nice else []
    return measure([*yielding, *command], plan.timeout_s)


def _told(done: Measured) -> Any:
    if done.failure:
        raise LoadError(done.failure)
    return json.loads(done.stdout)
