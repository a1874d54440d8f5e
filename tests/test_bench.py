"""The bench runs, and its rows do what they say: never how fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.default_server


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def rows_of(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    assert content["schema_version"] == 1
    (case,) = content["cases"]
    return {row["name"]: row for row in case["rows"]}


def test_rows_do_their_work(tmp_path: Path) -> None:
    chosen = "floor,ours-1,ours-2,redis-py,lua,pipe,shell"
    file = tmp_path / "bench.json"
    options = ("--rounds", "1", "--sizes", "100", "--sample-s", "0.5", "--json", str(file))
    done = bench("--rows", chosen, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "== 100 coordinators, and 10 live ones: 440 keys" in done.stdout
    rows = rows_of(file)
    assert {*rows} == {*chosen.split(","), "redis-py-pipelined", "shell-10"} | {
        name for name in rows if name == "pipe-count"
    }
    for name, row in rows.items():
        assert row["good"], row
        assert len(row["runs"]) == (0 if row["skipped"] else 1)
        assert f"{name} " in done.stdout
    assert not rows["floor"]["skipped"]
    assert not rows["ours-1"]["skipped"]


def test_live_ones_and_a_haystack(tmp_path: Path) -> None:
    """What is live stays, and what is none of our business too."""
    file = tmp_path / "bench.json"
    options = ("--rounds", "1", "--sizes", "200", "--live-share", "0.5", "--unrelated", "5000")
    done = bench("--rows", "ours-1,floor", *options, "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 coordinators, 100 of them live" in done.stdout
    assert {row["runs"][0]["check"] for row in rows_of(file).values()} == {"done"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rows", "theirs"), "no row 'theirs'"),
        (("--sizes", "ten"), "'ten' is no number"),
        (("--live-share", "2"), "'2' is not between 0 and 1"),
    ],
)
def test_usage(words: tuple[str, ...], message: str) -> None:
    done = bench(*words)
    assert done.returncode == 2
    assert message in done.stderr
