"""One run at a time: who holds the lease, who waits, and what happens when it is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from cleanup_job import lease as leases
from cleanup_job.config import Config, Redis
from cleanup_job.errors import LockedError
from cleanup_job.job import Observer, run
from cleanup_job.lease import Holder, Lease, lease_key
from cleanup_job.model import Target
from cleanup_job.topology import discover
from cleanup_job.undo import restore
from tests.keys import STALE_MS, keys_of, sweep, write_coordinator
from tests.server.proxy import proxy
from tests.server.test_revival import write_many
from tests.server.test_stopping import slow
from tests.servers import ServerProcess

pytestmark = pytest.mark.default_server

SCHEMA = Config().schema()

KEY = lease_key(SCHEMA)


def lease_at(server: ServerProcess, run_id: str = "one") -> Lease:
    return Lease(discover(Config(redis=Redis(server.url)).access()).routes, SCHEMA, run_id)


def another(client: redis.Redis, *, pid: int = 1, machine: str = "another") -> None:
    """Somebody else's run holds the lease."""
    holder = Holder("token", "beefbeef", "db-admin", pid, machine, "2026-01-02T03:04:05Z")
    client.set(KEY, json.dumps({name: getattr(holder, name) for name in holder.__struct_fields__}))


class At(Observer):
    """Does something once, when so many keys of a phase are done."""

    def __init__(self, phase: str, does: Any) -> None:
        self.phase, self.does = phase, does
        self.now = ""
        self.done = False

    def began(self, phase: str, keys: int) -> None:
        self.now = phase

    def advanced(self, keys: int) -> None:
        if self.now == self.phase and keys and not self.done:
            self.done = True
            self.does()


# -- the lease itself --------------------------------------------------------------------------


def test_taken_kept_released(server: ServerProcess, client: redis.Redis) -> None:
    lease = lease_at(server)
    lease.take()
    assert 59_000 < client.pttl(KEY) <= 60_000
    holder = json.loads(client.get(KEY))
    assert holder["run_id"] == "one"
    assert holder["pid"] == os.getpid()
    with pytest.raises(LockedError, match=rf"run one on .+, pid {os.getpid()}, since 20"):
        lease_at(server).take()
    lease.release()
    assert not client.exists(KEY)
    other = lease_at(server, "two")
    other.take()
    lease.release()
    assert json.loads(client.get(KEY))["run_id"] == "two"


