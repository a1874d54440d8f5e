"""How a running task pauses and rests: the waiting half of a `model.Pulse`, for all engines."""

from __future__ import annotations

import time
from collections.abc import Callable

from cleanup_job.pace import SMALLEST
from cleanup_job.throttle import UNLIMITED, Allowance, Tempo, portion

NAP_S = 0.02
"""The longest sleep: how late a stop, or the end of a pause, may be noticed."""

Allowed = Callable[[bool], Allowance]
"""What may be done now. It is told whether nothing of this worker's is in flight."""


def unlimited(_: bool) -> Allowance:
    """For runs without any limit."""
    return UNLIMITED


class Rests:
    """The pauses and rests of one worker.

    A task asks `must_rest` before each command. If so it receives what is in flight, sends
    nothing, and calls `rest`.
    """

    def __init__(self, allowed: Allowed, stopping: Callable[[], bool]) -> None:
        self._allowed = allowed
        self._stopping = stopping
        self._tempo = Tempo(time.monotonic())
        self._now_allowed = UNLIMITED

    @property
    def waited_s(self) -> float:
        """Rested for `max_keys_per_second` so far."""
        return self._tempo.waited_s

    def begin(self) -> None:
        """A task begins."""
        self._tempo.begin(time.monotonic())

    def must_rest(self) -> bool:
        """True if no command should be sent now."""
        allowed = self._now_allowed = self._allowed(False)
        if allowed is UNLIMITED:
            return False
        return self._tempo.rest_s(time.monotonic(), allowed) > 0 or allowed.paused

    def rest(self) -> float:
        """Wait until work may go on, or the run is to end; how long that was, in seconds.

        Nothing may be in flight.
        """
        began_s = now_s = time.monotonic()
        while not self._stopping():
            allowed = self._allowed(True)
            due_s = self._tempo.rest_s(time.monotonic(), allowed)
            if allowed.paused:
                due_s = allowed.ask_again_s
            if not due_s:
                break
            time.sleep(min(NAP_S, due_s))
            now_s = time.monotonic()
            self._tempo.rested(now_s, allowed)
        self._now_allowed = self._allowed(False)
        return now_s - began_s

    def takes(self, keys: int) -> None:
        """So many keys are about to be deleted."""
        if self._now_allowed.keys_per_s:
            self._tempo.takes(time.monotonic(), keys, self._now_allowed)

    def portion(self, most: int) -> int:
        """How many keys to delete at once, of at most so many."""
        return portion(most, self._now_allowed, SMALLEST)
