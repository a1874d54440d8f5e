"""One partition to its findings: the map half of the job.

The partition is walked once, in *lanes*: shares of its range, each with one SCAN in flight, so
that the server fills one page while Python reads the other. Where the server is far away, lanes
are cut into more of them on the way, as many as `pace.Depth` says: a cursor is only known when its
page has come, but a range can be cut anywhere. Heartbeats are read in bulk as they are found, and
judged against the server's clock asked for right behind them.

Invariants:
- Every key that is there throughout the walk is in the findings, maybe more than once.
- The lanes, and what was walked of them, are the partition's range, whatever was cut. A cut only
  takes away what was not asked for yet, or what the page in flight may go beyond: duplicates.
- A server's own order from 0 to 0 (`Order.SEQUENCE`) has one lane, and is never cut.
- A heartbeat is judged by a clock that was read after it, so that nobody's beat can seem to
  lie in the future because of us.
- A walk that breaks is walked again from its start: it only reads.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from math import isqrt
from time import perf_counter

import redis
from msgspec import structs

from cleanup_job import acl
from cleanup_job import wire as wires
from cleanup_job.cursors import Order, cursor_at, cut_at, place_of
from cleanup_job.errors import CleanupJobError, CursorOrderError, ServerUnavailableError
from cleanup_job.judge import Guests, ages_ms, fingerprint, fingerprints, judge_heartbeat
from cleanup_job.keyspace import covering_glob, slot_of
from cleanup_job.model import (
    Broken,
    Findings,
    IdleTask,
    Kind,
    Pulse,
    Routes,
    Rule,
    Sample,
    Schema,
    StaleRun,
    SurveyTask,
    unpack,
)
from cleanup_job.pace import LARGEST_MS, Depth, Pace
from cleanup_job.routes import Router
from cleanup_job.timings import Timings, merge_timings
from cleanup_job.wire import Reply, Wire

PAGE = 1000
"""Most of COUNT for a SCAN: 0.3–0.6 ms of the server per call (shared facts §3), so that other
clients hardly notice, and few enough round trips."""

HEARTBEATS_PER_READ = 1000
"""Most keys per MGET: about 1 ms of the server."""

BYTES_PER_READ = 1_000_000
"""Values per MGET. How long they are is only known from those read before, so the first read
takes few."""

FIRST_READ = 50

MOST_IN_FLIGHT = 400
"""Pages at most, on the longest way: enough for 200 ms of it at half a millisecond for each. What
is in flight has to come before a stop or a pause begins."""

FIRST_IN_FLIGHT = 50
"""As many until the first page says how large they are."""

BYTES_IN_FLIGHT = 16 << 20
"""Of pages, and as much of heartbeats' values: who does not read them in time has them in memory,
mostly the server. 400 pages of usual names are as much."""

WORTH_A_LANE = PAGE // 4
"""Keys that are left of a lane beyond the page in flight, for another lane to begin there. Each cut
has some 60 keys walked twice (`_spread`)."""

SMALLEST_PAGE = PAGE // 10
"""Of the page that should reach the end of a lane: how many keys are left there is a guess."""

IDLE_READS_IN_FLIGHT = 500
"""OBJECT IDLETIME takes one key, so many are sent before the first is awaited."""

MOST_IDLE_READS_IN_FLIGHT = 20_000
"""The same, however far the server is. Their replies are numbers, and take no memory."""

IDLE_READ_S = 10e-6
"""What one takes at most on a server that is not busy, and here."""

PAUSE_BETWEEN_ATTEMPTS_S = 0.5

RENEW_AFTER_S = 1.0
"""A connection that was idle for longer is replaced: the server, or what lies between, may have
closed it. One second is the least `timeout` that a server can have."""


def survey(task: SurveyTask, pulse: Pulse) -> Findings | Broken:
    """Walk one partition; on a broken connection walk it again.

    Returns:
        What is there; or, if it could not be walked in `max_attempts` times, why.

    Raises:
        ServerRefusedError: if the user lacks a right.
        CursorOrderError: if cursors come in another order than partitions rely on.
    """
    timings: list[Timings] = []
    for attempt in range(task.attempt, task.max_attempts + 1):
        started = perf_counter()
        try:
            walk = _Walk(task, wires.borrow(task.endpoint), pulse)
            walk.run()
            timings += [*walk.timings, walk.wire.take_timings()]
            return walk.findings(perf_counter() - started, attempt, merge_timings(timings))
        except CleanupJobError as error:
            # What is still in flight would answer the next one's questions.
            wires.discard(task.endpoint)
            if not isinstance(error, ServerUnavailableError):
                raise
            reason = str(error)
            if task.clustered and error.code == "unreachable":
                break  # somebody else may have its slots by now, which is for the job to find out
        if attempt < task.max_attempts:
            time.sleep(PAUSE_BETWEEN_ATTEMPTS_S * attempt)
    return Broken(task.partition, reason)


def survey_idle(task: IdleTask, pulse: Pulse) -> frozenset[bytes]:
    """Those keys that were touched too lately for an orphan's, or nobody knows when; read only.

    When it is to stop, nobody knows of those that it did not ask for.

    Redis keeps one shared object for each integer from 0 to 9999 (unless it evicts by LRU). A
    key that holds one has its idle time, which writing the key does not reset: a record `1`
    written this second can seem untouched for days. Such a value is told by its reference
    count.

    Raises:
        ServerUnavailableError: if the connection broke.
        ServerRefusedError: if the user lacks a right.
    """
    router = Router(task.routes)
    young: set[bytes] = set()
    keys = unpack(task.keys)
    depth = Depth(IDLE_READS_IN_FLIGHT, MOST_IDLE_READS_IN_FLIGHT, IDLE_READ_S)
    spent_s = 0.0
    looks: list[tuple[bytes, Reply, Reply]] = []

    def ask(some: Sequence[bytes]) -> None:
        idle_s: list[Reply] = []

        def take(references: list[Reply]) -> None:
            nonlocal spent_s
            depth.took(len(some), router.spent_s - spent_s)
            spent_s = router.spent_s
            looks.extend(zip(some, idle_s, references, strict=True))

        router.each("OBJECT IDLETIME", some, idle_s.extend, reads=True)
        router.each("OBJECT REFCOUNT", some, take, reads=True)

    for start in range(0, len(keys), IDLE_READS_IN_FLIGHT):
        if pulse.stopping():
            young.update(keys[start:])
            break
        if pulse.must_rest():
            _drain(router)
            depth.restart()
            if pulse.rest() > RENEW_AFTER_S:
                router.renew()
        ask(keys[start : start + IDLE_READS_IN_FLIGHT])
        room = depth.now(router.latency_s, perf_counter()) - IDLE_READS_IN_FLIGHT
        while router.in_flight > 2 * room:  # two for each key
            router.wait()
    _drain(router)
    young.update(key for key, idle, count in looks if _is_young(key, idle, count, task))
    return frozenset(young)


def look_up(
    ids: Sequence[bytes], routes: Routes, schema: Schema, rule: Rule, pulse: Pulse
) -> Guests:
    """Which of these ids have a heartbeat, and whether it keeps their keys; read only.

    For ids that somebody else's walk has found, or nobody's. Those that are not asked for, since it
    is to stop, count as alive.

    Raises:
        ServerUnavailableError: if the connection broke.
        ServerRefusedError: if the user lacks a right.
    """
    router = Router(routes)
    key_rule = acl.key_rule(schema.heartbeat)
    alive: set[bytes] = set()
    stale = StaleRun([], [], [])
    for start in range(0, len(ids), HEARTBEATS_PER_READ):
        some = ids[start : start + HEARTBEATS_PER_READ]
        if pulse.stopping():
            alive.update(ids[start:])
            break
        if pulse.must_rest() and pulse.rest() > RENEW_AFTER_S:
            router.renew()
        values, now_ms = _values_of(some, router, schema)
        for name, value in zip(some, values, strict=True):
            if _is_wrong_type(value):
                alive.add(name)
                continue
            value = wires.accept("GET", value, routes.access.endpoint, key_rule)
            if value is not None:
                judged = judge_heartbeat(value, now_ms, rule)
                if judged.kind is not Kind.STALE or judged.age_ms is None:
                    alive.add(name)
                else:
                    stale.ids.append(name)
                    stale.prints.append(fingerprint(value))
                    stale.ages_ms.append(judged.age_ms)
    return Guests(frozenset(alive), stale)


def _values_of(ids: Sequence[bytes], router: Router, schema: Schema) -> tuple[list[Reply], int]:
    """Their heartbeats, and the time by a server's clock that was read after them."""
    values: list[Reply] = []
    clock: list[Reply] = []
    keys = schema.heartbeat.keys_for(ids)
    router.each("GET", keys, values.extend, reads=True)
    _drain(router)
    router.send(slot_of(keys[0]), ("TIME",), clock.append, reads=True)
    _drain(router)
    seconds, micros = wires.accept("TIME", clock[0], router.endpoint(slot_of(keys[0])))
    return values, int(seconds) * 1000 + int(micros) // 1000


