"""`python -m bench.scale`: a cluster of twelve primaries, swept by 1, 2 and 4 workers.

Every engine with every number of workers, in turns, each on data that is written anew. After a
sweep the servers are asked, not the job: how many keys they hold, and what the live ones hold. Two
tables: medians of whole sweeps, and what a key costs in each stage. All processes share this
machine's cores, so walls say how the machine was filled; CPU says what a key costs anywhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench import cli, machine, nodes, record
from bench.cli import EXIT_BAD, EXIT_GOOD, EXIT_USAGE, say
from bench.columns import aligned
from bench.measure import TimedOutError, measure
from bench.nodes import Nodes, Population, Seeder
from bench.servers import DEFAULT, NAMES
from cleanup_job.config import Config, validated
from cleanup_job.errors import ConfigError

TIMEOUT_S = 600.0

LOOSE_MS = 1000

ENGINES = ("serial", "processes", "dask")

PHASES = ("survey", "judge", "purge")

TAGGED = {
    "heartbeat": "blocking:heartbeat:{{id}}",
    "owned": {
        "signal": "blocking:signal:{{id}}",
        "ack": "blocking:ack:{{id}}:*",
        "activity": "coordinator:activity:{{id}}",
    },
}
"""The default patterns with hash tags. Idempotency records name two coordinators, and have none."""


@dataclass(frozen=True)
class Cell:
    """One way to sweep."""

    engine: str
    workers: int

    @property
    def title(self) -> str:
        """What tables call it."""
        return f"{self.engine} × {self.workers}"


@dataclass(frozen=True)
class Cost:
    """What a phase cost, in seconds; `servers_s` without what they use by themselves.

    The report counts what servers did for the judge with the purge.
    """

    wall_s: float
    servers_s: float
    job_s: float
    workers_s: float
    job_peak_mb: float


@dataclass(frozen=True)
class Run:
    """One sweep that did its work."""

    sweep_s: float
    command_s: float
    servers_s: float
    job_s: float
    workers_s: float
    job_peak_mb: float
    workers_peak_mb: float
    phases: Mapping[str, Cost]
    commands: Mapping[str, tuple[int, float]]

    @property
    def elsewhere_s(self) -> float:
        """CPU of the job outside of its phases: looks at the servers, and the report."""
        return self.job_s - sum(cost.job_s for cost in self.phases.values())


@dataclass(frozen=True)
class Setting:
    """What all sweeps have in common."""

    seeder: Seeder
    idle_share: float
    dry_run: bool
    loose: bool

    @property
    def nodes(self) -> Nodes:
        """The servers."""
        return self.seeder.nodes

    @property
    def population(self) -> Population:
        """What is on them."""
        return self.seeder.population


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if every sweep left what it should, 1 if not, 2 for usage; never how fast."""
    arguments = parser().parse_args(argv)
    return cli.supervised("bench.scale", lambda: measured(arguments))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m bench.scale",
        description="A cluster of 12 primaries, swept by 1, 2 and 4 workers.",
    )
    options.add_argument("--coordinators", type=cli.positive, default=100_000, metavar="N")
    options.add_argument(
        "--primaries", type=cli.positive, default=12, metavar="N", help="1 is no cluster"
    )
    options.add_argument("--workers", type=cli.sizes, default=[1, 2, 4], metavar="N,N")
    options.add_argument("--engines", type=engines, default=["processes", "dask"], metavar="NAME,…")
    options.add_argument("--tagged", action="store_true", help="ids are hash tags")
    options.add_argument("--unrelated", type=cli.count, default=0, metavar="N", help="others' keys")
    options.add_argument("--dry-run", action="store_true", help="survey and judge only")
    options.add_argument("--loose", action="store_true", help="max_block_ms out of the way")
    options.add_argument("--server", choices=NAMES, default=DEFAULT)
    options.add_argument("--rounds", type=cli.positive, default=3, metavar="N")
    options.add_argument("--quick", action="store_true", help="10,000 coordinators, one round")
    options.add_argument("--json", type=Path, metavar="FILE")
    return options


def engines(text: str) -> list[str]:
    """Names with commas between them."""
    names = text.split(",")
    for name in names:
        if name not in ENGINES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(ENGINES)}")
    return names


def cells(chosen: Sequence[str], workers: Sequence[int]) -> list[Cell]:
    """Every engine with every number of workers; serial has one, whatever is asked for."""
    numbers: dict[str, Sequence[int]] = {"serial": [1]}
    return [Cell(name, number) for name in chosen for number in numbers.get(name, workers)]


def missing(engine: str) -> str | None:
    """Why an engine can't be measured here."""
    try:
        validated(msgspec.convert({"engine": engine}, Config))
    except (ConfigError, msgspec.ValidationError):
        return "this version does not have it"
    if engine == "dask" and importlib.util.find_spec("distributed") is None:
        return "distributed is not installed"
    return None


def config_of(
    where: Nodes, population: Population, engine: str, workers: int, *, loose: bool = False
) -> Config:
    """How these servers are swept."""
    content: dict[str, Any] = {"redis": {"url": where.url}, "engine": engine, "workers": workers}
    content |= {"keys": TAGGED} if population.tagged else {}
    content |= {"max_block_ms": LOOSE_MS} if loose else {}
    return msgspec.convert(content, Config)


