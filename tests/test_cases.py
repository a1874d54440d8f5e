"""Broken configurations, and exactly what `cleanup-job check` says to each (tests/cases/).

To make the texts anew, after a look at what changes: python -m tests.test_cases
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from cleanup_job import cli
from cleanup_job.config_schema import json_schema

FOLDER = Path(__file__).parent / "cases"
CASES = sorted(path.stem for path in FOLDER.glob("*.yaml"))

SEEN_BY_THE_SCHEMA = {
    "a-list", "enum", "misspelt", "misspelt-deeper", "name-is-a-number", "out-of-range",
    "profiles-no-mapping", "profile-of-profiles", "within-a-profile", "wrong-types", "merged-twice",
    "many-at-once", "aliases", "empty",
}  # fmt: skip
"""What an editor underlines too. The others are well-typed, or are no YAML."""

NO_YAML = {"code", "no-utf-8", "tab", "unquoted-pattern"}


def said(name: str) -> str:
    """What the command says on stderr, in this process."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
        cli.main(["check", f"{name}.yaml"])
    assert ended.value.code == 2
    return stderr.getvalue()


@pytest.fixture
def _in_the_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(FOLDER)
    return


@pytest.mark.usefixtures("_in_the_folder")
@pytest.mark.parametrize("name", CASES)
def test_says_exactly_that(name: str) -> None:
    assert said(name) == Path(f"{name}.txt").read_text("utf-8")


def test_the_command_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cleanup_job", "check", "many-at-once.yaml"],
        cwd=FOLDER,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent.parent)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    expected = (FOLDER / "many-at-once.txt").read_text()
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_there_are_many_and_no_secret_is_shown() -> None:
    assert len(CASES) >= 20
    texts = [path.read_text("utf-8") for path in FOLDER.glob("*.txt")]
    assert len(texts) == len(CASES)
    assert not any("hu" + "sh" in text or "hu/sh" in text for text in texts)


# JSON has no other names than text; that a name is a number editors say of the YAML.
@pytest.mark.parametrize("name", sorted({*CASES} - NO_YAML - {"name-is-a-number"}))
def test_an_editor_sees_what_a_schema_can_tell(name: str) -> None:
    document = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    validator = jsonschema.Draft202012Validator(json.loads(json_schema()))
    assert validator.is_valid(document) == (name not in SEEN_BY_THE_SCHEMA)


def main() -> None:
    os.chdir(FOLDER)
    for name in CASES:
        Path(f"{name}.txt").write_text(said(name), "utf-8")


if __name__ == "__main__":
    main()
