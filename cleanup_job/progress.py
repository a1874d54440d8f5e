"""Progress bars on stderr, where it is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cleanup_job.job import Observer

if TYPE_CHECKING:
    from tqdm import tqdm


class Bars(Observer):
    """One tqdm bar per phase, with rate and time to go."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self._visible = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None

    def began(self, phase: str, keys: int) -> None:
        """Start a bar over the keyspace, or over the keys planned."""
        if not self._visible or not keys:
            return
        from tqdm import tqdm

        # Its monitor is a thread, and workers are to be forked from a process without any.
        tqdm.monitor_interval = 0
        self._bar = tqdm(
            total=keys, desc=f"{phase:<6}", unit=" keys", unit_scale=True, ncols=80, nrows=20
        )

    def advanced(self, keys: int) -> None:
        """Move the bar, but not beyond its end: a walk returns some keys twice."""
        if self._bar is not None:
            self._bar.update(min(keys, (self._bar.total or 0) - self._bar.n))

    def ended(self) -> None:
        """Close the bar where it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def stopping(self) -> bool:
        """Whether a signal asked to stop."""
        return self._stopping()
