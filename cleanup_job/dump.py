"""Keys into the journal, before the purge may delete them.

A batch in one slot is dumped by calls of `lua/dump.lua`, each of which ends when its reply is long
enough; what came is given to the recorder before more is asked for. The keys of a scattered batch
are dumped by a call for each, so many at once as fit into memory. So memory is bounded by the
backlog and by the longest single value.

Invariants:
- A batch is done when a record of each of its keys is on the disk, or the key is gone.
- Of an orphan no key is dumped that was touched too lately, since the dump itself touches it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import NamedTuple

import redis

from cleanup_job.journal import Entry, JournalError
from cleanup_job.keyspace import slot_of
from cleanup_job.model import KEYS_PER_BATCH, Batch
from cleanup_job.pace import Pace
from cleanup_job.prints import Prints
from cleanup_job.recorder import Recorder
from cleanup_job.routes import Router, gather
from cleanup_job.wire import Reply, WireLostError

SCRIPT = (files(__package__) / "lua" / "dump.lua").read_bytes()
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

MOST_TRIES = 3
"""How often a batch is asked for anew: its script was flushed, or the connection broke."""

_TRY_AGAIN = (redis.exceptions.NoScriptError, WireLostError)

DUMP_BYTES = 256 * 1024
"""Where dump.lua ends its reply."""

BACKLOG_BYTES = 16 << 20
"""Dumps that wait to be written, in one worker. More are not asked for before."""

KEYS_AT_ONCE = (1, 50, KEYS_PER_BATCH)
"""Of a scattered batch: at least, at first, at most. What is in flight has to fit into memory, and
how large values are is only known afterwards."""


class Ended(NamedTuple):
    """How it ended: all is on the disk, or there is a reason why not.

    Attributes:
        error: a reply, or why the journal can't be written.
        touched: keys of orphans that were touched too lately. The others are not dumped yet.
    """

    error: Exception | None = None
    touched: Sequence[bytes] = ()


class Dumping:
    """A batch on its way into the journal.

    Attributes:
        keys: those that are still to be dumped, `families` in step.
        prints: to be filled, of orphans.
        unwritten: records that are not on the disk yet.
        is_asking: some of the keys are being dumped, or held up until the disk has caught up.
        error, touched: as in `Ended`, when they are known.
    """

    def __init__(
        self,
        batch: Batch,
        keys: Sequence[bytes],
        families: Sequence[str],
        prints: Prints,
        then: Callable[[Ended], None],
    ) -> None:
        self.batch = batch
        self.keys = keys
        self.families = families
        self.prints = prints
        self.then = then
        self.unwritten = 0
        self.is_asking = False
        self.tries = 0
        self.error: Exception | None = None
        self.touched: Sequence[bytes] = ()

    def take(self, dumps: Sequence[bytes | None], expiries_ms: Sequence[int]) -> Entry:
        """The record of the first keys, whose dumps these are; those that are gone have none."""
        count = len(dumps)
        keys, self.keys = self.keys[:count], self.keys[count:]
        families, self.families = self.families[:count], self.families[count:]
        batch = self.batch
        if batch.is_of_orphans:
            self.prints.add(keys, dumps, expiries_ms)
        if None in dumps:
            there = [dump is not None for dump in dumps]
            keys = [key for key, yes in zip(keys, there, strict=True) if yes]
            families = [name for name, yes in zip(families, there, strict=True) if yes]
            expiries_ms = [at for at, yes in zip(expiries_ms, there, strict=True) if yes]
        return Entry(
            guard_ids=batch.guard_ids,
            of_orphans=batch.is_of_orphans,
            slot=batch.slot,
            slots=[*map(slot_of, keys)] if batch.slot is None else (),
            counts=dict(Counter(families)),
            keys=keys,
            expiries_ms=expiries_ms,
            dumps=[dump for dump in dumps if dump is not None],
        )


class Dumper:
    """Dumps what a worker is about to delete.

    Attributes:
        pace: how many keys a call may have.
        most_in_flight: how many keys may be dumped at once.
    """

    def __init__(
        self, router: Router, recorder: Recorder, max_block_ms: float, least_in_flight: int
    ) -> None:
        self.pace = Pace(KEYS_PER_BATCH, max_block_ms)
        self._router = router
        self._recorder = recorder
        self._least_in_flight = self.most_in_flight = least_in_flight
        self._in_flight = 0
        self._key_bytes = 1
        self._at_once = KEYS_AT_ONCE[1]
        self._held_up: list[Dumping] = []

    @property
    def has_room(self) -> bool:
        """False while servers or the disk have enough to do."""
        # On a long way there are many; fewer, if what they hold would take too much memory.
        fit = max(self._least_in_flight, BACKLOG_BYTES // self._key_bytes)
        return self._in_flight <= min(self.most_in_flight, fit) and not self._is_behind

    @property
    def _is_behind(self) -> bool:
        return self._recorder.backlog > BACKLOG_BYTES

    def record(
        self,
        batch: Batch,
        keys: Sequence[bytes],
        families: Sequence[str],
        prints: Prints,
        then: Callable[[Ended], None],
    ) -> None:
        """Have a batch dumped and written.

        Args:
            batch: which.
            keys: those of it that are to be dumped.
            families: of each key, in step.
            prints: to be filled, of orphans.
            then: is told once how it ended.
        """
        self._go_on(Dumping(batch, keys, families, prints, then))

    def wait(self) -> None:
        """Take what servers and the disk have to say."""
        if self._router.in_flight:
            self._router.wait()
        self._recorder.settle(wait=not self._router.in_flight)
        while self._held_up and not self._is_behind:
            dumping = self._held_up.pop()
            dumping.is_asking = False
            self._go_on(dumping)

    def ask(self, keys: Sequence[bytes], then: Callable[[list[Reply]], None]) -> None:
        """Dump keys one by one, wherever they lie; a server without the script is brought it."""

        def take(replies: list[Reply]) -> None:
            missing = [
                place
                for place, reply in enumerate(replies)
                if isinstance(reply, redis.exceptions.NoScriptError)
            ]

            def fill_in(asked_again: list[Reply]) -> None:
                for place, reply in zip(missing, asked_again, strict=True):
                    replies[place] = reply
                then(replies)

            settle = gather(len(missing), fill_in)
            for number, place in enumerate(missing):
                self._router.send(
                    slot_of(keys[place]),
                    ("EVALSHA", SHA, "1", keys[place]),
                    then=partial(settle, number),
                    reads=True,
                    first=("SCRIPT", "LOAD", SCRIPT),
                )

        self._router.each(f"EVALSHA {SHA} 1", keys, take, reads=True)

    def _go_on(self, dumping: Dumping) -> None:
        """Do what comes next for a batch, if it has not to wait for something."""
        if dumping.is_asking:
            return
        if dumping.keys and not (dumping.error or dumping.touched):
            dumping.is_asking = True
            if self._is_behind:
                self._held_up.append(dumping)
            elif dumping.batch.slot is None:
                self._dump_each(dumping)
            else:
                self._dump(dumping, dumping.batch.slot)
        elif not dumping.unwritten:
            dumping.then(Ended(dumping.error, dumping.touched))

    def _dump(self, dumping: Dumping, slot: int) -> None:
        keys = dumping.keys

        def take(reply: Reply) -> None:
            self._in_flight -= len(keys)
            dumping.is_asking = False
            if isinstance(reply, _TRY_AGAIN) and dumping.tries < MOST_TRIES:
                # It only reads. Perhaps the server does not have the script any more.
                dumping.tries += 1
            elif isinstance(reply, Exception):
                dumping.error = dumping.error or reply
            elif reply[0] == 0:
                dumping.touched = [keys[place - 1] for place in reply[1:]]
            else:
                self.pace.took(reply[0], self._router.last_s)
                self._write(dumping, reply[1::2], reply[2::2])
            self._go_on(dumping)

        self._in_flight += len(keys)
        self._router.send(
            slot,
            ("EVALSHA", SHA, str(len(keys)), *keys, str(dumping.batch.min_idle_s)),
            then=take,
            reads=True,
            first=("SCRIPT", "LOAD", SCRIPT) if dumping.tries else (),
        )

    def _dump_each(self, dumping: Dumping) -> None:
        keys = dumping.keys[: self._at_once]

        def take(replies: list[Reply]) -> None:
            self._in_flight -= len(keys)
            dumping.is_asking = False
            error = next((reply for reply in replies if isinstance(reply, Exception)), None)
            if error is not None:
                dumping.error = dumping.error or error
            else:
                dumps = [reply[1] for reply in replies]
                self._fit(sum(len(dump or b"") for dump in dumps))
                self._write(dumping, dumps, [reply[2] for reply in replies])
            self._go_on(dumping)

        self._in_flight += len(keys)
        self.ask(keys, take)

    def _fit(self, size: int) -> None:
        """Ask for more keys at once while they are small, and for fewer when they are large."""
        least, _, most = KEYS_AT_ONCE
        wanted = self._at_once * 2
        if size > DUMP_BYTES:
            wanted = self._at_once * DUMP_BYTES // size
        self._at_once = max(least, min(wanted, most))

    def _write(
        self, dumping: Dumping, dumps: Sequence[bytes | None], expiries_ms: Sequence[int]
    ) -> None:
        size = sum(len(dump or b"") for dump in dumps)
        self._key_bytes = max(size // max(1, len(dumps)), self._key_bytes * 7 // 8, 1)
        entry = dumping.take(dumps, expiries_ms)

        def written(error: JournalError | None) -> None:
            dumping.unwritten -= 1
            dumping.error = dumping.error or error
            self._go_on(dumping)

        if entry.keys:
            dumping.unwritten += 1
            self._recorder.add(entry, written)
