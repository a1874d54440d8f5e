"""A service that sweeps every five minutes, beside whatever else it does.

The scheduler here is a loop of asyncio, but all that matters is in `sweep`: it runs in a thread, it
tells of its progress, it can be ended early, and each of its outcomes is told to somebody.

    REDIS_URL=redis://db.example:6379/0 python examples/embed_in_scheduler.py

It needs nothing but cleanup-job.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable

from cleanup_job import Callbacks, CleanupJobError, Config, Report, load, run

log = logging.getLogger("sweeper")

EVERY_S = 5 * 60


class Sweeper:
    """Sweeps one target again and again, one run at a time.

    Attributes:
        progress: phase, keys done, keys in all; for a status page.
        bad_runs: how many ended badly since the last good one.
    """

    def __init__(self, config: Config, alert: Callable[[str], None] = log.error) -> None:
        self.progress: tuple[str, int, int] = ("waiting", 0, 0)
        self.bad_runs = 0
        self._config = config
        self._alert = alert
        self._cancelled = threading.Event()

    def sweep(self) -> Report | None:
        """One run, from any thread; None if it did not begin, or broke off."""
        watching = Callbacks(progress=self._note, stop=self._why_to_stop)
        try:
            report = run(self._config, observer=watching)
        except CleanupJobError as error:
            self._take_error(error)
            return None
        finally:
            self.progress = ("waiting", 0, 0)
        self._take(report)
        return report

    def cancel(self) -> None:
        """End the run at hand when its batches in flight are through, and begin none any more."""
        self._cancelled.set()

    async def serve(self, every_s: float = EVERY_S) -> None:
        """Sweep until `cancel`; what the event loop does meanwhile does not wait for it."""
        while not self._cancelled.is_set():
            await asyncio.to_thread(self.sweep)
            await asyncio.to_thread(self._cancelled.wait, every_s)

    def _note(self, phase: str, done: int, total: int) -> None:
        self.progress = (phase, done, total)

    def _why_to_stop(self) -> bool | str:
        return "the service's shutdown" if self._cancelled.is_set() else False

    def _take(self, report: Report) -> None:
        """What to do about a run that came to its end."""
        keys = report.keys
        if report.status == "complete":
            self.bad_runs = 0
            log.info("run %s: %d of %d keys deleted", report.run_id, keys.deleted, keys.planned)
        elif report.status == "partial":
            # The next run goes on where this one ended. Only if that does not help it is news.
            self.bad_runs += 1
            log.warning("run %s: partial: %s", report.run_id, [e.message for e in report.errors])
            if self.bad_runs >= 3 and not self._cancelled.is_set():
                self._alert(f"{self.bad_runs} runs without a complete one")
        elif report.status == "refused":
            # A safety limit said no, and nothing was deleted. Somebody has to look at it.
            self.bad_runs += 1
            for problem in report.errors:
                self._alert(f"refused, nothing was deleted: {problem.message}")
        else:
            self.bad_runs += 1
            self._alert(f"run {report.run_id}: the counts do not add up; please report this")

    def _take_error(self, error: CleanupJobError) -> None:
        """What to do about a run that has no report."""
        self.bad_runs += 1
        if error.exit_code == 75 and self.bad_runs < 3:
            # Unreachable, loading, or another run is at it: the next turn may be luckier.
            log.warning("no sweep this time (%s): %s", error.code, error)
        else:
            self._alert(f"no sweep ({error.code}): {error}")


async def main() -> None:
    """The service."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # In one process: a service has threads, and is not to be forked. See docs/guide.md.
    sweeper = Sweeper(load(environ=os.environ, flags={"engine": "serial"}))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, sweeper.cancel)
    await sweeper.serve()


if __name__ == "__main__":
    asyncio.run(main())
