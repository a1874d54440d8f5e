"""From a slot to the connection of the server that has it, while a cluster moves.

A `Router` sends commands to the owners of their keys and follows what the cluster answers: MOVED
and ASK (nothing was executed: send it there), TRYAGAIN and CLUSTERDOWN (nothing was executed:
send it again shortly). A reply that never came is not sent again; its handler gets the
`WireLostError` and decides. On a standalone server every slot leads to the one server.

Invariants:
- A command is sent again only if the server said that it did not execute it.
- Every command's `then` is called exactly once, with a reply or with an error; it never raises
  for what a server does.
- Waiting is bounded: `MOST_HOPS` redirects for a command, `PATIENCE_S` for a server that is gone.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import redis

from cleanup_job import wire as wires
from cleanup_job.errors import CleanupJobError, ServerUnavailableError
from cleanup_job.keyspace import SLOTS, slot_of
from cleanup_job.model import Access, Endpoint, Routes, Timings, merge_timings
from cleanup_job.wire import Handler, Reply, Wire

MOST_HOPS = 16
"""Redirects and new tries of one command. With `PAUSE_S` between tries a slot has 0.8 s to
arrive, far more than a key's migration takes."""

PAUSE_S = 0.05

PATIENCE_S = 20.0
"""How long to wait for a failover: the default cluster-node-timeout is 15 s, and the election
takes a moment more."""

Words = tuple[bytes | str | int, ...]


