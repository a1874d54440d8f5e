"""The foreground's processes: started, watched, and ended by their pid."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.load.foreground import DRAIN_S, ForegroundError, load
from bench.load.phases import Operation
from bench.measure import ROOT
from cleanup_job.embedded import HOST

READY_S = 30.0


@dataclass(frozen=True)
class Work:
    """What all clients did."""

    operations: list[Operation]
    cpu_s: float


class Foreground:
    """Clients that work until `finish`."""

    def __init__(self, port: int, clients: int, rate: float, folder: Path) -> None:
        self._files = [folder / f"foreground-{number}" for number in range(clients)]
        self._processes: list[subprocess.Popen[str]] = []
        self._port = port
        self._rate = rate / clients

    def start(self) -> None:
        """Returns when all of them have their connection and their keys.

        Raises:
            ForegroundError: one does not come up.
        """
        for number, file in enumerate(self._files):
            words = [HOST, str(self._port), str(number), str(self._rate), str(file)]
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.load.foreground", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                start_new_session=True,  # a terminal's Ctrl-C is ours to handle
            )
            self._processes.append(process)
        deadline_s = time.monotonic() + READY_S
        for process in self._processes:
            assert process.stdout is not None, "it is a pipe"
            left_s = max(0.0, deadline_s - time.monotonic())
            readable, _, _ = select.select([process.stdout], [], [], left_s)
            if not readable or process.stdout.readline() != "ready\n":
                raise ForegroundError("a foreground client did not start")

    def check(self) -> None:
        """Look whether all of them work still.

        Raises:
            ForegroundError: one has ended; it said why on stderr.
        """
        if any(process.poll() is not None for process in self._processes):
            raise ForegroundError("a foreground client ended")

    def finish(self) -> Work:
        """End them and read what they did.

        Raises:
            ForegroundError: one failed.
        """
        for process in self._processes:
            assert process.stdin is not None, "it is a pipe"
            process.stdin.close()
        cpu_s = sum(map(_told_cpu_s, self._processes))
        return Work([each for file in self._files for each in load(file)], cpu_s)

    def kill(self) -> None:
        """End those that still run."""
        for process in self._processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


@contextlib.contextmanager
def working(port: int, clients: int, rate: float, folder: Path) -> Iterator[Foreground]:
    """So many clients at so many operations per second together, ended at the latest here."""
    foreground = Foreground(port, clients, rate, folder)
    try:
        foreground.start()
        yield foreground
    finally:
        foreground.kill()


def _told_cpu_s(process: subprocess.Popen[str]) -> float:
    assert process.stdout is not None, "it is a pipe"
    try:
        code = process.wait(DRAIN_S * 2)
    except subprocess.TimeoutExpired:
        raise ForegroundError("a foreground client did not end") from None
    if code:
        raise ForegroundError("a foreground client failed")
    return float(json.loads(process.stdout.read())["cpu_s"])
