"""Run after run with random faults, for as long as it is told: see `world` for what must hold.

Each run is a line of JSON as `--fault-log` has them, so that `tests.faults.table` makes one table
of both. Exits 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults import catalog
from tests.faults.journals import journal_of, left_of, put_back
from tests.faults.people import People
from tests.faults.proxy import Link
from tests.faults.runs import Tool
from tests.faults.scene import (
    Fault,
    Outcome,
    Scenario,
    Scene,
    engine_of,
    moment_of,
    odd_of,
    read_report,
    sums_of,
)
from tests.faults.stage import Stage, stages
from tests.servers import DEFAULT
from tests.soak.world import STALE_AFTER_S, World

COORDINATORS = 240

GRACE_S = 3

TOPOLOGIES = ("standalone", "cluster")

JOURNALS = 0.25
"""How many of the runs keep a journal. It is put back afterwards, and swept again."""


def killed(scene: Scene, link: Link) -> None:
    """The server is killed, and back with all that it acknowledged: it logs before it answers."""
    catalog.server_of(scene, link).stop()
    catalog.server_of(scene, link).start()


LEFT_OUT = (
    # They change the data, which the population here does by itself.
    "coordinators come back", "keys expire", "keys change type", "keys grow to 10 MB",
    # The server loses what the population wrote.
    "server killed, back empty", "server killed, back from an old snapshot",
    "server killed for good", "server restarted, with another run_id",
    # They make keys of their own, or replicas, or take very long.
    "replica lags", "replica gone, and writes need one", "primary becomes a replica", "failover",
    "memory limit on workers", "MISCONF",
)  # fmt: skip

FAULTS = [
    # What has to be prepared is prepared for people who do nothing by themselves.
    *(fault for fault in catalog.FAULTS if fault.name not in LEFT_OUT and fault.before is None),
    Fault("server killed, back with all", catalog.at(killed)),
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, help="append JSON lines to this file")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    deadline = time.monotonic() + 60 * arguments.minutes
    bad = runs = 0
    codes: Counter[int | None] = Counter()
    tool = Tool()
    # What they acknowledge outlives their process.
    with stages(DEFAULT, appendonly="yes", appendfsync="always") as made:
        worlds = {}
        for topology in TOPOLOGIES:
            made[topology].reset()
            worlds[topology] = World(made[topology], random.Random(rng.random()), COORDINATORS)
        for turn in itertools.count():
            if time.monotonic() > deadline:
                break
            outcome = one(worlds[TOPOLOGIES[turn % 2]], tool, rng, turn)
            runs += 1
            codes[outcome.code] += 1
            bad += tell(outcome, arguments.log)
        for topology, world in worlds.items():
            bad += tell(last(world, topology), arguments.log)
    tool.close()
    ends = ", ".join(f"{code}: {count}" for code, count in codes.most_common())
    sys.stderr.write(
        f"{runs} runs, {bad} of them bad; seed {arguments.seed}; by exit code {ends}\n"
    )
    return 1 if bad else 0


def one(world: World, tool: Tool, rng: random.Random, turn: int) -> Outcome:
    """A run with a fault, and whether those who lived throughout have all their keys."""
    stage = world.stage
    fault = rng.choice([fault for fault in FAULTS if stage.topology in fault.topologies])
    phase, engine = rng.choice(fault.phases), rng.choice(fault.engines)
    scenario = Scenario(fault.name, phase, stage.topology, engine, turn)
    outcome = Outcome(scenario)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nobody = People({}, [], frozenset(), purges_orphans=True)
        scene = Scene(scenario, fault, stage, tool, folder, nobody)
        stage.configuration(
            folder, stale_after=STALE_AFTER_S, orphans="purge", orphan_grace=GRACE_S,
            **engine_of(engine),
        )  # fmt: skip
        moment = moment_of(scene)
        stage.proxies.begin(*([moment] if moment else []))
        there = stage.keys()
        began = time.time()
        with scene.after:
            options = fault.options(scene)
            if "argv" not in options and rng.random() < JOURNALS:
                options["argv"] = ("--json", "-", "--journal", str(journal_of(scene)))
            scene.run, out = scene.start(**options)
            outcome.code = scene.run.wait()
            for other, _ in scene.others:
                other.wait()
            outcome.hung = scene.run.hung or any(other.hung for other, _ in scene.others)
        stage.proxies.settle()
        ended = time.time()
        outcome.struck = moment.struck_at if moment else ""
        stage.await_well()
        journal = left_of(scene)
        if journal is not None:
            put_back(scene, journal)
        check(world, outcome, there, (began, ended))
        reports = [read_report(path) for path in (out, *(path for _, path in scene.others))]
        for report in filter(None, reports):
            outcome.status = outcome.status or report["status"]
            outcome.wrong += sums_of(report)
        outcome.wrong += scene.wrong
        outcome.odd += odd_of(scene, outcome)
    outcome.scenario = Scenario(fault.name, phase, f"{stage.topology}, soak", engine, turn)
    return outcome


def check(world: World, outcome: Outcome, there: set[bytes], when: tuple[float, float]) -> None:
    began, ended = when
    expected = world.expected(there, began, ended)
    now = world.stage.keys()
    outcome.lost = sorted(repr(key) for key in expected if key not in now)
    outcome.seconds = ended - began
    alive = world.count_alive(began, ended)
    outcome.note = f"{alive} lived throughout, {len(expected)} keys"


def last(world: World, topology: str) -> Outcome:
    """Everybody is dead, and the last run takes all."""
    world.end()
    time.sleep(STALE_AFTER_S + GRACE_S + 1)
    began = time.monotonic()
    outcome = Outcome(
        Scenario("none, all dead in the end", "any", f"{topology}, soak", "serial", 0)
    )
    report = sweep_all(world.stage)
    outcome.status = report
    outcome.code = 0 if report == "complete" else 3
    left = world.stage.keys()
    outcome.unfinished = [f"left: {key!r}" for key in sorted(left)[:5]]
    outcome.seconds = time.monotonic() - began
    return outcome


def sweep_all(stage: Stage) -> str:
    from cleanup_job.config import Config, Redis
    from cleanup_job.job import run

    config = Config(
        redis=Redis(stage.url), stale_after=STALE_AFTER_S, orphans="purge", orphan_grace=GRACE_S,
        engine="serial", expect_all_dead=True,
    )  # fmt: skip
    return run(config).status


def tell(outcome: Outcome, log: Path | None) -> int:
    line = outcome.line()
    if log is not None:
        with log.open("a") as file:
            file.write(line + "\n")
    if outcome.problems or log is None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return bool(outcome.problems)


if __name__ == "__main__":
    sys.exit(main())
