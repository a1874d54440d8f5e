"""Signals, and workers whose job is gone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import redis

from cleanup_job import wire
from cleanup_job.job import Observer
from tests.keys import assert_adds_up, now_ms, sweep
from tests.server.proxy import proxy
from tests.server.test_revival import write_many
from tests.servers import ServerProcess

COORDINATORS = 20_000
KEYS = COORDINATORS * 6


class StopAt(Observer):
    """Asks to stop when so many keys of a phase are done."""

    def __init__(self, phase: str, keys: int) -> None:
        self.phase, self.keys = phase, keys
        self.now = ""
        self.done = 0

    def began(self, phase: str, keys: int) -> None:
        self.now, self.done = phase, 0

    def advanced(self, keys: int) -> None:
        self.done += keys

    def stopping(self) -> bool:
        return self.now == self.phase and self.done >= self.keys


@pytest.mark.default_server
@pytest.mark.parametrize("workers", [1, 2])
def test_stop_in_the_survey_deletes_nothing(
    server: ServerProcess, client: redis.Redis, workers: int
) -> None:
    write_many(client, COORDINATORS)
    report = sweep(server, workers=workers, observer=StopAt("survey", 1))
    assert report.status == "partial"
    assert client.dbsize() == KEYS
    assert [warning.code for warning in report.warnings] == ["stopped"]


@pytest.mark.default_server
@pytest.mark.parametrize("workers", [1, 2])
def test_stop_in_the_purge_finishes_what_is_in_flight_and_counts_the_rest(
    server: ServerProcess, client: redis.Redis, workers: int
) -> None:
    write_many(client, COORDINATORS)
    report = sweep(server, workers=workers, observer=StopAt("purge", 5_000))
    assert report.status == "partial"
    assert 0 < report.keys.deleted < KEYS
    assert report.keys.deleted == KEYS - client.dbsize()
    assert report.keys.failed == client.dbsize()
    assert [error.code for error in report.errors] == ["not_attempted"]
    assert_adds_up(report)
    assert sweep(server).status == "complete"
    assert client.dbsize() == 0


def slow(data: bytes) -> str:
    """Makes a purge last long enough to be interrupted; the work itself is not changed."""
    if b"EVALSHA" in data:
        time.sleep(0.05)
    return "pass"


def start(port: int, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            *f"-m cleanup_job run --yes --json - --url redis://127.0.0.1:{port}".split(),
            *words,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def await_first_delete(client: redis.Redis) -> None:
    await_delete(client, KEYS)


def await_delete(client: redis.Redis, keys: int) -> None:
    deadline = time.monotonic() + 30
    while client.dbsize() >= keys:  # the lease is one more
        assert time.monotonic() < deadline, "nothing was deleted within 30 s"
        time.sleep(0.005)


@pytest.mark.default_server
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_with_a_true_report(
    server: ServerProcess, client: redis.Redis, workers: str, number: int, code: int
) -> None:
    write_many(client, COORDINATORS)
    with proxy(server.port, slow) as port:
        process = start(port, "--workers", workers)
        await_first_delete(client)
        # To the whole group, as a terminal and a service manager do.
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    report = json.loads(out)
    assert report["status"] == "partial"
    assert report["keys"]["deleted"] == KEYS - client.dbsize()
    assert b"Traceback" not in err
    assert b"stopping" in err


@pytest.mark.default_server
def test_workers_stop_when_their_job_is_killed(server: ServerProcess, client: redis.Redis) -> None:
    write_many(client, COORDINATORS)
    with proxy(server.port, slow) as port:
        process = start(port, "--workers", "2")
        await_first_delete(client)
        process.kill()
        process.communicate(timeout=30)
        time.sleep(0.5)
        left = client.dbsize()
        time.sleep(1)
        assert client.dbsize() == left
    assert 0 < left < KEYS
    assert no_process_of_group(process.pid)
    # What it left behind is found, and finished.
    assert sweep(server).status == "complete"
    assert client.dbsize() == 0


@pytest.mark.default_server
@pytest.mark.parametrize("victims", [1, 3])
@pytest.mark.parametrize("phase", ["survey", "purge"])
def test_a_killed_worker_loses_nothing(
    server: ServerProcess, client: redis.Redis, phase: str, victims: int
) -> None:
    """In the survey its walk is made again; in the purge what is left of its keys is deleted."""
    write_many(client, COORDINATORS)

    class Kill(StopAt):
        def advanced(self, keys: int) -> None:
            super().advanced(keys)
            if self.now == phase and keys and not killed:
                for worker in multiprocessing.active_children()[:victims]:
                    killed.append(worker.pid)
                    worker.kill()

        def stopping(self) -> bool:
            return False

    killed: list[int | None] = []
    report = sweep(server, workers=3, observer=Kill(phase, 0))
    assert killed
    assert_adds_up(report)
    assert report.keys.deleted + report.keys.unknown + report.keys.gone == KEYS - client.dbsize()
    assert report.keys.failed == client.dbsize() == 0
    if phase == "survey":
        assert report.status == "complete"
    assert not multiprocessing.active_children()
    assert sweep(server).status == "complete"
    assert client.dbsize() == 0
    assert now_ms(client)


def no_process_of_group(group: int) -> bool:
    """Multiprocessing's own tracker ends a moment after the process that it serves."""
    deadline = time.monotonic() + 5
    while processes_of(group) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not processes_of(group)


