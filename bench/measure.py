"""Run one command and measure it from outside: wall, CPU and memory of all its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

SAMPLE_INTERVAL_S = 0.02
"""How often memory is looked at. A look costs some 50 µs, which the rows must not feel."""


@dataclass(frozen=True)
class Measured:
    """One command's run.

    Attributes:
        peak_bytes: of all its processes together; None where there is no /proc.
        children_peak_bytes: the same without the first of them.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int | None
    children_peak_bytes: int
    exit_code: int
    stdout: str
    stderr: str

    @property
    def failure(self) -> str | None:
        """Its exit code and its last words; None if it went well."""
        if not self.exit_code:
            return None
        lines = self.stderr.strip().splitlines() or ["no message"]
        return f"exit code {self.exit_code}: {lines[-1]}"


class TimedOutError(Exception):
    """The command was ended because it took too long."""


def measure(command: Sequence[str], timeout_s: float) -> Measured:
    """Run it to its end in a process group of its own.

    Raises:
        TimedOutError: it took longer than `timeout_s`, and its group was killed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=ROOT,
            env=_environment(),
            start_new_session=True,
        )
        watch = _Watch(process.pid, timeout_s)
        try:
            watch.start()
            # wait4 rather than wait: its usage is of this child and all that it waited for.
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            watch.end()
            if process.returncode is None:  # Ctrl-C reaches us only
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if watch.timed_out:
            raise TimedOutError(f"ended after {timeout_s:g} s: {' '.join(command)}")
        cpu_s = usage.ru_utime + usage.ru_stime
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read().decode(), err.read().decode()
    return Measured(
        wall_s,
        cpu_s,
        watch.peak_bytes,
        watch.children_peak_bytes,
        process.returncode,
        stdout,
        stderr,
    )


class _Watch(threading.Thread):
    """Looks at the memory of a process and its descendants, and ends them when time is up.

    `ru_maxrss` would not do: it is of one process, not of all at once, and it begins with the
    size of whoever started it.
    """

    def __init__(self, pid: int, timeout_s: float) -> None:
        super().__init__(daemon=True)
        self.peak_bytes: int | None = None
        self.children_peak_bytes = 0
        self.timed_out = False
        self._pid = pid
        self._deadline = time.monotonic() + timeout_s
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_INTERVAL_S):
            own_bytes, *of_children = map(high_water_bytes, _family(self._pid))
            if now_bytes := own_bytes + sum(of_children):
                self.peak_bytes = max(self.peak_bytes or 0, now_bytes)
                self.children_peak_bytes = max(self.children_peak_bytes, sum(of_children))
            if time.monotonic() > self._deadline and not self.timed_out:
                self.timed_out = True
                os.killpg(self._pid, signal.SIGKILL)

    def end(self) -> None:
        self._ended.set()
        self.join()


def _family(pid: int) -> Iterator[int]:
    """The process and its living descendants."""
    yield pid
    with contextlib.suppress(OSError):  # it may end while we look
        for children in [*Path(f"/proc/{pid}/task").glob("*/children")]:
            for child in children.read_text().split():
                yield from _family(int(child))


def high_water_bytes(pid: int) -> int:
    """The largest resident size that the process had so far; 0 when it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    _, found, rest = status.partition("VmHWM:")
    return int(rest.split(None, 1)[0]) * 1024 if found else 0


def _environment() -> dict[str, str]:
    """Ours without what would steer a client elsewhere."""
    steering = ("REDIS", "VALKEY", "CLEANUP_JOB_")
    return {name: text for name, text in os.environ.items() if not name.startswith(steering)}