class Router:
    """The connections of one worker, by slot."""

    def __init__(self, routes: Routes) -> None:
        self._access = routes.access
        self._clustered = routes.clustered
        self._take_spans(routes.spans)
        self._moved: dict[int, Endpoint] = {}
        self._wires: dict[Endpoint, Wire] = {}
        self._give_up_at: float | None = None
        self._timings: list[Timings] = []

    @property
    def in_flight(self) -> int:
        """Requests in flight on all connections."""
        return sum(map(len, self._wires.values()))

    def endpoint(self, slot: int) -> Endpoint:
        """Which server has a slot, as far as is known.

        Raises:
            ServerUnavailableError: if no server is known to have it.
        """
        if slot in self._moved:
            return self._moved[slot]
        place = bisect_right(self._firsts, slot) - 1
        if place < 0 or slot > self._spans[place][1]:
            raise ServerUnavailableError(f"no server has slot {slot} now", "slot_uncovered")
        return self._spans[place][2]

    def load(self, slot: int) -> int:
        """Requests in flight to the owner of a slot."""
        try:
            wire = self._wires.get(self.endpoint(slot))
        except ServerUnavailableError:
            return 0
        return len(wire) if wire is not None else 0

    def send(self, slot: int, words: Words, then: Handler, *, hops: int = 0) -> None:
        """Send a command to the owner of its keys' slot."""
        try:
            wire = self._wire(slot)
        except CleanupJobError as error:
            then(error)
            return
        wire.send(*words, then=lambda reply: self._take(slot, words, then, hops, reply))

    def each(
        self, command: str, keys: Sequence[bytes], then: Callable[[list[Reply]], None]
    ) -> None:
        """Send a command of one key for each of `keys`; `then` gets all replies in their order."""
        replies: list[Reply] = [None] * len(keys)
        waiting = len(keys)
        if not keys:
            then(replies)
            return

        def settle(place: int, reply: Reply) -> None:
            nonlocal waiting
            replies[place] = reply
            waiting -= 1
            if not waiting:
                then(replies)

        for slot, places in self._by_server(keys):
            self._send_all(command, slot, keys, places, settle)

    def wait(self) -> None:
        """Receive the next reply of every server that owes one."""
        for wire in [*self._wires.values()]:
            if wire:
                wire.receive()

    def take_timings(self) -> Timings:
        """The timings of all connections since the last call."""
        taken, self._timings = self._timings, []
        return merge_timings([*taken, *(wire.take_timings() for wire in self._wires.values())])

    def _send_all(
        self,
        command: str,
        slot: int,
        keys: Sequence[bytes],
        places: Sequence[int],
        settle: Callable[[int, Reply], None],
    ) -> None:
        """One server's share of `each`, packed in one piece."""
        try:
            wire = self._wire(slot)
        except CleanupJobError as error:
            for place in places:
                settle(place, error)
            return
        words = command.encode().split(b" ")
        head = b"*%d\r\n" % (len(words) + 1)
        head += b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
        packed = b"".join([b"%b$%d\r\n%b\r\n" % (head, len(keys[i]), keys[i]) for i in places])
        upcoming = iter(places)

        def take(reply: Reply) -> None:
            place = next(upcoming)
            if isinstance(reply, redis.ResponseError):
                key = keys[place]
                again: Words = (*words, key)
                self._take(slot_of(key), again, lambda reply: settle(place, reply), 0, reply)
            else:
                settle(place, reply)

        wire.send_packed(command, [packed], take, count=len(places))

    def _by_server(self, keys: Sequence[bytes]) -> list[tuple[int, list[int]]]:
        """A slot of each server with the places of its keys in `keys`."""
        if not self._clustered:
            return [(0, list(range(len(keys))))]
        groups: dict[Endpoint | None, tuple[int, list[int]]] = {}
        for place, key in enumerate(keys):
            slot = slot_of(key)
            try:
                endpoint = self.endpoint(slot)
            except ServerUnavailableError:
                endpoint = None
            groups.setdefault(endpoint, (slot, []))[1].append(place)
        return list(groups.values())

    def _take(self, slot: int, words: Words, then: Handler, hops: int, reply: Reply) -> None:
        """Follow what the cluster says, or hand the reply on."""
        if not isinstance(reply, redis.ResponseError) or hops >= MOST_HOPS:
            then(reply)
        elif isinstance(reply, redis.exceptions.MovedError):
            self._moved[slot] = self._announced(slot, reply)
            self.send(slot, words, then, hops=hops + 1)
        elif isinstance(reply, redis.exceptions.AskError):
            self._ask(slot, words, then, hops + 1, self._announced(slot, reply))
        elif isinstance(reply, redis.exceptions.TryAgainError | redis.exceptions.ClusterDownError):
            time.sleep(PAUSE_S)
            self.send(slot, words, then, hops=hops + 1)
        else:
            then(reply)

    def _ask(self, slot: int, words: Words, then: Handler, hops: int, endpoint: Endpoint) -> None:
        """Send it once to the server that is taking the slot over."""
        try:
            wire = self._open(endpoint)
        except CleanupJobError as error:
            then(error)
            return
        wire.send("ASKING", then=lambda _: None)
        wire.send(*words, then=lambda reply: self._take(slot, words, then, hops, reply))

    def _announced(self, slot: int, reply: Any) -> Endpoint:
        # An empty host means the host that answered.
        host = reply.host or self.endpoint(slot).host
        return self._access.announced(host, int(reply.port))

    def _wire(self, slot: int) -> Wire:
        """The connection to a slot's owner; in a cluster, waits for a failover.

        Raises:
            CleanupJobError: if it can't be reached.
        """
        while True:
            try:
                wire = self._open(self.endpoint(slot))
            except ServerUnavailableError:
                if not self._may_wait():
                    raise
                time.sleep(PAUSE_S)
                self._learn()
            else:
                return wire

    def _open(self, endpoint: Endpoint) -> Wire:
        before = self._wires.get(endpoint)
        if before is not None and not before.is_lost:
            return before
        if before is not None:
            self._timings.append(before.take_timings())
        wire = self._wires[endpoint] = wires.borrow(endpoint)
        return wire

    def _may_wait(self) -> bool:
        """One patience for all servers that are gone: they fail over at the same time."""
        if not self._clustered:
            return False
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + PATIENCE_S
        return time.monotonic() < self._give_up_at

    def _learn(self) -> None:
        """Ask the servers, one after another, who has which slot by now."""
        for endpoint in dict.fromkeys(span[2] for span in self._spans):
            try:
                spans = read_spans(wires.borrow(endpoint), self._access)
            except CleanupJobError:
                continue
            self._take_spans(spans)
            self._moved.clear()
            return

    def _take_spans(self, spans: Sequence[tuple[int, int, Endpoint]]) -> None:
        self._spans = sorted(spans, key=lambda span: span[:2])
        self._firsts = [first for first, _, _ in self._spans]


def read_spans(wire: Wire, access: Access) -> list[tuple[int, int, Endpoint]]:
    """Who serves which slots, as a cluster's node sees it.

    Raises:
        CleanupJobError: if it can't answer.
    """
    spans = []
    for first, last, primary, *_ in wire.ask("CLUSTER", "SLOTS"):
        host = bytes(primary[0] or b"").decode() or wire.endpoint.host
        spans.append((int(first), int(last), access.announced(host, int(primary[1]))))
    return spans


def standalone(access: Access) -> Routes:
    """The routes to a server that has everything."""
    return Routes(access, ((0, SLOTS - 1, access.endpoint),), clustered=False)
