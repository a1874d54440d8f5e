"""What the walk does with each page: a thousand keys, or a thousand heartbeats."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.data import NOW_MS, PAGE, RULE, SCHEMA, Keyspace
from cleanup_job.judge import ages_ms, fingerprint, judge_heartbeat
from cleanup_job.keyspace import covering_glob


def test_covering_glob(benchmark: BenchmarkFixture) -> None:
    """Once per walk."""
    assert benchmark(covering_glob, SCHEMA.patterns).endswith(b"*")


def test_classify_a_page(benchmark: BenchmarkFixture, keyspace: Keyspace) -> None:
    """Sort it, and pick each family's keys and the heartbeats' ids."""
    page = keyspace.keys[:PAGE]

    def classify() -> int:
        keys = sorted(page)
        owned = [pattern.pick(keys) for _, pattern in SCHEMA.owned]
        return len(SCHEMA.heartbeat.ids(SCHEMA.heartbeat.within(keys))) + sum(map(len, owned))

    assert benchmark(classify) == PAGE


def test_judge_a_page_of_plain_heartbeats(benchmark: BenchmarkFixture, keyspace: Keyspace) -> None:
    """All at once, as writers write them."""
    _, values = keyspace.heartbeats()
    ages = benchmark(ages_ms, values[:PAGE], NOW_MS, RULE)
    assert min(ages) > RULE.stale_after_ms


def test_judge_a_page_one_by_one(benchmark: BenchmarkFixture, keyspace: Keyspace) -> None:
    """Where one of the page is odd."""
    _, values = keyspace.heartbeats()
    page = values[:PAGE]
    benchmark(lambda: [judge_heartbeat(value, NOW_MS, RULE) for value in page])


def test_fingerprint_a_page(benchmark: BenchmarkFixture, keyspace: Keyspace) -> None:
    """What is carried of each value."""
    _, values = keyspace.heartbeats()
    page = values[:PAGE]
    assert benchmark(lambda: [*map(fingerprint, page)]) == page
