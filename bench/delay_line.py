"""A TCP proxy that delays and does nothing else: a long way on one machine.

`python -m bench.delay_line PORT DELAY_MS` listens on a free loopback port, prints it, and passes on
what connections to it say to PORT and what they are answered, each piece half of the delay after it
came. So a round trip takes the delay longer, and as much may be on the way as anybody sends: it is
a long way, not a narrow one. It ends when its stdin does.

Not promised: the way to a connection. A connection is made at once, and so a client that connects
waits a round trip less than it would far away.
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

CHUNK = 1 << 18

PR_SET_TIMERSLACK = 29
"""Linux wakes a sleeper up to 50 µs late, unless it asks for better."""


class _Way:
    """One direction of a connection: what came, and when it is due on the other side."""

    def __init__(self, source: socket.socket, to: socket.socket, delay_s: float) -> None:
        self.source = source
        self.to = to
        self.is_open = True
        self._delay_s = delay_s
        self._pieces: deque[tuple[float, memoryview]] = deque()
        self._has_ended = False

    @property
    def due_s(self) -> float:
        """When there is something to be passed on; never, if there is nothing."""
        return self._pieces[0][0] if self._pieces else float("inf")

    def read(self) -> None:
        try:
            data = self.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._has_ended = self._has_ended or not data
        self._pieces.append((time.monotonic() + self._delay_s, memoryview(data)))

    def reads(self) -> bool:
        return not self._has_ended

    def write(self, now_s: float) -> bool:
        """Pass on what is due; True if the other side takes no more at the moment."""
        while self._pieces and self._pieces[0][0] <= now_s:
            due_s, piece = self._pieces.popleft()
            if not piece:
                self.is_open = False
                with contextlib.suppress(OSError):
                    self.to.shutdown(socket.SHUT_WR)
                return False
            try:
                sent = self.to.send(piece)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.is_open = False
                return False
            if sent < len(piece):
                self._pieces.appendleft((due_s, piece[sent:]))
                return True
        return False


def serve(listener: socket.socket, port: int, delay_s: float) -> None:
    """Delay all connections until stdin ends."""
    ways: list[_Way] = []
    full: set[_Way] = set()
    while True:
        now_s = time.monotonic()
        wait_s = min((way.due_s for way in ways if way not in full), default=float("inf")) - now_s
        sources = {way.source: way for way in ways if way.reads()}
        sinks = {way.to: way for way in full}
        ready, writable, _ = select.select(
            [listener, sys.stdin, *sources],
            [*sinks],
            [],
            None if wait_s == float("inf") else max(0.0, wait_s),
        )
        for one in ready:
            if one is sys.stdin:
                return
            if one is listener:
                ways += _connect(listener, port, delay_s / 2)
            else:
                sources[one].read()
        full -= {sinks[one] for one in writable}
        now_s = time.monotonic()
        full |= {way for way in ways if way not in full and way.write(now_s)}
        ways = _still_open(ways)
        full &= {*ways}


def _connect(listener: socket.socket, port: int, delay_s: float) -> tuple[_Way, _Way]:
    client, _ = listener.accept()
    server = socket.create_connection(("127.0.0.1", port))
    for one in (client, server):
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _Way(client, server, delay_s), _Way(server, client, delay_s)


def _still_open(ways: Sequence[_Way]) -> list[_Way]:
    """Both directions of a connection as long as one of them is open."""
    left: list[_Way] = []
    for there, back in zip(ways[::2], ways[1::2], strict=True):
        if there.is_open or back.is_open:
            left += there, back
        else:
            there.source.close()
            there.to.close()
    return left


@contextlib.contextmanager
def delayed(port: int, delay_ms: float) -> Iterator[int]:
    """A delay line to a port on loopback, in a process of its own; gives the port to connect to."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.delay_line", str(port), f"{delay_ms:g}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def main(port: str, delay_ms: str) -> None:
    """Print where it listens, and delay."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        serve(listener, int(port), float(delay_ms) / 1000)


if __name__ == "__main__":
    main(*sys.argv[1:])