def _drain(router: Router) -> None:
    while router.in_flight:
        router.wait()


def without_slots(found: Findings, schema: Schema, slots: frozenset[int]) -> Findings:
    """The findings without what may go and lies in slots that no server has any more.

    Nothing there can be read again, so nothing there can be deleted by it. Who was found alive
    stays: that spares.
    """
    stale = []
    for run in found.stale:
        there = [slot_of(key) not in slots for key in schema.heartbeat.keys_for(run.ids)]
        stale.append(run.only(there))
    owned = [
        [[key for key in run if slot_of(key) not in slots] for run in runs] for runs in found.owned
    ]
    return structs.replace(found, stale=stale, owned=owned)


def _is_young(key: bytes, idle_s: Reply, references: Reply, task: IdleTask) -> bool:
    for command, reply in (("OBJECT IDLETIME", idle_s), ("OBJECT REFCOUNT", references)):
        if isinstance(reply, Exception):
            rule = acl.key_rule_for(key, task.schema)
            wires.accept(command, reply, task.routes.access.endpoint, rule)
    if references is not None and references > 1:
        return True
    return idle_s is not None and idle_s < task.min_idle_s


@dataclass(slots=True, eq=False)
class _Lane:
    """What is left to be walked of a share of the line.

    Attributes:
        place: where the next page begins, or the one that is in flight.
        end: where the next lane begins.
        spacing: places from one key to the next, as its last page had them.
        count: how many keys the page has that is in flight.
    """

    place: int
    end: int
    spacing: float
    count: int = 0

    @property
    def keys(self) -> int:
        """About how many there are from `place` on."""
        return int((self.end - self.place) / self.spacing)


