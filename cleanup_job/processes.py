"""Map a stage over its tasks in worker processes: the pool that `pool.open_pool` opens.

Invariants:
- No connection is made before a worker exists, and none is passed to it.
- A worker begins no batch after the run's lease has ended, even if the job is held up and can't
  say so: the monotonic clock is the machine's.
- A worker whose job process is gone ends before its next batch: it looks at its parent's pid
  a few times a second and before each batch.
- A worker that dies takes its pool with it: a new one goes on with what was not begun. What
  may have been begun is handed back as lost, and nothing else is. To tell them apart, a worker
  marks the number of its task before it begins it, and tasks are numbered in the order in which
  workers get them.
- A worker without memory dies: nobody knows what state its connections are in.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import errno
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from multiprocessing import connection
from operator import itemgetter
from typing import Any

from cleanup_job.model import UNTRIED, Problem, Pulse, Stage, Watch
from cleanup_job.pulse import Rests
from cleanup_job.throttle import UNLIMITED, Allowance
from cleanup_job.turns import Turns

POLL_S = 0.1
"""How often the job looks at progress and at the stop flag while workers work."""

PARENT_CHECK_S = 0.2

LAST_RESULTS_S = 5.0
"""How long to wait for results that were sent before a worker was lost. They are in a pipe."""

AHEAD = 2
"""Tasks that are handed out per worker: the one at hand, and the next, so that it need not wait.
More would be lost with a worker."""

MOST_IN_VAIN = 30
"""How many pools may break one after another, none of them with a result. A task that kills its
workers breaks `max_attempts` of them, 10 at most, and those that run again do so one after another:
so there may be three of these at once, or ten with the default of 3. What breaks more is not in a
task. Starting a pool takes some 0.4 s, so that it is over in 12 s."""

MOST_UNBEGUN = 3
"""How many of these may break before they begin a task. Then it is none that kills them: there is
no memory to start a worker, or a program does not protect its main module."""

_OUT_OF_MEMORY = errno.ENOMEM
"""What a worker without memory exits with."""


_Numbered = tuple[int, Any]
"""A task with its number, by which workers mark what they have begun."""


class _Shared:
    """The few bytes that the job and its workers share.

    None of them has a lock: a worker that is killed while it holds one would hold up all others
    for ever. Each worker counts what it has done in a place of its own, and marks there the number
    of the last task that it began.

    Attributes:
        holds_until_s: see `model.Watch`.
        limited: something may have workers pause or rest, as `pause`, `share` and `keys_per_s`
            say: see `throttle.Allowance`. Until the job has said so, they pause.
        quiet: by worker, whether it has nothing in flight.
        waited: by worker, what it has rested for `max_keys_per_second`, in seconds.
    """

    def __init__(self, context: multiprocessing.context.BaseContext, workers: int) -> None:
        self.stop: Any = context.Value(ctypes.c_byte, 0, lock=False)
        self.done: Any = context.Array(ctypes.c_longlong, workers, lock=False)
        self.begun: Any = context.Array(ctypes.c_longlong, workers, lock=False)
        self.holds_until_s: Any = context.Value(ctypes.c_double, math.inf, lock=False)
        self.limited: Any = context.Value(ctypes.c_byte, 0, lock=False)
        self.pause: Any = context.Value(ctypes.c_byte, 1, lock=False)
        self.share: Any = context.Value(ctypes.c_double, 1.0, lock=False)
        self.keys_per_s: Any = context.Value(ctypes.c_double, 0.0, lock=False)
        self.quiet: Any = context.Array(ctypes.c_byte, [1] * workers, lock=False)
        self.waited: Any = context.Array(ctypes.c_double, workers, lock=False)

    def allow(self, watch: Watch) -> float:
        """Tell the workers what they may do now; when to do so anew, in seconds."""
        if watch.allowance is None:
            return POLL_S
        allowed: Allowance = watch.allowance(all(self.quiet))
        self.share.value, self.keys_per_s.value = allowed.share, allowed.keys_per_s
        self.pause.value = int(allowed.paused)
        return min(POLL_S, allowed.ask_again_s)


class Processes:
    """A pool of worker processes on this machine: see `pool.Pool`."""

    def __init__(self, workers: int, profile: str | None = None) -> None:
        self.workers = workers
        self._profile = profile
        self.cpu_s = 0.0
        self.deaths: list[str] = []
        self.reruns = 0
        self.ended: Problem | None = None
        self.is_far = False
        self._in_vain = 0
        self._unbegun = 0
        self._waited_before_s = 0.0
        self._numbers = count(1)
        # A profiler that the job runs would come along with a fork.
        self._start("spawn" if profile else _start_method())

    def _start(self, method: str) -> None:
        self._broken = False
        self._number = 0
        context = _numbered(method, self._numbers)
        self._shared = _Shared(context, self.workers)
        self._executor = ProcessPoolExecutor(
            self.workers,
            mp_context=context,
            initializer=_start_worker,
            initargs=(self._shared, os.getpid(), self._profile),
        )

    @property
    def waited_s(self) -> float:
        """As `pool.Pool` says."""
        return self._waited_before_s + float(sum(self._shared.waited)) / self.workers

    def map(
        self, stage: Stage, tasks: Iterable[Any], watch: Watch, *, per_node: int | None = None
    ) -> Iterator[tuple[Any, Any | None]]:
        """As `pool.Pool.map`."""
        queue = Turns(tasks, per_node)
        while queue:
            if self._broken:
                if self._is_hopeless() or watch.stopping():
                    break
                # By now this process has connections and threads that a fork must not copy.
                self._waited_before_s = self.waited_s
                self._start("spawn")
            yield from self._map(stage, queue, watch)
        yield from ((task, UNTRIED) for task in queue.rest())

    def _is_hopeless(self) -> bool:
        return self._in_vain >= MOST_IN_VAIN or self._unbegun >= MOST_UNBEGUN

    def _map(self, stage: Stage, queue: Turns, watch: Watch) -> Iterator[tuple[Any, Any | None]]:
        """Run tasks until there are none, or until a worker is lost."""
        reported = sum(self._shared.done)
        self._shared.limited.value = int(watch.allowance is not None)
        pending: dict[Future[Any], _Numbered] = {}
        unheard: list[_Numbered] = []
        while pending or (queue and not self._broken):
            # Before anything is handed out: what workers know may be as old as the last stage.
            self._shared.stop.value = int(watch.stopping())
            self._shared.holds_until_s.value = watch.holds_until_s
            if not self._broken:
                unheard += self._hand_out(stage, queue, pending)
            # Not before the workers exist: the throttle may make connections, and none is theirs.
            poll_s = self._shared.allow(watch)
            finished, _ = wait(pending, timeout=poll_s, return_when=FIRST_COMPLETED)
            if not finished and (self._broken or self._dead_workers() or self._is_deaf()):
                self._break()
                _, silent = wait(pending, timeout=0 if self._is_deaf() else LAST_RESULTS_S)
                unheard += [pending.pop(future) for future in silent]
            done = sum(self._shared.done)
            watch.advanced(done - reported)
            reported = done
            for future in finished:
                number, task = pending.pop(future)
                try:
                    result, cpu_s = future.result()
                except (BrokenProcessPool, MemoryError):
                    # Without memory a result can't be packed, and its worker had better go too.
                    unheard.append((number, task))
                    self._break()
                else:
                    queue.finish(task)
                    self._in_vain = 0
                    self.cpu_s += cpu_s
                    yield task, result
        if self._broken:
            yield from ((task, None) for task in self._sort_out(unheard, queue))

    def _hand_out(
        self, stage: Stage, queue: Turns, pending: dict[Future[Any], _Numbered]
    ) -> list[_Numbered]:
        """Give the workers what they have room for; the task on the way to which that failed.

        It does where a worker is lost, and where there is no memory for one or for a thread.
        """
        ready = queue.ready(self.workers * AHEAD - len(pending))
        for place, task in enumerate(ready):
            self._number += 1
            try:
                future = self._executor.submit(_run, stage, self._number, task)
            except (RuntimeError, OSError, MemoryError) as error:
                queue.put_back(ready[place + 1 :])
                self._break()
                if not isinstance(error, BrokenProcessPool):
                    self.deaths.append(str(error) or type(error).__name__)
                return [(self._number, task)]
            pending[future] = self._number, task
        return []

    def _sort_out(self, unheard: list[_Numbered], queue: Turns) -> list[Any]:
        """The tasks of a pool that broke which may have been begun; the others wait again."""
        # All workers are dead by now, so this stays as it is.
        last = max(self._shared.begun)
        self._in_vain += 1
        self._unbegun = 0 if last else self._unbegun + 1
        unheard.sort(key=itemgetter(0))
        queue.put_back([task for number, task in unheard if number > last])
        lost = [task for number, task in unheard if number <= last]
        for task in lost:
            queue.finish(task)
        return lost

    def _break(self) -> None:
        """End a pool that lost a worker: the others may be at work on what counts as lost."""
        if self._broken:
            return
        self._broken = True
        if self._is_deaf():
            self.deaths.append("no memory for a thread")
        dead = self._dead_workers()
        self.kill()
        # The executor's own SIGTERM reaches workers that have just been started.
        codes = [process.exitcode for process in dead if process.exitcode != -signal.SIGTERM]
        self.deaths += map(_cause, codes)

    def _processes(self) -> list[Any]:
        return [*(self._executor._processes or {}).values()]  # noqa: SLF001

    def _dead_workers(self) -> list[Any]:
        """Workers never end by themselves while they have tasks.

        The executor looks for that too, but not while it reads a result: one that was cut off
        in the middle would be waited for for ever.
        """
        processes = {process.sentinel: process for process in self._processes()}
        return [processes[sentinel] for sentinel in connection.wait([*processes], timeout=0)]

    def _is_deaf(self) -> bool:
        """True if the executor's own thread is gone, for want of memory: no result will come."""
        thread: Any = getattr(self._executor, "_executor_manager_thread", None)
        return thread is not None and not thread.is_alive()

    def close(self) -> None:
        """End the workers; what they have begun they finish, up to the batch at hand."""
        self._shared.stop.value = 1
        if not self._broken:
            workers = self._processes()
            self._executor.shutdown(wait=False, cancel_futures=True)
            _await_end(workers)
        self._executor.shutdown(wait=not self._broken, cancel_futures=True)

    def kill(self) -> None:
        """End the workers at once.

        The executor's own way is SIGTERM, which they ignore, and it would wait for them.
        """
        processes = self._processes()
        for process in processes:
            process.kill()
        for process in processes:
            _reap(process)
        # Nobody writes results any more. Ours is the last end to write them, and while it is
        # open the executor goes on reading.
        results = getattr(self._executor, "_result_queue", None)
        if results is not None:
            results._writer.close()  # noqa: SLF001
        # Nor reads tasks any more. Who has one to write would wait for that, unless the executor's
        # thread sees to it.
        calls = getattr(self._executor, "_call_queue", None)
        if calls is not None and self._is_deaf():
            calls._reader.close()  # noqa: SLF001


