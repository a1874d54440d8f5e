"""The frozen values of a run, which its parts hand on to each other.

`Sweep` is what the run goes by, `Surveyed` is what its walks found, `Swept` is all that its stages
came to. Nobody writes to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from cleanup_job.config import Config
from cleanup_job.gauge import Gauge
from cleanup_job.lease import Lease
from cleanup_job.model import Access, Findings, Outcome, Problem, Ref, Rule, Schema, Target
from cleanup_job.observer import Observer
from cleanup_job.plan import Plan, Scope
from cleanup_job.reduce import PortionInfo
from cleanup_job.report import PlanUse
from cleanup_job.shelf import Shelf
from cleanup_job.tally import Tally
from cleanup_job.watch import RunWatch

if TYPE_CHECKING:
    from cleanup_job.run_journal import RunJournal


class Sweep(msgspec.Struct, frozen=True):
    """What does not change during a run.

    Attributes:
        max_block_ms: the setting, or less where somebody else's latency asks for it.
        shelf: where findings and plans stay that are not for this process to hold.
    """

    config: Config
    access: Access
    schema: Schema
    rule: Rule
    observer: Observer
    watch: RunWatch
    gauge: Gauge
    max_block_ms: float
    dry_run: bool
    show: int
    run_id: str
    plan_path: Path | None
    lease: Lease | None
    journal: RunJournal | None
    shelf: Shelf | None = None


class Surveyed(msgspec.Struct, frozen=True):
    """The findings of all walks, and what they leave out.

    Attributes:
        target: the servers as they were after the last walk.
        uncovered: slots of which keys may have been missed, with the reason in `warnings`.
        stopped: the run is to end before anything is deleted.
    """

    target: Target
    findings: list[Findings]
    uncovered: frozenset[int]
    warnings: tuple[Problem, ...]
    stopped: bool = False

    def without_names(self) -> Surveyed:
        """The same for when the names are in the verdicts, so that nothing is held twice."""
        return structs.replace(self, findings=[found.without_names() for found in self.findings])

    @property
    def covered(self) -> bool:
        """True if no key can have been missed."""
        return not (self.uncovered or self.stopped)


class Judged(msgspec.Struct, frozen=True):
    """Who is what, in numbers, and what is to go.

    Attributes:
        scope: what a plan that was made before leaves of it.
        plan_use: the plan file that was written or executed, or why there is none.
        portions: the plan, if it is on the shelf.
        late: coordinators whose heartbeats have to wait, since others' portions have keys of them.
        ranges: in how many the ids were judged.
    """

    tally: Tally
    plan: Plan | None
    scope: Scope
    portions: tuple[tuple[PortionInfo, Ref], ...] = ()
    late: frozenset[bytes] = frozenset()
    ranges: int = 1
    plan_use: PlanUse | Problem | None = None


class Swept(msgspec.Struct, frozen=True):
    """What the stages of a run came to, for its report.

    Attributes:
        refused: why nothing was, or would be, deleted.
    """

    surveyed: Surveyed
    judged: Judged
    refused: Sequence[Problem]
    outcomes: Sequence[Outcome]

    @property
    def tally(self) -> Tally:
        """See `Judged`."""
        return self.judged.tally
