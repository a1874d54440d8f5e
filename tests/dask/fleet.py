"""A scheduler and workers on loopback, each a process of its own, ended by its pid."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.dask.nursery import CONSTANTS

ROOT = Path(__file__).parents[2]

START_S = 60.0
"""How long a process may take to start on a busy machine."""


class Nursery:
    """See the module `nursery`: who forks what is needed."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cleanup-job-dask-"))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        plain = {n: v for n, v in os.environ.items() if not n.startswith(("REDIS_", "CLEANUP_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.dask.nursery", str(theirs.fileno())],
            cwd=ROOT,
            env=plain | {"PYTHONPATH": str(ROOT)},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._channel = ours
        self._numbers = 0
        self.children: list[Child] = []

    def start(
        self,
        command: str,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        path: Sequence[str] = (),
    ) -> Child:
        self._numbers += 1
        log = self.folder / f"{command}-{self._numbers}.log"
        request = {
            "command": command,
            "arguments": [*arguments],
            "environment": dict(environment or {}),
            "path": [*path],
            "log": str(log),
        }
        self._channel.send(json.dumps(request).encode())
        child = Child(int(self._channel.recv(64)), log)
        self.children.append(child)
        return child

    def close(self) -> None:
        for child in self.children:
            child.end(signal.SIGKILL)
        self._channel.close()
        self._process.wait(timeout=START_S)
        shutil.rmtree(self.folder, ignore_errors=True)


class Child:
    """A process of the nursery."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log

    @property
    def is_alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, and wait for that."""
        self.send(number)
        deadline = time.monotonic() + START_S
        while self.is_alive and time.monotonic() < deadline:
            time.sleep(0.01)


class Fleet:
    """A scheduler with workers; what was killed can be started anew.

    Args:
        nursery: who makes them.
        workers: how many.
        environment: of the workers.
        constants: of ours, by their full names, which the workers are to have.
        options: of all commands.
    """

    def __init__(
        self,
        nursery: Nursery,
        workers: int = 3,
        *,
        environment: Mapping[str, str] | None = None,
        constants: Mapping[str, Any] | None = None,
        options: Sequence[str] = (),
        protocol: str = "tcp",
        path: Sequence[str] = (),
    ) -> None:
        self.nursery = nursery
        self.count = workers
        self.environment = {**(environment or {}), CONSTANTS: json.dumps(constants or {})}
        self.options = options
        self.protocol = protocol
        self.path = path
        self.workers: list[Child] = []
        self.scheduler: Child | None = None
        self.address = ""
        self.mend()

    def mend(self) -> None:
        """Start what is not there (any more); who was stopped goes on."""
        for child in self.workers:
            child.send(signal.SIGCONT)
        if self.scheduler is None or not self.scheduler.is_alive:
            for child in self.workers:
                child.end(signal.SIGKILL)  # they would end by themselves, but not at once
            self._start_scheduler()
        self.workers = [child for child in self.workers if child.is_alive]
        while len(self.workers) < self.count:
            self.add_worker()
        self.await_workers()

    def await_workers(self) -> None:
        for child in self.workers:
            await_line(child, "Registered to")

    def add_worker(
        self,
        environment: Mapping[str, str] | None = None,
        path: Sequence[str] | None = None,
    ) -> Child:
        folder = tempfile.mkdtemp(dir=self.nursery.folder)
        words = f"--no-nanny --nthreads 1 --no-dashboard --host {self.protocol}://127.0.0.1"
        child = self.nursery.start(
            "worker",
            [self.address, *words.split(), "--local-directory", folder, *self.options],
            {**self.environment, **(environment or {})},
            self.path if path is None else path,
        )
        self.workers.append(child)
        return child

    def _start_scheduler(self) -> None:
        words = f"--host {self.protocol}://127.0.0.1 --port 0 --no-dashboard"
        self.scheduler = self.nursery.start("scheduler", [*words.split(), *self.options])
        line = await_line(self.scheduler, "Scheduler at:")
        self.address = line.split()[-1]

    def close(self) -> None:
        for child in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            child.end(signal.SIGKILL)


def await_line(child: Child, text: str) -> str:
    """The first line of its log that has this."""
    deadline = time.monotonic() + START_S
    while True:
        told = child.log.read_text() if child.log.exists() else ""
        for line in told.splitlines():
            if text in line:
                return line
        assert child.is_alive, told
        assert time.monotonic() < deadline, told
        time.sleep(0.02)


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    one = Nursery()
    try:
        yield one
    finally:
        one.close()
