"""The bench of `memory_limit`."""

from __future__ import annotations

import re

import pytest

from bench import memory


def test_a_small_sweep_keeps_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert memory.main(["--coordinators", "500", "--limit", "100MB"]) == 0
    said = capsys.readouterr()
    assert re.search(r"complete: 500 coordinators, 2,000 keys in 1 waves", said.out + said.err)
