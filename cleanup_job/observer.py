"""What a run tells whoever watches it, and asks of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cleanup_job.model import Partition, Target
    from cleanup_job.plan import Preview
    from cleanup_job.report import Coordinators


class Observer:
    """What somebody who watches a run is told. This one ignores it; override what you need."""

    def started(self, run_id: str, started_at: str) -> None:
        """The run begins; `started_at` is RFC 3339, in UTC."""

    def found(self, target: Target) -> None:
        """These are the servers."""

    def began(self, phase: str, keys: int) -> None:
        """A phase over so many keys begins."""

    def advanced(self, keys: int) -> None:
        """So many more keys of the phase are done."""

    def walked(self, partition: Partition) -> None:
        """This share of the keyspace was walked to its end."""

    def ended(self) -> None:
        """The phase is over."""

    def judged(self, found: Coordinators, kept: Mapping[str, int]) -> None:
        """Who is live, stale and orphaned; and how many could not be understood, by reason."""

    def planned(self, coordinators: int, keys: Mapping[str, int]) -> None:
        """So many coordinators, with so many keys of each family, are to go."""

    def confirm(self, preview: Preview) -> bool:  # noqa: ARG002 - for those who look
        """False to delete nothing. Asked of plans of more than `confirm_above` coordinators."""
        return True

    def paused(self, reason: str | None) -> None:
        """The throttle holds the run up, by this reason; None when it goes on.

        A reason begins with the name of its setting. What follows may change meanwhile.
        """

    def stopping(self) -> bool | str:
        """True to end the run: batches in flight finish, and the report says partial.

        A text says who asks for it.
        """
        return False


class Observers(Observer):
    """Several who watch the same run, as one.

    All of them are told everything. Whoever says no to a plan, or asks for an end, has it.

    Attributes:
        run_id: of the run, once it has one.
        phase: the one at hand, or the last.
    """

    def __init__(self, *observers: Observer) -> None:
        self._all = observers
        self.run_id = self.phase = ""

    def started(self, run_id: str, started_at: str) -> None:
        """Tell all."""
        self.run_id = run_id
        for one in self._all:
            one.started(run_id, started_at)

    def found(self, target: Target) -> None:
        """Tell all."""
        for one in self._all:
            one.found(target)

    def began(self, phase: str, keys: int) -> None:
        """Tell all."""
        self.phase = phase
        for one in self._all:
            one.began(phase, keys)

    def advanced(self, keys: int) -> None:
        """Tell all."""
        for one in self._all:
            one.advanced(keys)

    def walked(self, partition: Partition) -> None:
        """Tell all."""
        for one in self._all:
            one.walked(partition)

    def ended(self) -> None:
        """Tell all."""
        for one in self._all:
            one.ended()

    def judged(self, found: Coordinators, kept: Mapping[str, int]) -> None:
        """Tell all."""
        for one in self._all:
            one.judged(found, kept)

    def planned(self, coordinators: int, keys: Mapping[str, int]) -> None:
        """Tell all."""
        for one in self._all:
            one.planned(coordinators, keys)

    def confirm(self, preview: Preview) -> bool:
        """Ask one after the other, until one says no."""
        return all(one.confirm(preview) for one in self._all)

    def paused(self, reason: str | None) -> None:
        """Tell all."""
        for one in self._all:
            one.paused(reason)

    def stopping(self) -> bool | str:
        """What the first says who asks for an end."""
        return next((told for one in self._all if (told := one.stopping())), False)


class OnlyAsked(Observer):
    """Another observer, which is asked but told nothing: somebody else shows the run."""

    def __init__(self, other: Observer) -> None:
        self._other = other

    def found(self, target: Target) -> None:
        """Tell it, since its question names the servers."""
        self._other.found(target)

    def confirm(self, preview: Preview) -> bool:
        """Ask it."""
        return self._other.confirm(preview)

    def stopping(self) -> bool | str:
        """Ask it."""
        return self._other.stopping()