class _Walk:
    """The state of one walk over one partition.

    Attributes:
        aside: lanes that wait for their next page to be asked for.
        asked: lanes whose page is in flight.
        grows: more is to be asked for before the next reply comes.
        timings: of connections that were replaced.
    """

    def __init__(self, task: SurveyTask, wire: Wire, pulse: Pulse) -> None:
        self.task = task
        self.partition = task.partition
        self.wire = wire
        self.pulse = pulse
        self.glob = covering_glob(task.schema.patterns)
        self.key_rule = acl.key_rule(task.schema.heartbeat)
        self.page = Pace(PAGE, task.max_block_ms)
        self.read = Pace(HEARTBEATS_PER_READ, task.max_block_ms)
        lanes = self.partition.lanes
        self.places = lanes[-1][1] - lanes[0][0]
        spacing = self.places / max(1, self.partition.keys)
        self.aside = [_Lane(*lane, spacing) for lane in reversed(lanes)]
        self.asked: set[_Lane] = set()
        self.grows = False
        self.can_cut = self.partition.order is not Order.SEQUENCE
        self.depth = Depth(len(lanes), FIRST_IN_FLIGHT, LARGEST_MS / 1000)
        self.since_page_s = 0.0
        self.page_bytes = 1
        self.timings: list[Timings] = []
        self.unread: list[bytes] = []
        self.reads = 0
        self.being_read = 0
        self.value_bytes = 0
        self.fit = FIRST_READ
        self.scanned = 0
        self.longest = 0
        self.live: list[bytes] = []
        self.stale: list[StaleRun] = []
        self.kept: list[Sample] = []
        self.owned: list[list[list[bytes]]] = [[] for _ in task.schema.owned]

    def run(self) -> None:
        self.wire.measure_latency()
        self._go_on()
        while self.wire:
            if self.grows and not self.wire.can_receive(self.depth.each_s):
                self._ask()
                continue
            self.wire.receive()
            self.since_page_s += self.wire.apart_s
            if not self.wire and self.aside:
                self._go_on()

    def _go_on(self) -> None:
        """Rest if that is due, and ask for what was put aside."""
        if self.pulse.must_rest() and self.pulse.rest() > RENEW_AFTER_S:
            self.timings.append(self.wire.take_timings())
            wires.discard(self.task.endpoint)
            self.wire = wires.borrow(self.task.endpoint)
            self.wire.measure_latency()
        self.depth.restart()
        self._ask(rested=True)
        if not self.asked:
            self._read_heartbeats()

    def _ask(self, *, rested: bool = False) -> None:
        """Ask for as many pages as may be in flight by now."""
        self.grows = False
        if self.pulse.stopping():
            self.aside.clear()
        elif rested or not self.pulse.must_rest():
            latency_s = self.wire.latency_s
            most = self.depth.now(latency_s, perf_counter())
            wanted = self.depth.wanted(latency_s)
            while len(self.asked) < most:
                lane = self._next_lane(cuts=wanted > self.depth.least)
                if lane is None:
                    return
                self._scan(lane)
            self.grows = len(self.asked) < wanted

    def _next_lane(self, *, cuts: bool) -> _Lane | None:
        """One that waits; or, where the server is far away, one cut off from one that does not."""
        if self.aside:
            return self.aside.pop()
        lane = self._widest() if cuts else None
        if lane is None:
            return None
        # Behind the page in flight and half of the pages that follow it. The last of them had
        # better go beyond the lane's end than not reach it, which would take one more.
        pages = (lane.keys - lane.count) // self.page.size
        keys = lane.count + pages // 2 * self.page.size
        keys -= _spread(keys)
        at = cut_at(self.partition.order, lane.place + int(keys * lane.spacing))
        rest = _Lane(at, lane.end, lane.spacing)
        lane.end = at
        return rest

    def _widest(self) -> _Lane | None:
        """The lane of which most is left, if that is worth another one."""
        if not self.can_cut or not self.asked:
            return None
        lane = max(self.asked, key=_places_left)
        return lane if _places_left(lane) > WORTH_A_LANE * lane.spacing else None

    def _scan(self, lane: _Lane) -> None:
        """Ask for a lane's next page; its reply asks for more."""
        order = self.partition.order
        place = lane.place
        count = lane.count = self._count(lane)
        self.asked.add(lane)

        def take(reply: Reply) -> None:
            if count * 2 > self.page.size:  # a small one is mostly overhead
                self.page.took(count, self.wire.last_s)
            self.depth.took(1, self.since_page_s + self.wire.apart_s)
            self.since_page_s = -self.wire.apart_s
            self.depth.queued(self.wire.queued_s, self.wire.latency_s, perf_counter())
            cursor, keys = self._accept("SCAN", reply)
            self.asked.remove(lane)
            next_place = place_of(order, int(cursor))
            at_end = int(cursor) == 0 or (next_place >= lane.end and self.can_cut)
            if not at_end and next_place <= place and self.can_cut:
                raise CursorOrderError(
                    f"{self.wire.endpoint.address} returned SCAN cursors out of order",
                    "cursor_order",
                )
            if not at_end:
                if self.can_cut:
                    lane.spacing = (next_place - place) / count
                lane.place = next_place
                self.aside.append(lane)
            self._ask()
            passed = count
            if self.can_cut:
                # About how many lie between two places: MATCH hides what was walked over.
                upto = lane.end if at_end else next_place
                passed = max(0, self.partition.keys * (upto - place) // self.places)
            self.pulse.advance(passed)
            self._take_page(keys)

        cursor = str(cursor_at(order, place))
        self.wire.send("SCAN", cursor, "MATCH", self.glob, "COUNT", str(count), then=take)

    def _count(self, lane: _Lane) -> int:
        """How many keys to ask for: a page, or what is left of the lane."""
        if not self.can_cut:
            return self.page.size
        left = max(0, lane.keys)
        return min(self.page.size, max(SMALLEST_PAGE, left + _spread(left)))

    def _take_page(self, keys: list[bytes]) -> None:
        self.scanned += len(keys)
        keys.sort()
        self.longest = max(self.longest, *map(len, keys), 0)
        for runs, (_, pattern) in zip(self.owned, self.task.schema.owned, strict=True):
            if run := pattern.pick(keys):
                runs.append(run)
        heartbeat = self.task.schema.heartbeat
        self.unread += heartbeat.ids(heartbeat.within(keys))
        if self.wire.latency_s > self.depth.each_s:
            self.page_bytes = max(sum(map(len, keys)), self.page_bytes * 7 // 8, 1)
            self.depth.most = min(MOST_IN_FLIGHT, BYTES_IN_FLIGHT // self.page_bytes)
        self._read_heartbeats()

    @property
    def _per_read(self) -> int:
        return min(self.read.size, self.fit)

    def _read_heartbeats(self) -> None:
        """Ask for the values of heartbeats found: many at once, and the rest when all are found."""
        is_last = not (self.asked or self.aside)
        while len(self.unread) >= (1 if is_last else self._per_read) and self._may_read():
            self._read_some(self._per_read)

    def _may_read(self) -> bool:
        """True unless enough values are on their way, or nobody knows yet how large they are."""
        if not (self.reads and self.value_bytes):
            return not self.reads
        most = self.depth.wanted(self.wire.latency_s)
        return self.reads < most and self.being_read * self.value_bytes < BYTES_IN_FLIGHT

    def _read_some(self, count: int) -> None:
        """Ask for values, and for the time right behind them."""
        ids = sorted(self.unread[-count:])
        del self.unread[-count:]
        self.reads += 1
        self.being_read += len(ids)
        if self.task.clustered:
            self._read_one_by_one(ids)
        else:
            values: list[bytes | None] = []

            def take(reply: Reply) -> None:
                self.read.took(len(ids), self.wire.last_s)
                values.extend(self._accept("MGET", reply))

            self.wire.send("MGET", *self.task.schema.heartbeat.keys_for(ids), then=take)
            self._judge_by_time(ids, values)

    def _read_one_by_one(self, ids: Sequence[bytes], *, asking: bool = False) -> None:
        """As a cluster wants it, where MGET takes keys of one slot only.

        A key of a slot that this server is still taking over is read only after ASKING.
        """
        keys = self.task.schema.heartbeat.keys_for(ids)
        values: list[bytes | None] = []
        elsewhere: list[bytes] = []

        def take(reply: Reply) -> None:
            if isinstance(reply, redis.exceptions.MovedError) and not asking:
                elsewhere.append(ids[len(values)])
            values.append(self._value(reply))

        if asking:
            for key in keys:
                self.wire.send("ASKING", then=lambda reply: self._accept("ASKING", reply))
                self.wire.send("GET", key, then=take)
        else:
            self.wire.send_all([("GET", key) for key in keys], take)
        self._judge_by_time(ids, values, elsewhere)

    def _judge_by_time(
        self,
        ids: Sequence[bytes],
        values: Sequence[bytes | None],
        elsewhere: Sequence[bytes] = (),
    ) -> None:
        """Judge what was read, by a clock that is read after it."""

        def take(reply: Reply) -> None:
            seconds, micros = self._accept("TIME", reply)
            now_ms = int(seconds) * 1000 + int(micros) // 1000
            self._fit(values)
            self.reads -= 1
            self.being_read -= len(ids)
            self._read_heartbeats()
            self._judge_all(ids, values, now_ms)
            if elsewhere:
                self.reads += 1
                self.being_read += len(elsewhere)
                self._read_one_by_one(elsewhere, asking=True)

        self.wire.send("TIME", then=take)

    def _fit(self, values: Sequence[bytes | None]) -> None:
        """Have the next reply be no longer than it may."""
        sizes = [*map(len, filter(None, values))]
        self.longest = max(self.longest, *sizes, 0)
        size = sum(sizes)
        self.value_bytes = max(1, size // len(values))
        self.fit = max(1, BYTES_PER_READ // self.value_bytes)

    def _value(self, reply: Reply) -> bytes | None:
        """A heartbeat's value, as MGET would give it.

        One that is on another server by now is not ours to read: that server is walked later.
        """
        if isinstance(reply, redis.exceptions.AskError) or _is_wrong_type(reply):
            return None
        value: bytes | None = self._accept("GET", reply)
        return value

    def _judge_all(self, ids: Sequence[bytes], values: Sequence[bytes | None], now_ms: int) -> None:
        ages = ages_ms(values, now_ms, self.task.rule)
        if ages is None or b"" in ids:
            run = StaleRun([], [], [])
            for coordinator_id, value in zip(ids, values, strict=True):
                self._judge(coordinator_id, value, now_ms, run)
            self.stale.append(run)
            return
        most_ms = self.task.rule.stale_after_ms
        is_stale = [age_ms > most_ms for age_ms in ages]
        self.live += [name for name, stale in zip(ids, is_stale, strict=True) if not stale]
        if any(is_stale):
            of_stale = [*compress(values, is_stale)]
            run = StaleRun(
                [*compress(ids, is_stale)],
                fingerprints(of_stale),  # type: ignore[arg-type]
                [*compress(ages, is_stale)],
            )
            self.stale.append(run)

    def _judge(
        self, coordinator_id: bytes, value: bytes | None, now_ms: int, stale: StaleRun
    ) -> None:
        if value is None:
            self._ask_type(coordinator_id)
            return
        if not coordinator_id:
            self.kept.append(Sample(b"", Kind.UNREADABLE, "the id is empty"))
            return
        judgement = judge_heartbeat(value, now_ms, self.task.rule)
        if judgement.kind is Kind.LIVE:
            self.live.append(coordinator_id)
        elif judgement.kind is Kind.STALE:
            assert judgement.age_ms is not None
            stale.ids.append(coordinator_id)
            stale.prints.append(fingerprint(value))
            stale.ages_ms.append(judgement.age_ms)
        else:
            self.kept.append(
                Sample(coordinator_id, judgement.kind, judgement.reason, judgement.age_ms)
            )

    def _ask_type(self, coordinator_id: bytes) -> None:
        """A heartbeat that MGET gave no value for is gone, or it is no string."""

        def take(reply: Reply) -> None:
            if isinstance(reply, redis.exceptions.AskError):
                return
            kind = bytes(self._accept("TYPE", reply)).decode()
            if kind == "none":
                return
            reason = "its type changed while it was read" if kind == "string" else f"is a {kind}"
            self.kept.append(Sample(coordinator_id, Kind.UNREADABLE, reason))

        key = self.task.schema.heartbeat.key_for(coordinator_id)
        self.wire.send("TYPE", key, then=take)

    def _accept(self, command: str, reply: Reply) -> Reply:
        # All keys that are read in a walk are heartbeats.
        return wires.accept(command, reply, self.wire.endpoint, self.key_rule)

    def findings(self, seconds: float, attempts: int, timings: Timings) -> Findings:
        """All that was found."""
        return Findings(
            partition=self.partition,
            scanned=self.scanned,
            seconds=seconds,
            attempts=attempts,
            live=self.live,
            stale=self.stale,
            kept=self.kept,
            owned=self.owned,
            timings=timings,
            longest=self.longest,
        )


def _places_left(lane: _Lane) -> float:
    """Of a lane, beyond the page that is in flight."""
    return lane.end - lane.place - lane.count * lane.spacing


def _spread(keys: int) -> int:
    """By how much a stretch that should have so many keys may have more: twice the deviation."""
    return 2 * isqrt(keys)


def _is_wrong_type(reply: Reply) -> bool:
    return isinstance(reply, redis.ResponseError) and str(reply).startswith("WRONGTYPE")
