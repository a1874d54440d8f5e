"""An observer that is made of plain functions, for programs that embed a run."""

from __future__ import annotations

from collections.abc import Callable

from cleanup_job.observer import Observer


class Callbacks(Observer):
    """Tells a function how a run gets on, and asks another one whether to end it.

    Both are called in the thread that runs, several times a second while there is something to
    tell; so they should return soon. What they raise ends the run and comes out of it.

    >>> watching = Callbacks(progress=lambda phase, done, total: print(phase, done, total))
    >>> watching.began("survey", 1000)
    survey 0 1000
    >>> watching.advanced(600)
    survey 600 1000
    >>> watching.advanced(600)
    survey 1000 1000
    """

    def __init__(
        self,
        *,
        progress: Callable[[str, int, int], object] | None = None,
        stop: Callable[[], bool | str] | None = None,
    ) -> None:
        """Call these from now on.

        Args:
            progress: takes the phase (survey, judge, purge), the keys that are done in it, and
                about how many there are. It is never called with more than all.
            stop: true to end the run, such as the `is_set` of a `threading.Event`; a text says who
                asks for it. Batches in flight finish, and the report says partial.
        """
        self._progress = progress
        self._stop = stop
        self._phase = ""
        self._done = self._total = 0

    def began(self, phase: str, keys: int) -> None:
        """The first call of a phase, with nothing done."""
        self._phase, self._done, self._total = phase, 0, keys
        self._tell()

    def advanced(self, keys: int) -> None:
        """So much more is done; but not more than all, since a walk returns some keys twice."""
        self._done = min(self._total, self._done + keys)
        self._tell()

    def stopping(self) -> bool | str:
        """What `stop` says."""
        return self._stop() if self._stop is not None else False

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._phase, self._done, self._total)
