"""`python -m tests.faults.table LOG…`: what `--fault-log` and the soak wrote, as Markdown.

One row for each fault and topology: how often it struck in each phase, and what went wrong.
With `--into FILE` it takes the place of the table that is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PHASES = ("lease", "survey", "between", "purge", "restore", "any")

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
    codes = Counter(line["code"] for line in lines if line["code"] is not None)
    counts = [f"{count:,}" if count else "" for count in tried]
    return [fault, topology, *counts, *(f"{count:,}" for count in went_wrong),
            ", ".join(f"{code}: {codes[code]:,}" for code in sorted(codes))]  # fmt: skip


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def replace_table(page: str, new: str) -> str:
    """The page with this table in place of its own."""
    lines = page.splitlines(keepends=True)
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {HEAD[0]} |"))
    end = start
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    return "".join([*lines[:start], new, *lines[end:]])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.table", description=__doc__)
    parser.add_argument("logs", metavar="LOG", nargs="+", type=Path)
    parser.add_argument("--into", metavar="FILE", type=Path)
    arguments = parser.parse_args()
    lines = [json.loads(text) for path in arguments.logs for text in path.read_text().splitlines()]
    if arguments.into is None:
        sys.stdout.write(table(lines))
    else:
        arguments.into.write_text(replace_table(arguments.into.read_text(), table(lines)))


if __name__ == "__main__":
    main()
