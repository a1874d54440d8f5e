"""Every fault in every phase (issue 5, show it 1): see `scene` for what is checked afterwards.

By default a few of them run, each with one seed: on a standalone server every fault in the purge
and in one more phase, in a cluster in one; and what has to wait, or is a fault like another in
other circumstances, in one phase of one topology. `--all-faults` runs all, `--seeds N` each of
them so often, and `--fault-log FILE` keeps what `python -m tests.faults.table FILE` makes the
table of.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.faults.catalog import BY_NAME, FAULTS
from tests.faults.conftest import Log
from tests.faults.runs import Tool
from tests.faults.scene import Scenario, play
from tests.faults.stage import Stages


def every_scenario(seeds: int) -> Iterator[Scenario]:
    for fault in FAULTS:
        places = product(fault.topologies, fault.phases, fault.engines, range(seeds))
        for topology, phase, engine, seed in places:
            yield Scenario(fault.name, phase, topology, engine, seed)


def usual(seeds: int) -> Iterator[Scenario]:
    """The few that run by default."""
    for number, fault in enumerate(FAULTS):
        topologies = [each for each in fault.topologies if each not in fault.only_asked_for]
        if fault.few:
            topologies = topologies[number % len(topologies) :][:1]
        for place, topology in enumerate(topologies):
            phases = {fault.phases[(number + place) % len(fault.phases)]}
            if topology == "standalone" and "purge" in fault.phases and not fault.few:
                phases.add("purge")
            for turn, phase in enumerate(sorted(phases)):
                engine = fault.engines[(number + place + turn) % len(fault.engines)]
                for seed in range(seeds):
                    yield Scenario(fault.name, phase, topology, engine, seed)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    seeds = metafunc.config.getoption("--seeds")
    choose = every_scenario if metafunc.config.getoption("--all-faults") else usual
    if "scenario" in metafunc.fixturenames:
        metafunc.parametrize("scenario", [*choose(seeds)], ids=str)


def test_fault(
    scenario: Scenario, fault_stages: Stages, fault_tool: Tool, fault_log: Log, tmp_path: Path
) -> None:
    fault = BY_NAME[scenario.fault]
    outcome = play(scenario, fault, fault_stages[scenario.topology], fault_tool, tmp_path)
    fault_log.add(outcome)
    assert not outcome.problems, outcome