class _WorkerPulse(Rests):
    def __init__(self, shared: _Shared, parent_pid: int) -> None:
        super().__init__(self._read_allowance, self.stopping)
        self._shared = shared
        self._parent_pid = parent_pid
        # Those of one pool follow one another, so they differ in their place: see `_numbered`.
        self.number = int(multiprocessing.current_process().name.rpartition("-")[2])
        self._place = self.number % len(shared.done)

    def begin_task(self, number: int) -> None:
        self._shared.begun[self._place] = number
        self.begin()

    def advance(self, keys: int) -> None:
        self._shared.done[self._place] += keys

    def stopping(self) -> bool:
        return (
            bool(self._shared.stop.value)
            or os.getppid() != self._parent_pid
            or time.monotonic() >= self._shared.holds_until_s.value
        )

    def end(self) -> None:
        """The task is done."""
        self._shared.waited[self._place] = self.waited_s
        self._shared.quiet[self._place] = 1

    def _read_allowance(self, quiet: bool) -> Allowance:
        shared = self._shared
        if not shared.limited.value:
            return UNLIMITED
        shared.quiet[self._place] = quiet
        return Allowance(bool(shared.pause.value), shared.share.value, shared.keys_per_s.value)


_pulse: _WorkerPulse | None = None

_profiler: _Profiler | None = None

