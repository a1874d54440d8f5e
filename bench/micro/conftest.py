"""Data that several benches share; nothing changes it."""

from __future__ import annotations

import pytest

from bench.micro import data
from cleanup_job.judge import Verdicts
from cleanup_job.model import Findings

COORDINATORS = 10_000


@pytest.fixture(scope="session")
def keyspace() -> data.Keyspace:
    """10,000 stale coordinators."""
    return data.keyspace(COORDINATORS)


@pytest.fixture(scope="session")
def findings(keyspace: data.Keyspace) -> Findings:
    """What the survey makes of them."""
    return data.findings(keyspace)


@pytest.fixture(scope="session")
def verdicts(keyspace: data.Keyspace) -> Verdicts:
    """What the reduce makes of them."""
    return data.verdicts(keyspace)
