"""The journal of a run: where it lies, and when it begins and ends.

Workers append to it (see `dump`); its format is `journal`'s. Imported only by runs that keep one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cleanup_job import journal as journals
from cleanup_job.clock import Clock
from cleanup_job.model import HEARTBEAT, Problem, Schema, Target, Written


class RunJournal:
    """It is made when the first key is about to go.

    Attributes:
        written: what is in it, when the run has ended.
        problems: why it has no end, although it may be whole.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        stamp = f"{clock.started_at:%Y%m%dT%H%M%SZ}-{clock.run_id}"
        self.path = journals.choose(name, stamp)
        self.written: Written | None = None
        self.problems: list[Problem] = []
        self._clock = clock

    @property
    def partial(self) -> str:
        """What workers append to."""
        return str(journals.partial(self.path))

    @contextmanager
    def open(self, schema: Schema, target: Target, db: int) -> Iterator[None]:
        """For as long as keys are deleted; gets its name however that ends.

        Raises:
            ConfigError: if it can't be made.
        """
        first = target.servers[0]
        opening = journals.Opening(
            format=journals.FORMAT,
            run_id=self._clock.run_id,
            started_at=self._clock.started_at_text,
            product=first.product,
            version=first.version,
            mode=target.mode,
            db=db,
            nodes=[journals.Node(server.address, server.run_id) for server in target.servers],
            patterns={
                **{name: pattern.text for name, pattern in schema.owned},
                HEARTBEAT: schema.heartbeat.text,
            },
        )
        journals.begin(self.path, opening)
        try:
            yield
        except BaseException:
            # Workers may still be at it, so there is no end yet to be written.
            with suppress(OSError):
                journals.settle(self.path)
            raise
        try:
            self.written = journals.finish(self.path, opening)
        except journals.JournalError as error:
            self.problems.append(Problem(error.code, str(error), 1, (str(self.path),)))
