"""One set of servers and one waiting command for all scenarios of a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.faults.runs import Tool
from tests.faults.scene import Outcome
from tests.faults.stage import Stages, stages
from tests.servers import DEFAULT


class Log:
    """Where outcomes go, if anywhere."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def add(self, outcome: Outcome) -> None:
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(outcome.line() + "\n")


@pytest.fixture(scope="session")
def fault_log(request: pytest.FixtureRequest) -> Log:
    return Log(request.config.getoption("--fault-log"))


@pytest.fixture(scope="session")
def fault_stages(request: pytest.FixtureRequest) -> Iterator[Stages]:
    """The topologies of one kind of server: the default one, or the first that is asked for."""
    name = (request.config.getoption("--server") or [DEFAULT])[0]
    require(name)
    with stages(name) as made:
        yield made


@pytest.fixture(scope="session")
def fault_tool() -> Iterator[Tool]:
    tool = Tool()
    yield tool
    tool.close()
