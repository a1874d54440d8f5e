"""The command as a process of its own, hundreds of times, without its imports each time.

`python -m tests.faults.tool` has everything imported and waits. For each run it forks a child,
which gets a session, streams and limits of its own and calls `cleanup_job.cli.main`: from there
on it is what `python -m cleanup_job` would be, with real signals and real workers.

Waits that a user sees as half a minute are made short, and batches small, so that little data
has many moments to strike at; `SHORTER` has them all. Spawned workers import this module too, so
they get the same.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from tests.faults.runs import OVERRIDES, SHORTER


def shorten() -> None:
    for name, value in {**SHORTER, **json.loads(os.environ.get(OVERRIDES, "{}"))}.items():
        module, _, constant = name.rpartition(".")
        loaded = importlib.import_module(module)
        assert hasattr(loaded, constant), name
        setattr(loaded, constant, value)


def serve(channel: socket.socket) -> None:
    """Fork for each request; tell of each child's end."""

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                tell(channel, {"ended": pid, "code": os.waitstatus_to_exitcode(status)})

    signal.signal(signal.SIGCHLD, reap)
    while True:
        message, streams, _, _ = socket.recv_fds(channel, 1 << 20, 3)
        if not message:
            return
        request = json.loads(message)
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            channel.close()
            become(request, streams)
        for stream in streams:
            os.close(stream)
        tell(channel, {"began": pid, "number": request["number"]})


def tell(channel: socket.socket, message: dict[str, Any]) -> None:
    # One packet each, so a signal's handler may come between two of them.
    with contextlib.suppress(OSError):
        channel.send(json.dumps(message).encode())


def become(request: dict[str, Any], streams: Sequence[int]) -> None:
    """Be the command."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if request["terminal"]:
        import fcntl
        import termios

        fcntl.ioctl(2, termios.TIOCSCTTY, 0)
    for number in request["ignores"]:
        signal.signal(number, signal.SIG_IGN)
    for name, most in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (most, most))
    set_clock(request["clock_ahead_s"])
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode) for number, mode in enumerate(("r", "w", "w"))
    )
    from cleanup_job import cli

    code = 1
    try:
        cli.main(request["argv"])
    except SystemExit as end:
        code = int(end.code or 0)
    except Exception:  # noqa: BLE001 - what the interpreter does with it
        sys.excepthook(*sys.exc_info())
    finally:
        # As the interpreter ends: not before what workers there are have ended.
        with contextlib.suppress(Exception):
            from multiprocessing.util import _exit_function

            threading._shutdown()
            _exit_function()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                code = 120
        os._exit(code)


def set_clock(ahead_s: int) -> None:
    """What this machine's clock tells the command. Durations go by another one."""
    if ahead_s:
        right = time.time_ns
        time.time_ns = lambda: right() + ahead_s * 10**9


shorten()

if __name__ == "__main__":
    for module in ("cleanup_job.cli", "cleanup_job.job", "cleanup_job.processes"):
        importlib.import_module(module)
    for module in ("cleanup_job.config", "cleanup_job.progress", "yaml", "tqdm"):
        importlib.import_module(module)
    serve(socket.socket(fileno=int(sys.argv[1])))
