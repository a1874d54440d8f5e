"""A journal's records to what became of each key: the only module that writes keys.

RESTORE without REPLACE puts back what is absent and never overwrites. Several groups of keys are in
flight, each key at the server that has its slot.

Order: the owned keys of the whole journal first, the heartbeats after all of them. A heartbeat from
a journal is stale, so a sweep would delete it with all that it can find of its coordinator; keys
without one are orphans, which a sweep only reports, or which were just touched. So whatever was put
back is safe from a sweep until the last part, and a restore that was killed can simply be repeated.
Within both parts the last record comes first: if a key is in several, the latest counts.

Invariants:
- Counts come from replies: recorded = restored + absent + present + expired + failed + unknown.
- A key whose reply did not come is looked at. One that is not there failed; of one that is it is
  unknown who put it there.
- In a dry run no command is sent that writes. What would be put back is *absent*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
import redis

from cleanup_job import acl
from cleanup_job import wire as wires
from cleanup_job.errors import CleanupJobError, ServerRefusedError, ServerUnavailableError
from cleanup_job.journal import Entry
from cleanup_job.keyspace import named_among, slot_of, widths_of
from cleanup_job.model import (
    HEARTBEAT,
    Counts,
    Problem,
    Pulse,
    Routes,
    Schema,
    Target,
    printable,
)
from cleanup_job.routes import Router
from cleanup_job.timings import Timings
from cleanup_job.wire import Reply, WireLostError

OUTCOMES = ("restored", "absent", "present", "expired", "failed", "unknown")
"""What can become of a recorded key. `absent` is one that a dry run would put back."""

RESTORED, ABSENT, PRESENT, EXPIRED, FAILED, UNKNOWN = OUTCOMES

KEYS_PER_GROUP = 250
"""Keys that are sent together; one group is packed while the server works on another."""

BYTES_PER_GROUP = 1 << 20
"""The same in dumps, unless a single one is longer."""

GROUPS_IN_FLIGHT = 3

_REMEDIES = (
    (
        "OutOfMemoryError",
        "the server's memory is full; raise its maxmemory or free some, and restore again",
    ),
    (
        "DUMP payload version or checksum",
        "a dump can only be restored on the product that wrote it, at the same or a newer version",
    ),
    ("Bad data format", "the server can't read the dump; it was written by another product"),
    ("MISCONF", "the server can't save its data and takes no writes; see its log"),
    ("ReadOnlyError", "it is a replica by now; restore again, to its primary"),
)
"""What to do about an error reply that has such words in it."""


class Key(NamedTuple):
    """One recorded key."""

    family: str
    name: bytes
    expiry_ms: int
    dump: bytes


class RestoreOutcome(msgspec.Struct, frozen=True):
    """What became of some records' keys, by family and outcome.

    Attributes:
        not_attempted: keys that were counted as failed because the run was stopped.
    """

    counts: Counts
    not_attempted: int
    problems: tuple[Problem, ...]
    timings: Timings


def preflight(target: Target, schema: Schema, *, dry_run: bool) -> None:
    """Make sure that all commands are allowed, before the first key is written.

    RESTORE is sent with a dump that no server takes, so that nothing comes of it.

    Raises:
        ServerRefusedError: if a right is missing.
        ServerUnavailableError: if the connection broke.
    """
    for server in target.servers:
        if not server.slots:
            continue
        wire = wires.borrow(server.endpoint)
        wire.ask("TIME")
        for pattern in schema.patterns:
            key = pattern.example_for(b"cleanup-job-probe")
            _require(wire, acl.key_rule(pattern), "EXISTS", key)
            if not dry_run:
                _require(wire, acl.key_rule(pattern), "RESTORE", key, "1", b"", "ABSTTL")


def _require(wire: wires.Wire, keys: str, *words: bytes | str) -> None:
    """Send it; any answer will do but that it is not allowed, or none.

    The key's slot may be another server's: rights are looked at before that.
    """
    replies: list[Reply] = []
    wire.send(*words, then=replies.append)
    wire.drain()
    reply = replies[0]
    if isinstance(reply, CleanupJobError):
        raise reply
    if isinstance(reply, redis.exceptions.NoPermissionError) or "NOPERM" in str(reply):
        raise wires.refusal(str(words[0]), reply, wire.endpoint, keys)


def select(entry: Entry, schema: Schema | None, only: bytes | None) -> list[Key]:
    """The keys of a record, or those of one coordinator.

    Args:
        entry: the record.
        schema: the families as they were; needed to tell whose a key is.
        only: a coordinator's id; None for all.
    """
    rows = map(Key, entry.families(), entry.keys, entry.expiries_ms, entry.dumps)
    if only is None or schema is None:
        return [*rows]
    if only not in entry.guard_ids:
        return []
    ids = frozenset(entry.guard_ids)
    return [key for key in rows if _owner_of(key, ids, schema, orphaned=entry.of_orphans) == only]


def _owner_of(key: Key, ids: frozenset[bytes], schema: Schema, *, orphaned: bool) -> bytes | None:
    """Whose key it is, among the ids that its record names."""
    if key.family == HEARTBEAT:
        return next(iter(schema.heartbeat.ids([key.name])), None)
    pattern = dict(schema.owned)[key.family]
    names = named_among(pattern, key.name, ids, widths_of(ids), orphaned=orphaned)
    return names[0] if names else None


def restore(
    routes: Routes,
    parts: Iterable[Iterable[Sequence[Key]]],
    pulse: Pulse,
    *,
    dry_run: bool = False,
) -> RestoreOutcome:
    """Put back what is absent, part after part, and tell what became of each key.

    Never raises for what the server says or does: that is in the outcome.

    Args:
        routes: to the servers.
        parts: rows of keys; those of one part are through before the next begins.
        pulse: is told of progress, and may end it.
        dry_run: only look.
    """
    run = _Restore(routes, pulse, dry_run=dry_run)
    for part in parts:
        run.run(part)
    return run.outcome()


def _groups(part: Iterable[Sequence[Key]]) -> Iterator[list[Key]]:
    """The rows in groups that are sent together."""
    group: list[Key] = []
    size = 0
    for keys in part:
        for key in keys:
            if group and (len(group) >= KEYS_PER_GROUP or size + len(key.dump) > BYTES_PER_GROUP):
                yield group
                group, size = [], 0
            group.append(key)
            size += len(key.dump)
    if group:
        yield group


class _Restore:
    """The state of one restore.

    Attributes:
        open: groups that were begun and not settled.
        hopeless: a server is gone for good; nothing more is begun.
    """

    def __init__(self, routes: Routes, pulse: Pulse, *, dry_run: bool) -> None:
        self.routes = routes
        self.pulse = pulse
        self.dry_run = dry_run
        self.router = Router(routes)
        self.counts: Counts = {}
        self.failures: dict[tuple[str, str], list[bytes]] = {}
        self.not_attempted = 0
        self.open = 0
        self.hopeless = False

    def run(self, part: Iterable[Sequence[Key]]) -> None:
        for group in _groups(part):
            if self.hopeless or self.pulse.stopping():
                self.not_attempted += len(group)
                self._count(group, [FAILED] * len(group))
                continue
            self.open += 1
            self._look(group) if self.dry_run else self._restore(group)
            while self.open >= GROUPS_IN_FLIGHT:
                self.router.wait()
        while self.open:
            self.router.wait()

    def _restore(self, group: list[Key]) -> None:
        def take(replies: list[Reply]) -> None:
            became = [self._became(key, reply) for key, reply in zip(group, replies, strict=True)]
            self._look_at_unclear(group, became, replies)

        commands = [
            (slot_of(key.name), (b"RESTORE", key.name, b"%d" % key.expiry_ms, key.dump, b"ABSTTL"))
            for key in group
        ]
        self.router.many(commands, take)

    def _became(self, key: Key, reply: Reply) -> str:
        """What a reply says, before the clock was asked; unclear ones are unknown."""
        if not isinstance(reply, Exception):
            return RESTORED
        if str(reply).startswith("BUSYKEY"):
            return PRESENT
        if isinstance(reply, WireLostError):
            return UNKNOWN
        self._fail(key, reply)
        return FAILED

    def _look_at_unclear(
        self, group: list[Key], became: list[str], replies: Sequence[Reply]
    ) -> None:
        """What did not come may have been done: see what is there."""
        places = [place for place, outcome in enumerate(became) if outcome == UNKNOWN]
        if not places:
            self._mind_the_clock(group, became)
            return
        for place in places:
            self._fail(group[place], replies[place])

        def take(there: list[Reply]) -> None:
            self.hopeless |= any(isinstance(reply, CleanupJobError) for reply in there)
            for place, reply in zip(places, there, strict=True):
                became[place] = FAILED if reply == 0 else UNKNOWN
            self._mind_the_clock(group, became)

        self.router.each("EXISTS", [group[place].name for place in places], take, reads=True)

    def _look(self, group: list[Key]) -> None:
        """The dry run: see what is there."""

        def take(there: list[Reply]) -> None:
            became = [PRESENT if reply == 1 else ABSENT for reply in there]
            for place, reply in enumerate(there):
                if isinstance(reply, Exception):
                    became[place] = UNKNOWN
                    self._fail(group[place], reply)
                    self.hopeless |= isinstance(reply, CleanupJobError)
            self._mind_the_clock(group, became)

        self.router.each("EXISTS", [key.name for key in group], take, reads=True)

    def _mind_the_clock(self, group: list[Key], became: list[str]) -> None:
        """A server answers OK to a key that has expired, and has nothing of it.

        Its clock is asked behind that answer. What expires in between is gone too.
        """
        by_server: dict[object, list[int]] = {}
        for place, outcome in enumerate(became):
            if outcome in (RESTORED, ABSENT) and group[place].expiry_ms:
                slot = slot_of(group[place].name)
                by_server.setdefault(self._server_of(slot), []).append(place)
        waiting = len(by_server)

        def take(places: list[int], reply: Reply) -> None:
            nonlocal waiting
            waiting -= 1
            for place in places:
                if isinstance(reply, Exception):
                    became[place] = UNKNOWN
                    self._fail(group[place], reply)
                elif group[place].expiry_ms <= int(reply[0]) * 1000 + int(reply[1]) // 1000:
                    became[place] = EXPIRED
            if not waiting:
                self._close(group, became)

        for places in by_server.values():
            slot = slot_of(group[places[0]].name)
            self.router.send(slot, ("TIME",), then=partial(take, places), reads=True)
        if not by_server:
            self._close(group, became)

    def _server_of(self, slot: int) -> object:
        try:
            return self.router.endpoint(slot)
        except ServerUnavailableError:
            return slot

    def _close(self, group: Sequence[Key], became: Sequence[str]) -> None:
        self.open -= 1
        self._count(group, became)

    def _count(self, group: Sequence[Key], became: Sequence[str]) -> None:
        for key, outcome in zip(group, became, strict=True):
            self.counts.setdefault(key.family, dict.fromkeys(OUTCOMES, 0))[outcome] += 1
        self.pulse.advance(len(group))

    def _fail(self, key: Key, reply: Reply) -> None:
        error = self._error(reply)
        self.failures.setdefault((error.code, str(error)), []).append(key.name)

    def _error(self, reply: Reply) -> CleanupJobError:
        if isinstance(reply, CleanupJobError):
            self.hopeless |= not isinstance(reply, WireLostError)
            return reply
        endpoint = self.routes.access.endpoint
        for words, remedy in _REMEDIES:
            if words in f"{type(reply).__name__} {reply}":
                where = f"{endpoint.address} answered RESTORE with an error: {reply}"
                return ServerRefusedError(f"{where}; {remedy}", "error_reply")
        return wires.refusal("EXISTS" if self.dry_run else "RESTORE", reply, endpoint)

    def outcome(self) -> RestoreOutcome:
        return RestoreOutcome(
            counts=self.counts,
            not_attempted=self.not_attempted,
            problems=tuple(
                Problem(code, message, len(names), tuple(map(printable, names[:3])))
                for (code, message), names in self.failures.items()
            ),
            timings=self.router.take_timings(),
        )
