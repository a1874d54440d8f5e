"""A worker process that somebody else started, on whatever machine: what it is told, and tells.

Such a worker knows of the job what `hear` was told last: a *word* a few times a second, with
whether to go on, for how long the run has its lease, and what the throttle allows. Its answer is
how far it has come.

Invariants:
- It begins no batch after the run's lease has ended, even if nobody can say so any more. The job's
  clock is not this machine's. The least time that a word seemed to take says how they differ, and
  errs by no more than the quickest word was under way.
- It begins none either when it has heard nothing for `silence_s`: the job, or the scheduler between
  them, may be gone.
- A task runs in the process that it was given to, and once: what an engine starts again by itself,
  here or elsewhere, is not begun. Only the job knows what may be repeated.
"""

from __future__ import annotations

import logging
import math
import pickle
import secrets
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import structs

from cleanup_job import wire
from cleanup_job.errors import CleanupJobError
from cleanup_job.model import (
    Findings,
    Outcome,
    Pulse,
)
from cleanup_job.pulse import Rests
from cleanup_job.shelf import ShelfStage
from cleanup_job.throttle import UNLIMITED, Allowance
from cleanup_job.timings import sent

IDENTITY = secrets.token_hex(8)
"""Tells this process from any other, and from one that may get its address."""


class Word(msgspec.Struct, frozen=True):
    """What the job says to a worker.

    Attributes:
        run_id: whose word it is.
        sent_s: when, by the job's monotonic clock.
        stop: begin no new batch.
        holds_until_s: see `model.Watch`, by the same clock.
        silence_s: for how long to go on without another word.
        paused: as of `throttle.Allowance`, like `share` and `keys_per_s`.
        is_limited: these count.
        revoked: orders not to begin, if that is not done.
        is_last: the run is over.
    """

    run_id: str
    sent_s: float
    stop: bool = False
    holds_until_s: float = math.inf
    silence_s: float = math.inf
    paused: bool = False
    share: float = 1.0
    keys_per_s: float = 0.0
    is_limited: bool = False
    revoked: frozenset[int] = frozenset()
    is_last: bool = False


class Answer(msgspec.Struct, frozen=True):
    """What a worker says to the job.

    Attributes:
        identity: of its process.
        done: keys so far.
        waited_s: what it has rested for `max_keys_per_second`.
        quiet: nothing of it is in flight.
        refused: those of the revoked orders that have not begun, and never will.
    """

    identity: str
    done: int
    waited_s: float
    quiet: bool
    refused: frozenset[int] = frozenset()


class NotBegun(msgspec.Struct, frozen=True):
    """In place of a result: this is not the process that the task was given to."""


class Revoked(msgspec.Struct, frozen=True):
    """In place of a result: the job took the order back before it began."""


class Raised(msgspec.Struct, frozen=True):
    """In place of a result: what the stage raised. What Dask raises says that a task is lost."""

    error: Exception


def dask_setup(_: Any) -> None:
    """Leave it to the job to stop: a Ctrl-C comes to all processes of a terminal.

    Dask calls this in workers that we start ourselves. They end with the job, however that ends.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Station:
    """What this process knows of one run. Tasks read it while `hear` writes.

    Attributes:
        late_s: this machine's clock less the job's, as far as can be told.
        until_s: by this machine's clock, when to begin nothing any more.
        over: the run's last word was heard, or is not awaited any more.
    """

    def __init__(self) -> None:
        self.word: Word | None = None
        self.late_s = math.inf
        self.until_s = 0.0
        self.over = threading.Event()
        self.begun: set[int] = set()
        self.refused: set[int] = set()
        self.pulses: set[_RemotePulse] = set()
        self.waited_before_s = 0.0
        self.done = 0
        self.lock = threading.Lock()

    def hear(self, word: Word) -> None:
        now_s = time.monotonic()
        if self.word is not None and word.sent_s < self.word.sent_s:
            return
        self.late_s = min(self.late_s, now_s - word.sent_s)
        until_s = min(word.sent_s + word.silence_s, word.holds_until_s) + self.late_s
        self.word, self.until_s = word, until_s
        with self.lock:
            self.refused |= word.revoked - self.begun

    def begins(self, number: int) -> bool:
        """False if it did already, or is not to."""
        with self.lock:
            if number in self.begun or number in self.refused:
                return False
            self.begun.add(number)
            return True

    def answer(self) -> Answer:
        with self.lock:
            pulses = [*self.pulses]
            waited_s = self.waited_before_s + sum(pulse.waited_s for pulse in pulses)
            quiet = all(pulse.quiet for pulse in pulses)
            refused = frozenset(self.word.revoked & self.refused) if self.word else frozenset()
            return Answer(IDENTITY, self.done, waited_s, quiet, refused)

    def end(self, pulse: _RemotePulse) -> None:
        with self.lock:
            self.pulses.discard(pulse)
            self.waited_before_s += pulse.waited_s
        if self.over.is_set():
            _close_unless_at_work(self)


_stations: dict[str, _Station] = {}
"""By run. They are made by its first word, and gone with its last."""

_over: deque[str] = deque(maxlen=100)
"""Runs whose last word was heard. One that was said before may come after it."""

FORGET_S = 5.0
"""When a run is forgotten that fell silent without a last word. Its job is dead, or was held up for
so long that all that it gave out counts as lost."""


def hear(word: Word) -> Answer:
    """Take the job's word, and tell how far this process has come."""
    if word.run_id in _over:
        return Answer(IDENTITY, 0, 0.0, quiet=True)
    with _lock:
        station = _stations.get(word.run_id) or _begin(word.run_id)
    station.hear(word)
    if word.is_last:
        _over.append(word.run_id)
        _end(word.run_id)
    return station.answer()


