"""From findings to batches: 10,000 coordinators, 40,000 keys."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.conftest import COORDINATORS
from bench.micro.data import SCHEMA
from cleanup_job.judge import Verdicts, decide
from cleanup_job.model import Findings
from cleanup_job.plan import make_plan


def test_decide(benchmark: BenchmarkFixture, findings: Findings) -> None:
    """Verdicts and owners."""
    assert benchmark(decide, [findings], SCHEMA).checked == COORDINATORS


def test_plan(benchmark: BenchmarkFixture, verdicts: Verdicts) -> None:
    """Batches of whole coordinators."""
    assert benchmark(make_plan, verdicts, SCHEMA).size == 4 * COORDINATORS
