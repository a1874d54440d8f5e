"""What the stages ask of the job while they run: whether to go on, and how fast.

A run is ended by the first of several *checks* that has a reason. The reason is remembered, so
that the report can tell it, and so that a run that is ending does not change its mind.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from cleanup_job.gauge import Gauge
from cleanup_job.lease import Lease
from cleanup_job.model import Problem
from cleanup_job.throttle import LISTENING, Allowance, Reason

Check = Callable[[], Problem | None]
"""Why the run is to end now, or None."""

SHOWN_S = 0.5
"""How long a reason is shown after its pause has ended, so that a flurry of short ones is one."""

ADVICE = {
    "time_budget": "the survey has to fit into it: give it more time",
    "stop_file": "remove the file before the next run",
}
"""What to do about a run that was ended in the survey, by the code of its end."""


class Audience(Protocol):
    """The part of `observer.Observer`, or of `clock.Clock`, that is needed here."""

    def advanced(self, keys: int) -> None:
        """As there."""

    def paused(self, reason: str | None) -> None:
        """As there."""

    def stopping(self) -> bool | str:
        """As there."""


def told_to(audience: Audience) -> Check:
    """The end that a signal, or whoever watches the run, asks for."""

    def check() -> Problem | None:
        told = audience.stopping()
        if not told:
            return None
        return Problem("told", f"stopped by {told}" if isinstance(told, str) else "told to stop", 1)

    return check


def stop_file(path: str) -> Check:
    """The end that comes with a file."""

    def check() -> Problem | None:
        if not os.path.lexists(path):
            return None
        return Problem("stop_file", f"the stop file {path} is there", 1)

    return check


def time_budget(budget_s: int, elapsed_s: Callable[[], float]) -> Check:
    """The end that comes with time."""

    def check() -> Problem | None:
        if elapsed_s() < budget_s:
            return None
        return Problem("time_budget", f"the time budget of {budget_s} s ended", 1)

    return check


class RunWatch:
    """A `model.Watch` over the whole run.

    Attributes:
        ended_by: why the run is to end; None as long as it goes on.
        allowance: as `model.Watch` says.
    """

    def __init__(
        self,
        audience: Audience,
        checks: Iterable[Check],
        gauge: Gauge | None,
        lease: Lease | None = None,
    ) -> None:
        """Ask all of these from now on.

        Args:
            audience: is told of progress and pauses.
            checks: what may end the run.
            gauge: what may hold it up.
            lease: what it needs to go on; whether it is lost is one of the checks.
        """
        self.advanced = audience.advanced
        self.ended_by: Problem | None = None
        self.allowance = self._allow if gauge else None
        self._audience = audience
        self._checks = tuple(checks)
        self._gauge = gauge
        self._lease = lease
        self._shown: Reason | None = None
        self._shown_until_s = 0.0

    @property
    def holds_until_s(self) -> float:
        """As `model.Watch` says."""
        return self._lease.holds_until_s if self._lease else math.inf

    def stopping(self) -> bool:
        """Whether the run is to end; once it is, it stays so."""
        if self.ended_by is None:
            reasons = (check() for check in self._checks)
            self.ended_by = next((reason for reason in reasons if reason is not None), None)
        return self.ended_by is not None

    def _allow(self, quiet: bool) -> Allowance:
        assert self._gauge is not None, "without a gauge there is nothing to allow"
        allowed = self._gauge.allowance(quiet=quiet)
        self._show(self._gauge.throttle.reason, time.monotonic())
        return allowed

    def _show(self, reason: Reason | None, now_s: float) -> None:
        if reason is not None and reason.code != LISTENING:
            self._shown_until_s = now_s + SHOWN_S
            if self._shown is None or self._shown.code != reason.code:
                self._shown = reason
                self._audience.paused(reason.message)
        elif self._shown is not None and now_s > self._shown_until_s:
            self._shown = None
            self._audience.paused(None)
