"""Sweeps in waves of ids come to what a sweep of all at once does."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from cleanup_job import memory
from cleanup_job.config import Config, Redis
from cleanup_job.errors import ConfigError
from cleanup_job.job import run
from tests.keys import assert_adds_up, keys_of, sweep
from tests.mixed import comparable, write_mixed
from tests.server.test_stopping import StopAt
from tests.servers import ServerProcess

IN_WAVES: list[dict[str, Any]] = [
    {"engine": "serial", "memory_limit": "500MB"},
    {"engine": "processes", "workers": 2, "memory_limit": "500MB"},
]


@pytest.fixture(autouse=True)
def _small_waves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A few names are too many, and some hundred make a wave."""
    monkeypatch.setattr(memory, "fits", lambda *_: False)
    monkeypatch.setattr(memory, "share_of", lambda *_: 50_000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("settings", IN_WAVES)
def test_the_same_report_and_the_same_keys_are_left(
    server: ServerProcess, client: redis.Redis, settings: dict[str, Any], tmp_path: Path
) -> None:
    assert_agreed(server, client, settings, "report")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.default_server
@pytest.mark.parametrize("settings", IN_WAVES[:1])
def test_orphans_too(server: ServerProcess, client: redis.Redis, settings: dict[str, Any]) -> None:
    """Some of them have keys that were touched lately, in this range or in that."""
    assert_agreed(server, client, settings, "purge")


def assert_agreed(
    server: ServerProcess, client: redis.Redis, settings: dict[str, Any], orphans: str
) -> None:
    results = []
    for how in ({"engine": "serial"}, settings):
        client.flushall()
        write_mixed(client, 200, seed=7)
        if orphans == "purge":
            _age(client)
        report = sweep(server, orphans=orphans, orphan_grace=2, **how)
        assert_adds_up(report)
        results.append((comparable(report), keys_of(client)))
    assert results[1] == results[0]
    assert next(problem.count for problem in report.warnings if problem.code == "in_waves") > 3


def _age(client: redis.Redis) -> None:
    """Let most keys be untouched for three seconds, by the server's clock."""
    before, _ = client.time()
    while client.time()[0] < before + 3:
        time.sleep(0.1)
    keys = sorted(keys_of(client))
    client.touch(*random.Random(3).sample(keys, len(keys) // 8))


@pytest.mark.default_server
def test_a_dry_run_in_waves(server: ServerProcess, client: redis.Redis) -> None:
    write_mixed(client, 100, seed=1)
    before = keys_of(client)
    whole = sweep(server, dry_run=True)
    waves = sweep(server, dry_run=True, memory_limit="1GB")
    assert comparable(waves) == comparable(whole)
    assert keys_of(client) == before


@pytest.mark.default_server
def test_a_journal_has_all_that_went(
    server: ServerProcess, client: redis.Redis, tmp_path: Path
) -> None:
    write_mixed(client, 100, seed=1)
    before = keys_of(client)
    config = Config(
        redis=Redis(server.url), memory_limit="1GB", expect_all_dead=True, workers=2,
        max_clock_skew=1000,
    )  # fmt: skip
    report = run(config, journal=str(tmp_path / "journal"))
    assert report.status == "complete"
    assert report.journal is not None
    assert report.journal.keys == report.keys.deleted == len(before - keys_of(client))


@pytest.mark.default_server
@pytest.mark.parametrize("settings", IN_WAVES)
def test_a_stop_in_the_purge_counts_late_heartbeats_once(
    server: ServerProcess, client: redis.Redis, settings: dict[str, Any]
) -> None:
    """Those that wait for the last wave, in portions that were begun and in others."""
    write_mixed(client, 300, seed=5)
    before = client.dbsize()
    report = sweep(server, observer=StopAt("purge", 100), **settings)
    assert_adds_up(report)
    assert report.status == "partial"
    assert report.keys.deleted == before - client.dbsize() > 0
    assert [error.code for error in report.errors] == ["not_attempted"]


@pytest.mark.default_server
def test_no_room_for_what_was_found(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_mixed(client, 20, seed=1)
    before = keys_of(client)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(Exception, match="set TMPDIR") as error:
        sweep(server, memory_limit="1GB")
    assert error.value.exit_code == 75
    assert keys_of(client) == before


@pytest.mark.default_server
def test_a_plan_file_needs_all_names(
    server: ServerProcess, client: redis.Redis, tmp_path: Path
) -> None:
    config = Config(redis=Redis(server.url), memory_limit="1GB")
    with pytest.raises(ConfigError, match="memory_limit"):
        run(config, dry_run=True, plan_path=str(tmp_path / "plan"))
