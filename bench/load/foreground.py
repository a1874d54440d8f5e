"""A foreground client, a process of its own: `python -m bench.load.foreground`.

It offers GETs and SETs at a fixed rate, whatever the server does: what is due is sent, also if
earlier replies are outstanding, and each latency counts from the time at which the operation was
due. So a server that stalls for a second shows as a second in every operation that was due
meanwhile, not as one slow operation in a pause.

It speaks the protocol itself, since a client library costs more CPU than the operation. It says
`ready` on stdout, works until its stdin ends (its parent wants it, or is gone), waits for the
replies that are outstanding, writes its operations to a file and its own CPU time to stdout.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import select
import socket
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from bench.load import LoadError
from bench.load.phases import Operation

NAME = "foreground"
"""Of the connection, and what its keys begin with. No sweep's pattern matches it."""

KEYS = 100
"""Of each client."""

VALUE_BYTES = 64

DRAIN_S = 30.0
"""How long it waits for the last replies."""


class ForegroundError(LoadError):
    """The server did not answer, or not what it should."""


class Traffic:
    """The operations in turn, and the reply that each must get: nobody else has these keys."""

    def __init__(self, client: int) -> None:
        self._keys = [f"{NAME}:{client}:{number}".encode() for number in range(KEYS)]
        self._values = [b""] * KEYS

    def first(self) -> Iterator[tuple[bytes, bytes]]:
        """A SET of each key."""
        return (self._set(place, 0) for place in range(KEYS))

    def endless(self) -> Iterator[tuple[bytes, bytes]]:
        """SET and GET in turn, each of another key."""
        number = 0
        while True:
            place = number % KEYS
            yield self._set(place, number)
            yield self._get((place + KEYS // 2) % KEYS)
            number += 1

    def _set(self, place: int, number: int) -> tuple[bytes, bytes]:
        value = b"%0*d" % (VALUE_BYTES, number)
        self._values[place] = value
        return _command(b"SET", self._keys[place], value), b"+OK\r\n"

    def _get(self, place: int) -> tuple[bytes, bytes]:
        return _command(b"GET", self._keys[place]), _bulk(self._values[place])


class Connection:
    """A socket whose replies are compared with what they must be."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=DRAIN_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._outstanding: deque[tuple[int, int, bytes]] = deque()
        self._received = b""

    @property
    def waits(self) -> bool:
        """Whether replies are outstanding."""
        return bool(self._outstanding)

    def send(self, due_ns: int, request: bytes, reply: bytes) -> None:
        """Send it, also if earlier replies are outstanding."""
        sent_ns = time.monotonic_ns()
        self.socket.sendall(request)
        self._outstanding.append((due_ns, sent_ns, reply))

    def receive(self) -> Iterator[Operation]:
        """Read what has arrived, or wait for it; the operations that it completes.

        Raises:
            ForegroundError: it is not what was written, or the connection is closed.
        """
        data = self.socket.recv(65_536)
        now_ns = time.monotonic_ns()
        if not data:
            raise ForegroundError("the server closed the connection")
        self._received += data
        while self._received and self._outstanding:
            due_ns, sent_ns, reply = self._outstanding[0]
            if not reply.startswith(self._received[: len(reply)]):
                raise ForegroundError(f"{self._received[:80]!r} in place of {reply!r}")
            if len(self._received) < len(reply):
                return
            self._received = self._received[len(reply) :]
            self._outstanding.popleft()
            yield Operation(due_ns, sent_ns - due_ns, now_ns - due_ns)

    def converse(self, request: bytes, reply: bytes) -> None:
        """One request and its reply, outside of the traffic."""
        self.send(0, request, reply)
        while self.waits:
            for _ in self.receive():
                pass


def offer(connection: Connection, traffic: Traffic, rate: float) -> list[Operation]:
    """Work until stdin ends and all is answered.

    Raises:
        ForegroundError: the last replies do not come.
    """
    interval_ns = round(1e9 / rate)
    # Clients that are started together must not send together.
    due_ns = time.monotonic_ns() + random.randrange(interval_ns)
    requests = traffic.endless()
    done: list[Operation] = []
    ended_ns = None
    while ended_ns is None or connection.waits:
        now_ns = time.monotonic_ns()
        while ended_ns is None and due_ns <= now_ns:
            connection.send(due_ns, *next(requests))
            due_ns += interval_ns
        pause_s = max(0, due_ns - time.monotonic_ns()) / 1e9 if ended_ns is None else DRAIN_S
        sources = [connection.socket, *([sys.stdin] if ended_ns is None else [])]
        readable, _, _ = select.select(sources, [], [], pause_s)
        if connection.socket in readable:
            done += connection.receive()
        if sys.stdin in readable:
            ended_ns = now_ns
        if ended_ns is not None and now_ns - ended_ns > DRAIN_S * 1e9:
            raise ForegroundError(f"no reply within {DRAIN_S:g} s")
    return done


def save(path: Path, operations: list[Operation]) -> None:
    """All operations as 64-bit numbers, three each."""
    with path.open("wb") as file:
        array("q", [number for operation in operations for number in operation]).tofile(file)


def load(path: Path) -> list[Operation]:
    """What `save` wrote."""
    numbers = array("q")
    numbers.frombytes(path.read_bytes())
    threes = zip(*[iter(numbers)] * 3, strict=True)
    return [Operation(*three) for three in threes]


def main() -> int:
    """Exit code 0 unless the server did not answer as it should."""
    parser = argparse.ArgumentParser(prog="python -m bench.load.foreground")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("client", type=int, help="its number")
    parser.add_argument("rate", type=float, help="operations per second")
    parser.add_argument("file", type=Path, help="for the operations")
    arguments = parser.parse_args()
    # A collection would be a pause of ours, and there are no cycles to collect.
    gc.disable()
    try:
        connection = Connection(arguments.host, arguments.port)
        traffic = Traffic(arguments.client)
        connection.converse(_command(b"CLIENT", b"SETNAME", NAME.encode()), b"+OK\r\n")
        for request, reply in traffic.first():
            connection.converse(request, reply)
        print("ready", flush=True)
        began_s = time.process_time()
        operations = offer(connection, traffic, arguments.rate)
        cpu_s = time.process_time() - began_s
    except (OSError, ForegroundError) as error:
        print(f"foreground client {arguments.client}: {error}", file=sys.stderr)
        return 1
    save(arguments.file, operations)
    print(json.dumps({"cpu_s": cpu_s}))
    return 0


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(map(_bulk, words))


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(word), word)


if __name__ == "__main__":
    sys.exit(main())
