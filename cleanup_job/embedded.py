"""Servers that we start ourselves: one on a free loopback port, or several joined to a cluster.

Each is a process with a folder of its own, which is ended by its pid and never by a name. It is
started here and not by the package that its binary is from: that would end it with the program,
and bring it a terminal's Ctrl-C before whoever uses it has stopped.

Invariants:
- `start` returns when this very process answers: somebody else may have taken the port.
- `remove` leaves no process and no folder, however far `start` came.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cleanup_job.errors import ServerUnavailableError
from cleanup_job.keyspace import SLOTS

HOST = "127.0.0.1"

START_TIMEOUT_S = 20

FORM_TIMEOUT_S = 30

PAUSE_S = 0.02

BUS = 10_000
"""A cluster's node also listens on the port so much higher."""

PORTS = range(10_000, 32_768 - BUS)
"""Below those that systems give to outgoing connections (from 32,768 on Linux, 49,152 on macOS),
the bus ports too: one of them could be taken between the look and the start, or while a server
is down that is to come back."""

MOST_PORTS = 5
"""How often a new server that ends at once is started on another port."""

NODE = {
    "cluster-enabled": "yes",
    "cluster-config-file": "nodes.conf",
    "cluster-node-timeout": "2000",
}
"""A cluster's node that notices within seconds that another one is gone."""

Node = Any
"""A redis.Redis, whose execute_command is not typed."""

Check = Callable[[], object]
"""Called while something is waited for; what it raises ends the wait."""


def _go_on() -> None:
    pass


def packaged_binary(distribution: str, name: str) -> Path | None:
    """A program that an installed distribution brings, by the distribution's own list of files.

    None of the packages has a public function for it, and how their folders are called is
    theirs to change.
    """
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    # Some also put it on the PATH, outside of the package.
    inside = [file for file in files if file.name == name and ".." not in file.parts]
    paths = [Path(str(file.locate())) for file in inside]
    return next((path for path in paths if os.access(path, os.X_OK)), None)


class LocalServer:
    """A server process on loopback that saves nothing unless its options say so.

    Attributes:
        folder: its working directory, with its log.
        port: where it listens; settled by the first `start`.
        options: of its configuration, over the defaults of `_launch`.
    """

    def __init__(
        self,
        binary: Path,
        options: Mapping[str, str] | None = None,
        *,
        prefix: str = "cleanup-job-",
        own_session: bool = False,
    ) -> None:
        """Prepare it; `start` starts it.

        Args:
            binary: the program.
            options: of its configuration.
            prefix: what its folder's name begins with.
            own_session: keep a terminal's Ctrl-C away from it.
        """
        self.folder = Path(tempfile.mkdtemp(prefix=prefix))
        self.port = free_port()
        self._binary = binary
        self.options = dict(options or {})
        self._own_session = own_session
        self._has_run = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "it runs"
        return self._process.pid

    @property
    def address(self) -> str:
        """host:port."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """As `cleanup-job run --url` takes it."""
        return f"redis://{self.address}/0"

    def client(self, **options: Any) -> redis.Redis:
        """A client that may do everything."""
        options.setdefault("password", self.options.get("requirepass"))
        return redis.Redis(HOST, self.port, **options)

    def start(self, check: Check = _go_on) -> None:
        """Start it, or start it again on its port and with its folder; returns when it answers.

        Raises:
            ServerUnavailableError: if it ends, or does not answer in time.
        """
        try:
            for tries_left in reversed(range(1 if self._has_run else MOST_PORTS)):
                self._launch()
                if self._answers_in_time(check):
                    self._has_run = True
                    return
                if self._is_running or not tries_left:
                    raise self._failure()
                # Most likely somebody took the port meanwhile.
                self.port = free_port()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill the process, if there is one; it can be started again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Kill the process and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _launch(self) -> None:
        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            **self.options,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [self._binary, *words],
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self._own_session,
            )

    def _answers_in_time(self, check: Check) -> bool:
        """False if the process ended or time is up."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._is_running and time.monotonic() < deadline:
            check()
            if self._answers():
                return True
            time.sleep(PAUSE_S)
        return False

    @property
    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        with (
            contextlib.suppress(redis.RedisError),
            self.client(retry=Retry(NoBackoff(), 0)) as client,
        ):
            info: Any = client.info("server")
            return bool(info["process_id"] == self.pid)
        return False

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _failure(self) -> ServerUnavailableError:
        log = self._log.read_text(errors="replace")
        last = next((line for line in reversed(log.split("\n")) if line), "it did not say why")
        how = f"did not answer within {START_TIMEOUT_S} s" if self._is_running else "did not start"
        error = ServerUnavailableError(
            f"the server {self._binary.name} {how}: {last}; try again", "embedded_server"
        )
        error.add_note(log)
        return error


