"""When a run began, in which phase it is, and what its phases took."""

from __future__ import annotations

import resource
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from time import perf_counter, process_time

from cleanup_job.course import Span
from cleanup_job.errors import BrokenOffError, CleanupJobError, OutOfMemoryError
from cleanup_job.observer import Observer
from cleanup_job.pool import Pool


class Clock:
    """When the run began, and what its phases took: seconds, and the CPU of all processes.

    Attributes:
        now: the phase at hand.
        began_s: when the run began, by `perf_counter`, as all stamps are.
        spans: the phases that are over.
        done: keys that were done, and when.
    """

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.started_at = datetime.now(UTC)
        self.run_id = secrets.token_hex(4)
        self.pool: Pool | None = None
        self.now = ""
        self.wall_s: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}
        self.began_s = perf_counter()
        self.spans: list[Span] = []
        self.done: list[tuple[float, int]] = []
        self._cpu_before_s = process_time()
        self._whole_cpu_before_s = _whole_cpu_s()

    @property
    def started_at_text(self) -> str:
        """RFC 3339, UTC."""
        return self.started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @contextmanager
    def phase(self, name: str, keys: int) -> Iterator[None]:
        """Everything in it is this phase's."""
        began_s, cpu_before_s = perf_counter(), self.client_cpu_s
        self.now = name
        self.observer.began(name, keys)
        try:
            yield
        finally:
            self.observer.ended()
            ended_s = perf_counter()
            self.spans.append(Span(name, began_s, ended_s))
            self.wall_s[name] = round(ended_s - began_s, 4)
            self.cpu_s[name] = round(self.client_cpu_s - cpu_before_s, 4)

    def advanced(self, keys: int) -> None:
        """So many more keys are done: stamped, and passed on to the observer."""
        self.done.append((perf_counter(), keys))
        self.observer.advanced(keys)

    def paused(self, reason: str | None) -> None:
        """Passed on; the throttle's ledger knows when it was."""
        self.observer.paused(reason)

    def stopping(self) -> bool | str:
        """Passed on."""
        return self.observer.stopping()

    @property
    def duration_s(self) -> float:
        """Since the run began."""
        return round(perf_counter() - self.began_s, 4)

    @property
    def whole_cpu_s(self) -> float:
        """Of this process and of all that it has waited for: its workers, when they are gone."""
        return round(_whole_cpu_s() - self._whole_cpu_before_s, 4)

    @property
    def client_cpu_s(self) -> float:
        """Of this process, and of workers as far as they have told."""
        of_workers = self.pool.cpu_s if self.pool else 0.0
        return process_time() - self._cpu_before_s + of_workers


def out_of_memory(phase: str) -> CleanupJobError:
    """What to tell when this process gets no more memory. A worker is replaced: see `processes`.

    Args:
        phase: the one at hand, or the last.
    """
    remedy = "give it more, or look for a limit (ulimit -v, MemoryMax=)"
    if phase == "purge":
        return BrokenOffError(
            f"out of memory in the purge or behind it, so there is no report; {remedy}; the next "
            "run goes on where this one ended",
            "out_of_memory",
        )
    return OutOfMemoryError(
        f"out of memory {f'in the phase {phase}' if phase else 'at the start'}; nothing was "
        f"deleted; {remedy}",
        "out_of_memory",
    )


def _whole_cpu_s() -> float:
    waited_for = resource.getrusage(resource.RUSAGE_CHILDREN)
    return process_time() + waited_for.ru_utime + waited_for.ru_stime