_lock = threading.Lock()


def _begin(run_id: str) -> _Station:
    if not _stations:
        _LOGGER.addFilter(_is_no_word)
    station = _stations[run_id] = _Station()
    threading.Thread(target=_forget_if_silent, args=(run_id, station), daemon=True).start()
    return station


def _forget_if_silent(run_id: str, station: _Station) -> None:
    while not station.over.wait(FORGET_S / 5):
        if station.word is not None and time.monotonic() > station.until_s + FORGET_S:
            _end(run_id)


def _end(run_id: str) -> None:
    """Nothing more of this run begins here."""
    with _lock:
        station = _stations.pop(run_id, None)
        if not _stations:
            _LOGGER.removeFilter(_is_no_word)
    if station is not None:
        station.over.set()
        _close_unless_at_work(station)


def _close_unless_at_work(station: _Station) -> None:
    """Close our connections: who lent us this process keeps it, and has no use for them.

    They belong to threads, and so to all runs. While one is at work, it may be with them.
    """
    if not (station.pulses or any(other.pulses for other in _stations.values())):
        wire.close_everywhere()


_LOGGER = logging.getLogger("distributed.worker")


def _is_no_word(record: logging.LogRecord) -> bool:
    """False for what Dask logs of each call of `hear`: several lines a second say nothing."""
    return "'hear'" not in record.getMessage()


class Result(msgspec.Struct, frozen=True):
    """What a task came to; the values stay here.

    Attributes:
        told: for the job.
        cpu_s: of the task.
        values: for others.
    """

    told: Any
    cpu_s: float
    values: Sequence[Any] = ()


class Order(msgspec.Struct, frozen=True):
    """A task for one process.

    Attributes:
        number: which no other order of the run has.
        word: the last one, since it may be on its way while the order is not.
        picks: which of each result's values the task needs; None where it is the value itself.
    """

    run_id: str
    identity: str
    number: int
    word: Word
    stage: ShelfStage
    task: Any
    picks: tuple[int | None, ...] = ()


def carry_out(order: Order, *results: Any) -> Result:
    """Do it, if this is the process that is meant; what the stage raises is told like a result."""
    station = _stations.get(order.run_id)
    if station is None or order.identity != IDENTITY or any(map(_is_lost, results)):
        return Result(NotBegun(), 0.0)
    if not station.begins(order.number):
        return Result(Revoked() if order.number in station.refused else NotBegun(), 0.0)
    station.hear(order.word)
    values = (
        result if pick is None else result.values[pick]
        for result, pick in zip(results, order.picks, strict=True)
    )
    pulse = _RemotePulse(station)
    before_s = time.thread_time()
    try:
        left = order.stage(order.task, values, pulse)
        kept = [*left.values]
        told = _by_the_jobs_clock(left.told(), station.late_s)
    except Exception as error:  # noqa: BLE001 - the job knows what to make of it
        wire.close_all()  # replies may be on their way that nobody waits for
        return Result(Raised(_portable(error)), time.thread_time() - before_s)
    finally:
        station.end(pulse)
    return Result(told, time.thread_time() - before_s, kept)


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same and can be sent."""
    if not isinstance(error, CleanupJobError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - it is our own
    except Exception:  # noqa: BLE001 - whatever it is, it can't be sent
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def told_of(result: Result) -> tuple[Any, float, int]:
    """What the job gets of a result: what it was told, the CPU, and how many values there are."""
    return result.told, result.cpu_s, len(result.values)


def value_of(result: Result, place: int) -> Any:
    """One of the values, for a worker that does not have the result.

    Dask makes lost results again, and those that they were made of, wherever it can. Nothing comes
    of that here, but it must not fail: Dask would take what depends on it for failed too, copies
    that are there among it, and try for ever.
    """
    return NotBegun() if _is_lost(result) else result.values[place]


def _is_lost(value: Any) -> bool:
    """True for what stands for something that was lost."""
    return isinstance(value, NotBegun) or (isinstance(value, Result) and not value.values)


def same(result: Result) -> Result:
    """The result itself, by another name: a copy, where it was not."""
    return result


def _by_the_jobs_clock(told: Any, late_s: float) -> Any:
    """The same with the moments of replies as the job would have seen them."""
    if isinstance(told, Findings | Outcome):
        return structs.replace(told, timings=sent(told.timings, -late_s))
    return [_by_the_jobs_clock(one, late_s) for one in told] if isinstance(told, list) else told


class _RemotePulse(Rests, Pulse):
    """The pulse of one task."""

    def __init__(self, station: _Station) -> None:
        super().__init__(self._read_allowance, self.stopping)
        self.quiet = False
        self._station = station
        with station.lock:
            station.pulses.add(self)
        self.begin()

    def advance(self, keys: int) -> None:
        with self._station.lock:
            self._station.done += keys

    def stopping(self) -> bool:
        word = self._station.word
        return word is None or word.stop or time.monotonic() >= self._station.until_s

    def _read_allowance(self, quiet: bool) -> Allowance:
        word = self._station.word
        if word is None or not word.is_limited:
            return UNLIMITED
        self.quiet = quiet
        return Allowance(word.paused, word.share, word.keys_per_s)