_cpu_told_s = 0.0


class _Profiler:
    """Profiles a worker's tasks, and writes the file anew after each: its end may be sudden."""

    def __init__(self, path: str) -> None:
        import cProfile  # nobody else needs it

        self._path = path
        self._profile = cProfile.Profile()

    def run(self, stage: Stage, task: Any, pulse: Pulse) -> Any:
        try:
            return self._profile.runcall(stage, task, pulse)
        finally:
            with contextlib.suppress(OSError):  # a full disk costs the profile, and nothing else
                self._profile.dump_stats(self._path)


def _start_worker(shared: _Shared, parent_pid: int, profile: str | None) -> None:
    global _pulse, _profiler
    _pulse = _WorkerPulse(shared, parent_pid)
    if profile is not None:
        _profiler = _Profiler(f"{profile}.worker-{_pulse.number}")
    # A terminal's Ctrl-C and a service's SIGTERM reach the whole group. The job decides what
    # they mean, and tells through the stop flag.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        threading.Thread(target=_end_with_parent, args=(parent_pid,), daemon=True).start()
    except (RuntimeError, MemoryError):  # no memory for its stack
        os._exit(_OUT_OF_MEMORY)


def _end_with_parent(parent_pid: int) -> None:
    """A worker that waits for tasks of a dead job would wait for ever."""
    while os.getppid() == parent_pid:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)


