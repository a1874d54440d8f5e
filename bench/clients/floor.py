"""The floor: what any sweep must ask of the server, and nothing else.

SCAN with two walks in flight, MGET of the heartbeats, UNLINK of 1,000 keys at a time with two
in flight. Nothing is checked again before it is deleted, replies are not counted, and the key
layout is written into the code. Its server CPU is the measure for the others.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import hiredis

KEYS_PER_CALL = 1000

IN_FLIGHT = 2

WALKS = 2
"""A walk that starts at cursor 1 and one that starts at 0 meet where cursors turn odd."""

STALE_AFTER_MS = 600_000

_HEARTBEAT = b"blocking:heartbeat:"

_TIMESTAMP = re.compile(rb'"timestamp": *(\d+)')


class Line:
    """A connection with requests in flight; replies go to whoever asked."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname or "", address.port or 6379))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        self._waiting: deque[Callable[[Any], None]] = deque()

    def ask(self, command: Sequence[bytes | str | int], then: Callable[[Any], None]) -> None:
        """Send, and read when there is too much in flight."""
        words: Any = tuple(command)
        self._socket.sendall(hiredis.pack_command(words))
        self._waiting.append(then)

    def settle(self, in_flight: int = 0) -> None:
        """Read replies until no more than so many are outstanding."""
        while len(self._waiting) > in_flight:
            reply = self._reply()
            self._waiting.popleft()(reply)

    def _reply(self) -> Any:
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(1 << 18))
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply


class Sweep:
    """One run."""

    def __init__(self, line: Line, glob: str | None) -> None:
        self._line = line
        self._match = () if glob is None else ("MATCH", glob)
        self._unread: list[bytes] = []
        self.keys: list[bytes] = []
        self.stale: set[bytes] = set()
        self._now_ms = int(time.time() * 1000)

    def walk(self) -> None:
        """Find all keys, and read the heartbeats among them on the way."""
        for start in range(WALKS):
            self._scan(start, start)
        self._line.settle()
        self._read()
        self._line.settle()

    def _scan(self, start: int, cursor: int) -> None:
        command = ("SCAN", cursor, *self._match, "COUNT", KEYS_PER_CALL)
        self._line.ask(command, lambda reply: self._take_page(start, reply))

    def _take_page(self, start: int, reply: Any) -> None:
        cursor = int(reply[0])
        if cursor and cursor % WALKS == start:
            self._scan(start, cursor)
        self.keys += reply[1]
        self._unread += [key for key in reply[1] if key.startswith(_HEARTBEAT)]
        if len(self._unread) >= KEYS_PER_CALL:
            self._read()

    def _read(self) -> None:
        if self._unread:
            keys, self._unread = self._unread, []
            self._line.ask(("MGET", *keys), lambda values: self._judge(keys, values))

    def _judge(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        oldest_live_ms = self._now_ms - STALE_AFTER_MS
        for key, value in zip(keys, values, strict=True):
            beat = _TIMESTAMP.search(value or b"")
            if beat and int(beat[1]) < oldest_live_ms:
                self.stale.add(key[len(_HEARTBEAT) :])

    def unlink(self) -> None:
        """Delete the keys of stale ids, in the order in which the walk found them."""
        # A table that grew or shrank meanwhile hands some keys out twice.
        keys = [key for key in dict.fromkeys(self.keys) if key.split(b":", 3)[2] in self.stale]
        for start in range(0, len(keys), KEYS_PER_CALL):
            some = keys[start : start + KEYS_PER_CALL]
            self._line.ask(("UNLINK", *some), lambda _: None)
            self._line.settle(IN_FLIGHT - 1)
        self._line.settle()


def main(url: str, glob: str | None = None) -> None:
    """`python -m bench.clients.floor URL [GLOB]`."""
    line = Line(url)
    began = time.perf_counter()
    sweep = Sweep(line, glob)
    sweep.walk()
    sweep.unlink()
    print(json.dumps({"sweep_s": time.perf_counter() - began}))


if __name__ == "__main__":
    main(*sys.argv[1:])
