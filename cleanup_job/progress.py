"""Progress bars on stderr, where it is a terminal; of a cluster's slots, which ones are through."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cleanup_job.cursors import Order, slots_between
from cleanup_job.job import Observer
from cleanup_job.model import Partition, SlotRange, Target

if TYPE_CHECKING:
    from tqdm import tqdm

MOST_RANGES = 3
"""How many ranges of slots a line names: after years of resharding a node may have hundreds."""


class Bars(Observer):
    """One tqdm bar per phase, with rate and time to go.

    Above the survey's there is a line for each share of a cluster that was walked.
    """

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self._visible = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None
        self._slots: dict[str, tuple[SlotRange, ...]] = {}

    def found(self, target: Target) -> None:
        """Remember which slots a cluster's nodes have."""
        if target.clustered:
            self._slots = {server.address: server.slots for server in target.servers}

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

    def walked(self, partition: Partition) -> None:
        """Leave a line for a cluster's slots that are through."""
        if self._bar is not None and self._slots:
            line = describe_walk(partition, self._slots.get(partition.node, ()))
            self._bar.write(line, file=sys.stderr)

    def ended(self) -> None:
        """Close the bar where it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def stopping(self) -> bool:
        """Whether a signal asked to stop."""
        return self._stopping()


def describe_walk(partition: Partition, slots: Sequence[SlotRange]) -> str:
    """Which of a node's slots are through with this share of it.

    Where a node does not walk slot by slot, each share goes through all of its slots.
    """
    lane = (partition.lanes[0][0], partition.lanes[-1][1])
    part = ""
    if partition.order is Order.SLOTS:
        first, last = slots_between(lane)
        slots = [
            (max(first, low), min(last, high))
            for low, high in slots
            if low <= last and first <= high
        ]
    elif partition.order is Order.REVERSED:
        part = f", {partition.range}"
    named = ", ".join(f"{low:,}" if low == high else f"{low:,}-{high:,}" for low, high in slots)
    if len(slots) > MOST_RANGES:
        count = sum(high - low + 1 for low, high in slots)
        named = f"{count:,} from {slots[0][0]:,} to {slots[-1][1]:,}"
    return f"walked slots {named or 'of others'} of {partition.node}{part}"
