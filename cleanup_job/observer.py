"""What a run tells whoever watches it, and asks of them."""

from __future__ import annotations

from cleanup_job.model import Partition, Target
from cleanup_job.plan import Preview


class Observer:
    """What somebody who watches a run is told. This one ignores it; override what you need."""

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
