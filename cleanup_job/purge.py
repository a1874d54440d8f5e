"""Batches to outcomes: the only module that deletes.

Each batch is one call of `lua/purge.lua`, which deletes it only if every heartbeat is still as
it was judged, in the same atomic step. If one changed, nothing is deleted; its keys are taken
out (*spared*) and the rest is tried again. Every retry drops a guard or learns that one is
gone, so it ends.

Invariants:
- Counts come from replies. A key is deleted because UNLINK counted it, gone because UNLINK did
  not, spared because it was never asked for.
- A call is sent once. When its reply does not come, its keys are looked at again: those that
  are there *failed*, those that are not are *unknown*, since it can't be told who deleted them.
- A heartbeat goes in the same step as the last of its coordinator's keys, or after it.

Not promised: if the connection breaks with a call in flight, the server may still carry it out
after we looked. Then a key counted as failed is gone, by a step that was guarded like any other.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from importlib.resources import files

import redis

from cleanup_job import wire as wires
from cleanup_job.errors import CleanupJobError
from cleanup_job.judge import judge_heartbeat
from cleanup_job.model import (
    ABSENT,
    HEARTBEAT,
    OUTCOMES,
    Batch,
    Counts,
    Endpoint,
    Kind,
    Outcome,
    Problem,
    Pulse,
    PurgeTask,
    Schema,
    Timings,
    merge_timings,
    printable,
)
from cleanup_job.wire import Reply, Wire

IN_FLIGHT = 2
"""Calls in flight per worker: the server works on one while Python packs the next."""

LONG = 256
"""Heartbeats longer than this are compared by SHA-1; the script has the same number."""

_SCRIPT = (files(__package__) / "lua" / "purge.lua").read_bytes()
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()

_DELETED, _CHANGED, _TOUCHED = 1, 0, 2


def preflight(endpoint: Endpoint, schema: Schema, min_idle_s: int) -> None:
    """Make sure that the purge will be allowed to do all it does, before it does anything.

    Runs the script on keys of each family that cannot exist. `min_idle_s` is 0 unless
    orphans are to be purged, which takes one right more.

    Raises:
        ServerRefusedError: if a right is missing.
        ServerUnavailableError: if the connection broke.
    """
    wire = wires.borrow(endpoint)
    wire.ask("SCRIPT", "LOAD", _SCRIPT)
    probe = b"cleanup-job-probe-" + uuid.uuid4().hex.encode()
    keys = tuple((_probe_key(pattern.text, probe),) for _, pattern in schema.owned)
    batch = Batch(
        guards=(schema.heartbeat.key_for(probe),),
        guard_ids=(probe,),
        own_heartbeats=1,
        expected=(ABSENT,),
        keys=keys,
        needs=tuple(((0,),) for _ in keys),
        min_idle_s=min_idle_s,
    )
    try:
        wire.ask(*_Attempt(batch).words())
    except CleanupJobError as error:
        if error.code == "error_reply" and "can't run this command" in str(error):
            raise type(error)(
                f"{endpoint.address}: this user may not run MGET, EXISTS, TIME, OBJECT or UNLINK "
                f"from a script; nothing was deleted ({error})",
                "no_permission",
            ) from error
        raise


def purge(task: PurgeTask, pulse: Pulse) -> Outcome:
    """Delete some batches, several in flight, and tell what became of each key.

    Never raises for what the server says or does: that is in the outcome.
    """
    run = _Purge(task, pulse)
    run.run()
    return run.outcome()


def leave(task: PurgeTask) -> Outcome:
    """The outcome of batches that are never sent: their keys are still there because of us."""
    run = _Purge(task, _Unwatched())
    for batch in task.batches:
        run.leave(batch)
    return run.outcome()


def account_for_lost(task: PurgeTask) -> Outcome:
    """What became of a task whose worker died: look, and repeat nothing.

    Running the task again would be harmless, but it would count what the dead worker deleted
    as gone by itself.
    """
    run = _Purge(task, _Unwatched())
    run.in_flight = [_Attempt(batch) for batch in task.batches]
    run.settle_lost(WorkerLostError())
    return run.outcome()


class _Unwatched:
    """A pulse that nobody feels."""

    def advance(self, keys: int) -> None:
        pass

    def stopping(self) -> bool:
        return False


class WorkerLostError(CleanupJobError):
    """A worker process died in the middle of its batches."""

    def __init__(self) -> None:
        super().__init__("a worker process died; its keys were looked at again", "worker_lost")


class _Attempt:
    """One batch on its way: what is still in it, and what is known of its guards.

    Attributes:
        dropped: guards that changed; all keys that need one of them are out.
        asked: the keys of the next call by family, the heartbeats last.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.expected = list(batch.expected)
        self.dropped: set[int] = set()
        self.expired: set[int] = set()
        self.reloaded = False
        self._select()

    def _select(self) -> None:
        """Which guards, keys and heartbeats are still in."""
        batch, dropped = self.batch, self.dropped
        self.guard_places = [i for i in range(len(batch.guards)) if i not in dropped]
        self.heartbeat_places = [
            i for i in range(batch.own_heartbeats) if i not in dropped and i not in self.expired
        ]
        keys: list[Sequence[bytes]] = list(batch.keys)
        if dropped:
            keys = [
                [
                    key
                    for key, needs in zip(family, all_needs, strict=True)
                    if dropped.isdisjoint(needs)
                ]
                for family, all_needs in zip(batch.keys, batch.needs, strict=True)
            ]
        self.asked = [*keys, [batch.guards[i] for i in self.heartbeat_places]]

    @property
    def is_empty(self) -> bool:
        return not any(self.asked)

    def words(self) -> list[bytes | str | int]:
        """The call, as purge.lua documents it."""
        guards = [self.batch.guards[i] for i in self.guard_places]
        keys = [key for family in self.asked for key in family]
        words: list[bytes | str | int] = ["EVALSHA", _SHA, len(guards) + len(keys)]
        words += guards
        words += keys
        words += (len(guards), self.batch.min_idle_s, len(self.asked), *map(len, self.asked))
        words += [_comparable(self.expected[i]) for i in self.guard_places]
        return words

    def finished_ids(self) -> list[bytes]:
        """The coordinators whose last keys go with this batch."""
        batch = self.batch
        places: Iterable[int] = range(batch.own_heartbeats)
        if batch.is_of_orphans:
            places = {needs[0] for all_needs in batch.needs for needs in all_needs}
        return [batch.guard_ids[i] for i in places if i not in self.dropped]

    def drop(self, places: Iterable[int]) -> None:
        """Take out all keys that need one of these guards."""
        self.dropped.update(places)
        self._select()

    def expire(self, places: Iterable[int]) -> None:
        """These heartbeats are gone: their coordinators are as dead as before."""
        for place in places:
            self.expected[place] = ABSENT
            self.expired.add(place)
        self._select()


