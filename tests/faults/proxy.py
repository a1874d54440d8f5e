"""A TCP proxy on loopback that reads along, and strikes at a chosen moment.

It knows RESP well enough to tell the requests of a connection apart, and the replies that belong
to them. One thread with an event loop serves all connections to all servers of a topology, so
"the fifth SCAN" is the fifth of the whole run, and nothing else passes while it is counted.

Invariants:
- What is read is passed on as it is, in order, unless a strike says otherwise.
- A strike happens once. Meanwhile its connection waits, in the direction that it struck; the
  others go on.
- What a client had sent when it died is still delivered, as a kernel would.

Not promised: pipelining by time. A reply is passed on when it is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cleanup_job.acl import LEASE_PREFIX

CHUNK = 1 << 16

SETTLE_S = 5.0
"""How long connections may take to end when the tool has ended. What is open then is aborted."""

LEASE_SCRIPT = b"-- lease.lua:"
"""How the lease's script begins."""

PROBE = b"cleanup-job-probe-"
"""Keys of the rehearsal have it in their names."""

When = Literal["before", "sent", "reply"]


@dataclass
class Request:
    """One request as it passes.

    Attributes:
        at: when it was read, by `time.monotonic`.
        link: the number of its connection.
        is_rehearsed: it is on keys that do not exist, to see if it is allowed.
    """

    command: str
    words: list[bytes]
    link: Link
    at: float = field(default_factory=time.monotonic)

    @property
    def is_rehearsed(self) -> bool:
        return any(PROBE in word for word in self.words[1:4])

    @property
    def is_of_lease(self) -> bool:
        return any(word.startswith((LEASE_PREFIX, LEASE_SCRIPT)) for word in self.words[1:4])


@dataclass
class Moment:
    """When to strike, and with what.

    Attributes:
        picks: which requests are counted.
        n: at which of them.
        when: before it is sent; when it is sent and its reply is not passed on yet; or when
            `share` of its reply was passed on (0: the reply has come, and nobody knows of it).
        act: what happens. It may close the link.
    """

    picks: Callable[[Request], bool]
    n: int
    when: When
    act: Callable[[Link], Awaitable[None]]
    share: float = 0.0
    seen: int = 0
    struck_at: str = ""

    def is_due(self, request: Request) -> bool:
        if self.picks(request):
            self.seen += 1
            if self.seen == self.n:
                self.struck_at = request.command
                return True
        return False

    @property
    def struck(self) -> bool:
        return self.seen >= self.n


@dataclass
class _Owed:
    """A reply that is to come."""

    moment: Moment | None = None
    acted: asyncio.Event | None = None


