"""The bench that counts what passes through the job with engine dask."""

from __future__ import annotations

import re

import pytest

from bench import far


def test_all_that_passes_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    # Of so few names a run's own messages are more than a hundredth.
    assert far.main(["--coordinators", "500"]) == 1
    said = capsys.readouterr()
    text = (said.out + said.err).replace(",", "")
    assert "complete: 500 coordinators 2000 of 2000 keys deleted" in text
    to_job, from_job = map(int, re.findall(r"the job (\d+) from it (\d+)", text)[0])
    assert 1_000 < to_job < 1_000_000
    assert 1_000 < from_job < 1_000_000
