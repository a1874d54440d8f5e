"""The demo, end to end, with its checks; whatever happens, its server is ended."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cleanup_job import demo
from cleanup_job.config import Config, Redis
from cleanup_job.errors import ServerUnavailableError
from cleanup_job.job import run
from cleanup_job.report import Report
from tests.keys import keys_of
from tests.servers import ServerProcess

URL = re.compile(r"redis://127\.0\.0\.1:(\d+)/0")


def call(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "cleanup_job", "demo", *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done


def port_of(text: str) -> int:
    found = URL.search(text)
    assert found, text
    return int(found[1])


def answers(port: int) -> bool:
    try:
        with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_end_to_end() -> None:
    done = call("--coordinators", "300")
    assert (done.returncode, done.stderr) == (0, "")
    assert "seeded 300 stale coordinators, 700 s old" in done.stdout
    assert re.search(r"before: +1,240 keys, 310 coordinators", done.stdout)
    assert re.search(r"after: +40 keys, 10 coordinators", done.stdout)
    assert "complete: 1,200 of 1,200 planned keys deleted" in done.stdout
    checks = [line for line in done.stdout.splitlines() if line.startswith("check:")]
    assert len(checks) == 3
    assert all(line.startswith("check:  good: ") for line in checks)
    assert done.stdout.endswith("stopped the server\n")
    assert not answers(port_of(done.stdout))


@pytest.mark.parametrize("words", [["0"], ["1", "--show", "0"]])
def test_small_ones(words: list[str]) -> None:
    done = call("--coordinators", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 coordinators" in done.stdout
    assert "BAD" not in done.stdout


def test_keep_leaves_the_server_and_tells_how_to_reach_and_end_it() -> None:
    done = call("--coordinators", "3", "--keep")
    assert done.returncode == 0
    last = done.stdout.splitlines()[-1]
    found = re.search(r"still running: (\S+) \(end it with: kill (\d+)\)$", last)
    assert found, last
    pid = int(found[2])
    try:
        with redis.Redis.from_url(found[1]) as client:
            info: Any = client.info("server")
            assert info["process_id"] == pid
            assert len(keys_of(client)) == 40
            settings: Any = client.config_get("dir")
            client.shutdown(nosave=True)
    finally:
        end(pid)
    assert not answers(port_of(found[1]))
    shutil.rmtree(settings["dir"])


def end(pid: int) -> None:
    """End the server that the test was given, if it has not ended by itself."""
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < deadline:
        if b"valkey-server" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return  # ended, and the number may be somebody else's by now
        time.sleep(0.05)
    if Path(f"/proc/{pid}").exists():
        os.kill(pid, signal.SIGKILL)


@contextmanager
def playing(coordinators: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A demo under way, in a process group of its own, with its server's port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cleanup_job", "demo", "--coordinators", str(coordinators)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process, port_of(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("until", ["started", "before:"])
def test_a_signal_ends_it_and_its_server(number: int, code: int, until: str) -> None:
    """In the middle of seeding, and of the sweep."""
    with playing(30_000) as (process, port):
        assert process.stdout is not None
        line = until
        while not line.startswith(until):
            line = process.stdout.readline()
        # To the whole group, as a terminal does.
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in err
    assert "stopping" in err
    assert "BAD" not in out
    assert out.endswith("stopped the server\n")
    assert not answers(port)


def test_two_signals_end_it_at_once_and_its_server_too() -> None:
    with playing(200_000) as (process, port):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    # The second may come when the command has done all it had to, which a shell calls 130 too.
    assert process.returncode in (130, -signal.SIGINT)
    assert not answers(port)


def play(said: list[str], sweep: Any, *, coordinators: int = 5) -> bool:
    return demo.play(coordinators, keep=False, sweep=sweep, say=said.append, stopping=lambda: False)


class TestItsChecks:
    """They ask the server, so a job that is wrong does not pass them by its own report."""

    def test_a_key_that_was_left(self) -> None:
        def sloppy(config: Config) -> Report:
            report = run(config)
            with redis.Redis.from_url(config.redis.url) as client:
                client.set("blocking:signal:test-swarm-1", "1")
            return report

        said: list[str] = []
        assert not play(said, sloppy)
        assert "check:  BAD: 1 keys of stale ones left" in said

    @pytest.mark.parametrize("harm", ["delete", "change"])
    def test_a_live_one_that_was_harmed(self, harm: str) -> None:
        def harmful(config: Config) -> Report:
            client = redis.Redis.from_url(config.redis.url)
            key = "blocking:signal:live-coordinator-1"
            client.delete(key) if harm == "delete" else client.set(key, "1")
            client.close()
            return run(config)

        said: list[str] = []
        assert not play(said, harmful)
        assert "check:  BAD: every key of the 10 live ones untouched" in said

    def test_a_report_that_is_wrong(self) -> None:
        def boastful(config: Config) -> Report:
            report = run(config)
            keys = msgspec.structs.replace(report.keys, deleted=report.keys.deleted + 1)
            return msgspec.structs.replace(report, keys=keys)

        said: list[str] = []
        assert not play(said, boastful)
        assert "check:  BAD: the report adds up" in said

    def test_a_server_that_goes_away_is_an_error_of_ours(self) -> None:
        def fatal(config: Config) -> Report:
            report = run(config)
            with redis.Redis.from_url(config.redis.url) as client:
                client.shutdown(nosave=True)
            return report

        said: list[str] = []
        with pytest.raises(ServerUnavailableError, match="lost the embedded server"):
            play(said, fatal)
        assert said[-1] == "stopped the server"

    def test_whatever_the_job_raises_the_server_is_stopped(self) -> None:
        def broken(config: Config) -> Report:
            raise ZeroDivisionError(config.redis.url)

        said: list[str] = []
        with pytest.raises(ZeroDivisionError) as caught:
            play(said, broken)
        assert said[-1] == "stopped the server"
        assert not answers(port_of(str(caught.value)))


@pytest.mark.default_server
def test_the_seed_is_the_validation_case(server: ServerProcess, client: redis.Redis) -> None:
    live = demo.seed(client, 50)
    assert client.dbsize() == 4 * 60
    assert len(live) == 40
    report = run(Config(redis=Redis(server.url)), dry_run=True)
    assert (report.coordinators.stale, report.coordinators.live) == (50, 10)
    assert report.coordinators.orphaned == 0
    assert {family: counts.planned for family, counts in report.keys.by_family.items()} == {
        "heartbeat": 50, "signal": 50, "ack": 50, "idempotency": 0, "activity": 50,
    }  # fmt: skip
    ages = {sample.age_s for sample in report.samples if sample.verdict == "stale"}
    assert all(700 <= age < 720 for age in ages if age is not None)
