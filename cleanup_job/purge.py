"""Batches to outcomes: the only module that deletes.

A batch in one slot is one call of `lua/purge.lua`, which deletes it only if every heartbeat is
still as it was judged, in the same atomic step. If one changed, nothing is deleted; its keys are
taken out (*spared*) and the rest is tried again. Every retry drops a guard or learns that one
is gone, so it ends.

A scattered batch lies in several slots of a cluster, where nothing is atomic. Its heartbeats are
read; what changed is taken out; what is left is deleted key by key in the next round trip. Its
heartbeats go later, in batches of their own slots, by the script.

Invariants:
- Counts come from replies. A key is deleted because UNLINK counted it, gone because UNLINK did
  not, spared because it was never asked for.
- A call is sent once. When its reply does not come, its keys are looked at again: those that
  are there *failed*, those that are not are *unknown*, since it can't be told who deleted them.
- The same for a task whose worker died, but what is there of it may run again (see `remains`).
- A heartbeat goes in the same step as the last of its coordinator's keys, or after it.
- With a journal, a batch is deleted when all of it is on the disk. While one group of batches is
  written, another is dumped and a third deleted.

Not promised: a coordinator of a scattered batch that comes back between the two round trips has
lost its keys. It is noticed when its heartbeat's turn comes, which then stays, and the report
names it with what it lost. And if the connection breaks with a call in flight, the server may
still carry it out after we looked. Then a key counted as failed is gone, by a step that was
guarded like any other. (What has reached the server when we look is done by then: we look twice.)
A dump touches a key, so that idle times are asked for before it. What happens to an orphan between
its dump and its deletion spares it only if it changes the value or the expiry: reads are not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from time import perf_counter
from typing import TYPE_CHECKING

import redis
from msgspec import structs

from cleanup_job import attempt as attempts
from cleanup_job import wire as wires
from cleanup_job.attempt import Attempt
from cleanup_job.errors import CleanupJobError
from cleanup_job.judge import is_as_judged, judge_heartbeat
from cleanup_job.keyspace import slot_of
from cleanup_job.model import (
    ABSENT,
    HEARTBEAT,
    KEYS_PER_BATCH,
    OUTCOMES,
    WORKER_LOST,
    Batch,
    Counts,
    Kind,
    Outcome,
    Problem,
    Pulse,
    PurgeTask,
    printable,
)
from cleanup_job.pace import LARGEST_MS, Depth, Pace
from cleanup_job.prints import Prints
from cleanup_job.remains import remains_of
from cleanup_job.routes import Router
from cleanup_job.wire import Reply, WireLostError

if TYPE_CHECKING:
    from cleanup_job.dump import Dumper, Ended
    from cleanup_job.recorder import Recorder

RENEW_AFTER_S = 1.0
"""A connection that was idle for longer is replaced: the server, or what lies between, may have
closed it, and a batch must not be lost with it."""

KEYS_IN_FLIGHT = 600
"""Another batch is begun while no more keys than this are under way for each server: two batches
of the usual size, so that a server works on one while Python packs the next; many of the small
ones that slots make. Where a server is far away it is as many more as `pace.Depth` says."""

MOST_KEYS_IN_FLIGHT = 40_000
"""For each server, however far it is: 100 ms of what one can do. All of it has to come back before
a stop or a pause begins, and all of it is `unknown` or `failed` if the connection breaks; so
that is some tenth of a second of work, and a part of a large sweep only."""

KEYS_OPEN_WITH_JOURNAL = 8_000
"""As the first, with a journal, for which most batches wait: enough for what a server dumps and
deletes while a disk writes, and few enough that a stop does not concern many."""

MOST_LOADS = 10
"""How often a batch has the script loaded anew. It goes right in front of the call, so that a flush
only hits again if it comes while the rest of the call is still on its way: one time in three at
the worst, with a flush after every batch and a busy machine."""

_DELETED, _CHANGED, _DIFFERENT = 1, 0, 3
"""How a reply of the script begins; else a key was touched."""

_ANOTHER_TYPE = 1
"""Stands for the value of a heartbeat that is no string, as in the script's replies."""