def measured(arguments: argparse.Namespace) -> int:
    """Measure, print, and write; returns the exit code."""
    if arguments.quick:
        arguments.coordinators, arguments.rounds = min(arguments.coordinators, 10_000), 1
    chosen = []
    for name in arguments.engines:
        if why := missing(name):
            print(f"{name}: left out: {why}", flush=True)
        else:
            chosen.append(name)
    if not chosen:
        return EXIT_USAGE
    population = Population(arguments.coordinators, arguments.tagged, arguments.unrelated)
    about = machine.describe()
    with nodes.running(arguments.server, arguments.primaries) as started:
        product = machine.product(started.clients[0])
        seeder = Seeder(started, population)
        seeder.seed()
        idle_share = started.idle_cpu_share()
        setting = Setting(seeder, idle_share, arguments.dry_run, arguments.loose)
        for line in _headings(about, product, setting):
            print(line, flush=True)
        runs, good = _rounds(setting, cells(chosen, arguments.workers), arguments.rounds)
    print("\n".join(["", *sweeps(runs, population), "", *costs(runs, population)]), flush=True)
    if arguments.json:
        record.write(arguments.json, _content(about, product, setting, arguments, runs))
    return EXIT_GOOD if good else EXIT_BAD


def _headings(about: Mapping[str, Any], product: str, setting: Setting) -> list[str]:
    population = setting.population
    count = len(setting.nodes)
    where = f"{count} primaries" if count > 1 else "one server"
    how = "hash tags" if population.tagged else "no hash tags"
    return [
        machine.headline(about),
        f"load average {about['load_average']:.1f} before; walls are of these cores, shared by all",
        f"{where}, {product}; {population.coordinators:,} stale coordinators, {how}: "
        f"{population.keys:,} keys" + (", dry run" if setting.dry_run else ""),
        f"by themselves the servers use {setting.idle_share:.3f} s of CPU per second: taken off",
    ]


def _rounds(
    setting: Setting, chosen: Sequence[Cell], rounds: int
) -> tuple[dict[Cell, list[Run]], bool]:
    """All cells in turn, round after round, each round beginning with another."""
    runs: dict[Cell, list[Run]] = {cell: [] for cell in chosen}
    good = True
    for number in range(rounds):
        first = number % len(chosen)
        for cell in [*chosen[first:], *chosen[:first]]:
            try:
                run = sweep(setting, cell)
            except (RuntimeError, TimedOutError) as error:
                print(f"{cell.title}: BAD: {error}", flush=True)
                good = False
                continue
            runs[cell].append(run)
            say(f"round {number + 1}: {cell.title}: {run.sweep_s:.2f} s")
    return runs, good


def sweep(setting: Setting, cell: Cell) -> Run:
    """Write the population and sweep it.

    Raises:
        RuntimeError: the sweep failed, or left something else than it should.
    """
    live = setting.seeder.seed()
    before = setting.nodes.work()
    config = config_of(
        setting.nodes, setting.population, cell.engine, cell.workers, loose=setting.loose
    )
    text = msgspec.json.encode(config).decode()
    command = [sys.executable, "-m", "bench.clients.phases", text]
    done = measure([*command, "--dry-run"] if setting.dry_run else command, TIMEOUT_S)
    work = setting.nodes.work().since(before)
    if done.failure:
        raise RuntimeError(done.failure)
    told = json.loads(done.stdout)
    report = told["report"]
    if wrong := faults(setting, report, live):
        raise RuntimeError("; ".join(wrong))
    phases = {name: _cost(setting, told, name) for name in PHASES if name in told["job"]}
    return Run(
        sweep_s=report["duration_s"],
        command_s=done.wall_s,
        servers_s=max(0.0, work.cpu_s - setting.idle_share * done.wall_s),
        job_s=told["job_cpu_s"],
        workers_s=told["workers_cpu_s"],
        job_peak_mb=told["job_peak_bytes"] / 1e6,
        workers_peak_mb=done.children_peak_bytes / 1e6,
        phases=phases,
        commands=work.commands,
    )


def faults(setting: Setting, report: Mapping[str, Any], live: Mapping[str, str]) -> list[str]:
    """What the servers, or the report beside them, say against this sweep."""
    population, keys = setting.population, report["keys"]
    deleted = 0 if setting.dry_run else population.stale_keys
    expected = {
        "status": ("complete", report["status"]),
        "scanned": (population.keys, keys["scanned"]),
        "matched": (population.matching, keys["matched"]),
        "planned": (population.stale_keys, keys["planned"]),
        "deleted": (deleted, keys["deleted"]),
        "left on the servers": (population.keys - deleted, setting.nodes.keys()),
    }
    wrong = [
        f"{name}: {found}, not {wanted}"
        for name, (wanted, found) in expected.items()
        if found != wanted
    ]
    if not nodes.untouched(setting.nodes, live):
        wrong.append("live ones touched")
    # Why, in the report's own words.
    told = [*report["errors"], *report["warnings"]] if wrong else []
    return [*wrong, *(f"{problem['code']}: {problem['message']}" for problem in told)]


