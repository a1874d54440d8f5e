"""Schedulers and workers as processes of their own, without their imports each time.

`python -m tests.dask.nursery FD` imports Dask and waits. For each request it forks a child with a
session, streams and an environment of its own, which calls Dask's command: from there on it is what
`dask scheduler` or `dask worker` would be. Nothing of ours is imported before the fork, so that
each worker is a process that knows of no other.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
from typing import Any, NoReturn

COMMANDS = {
    "scheduler": "distributed.cli.dask_scheduler",
    "worker": "distributed.cli.dask_worker",
}

CONSTANTS = "TEST_CONSTANTS"
"""In a child's environment: constants of ours that it is to have, as JSON."""


def serve(channel: socket.socket) -> None:
    """Fork for each request, and tell the pid; with whoever asks, all children end."""
    children: set[int] = set()

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                children.discard(pid)

    signal.signal(signal.SIGCHLD, reap)
    while message := channel.recv(1 << 20):
        request = json.loads(message)
        pid = os.fork()
        if not pid:
            channel.close()
            become(request)
        children.add(pid)
        channel.send(str(pid).encode())
    for pid in [*children]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def become(request: dict[str, Any]) -> NoReturn:
    """Be the command."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number in (1, 2):
            os.dup2(log, number)
        os.environ.update(request["environment"])
        sys.path[:0] = request["path"]
        for name, value in json.loads(os.environ.get(CONSTANTS, "{}")).items():
            module, _, constant = name.rpartition(".")
            loaded = importlib.import_module(module)
            assert hasattr(loaded, constant), name
            setattr(loaded, constant, value)
        command = importlib.import_module(COMMANDS[request["command"]])
        command.main(request["arguments"], prog_name=f"dask {request['command']}")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 - what the interpreter does with it
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


if __name__ == "__main__":
    for name in ("redis", "hiredis", "msgspec", *COMMANDS.values()):
        importlib.import_module(name)
    serve(socket.socket(fileno=int(sys.argv[1])))
