"""Map a stage over its tasks on the workers of a Dask cluster: `engine: dask`.

Dask carries tasks and values and knows who is there. What it would do by itself when a worker is
lost, to run again whatever was there, is not for tasks that delete. So each task is pinned to one
process (`remote`), and comes back as lost if that is gone. Values stay in the memory of workers,
which take them from each other; the job only has futures.

Invariants:
- No task begins twice, and none in a process other than that which it was given to.
- A worker that is lost may still be at work: it may only have lost the scheduler. What it had is
  not handed out again before its last word has expired.
- All that somebody will still need exists in two processes before anything is deleted (`secure`),
  if there are two.
- A lost scheduler ends the run. What was handed out then may have been done, and is lost. One that
  is back at once, or whose connection was lost only, is lost too: what it had of ours is gone.
- What will not begin any more, since the values that it needs are lost or the run is to end, is
  revoked: its worker says that it has not begun it, and never will. So nobody waits for a worker
  that has something else to do.
- The thread that runs the job waits for no single answer of a worker or of the scheduler.

Not promised: that a run outlives the loss of both processes that have a value. What is lost with it
is counted, since the job knows how many keys it was.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from itertools import count
from typing import Any, NamedTuple

from distributed import Client, Future
from msgspec import structs

from cleanup_job.dask_cluster import ANSWER_S, ask
from cleanup_job.model import SCHEDULER_LOST, UNTRIED, Problem, Pulse, Ref, Stage, Watch
from cleanup_job.remote import (
    Answer,
    NotBegun,
    Order,
    Raised,
    Result,
    Revoked,
    Word,
    carry_out,
    hear,
    same,
    told_of,
    value_of,
)
from cleanup_job.shelf import Done, Left, ShelfStage, Work, just
from cleanup_job.throttle import Allowance
from cleanup_job.turns import Turns

WORD_EVERY_S = 0.2
"""How often each worker gets a word: how late a stop or a pause may be noticed."""

SILENCE_S = 8.0
"""How long a worker goes on without a word. Python may hold its own lock for a second or two, while
it packs or sorts a range of ids. For as long we wait before we touch what a lost worker had."""

LOOK_EVERY_S = 0.5
"""How often we look who is there."""

CONNECT_S = 10.0
"""How long to wait for the scheduler, and for its first worker."""

AHEAD = 2
"""Tasks that are handed out per process: that at hand, and the next, so that it need not wait."""

RESULT_S = 1.0
"""How long to wait at once for what a finished task tells. It is small."""

SECURE_S = 60.0
"""How long to wait for copies. Those that are not there by then are done without."""

NAMES_PER_RANGE = 500_000
"""Names that are judged at once: some 200 MB in a worker."""

RANGES_PER_WORKER = 2
"""So that no worker waits long for the last range of another."""


class _Line:
    """The job's words to one worker, on a thread: whoever does not answer holds up nobody else."""

    def __init__(
        self, client: Client, address: str, word: Callable[[], Word], admits: Callable[[str], bool]
    ) -> None:
        self.address = address
        self.answer: Answer | None = None
        self.answered_s = time.monotonic()
        self.failed = False
        self.revoked: frozenset[int] = frozenset()
        self._client = client
        self._word = word
        self._admits = admits
        self._closing = threading.Event()
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def wait(self, until_s: float) -> None:
        """Wait for the first answer, or for its failure."""
        self._first.wait(max(0.0, until_s - time.monotonic()))

    def close(self) -> None:
        """Say the last word."""
        self._closing.set()

    def join(self, until_s: float) -> None:
        """Wait until it was said."""
        self._thread.join(max(0.0, until_s - time.monotonic()))

    def _talk(self) -> None:
        self.failed = not self._is_admitted()
        if self.failed:
            self._first.set()
        while not self.failed:
            is_last = self._closing.is_set()
            word = structs.replace(self._word(), revoked=self.revoked)
            self._say(structs.replace(word, is_last=True, stop=True) if is_last else word)
            if is_last:
                return
            self._closing.wait(WORD_EVERY_S)

    def _is_admitted(self) -> bool:
        try:
            return self._admits(self.address)
        except Exception:  # noqa: BLE001 - whatever it is, there was no answer
            return False

    def _say(self, word: Word) -> None:
        try:
            told = ask(self._client, hear, word, workers=[self.address], on_error="return")
        except Exception:  # noqa: BLE001 - whatever it is, there was no answer
            told = {}
        answer = told.get(self.address)
        if not isinstance(answer, Answer):
            self.failed = True
        elif self.answer is not None and answer.identity != self.answer.identity:
            self.failed = True  # another process has its address
        else:
            self.answer, self.answered_s = answer, time.monotonic()
        self._first.set()


