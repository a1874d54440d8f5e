"""Fixtures: real servers, one process of each kind per session, empty for each test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings

from tests.servers import BINARIES, DEFAULT, ServerCluster, ServerProcess, in_ci

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what is to run in the background. The commands that tests start would
    # inherit that, and not hear a Ctrl-C until they listen to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server",
        action="append",
        choices=[*BINARIES],
        help="run the server tests on this server only (may be repeated; default: all)",
    )
    parser.addoption(
        "--all-faults", action="store_true", help="tests/faults: every fault everywhere, not a few"
    )
    parser.addoption(
        "--seeds", type=int, default=1, help="tests/faults: how often, each time with another seed"
    )
    parser.addoption(
        "--fault-log", type=Path, help="tests/faults: append how each one went, as JSON lines"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What imports Dask comes last: it leaves threads, and then workers are not forked any more.

    Those that are started anew do not know what a test has changed in this process.
    """
    items.sort(key=lambda item: "dask" in item.nodeid or "bench_far" in item.nodeid)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = metafunc.config.getoption("--server") or [*BINARIES]
    if metafunc.definition.get_closest_marker("default_server") is not None:
        names = names[:1] if DEFAULT not in names else [DEFAULT]
    for fixture in ("server", "cluster"):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def _servers() -> Iterator[dict[str, ServerProcess]]:
    servers: dict[str, ServerProcess] = {}
    yield servers
    for server in servers.values():
        server.remove()


def require(name: str) -> None:
    """Skip where a kind of server is missing, but not in CI."""
    if BINARIES[name]() is None:
        if in_ci():
            pytest.fail(f"{name} is not installed, and CI must test on it")
        pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, _servers: dict[str, ServerProcess]) -> ServerProcess:
    """A running server; the test is repeated for each kind, unless marked `default_server`."""
    name = request.param
    if name not in _servers:
        require(name)
        _servers[name] = ServerProcess(name)
    return _servers[name]


@pytest.fixture(scope="session")
def _clusters() -> Iterator[dict[str, ServerCluster]]:
    clusters: dict[str, ServerCluster] = {}
    yield clusters
    for cluster in clusters.values():
        cluster.remove()


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, _clusters: dict[str, ServerCluster]) -> ServerCluster:
    """Three primaries; the test is repeated for each kind, unless marked `default_server`."""
    name = request.param
    if name not in _clusters:
        require(name)
        _clusters[name] = ServerCluster(name)
    return _clusters[name]


@pytest.fixture
def cluster_client(cluster: ServerCluster) -> Iterator[redis.RedisCluster]:
    """A client on an empty cluster."""
    with cluster.client() as client:
        for node in cluster.primaries:
            with node.client() as one:
                one.flushall()
                one.config_resetstat()
                one.script_flush()
        yield client


@pytest.fixture
def client(server: ServerProcess) -> Iterator[redis.Redis]:
    """A client on an empty server."""
    with server.client() as client:
        client.flushall()
        client.config_resetstat()
        client.script_flush()
        yield client


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the environment of whoever runs it."""
    for name in [*os.environ]:
        if name.startswith(("REDIS_", "CLEANUP_JOB_", "PYTHON")):
            monkeypatch.delenv(name)
