"""The main job on real servers: the validation report's case, and the report's truth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from cleanup_job import demo
from cleanup_job.config import Config, Keys, Redis, Timestamp
from cleanup_job.errors import ConfigError
from cleanup_job.job import Observer, run
from cleanup_job.judge import MOST_NAMED
from cleanup_job.report import to_json
from tests.keys import (
    STALE_MS,
    assert_adds_up,
    heartbeat_key,
    keys_of,
    owned_keys,
    sweep,
    write_coordinator,
    write_heartbeat,
    write_owned,
)
from tests.servers import ServerProcess

WRITES = {"set", "mset", "del", "unlink", "expire", "evalsha", "eval", "script|load", "script"}


def command(server: ServerProcess, *words: str) -> tuple[int, Any]:
    """Run `cleanup-job run … --json -`; its exit code and report."""
    done = subprocess.run(
        [sys.executable, "-m", "cleanup_job", "run", "--url", server.url, "--json", "-", *words],
        capture_output=True,
        check=False,
    )
    assert done.stderr == b""
    return done.returncode, json.loads(done.stdout)


def test_the_seed_case(server: ServerProcess, client: redis.Redis) -> None:
    """Issue 2, show it 2: a dry run, a run, and a run that finds nothing."""
    live = demo.seed(client, 10_000)
    assert client.dbsize() == 40_040

    code, report = command(server, "--dry-run")
    assert (code, report["status"], report["dry_run"]) == (0, "complete", True)
    assert report["keys"]["planned"] == 40_000
    assert report["keys"]["deleted"] == 0
    assert client.dbsize() == 40_040

    code, report = command(server)
    assert (code, report["status"]) == (0, "complete")
    assert report["keys"]["deleted"] == report["keys"]["planned"] == 40_000
    assert report["coordinators"]["checked"] == 10_010
    assert report["coordinators"]["purged"] == 10_000
    assert client.dbsize() == 40
    assert [value.decode() for value in client.mget(list(live))] == list(live.values())

    code, report = command(server)
    assert (code, report["status"]) == (0, "complete")
    assert report["keys"]["planned"] == report["coordinators"]["stale"] == 0


def test_dry_run_sends_no_write(server: ServerProcess, client: redis.Redis) -> None:
    write_coordinator(client, "dead", STALE_MS)
    write_owned(client, "orphan")
    client.config_resetstat()
    report = sweep(server, dry_run=True, orphans="purge")
    sent = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
    assert not sent & WRITES
    assert report.keys.planned == 6
    assert {sample.verdict for sample in report.samples} == {"stale", "orphaned"}


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_report_tells_what_is_gone(
    server: ServerProcess, client: redis.Redis, workers: int
) -> None:
    for number in range(300):
        write_coordinator(client, f"dead-{number}", STALE_MS)
        write_coordinator(client, f"live-{number}", 1000)
    before = keys_of(client)
    report = sweep(server, workers=workers)
    after = keys_of(client)
    assert report.status == "complete"
    assert report.keys.scanned == len(before)
    assert report.keys.deleted == len(before - after) == 300 * 6
    assert after == {
        key
        for number in range(300)
        for key in (heartbeat_key(f"live-{number}"), *owned_keys(f"live-{number}"))
    }
    by_family = report.keys.by_family
    assert by_family["ack"].deleted == 600
    assert by_family["heartbeat"].deleted == 300
    assert_adds_up(report)


def test_keys_that_no_pattern_names_are_left(server: ServerProcess, client: redis.Redis) -> None:
    write_coordinator(client, "dead", STALE_MS)
    others = {
        b"blocking:retry:dead:1",
        b"blocking:signal",
        b"blocking:signal:",
        b"blocking:signals:dead",
        b"blocking:ack:dead",
        b"swarm:s:blocking:dead",
        b"dead",
    }
    client.mset(dict.fromkeys(others, "1"))
    sweep(server, orphans="purge", orphan_grace=1)
    assert keys_of(client) == others


def test_a_coordinator_with_more_keys_than_a_batch(
    server: ServerProcess, client: redis.Redis
) -> None:
    write_coordinator(client, "dead", STALE_MS)
    write_coordinator(client, "live", 1000)
    for name in ("dead", "live"):
        client.mset({f"blocking:ack:{name}:{number}": "1" for number in range(5_000)})
    report = sweep(server)
    assert report.keys.deleted == 5_006
    assert report.coordinators.purged == 1
    assert client.dbsize() == 5_006


def test_records_between_two_dead_go_once(server: ServerProcess, client: redis.Redis) -> None:
    for name in ("a", "b", "a:b"):
        write_heartbeat(client, name, STALE_MS)
    client.set("blocking:idempotency:a:b:completion:1:17", "1")
    report = sweep(server)
    assert report.keys.by_family["idempotency"].deleted == 1
    assert report.coordinators.purged == 3
    assert client.dbsize() == 0
    assert_adds_up(report)


def test_other_layouts_are_a_matter_of_configuration(
    server: ServerProcess, client: redis.Redis
) -> None:

    seconds = client.time()[0]
    client.set("hb:w1:beat", json.dumps({"at": seconds - 61}))
    client.set("hb:w2:beat", json.dumps({"at": seconds - 1}))
    client.mset({"job:w1:7": "1", "job:w2:7": "1", "swarm:s:blocking:w1": "1"})
    keys = Keys(
        heartbeat="hb:{id}:beat",
        timestamp=Timestamp(fields=("at",), unit="s"),
        owned={"job": "job:{id}:*", "blocking": "swarm:*:blocking:{id}"},
    )
    report = sweep(server, keys=keys, stale_after=60)
    assert report.keys.deleted == 3
    assert keys_of(client) == {b"hb:w2:beat", b"job:w2:7"}


def test_full_server_can_be_cleaned(server: ServerProcess, client: redis.Redis) -> None:
    """Out of memory is when a purge is needed most."""
    for number in range(200):
        write_coordinator(client, f"dead-{number}", STALE_MS)
    client.config_set("maxmemory", 1_000_000)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("x", "1")
        report = sweep(server)
    finally:
        client.config_set("maxmemory", 0)
    assert report.status == "complete"
    assert client.dbsize() == 0


def test_scripts_flushed_in_the_middle(server: ServerProcess, client: redis.Redis) -> None:
    class Flush(Observer):
        def advanced(self, keys: int) -> None:
            client.script_flush()

    for number in range(4_000):
        write_coordinator(client, f"dead-{number}", STALE_MS)
    report = sweep(server, observer=Flush())
    assert report.status == "complete"
    assert client.dbsize() == 0


def test_a_key_that_names_very_many_stale_ones_is_kept_and_told(
    server: ServerProcess, client: redis.Redis
) -> None:
    names = [f"c{number}" for number in range(MOST_NAMED + 1)]
    for name in names:
        write_heartbeat(client, name, STALE_MS)
    crowded = b"blocking:idempotency:" + ":".join(names).encode()
    client.mset({crowded: "1", b"blocking:idempotency:" + ":".join(names[1:]).encode(): "1"})
    report = sweep(server)
    assert keys_of(client) == {crowded}
    assert report.status == "complete"
    assert report.coordinators.purged == len(names)
    assert "crowded" in [warning.code for warning in report.warnings]
    assert_adds_up(report)


@pytest.mark.default_server
@pytest.mark.timeout(30)
def test_a_key_with_very_many_segments_holds_nobody_up(
    server: ServerProcess, client: redis.Redis
) -> None:
    write_heartbeat(client, "a:b", STALE_MS)
    client.set(b"blocking:idempotency:" + b":" * 100_000, "1")
    report = sweep(server)
    assert report.status == "complete"
    assert client.dbsize() == 1


@pytest.mark.default_server
def test_long_heartbeats_are_read_and_checked_a_few_at_a_time(
    server: ServerProcess, client: redis.Redis
) -> None:
    count = 100
    for number in range(count):
        write_heartbeat(client, f"dead-{number}", STALE_MS, padding="x" * 300_000)
    client.config_resetstat()
    report = sweep(server)
    assert report.keys.deleted == count
    # 300 kB each: the first read takes 50 of them, the others three.
    assert report.commands["MGET"].calls > 15
    # At most half a megabyte in one call of the script.
    assert report.commands["EVALSHA"].calls >= count / 2


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_the_report_says_where_the_time_went(
    server: ServerProcess, client: redis.Redis, engine: str
) -> None:
    demo.seed(client, 2_000)
    before = client.info("memory")["used_memory"]
    report = sweep(server, engine=engine, workers=2)
    survey, judge, purge = (report.costs[name] for name in ("survey", "judge", "purge"))
    assert [*report.costs] == ["survey", "judge", "purge"]
    assert survey.commands["SCAN"].calls >= 8
    assert purge.commands["EVALSHA"].calls >= 8
    assert not judge.commands
    for name, times in report.commands.items():
        in_phases = [cost.commands[name].calls for cost in report.costs.values()
                     if name in cost.commands]  # fmt: skip
        assert times.calls == sum(in_phases)
    assert survey.wall_s == report.phases.survey_s
    # All of the server's is in a phase; of ours a little is before and behind them.
    assert survey.server_cpu_s is not None
    assert purge.server_cpu_s is not None
    assert report.server.cpu_s == pytest.approx(survey.server_cpu_s + purge.server_cpu_s, abs=2e-4)
    in_phases_s = sum(cost.client_cpu_s for cost in report.costs.values())
    assert 0 < in_phases_s <= report.client.cpu_s
    assert report.server.used_memory_before == pytest.approx(before, rel=0.2)
    # 8,000 keys of some 100 bytes.
    assert before - report.server.used_memory_after > 500_000


class TestCourse:
    """What a report tells of the time in between."""

    def test_adds_up_to_the_run(self, server: ServerProcess, client: redis.Redis) -> None:
        for number in range(50):
            write_coordinator(client, f"dead-{number}", STALE_MS + 1000 * number)
        report = sweep(server)
        purged = [moment for moment in report.timeline if moment.phase == "purge"]
        assert sum(moment.keys for moment in purged) == report.keys.deleted == 300
        # Those between two phases are in none of them.
        commands = sum(times.calls for times in report.commands.values())
        assert commands - 3 <= sum(moment.commands for moment in report.timeline) <= commands
        ends_s = [moment.at_s + moment.seconds for moment in report.timeline]
        assert max(ends_s) <= report.duration_s
        assert sum(band.coordinators for band in report.ages) == 50
        assert report.config["redis"]["url"] == server.url
        assert (report.stops, report.uncovered) == ([], [])

    @pytest.mark.default_server
    def test_of_a_dry_run_has_no_purge(self, server: ServerProcess, client: redis.Redis) -> None:
        write_coordinator(client, "dead", STALE_MS)
        report = sweep(server, dry_run=True)
        assert {moment.phase for moment in report.timeline} <= {"survey", "judge"}

    @pytest.mark.default_server
    def test_names_who_came_back(self, server: ServerProcess, client: redis.Redis) -> None:
        class Revive(Observer):
            def began(self, phase: str, keys: int) -> None:
                if phase == "purge":
                    write_heartbeat(client, "dead-1", 0)

        for number in range(3):
            write_coordinator(client, f"dead-{number}", STALE_MS)
        report = sweep(server, observer=Revive())
        back = [sample for sample in report.samples if sample.verdict == "revived"]
        assert [(sample.id, sample.reason) for sample in back] == [
            ("dead-1", "its heartbeat was fresh when its turn came")
        ]

    @pytest.mark.default_server
    def test_has_no_secret(self, server: ServerProcess, tmp_path: Path) -> None:
        secret = "hu" + "sh"
        client = server.client()
        client.config_set("requirepass", secret)
        try:
            url = server.url.replace("://", f"://:{secret}@")
            report = run(Config(redis=Redis(url)))
        finally:
            server.client(password=secret).config_set("requirepass", "")
        assert secret.encode() not in to_json(report)
        assert report.config["redis"]["url"] == server.url.replace("://", "://:***@")


def test_a_configuration_made_by_hand_is_checked_before_anything_is_contacted() -> None:
    with pytest.raises(ConfigError, match="stale_after: Expected `int` >= 1"):
        run(Config(redis=Redis("redis://127.0.0.1:1"), stale_after=0))