_DELETED_KEY, _GONE, _, _FAILED, _UNKNOWN = OUTCOMES

_NOT_BEGUN = (
    redis.exceptions.AskError,  # and MOVED
    redis.exceptions.ClusterDownError,  # and MASTERDOWN
    redis.exceptions.TryAgainError,
    redis.exceptions.NoScriptError,
)
"""Errors that are answered in place of a command, before any of it is done. Of these, redis-py
strips the word that they begin with."""


def purge(task: PurgeTask, pulse: Pulse) -> Outcome:
    """Delete some batches, several in flight, and tell what became of each key.

    Never raises for what the server says or does: that is in the outcome.
    """
    run = _Purge(task, pulse)
    try:
        run.run()
    except BaseException:
        run.close(wait=False)
        raise
    run.close()
    return run.outcome()


def leave(task: PurgeTask, error: CleanupJobError | None = None) -> Outcome:
    """The outcome of batches that are never sent: their keys are still there because of us.

    Args:
        task: the batches.
        error: why, if it is not that the run was to end.
    """
    run = _Purge(task, _Unwatched())
    for batch in run.upcoming():
        run.leave(batch, error)
    return run.outcome()


def spare(task: PurgeTask) -> Outcome:
    """The outcome of heartbeats that stay because their coordinator kept a key."""
    run = _Purge(task, _Unwatched())
    for batch in run.upcoming():
        run.spare(batch)
    return run.outcome()


def look_at_lost(task: PurgeTask) -> tuple[Outcome, PurgeTask | None]:
    """What a worker that died left of its task: look, and repeat nothing blindly.

    Running the task again as it was would be harmless, but it would count what the dead worker
    deleted as gone by itself.

    Returns:
        The outcome of what is not there any more, or had better not be touched; and the task of
        what is still there, if anything is. Together they are the task.
    """
    run = _Purge(task, _Unwatched())
    rest = run.look_at_all()
    return run.outcome(), rest


def used_up(runs: int) -> CleanupJobError:
    """Why keys are left whose workers died so many times."""
    times = "the worker process died" if runs == 1 else f"each of {runs} worker processes died"
    return CleanupJobError(
        f"{times} that had these keys to delete (max_attempts): they were left", "max_attempts"
    )


class _Unwatched:
    """A pulse that nobody feels."""

    def advance(self, keys: int) -> None:
        pass

    def stopping(self) -> bool:
        return False

    def must_rest(self) -> bool:
        return False

    def rest(self) -> float:
        return 0.0

    def takes(self, keys: int) -> None:
        pass

    def portion(self, most: int) -> int:
        return most


_LOST = CleanupJobError(
    "a worker process died; keys that it was to delete are gone, and nobody can tell by whom",
    WORKER_LOST,
)

_HEADLESS = CleanupJobError(
    "a worker process died; keys were left whose heartbeat is gone: the next run takes them for "
    "an orphan's",
    "heartbeat_gone",
)


