"""SIGKILL of a worker and of the scheduler, at random instants of each phase.

`python -m tests.dask.faults --times 10` prints a table, and exits with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from cleanup_job import dask_pool
from cleanup_job.errors import CleanupJobError
from tests.dask.fleet import Fleet, nursery
from tests.dask.scene import (
    BOUND_S,
    Population,
    Server,
    Strike,
    clients_of,
    count_at,
    populate,
    sweep,
    wrongs,
)
from tests.keys import heartbeat_key
from tests.servers import DEFAULT, ServerCluster, ServerProcess

DEAD = 3_000

RATE = 12_000
"""Keys per second, so that the purge has many instants to strike at."""

SMALL = {"cleanup_job.plan.COARSE_KEYS_PER_PORTION": 1_000}
"""Portions small enough that each worker has several."""

HEARTBEATS = heartbeat_key(b"")

WHAT = ("worker", "scheduler")

PHASES = ("survey", "judge", "purge", "heartbeats")


class Played(NamedTuple):
    """How one run went."""

    what: str
    phase: str
    topology: str
    seed: int
    in_time: bool
    outcome: str
    seconds: float
    wrong: list[str]


def play(
    fleet: Fleet, server: Server, what: str, phase: str, seed: int, dead: int = DEAD
) -> Played:
    """One run with one kill, and what came of it."""
    rng = random.Random(f"{what} {phase} {seed}")
    clustered = isinstance(server, ServerCluster)
    fleet.mend()
    population = populate(server, dead, seed)
    before = count_at(server)
    strike = _strike(fleet, server, population, what, phase, rng)
    began_s = time.monotonic()
    code = None
    report = None
    try:
        report = sweep(server, fleet.address, strike, max_keys_per_second=RATE, max_attempts=3)
        outcome = report.status + (f" ({report.stopped_by})" if report.stopped_by else "")
    except CleanupJobError as error:
        code = error.code
        outcome = f"{type(error).__name__} ({error.code})"
    seconds = time.monotonic() - began_s
    strike.join()
    wrong = [] if seconds < BOUND_S else [f"took {seconds:.0f} s"]
    if report is None:
        if count_at(server) - before not in (0, 1):
            wrong.append(f"{code}, but keys are gone")
        wrong.append(outcome)
    else:
        wrong += wrongs(server, population, before, report)
        wrong += _unexpected(report, what, phase, strike.in_time)
    topology = "cluster" if clustered else "standalone"
    return Played(what, phase, topology, seed, strike.in_time, outcome, seconds, wrong)


def _strike(
    fleet: Fleet,
    server: Server,
    population: Population,
    what: str,
    phase: str,
    rng: random.Random,
) -> Strike:
    def kill() -> None:
        child = rng.choice(fleet.workers) if what == "worker" else fleet.scheduler
        assert child is not None
        child.send(signal.SIGKILL)

    if phase == "survey":
        # The server makes all of them wait, so that there is something to strike at.
        clients = clients_of(server)

        class Slow(Strike):
            def began(self, phase: str, keys: int) -> None:
                if phase == "survey":
                    for client in clients:
                        client.execute_command("CLIENT", "PAUSE", 400, "ALL")
                super().began(phase, keys)

        return Slow("survey", kill, after_s=rng.uniform(0, 0.45))
    if phase == "judge":
        return Strike("judge", kill, after_s=rng.uniform(0, 0.5))
    heartbeats = sum(key.startswith(HEARTBEATS) for key in population.dead)
    owned = len(population.dead) - heartbeats
    if phase == "heartbeats":
        return Strike("purge", kill, keys=owned + rng.randrange(heartbeats // 2))
    most = owned if isinstance(server, ServerCluster) else len(population.dead)
    return Strike("purge", kill, keys=rng.randrange(int(most * 0.8)), after_s=rng.uniform(0, 0.2))


def _unexpected(report: Any, what: str, phase: str, in_time: bool) -> Iterator[str]:
    deletes = phase in ("purge", "heartbeats")
    if not in_time:
        return
    if what == "worker":
        is_settled = not (report.keys.unknown or report.keys.failed)
        if (report.status == "complete") != is_settled or report.stopped_by:
            yield f"{report.status} with {report.keys.unknown} unknown: {report.errors}"
        if not deletes and report.status != "complete":
            yield f"{report.status}, though nothing was deleted yet: {report.errors}"
        return
    if deletes and report.status == "complete" and report.keys.deleted == report.keys.planned:
        return  # all was done by then
    if report.status != "partial" or report.stopped_by != "scheduler_lost":
        yield f"{report.status}, stopped by {report.stopped_by}: {report.errors}"
    if not deletes and report.keys.deleted:
        yield f"{report.keys.deleted} deleted"


@contextmanager
def quick(silence_s: float) -> Iterator[None]:
    """Workers go on without a word for so long."""
    before, dask_pool.SILENCE_S = dask_pool.SILENCE_S, silence_s
    try:
        yield
    finally:
        dask_pool.SILENCE_S = before


def cases(topologies: list[str], times: int) -> Iterator[tuple[str, str, str, int]]:
    for topology in topologies:
        for phase in PHASES:
            if phase == "heartbeats" and topology == "standalone":
                continue  # there they go with the keys
            for what in WHAT:
                for seed in range(times):
                    yield topology, phase, what, seed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--silence", type=float, default=3.0)
    parser.add_argument("--topology", choices=("standalone", "cluster"), action="append")
    parser.add_argument("--phase", choices=PHASES, action="append")
    parser.add_argument("--what", choices=WHAT, action="append")
    arguments = parser.parse_args()
    topologies = arguments.topology or ["standalone", "cluster"]
    makers: dict[str, Callable[[], Server]] = {
        "standalone": lambda: ServerProcess(DEFAULT),
        "cluster": lambda: ServerCluster(DEFAULT),
    }
    table: dict[tuple[str, str, str], list[Played]] = {}
    with nursery() as children, quick(arguments.silence):
        fleet = Fleet(children, 3, constants=SMALL)
        servers = {name: makers[name]() for name in topologies}
        try:
            for topology, phase, what, seed in cases(topologies, arguments.times):
                if arguments.phase and phase not in arguments.phase:
                    continue
                if arguments.what and what not in arguments.what:
                    continue
                faulthandler.dump_traceback_later(3 * BOUND_S, exit=True)
                played = play(fleet, servers[topology], what, phase, seed + arguments.seed)
                faulthandler.cancel_dump_traceback_later()
                table.setdefault((topology, phase, what), []).append(played)
                print(
                    f"{topology} {phase} {what} {played.seed}: {played.outcome} in "
                    f"{played.seconds:.1f} s{'' if played.in_time else ', missed'}",
                    *(f"\n    WRONG: {wrong}" for wrong in played.wrong),
                    file=sys.stderr,
                    flush=True,
                )
        finally:
            for server in servers.values():
                server.remove()
    return _show(table)


def _show(table: dict[tuple[str, str, str], list[Played]]) -> int:
    print("| servers | phase | killed | times | came to | longest | wrong |")
    print("|---|---|---|---|---|---|---|")
    for (topology, phase, what), all_played in table.items():
        outcomes = Counter(
            one.outcome if one.in_time else f"{one.outcome}, after the phase" for one in all_played
        )
        came = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
        longest = max(one.seconds for one in all_played)
        wrong = sum(bool(one.wrong) for one in all_played)
        print(
            f"| {topology} | {phase} | {what} | {len(all_played)} | {came} | {longest:.0f} s "
            f"| {wrong} |"
        )
    return int(any(one.wrong for played in table.values() for one in played))


if __name__ == "__main__":
    sys.exit(main())
