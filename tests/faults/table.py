"""`python -m tests.faults.table LOG…`: what `--fault-log` and the soak wrote, as Markdown.

One row for each fault and topology: how often it struck in each phase, and what went wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PHASES = ("lease", "survey", "between", "purge", "any")

HEAD = ("fault", "topology", *PHASES, "live keys lost", "wrong counts", "next run failed", "hung",
        "odd exits", "exit codes")  # fmt: skip

Line = dict[str, Any]


def table(lines: Iterable[Line]) -> str:
    """The rows, in the order in which the faults first came."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["fault"], line["topology"]), []).append(line)
    faults = list(dict.fromkeys(fault for fault, _ in groups))
    ordered = sorted(groups, key=lambda row: (faults.index(row[0]), _rank(row[1])))
    rows = [_row(*row, groups[row]) for row in ordered]
    everything = [line for some in groups.values() for line in some]
    rows.append([*_row("**all**", "", everything)[:-1], ""])
    return "\n".join(map(_cells, [HEAD, ["---"] * len(HEAD), *rows])) + "\n"


def _rank(topology: str) -> tuple[bool, bool, str]:
    return "soak" in topology, not topology.startswith("standalone"), topology


def _row(fault: str, topology: str, lines: Sequence[Line]) -> list[str]:
    tried = [sum(line["phase"] == phase for line in lines) for phase in PHASES]
    went_wrong = [
        sum(line["live_keys_lost"] for line in lines),
        sum(not line["counts"] for line in lines),
        sum(not line["next_run"] for line in lines),
        sum(line["hung"] for line in lines),
        sum(not line["exit"] for line in lines),
    ]
    codes = sorted({line["code"] for line in lines if line["code"] is not None})
    counts = [f"{count:,}" if count else "" for count in tried]
    return [fault, topology, *counts, *(f"{count:,}" for count in went_wrong),
            " ".join(map(str, codes))]  # fmt: skip


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(paths: Sequence[str]) -> None:
    lines = [json.loads(text) for path in paths for text in Path(path).read_text().splitlines()]
    sys.stdout.write(table(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
