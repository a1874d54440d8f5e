"""What a terminal sees of a run: progress on stderr, and a question before much is deleted."""

from __future__ import annotations

import contextlib
import re
import select
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cleanup_job.cursors import Order, slots_between
from cleanup_job.layout import listed
from cleanup_job.measures import counted, duration
from cleanup_job.model import Partition, SlotRange, Target, printable
from cleanup_job.observer import Observer
from cleanup_job.plan import Preview
from cleanup_job.report import Coordinators
from cleanup_job.style import PLAIN, Style
from cleanup_job.text import product_name

if TYPE_CHECKING:
    from tqdm import tqdm

MOST_RANGES = 3
"""How many ranges of slots a line names: after years of resharding a node may have hundreds."""

MOST_REASONS = 3
"""How many are told why heartbeats could not be understood."""

ANSWER_POLL_S = 0.1


COLUMNS = 80

SAY_EVERY_S = 10.0
"""Without a terminal, a reason to pause that comes and goes is said this often."""


class Bars(Observer):
    """One tqdm bar per phase, with rate and time to go, and the reason while it is paused.

    Above the survey's there is a line for each share of a cluster that was walked. Between the bars
    stand the servers, who was found, and what is to go.

    Attributes:
        run_id: nothing before the run began.
        phase: the last that began.
    """

    def __init__(
        self,
        stopping: Callable[[], bool | str],
        say: Callable[[str], None],
        *,
        asks: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        style: Style = PLAIN,
    ) -> None:
        """Show progress.

        Args:
            stopping: whether a signal asked to stop, and which.
            say: takes a line for people, where there is no bar.
            asks: somebody sits at stdin, and can say no to a plan.
            quiet: show nothing at all; a question is asked all the same.
            verbose: say what is found even where there is no terminal.
            style: for colours.
        """
        self.run_id = ""
        self.phase = ""
        self._stopping = stopping
        self._say = say
        self._asks = asks
        self._where = ""
        self._quiet = quiet
        self._style = style
        self._verbose = verbose
        self._visible = sys.stderr.isatty() and not quiet
        self._tells = self._visible or verbose
        self._plan_told = False
        self._began_s = 0.0
        self._keys = 0
        self._bar: tqdm[Any] | None = None
        self._slots: dict[str, tuple[SlotRange, ...]] = {}
        self._said_at_s: dict[str, float] = {}

    def started(self, run_id: str, started_at: str) -> None:  # noqa: ARG002 - the log has the time
        """Remember the run."""
        self.run_id = run_id

    def found(self, target: Target) -> None:
        """Say where it is, and remember which slots a cluster's nodes have."""
        self._tell("server:", describe_target(target))
        self._where = ", ".join(server.address for server in target.servers)
        if target.clustered:
            self._slots = {server.address: server.slots for server in target.servers}

    def began(self, phase: str, keys: int) -> None:
        """Start a bar over the keyspace, or over the keys planned."""
        self.phase, self._keys, self._began_s = phase, keys, time.monotonic()
        if not self._visible or not keys:
            return
        from tqdm import tqdm

        # Its monitor is a thread, and workers are to be forked from a process without any.
        tqdm.monitor_interval = 0
        with self._while_somebody_looks():
            self._bar = tqdm(
                total=keys,
                desc=f"{phase:<6}",
                unit=" keys",
                unit_scale=True,
                ncols=COLUMNS,
                nrows=20,
            )

    def advanced(self, keys: int) -> None:
        """Move the bar, but not beyond its end: a walk returns some keys twice."""
        if self._bar is not None:
            with self._while_somebody_looks():
                self._bar.update(min(keys, (self._bar.total or 0) - self._bar.n))

    def walked(self, partition: Partition) -> None:
        """Leave a line for a cluster's slots that are through."""
        if self._bar is not None and self._slots:
            line = describe_walk(partition, self._slots.get(partition.node, ()))
            with self._while_somebody_looks():
                self._bar.write(line, file=sys.stderr)

    def ended(self) -> None:
        """Close the bar where it is; say what the phase took to who wants to know."""
        if self._bar is not None:
            with self._while_somebody_looks():
                self._bar.close()
            self._bar = None
        if self._verbose:
            seconds = time.monotonic() - self._began_s
            of_keys = f", {counted(self._keys, 'key')}" if self._keys else ""
            self._tell(f"{self.phase}:", [f"{duration(seconds)}{of_keys}"])

    def judged(self, found: Coordinators, kept: Mapping[str, int]) -> None:
        """Say who was found, and why heartbeats could not be understood."""
        self._tell("found:", describe_found(found))
        if kept:
            self._tell("kept:", describe_kept(kept))

    def planned(self, coordinators: int, keys: Mapping[str, int]) -> None:
        """Say how many are to go."""
        self._tell("to go:", describe_size(coordinators, keys))
        self._plan_told = self._tells

    def _tell(self, label: str, parts: Sequence[str]) -> None:
        if self._tells:
            first, *more = listed(f"{label:<8}", parts, 8)
            self._say("\n".join([self._style(label, "dim") + first[len(label) :], *more]))

    @contextlib.contextmanager
    def _while_somebody_looks(self) -> Iterator[None]:
        """A terminal that is gone costs the bars, and nothing else."""
        try:
            yield
        except OSError:
            self._visible = False
            if self._bar is not None:
                self._bar.disable = True  # or it would say goodbye
                self._bar = None

    def confirm(self, preview: Preview) -> bool:
        """Show the plan to whoever sits there, and ask.

        A signal is a no, and so are an end of input and a terminal that is gone.
        """
        if not self._asks:
            return True
        with contextlib.suppress(OSError):
            lines = [] if self._plan_told else describe_plan(preview, self._where)
            lines += [*describe_examples(preview), f"delete them on {self._where}? [y/N] "]
            sys.stderr.write("\n".join(lines))
            sys.stderr.flush()
            while not self._stopping():
                # A signal's handler does not end a read, so that the wish to stop is looked at.
                if select.select([sys.stdin], [], [], ANSWER_POLL_S)[0]:
                    return sys.stdin.readline().strip().lower() in ("y", "yes")
        return False

    def paused(self, reason: str | None) -> None:
        """Show the reason at the bar; where there is none, in a line of its own."""
        if self._bar is not None:
            self._bar.bar_format = paused_format(reason) if reason else None
            with self._while_somebody_looks():
                self._bar.refresh()
        elif reason is not None and not self._visible and not self._quiet:
            code = reason.partition(":")[0]
            now_s = time.monotonic()
            if now_s >= self._said_at_s.get(code, -SAY_EVERY_S) + SAY_EVERY_S:
                self._said_at_s[code] = now_s
                self._say(f"cleanup-job: paused: {reason}")

    def stopping(self) -> bool | str:
        """Whether a signal asked to stop, and which."""
        return self._stopping()


