"""Fixtures: real servers, one process of each kind per session, empty for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, settings

from tests.servers import BINARIES, DEFAULT, ServerProcess, in_ci

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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        names = metafunc.config.getoption("--server") or [*BINARIES]
        if metafunc.definition.get_closest_marker("default_server") is not None:
            names = names[:1] if DEFAULT not in names else [DEFAULT]
        metafunc.parametrize("server", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def _servers() -> Iterator[dict[str, ServerProcess]]:
    servers: dict[str, ServerProcess] = {}
    yield servers
    for server in servers.values():
        server.remove()


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, _servers: dict[str, ServerProcess]) -> ServerProcess:
    """A running server; the test is repeated for each kind, unless marked `default_server`."""
    name = request.param
    if name not in _servers:
        if BINARIES[name]() is None:
            if in_ci():
                pytest.fail(f"{name} is not installed, and CI must test on it")
            pytest.skip(f"{name} is not installed")
        _servers[name] = ServerProcess(name)
    return _servers[name]


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
        if name.startswith(("REDIS_", "CLEANUP_JOB_")):
            monkeypatch.delenv(name)
