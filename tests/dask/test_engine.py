"""Runs on workers of Dask: the same as others, stopped and held up like others, and careful."""

from __future__ import annotations

import json
import os
import random
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

from cleanup_job import lease as leases
from cleanup_job.errors import EngineError, EngineUnavailableError
from cleanup_job.lease import lease_key
from cleanup_job.report import Report
from tests.certificates import Authority
from tests.dask.faults import RATE, SMALL
from tests.dask.fleet import ROOT, Fleet, Nursery
from tests.dask.scene import (
    Population,
    Strike,
    config_of,
    count_at,
    keys_at,
    populate,
    sweep,
    wrongs,
)
from tests.keys import assert_adds_up
from tests.mixed import comparable, write_mixed
from tests.server.proxy import proxy
from tests.servers import ServerCluster, ServerProcess, running

pytestmark = pytest.mark.default_server

PASSWORD = "a-secret-that-is-in-no-message"


# -- the same as others --------------------------------------------------------------------------


def results(
    server: Any, write: Callable[[], None], address: str, **settings: Any
) -> list[tuple[Any, set[bytes]]]:
    found = []
    for where in (None, address):
        write()
        report = sweep(server, where, expect_all_dead=True, max_clock_skew=10_000, **settings)
        assert_adds_up(report)
        found.append((comparable(report), keys_at(server)))
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_report_and_the_same_keys_are_left(
    fleet: Fleet, server: ServerProcess, client: redis.Redis, seed: int
) -> None:
    def write() -> None:
        client.flushall()
        write_mixed(client, 400, seed)

    serial, dask = results(server, write, fleet.address)
    assert dask == serial