def _run(stage: Stage, number: int, task: Any) -> tuple[Any, float]:
    """The result, and the CPU in seconds since the last one was handed over.

    So the packing of each is counted with the next.
    """
    global _cpu_told_s
    assert _pulse is not None, "tasks run in workers that _start_worker prepared"
    _pulse.begin_task(number)
    try:
        result = _profiler.run(stage, task, _pulse) if _profiler else stage(task, _pulse)
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
    finally:
        _pulse.end()
    before_s, _cpu_told_s = _cpu_told_s, time.process_time()
    return result, _cpu_told_s - before_s


def _reap(process: Any) -> None:
    """Wait for a process that ends, until its exit code is known.

    The executor's thread may have been the one that waited for it, and not have said so yet.
    """
    process.join()
    give_up_at = time.monotonic() + LAST_RESULTS_S
    while process.is_alive() and time.monotonic() < give_up_at:
        time.sleep(0.001)


def _await_end(workers: list[Any]) -> None:
    """Wait for workers to end by themselves, unless one did not.

    One that was killed while it waited for a task holds the lock of the tasks: the others would
    wait for that for ever, and the executor for them.
    """
    running = {worker.sentinel: worker for worker in workers}
    while running:
        for sentinel in connection.wait([*running], timeout=POLL_S):
            worker = running.pop(sentinel)
            _reap(worker)
            if worker.exitcode:
                for other in running.values():
                    other.kill()


def _cause(exit_code: int | None) -> str:
    """How a worker ended, in words."""
    if exit_code == _OUT_OF_MEMORY:
        return "out of memory"
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    names = {int(number): number.name for number in signal.Signals}
    return f"killed by {names.get(-exit_code, f'signal {-exit_code}')}"


def _numbered(method: str, numbers: Iterator[int]) -> Any:
    """A context of our own, whose processes end their names with these numbers.

    Python numbers those of all pools in one row. Where two runs start theirs at once, in threads
    of one program, two workers of a pool could get the same place in what they share.
    """
    context: Any = copy.copy(multiprocessing.get_context(method))
    make = context.Process

    def make_numbered(*args: Any, **options: Any) -> Any:
        process = make(*args, **options)
        process.name = f"cleanup-job-{next(numbers)}"
        return process

    context.Process = make_numbered
    return context


def _start_method() -> str:
    """Fork where it is safe, since it saves each worker the imports.

    It is not on macOS, nor in a program that has threads: a fork copies their locks as they
    are.
    """
    if sys.platform == "linux" and threading.active_count() == 1:
        return "fork"
    return "spawn"
