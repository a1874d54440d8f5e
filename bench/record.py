"""A bench's results as they stand in its JSON file: what tables of targets and plots are made of.

Whether a run has just ended or was written months ago makes no difference to them: both go
through `read`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

SCHEMA_VERSION = 2

Run = Mapping[str, Any]
"""One run's figures, as `rounds.Run` has them."""


Foreground = Mapping[str, float | None]
"""Other clients' p99 in a load test. Always `p99_without_ms` and `p99_during_ms` a sweep; where it
was measured also `p99_pipe_ms` during the blind pipe, and `p99_burner_ms` and `p99_burners_ms`
when the machine was as busy without a sweep: as with its client, and as with client and server."""


@dataclass(frozen=True)
class Spread:
    """Median, least and most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of these values, if there are any."""
        return cls(median(values), min(values), max(values)) if values else None


@dataclass(frozen=True)
class RowRecord:
    """A row's runs in one case."""

    name: str
    title: str
    projected: bool
    runs: tuple[Run, ...]

    def figures(self, name: str) -> list[float | None]:
        """One figure of each round; None where it does not count or was not measured.

        A run that did not do its work does not count: it would only look fast.
        """
        return [
            run[name] if run["good"] and run["scale"] is not None else None for run in self.runs
        ]

    def spread(self, name: str) -> Spread | None:
        """Of one figure over the rounds."""
        return Spread.of([value for value in self.figures(name) if value is not None])


@dataclass(frozen=True)
class CaseRecord:
    """One case on one server; `server` is its name here, `product` what it calls itself."""

    server: str
    product: str
    coordinators: int
    live: int
    unrelated: int
    rows: Mapping[str, RowRecord]

    @property
    def is_plain(self) -> bool:
        """True without live ones among the coordinators, and without a haystack."""
        return not self.live and not self.unrelated

    @property
    def ours(self) -> RowRecord | None:
        """The row that stands for us: as `workers: auto` has it on two cores."""
        return self.rows.get("ours-1")


@dataclass(frozen=True)
class Record:
    """All cases of a bench, and what the load test found, if there was one."""

    cases: tuple[CaseRecord, ...]
    machine: Mapping[str, Any]
    foreground: Foreground | None = None
    load: Mapping[str, Any] | None = None

    def find(self, coordinators: int, unrelated: int = 0) -> Iterator[CaseRecord]:
        """The cases of this size in which all are stale, on whichever servers there are."""
        return (
            case
            for case in self.cases
            if (case.coordinators, case.unrelated, case.live) == (coordinators, unrelated, 0)
        )


def load(path: Path) -> Record:
    """From a file.

    Raises:
        ValueError: it is none of ours, or of another version.
    """
    return read(json.loads(path.read_text()))


def read(content: Any) -> Record:
    """From a file's content.

    Raises:
        ValueError: it is none of ours, or of another version.
    """
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {version}, not {SCHEMA_VERSION}")
    cases = tuple(map(_case, content["cases"]))
    return Record(cases, content["machine"], content.get("foreground"), content.get("load"))


def write(path: Path, content: Any) -> None:
    """As JSON, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def ratio(one: RowRecord | None, figure: str, other: RowRecord | None, by: str) -> Spread | None:
    """How one row's figure stands to another row's.

    The median is that of the medians; least and most are of rounds, in which both rows ran one
    after the other. A row that ran once is held against every round of the other.
    """
    if one is None or other is None:
        return None
    above, below = one.spread(figure), other.spread(by)
    if above is None or below is None or not below.median:
        return None
    pairs = _pairs(one.figures(figure), other.figures(by))
    rounds = Spread.of([a / b for a, b in pairs if a is not None and b])
    middle = above.median / below.median
    return Spread(middle, min(middle, rounds.low), max(middle, rounds.high)) if rounds else None


def _pairs(
    ones: list[float | None], others: list[float | None]
) -> list[tuple[float | None, float | None]]:
    if len(ones) == 1:
        ones = ones * len(others)
    elif len(others) == 1:
        others = others * len(ones)
    return [*zip(ones, others, strict=False)]


def _case(content: Mapping[str, Any]) -> CaseRecord:
    return CaseRecord(
        server=content["server"],
        product=content["product"],
        coordinators=content["coordinators"],
        live=content["coordinators"] - content["stale"],
        unrelated=content["unrelated"],
        rows={row["name"]: _row(row) for row in content["rows"]},
    )


def _row(content: Mapping[str, Any]) -> RowRecord:
    return RowRecord(
        content["name"], content["title"], content["projected"], tuple(content["runs"])
    )
