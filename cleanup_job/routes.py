"""From a slot to the connection of the server that has it, while a cluster moves.

A `Router` sends commands to the owners of their keys and follows what the cluster answers: MOVED
and ASK (nothing was executed: send it there), TRYAGAIN and CLUSTERDOWN (nothing was executed:
send it again shortly). When a server is gone, what was to be sent to it waits until another one
has its slots. A reply that never came is not sent again unless the command only reads; its
handler gets the `WireLostError` and decides. On a standalone server every slot leads to the one
server, and nothing waits.

Invariants:
- A command is sent again only if the server said that it did not execute it, or if it only reads.
- Every command's `then` is called exactly once, with a reply or with an error; it never raises
  for what a server does.
- Waiting is bounded, `PATIENCE_S` for each command, and all that wait do so together: nothing
  sleeps while there are replies to receive.
"""

from __future__ import annotations

import select
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis
from hiredis import pack_command

from cleanup_job import wire as wires
from cleanup_job.errors import CleanupJobError, ServerUnavailableError
from cleanup_job.keyspace import SLOTS, slot_of
from cleanup_job.model import (
    Access,
    Endpoint,
    Routes,
)
from cleanup_job.timings import Timings, merge_timings
from cleanup_job.wire import Handler, Reply, Wire, WireLostError

PROMPT_HOPS = 3
"""Redirects of one command that are followed at once. While a slot changes hands, two servers may
each say that the other one has it; then it waits a moment."""

PAUSE_S = 0.05

PATIENCE_S = 20.0
"""How long to wait for a failover: the default cluster-node-timeout is 15 s, and the election
takes a moment more."""

MIGRATION_PATIENCE_S = 2.0
"""How long to wait for a slot of which some keys are here and some there. Moving one takes some
10 ms; one that was left like that by an administrator may stay so for ever."""

Words = tuple[bytes | str, ...]

_WAIT = redis.exceptions.TryAgainError | redis.exceptions.ClusterDownError  # and MASTERDOWN


@dataclass(slots=True)
class _Call:
    """A command on its way.

    Attributes:
        reads: it changes nothing, so that it may be sent twice.
        first: a command to send in front of it, wherever it goes.
        give_up_at: until when it may wait; None if it did not have to.
    """

    slot: int
    words: Words
    then: Handler
    reads: bool = False
    first: Words = ()
    hops: int = 0
    give_up_at: float | None = None