def test_orphans_too(fleet: Fleet, server: ServerProcess, client: redis.Redis) -> None:
    """Some of them have keys that were touched lately, in this range or in that."""

    def write() -> None:
        client.flushall()
        write_mixed(client, 300, seed=7)
        before, _ = client.time()
        while client.time()[0] < before + 3:
            time.sleep(0.1)
        keys = sorted(keys_at(server))
        client.touch(*random.Random(3).sample(keys, len(keys) // 8))

    serial, dask = results(server, write, fleet.address, orphans="purge", orphan_grace=2)
    assert dask == serial


def test_on_a_cluster(
    fleet: Fleet, cluster: ServerCluster, cluster_client: redis.RedisCluster
) -> None:
    def write() -> None:
        cluster_client.flushall()
        write_mixed(cluster_client, 80, seed=11)

    serial, dask = results(cluster, write, fleet.address)
    assert dask == serial


# -- ends, pauses, the lease -----------------------------------------------------------------------


@pytest.fixture
def population(server: ServerProcess, client: redis.Redis) -> Population:
    return populate(server, 2_000, seed=5)


def after_an_end(
    server: ServerProcess, population: Population, before: int, report: Report
) -> None:
    assert report.status == "partial"
    assert report.keys.failed
    assert not report.keys.unknown
    assert report.keys.deleted == before - len(keys_at(server))
    assert not [*wrongs(server, population, before, report)]


@pytest.mark.parametrize("how", ["stop_file", "time_budget", "lease gone", "lease taken"])
def test_ends_on_all_workers(
    fleet: Fleet,
    server: ServerProcess,
    client: redis.Redis,
    population: Population,
    how: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = count_at(server)
    settings: dict[str, Any] = {}
    ends: Callable[[], object] = lambda: None  # noqa: E731
    if how == "stop_file":
        settings["stop_file"] = str(tmp_path / "stop")
        ends = (tmp_path / "stop").touch
    elif how == "time_budget":
        settings["time_budget"] = 2
    else:
        monkeypatch.setattr(leases, "RENEW_S", 0.2)
        key = lease_key(config_of(server).schema())
        ends = (lambda: client.delete(key)) if "gone" in how else lambda: client.set(key, "other")
    strike = Strike("purge", ends, keys=2_000)
    report = sweep(server, fleet.address, strike, max_keys_per_second=RATE // 3, **settings)
    if how == "lease taken":
        client.delete(key)
    assert report.stopped_by == how.replace("lease gone", "lease_lost").replace(
        "lease taken", "lease_lost"
    )
    after_an_end(server, population, before, report)


def test_a_pause_holds_all_workers(
    fleet: Fleet, server: ServerProcess, population: Population, tmp_path: Path
) -> None:
    before = count_at(server)
    file = tmp_path / "pause"
    counts: list[int] = []

    def pause() -> None:
        file.touch()
        time.sleep(1.0)
        counts.append(count_at(server))
        time.sleep(0.7)
        counts.append(count_at(server))
        file.unlink()

    strike = Strike("purge", pause, keys=2_000)
    report = sweep(server, fleet.address, strike, pause_file=str(file), max_keys_per_second=RATE)
    strike.join()
    assert counts[0] == counts[1] > len(population.stays) + 1
    assert report.status == "complete"
    assert report.throttle is not None
    assert not [*wrongs(server, population, before, report)]


# -- the command -----------------------------------------------------------------------------------

COMMAND = """
import importlib, json, sys
for name, value in json.loads(sys.argv.pop(1)).items():
    module, _, constant = name.rpartition(".")
    setattr(importlib.import_module(module), constant, value)
from cleanup_job.cli import main
main()
"""


def start(
    url: str, *words: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    constants = json.dumps({"cleanup_job.dask_pool.SILENCE_S": 1.0})
    return subprocess.Popen(
        [
            *[sys.executable, "-c", COMMAND, constants, "run", "--yes", "--json", "-"],
            *["--engine", "dask", "--url", url, *words],
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def await_fall(server: ServerProcess, below: int) -> None:
    deadline = time.monotonic() + 60
    while count_at(server) >= below:
        assert time.monotonic() < deadline, "nothing was deleted"
        time.sleep(0.01)


def others(client: redis.Redis) -> int:
    """Connections of others than the test."""
    return sum(one["id"] != str(client.client_id()) for one in client.client_list())


def await_silence(client: redis.Redis) -> None:
    deadline = time.monotonic() + 20
    while others(client):
        assert time.monotonic() < deadline, client.client_list()
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_job_is_stopped_or_killed(
    fleet: Fleet, server: ServerProcess, client: redis.Redis, population: Population, number: int
) -> None:
    """Workers end behind the batch at hand, or when they have heard nothing for a while."""
    before = count_at(server)
    client.connection_pool.disconnect()
    job = start(server.url, "--scheduler", fleet.address, "--max-keys-per-second", str(RATE // 3))
    await_fall(server, before - 2_000)
    os.kill(job.pid, number)
    out, err = job.communicate(timeout=60)
    await_silence(client)
    left = keys_at(server)
    assert left & population.dead
    time.sleep(0.5)
    assert keys_at(server) == left >= population.stays
    if number == signal.SIGTERM:
        assert job.returncode == 143, err
        report = json.loads(out)
        assert report["status"] == "partial"
        assert report["keys"]["deleted"] == before - len(left)
        assert report["keys"]["unknown"] == 0
        assert err.decode().count("\n") <= 3, err
    client.delete(lease_key(config_of(server).schema()))
    assert sweep(server, None).status == "complete"
    assert keys_at(server) == population.stays


def test_without_a_scheduler_workers_are_started_here(
    server: ServerProcess, client: redis.Redis, population: Population
) -> None:
    job = start(server.url, "--workers", "2")
    out, err = job.communicate(timeout=100)
    assert job.returncode == 0, err
    assert err == b""
    assert json.loads(out)["status"] == "complete"
    assert keys_at(server) == population.stays
    deadline = time.monotonic() + 10
    while is_there(job.pid):
        assert time.monotonic() < deadline, "some process of its own stays"
        time.sleep(0.05)


def test_a_signal_to_all_processes_is_left_to_the_job(
    server: ServerProcess, client: redis.Redis, population: Population
) -> None:
    """As a terminal sends it, and a service manager."""
    before = count_at(server)
    job = start(server.url, "--workers", "2", "--max-keys-per-second", str(RATE // 3))
    await_fall(server, before - 1_000)
    os.killpg(job.pid, signal.SIGINT)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 130, err
    assert err.decode().count("\n") <= 3, err
    report = json.loads(out)
    assert report["status"] == "partial"
    assert report["keys"]["deleted"] == before - len(keys_at(server))
    assert report["keys"]["unknown"] == 0


def is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# -- versions, and who is there --------------------------------------------------------------------


def failing(server: ServerProcess, address: str) -> EngineError | EngineUnavailableError:
    before = keys_at(server)
    with pytest.raises((EngineError, EngineUnavailableError)) as caught:
        sweep(server, address)
    assert keys_at(server) == before
    return caught.value


@pytest.mark.parametrize("told", ["0.0.1", None])
def test_a_worker_with_another_version_or_none(
    fleet: Fleet, server: ServerProcess, population: Population, told: str | None, tmp_path: Path
) -> None:
    package = tmp_path / "cleanup_job"
    package.mkdir()
    text = f"__version__ = {told!r}" if told else "raise ImportError('not installed')"
    (package / "__init__.py").write_text(text)
    stranger = fleet.add_worker({"TEST_CONSTANTS": "{}"}, [str(tmp_path)])
    try:
        fleet.await_workers()
        error = failing(server, fleet.address)
    finally:
        stranger.end(signal.SIGKILL)
    assert (error.exit_code, error.code) == (2, "versions_differ")
    assert f"has cleanup_job {told}, not" in str(error)


def test_a_worker_that_comes_late_is_looked_at_too(
    fleet: Fleet, server: ServerProcess, population: Population, tmp_path: Path
) -> None:
    package = tmp_path / "cleanup_job"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '0.0.1'")
    before = count_at(server)
    came = []

    def come() -> None:
        came.append(fleet.add_worker({"TEST_CONSTANTS": "{}"}, [str(tmp_path)]))
        came.append(fleet.add_worker())

    strike = Strike("purge", come, keys=1)
    report = sweep(server, fleet.address, strike, max_keys_per_second=RATE)
    strike.join()
    for one in came:
        one.end(signal.SIGKILL)
    assert report.status == "complete"
    assert not [*wrongs(server, population, before, report)]


def test_nobody_is_there(
    nursery: Nursery, server: ServerProcess, population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cleanup_job import dask_cluster

    monkeypatch.setattr(dask_cluster, "CONNECT_S", 1.0)
    empty = Fleet(nursery, 0)
    error = failing(server, empty.address)
    assert (error.exit_code, error.code) == (75, "engine_unavailable")
    assert "has no workers" in str(error)
    empty.close()
    error = failing(server, empty.address)
    assert (error.exit_code, error.code) == (75, "engine_unavailable")
    assert "can't be reached" in str(error)


# -- secrets ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked_server() -> Iterator[ServerProcess]:
    with running(requirepass=PASSWORD) as server:
        yield server


def write_locked(server: ServerProcess) -> None:
    with server.client() as client:
        client.flushall()
        write_mixed(client, 50, seed=1)


def sweep_locked(server: ServerProcess, address: str, **dask: str) -> Report:
    from cleanup_job.config import Redis
    from cleanup_job.job import run

    config = config_of(server, engine="dask", dask={"scheduler": address, **dask})
    config = type(config)(
        redis=Redis(f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"),
        engine="dask",
        dask=config.dask,
        expect_all_dead=True,
        max_clock_skew=10_000,
    )
    return run(config)


def test_workers_have_the_password_themselves(
    nursery: Nursery, locked_server: ServerProcess
) -> None:
    write_locked(locked_server)
    fleet = Fleet(nursery, 1, environment={"REDIS_PASSWORD": PASSWORD}, constants=SMALL)
    sent: list[bytes] = []

    def see(data: bytes) -> str:
        sent.append(data)
        return "pass"

    with proxy(int(fleet.address.rpartition(":")[2]), see) as port:
        report = sweep_locked(locked_server, f"tcp://127.0.0.1:{port}")
    assert report.status == "complete"
    everything = b"".join(sent)
    assert b"blocking:heartbeat:" in everything
    assert PASSWORD.encode() not in everything
    fleet.close()


def test_workers_without_a_password_get_none(fleet: Fleet, locked_server: ServerProcess) -> None:
    write_locked(locked_server)
    with pytest.raises(EngineError, match=r"workers have no password .*tcp://127") as caught:
        sweep_locked(locked_server, fleet.address)
    assert (caught.value.exit_code, caught.value.code) == (2, "no_secret")


def test_over_tls_it_is_sent(
    nursery: Nursery, locked_server: ServerProcess, tmp_path: Path
) -> None:
    write_locked(locked_server)
    authority = Authority(tmp_path)
    pair = authority.issue()
    words = f"--tls-ca-file {authority.file} --tls-cert {pair.cert} --tls-key {pair.key}".split()
    fleet = Fleet(nursery, 1, options=words, protocol="tls", constants=SMALL)
    report = sweep_locked(
        locked_server,
        fleet.address,
        ca_file=str(authority.file),
        cert_file=str(pair.cert),
        key_file=str(pair.key),
    )
    assert report.status == "complete"
    fleet.close()


# -- nothing stays ---------------------------------------------------------------------------------


def test_no_thread_and_no_connection_stays(
    fleet: Fleet, server: ServerProcess, client: redis.Redis, population: Population
) -> None:
    sweep(server, fleet.address)  # what is made once
    before = {*threading.enumerate()}
    sweep(server, fleet.address)
    deadline = time.monotonic() + 10
    while (more := {*threading.enumerate()} - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not more
    await_silence(client)
