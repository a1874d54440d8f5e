"""SIGINT and SIGTERM: first a wish to stop, then an end at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from cleanup_job.streams import say


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a wish to stop, and the second into an end at once.

    A patient one has the second do nothing, but inside of `at_once`: what is to be cleaned up
    must not be interrupted.

    Attributes:
        received: the signal's number, or 0.
    """

    def __init__(self, *others: int, patient: bool = False) -> None:
        self.received = 0
        self._others = others
        self._patient = patient
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM, *self._others):
            # One that is ignored, as SIGHUP is under nohup, stays ignored.
            if number not in self._others or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return self

    @property
    def name(self) -> str:
        """The signal's name, or nothing."""
        return signal.Signals(self.received).name if self.received else ""

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Meanwhile a second signal ends everything."""
        before, self._patient = self._patient, False
        try:
            yield
        finally:
            self._patient = before

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        if self.received and self._patient:
            return
        if self.received:
            raise KeyboardInterrupt(number)
        self.received = number
        say("cleanup-job: stopping behind the batches in flight; again to stop at once")