class _Purge:
    """The state of one task."""

    def __init__(self, task: PurgeTask, pulse: Pulse) -> None:
        self.task = task
        self.pulse = pulse
        self.counts: Counts = {
            name: dict.fromkeys(OUTCOMES, 0) for name in task.schema.family_names
        }
        self.purged: set[bytes] = set()
        self.spared: set[bytes] = set()
        self.revived: set[bytes] = set()
        self.unsettled: set[bytes] = set()
        self.not_attempted = 0
        self.failures: dict[tuple[str, str], list[bytes]] = {}
        self.timings: list[Timings] = []
        self.in_flight: list[_Attempt] = []

    def run(self) -> None:
        waiting = list(reversed(self.task.batches))
        reachable = True
        while waiting and reachable and not self.pulse.stopping():
            try:
                wire = wires.borrow(self.task.endpoint)
                while waiting and not self.pulse.stopping():
                    while len(wire) >= IN_FLIGHT:
                        wire.receive()
                    self._call(wire, _Attempt(waiting.pop()))
                wire.drain()
                self.timings.append(wire.take_timings())
            except CleanupJobError as error:
                reachable = self.settle_lost(error)
        for batch in waiting:
            self.leave(batch)

    def _call(self, wire: Wire, attempt: _Attempt) -> None:
        def take(reply: Reply) -> None:
            self.in_flight.remove(attempt)
            self._digest(wire, attempt, reply)

        self.in_flight.append(attempt)
        wire.send(*attempt.words(), then=take)

    def _digest(self, wire: Wire, attempt: _Attempt, reply: Reply) -> None:
        if isinstance(reply, redis.exceptions.NoScriptError) and not attempt.reloaded:
            # Nothing ran. Somebody flushed the scripts, or this server is a new one.
            attempt.reloaded = True
            wire.send("SCRIPT", "LOAD", _SCRIPT, then=lambda _: None)
            self._call(wire, attempt)
        elif isinstance(reply, redis.ResponseError):
            error = wires.refusal("EVALSHA", reply, self.task.endpoint)
            self._look_again(wire, attempt, error)
        elif reply[0] == _DELETED:
            self._settle(attempt, reply[1:])
        else:
            if reply[0] == _CHANGED:
                self._take_changes(attempt, reply)
            else:
                self._take_touched(attempt, reply[1:])
            if attempt.is_empty:
                self._settle(attempt, [0] * len(attempt.asked))
            else:
                self._call(wire, attempt)

    def _take_changes(self, attempt: _Attempt, reply: Sequence[Reply]) -> None:
        now_ms = reply[1] * 1000 + reply[2] // 1000
        gone: list[int] = []
        changed: list[int] = []
        for place, value in zip(reply[3::2], reply[4::2], strict=True):
            guard = attempt.guard_places[place - 1]
            if value == 0:
                gone.append(guard)
                continue
            changed.append(guard)
            was_stale = attempt.batch.expected[guard] != ABSENT
            if was_stale and self._is_live(value, now_ms):
                self.revived.add(attempt.batch.guard_ids[guard])
        attempt.expire(gone)
        attempt.drop(changed)

    def _is_live(self, value: bytes | int, now_ms: int) -> bool:
        if not isinstance(value, bytes):
            return False
        return judge_heartbeat(value, now_ms, self.task.rule).kind is Kind.LIVE

    def _take_touched(self, attempt: _Attempt, places: Sequence[int]) -> None:
        """An orphan of which one key was touched keeps all of them."""
        owners = [
            needs[0]
            for all_needs in attempt.batch.needs
            for needs in all_needs
            if attempt.dropped.isdisjoint(needs)
        ]
        attempt.drop({owners[place - 1] for place in places})

    def _settle(self, attempt: _Attempt, deleted: Sequence[int]) -> None:
        """Count a batch whose call went through."""
        for name, asked, done in zip(
            self.task.schema.family_names, attempt.asked, deleted, strict=True
        ):
            self._count(name, deleted=done, gone=len(asked) - done)
        self.purged.update(attempt.finished_ids())
        self._finish(attempt)

    def _look_again(self, wire: Wire, attempt: _Attempt, error: CleanupJobError) -> None:
        """See what is still there of a batch of which it is not clear what became."""
        keys = [key for asked in attempt.asked for key in asked]
        there: list[bool] = []

        def take(reply: Reply) -> None:
            there.append(reply == 1)
            if len(there) == len(keys):
                self.in_flight.remove(attempt)
                self._fail(attempt, error, there)

        self.in_flight.append(attempt)
        for key in keys:
            wire.send("EXISTS", key, then=take)

    def settle_lost(self, error: CleanupJobError) -> bool:
        """Account for what was in flight on a broken connection; True if there is a new one."""
        wires.discard(self.task.endpoint)
        lost, self.in_flight = self.in_flight, []
        try:
            wire = wires.borrow(self.task.endpoint)
            while lost:
                self._look_again(wire, lost[-1], error)
                wire.drain()
                lost.pop()
        except CleanupJobError:
            wires.discard(self.task.endpoint)
            self.in_flight = []
            for attempt in lost:
                self._fail(attempt, error, there=[])
            return False
        return True

    def _fail(self, attempt: _Attempt, error: CleanupJobError, there: Sequence[bool]) -> None:
        """Count what was seen to be there as failed, the rest as unknown."""
        seen = iter(there)
        for name, asked in zip(self.task.schema.family_names, attempt.asked, strict=True):
            failed = sum(next(seen, False) for _ in asked)
            self._count(name, failed=failed, unknown=len(asked) - failed)
            self.failures.setdefault((error.code, str(error)), []).extend(asked)
        self.unsettled.update(attempt.batch.guard_ids)
        self._finish(attempt)

    def _finish(self, attempt: _Attempt) -> None:
        """Count what had left the batch before its last call: spared, or gone by itself."""
        batch = attempt.batch
        for name, keys, asked in zip(
            self.task.schema.family_names, batch.keys, attempt.asked, strict=False
        ):
            self._count(name, spared=len(keys) - len(asked))
        spared_heartbeats = sum(1 for place in attempt.dropped if place < batch.own_heartbeats)
        gone_heartbeats = batch.own_heartbeats - spared_heartbeats - len(attempt.heartbeat_places)
        self._count(HEARTBEAT, spared=spared_heartbeats, gone=gone_heartbeats)
        self.spared.update(batch.guard_ids[place] for place in attempt.dropped)
        self.pulse.advance(batch.size)

    def leave(self, batch: Batch) -> None:
        """Count a batch that was never sent: its keys are still there because of us."""
        for name, keys in zip(self.task.schema.family_names, batch.keys, strict=False):
            self._count(name, failed=len(keys))
        self._count(HEARTBEAT, failed=batch.own_heartbeats)
        self.not_attempted += batch.size
        self.unsettled.update(batch.guard_ids)

    def _count(self, family: str, **by_outcome: int) -> None:
        counts = self.counts[family]
        for outcome, keys in by_outcome.items():
            counts[outcome] += keys

    def outcome(self) -> Outcome:
        """What became of the task's batches."""
        problems = tuple(
            Problem(code, message, len(keys), tuple(map(printable, keys[:3])))
            for (code, message), keys in self.failures.items()
        )
        return Outcome(
            counts=self.counts,
            purged=frozenset(self.purged),
            spared=frozenset(self.spared),
            revived=frozenset(self.revived),
            unsettled=frozenset(self.unsettled),
            not_attempted=self.not_attempted,
            problems=problems,
            timings=merge_timings(self.timings),
        )


def _comparable(value: bytes) -> bytes:
    if len(value) <= LONG:
        return value
    return hashlib.sha1(value, usedforsecurity=False).hexdigest().encode()


def _probe_key(pattern: str, probe: bytes) -> bytes:
    text = pattern.replace("*{id}*", "{id}").encode()
    return b":".join(probe if part in (b"{id}", b"*") else part for part in text.split(b":"))