def describe_target(target: Target) -> list[str]:
    """What is swept."""
    first = target.servers[0]
    where = first.address if not target.clustered else f"{len(target.servers):,} primaries"
    product = f"{product_name(first.product)} {first.version} {target.mode}"
    return [product, where, counted(target.keys, "key")]


def describe_found(found: Coordinators) -> list[str]:
    """Who was found."""
    numbers = (
        (found.live, "live"),
        (found.stale, "stale"),
        (found.orphaned, "orphaned"),
        (found.unreadable, "unreadable"),
        (found.future, "in the future"),
    )
    return [f"{n:,} {word}" for n, word in numbers if n or word in ("live", "stale")]


def describe_kept(kept: Mapping[str, int]) -> list[str]:
    """The most frequent reasons; of those that differ only in numbers, the first for all."""
    reasons: Counter[str] = Counter()
    first: dict[str, str] = {}
    for reason, times in kept.items():
        reasons[first.setdefault(re.sub(r"[0-9][0-9,.]*", "N", reason), reason)] += times
    most = reasons.most_common(MOST_REASONS)
    shown = [f"{printable(reason.encode())} ({n:,})" for reason, n in most]
    more = reasons.total() - sum(n for _, n in most)
    return [*shown, f"other reasons ({more:,})"] if more else shown


def describe_size(coordinators: int, keys: Mapping[str, int]) -> list[str]:
    """How much is to go, with the families of which there is anything."""
    size = [counted(coordinators, "coordinator"), counted(sum(keys.values()), "key")]
    families = [f"{name} {count:,}" for name, count in keys.items() if count]
    if families:
        size[-1] += f": {families.pop(0)}"
    return [*size, *families]


def paused_format(reason: str) -> str:
    """What tqdm shows while the run is paused: there is no room for a bar beside the reason."""
    room = COLUMNS - len("survey:  50% paused: ")
    short = reason if len(reason) < room else reason[: room - 2] + "…"
    return "{desc}: {percentage:3.0f}% paused: " + short.replace("{", "{{").replace("}", "}}")


def describe_plan(preview: Preview, where: str) -> list[str]:
    """How much would go, for somebody who is to decide on it."""
    size = describe_size(preview.coordinators, preview.keys)
    return listed(f"to be deleted on {where}: ", size, 2)


def describe_examples(preview: Preview) -> list[str]:
    """Some of what would go, and how old it is."""
    orphans = [f"{counted(preview.orphans, 'orphan')} among them"] if preview.orphans else []
    named = [("oldest", *preview.oldest[0])] if preview.oldest else []
    named += [("", *one) for one in preview.oldest[1:]]
    if preview.newest is not None:
        named.append(("newest", *preview.newest))
    return orphans + [
        f"  {word:<6} {duration(age_ms / 1000):>14}  {printable(name)}"
        for word, name, age_ms in named
    ]


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
