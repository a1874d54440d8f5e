"""The job is killed at a random instant of its purge, with two workers (issue 5, show it 4).

No delete reaches a server later than one batch after it. Precisely: a worker looks for its job
before it begins a batch, so what arrives when the job is dead was begun before. That is what the
worker had in flight, at most `KEYS_IN_FLIGHT` keys for each server, and the one batch that it was
about to send. The proxies see all that arrives, and tell.

The job counts as dead when its parent could wait for it: then its workers have another parent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.conftest import Log
from tests.faults.proxy import Link, Request
from tests.faults.runs import SHORTER, Tool
from tests.faults.scene import Act, Fault, Scenario, Scene, play
from tests.faults.stage import Stages

WORKERS = 2

NAME = "SIGKILL of the job, and what comes after"

COORDINATORS = 700

MOST_N = {"standalone": 45, "cluster": 2_000}
"""Requests of the purge: calls for a batch, or two for each key of a cluster."""

QUICK = {"standalone": 3, "cluster": 1}

INSTANTS = 100


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("--all-faults")
    cases = [
        (topology, seed)
        for topology in QUICK
        for seed in range(INSTANTS if every else QUICK[topology])
    ]
    metafunc.parametrize(("topology", "seed"), cases)


class Killer:
    """Kills the job, waits until it is dead, and then lets what it struck go on."""

    def __init__(self) -> None:
        self.dead_at = 0.0

    def __call__(self, scene: Scene) -> Act:
        async def act(_: Link) -> None:
            assert scene.run is not None
            os.kill(scene.run.pid, signal.SIGKILL)
            await asyncio.to_thread(scene.run.ended.wait)
            self.dead_at = time.monotonic()

        return act


def test_no_delete_comes_later_than_one_batch(
    topology: str,
    seed: int,
    fault_stages: Stages,
    fault_tool: Tool,
    fault_log: Log,
    tmp_path: Path,
) -> None:
    kill = Killer()
    fault = Fault(
        NAME,
        kill,
        codes=frozenset({-signal.SIGKILL}),
        coordinators=COORDINATORS,
        most_n=MOST_N[topology],
    )
    stage = fault_stages[topology]
    outcome = play(
        Scenario(NAME, "purge", topology, "workers", seed), fault, stage, fault_tool, tmp_path
    )
    late = [
        request
        for request in stage.proxies.requests
        if request.at > kill.dead_at and is_delete(request)
    ]
    in_flight = SHORTER["cleanup_job.purge.KEYS_IN_FLIGHT"] * len(stage.servers)
    most = WORKERS * (in_flight + SHORTER["cleanup_job.purge.KEYS_PER_BATCH"])
    keys = len({key for request in late for key in keys_of(request)})
    outcome = replace(outcome, note=f"{keys} keys in {len(late)} deletes after its death")
    fault_log.add(outcome)
    assert not outcome.problems, outcome
    assert outcome.code == -signal.SIGKILL
    assert keys <= most, outcome


def is_delete(request: Request) -> bool:
    is_of_purge = not (request.is_rehearsed or request.is_of_lease)
    return request.command in ("EVALSHA", "UNLINK") and is_of_purge


def keys_of(request: Request) -> list[bytes]:
    """The keys that it deletes: see the head of purge.lua."""
    if request.command == "UNLINK":
        return request.words[1:]
    keys, arguments = _split(request.words)
    guards, heartbeats = int(arguments[0]), int(arguments[1])
    return keys[:heartbeats] + keys[guards:]


def _split(words: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    end = 3 + int(words[2])
    return words[3:end], words[end:]
