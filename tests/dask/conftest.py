"""A scheduler and three workers for the session; what a test kills is there again for the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cleanup_job import dask_pool
from tests.dask.faults import SMALL
from tests.dask.fleet import Fleet, Nursery
from tests.dask.fleet import nursery as a_nursery

SILENCE_S = 1.0


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as one:
        yield one


@pytest.fixture(scope="session")
def _fleet(nursery: Nursery) -> Fleet:
    return Fleet(nursery, 3, constants={**SMALL, "cleanup_job.remote.FORGET_S": 0.5})


@pytest.fixture
def fleet(_fleet: Fleet) -> Fleet:
    _fleet.mend()
    return _fleet


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for who is gone."""
    monkeypatch.setattr(dask_pool, "SILENCE_S", SILENCE_S)
