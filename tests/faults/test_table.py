"""The table that is made of logs."""

from __future__ import annotations

import json
from typing import Any

from tests.faults.scene import Outcome, Scenario
from tests.faults.table import replace_table, table


def line(phase: str, code: int, **more: Any) -> dict[str, Any]:
    outcome = Outcome(Scenario("reset", phase, "cluster", "serial", 0), code=code, **more)
    return dict(json.loads(outcome.line()))


def test_a_row_counts_what_was_tried_and_what_went_wrong() -> None:
    rows = table([line("lease", 0), line("purge", 3, lost=["a", "b"]), line("purge", 3)])
    assert "| reset | cluster | 1 |  |  | 2 |  |  | 2 | 0 | 0 | 0 | 0 | 0: 1, 3: 2 |" in rows


def test_only_the_table_of_a_page_is_replaced() -> None:
    old, new = table([line("purge", 0)]), table([line("purge", 3)])
    page = "# Title\n\n{}\nThe end.\n"
    assert replace_table(page.format(old), new) == page.format(new)