class Link:
    """One client's connection, and ours to the server behind it; `place` says to which."""

    def __init__(
        self,
        proxies: Proxies,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        number: int,
        place: int,
    ) -> None:
        self.proxies = proxies
        self.number = number
        self.place = place
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self._owed: deque[_Owed] = deque()
        self._is_deaf = False
        self.is_closed = False
        self.arrived_s = 0.0

    async def run(self) -> None:
        forward = asyncio.ensure_future(self._guarded(self._forward(), self._to_server))
        backward = asyncio.ensure_future(self._guarded(self._backward(), self._to_client))
        await asyncio.wait([forward, backward])
        self.proxies.bugs += [bug for task in (forward, backward) if (bug := task.exception())]
        self._end()

    # -- what a strike may do --------------------------------------------------------------------

    async def reset(self) -> None:
        """End it at once on both sides, with RST to the client."""
        self._linger_not(self._to_client)
        self._end(abort=True)

    async def close(self) -> None:
        """End it on both sides, with FIN."""
        self._end()

    async def swallow(self) -> None:
        """Half open: it stays, and nothing that either side sends arrives any more."""
        self._is_deaf = True

    # -- passing on ------------------------------------------------------------------------------

    async def _guarded(self, pump: Any, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await pump
        if not self._is_deaf:
            with contextlib.suppress(OSError):
                to.close()

    async def _forward(self) -> None:
        buffer = bytearray()
        while data := await self._from_client.read(CHUNK):
            self.arrived_s = time.monotonic()
            buffer += data
            start = 0
            while (found := _request(buffer, start)) is not None:
                words, end = found
                await self._pass_request(Request(_name(words), words, self), buffer[start:end])
                start = end
            del buffer[:start]
            await self._to_server.drain()

    async def _pass_request(self, request: Request, raw: bytes) -> None:
        proxies = self.proxies
        proxies.requests.append(request)
        moment = proxies.due(request)
        owed = _Owed()
        if moment is not None and moment.when == "before":
            await moment.act(self)
        elif moment is not None:
            owed.moment = moment
        await proxies.flow(self)
        if self.is_closed or self._to_server.is_closing():
            raise ConnectionResetError
        if self._is_deaf:
            return
        self._owed.append(owed)
        self._to_server.write(raw)
        if moment is not None and moment.when == "sent":
            owed.acted = asyncio.Event()
            await self._to_server.drain()
            await moment.act(self)
            owed.acted.set()

    async def _backward(self) -> None:
        buffer = bytearray()
        while data := await self._from_server.read(CHUNK):
            buffer += data
            start = 0
            while (end := _reply_end(buffer, start)) is not None:
                owed = self._owed.popleft() if self._owed else _Owed()
                await self._pass_reply(owed, buffer[start:end])
                start = end
            del buffer[:start]
            await self._to_client.drain()

    async def _pass_reply(self, owed: _Owed, raw: bytes) -> None:
        if owed.acted is not None:
            await owed.acted.wait()
        if owed.moment is not None and owed.moment.when == "reply":
            cut = min(len(raw) - 1, int(len(raw) * owed.moment.share))
            self._to_client.write(raw[:cut])
            await self._to_client.drain()
            await owed.moment.act(self)
            raw = raw[cut:]
        await self.proxies.flow(None)
        if self.is_closed or self._to_client.is_closing():
            raise ConnectionResetError
        if not self._is_deaf:
            self._to_client.write(raw)

    # -- the end ---------------------------------------------------------------------------------

    @staticmethod
    def _linger_not(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )

    def _end(self, *, abort: bool = False) -> None:
        self.is_closed = True
        for writer in (self._to_client, self._to_server):
            with contextlib.suppress(OSError):
                if abort:
                    writer.transport.abort()
                else:
                    writer.close()

    def abort(self) -> None:
        self._end(abort=True)


class Proxies:
    """One listener before each of some ports, all in one thread.

    Attributes:
        ports: of the listeners, in step with the targets.
        requests: all that passed since `begin`.
        delay_s: called for each request: how long it is on its way; None: no time.
        bugs: errors of our own, which `settle` raises.
    """

    def __init__(self, targets: Sequence[int]) -> None:
        self.requests: list[Request] = []
        self.delay_s: Callable[[], float] | None = None
        self.bugs: list[BaseException] = []
        self._moments: list[Moment] = []
        self._links: set[Link] = set()
        self._count = 0
        self._stalled_until = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers: list[asyncio.Server] = []
        self.ports = [self._do(self._listen(*each)) for each in enumerate(targets)]

    def begin(self, *moments: Moment) -> None:
        """Forget what was, and wait for these moments."""
        self.requests = []
        self.delay_s = None
        self._stalled_until = 0.0
        self._moments = list(moments)

    def settle(self) -> None:
        """Wait until what clients had sent is delivered and their connections have ended."""
        self._do(self._settle())
        if self.bugs:
            raise self.bugs.pop()

    def close(self) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stall(self, seconds: float) -> None:
        """Pass nothing on, on any connection, for so long."""
        self._stalled_until = time.monotonic() + seconds

    def due(self, request: Request) -> Moment | None:
        due = [moment for moment in self._moments if moment.is_due(request)]
        return due[0] if due else None

    async def flow(self, link: Link | None) -> None:
        """Wait as long as a stall lasts, and as latency has a request wait."""
        while (left_s := self._stalled_until - time.monotonic()) > 0:
            await asyncio.sleep(left_s)
        if link is not None and self.delay_s is not None:
            # From when it came: a way that is long delays what is on it all at once, and not one
            # request behind the other.
            left_s = link.arrived_s + self.delay_s() - time.monotonic()
            if left_s > 0:
                await asyncio.sleep(left_s)

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _listen(self, place: int, target: int) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                server = await asyncio.open_connection("127.0.0.1", target, limit=CHUNK)
            except OSError:
                # As if nobody listened there.
                Link._linger_not(writer)
                writer.transport.abort()
                return
            self._count += 1
            link = Link(self, (reader, writer), server, self._count, place)
            self._links.add(link)
            try:
                await link.run()
            finally:
                self._links.discard(link)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=CHUNK)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _settle(self) -> None:
        deadline = time.monotonic() + SETTLE_S
        while self._links and time.monotonic() < deadline:
            if all(link._is_deaf for link in self._links):
                break
            await asyncio.sleep(0.005)
        for link in [*self._links]:
            link.abort()
        while self._links:
            await asyncio.sleep(0.005)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for link in [*self._links]:
            link.abort()
        while self._links:
            await asyncio.sleep(0.005)


def _name(words: Sequence[bytes]) -> str:
    return words[0].decode("ascii", "replace").upper()


def _request(buffer: bytearray, start: int) -> tuple[list[bytes], int] | None:
    """The request that begins here and where it ends, if it is there as a whole."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return None
    words = []
    at = line_end + 2
    for _ in range(int(buffer[start + 1 : line_end])):
        line_end = buffer.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = int(buffer[at + 1 : line_end])
        end = line_end + 2 + size
        if len(buffer) < end + 2:
            return None
        words.append(bytes(buffer[line_end + 2 : end]))
        at = end + 2
    return words, at


def _reply_end(buffer: bytearray, start: int) -> int | None:
    """Where the reply that begins here ends (RESP2), if it is there as a whole."""
    at = start
    owed = 1
    while owed:
        line_end = buffer.find(b"\r\n", at)
        if line_end < 0:
            return None
        kind = buffer[at : at + 1]
        owed -= 1
        if kind == b"*":
            owed += max(0, int(buffer[at + 1 : line_end]))
            at = line_end + 2
        elif kind == b"$":
            size = int(buffer[at + 1 : line_end])
            at = line_end + 2 + (size + 2 if size >= 0 else 0)
            if at > len(buffer):
                return None
        else:
            at = line_end + 2
    return at
