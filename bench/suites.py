"""What is run: named lists of cases, each with the rows that are worth their time there.

A step is one case on one server. Steps of the same server stand together, and on each server
the cases without a haystack come first, then those with one by its size, so that each haystack
is written once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from bench.case import Case
from bench.load.plan import QUICK, Plan
from bench.rows import Row, named, rows

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)

LIVE_SHARES = (0.0, 0.5, 0.999)

HAYSTACKS = (0, 1_000_000, 10_000_000)

OTHER_SERVER = "redis-debian"
"""On which the default suite repeats what the targets say of two servers."""

SHELLS = frozenset({"shell", "shell-10"})
"""Samples: they take their seconds at any size, and stand for hours. Once is enough."""

FULL_MOST_S = 120.0
"""Of the whole matrix, rows that would take longer are left out."""


@dataclass(frozen=True)
class Step:
    """One case on one server.

    Attributes:
        rows: their names.
        rounds: of all rows in turn.
        once: rows that have no part in rounds after the first.
    """

    server: str
    case: Case
    rows: tuple[str, ...]
    rounds: int
    once: frozenset[str] = SHELLS

    @property
    def chosen(self) -> list[Row]:
        """The rows themselves."""
        return named(self.rows)


@dataclass(frozen=True)
class Load:
    """The load test, on one server."""

    server: str
    plan: Plan


@dataclass(frozen=True)
class Suite:
    """Steps under a name, and the load test after them.

    Attributes:
        slow: rows also at sizes where they take minutes, once.
        most_s: rows that would take longer, by a guess, are left out; None: none is.
    """

    name: str
    steps: tuple[Step, ...]
    sample_s: float = 5.0
    slow: bool = True
    most_s: float | None = None
    load: Load | None = None

    def only(self, names: Collection[str]) -> Suite:
        """The same with these rows only: no step that has none of them, and no load test."""
        steps = [
            replace(step, rows=tuple(name for name in step.rows if name in names))
            for step in self.steps
        ]
        return replace(self, steps=tuple(step for step in steps if step.rows), load=None)

    def with_rounds(self, rounds: int) -> Suite:
        """The same with so many rounds of each step."""
        return replace(self, steps=tuple(replace(step, rounds=rounds) for step in self.steps))


def quick(servers: Sequence[str]) -> Suite:
    """To see that all of it works, within a minute."""
    main = servers[0]
    steps = (
        Step(main, Case(100), _ALL, 1),
        Step(main, Case(1_000), _without(_ALL, "import-redis", "walk"), 1),
        Step(main, Case(10_000), _HUGE, 1),
        Step(main, Case(1_000, unrelated=100_000), ("floor", "ours-1", "walk"), 1),
    )
    return Suite("quick", steps, sample_s=1.0, load=Load(main, QUICK))


def default(servers: Sequence[str]) -> Suite:
    """What the targets need, on the first server, and what they say of the second on that too."""
    main, *others = servers
    steps = [
        Step(main, Case(100), _without(_ALL, "walk"), 11),
        Step(main, Case(1_000), _SMALL, 5),
        Step(main, Case(10_000), _SMALL, 7, SHELLS | {"lua"}),
        Step(main, Case(100_000), _LARGE, 5),
        Step(main, Case(1_000_000), _HUGE, 3, frozenset(_HUGE) - frozenset(_PLAIN)),
        Step(main, Case(100_000, live_share=0.5), _PLAIN, 3),
        Step(main, Case(100_000, live_share=0.999), _PLAIN, 3),
        Step(main, Case(10_000, unrelated=1_000_000), _AMONG, 3),
        Step(main, Case(10_000, unrelated=10_000_000), ("floor", "ours-1", "walk"), 5),
    ]
    for other in others:
        steps += [
            Step(other, Case(10_000), _SMALL, 7, SHELLS | {"lua"}),
            Step(other, Case(100_000), _LARGE, 5),
        ]
    return Suite("default", tuple(steps), load=Load(main, Plan()))


def full(servers: Sequence[str]) -> Suite:
    """Every size, share of live ones and haystack on the first server, once; some hours."""
    steps = [
        Step(servers[0], Case(size, share, unrelated), _ALL, 1)
        for unrelated in HAYSTACKS
        for size in SIZES
        for share in LIVE_SHARES
    ]
    return Suite("full", tuple(steps), most_s=FULL_MOST_S, load=Load(servers[0], Plan()))


def custom(server: str, cases: Sequence[Case], chosen: Sequence[Row], rounds: int) -> Suite:
    """These rows in each of these cases."""
    names = tuple(row.name for row in chosen)
    steps = tuple(Step(server, case, names, rounds, frozenset()) for case in cases)
    return Suite("custom", steps, slow=False)


def _without(names: Sequence[str], *left_out: str) -> tuple[str, ...]:
    return tuple(name for name in names if name not in left_out)


_ALL = tuple(row.name for row in rows())

_SMALL = _without(_ALL, "walk", "import-redis")

_LARGE = _without(_SMALL, "redis-py", "lua", "shell", "shell-10")

_HUGE = _without(_LARGE, "ours-4")
"""Four processes say nothing new of so many keys, and a run of them takes a while."""

_PLAIN = ("floor", "ours-1")

_AMONG = ("floor", "ours-1", "redis-py-pipelined", "pipe", "pipe-count", "walk")