class Router:
    """The connections of one worker, by slot.

    Attributes:
        last_s: how long the reply took that is being handled, as its connection says.
        spent_s: by how much replies came after those before them, in all, of all connections.
        queued_s: how much longer than the way the last reply took.
    """

    def __init__(
        self,
        routes: Routes,
        *,
        connect: Callable[[Endpoint], Wire] = wires.borrow,
        patience_s: float | None = None,
    ) -> None:
        """Connect to nobody yet.

        Args:
            routes: who has which slots.
            connect: makes or finds the connection to a server.
            patience_s: how long a command may wait for a failover; `PATIENCE_S` by default.
        """
        self._connect = connect
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self._access = routes.access
        self._clustered = routes.clustered
        self._take_spans(routes.spans)
        self._moved: dict[int, Endpoint] = {}
        self._wires: dict[Endpoint, Wire] = {}
        self._unreachable: dict[Endpoint, ServerUnavailableError] = {}
        self._waiting: list[_Call] = []
        self._try_again_at = 0.0
        self._timings: list[Timings] = []
        self.last_s: float | None = None
        self.spent_s = 0.0
        self.queued_s = 0.0

    @property
    def latency_s(self) -> float:
        """Of the longest way to a server that was asked for something."""
        return max((wire.latency_s for wire in self._wires.values()), default=0.0)

    @property
    def in_flight(self) -> int:
        """Commands whose handlers were not called yet."""
        return sum(map(len, self._wires.values())) + len(self._waiting)

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

    def send(
        self, slot: int, words: Words, then: Handler, *, reads: bool = False, first: Words = ()
    ) -> None:
        """Send a command to the owner of its keys' slot.

        Args:
            slot: of its keys.
            words: the command.
            then: is called with the reply.
            reads: the command changes nothing and may be sent twice.
            first: a command to send in front of it, to the same server.
        """
        self._send(_Call(slot, words, then, reads, first))

    def each(
        self,
        command: str,
        keys: Sequence[bytes],
        then: Callable[[list[Reply]], None],
        *,
        reads: bool = False,
    ) -> None:
        """Send a command of one key for each of `keys`; `then` gets all replies in their order."""
        settle = gather(len(keys), then)
        if not keys:
            return
        words = command.encode().split(b" ")

        def call(place: int) -> _Call:
            key = keys[place]
            return _Call(slot_of(key), (*words, key), lambda reply: settle(place, reply), reads)

        for slot, places in self._by_server(keys):
            self._send_all(slot, words, keys, places, settle, call)

    def many(
        self, commands: Sequence[tuple[int, Words]], then: Callable[[list[Reply]], None]
    ) -> None:
        """Send commands, each with the slot of its key; `then` gets all replies in their order.

        Those of a server go in one piece. None of them may be sent twice.
        """
        settle = gather(len(commands), then)
        groups: dict[Endpoint | None, list[int]] = {}
        for place, (slot, _) in enumerate(commands):
            try:
                endpoint = self.endpoint(slot)
            except ServerUnavailableError:
                endpoint = None
            groups.setdefault(endpoint, []).append(place)
        for endpoint, places in groups.items():
            calls = [_Call(*commands[place], partial(settle, place)) for place in places]
            try:
                wire = self._open(endpoint) if endpoint is not None else None
            except CleanupJobError:
                wire = None
            if wire is None:
                for call in calls:
                    self._send(call)
            else:
                self._put_all(calls, wire)

    def wait(self) -> None:
        """Receive the next reply of every server that owes one; try again what had to wait."""
        for wire in [*self._wires.values()]:
            if wire:
                wire.receive()
                self.spent_s += wire.apart_s
                self.queued_s = wire.queued_s
        if not self._waiting:
            self._unreachable.clear()
            return
        pause_s = self._try_again_at - time.monotonic()
        if pause_s > 0 and any(self._wires.values()):
            return
        time.sleep(max(0.0, pause_s))
        waiting, self._waiting = self._waiting, []
        self._learn()
        self._unreachable.clear()
        for call in waiting:
            self._send(call)

    def can_wait(self, timeout_s: float) -> bool:
        """True if there is something for `wait` to do by then, and it need not be awaited long."""
        owed = [wire for wire in self._wires.values() if wire]
        if self._waiting or not owed:
            return True
        if len(owed) == 1:
            return owed[0].can_receive(timeout_s)
        if any(wire.can_receive() for wire in owed):
            return True
        return bool(select.select(owed, [], [], timeout_s)[0])

    def renew(self) -> None:
        """Have new connections from now on: after a long pause these may have been closed.

        Nothing may be in flight.
        """
        for endpoint, wire in self._wires.items():
            self._timings.append(wire.take_timings())
            wires.discard(endpoint)
        self._wires.clear()

    def take_timings(self) -> Timings:
        """The timings of all connections since the last call."""
        taken, self._timings = self._timings, []
        return merge_timings([*taken, *(wire.take_timings() for wire in self._wires.values())])

    @property
    def routes(self) -> Routes:
        """As far as is known by now."""
        return Routes(self._access, tuple(self._spans), self._clustered)

    def close(self) -> None:
        """Close its connections, for those who brought their own `connect`."""
        for wire in self._wires.values():
            wire.close()

    # -- sending ---------------------------------------------------------------------------------

    def _send(self, call: _Call) -> None:
        try:
            wire = self._open(self.endpoint(call.slot))
        except ServerUnavailableError as error:
            self._postpone(call, error)
        except CleanupJobError as error:
            call.then(error)
        else:
            self._put(call, wire)

    def _put(self, call: _Call, wire: Wire, *, asking: bool = False) -> None:
        if call.first:
            wire.send(*call.first, then=_ignore)
        if asking:
            wire.send("ASKING", then=_ignore)
        wire.send(*call.words, then=lambda reply: self._take(call, wire, reply))

    def _put_all(self, calls: Sequence[_Call], wire: Wire) -> None:
        packed = [pack_command(call.words) for call in calls]  # type: ignore[arg-type]
        upcoming = iter(calls)
        wire.send_packed(
            _name_of(calls[0].words),
            packed,
            lambda reply: self._take(next(upcoming), wire, reply),
            count=len(calls),
        )

    def _send_all(
        self,
        slot: int,
        words: Sequence[bytes],
        keys: Sequence[bytes],
        places: Sequence[int],
        settle: Callable[[int, Reply], None],
        call: Callable[[int], _Call],
    ) -> None:
        """One server's share of `each`, packed in one piece."""
        try:
            wire = self._open(self.endpoint(slot))
        except CleanupJobError:
            for place in places:
                self._send(call(place))
            return
        head = b"*%d\r\n" % (len(words) + 1)
        head += b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
        packed = b"".join([b"%b$%d\r\n%b\r\n" % (head, len(keys[i]), keys[i]) for i in places])
        upcoming = iter(places)

        def take(reply: Reply) -> None:
            place = next(upcoming)
            if isinstance(reply, Exception):
                self._take(call(place), wire, reply)
            else:
                settle(place, reply)

        wire.send_packed(_name_of(words), [packed], take, count=len(places))

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

    def _open(self, endpoint: Endpoint) -> Wire:
        before = self._wires.get(endpoint)
        if before is not None and not before.is_lost:
            return before
        if before is not None:
            self._timings.append(before.take_timings())
            del self._wires[endpoint]
        if endpoint in self._unreachable:
            # Each try may take seconds, and many commands may be on their way there.
            raise self._unreachable[endpoint]
        try:
            wire = self._connect(endpoint)
            wire.measure_latency()
            if wire.is_lost:
                # Not a `WireLostError`: that is for what was sent, and may have been done.
                raise ServerUnavailableError(
                    f"lost the connection to {endpoint.address} as soon as it was made",
                    "connection_lost",
                )
            self._wires[endpoint] = wire
        except ServerUnavailableError as error:
            self._unreachable[endpoint] = error
            raise
        return wire

    # -- following what the cluster says ---------------------------------------------------------

    def _take(self, call: _Call, wire: Wire, reply: Reply) -> None:
        """Follow what the cluster says, or hand the reply on."""
        self.last_s = wire.last_s
        if isinstance(reply, redis.exceptions.AskError):  # and MOVED
            self._redirect(call, wire.endpoint, reply)
        elif isinstance(reply, _WAIT) or (call.reads and isinstance(reply, WireLostError)):
            self._postpone(call, reply)
        else:
            call.then(reply)

    def _redirect(self, call: _Call, endpoint: Endpoint, reply: Any) -> None:
        # An empty host means the host that answered.
        there = self._access.announced(reply.host or endpoint.host, int(reply.port))
        moved = isinstance(reply, redis.exceptions.MovedError)
        if moved:
            self._moved[call.slot] = there
        call.hops += 1
        if call.hops > PROMPT_HOPS:
            self._postpone(call, reply)
        elif moved:
            self._send(call)
        else:
            self._ask(call, there)

    def _ask(self, call: _Call, endpoint: Endpoint) -> None:
        """Send it once to the server that is taking the slot over."""
        try:
            wire = self._open(endpoint)
        except CleanupJobError as error:
            self._postpone(call, error)
        else:
            self._put(call, wire, asking=True)

    def _postpone(self, call: _Call, reply: Reply) -> None:
        """Have it wait for the cluster to settle; if it waited long enough, that was the reply."""
        now = time.monotonic()
        if call.give_up_at is None:
            moving = isinstance(reply, redis.exceptions.TryAgainError)
            call.give_up_at = now + (MIGRATION_PATIENCE_S if moving else self._patience_s)
        if not self._clustered or now >= call.give_up_at:
            call.then(reply)
            return
        call.hops = 0
        if not self._waiting:
            self._try_again_at = now + PAUSE_S
        self._waiting.append(call)

    def _learn(self) -> None:
        """Ask the servers, one after another, who has which slot by now."""
        known = dict.fromkeys(endpoint for _, _, endpoint in self._spans)
        known[self._access.endpoint] = None
        for endpoint in sorted(known, key=self._unreachable.__contains__):
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


def _name_of(words: Sequence[bytes | str]) -> str:
    """What timings call a command: with its subcommand, without arguments."""
    first = _text(words[0])
    return f"{first} {_text(words[1])}" if first == "OBJECT" else first


def _text(word: bytes | str) -> str:
    return word if isinstance(word, str) else word.decode()


def gather(count: int, then: Callable[[list[Reply]], None]) -> Callable[[int, Reply], None]:
    """Takes so many replies, each with its place; `then` gets them all when the last one is there.

    It gets none at once if there are none to come.
    """
    replies: list[Reply] = [None] * count
    waiting = count
    if not count:
        then(replies)

    def settle(place: int, reply: Reply) -> None:
        nonlocal waiting
        replies[place] = reply
        waiting -= 1
        if not waiting:
            then(replies)

    return settle


def _ignore(_: Reply) -> None:
    """For replies that nothing depends on."""


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
