"""One partition to its findings: the map half of the job.

The partition is walked once, in two *lanes*: two halves of its cursor range, each with one
SCAN in flight, so that the server fills one page while Python reads the other. Heartbeats are
read in bulk as they are found, and judged against the server's clock asked for right behind
them.

Invariants:
- Every key that is there throughout the walk is in the findings, maybe more than once.
- A heartbeat is judged by a clock that was read after it, so that nobody's beat can seem to
  lie in the future because of us.
- A walk that breaks is walked again from its start: it only reads.
"""

from __future__ import annotations

import time
from time import perf_counter
from typing import NamedTuple

import redis

from cleanup_job import wire as wires
from cleanup_job.errors import CursorOrderError
from cleanup_job.judge import judge_heartbeat
from cleanup_job.keyspace import covering_glob
from cleanup_job.model import (
    Findings,
    IdleTask,
    Kind,
    Partition,
    Pulse,
    Sample,
    SurveyTask,
    Timings,
    merge_timings,
    pack,
    unpack,
)
from cleanup_job.wire import Reply, Wire, WireLostError

PAGE = 1000
"""COUNT of a SCAN: 0.3–0.6 ms of the server per call (shared facts §3), so that other clients
hardly notice, and few enough round trips."""

HEARTBEATS_PER_READ = 1000
"""Keys per MGET: about 1 ms of the server."""

IDLE_READS_IN_FLIGHT = 500
"""OBJECT IDLETIME takes one key, so many are sent before the first is awaited."""

MAX_ATTEMPTS = 3
"""How often a partition is walked when the connection breaks in the middle."""

PAUSE_BETWEEN_ATTEMPTS_S = 0.5

_CURSOR_SPACE = 1 << 64


def survey(task: SurveyTask, pulse: Pulse) -> Findings:
    """Walk one partition; on a broken connection walk it again.

    Raises:
        ServerUnavailableError: if the connection broke `MAX_ATTEMPTS` times.
        ServerRefusedError: if the user lacks a right.
        CursorOrderError: if cursors come in another order than partitions rely on.
    """
    timings: list[Timings] = []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        started = perf_counter()
        try:
            walk = _Walk(task, wires.borrow(task.endpoint), pulse)
            walk.run()
            timings.append(walk.wire.take_timings())
            return walk.findings(perf_counter() - started, attempt, merge_timings(timings))
        except WireLostError:
            wires.discard(task.endpoint)
            if attempt == MAX_ATTEMPTS:
                raise
            time.sleep(PAUSE_BETWEEN_ATTEMPTS_S * attempt)
        except Exception:
            # What is still in flight would answer the next one's questions.
            wires.discard(task.endpoint)
            raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def survey_idle(task: IdleTask, pulse: Pulse) -> frozenset[bytes]:
    """Those keys that were touched too lately for an orphan's, or nobody knows when; read only.

    Redis keeps one shared object for each integer from 0 to 9999 (unless it evicts by LRU). A
    key that holds one has its idle time, which writing the key does not reset: a record `1`
    written this second can seem untouched for days. Such a value is told by its reference
    count.

    Raises:
        ServerUnavailableError: if the connection broke.
        ServerRefusedError: if the user lacks a right.
    """
    wire = wires.borrow(task.endpoint)
    young: list[bytes] = []
    for key in unpack(task.keys):

        def take_idle(reply: Reply, key: bytes = key) -> None:
            idle_s = _accept("OBJECT", reply, wire)
            if idle_s is not None and idle_s < task.min_idle_s:
                young.append(key)

        def take_references(reply: Reply, key: bytes = key) -> None:
            references = _accept("OBJECT", reply, wire)
            if references is not None and references > 1:
                young.append(key)

        if pulse.stopping():
            break
        while len(wire) >= IDLE_READS_IN_FLIGHT:
            wire.receive()
        wire.send("OBJECT", "IDLETIME", key, then=take_idle)
        wire.send("OBJECT", "REFCOUNT", key, then=take_references)
    wire.drain()
    return frozenset(young)


class _Lane(NamedTuple):
    """A range of reversed cursors."""

    start: int
    end: int