class _Overseer:
    """What the scheduler says of its workers, asked for on a thread.

    Attributes:
        workers: the addresses that it knew last.
        answered_s: when that was.
        failed: it can't be asked any more.
    """

    def __init__(self, client: Client) -> None:
        self.workers: frozenset[str] = frozenset()
        self.answered_s = time.monotonic()
        self.failed = False
        self._client = client
        self._closing = threading.Event()
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait for the first answer."""
        self._first.wait(seconds)

    def close(self) -> None:
        """Ask no more."""
        self._closing.set()

    def _ask(self) -> None:
        while not (self.failed or self._closing.is_set()):
            try:
                scheduler: Any = self._client.scheduler
                # Of all that it tells, this is the least: their addresses, each with a number.
                told = self._client.sync(scheduler.ncores, callback_timeout=ANSWER_S)
            except Exception:  # noqa: BLE001 - whatever it is, there is no scheduler
                self.failed = True
            else:
                self.workers, self.answered_s = frozenset(told), time.monotonic()
            self._first.set()
            self._closing.wait(LOOK_EVERY_S)


class _Handed(NamedTuple):
    """A work that was given to a worker.

    Attributes:
        needs: whose values it needs.
    """

    work: Work
    address: str
    needs: frozenset[str]
    result: Future[Result] | None
    told: Future[tuple[Any, float, int]] | None


class _Kept(NamedTuple):
    """A result that is kept for its values: where it was made, and where copies are."""

    at: dict[str, Future[Result]]


class DaskPool:
    """A pool and a shelf of workers that Dask found: see `pool.Pool` and `shelf.Shelf`."""

    def __init__(
        self,
        client: Client,
        run_id: str,
        most_workers: int | None,
        admits: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Greet the workers that are there.

        Args:
            client: of the scheduler.
            run_id: of the run.
            most_workers: how many to use; None for all.
            admits: asked of each worker, by its address, before it gets anything.
        """
        self.cpu_s = 0.0
        self.deaths: list[str] = []
        self.reruns = 0
        self.ended: Problem | None = None
        self.is_far = True
        self._client = client
        self._run_id = run_id
        self._most_workers = most_workers
        self._admits = admits
        self._numbers = count(1)
        self._word = Word(run_id, 0.0, silence_s=SILENCE_S)
        self._lines: dict[str, _Line] = {}
        self._greeted: dict[str, _Line] = {}
        self._gone: set[str] = set()
        self._quiet_from_s = 0.0
        self._looks_at_s = 0.0
        self._kept: dict[str, _Kept] = {}
        self._values: dict[tuple[Ref, str], Future[Any]] = {}
        self._finished: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._doubtful: dict[int, float] = {}
        self._left_behind = False
        self._done_before = 0
        self._waited_before_s = 0.0
        self._overseer = _Overseer(client)
        self._overseer.wait(CONNECT_S)
        self._look()
        until_s = time.monotonic() + CONNECT_S
        for line in self._greeted.values():
            line.wait(until_s)
        self._look()
        self.workers = len(self._lines)

    # -- who is there ----------------------------------------------------------------------------

    def _look(self) -> None:
        """Greet who is new, and part with who is gone. Nobody is waited for."""
        self._looks_at_s = time.monotonic() + LOOK_EVERY_S
        if self._client.status != "running" or self._overseer.failed:
            self._lose_scheduler("was lost")
        elif time.monotonic() - self._overseer.answered_s > 2 * SILENCE_S:
            self._lose_scheduler("does not answer")
        if self.ended is None:
            self._part()
            self._greet()

    def _part(self) -> None:
        now_s, there = time.monotonic(), self._overseer.workers
        for address, line in [*self._lines.items()]:
            if now_s - line.answered_s > 2 * SILENCE_S:
                self._part_with(address, "does not answer")
            elif address not in there or line.failed:
                self._part_with(address, "lost")

    def _greet(self) -> None:
        there = self._overseer.workers
        for address, line in [*self._greeted.items()]:
            if line.failed or address not in there:
                self._gone.add(address)
                del self._greeted[address]
            elif line.answer is not None:
                self._lines[address] = line
                del self._greeted[address]
        for address in sorted(there - self._gone - self._lines.keys() - self._greeted.keys()):
            if self._most_workers is not None and self._known >= self._most_workers:
                return
            line = _Line(self._client, address, self._word_now, self._admits)
            self._greeted[address] = line

    @property
    def _known(self) -> int:
        return len(self._lines) + len(self._greeted)

    def _part_with(self, address: str, how: str) -> None:
        line = self._lines.pop(address)
        line.close()
        # Its address is not used any more in this run, whoever comes up there.
        self._gone.add(address)
        self.deaths.append(how)
        self._quiet_from_s = max(self._quiet_from_s, time.monotonic() + SILENCE_S)
        if line.answer is not None:
            self._done_before += line.answer.done
            self._waited_before_s += line.answer.waited_s
        for kept in self._kept.values():
            kept.at.pop(address, None)
        for ref, at in [*self._values]:
            if at == address:
                del self._values[ref, at]

    def _lose_scheduler(self, how: str) -> None:
        if self.ended is None:
            self._quiet_from_s = time.monotonic() + SILENCE_S
            message = f"the scheduler {how}: workers end by themselves"
            self.ended = Problem(SCHEDULER_LOST, message, 1)

    def _word_now(self) -> Word:
        return structs.replace(self._word, sent_s=time.monotonic())

    def _tell(self, watch: Watch) -> None:
        """What the workers are to hear from now on."""
        answers = [line.answer for line in self._lines.values() if line.answer is not None]
        allowed: Allowance | None = None
        if watch.allowance is not None:
            allowed = watch.allowance(all(answer.quiet for answer in answers))
        self._word = Word(
            self._run_id,
            0.0,
            stop=watch.stopping(),
            holds_until_s=watch.holds_until_s,
            silence_s=SILENCE_S,
            is_limited=allowed is not None,
            paused=allowed is not None and allowed.paused,
            share=allowed.share if allowed else 1.0,
            keys_per_s=allowed.keys_per_s if allowed else 0.0,
        )

    def _done(self) -> int:
        answers = [line.answer for line in self._lines.values()]
        return self._done_before + sum(answer.done for answer in answers if answer is not None)

    @property
    def waited_s(self) -> float:
        """As `pool.Pool` says."""
        answers = [line.answer for line in self._lines.values() if line.answer is not None]
        waited_s = self._waited_before_s + sum(answer.waited_s for answer in answers)
        return waited_s / max(1, self.workers)

    # -- a pool ------------------------------------------------------------------------------------

    def map(
        self, stage: Stage, tasks: Iterable[Any], watch: Watch, *, per_node: int | None = None
    ) -> Iterator[tuple[Any, Any | None]]:
        """As `pool.Pool.map`."""
        works = map(Work, tasks)
        for work, done in self.map_works(_Plain(stage), works, watch, per_node=per_node):
            yield work.task, done.told if isinstance(done, Done) else done

    def map_works(
        self,
        stage: ShelfStage,
        works: Iterable[Work],
        watch: Watch,
        *,
        per_node: int | None = None,
    ) -> Iterator[tuple[Work, Any]]:
        """Each work with its `Done`; None in place of it where it was lost, as in `pool`."""
        turns = Turns(works, per_node)
        pending: dict[int, _Handed] = {}
        reported = self._done()
        try:
            while pending or (turns and not self._is_over(watch)):
                self._tell(watch)
                if not self._is_over(watch):
                    yield from ((work, UNTRIED) for work in self._hand_out(stage, turns, pending))
                turns.put_back(self._revoke(pending, everything=watch.stopping()))
                number = self._wait()
                done = self._done()
                watch.advanced(max(0, done - reported))
                reported = max(done, reported)
                if number in pending:
                    yield from self._take(number, pending, turns)
                for work in self._lost_of(pending):
                    turns.finish(work)
                    yield work, None
        finally:
            self._left_behind = bool(pending)
        yield from ((work, UNTRIED) for work in turns.rest())

    def _is_over(self, watch: Watch) -> bool:
        """True if nothing more is handed out."""
        return self.ended is not None or not self._lines or watch.stopping()

    def _wait(self) -> int | None:
        """The number of an order that is finished; None if there is none for a moment."""
        if time.monotonic() >= self._looks_at_s:
            self._look()
        with contextlib.suppress(queue.Empty):
            return self._finished.get(timeout=WORD_EVERY_S)
        return None

    def _hand_out(self, stage: ShelfStage, turns: Turns, pending: dict[int, _Handed]) -> list[Work]:
        """Give the workers what they have room for; the works whose values are lost."""
        busy = Counter(handed.address for handed in pending.values())
        room = {address: AHEAD - busy[address] for address in self._lines}
        lost: list[Work] = []
        for work in turns.ready(sum(room.values())):
            if not self.has(work.refs):
                turns.finish(work)
                lost.append(work)
                continue
            address = self._place(work, room)
            room[address] -= 1
            number = next(self._numbers)
            pending[number] = self._submit(stage, work, number, address)
        return lost

    def _place(self, work: Work, room: dict[str, int]) -> str:
        """Where there is room, and most of the values."""
        here = Counter(at for ref in work.refs for at in self._kept[ref.place].at)
        free = [address for address, tasks in room.items() if tasks > 0]
        return max(free, key=lambda address: (here[address], room[address]))

    def _submit(self, stage: ShelfStage, work: Work, number: int, address: str) -> _Handed:
        answer = self._lines[address].answer
        assert answer is not None, "who was greeted has answered"
        try:
            futures, picks, needs = self._inputs(work.refs, address)
            order = Order(
                self._run_id, answer.identity, number, self._word_now(), stage, work.task, picks
            )
            result = self._on(address, f"do-{number}", carry_out, order, *futures)
            told = self._on(address, f"told-{number}", told_of, result)
            told.add_done_callback(lambda _: self._finished.put(number))
        except Exception:  # noqa: BLE001 - whatever it is, nothing can be sent any more
            self._lose_scheduler("was lost")
            return _Handed(work, address, frozenset(), None, None)
        return _Handed(work, address, needs, result, told)

    def _on(self, address: str, name: str, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run a function in one process, and nowhere else."""
        return self._client.submit(
            function,
            *args,
            key=f"cleanup-job-{self._run_id}-{name}",
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )

    def _take(
        self, number: int, pending: dict[int, _Handed], turns: Turns
    ) -> Iterator[tuple[Work, Done | None]]:
        """What came of an order that is finished: nothing yet, if it can't be told."""
        handed = pending[number]
        assert handed.told is not None, "it was finished"
        try:
            told, cpu_s, values = handed.told.result(timeout=RESULT_S)
        except TimeoutError:
            self._finished.put(number)
            return
        except CancelledError:
            self._lose_scheduler("was lost")  # nobody else cancels what is pending
            return
        except Exception:  # noqa: BLE001 - of Dask: the worker is gone, or what it told is
            self._doubtful[number] = time.monotonic() + SILENCE_S
            return
        del pending[number]
        self.cpu_s += cpu_s
        if isinstance(told, Revoked):
            turns.put_back([handed.work])
            return
        turns.finish(handed.work)
        if isinstance(told, Raised) and not isinstance(told.error, MemoryError):
            raise told.error
        if isinstance(told, NotBegun | Raised):
            yield handed.work, None
            return
        refs = tuple(Ref(str(number), place) for place in range(values))
        if values and handed.result is not None:
            self._kept[str(number)] = _Kept({handed.address: handed.result})
        yield handed.work, Done(told, refs)

    def _revoke(self, pending: dict[int, _Handed], *, everything: bool) -> list[Work]:
        """Take back what need not begin any more, or can't; the works that never will."""
        revoked: dict[str, set[int]] = {address: set() for address in self._lines}
        for number, handed in pending.items():
            if everything or not handed.needs <= self._lines.keys():
                revoked.get(handed.address, set()).add(number)
        never: list[Work] = []
        for address, numbers in revoked.items():
            line = self._lines[address]
            line.revoked = frozenset(numbers)
            refused = line.answer.refused if line.answer else frozenset()
            for number in numbers & refused:
                never.append(pending[number].work)
                self._cancel(pending.pop(number))
        return never

    def _lost_of(self, pending: dict[int, _Handed]) -> list[Work]:
        """The works of those who are gone, when it is sure that these do not go on."""
        now_s = time.monotonic()
        lost = [
            number
            for number, handed in pending.items()
            if now_s >= self._doubtful.get(number, math.inf)
            or (now_s >= self._quiet_from_s and self._is_lost(handed))
        ]
        handed = [pending.pop(number) for number in lost]
        for one in handed:
            self._cancel(one)
        return [one.work for one in handed]

    def _is_lost(self, handed: _Handed) -> bool:
        return self.ended is not None or handed.address not in self._lines

    def _cancel(self, *handed: _Handed) -> None:
        """Let the scheduler forget these, on a thread: it may not answer."""
        if self.ended is None:
            futures = [future for one in handed for future in (one.told, one.result) if future]
            threading.Thread(target=_forget, args=(self._client, futures), daemon=True).start()

    # -- a shelf -----------------------------------------------------------------------------------

    def ranges_for(self, names: int, size: int) -> int:
        """As `shelf.Shelf.ranges_for`."""
        del size  # only very long names would make a difference, and a worker has room for those
        return max(RANGES_PER_WORKER * len(self._lines), math.ceil(names / NAMES_PER_RANGE), 1)

    def has(self, refs: Iterable[Ref]) -> bool:
        """As `shelf.Shelf.has`."""
        return self.ended is None and all(
            ref.place in self._kept and self._kept[ref.place].at for ref in refs
        )

    def together(self, refs: Sequence[Ref]) -> list[tuple[Ref, ...]]:
        """As `shelf.Shelf.together`: those of each worker."""
        by_worker: dict[str, list[Ref]] = defaultdict(list)
        for ref in refs:
            at = self._kept[ref.place].at if ref.place in self._kept else {}
            by_worker[next(iter(at), "")].append(ref)
        return [tuple(some) for some in by_worker.values()]

    def drop(self, refs: Iterable[Ref]) -> None:
        """As `shelf.Shelf.drop`."""
        places = {ref.place for ref in refs}
        for place in places:
            self._kept.pop(place, None)
        for ref, at in [*self._values]:
            if ref.place in places:
                del self._values[ref, at]

    def secure(self, refs: Iterable[Ref]) -> None:
        """As `shelf.Shelf.secure`: a copy in another process."""
        copies: dict[str, tuple[str, Future[Result]]] = {}
        for place in dict.fromkeys(ref.place for ref in refs):
            at = self._kept[place].at
            others = [address for address in self._lines if address not in at]
            if len(at) != 1 or not others:
                continue
            address = others[len(copies) % len(others)]
            with contextlib.suppress(Exception):  # then the scheduler is lost, as is noticed below
                copies[place] = address, self._copy(*next(iter(at.items())), address)
        give_up_at_s = time.monotonic() + SECURE_S
        while copies and self.ended is None and time.monotonic() < give_up_at_s:
            self._wait()
            for place, (address, copy) in [*copies.items()]:
                at = self._kept[place].at
                if copy.status == "finished" and address in self._lines:
                    at[address] = copy
                if copy.status != "pending" or not at or address not in self._lines:
                    del copies[place]

    def _copy(self, at: str, result: Future[Result], to: str) -> Future[Result]:
        """A copy for another process.

        What a process has fetched, Dask drops where it likes, here or there. So that the original
        stays where it is, another name of it is fetched.
        """
        number = next(self._numbers)
        lent = self._on(at, f"lent-{number}", same, result)
        return self._on(to, f"copy-{number}", same, lent)

    def _inputs(
        self, refs: Sequence[Ref], address: str
    ) -> tuple[list[Future[Any]], tuple[int | None, ...], frozenset[str]]:
        """The values of a task: whole results that are there already, or single values.

        Returns:
            The values; which of each result's it is; and who else has to be there for them.
        """
        futures: list[Future[Any]] = []
        picks: list[int | None] = []
        needs: set[str] = set()
        for ref in refs:
            at = self._kept[ref.place].at
            if address in at:
                futures.append(at[address])
                picks.append(ref.first)
            else:
                needs.add(next(iter(at)))
                futures.append(self._value(ref))
                picks.append(None)
        return futures, tuple(picks), frozenset(needs)

    def _value(self, ref: Ref) -> Future[Any]:
        """One value of a result, by itself, so that nobody has to take all of them."""
        at, result = next(iter(self._kept[ref.place].at.items()))
        if (ref, at) not in self._values:
            number = next(self._numbers)
            self._values[ref, at] = self._on(at, f"value-{number}", value_of, result, ref.first)
        return self._values[ref, at]

    def close(self) -> None:
        """Say the last word to all, and wait until nobody can be at work any more."""
        self._word = structs.replace(self._word, stop=True)
        lines = [*self._lines.values(), *self._greeted.values()]
        for line in lines:
            line.close()
        self._overseer.close()
        until_s = time.monotonic() + SILENCE_S
        for line in lines:
            line.join(until_s)
        if self._left_behind:
            time.sleep(max(0.0, self._quiet_from_s - time.monotonic()))
        self._kept.clear()
        self._values.clear()
        self._lines.clear()
        self._greeted.clear()


def _forget(client: Client, futures: list[Future[Any]]) -> None:
    with contextlib.suppress(Exception):
        client.cancel(futures)


class _Plain:
    """A stage of a task alone, as one that could leave values."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __call__(self, task: Any, values: Iterator[Any], pulse: Pulse) -> Left:
        del values
        return just(self._stage(task, pulse))