class _Purge:
    """The state of one task.

    Attributes:
        open: batches that were begun and not settled, and `keys_open`, how many keys they have.
        hopeless: a server is gone for good. Nothing more is begun: every batch would have to
            wait for it, and would end as unknown. Or the journal can't be written.
        dumper, recorder: if there is a journal.
    """

    def __init__(self, task: PurgeTask, pulse: Pulse) -> None:
        self.task = task
        self.pulse = pulse
        self.router = Router(task.routes)
        self.families = task.schema.family_names
        self.counts: Counts = {name: dict.fromkeys(OUTCOMES, 0) for name in self.families}
        self.pace = Pace(KEYS_PER_BATCH, task.max_block_ms)
        self.purged: list[bytes] = []
        self.orphans_purged: set[bytes] = set()
        self.spared: set[bytes] = set()
        self.revived: set[bytes] = set()
        self.rewritten: set[bytes] = set()
        self.unsettled: set[bytes] = set()
        self.begun: Counter[bytes] = Counter()
        self.not_attempted = 0
        self.failures: dict[tuple[str, str], list[bytes]] = {}
        self.open = 0
        self.keys_open = 0
        self.servers = len({endpoint for _, _, endpoint in task.routes.spans})
        self.depth = Depth(
            KEYS_IN_FLIGHT, MOST_KEYS_IN_FLIGHT, LARGEST_MS / 1000 / KEYS_PER_BATCH, KEYS_PER_BATCH
        )
        self.spent_s = 0.0
        self.keys_settled = 0
        self.round_trips = 1
        self.most_open = self.most_wanted = KEYS_IN_FLIGHT * self.servers
        self.hopeless = False
        self.recorder: Recorder | None = None
        self.dumper: Dumper | None = None
        if task.journal:
            # Only who keeps a journal waits for its import.
            from cleanup_job.dump import Dumper
            from cleanup_job.recorder import Recorder

            self.recorder = Recorder(task.journal)
            self.dumper = Dumper(self.router, self.recorder, task.max_block_ms, self.most_open)
            self.most_open = self.most_wanted = KEYS_OPEN_WITH_JOURNAL * self.servers

    def run(self) -> None:
        if self.pulse.must_rest():
            self.pulse.rest()
        upcoming = self.upcoming()
        batch = next(upcoming, None)
        while self.open or (batch is not None and not self._is_ending()):
            grows = False
            while batch is not None and not self._is_ending():
                if not self._has_room(self.most_open):
                    grows = self._has_room(self.most_wanted)
                    break
                if self.pulse.must_rest():
                    break
                self.pulse.takes(batch.size)
                self._begin(Attempt(batch, self.task.schema))
                batch = next(upcoming, None)
            if self.open:
                if grows and not self.router.can_wait(self.depth.each_s * KEYS_PER_BATCH):
                    self._deepen()
                else:
                    self.dumper.wait() if self.dumper else self.router.wait()
            else:
                if self.pulse.rest() > RENEW_AFTER_S:
                    self.router.renew()
                self.depth.restart()
        while batch is not None:
            self.leave(batch)
            batch = next(upcoming, None)

    def close(self, *, wait: bool = True) -> None:
        """End what belongs to this task alone."""
        if self.recorder is not None:
            self.recorder.close(wait=wait)

    def upcoming(self) -> Iterator[Batch]:
        """The task in batches as large as calls may be at the moment."""
        for lot in self.task.lots:
            yield from lot.batches(self._most_keys)
        for batch in self.task.batches:
            yield from batch.pieces(self._most_keys(batch.slot))

    def _most_keys(self, slot: int | None) -> int:
        # A scattered batch is sent key by key, and holds up nobody.
        if slot is None:
            return self.pulse.portion(KEYS_PER_BATCH)
        most = min(self.pace.size, self.dumper.pace.size) if self.dumper else self.pace.size
        return self.pulse.portion(most)

    def _is_ending(self) -> bool:
        return self.hopeless or self.pulse.stopping()

    def _has_room(self, most_open: int) -> bool:
        """True if another batch may be begun, where so many keys may be open."""
        if self.dumper is not None and not self.dumper.has_room:
            return False
        return not self.open or self.keys_open <= most_open

    def _measure(self, batch: Batch) -> None:
        """Learn from a batch that is settled how much is to be in flight."""
        self.keys_settled += batch.size
        # All that are on their way at once, since scattered ones come back together.
        if self.keys_settled >= KEYS_IN_FLIGHT * self.servers:
            self.depth.took(self.keys_settled, self.router.spent_s - self.spent_s)
            self.depth.queued(self.router.queued_s, self.router.latency_s, perf_counter())
            self.spent_s, self.keys_settled = self.router.spent_s, 0
        self._deepen()

    def _deepen(self) -> None:
        """Have as many keys in flight as is right by now; of those some may wait for the disk."""
        way_s = self.router.latency_s * self.round_trips
        keys = self.depth.now(way_s, perf_counter())
        at_disk = 0
        if self.dumper is not None:
            at_disk = KEYS_OPEN_WITH_JOURNAL - KEYS_IN_FLIGHT
            self.dumper.most_in_flight = self.servers * max(
                KEYS_IN_FLIGHT, keys // self.round_trips
            )
        self.most_open = self.servers * (keys + at_disk)
        self.most_wanted = self.servers * (self.depth.wanted(way_s) + at_disk)

    def _begin(self, attempt: Attempt) -> None:
        self.open += 1
        self.keys_open += attempt.batch.size
        self._advance(attempt)
        self.round_trips = max(self.round_trips, _round_trips(attempt.batch, self.dumper))
        self._deepen()

    def _advance(self, attempt: Attempt) -> None:
        """Do what comes next for a batch, with what is still in it."""
        scattered = attempt.batch.slot is None
        if attempt.is_empty:
            self._settle(attempt, [])
        elif scattered and attempt.batch.min_idle_s and not attempt.idle_is_known:
            self._read_idle(attempt)
        elif self.dumper is not None and not attempt.is_recorded:
            self._record(attempt, self.dumper)
        elif not scattered:
            self.router.send(
                attempt.batch.slot or 0,
                tuple(attempt.words()),
                then=lambda reply: self._digest(attempt, reply),
                first=("SCRIPT", "LOAD", attempts.SCRIPT) if attempt.loads else (),
            )
        elif self.dumper is not None and attempt.prints.by_key and not attempt.is_compared:
            self._compare(attempt, self.dumper)
        else:
            self._read_guards(attempt)

    # -- into the journal, before anything is deleted -------------------------------------------

    def _record(self, attempt: Attempt, dumper: Dumper) -> None:
        """Have the journal take what is still in a batch, and go on with it then."""
        prints = attempt.prints
        keys, families = attempt.keys(), [*attempt.family_of_each(self.families)]
        if prints.by_key:
            # Some are dumped already; then others turned out to be touched.
            left = [key not in prints.by_key for key in keys]
            keys, families = [*compress(keys, left)], [*compress(families, left)]
        dumper.record(
            attempt.batch,
            keys,
            families,
            prints,
            lambda ended: self._take_recorded(attempt, ended),
        )

    def _take_recorded(self, attempt: Attempt, ended: Ended) -> None:
        error = ended.error
        if isinstance(error, redis.exceptions.TryAgainError) and attempt.batch.can_be_split:
            self._split(attempt)
        elif error is not None:
            self._leave_open(attempt, "EVALSHA", error)
        elif ended.touched:
            touched = set(ended.touched)
            attempt.drop_touched(
                place for place, key in enumerate(attempt.keys()) if key in touched
            )
            self._advance(attempt)
        elif self._is_ending():
            self.not_attempted += attempt.size
            self._settle_each(attempt, [_FAILED] * attempt.size)
        else:
            attempt.is_recorded = True
            self._advance(attempt)

    def _compare(self, attempt: Attempt, dumper: Dumper) -> None:
        """Take out the orphans of a scattered batch that changed since they were dumped."""
        keys = attempt.prints.compared(attempt.keys())

        def take(replies: list[Reply]) -> None:
            error = next((reply for reply in replies if isinstance(reply, Exception)), None)
            if error is not None:
                self._leave_open(attempt, "EVALSHA", error)
                return
            now = Prints()
            now.add(keys, [reply[1] for reply in replies], [reply[2] for reply in replies])
            before = attempt.prints.by_key
            changed = {key for key in keys if now.by_key[key] not in (b"", before[key])}
            attempt.is_compared = True
            attempt.drop_touched(
                place for place, key in enumerate(attempt.keys()) if key in changed
            )
            self._advance(attempt)

        dumper.ask(keys, take)

    # -- in one slot: the script decides and deletes -------------------------------------------

    def _digest(self, attempt: Attempt, reply: Reply) -> None:
        if isinstance(reply, redis.exceptions.NoScriptError) and attempt.loads < MOST_LOADS:
            # Nothing ran. Somebody flushed the scripts, or this server is a new one.
            attempt.loads += 1
            self._advance(attempt)
        elif isinstance(reply, redis.exceptions.TryAgainError) and attempt.batch.can_be_split:
            self._split(attempt)
        elif isinstance(reply, Exception):
            self._take_error(attempt, "EVALSHA", reply)
        elif reply[0] == _DELETED:
            # Heartbeats that are only watched are read too.
            watched = len(attempt.batch.guard_ids) - attempt.batch.own_heartbeats
            self.pace.took(attempt.batch.size + watched, self.router.last_s)
            self._settle(attempt, reply[1:])
        elif reply[0] == _DIFFERENT:
            attempt.one_by_one = True
            self._advance(attempt)
        elif reply[0] == _CHANGED:
            now_ms = reply[1] * 1000 + reply[2] // 1000
            values = {
                attempt.guard_places[place - 1]: value
                for place, value in zip(reply[3::2], reply[4::2], strict=True)
            }
            gone = [guard for guard, value in values.items() if value == 0]
            self._take_changes(attempt, gone, {g: v for g, v in values.items() if v != 0}, now_ms)
            self._advance(attempt)
        else:
            attempt.drop_touched([place - 1 for place in reply[1:]])
            self._advance(attempt)

    def _split(self, attempt: Attempt) -> None:
        """Heartbeats of a slot that is half here and half there go one by one."""
        batch = attempt.batch
        self.open -= 1
        self.keys_open -= batch.size
        for name, expected in zip(batch.guard_ids, batch.expected, strict=True):
            alone = structs.replace(
                batch, guard_ids=(name,), expected=(expected,), own_heartbeats=1
            )
            one = Attempt(alone, self.task.schema)
            one.is_recorded = attempt.is_recorded
            self._begin(one)

    def _take_changes(
        self,
        attempt: Attempt,
        gone: Iterable[int],
        changed: Mapping[int, bytes | int],
        now_ms: int,
    ) -> None:
        """Take out what a guard no longer stands for."""
        for guard, value in changed.items():
            if attempt.batch.expected[guard] == ABSENT:
                continue
            self.rewritten.add(attempt.batch.guard_ids[guard])
            if self._is_live(value, now_ms):
                self.revived.add(attempt.batch.guard_ids[guard])
        attempt.expire(gone)
        attempt.drop(changed)

    def _is_live(self, value: bytes | int, now_ms: int) -> bool:
        if not isinstance(value, bytes):
            return False
        return judge_heartbeat(value, now_ms, self.task.rule).kind is Kind.LIVE

    # -- scattered: read the idle times and the guards, then delete ---------------------------

    def _read_idle(self, attempt: Attempt) -> None:
        keys = attempt.keys()
        idle_s: list[Reply] = []

        def take(references: list[Reply]) -> None:
            replies = [*idle_s, *references]
            error = next((reply for reply in replies if isinstance(reply, Exception)), None)
            if error is not None:
                self._leave_open(attempt, "OBJECT", error)
                return
            least = attempt.batch.min_idle_s
            attempt.idle_is_known = True
            attempt.drop_touched(
                place
                for place, (idle, count) in enumerate(zip(idle_s, references, strict=True))
                if idle is not None and (idle < least or (count or 0) > 1)
            )
            self._advance(attempt)

        def ask_references(replies: list[Reply]) -> None:
            idle_s.extend(replies)
            self.router.each("OBJECT REFCOUNT", keys, take, reads=True)

        self.router.each("OBJECT IDLETIME", keys, ask_references, reads=True)

    def _read_guards(self, attempt: Attempt) -> None:
        places = list(attempt.guard_places)
        keys = [attempt.guards[place] for place in places]

        def take(values: list[Reply]) -> None:
            gone: list[int] = []
            changed: dict[int, bytes | int] = {}
            for place, value in zip(places, values, strict=True):
                expected = attempt.expected[place]
                if value is None:
                    if expected != ABSENT:
                        gone.append(place)
                elif isinstance(value, redis.ResponseError) and "WRONGTYPE" in str(value):
                    changed[place] = _ANOTHER_TYPE
                elif isinstance(value, Exception):
                    self._leave_open(attempt, "GET", value)
                    return
                elif not value or not is_as_judged(value, expected):
                    changed[place] = value
            attempt.expire(gone)
            if changed:
                self._judge_changes(attempt, changed)
            else:
                self._delete(attempt)

        self.router.each("GET", keys, take, reads=True)

    def _judge_changes(self, attempt: Attempt, changed: dict[int, bytes | int]) -> None:
        """Take the changed ones out, by the clock of a server that has one of them."""

        def take(reply: Reply) -> None:
            # Without a clock nobody is called revived; that they are spared is sure.
            now_ms = 0
            if not isinstance(reply, Exception):
                now_ms = int(reply[0]) * 1000 + int(reply[1]) // 1000
            self._take_changes(attempt, (), changed, now_ms)
            self._delete(attempt)

        slot = slot_of(attempt.guards[next(iter(changed))])
        self.router.send(slot, ("TIME",), then=take, reads=True)

    def _delete(self, attempt: Attempt) -> None:
        keys = attempt.keys()

        def take(replies: list[Reply]) -> None:
            unclear = [place for place, reply in enumerate(replies) if not isinstance(reply, int)]
            if unclear:
                self._look_at(attempt, keys, replies, unclear)
            else:
                self._settle_each(attempt, [_DELETED_KEY if done else _GONE for done in replies])

        if keys:
            self.router.each("UNLINK", keys, take)
        else:
            self._settle(attempt, [])

    def _look_at(
        self,
        attempt: Attempt,
        keys: Sequence[bytes],
        replies: Sequence[Reply],
        unclear: Sequence[int],
    ) -> None:
        """See whether the keys are there of which it is not clear what became."""
        error = self._error("UNLINK", replies[unclear[0]])

        def take(there: list[Reply]) -> None:
            self._give_up_if_lost(there)
            became = [_DELETED_KEY if reply == 1 else _GONE for reply in replies]
            for place, reply in zip(unclear, there, strict=True):
                is_there = reply == 1 or _did_nothing(replies[place])
                became[place] = _FAILED if is_there else _UNKNOWN
            self._fail([keys[place] for place in unclear], error)
            self._settle_each(attempt, became)

        self._look([keys[place] for place in unclear], take)

    # -- what became of it -----------------------------------------------------------------------

    def _settle(self, attempt: Attempt, deleted: Sequence[int]) -> None:
        """Count a batch whose call went through; `deleted` by family."""
        for name, asked, done in zip(
            self.families, attempt.asked, deleted or [0] * len(attempt.asked), strict=True
        ):
            self._count(name, deleted=done, gone=len(asked) - done)
        if not (attempt.batch.own_heartbeats or attempt.batch.is_of_orphans):
            ids = attempt.batch.guard_ids
            self.begun.update(ids[needs[0]] for needs in attempt.needs())
        self._finish(attempt)
        self._close(attempt)

    def _settle_each(self, attempt: Attempt, became: Sequence[str]) -> None:
        """Count a batch key by key, each with its outcome."""
        needs = attempt.needs()
        ids = attempt.batch.guard_ids
        names = attempt.family_of_each(self.families)
        left: set[bytes] = set()
        for name, outcome, guards in zip(names, became, needs, strict=True):
            self.counts[name][outcome] += 1
            if outcome == _DELETED_KEY:
                self.begun[ids[guards[0]]] += 1
            elif outcome in (_FAILED, _UNKNOWN):
                left.add(ids[guards[0]])
        self.unsettled |= left
        self._finish(attempt, left)
        self._close(attempt)

    def _finish(self, attempt: Attempt, left: Collection[bytes] = ()) -> None:
        """Count those whose last keys went, but for `left`, of which something is still there."""
        finished = attempt.finished_ids()
        if attempt.batch.is_of_orphans:
            self.orphans_purged.update(finished)
            self.orphans_purged.difference_update(left)
        elif left:
            self.purged += [name for name in finished if name not in left]
        else:
            self.purged += finished

    def _take_error(self, attempt: Attempt, command: str, reply: Exception) -> None:
        """A call without a good reply: it did nothing, or it has to be found out."""
        if not _did_nothing(reply):
            # Behind a broken connection may be a server that has loaded an old snapshot, with keys
            # that went in the first wave. Without its heartbeat nobody would find them.
            self.hopeless = self.hopeless or bool(attempt.batch.wave)
            self._look_again(attempt, self._error(command, reply))
        else:
            self._leave_open(attempt, command, reply)

    def _look_again(self, attempt: Attempt, error: CleanupJobError) -> None:
        """See what is still there of a batch of which it is not clear what became."""
        keys = attempt.keys()

        def take(there: list[Reply]) -> None:
            self._give_up_if_lost(there)
            self._fail(keys, error)
            self._settle_each(attempt, [_FAILED if reply == 1 else _UNKNOWN for reply in there])

        self._look(keys, take)

    def _look(self, keys: Sequence[bytes], then: Callable[[list[Reply]], None]) -> None:
        """See which keys are there; asked twice, and the second answer counts.

        What we sent before the connection broke may have reached the server unread. It reads
        all that has arrived before it comes to a second request from us.
        """

        def again(first: list[Reply]) -> None:
            if any(isinstance(reply, CleanupJobError) for reply in first):
                then(first)  # it is gone: no use to wait for it once more
            else:
                self.router.each("EXISTS", keys, then, reads=True)

        self.router.each("EXISTS", keys, again, reads=True)

    def _give_up_if_lost(self, looks: Iterable[Reply]) -> None:
        if any(isinstance(reply, CleanupJobError) for reply in looks):
            self.hopeless = True

    def _leave_open(self, attempt: Attempt, command: str, reply: Exception) -> None:
        """Count a batch that was begun and of which nothing was deleted."""
        keys = attempt.keys()
        self._give_up_if_lost([reply])
        self._fail(keys, self._error(command, reply))
        self._settle_each(attempt, [_FAILED] * len(keys))

    def _error(self, command: str, reply: Reply) -> CleanupJobError:
        if isinstance(reply, CleanupJobError):
            return reply
        return wires.refusal(command, reply, self.task.routes.access.endpoint)

    def _fail(self, keys: Iterable[bytes], error: CleanupJobError) -> None:
        self.failures.setdefault((error.code, str(error)), []).extend(keys)

    def _close(self, attempt: Attempt) -> None:
        """Count what had left the batch before its last call: spared."""
        batch = attempt.batch
        for name, keys, asked in zip(self.families, batch.keys, attempt.asked, strict=False):
            self._count(name, spared=len(keys) - len(asked))
        self._count(HEARTBEAT, spared=batch.own_heartbeats - len(attempt.asked[-1]))
        self.spared |= attempt.spared_ids()
        self.open -= 1
        self.keys_open -= batch.size
        self._measure(batch)
        self.pulse.advance(batch.size)

    def look_at_all(self) -> PurgeTask | None:
        """Account for what is not there any more of a lost task; return the rest of it."""
        there: set[bytes] = set()
        for batch in self.upcoming():
            attempt = Attempt(batch, self.task.schema)
            keys = attempt.keys()
            looks = self._look_now(keys)
            there.update(compress(keys, (reply == 1 for reply in looks)))
            if len(looks) != looks.count(1):
                self._take_looks(attempt, keys, looks)
        remains = remains_of(self.task, there)
        for batch in remains.headless:
            self.leave(batch, _HEADLESS)
        return remains.rest

    def _look_now(self, keys: Sequence[bytes]) -> list[Reply]:
        """Which keys are there, once that is known. A server that is gone is asked once."""
        looks: list[Reply] = []
        if self.hopeless:
            return [None] * len(keys)
        self._look(keys, looks.extend)
        while self.router.in_flight:
            self.router.wait()
        self._give_up_if_lost(looks)
        return looks

    def _take_looks(self, attempt: Attempt, keys: Sequence[bytes], looks: Sequence[Reply]) -> None:
        """Count what is not there, and what nobody can say of, as unknown.

        Where it is not there, nothing is left for the next run to find, and the heartbeat may go
        in its turn. A coordinator that comes back before that has lost it, whoever deleted it.
        """
        batch = attempt.batch
        heartbeat_waits = not (batch.own_heartbeats or batch.is_of_orphans)
        names = attempt.family_of_each(self.families)
        for name, key, look, guards in zip(names, keys, looks, attempt.needs(), strict=True):
            if look == 1:
                continue
            self._count(name, unknown=1)
            self._fail([key], _LOST)
            owner = batch.guard_ids[guards[0]]
            if look != 0:
                self.unsettled.add(owner)
            elif heartbeat_waits:
                self.begun[owner] += 1

    def leave(self, batch: Batch, error: CleanupJobError | None = None) -> None:
        """Count a batch that was never sent: its keys are still there because of us."""
        for name, keys in zip(self.families, batch.keys, strict=False):
            self._count(name, failed=len(keys))
        self._count(HEARTBEAT, failed=batch.own_heartbeats)
        attempt = Attempt(batch, self.task.schema)
        if error is None:
            self.not_attempted += batch.size
        else:
            self._fail(attempt.keys(), error)
        self.unsettled.update(batch.guard_ids[guards[0]] for guards in attempt.needs())

    def spare(self, batch: Batch) -> None:
        """Count a batch that was never sent because its heartbeats are to stay."""
        for name, keys in zip(self.families, batch.keys, strict=False):
            self._count(name, spared=len(keys))
        self._count(HEARTBEAT, spared=batch.own_heartbeats)
        self.spared.update(batch.guard_ids)

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
            purged=self.purged,
            orphans_purged=frozenset(self.orphans_purged),
            spared=frozenset(self.spared),
            revived=frozenset(self.revived),
            unsettled=frozenset(self.unsettled),
            begun=dict(self.begun),
            not_attempted=self.not_attempted,
            problems=problems,
            timings=self.router.take_timings(),
            rewritten=frozenset(self.rewritten),
            hopeless=self.hopeless,
        )


def _round_trips(batch: Batch, dumper: Dumper | None) -> int:
    """How often a batch is on its way to a server and back, from its begin to its end."""
    steps = 2 if dumper is not None else 1
    if batch.slot is None:
        steps += 1  # the guards are read
        if batch.min_idle_s:
            steps += 2 + (dumper is not None)
    return steps


def _did_nothing(reply: Exception) -> bool:
    """True if it is sure that the call was not begun."""
    if isinstance(reply, CleanupJobError):
        return not isinstance(reply, WireLostError)  # then it was never sent
    return isinstance(reply, _NOT_BEGUN) or str(reply).startswith(("BUSY", "LOADING"))