def lanes_of(partition: Partition) -> tuple[_Lane, ...]:
    """The ranges of reversed cursors that one worker walks side by side."""
    if partition.sequential:
        return (_Lane(0, _CURSOR_SPACE),)
    cut = [-(-(2 * partition.index + i) * _CURSOR_SPACE // (2 * partition.count)) for i in range(3)]
    return (_Lane(cut[0], cut[1]), _Lane(cut[1], cut[2]))


def reverse_bits(cursor: int) -> int:
    """A 64-bit cursor as its place in the walk's order, and back."""
    return int(f"{cursor:064b}"[::-1], 2)


class _Walk:
    """The state of one walk over one partition."""

    def __init__(self, task: SurveyTask, wire: Wire, pulse: Pulse) -> None:
        self.task = task
        self.wire = wire
        self.pulse = pulse
        self.glob = covering_glob(task.schema.patterns)
        self.unread: list[bytes] = []
        self.scanned = 0
        self.live: list[bytes] = []
        self.stale: list[tuple[bytes, bytes, int]] = []
        self.kept: list[Sample] = []
        self.owned: list[list[bytes]] = [[] for _ in task.schema.owned]

    def run(self) -> None:
        for lane in lanes_of(self.task.partition):
            self._scan(lane, lane.start)
        while self.wire:
            self.wire.receive()
            if not self.wire:
                self._read_heartbeats()

    def _scan(self, lane: _Lane, place: int) -> None:
        """Ask for the page at `place`, a reversed cursor; its reply asks for the next one."""

        def take(reply: Reply) -> None:
            cursor, keys = _accept("SCAN", reply, self.wire)
            next_place = reverse_bits(int(cursor))
            at_end = int(cursor) == 0 or next_place >= lane.end
            if not at_end and next_place <= place and not self.task.partition.sequential:
                raise CursorOrderError(
                    f"{self.wire.endpoint.address} returned SCAN cursors out of order",
                    "cursor_order",
                )
            if not at_end and not self.pulse.stopping():
                self._scan(lane, next_place)
            self.pulse.advance(self._passed(place, lane.end if at_end else next_place))
            self._take_page(keys)

        self.wire.send("SCAN", reverse_bits(place), "MATCH", self.glob, "COUNT", PAGE, then=take)

    def _passed(self, place: int, next_place: int) -> int:
        """About how many keys lie between two places: MATCH hides what was walked over."""
        if self.task.partition.sequential:
            return PAGE
        return self.task.keys * (next_place - place) // _CURSOR_SPACE

    def _take_page(self, keys: list[bytes]) -> None:
        self.scanned += len(keys)
        for bucket, (_, pattern) in zip(self.owned, self.task.schema.owned, strict=True):
            bucket += pattern.select(keys)
        self.unread += self.task.schema.heartbeat.ids(keys)
        if len(self.unread) >= HEARTBEATS_PER_READ:
            self._read_heartbeats()

    def _read_heartbeats(self) -> None:
        """Ask for the values of the heartbeats found, and for the time right behind them."""
        ids, self.unread = self.unread, []
        if not ids:
            return
        keys = [self.task.schema.heartbeat.key_for(coordinator_id) for coordinator_id in ids]
        values: list[bytes | None] = []

        def take_values(reply: Reply) -> None:
            values.extend(_accept("MGET", reply, self.wire))

        def take_time(reply: Reply) -> None:
            seconds, micros = _accept("TIME", reply, self.wire)
            now_ms = int(seconds) * 1000 + int(micros) // 1000
            for coordinator_id, value in zip(ids, values, strict=True):
                self._judge(coordinator_id, value, now_ms)

        self.wire.send("MGET", *keys, then=take_values)
        self.wire.send("TIME", then=take_time)

    def _judge(self, coordinator_id: bytes, value: bytes | None, now_ms: int) -> None:
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
            self.stale.append((coordinator_id, value, judgement.age_ms))
        else:
            self.kept.append(
                Sample(coordinator_id, judgement.kind, judgement.reason, judgement.age_ms)
            )

    def _ask_type(self, coordinator_id: bytes) -> None:
        """A heartbeat that MGET gave no value for is gone, or it is no string."""

        def take(reply: Reply) -> None:
            kind = bytes(_accept("TYPE", reply, self.wire)).decode()
            if kind == "none":
                return
            reason = "its type changed while it was read" if kind == "string" else f"is a {kind}"
            self.kept.append(Sample(coordinator_id, Kind.UNREADABLE, reason))

        key = self.task.schema.heartbeat.key_for(coordinator_id)
        self.wire.send("TYPE", key, then=take)

    def findings(self, seconds: float, attempts: int, timings: Timings) -> Findings:
        """All that was found, packed."""
        return Findings(
            partition=self.task.partition,
            scanned=self.scanned,
            seconds=seconds,
            attempts=attempts,
            live=pack(self.live),
            stale=pack([coordinator_id for coordinator_id, _, _ in self.stale]),
            stale_values=pack([value for _, value, _ in self.stale]),
            stale_ages_ms=tuple(age_ms for _, _, age_ms in self.stale),
            kept=tuple(self.kept),
            owned=tuple(pack(keys) for keys in self.owned),
            timings=timings,
        )


def _accept(command: str, reply: Reply, wire: Wire) -> Reply:
    if isinstance(reply, redis.ResponseError):
        raise wires.refusal(command, reply, wire.endpoint)
    return reply
