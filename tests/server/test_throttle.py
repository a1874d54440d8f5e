"""The run gives way, says why, and goes on; or it ends in time, and says why."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cleanup_job import gauge, job, purge, survey, watch
from cleanup_job.errors import NotNowError
from cleanup_job.job import Observer
from cleanup_job.report import Pause, Report
from tests.keys import assert_adds_up, sweep
from tests.server.test_revival import write_many
from tests.servers import ServerProcess, running

pytestmark = pytest.mark.default_server

COORDINATORS = 2_000
KEYS = 6 * COORDINATORS

both = pytest.mark.parametrize("workers", [1, 2])

Act = Callable[[], object]


def nothing() -> None:
    pass


class Trouble(Observer):
    """Something that begins with a phase, and ends when the run has stood still for a while.

    Attributes:
        reasons: why the run paused, as it was told; None when it went on.
        left: keys that were there when it stood still.
    """

    def __init__(
        self, size: Callable[[], int], end: Act, begin: Act = nothing, phase: str = "purge"
    ) -> None:
        self.size = size
        self.begin, self.end, self.phase = begin, end, phase
        self.reasons: list[str | None] = []
        self.left = 0
        self._looks = 0
        self._keys = 0

    def began(self, phase: str, keys: int) -> None:
        if phase == self.phase:
            self.begin()

    def paused(self, reason: str | None) -> None:
        self.reasons.append(reason)

    def stopping(self) -> bool:
        if not self.left and self.reasons:
            self._looks += 1
            if self._looks % 5 == 0:
                before, self._keys = self._keys, self.size()
                if before == self._keys:
                    self.left = before
                    self.end()
        return False


def pause_of(report: Report, code: str) -> Pause | None:
    return next((pause for pause in report.throttle if pause.code == code), None)


def assert_gave_way(report: Report, trouble: Trouble, code: str) -> None:
    """It paused for this reason, stood still meanwhile, and then did all."""
    assert report.status == "complete"
    assert report.keys.deleted == KEYS
    assert_adds_up(report)
    assert trouble.left > 0
    assert trouble.reasons[0] is not None
    assert trouble.reasons[0].startswith(f"{code}: ")
    pause = pause_of(report, code)
    assert pause is not None
    assert pause.pauses >= 1
    assert pause.seconds > 0
    assert code in pause.message


# -- files and time --------------------------------------------------------------------------


@both
@pytest.mark.parametrize("phase", ["survey", "purge"])
def test_a_pause_file(
    server: ServerProcess, client: redis.Redis, tmp_path: Path, workers: int, phase: str
) -> None:
    write_many(client, COORDINATORS)
    file = tmp_path / "pause"
    trouble = Trouble(client.dbsize, file.unlink, file.touch, phase)
    report = sweep(server, workers=workers, pause_file=str(file), observer=trouble)
    assert_gave_way(report, trouble, "pause_file")
    assert str(file) in str(trouble.reasons[0])


def test_a_dry_run_pauses_too(server: ServerProcess, client: redis.Redis, tmp_path: Path) -> None:
    write_many(client, 10)
    file = tmp_path / "pause"
    file.touch()
    trouble = Trouble(client.dbsize, file.unlink)
    report = sweep(server, dry_run=True, pause_file=str(file), observer=trouble)
    assert pause_of(report, "pause_file") is not None


class TouchAt(Observer):
    """Makes a file when so many keys of the purge are done."""

    def __init__(self, file: Path, keys: int) -> None:
        self.file, self.keys = file, keys
        self.phase = ""

    def began(self, phase: str, keys: int) -> None:
        self.phase = phase

    def advanced(self, keys: int) -> None:
        self.keys -= keys if self.phase == "purge" else 0
        if self.keys < 0:
            self.file.touch()


@both
def test_a_stop_file_ends_it_and_the_next_run_goes_on(
    server: ServerProcess, client: redis.Redis, tmp_path: Path, workers: int
) -> None:
    write_many(client, 5_000)
    file = tmp_path / "stop"
    # See the time budget below.
    settings: dict[str, Any] = {"stop_file": str(file), "max_keys_per_second": 60_000}
    report = sweep(server, observer=TouchAt(file, 5_000), workers=workers, **settings)
    assert (report.status, report.stopped_by) == ("partial", "stop_file")
    assert 0 < report.keys.deleted < 30_000
    assert client.dbsize() == 30_000 - report.keys.deleted
    assert [error.code for error in report.errors] == ["not_attempted"]
    assert f"the stop file {file} is there; the next run goes on" in report.errors[0].message
    assert_adds_up(report)
    file.unlink()
    assert sweep(server, **settings).status == "complete"
    assert client.dbsize() == 0


def test_a_stop_file_that_is_there_already(
    server: ServerProcess, client: redis.Redis, tmp_path: Path
) -> None:
    write_many(client, 10)
    with pytest.raises(NotNowError, match="is there: nothing was done"):
        sweep(server, stop_file=str(tmp_path))
    done = command(server, "--stop-file", str(tmp_path))
    out, err = done.communicate(timeout=30)
    assert (done.returncode, out) == (75, b"")
    assert err.decode() == (
        f"cleanup-job: the stop file {tmp_path} is there: nothing was done; remove it, or name "
        "another with --stop-file\n"
    )
    assert client.dbsize() == 60


def test_a_time_budget_that_ends_in_the_survey(
    server: ServerProcess, client: redis.Redis, tmp_path: Path
) -> None:
    """A pause that does not end has it as its way out."""
    write_many(client, 100)
    words = ["--pause-file", str(tmp_path), "--time-budget", "1", "--workers", "2"]
    done = command(server, *words)
    out, err = done.communicate(timeout=30)
    report = json.loads(out)
    assert (done.returncode, report["status"], report["stopped_by"]) == (
        3,
        "partial",
        "time_budget",
    )
    assert [warning["message"] for warning in report["warnings"]] == [
        "the time budget of 1 s ended in the survey: nothing was judged or deleted; the survey has "
        "to fit into it: give it more time"
    ]
    assert client.dbsize() == 600
    # One line, however often the run looks.
    assert err.decode() == f"cleanup-job: paused: pause_file: {tmp_path} is there\n"


@both
def test_a_time_budget_that_ends_in_the_purge(
    server: ServerProcess,
    client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    write_many(client, 5_000)
    file = tmp_path / "time is up"
    budget = watch.time_budget(1, lambda: float(file.exists()))
    monkeypatch.setattr(job, "time_budget", lambda *_: budget)
    # Slow enough for the job to look at its workers in the middle: two of them purge all of it
    # within the tenth of a second between two looks.
    settings: dict[str, Any] = {"time_budget": 1, "max_keys_per_second": 60_000}
    report = sweep(server, observer=TouchAt(file, 5_000), workers=workers, **settings)
    assert (report.status, report.stopped_by) == ("partial", "time_budget")
    assert 0 < report.keys.deleted < 30_000
    assert "the time budget of 1 s ended; the next run goes on" in report.errors[0].message
    assert_adds_up(report)
    file.unlink()
    assert sweep(server, **settings).status == "complete"
    assert client.dbsize() == 0


@both
def test_a_signal_ends_a_pause(
    server: ServerProcess, client: redis.Redis, tmp_path: Path, workers: int
) -> None:
    write_many(client, 100)
    words = ["--pause-file", str(tmp_path), "--workers", str(workers)]
    done = command(server, *words)
    assert done.stderr is not None
    assert done.stderr.readline().startswith(b"cleanup-job: paused: pause_file")
    os.killpg(done.pid, signal.SIGINT)
    out, _ = done.communicate(timeout=5)
    report = json.loads(out)
    assert (done.returncode, report["status"], report["stopped_by"]) == (130, "partial", "told")
    assert "stopped by SIGINT in the survey" in report["warnings"][0]["message"]
    assert client.dbsize() == 600


def command(server: ServerProcess, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *f"-m cleanup_job run --json - --url {server.url}".split(), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@both
def test_a_connection_that_was_closed_in_a_pause_loses_nothing(
    server: ServerProcess,
    client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    """Servers close idle connections (`timeout`), and so do firewalls."""
    for stage in (survey, purge):
        monkeypatch.setattr(stage, "RENEW_AFTER_S", 0.0)
    write_many(client, COORDINATORS)
    file = tmp_path / "pause"
    for phase in ("survey", "purge"):

        def end() -> None:
            client.client_kill_filter(_type="normal", skipme=True)
            file.unlink()

        trouble = Trouble(client.dbsize, end, file.touch, phase)
        write_many(client, COORDINATORS)
        report = sweep(server, workers=workers, pause_file=str(file), observer=trouble)
        assert_gave_way(report, trouble, "pause_file")
        assert {walk.attempts for walk in report.partitions} == {1}


# -- rests -----------------------------------------------------------------------------------


@both
def test_most_keys_per_second(server: ServerProcess, client: redis.Redis, workers: int) -> None:
    """It may take longer, but not less."""
    write_many(client, 400)
    report = sweep(server, workers=workers, max_keys_per_second=4_000)
    assert report.keys.deleted == 2_400
    # All but the first batch, and what a worker that was held up may catch up.
    assert report.phases.purge_s > (2_400 - 500) / 4_000 - 0.1
    pause = pause_of(report, "max_keys_per_second")
    assert pause is not None
    assert pause.seconds > 0


def test_a_low_rate_has_small_batches(server: ServerProcess, client: redis.Redis) -> None:
    write_many(client, 50)
    report = sweep(server, engine="serial", max_keys_per_second=1_000)
    # At most a fifth of a second's keys each, and the rehearsal.
    assert report.commands["EVALSHA"].calls >= 3
    assert report.keys.deleted == 300


@both
def test_nice(server: ServerProcess, client: redis.Redis, workers: int) -> None:
    write_many(client, 1_000)
    report = sweep(server, workers=workers, nice=1.0)
    assert report.keys.deleted == 6_000
    pause = pause_of(report, "nice")
    assert pause is not None
    assert pause.seconds > 0
    assert pause.pauses == 0


def test_nobody_is_asked_where_nobody_needs_to_be(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gauge, "Wire", None)
    write_many(client, 10)
    report = sweep(server, nice=0.1, max_keys_per_second=10_000, pause_file=str(tmp_path / "no"))
    assert report.status == "complete"
    assert sweep(server).throttle == []


# -- what servers say ------------------------------------------------------------------------


@both
def test_used_memory(server: ServerProcess, client: redis.Redis, workers: int) -> None:
    write_many(client, COORDINATORS)
    used: Any = client.info("memory")["used_memory"]
    client.setrange("filler", 20_000_000, "x")

    def end() -> None:
        client.delete("filler")

    trouble = Trouble(client.dbsize, end)
    report = sweep(server, workers=workers, max_used_memory=used + 10_000_000, observer=trouble)
    assert_gave_way(report, trouble, "max_used_memory")


def test_blocked_clients(server: ServerProcess, client: redis.Redis) -> None:
    write_many(client, COORDINATORS)
    with blocked(server.client()):
        trouble = Trouble(client.dbsize, lambda: client.lpush("bell", "x"))
        report = sweep(server, max_blocked_clients=0, observer=trouble)
    assert_gave_way(report, trouble, "max_blocked_clients")


@contextlib.contextmanager
def blocked(other: redis.Redis) -> Iterator[None]:
    """A client that waits for a `bell`."""

    def wait() -> None:
        with other:
            other.blpop(["bell"], timeout=30)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        wait_until(lambda: other.info("clients")["blocked_clients"] == 1)
        yield
    finally:
        other.lpush("bell", "x")
        thread.join()


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_replica_lag(server: ServerProcess, client: redis.Redis) -> None:
    client.config_set("repl-diskless-sync-delay", 0)
    replication = lambda: client.info("replication")  # noqa: E731
    write_many(client, COORDINATORS)
    with running(server.name) as replica:
        replica.client().replicaof("127.0.0.1", server.port)
        wait_until(lambda: replication().get("slave0", {}).get("state") == "online")

        def go_on() -> None:
            os.kill(replica.pid, signal.SIGCONT)

        os.kill(replica.pid, signal.SIGSTOP)
        try:
            client.set("filler", "x" * 20_000)
            client.delete("filler")
            behind = GiveUp()
            report = sweep(server, max_replica_lag_bytes=10_000, observer=behind)
            assert (report.status, report.keys.deleted, client.dbsize()) == ("partial", 0, KEYS)
            assert "bytes behind (limit 10,000)" in behind.reason

            wait_until(lambda: replication()["slave0"]["lag"] > 1)
            trouble = Trouble(client.dbsize, go_on)
            report = sweep(server, max_replica_lag=1, observer=trouble)
            assert_gave_way(report, trouble, "max_replica_lag")
        finally:
            go_on()


class GiveUp(Observer):
    """Ends the run when it pauses."""

    reason = ""

    def paused(self, reason: str | None) -> None:
        self.reason = self.reason or reason or ""

    def stopping(self) -> bool:
        return bool(self.reason)


# -- what others do --------------------------------------------------------------------------


@contextlib.contextmanager
def busy(work: Act) -> Iterator[Act]:
    """Somebody who works all the time, until the yielded function is called."""
    ended = threading.Event()

    def go() -> None:
        while not ended.is_set():
            work()

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield ended.set
    finally:
        ended.set()
        thread.join()


@both
def test_foreground_ops(server: ServerProcess, client: redis.Redis, workers: int) -> None:
    write_many(client, COORDINATORS)
    with server.client() as other:
        pipeline = other.pipeline(transaction=False)

        def work() -> None:
            for _ in range(20):
                pipeline.ping()
            pipeline.execute()
            time.sleep(0.005)

        with busy(work) as end:
            trouble = Trouble(client.dbsize, end)
            report = sweep(server, workers=workers, max_foreground_ops=300, observer=trouble)
    assert_gave_way(report, trouble, "max_foreground_ops")


@both
def test_our_own_commands_are_not_somebody_elses(
    server: ServerProcess, client: redis.Redis, workers: int
) -> None:
    """With orphans, each key of which is asked for by itself: thousands of commands a second."""
    write_many(client, COORDINATORS)
    report = sweep(server, workers=workers, max_foreground_ops=20, nice=1.0)
    assert report.keys.deleted == KEYS
    assert pause_of(report, "max_foreground_ops") is None
    assert pause_of(report, "listening") is not None


@both
def test_latency(sleepy: ServerProcess, workers: int) -> None:
    """Somebody's slow commands: the server is slow though we pause, so we stay paused."""
    with sleepy.client() as client, sleepy.client() as other:
        write_many(client, COORDINATORS)
        with busy(lambda: other.execute_command("DEBUG", "SLEEP", "0.1")) as end:
            trouble = Trouble(client.dbsize, end)
            report = sweep(sleepy, workers=workers, max_latency_ms=50.0, observer=trouble)
    assert_gave_way(report, trouble, "max_latency_ms")


@pytest.fixture(scope="module")
def sleepy() -> Iterator[ServerProcess]:
    """A server that can be put to sleep, so that its slowness costs the machine nothing."""
    with running(enable_debug_command="yes") as server:
        yield server


@both
def test_a_server_that_does_not_answer_the_gauge(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """It holds the run up for a moment; the stages find out by themselves what is wrong."""
    monkeypatch.setattr("cleanup_job.throttle.SILENCE_PATIENCE_S", 0.2)
    write_many(client, COORDINATORS)

    def refuse(_: object) -> None:
        raise NotNowError("no", "no")

    monkeypatch.setattr(gauge, "Wire", refuse)
    report = sweep(server, workers=workers, max_used_memory=1)
    assert report.keys.deleted == KEYS
    assert [pause.code for pause in report.throttle] == ["no_answer"]