def _cost(setting: Setting, told: Mapping[str, Any], name: str) -> Cost:
    cost, job = told["report"]["costs"][name], told["job"][name]
    of_servers_s = cost["server_cpu_s"] or 0.0
    return Cost(
        wall_s=cost["wall_s"],
        servers_s=max(0.0, of_servers_s - setting.idle_share * cost["wall_s"]),
        job_s=job["cpu_s"],
        workers_s=max(0.0, cost["client_cpu_s"] - job["cpu_s"]),
        job_peak_mb=job["peak_bytes"] / 1e6,
    )


def sweeps(runs: Mapping[Cell, Sequence[Run]], population: Population) -> list[str]:
    """A line per cell: medians of whole sweeps."""
    head = (
        "",
        *("survey s", "judge s", "purge s", "whole s", "least–most", "keys/s", "÷ 1 worker"),
        *("servers CPU s", "job CPU s", "workers CPU s", "job MB", "workers MB", "check"),
    )
    rows = [head, *(_sweep_row(cell, runs, population) for cell in runs if runs[cell])]
    return aligned(rows)


def _sweep_row(
    cell: Cell, runs: Mapping[Cell, Sequence[Run]], population: Population
) -> tuple[str, ...]:
    some = runs[cell]
    walls = [f"{_phase(some, name, 'wall_s'):.2f}" for name in PHASES]
    whole = record.Spread.of([run.sweep_s for run in some])
    assert whole is not None, "it ran"
    alone = runs.get(Cell(cell.engine, 1), ())
    ratio = whole.median / median(run.sweep_s for run in alone) if alone else None
    return (
        cell.title,
        *walls,
        f"{whole.median:.2f}",
        f"{whole.low:.2f}–{whole.high:.2f}",
        f"{population.keys / whole.median:,.0f}",
        "–" if ratio is None else f"{ratio:.2f}",
        *(f"{_middle(some, name):.2f}" for name in ("servers_s", "job_s", "workers_s")),
        *(f"{_middle(some, name):.0f}" for name in ("job_peak_mb", "workers_peak_mb")),
        f"{len(some)} good",
    )


def costs(runs: Mapping[Cell, Sequence[Run]], population: Population) -> list[str]:
    """A line per cell: µs of CPU in each stage, per key that it has to do with."""
    rows: list[tuple[str, ...]] = [
        (
            "µs of CPU",
            *("survey: servers", "job", "workers", "judge: job"),
            *("purge: servers", "job", "workers", "else: job", "per key"),
        )
    ]
    for cell, some in runs.items():
        if some:
            survey = [_phase(some, "survey", of) for of in ("servers_s", "job_s", "workers_s")]
            judge = [_phase(some, "judge", "job_s")]
            purge = [_phase(some, "purge", of) for of in ("servers_s", "job_s", "workers_s")]
            other = median(run.elsewhere_s for run in some)
            rows.append(
                (
                    cell.title,
                    *(_micros(seconds, population.keys) for seconds in survey),
                    *(_micros(seconds, population.matching) for seconds in judge),
                    *(_micros(seconds, population.stale_keys) for seconds in purge),
                    _micros(other, population.keys),
                    "walked, matched, deleted, walked",
                )
            )
    return [*aligned(rows), "", *_commands(runs, population)]


def _commands(runs: Mapping[Cell, Sequence[Run]], population: Population) -> list[str]:
    """What the servers say that commands took, of the first cell."""
    some = next((some for some in runs.values() if some), [])
    if not some:
        return []
    names = sorted({name for run in some for name in run.commands})
    rows = [("command", "calls", "µs per call", "µs per coordinator")]
    for name in names:
        calls = median(run.commands.get(name, (0, 0.0))[0] for run in some)
        seconds = median(run.commands.get(name, (0, 0.0))[1] for run in some)
        if calls:
            rows.append(
                (
                    name,
                    f"{calls:,.0f}",
                    _micros(seconds, calls),
                    _micros(seconds, population.coordinators),
                )
            )
    return aligned(rows)


def _micros(seconds: float, count: float) -> str:
    return f"{seconds / count * 1e6:.2f}"


def _middle(some: Sequence[Run], name: str) -> float:
    return float(median(getattr(run, name) for run in some))


def _phase(some: Sequence[Run], phase: str, name: str) -> float:
    return float(median(getattr(run.phases[phase], name) for run in some if phase in run.phases))


def _content(
    about: Mapping[str, Any],
    product: str,
    setting: Setting,
    arguments: argparse.Namespace,
    runs: Mapping[Cell, Sequence[Run]],
) -> dict[str, Any]:
    return {
        "machine": about,
        "product": product,
        "primaries": arguments.primaries,
        "population": dataclasses.asdict(setting.population),
        "keys": setting.population.keys,
        "dry_run": setting.dry_run,
        "loose": setting.loose,
        "idle_cpu_share": setting.idle_share,
        "cells": [
            {**dataclasses.asdict(cell), "runs": [dataclasses.asdict(run) for run in some]}
            for cell, some in runs.items()
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