def test_renewed_when_it_is_time(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = lease_at(server)
    lease.take()
    client.pexpire(KEY, 5_000)
    assert lease.keep(deleting=True) is None
    assert client.pttl(KEY) <= 5_000
    real = time.monotonic
    monkeypatch.setattr(leases.time, "monotonic", lambda: real() + leases.RENEW_S)
    assert lease.keep(deleting=True) is None
    assert client.pttl(KEY) > 59_000
    assert lease.holds_until_s > real() + leases.LEASE_S


def test_of_a_process_of_this_machine_that_is_gone(
    server: ServerProcess, client: redis.Redis
) -> None:
    child = multiprocessing.get_context("fork").Process(target=int)
    child.start()
    child.join()
    another(client, pid=child.pid or 0, machine=leases._machine())
    lease_at(server).take()
    assert json.loads(client.get(KEY))["run_id"] == "one"


@pytest.mark.parametrize("machine", ["", "another", None])
def test_of_a_process_that_may_be_alive(
    server: ServerProcess, client: redis.Redis, machine: str | None
) -> None:
    """Somewhere else, nobody knows where, and here."""
    pid = os.getppid() if machine is None else 0x7FFF_FFFF
    another(client, pid=pid, machine=leases._machine() if machine is None else machine)
    with pytest.raises(LockedError, match="run beefbeef on db-admin"):
        lease_at(server).take()


def test_what_is_no_lease_is_not_touched(server: ServerProcess, client: redis.Redis) -> None:
    client.set(KEY, "what?\n")
    with pytest.raises(LockedError, match=r"another run is at these keys: what\?\\n; wait"):
        lease_at(server).take()
    assert client.get(KEY) == b"what?\n"


def test_it_is_one_of_the_patterns() -> None:
    other = Config(stale_after=5).schema()
    assert lease_key(other) == KEY
    keys = Config().keys
    more = type(keys)(owned={**keys.owned, "more": "more:{id}"})
    assert lease_key(Config(keys=more).schema()) != KEY
    renamed = type(keys)(owned={f"the-{name}": text for name, text in keys.owned.items()})
    assert lease_key(Config(keys=renamed).schema()) == KEY


# -- runs --------------------------------------------------------------------------------------


def run_command(server: ServerProcess, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "cleanup_job", "run", "--url", server.url, *words],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stderr


def test_the_second_run_says_who_is_at_it(server: ServerProcess, client: redis.Redis) -> None:
    write_coordinator(client, "dead", STALE_MS)
    another(client)
    code, err = run_command(server)
    assert code == 75
    assert err == (
        "cleanup-job: another run is at these keys: run beefbeef on db-admin, pid 1, since "
        "2026-01-02T03:04:05Z; wait for its end (if it was killed, for 60 s), or give --no-lock\n"
    )
    assert len(keys_of(client)) == 7
    assert run_command(server, "--dry-run") == (0, "")
    assert run_command(server, "--no-lock") == (0, "")
    assert keys_of(client) == {KEY}


def test_a_run_leaves_nothing_of_it(server: ServerProcess, client: redis.Redis) -> None:
    write_coordinator(client, "dead", STALE_MS)
    held = []
    report = sweep(server, observer=At("survey", lambda: held.append(client.get(KEY))))
    assert json.loads(held[0])["run_id"] == report.run_id
    assert report.keys.scanned == 6
    assert keys_of(client) == set()


@pytest.mark.parametrize("workers", [1, 2])
def test_lost_in_the_purge_it_ends_the_run(
    server: ServerProcess, client: redis.Redis, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.0)
    write_many(client, 20_000)
    thief = At("purge", lambda: another(client))
    report = sweep(server, workers=workers, observer=thief)
    assert report.status == "partial"
    codes = {error.code: error.message for error in report.errors}
    assert set(codes) == {"lease_lost", "not_attempted"}
    assert "the lease was lost: another run took it: run beefbeef on db" in codes["lease_lost"]
    assert 0 < report.keys.deleted == report.keys.planned - (client.dbsize() - 1)
    assert client.exists(KEY), "it is not ours to release"
    client.delete(KEY)
    assert sweep(server).status == "complete"
    assert client.dbsize() == 0


def test_gone_in_the_purge_it_ends_the_run_too(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.0)
    write_many(client, 5_000)
    report = sweep(server, observer=At("purge", lambda: client.delete(KEY)))
    assert report.status == "partial"
    assert "the lease was lost: it is gone from the server" in [e.message for e in report.errors]


def test_gone_before_anything_is_deleted_it_is_taken_again(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server forgets it that is restarted."""
    monkeypatch.setattr(leases, "RENEW_S", 0.0)
    write_many(client, 1_000)
    report = sweep(server, observer=At("survey", lambda: client.delete(KEY)))
    assert report.status == "complete"
    assert keys_of(client) == set()


def test_a_run_that_fails_gives_it_back(server: ServerProcess, client: redis.Redis) -> None:
    class Fails(Observer):
        def found(self, target: Target) -> None:
            self.target = target

        def began(self, phase: str, keys: int) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sweep(server, observer=Fails())
    assert not client.exists(KEY)


def test_workers_stop_in_time_even_if_the_job_is_held_up(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells them: the job stands still until long after the lease has ended."""
    monkeypatch.setattr(leases, "LEASE_S", 1.0)
    monkeypatch.setattr(leases, "_LEASE_MS", "1000")
    monkeypatch.setattr(leases, "RENEW_S", 0.2)
    write_many(client, 20_000)
    seen = []

    def stand_still() -> None:
        while client.exists(KEY):
            time.sleep(0.01)
        time.sleep(0.5)  # for what was in flight
        seen.append(client.dbsize())
        time.sleep(0.5)
        seen.append(client.dbsize())

    with proxy(server.port, slow) as port:
        config = Config(redis=Redis(f"redis://127.0.0.1:{port}"), workers=2, expect_all_dead=True)
        report = run(config, observer=At("purge", stand_still))
    assert report.status == "partial"
    assert 0 < seen[1] == seen[0]
    assert "lease_lost" in [error.code for error in report.errors]


def test_a_restore_waits_for_a_run(
    server: ServerProcess, client: redis.Redis, tmp_path: Path
) -> None:
    write_coordinator(client, "dead", STALE_MS)
    journal = str(tmp_path / "journal")
    assert run_command(server, "--journal", journal)[0] == 0
    another(client)
    config = Config(redis=Redis(server.url))
    with pytest.raises(LockedError, match="run beefbeef on db-admin"):
        restore(config, journal)
    assert keys_of(client) == {KEY}
    client.delete(KEY)
    assert restore(config, journal).keys.restored == 6
    assert not client.exists(KEY)


def test_a_full_server_takes_none_and_is_swept(server: ServerProcess, client: redis.Redis) -> None:
    for number in range(200):
        write_coordinator(client, f"dead-{number}", STALE_MS)
    client.config_set("maxmemory", 1_000_000)
    try:
        report = sweep(server)
    finally:
        client.config_set("maxmemory", 0)
    assert report.status == "complete"
    assert "no_lease" in [warning.code for warning in report.warnings]


def test_two_runs_without_it_harm_nothing(server: ServerProcess, client: redis.Redis) -> None:
    write_coordinator(client, "live", 1_000)
    write_many(client, 5_000)
    second = At("purge", lambda: reports.append(sweep(server, lock=False)))
    reports = []
    reports.append(sweep(server, lock=False, observer=second))
    assert [report.status for report in reports] == ["complete", "complete"]
    first, other = reports[1], reports[0]
    assert first.keys.deleted + other.keys.deleted == 30_000
    assert first.keys.gone == other.keys.deleted
    assert len(keys_of(client)) == 6
