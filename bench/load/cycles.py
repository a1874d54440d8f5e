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

from bench import rows
from bench.case import COVERING_GLOB, Case
from bench.load import burner, slowlog
from bench.load.clients import Foreground
from bench.load.foreground import KEYS
from bench.load.phases import Phase, State
from bench.load.sampler import Memory, cpu_s_of, memory_of
from bench.load.slowlog import Slowest
from bench.measure import Measured, measure
from bench.servers import Server, command_line_clients
from cleanup_job import demo

WARM_UP_S = 0.5

SETTLE_S = 0.25
"""Between two states, so that what one leaves behind does not count for the next."""

BURN_LEAST_S, BURN_MOST_S = 0.3, 5.0
"""A burner burns as long as the sweep took, within these."""

SWEEPS_PER_PIPE = 5


@dataclass(frozen=True)
class Plan:
    """How much, how often, how long."""

    coordinators: int = 50_000
    cycles: int = 20
    cycle_s: float = 10.0
    rate: float = 800.0
    clients: int = 4
    workers: str = "auto"
    nice: int = 0
    """Of all but the server, the foreground and the bench: those who write, sweep and burn."""
    sample_s: float = 0.1
    timeout_s: float = 120.0

    @property
    def pipes(self) -> int:
        """How many cycles with the blind pipe come between those with a sweep."""
        return max(1, self.cycles // SWEEPS_PER_PIPE)

    @property
    def arrivals_s(self) -> float:
        """Over how long a cycle's arrivals are spread."""
        return self.cycle_s * 0.3

    @property
    def alone_least_s(self) -> float:
        """The quiet at a cycle's end, also if the cycle takes longer than planned."""
        return self.cycle_s * 0.15

    @property
    def stale_keys(self) -> int:
        """The keys that arrive in a cycle, without the live ones'."""
        return self.coordinators * demo.KEYS_PER_COORDINATOR

    @property
    def foreground_keys(self) -> int:
        """Those of all clients."""
        return self.clients * KEYS


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
    slowlog.watch(stage.client)
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
    (row,) = [row for row in rows.rows() if row.name == "pipe"]
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
    arrival_slowest = slowlog.slowest(client)
    time.sleep(SETTLE_S)
    full = memory_of(client)
    slowlog.forget(client)
    cleaning = _sweep(stage) if state is State.SWEEP else _pipe(stage, pipe)
    keys_left, found = _check(stage, state, live)
    cycle_slowest, swept = slowlog.slowest(client), memory_of(client)
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
    words = ["run", "--url", stage.server.url, "--workers", plan.workers, "--json", "-"]
    cpu_before_s, wall_before_s = cpu_s_of(stage.client), time.monotonic()
    # The report has the clock of the wall.
    offset_s = time.time() - wall_before_s
    done = _measure(plan, [sys.executable, "-m", "cleanup_job", *words])
    ended_s = time.monotonic()
    server_cpu_s = cpu_s_of(stage.client) - cpu_before_s
    report = json.loads(done.stdout) if done.stdout.startswith("{") else None
    if report is None:
        timeline.add(State.SWEEP, wall_before_s, ended_s)
        return _cleaning(done, done.wall_s, server_cpu_s, _last_words(done))
    started_s = datetime.fromisoformat(report["started_at"]).timestamp() - offset_s
    # Clocks of the wall are set now and then.
    started_s = min(max(started_s, wall_before_s), ended_s)
    sweep_s = report["duration_s"]
    timeline.add(State.STARTING, wall_before_s, started_s)
    timeline.add(State.SWEEP, started_s, min(started_s + sweep_s, ended_s))
    return _cleaning(done, sweep_s, server_cpu_s, report_error(report, plan.stale_keys))


def report_error(report: Mapping[str, Any], stale_keys: int) -> str | None:
    """What a sweep's own report says against it."""
    keys = report["keys"]
    if (report["status"], keys["deleted"], keys["planned"]) == ("complete", stale_keys, stale_keys):
        return None
    return f"BAD: its report says {report['status']}, {keys['deleted']:,} deleted"


def _pipe(stage: Stage, command: list[str]) -> Cleaning:
    cpu_before_s, began_s = cpu_s_of(stage.client), time.monotonic()
    done = _measure(stage.plan, command)
    stage.timeline.add(State.PIPE, began_s, began_s + done.wall_s)
    server_cpu_s = cpu_s_of(stage.client) - cpu_before_s
    error = _last_words(done) if done.exit_code else None
    return _cleaning(done, done.wall_s, server_cpu_s, error)


def _cleaning(done: Measured, sweep_s: float, server_cpu_s: float, error: str | None) -> Cleaning:
    return Cleaning(
        command_s=done.wall_s,
        sweep_s=sweep_s,
        client_busy=done.cpu_s / done.wall_s,
        server_busy=min(1.0, server_cpu_s / sweep_s),
        error=error,
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


def _measure(plan: Plan, command: Sequence[str]) -> Measured:
    yielding = ["nice", "-n", str(plan.nice)] if plan.nice else []
    return measure([*yielding, *command], plan.timeout_s)


def _told(done: Measured) -> Any:
    if done.exit_code:
        raise RuntimeError(f"{_last_words(done)}\n{done.stderr}")
    return json.loads(done.stdout)


def _last_words(done: Measured) -> str:
    lines = done.stderr.strip().splitlines() or ["no message"]
    return f"BAD: exit code {done.exit_code}: {lines[-1]}"