def processes_of(group: int) -> list[list[str]]:
    found = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True)
    rows = [row.split() for row in found.stdout.splitlines()]
    return [row for row in rows if int(row[0]) == group and not row[1].startswith("Z")]


@pytest.mark.default_server
def test_a_job_of_which_one_worker_was_killed_ends(
    server: ServerProcess, client: redis.Redis
) -> None:
    """Its executor would wait for ever for workers that ignore SIGTERM.

    Not through the slow proxy: it would hold calls of the dead and deliver them when all is
    counted, which no count can foresee.
    """
    write_many(client, 4 * COORDINATORS)
    process = start(server.port, "--workers", "4")
    await_delete(client, 4 * KEYS)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    report = json.loads(out)
    keys = report["keys"]
    # Nobody can tell who deleted what the dead had begun, unless that was nothing.
    expected = (3, "partial") if keys["unknown"] else (0, "complete")
    assert (process.returncode, report["status"]) == expected, err
    # What nobody had begun is done by the next pool, and what was left of the rest.
    assert keys["deleted"] + keys["gone"] + keys["unknown"] == 4 * KEYS
    assert client.dbsize() == 0
    assert no_process_of_group(process.pid)


def workers_of(pid: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    return [int(word) for word in found.stdout.split()]


@pytest.mark.default_server
def test_a_second_signal_ends_at_once_with_its_own_code(
    server: ServerProcess, client: redis.Redis
) -> None:
    write_many(client, COORDINATORS)
    with proxy(server.port, slow) as port:
        process = start(port)
        await_first_delete(client)
        client.client_pause(3_000)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=2)
    assert (process.returncode, out) == (143, b""), err


@pytest.mark.default_server
def test_a_signal_is_heard_when_nobody_reads_the_messages(
    server: ServerProcess, client: redis.Redis
) -> None:
    """`run 2>&1 | tee log`, and Ctrl-C: tee is gone before we say a word."""
    write_many(client, COORDINATORS)
    with proxy(server.port, slow) as port:
        process = start(port)
        await_first_delete(client)
        assert process.stderr is not None
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
        process.stdout.close()
        process.wait(timeout=30)
    assert process.returncode == 130
    assert [error["code"] for error in report["errors"]] == ["not_attempted"]
    assert report["keys"]["unknown"] == 0


@pytest.mark.default_server
def test_a_stop_while_orphans_are_looked_at_plans_none_of_them(
    server: ServerProcess, client: redis.Redis
) -> None:
    client.mset({f"blocking:signal:{number}": "some value" for number in range(3_000)})

    class Stop(Observer):
        now = ""

        def began(self, phase: str, keys: int) -> None:
            self.now = phase

        def stopping(self) -> bool:
            return self.now == "judge"

    report = sweep(server, dry_run=True, orphans="purge", observer=Stop())
    assert (report.status, report.keys.planned) == ("partial", 0)


@pytest.mark.default_server
def test_numbers_are_packed_as_text(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hiredis crashed the process if a second signal came while it asked for a number's text."""
    packed: set[type] = set()
    pack = wire.pack_command

    def watch(words: tuple[object, ...]) -> bytes:
        packed.update(map(type, words))
        return pack(words)

    monkeypatch.setattr(wire, "pack_command", watch)
    write_many(client, 100)
    packed.clear()
    sweep(server, engine="serial", orphans="purge")
    assert packed == {bytes, str}