def free_port() -> int:
    """A port that is free now, and its bus port too."""
    while True:
        port = random.choice(PORTS)
        if all(_is_free(one) for one in (port, port + BUS)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: connections that were closed lately are not in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def form_cluster(
    primaries: Sequence[Node], replicas: Sequence[Node] = (), check: Check = _go_on
) -> None:
    """Make these nodes a cluster that serves all slots; returns when all of them say so.

    The replicas go to the primaries in turn.

    Raises:
        ServerUnavailableError: if they do not find together.
    """
    deadline = time.monotonic() + FORM_TIMEOUT_S

    def wait_until(done: Callable[[], bool]) -> None:
        while not done():
            check()
            if time.monotonic() > deadline:
                raise ServerUnavailableError(
                    f"the nodes did not form a cluster within {FORM_TIMEOUT_S} s",
                    "embedded_server",
                )
            time.sleep(PAUSE_S)

    nodes = [*primaries, *replicas]
    for number, primary in enumerate(primaries):
        _assign_slots(primary, number, len(primaries))
    host, port = _address(nodes[0])
    for node in nodes[1:]:
        node.execute_command("CLUSTER", "MEET", host, port)
    everybody = {"cluster_known_nodes": str(len(nodes))}
    wait_until(lambda: all(_says(node, everybody) for node in nodes))
    ids = [_text(primary.execute_command("CLUSTER", "MYID")) for primary in primaries]
    for number, replica in enumerate(replicas):
        replica.execute_command("CLUSTER", "REPLICATE", ids[number % len(ids)])
    wait_until(lambda: all(_says(node, {"cluster_state": "ok"}) for node in nodes))
    wait_until(lambda: all(_is_linked(replica) for replica in replicas))


def slots_of(number: int, count: int) -> range:
    """The share of one of `count` primaries."""
    return range(SLOTS * number // count, SLOTS * (number + 1) // count)


def _assign_slots(primary: Node, number: int, count: int) -> None:
    """Give one primary its share, and an epoch of its own so that none has to be negotiated."""
    # ADDSLOTSRANGE would be shorter, but Redis has it from 7.0 on only.
    primary.execute_command("CLUSTER", "ADDSLOTS", *slots_of(number, count))
    primary.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)


def _address(node: Node) -> tuple[str, int]:
    options: dict[str, Any] = node.connection_pool.connection_kwargs
    # MEET takes no name.
    return socket.gethostbyname(options["host"]), options["port"]


def _says(node: Node, expected: dict[str, str]) -> bool:
    """True if CLUSTER INFO of the node has these values."""
    lines = _text(node.execute_command("CLUSTER", "INFO")).split()
    return {f"{name}:{value}" for name, value in expected.items()} <= set(lines)


def _is_linked(replica: Node) -> bool:
    info: Any = replica.info("replication")
    return bool(info["role"] == "slave" and info["master_link_status"] == "up")


def _text(reply: Any) -> str:
    if isinstance(reply, dict):  # redis-py parses CLUSTER INFO
        return " ".join(f"{name}:{value}" for name, value in reply.items())
    return reply.decode() if isinstance(reply, bytes) else str(reply)
