"""Runs of the command, as the tests see them: see `tool` for the process that makes them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SHORTER: dict[str, float] = {
    "cleanup_job.wire.REPLY_TIMEOUT_S": 1.0,
    "cleanup_job.wire.CONNECT_TIMEOUT_S": 1.0,
    "cleanup_job.routes.PATIENCE_S": 4.0,
    "cleanup_job.topology.PATIENCE_S": 4.0,
    "cleanup_job.topology.REPLICA_PATIENCE_S": 2.0,
    "cleanup_job.survey.PAUSE_BETWEEN_ATTEMPTS_S": 0.1,
    "cleanup_job.survey.PAGE": 120,
    "cleanup_job.plan.KEYS_PER_BATCH": 60,
    "cleanup_job.purge.KEYS_PER_BATCH": 60,
    "cleanup_job.dump.KEYS_PER_BATCH": 60,
    "cleanup_job.remains.KEYS_PER_BATCH": 60,
    "cleanup_job.purge.KEYS_IN_FLIGHT": 80,
    "cleanup_job.purge.MOST_KEYS_IN_FLIGHT": 80,
    "cleanup_job.purge.KEYS_OPEN_WITH_JOURNAL": 200,
    "cleanup_job.lease.REPLY_TIMEOUT_S": 1.0,
    "cleanup_job.lease.RENEW_S": 0.05,
    "cleanup_job.lease.RETRY_S": 0.05,
    "cleanup_job.restore.KEYS_PER_GROUP": 40,
    "cleanup_job.plan.KEYS_PER_PORTION": 200,
}
"""Constants of the tool that are other ones here: seconds, and numbers of keys."""

OVERRIDES = "FAULTS_OVERRIDES"
"""The environment variable that has more of them, as JSON."""

END_S = 60.0
"""A run that takes longer hangs. The longest waits that `tool` allows add up to much less."""


@dataclass
class Run:
    """A run of the command.

    Attributes:
        pid: also of its process group.
        code: what it exited with; negative: the signal that ended it; None as long as it runs.
        hung: it had to be killed.
    """

    number: int
    pid: int = 0
    code: int | None = None
    hung: bool = False
    began: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float = END_S) -> int:
        """Its exit code; what hangs is ended."""
        if not self.ended.wait(seconds):
            self.hung = True
            os.killpg(self.pid, signal.SIGKILL)
            self.ended.wait()
        # Workers of a killed job end by themselves, but not at once.
        assert self.code is not None
        return self.code

    def workers(self) -> list[int]:
        return children_of(self.pid)


def children_of(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class Tool:
    """The waiting process, seen from the tests."""

    def __init__(self, overrides: dict[str, float] | None = None) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, OVERRIDES: json.dumps(overrides or {})}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.tool", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        theirs.close()
        self._runs: dict[int, Run] = {}
        self._by_pid: dict[int, Run] = {}
        self._early: dict[int, int] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(
        self,
        argv: Sequence[str],
        streams: tuple[int, int, int],
        *,
        terminal: bool = False,
        limits: dict[str, int] | None = None,
        ignores: Sequence[int] = (),
        clock_ahead_s: int = 0,
    ) -> Run:
        """Start a run; the streams stay the caller's to close."""
        run = Run(len(self._runs) + 1)
        self._runs[run.number] = run
        request = {
            "number": run.number,
            "argv": [*argv],
            "terminal": terminal,
            "limits": limits or {},
            "ignores": [*ignores],
            "clock_ahead_s": clock_ahead_s,
        }
        socket.send_fds(self._channel, [json.dumps(request).encode()], streams)
        if not run.began.wait(30):
            raise RuntimeError("the waiting process does not answer")
        return run

    def close(self) -> None:
        self._channel.shutdown(socket.SHUT_RDWR)
        self._process.wait(10)
        self._listener.join(10)
        self._channel.close()

    def _listen(self) -> None:
        while message := self._channel.recv(1 << 16):
            told = json.loads(message)
            if "began" in told:
                run = self._by_pid[told["began"]] = self._runs[told["number"]]
                run.pid = told["began"]
                run.began.set()
                if run.pid in self._early:
                    self._end(run, self._early.pop(run.pid))
            elif told["ended"] in self._by_pid:
                self._end(self._by_pid[told["ended"]], told["code"])
            else:
                self._early[told["ended"]] = told["code"]

    @staticmethod
    def _end(run: Run, code: int) -> None:
        run.code = code
        run.ended.set()
