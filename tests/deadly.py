"""Stages that kill their workers, for the tests of lost workers.

What they are to do stands in the environment, which workers inherit however they are started.
"""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from typing import Any, Literal

import pytest

from cleanup_job.model import Broken, Findings, IdleTask, Outcome, Pulse, PurgeTask, SurveyTask
from cleanup_job.purge import purge
from cleanup_job.survey import survey, survey_idle

POISON = b"poison"
"""A task with this in a name kills its worker."""

LEDGER = "DEADLY_LEDGER"
"""Names a file that gets a byte for each run of such a task."""

DEATHS = "DEADLY_DEATHS"
"""In how many of these runs the worker dies."""

NODE = "DEADLY_NODE"
"""On the way through which server a walk dies: in its first partition."""


def arm(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    stage: Literal["purge", "survey", "survey_idle"],
    *,
    deaths: int = 1_000,
    node: str = "",
) -> Path:
    """Put a deadly stage in place; the file that counts the runs of tasks with poison."""
    ledger = folder / "ledger"
    ledger.touch()
    monkeypatch.setenv(LEDGER, str(ledger))
    monkeypatch.setenv(DEATHS, str(deaths))
    monkeypatch.setenv(NODE, node)
    composer = "waves" if stage == "purge" else "walks"
    monkeypatch.setattr(f"cleanup_job.{composer}.{stage}", globals()[f"deadly_{stage}"])
    return ledger


def runs(ledger: Path) -> int:
    return ledger.stat().st_size


def is_to_die() -> bool:
    """Count a run, and tell whether it is to be the worker's last."""
    with Path(os.environ[LEDGER]).open("ab") as ledger:
        ledger.write(b".")
    return Path(os.environ[LEDGER]).stat().st_size <= int(os.environ[DEATHS])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _LastPulse:
    """Beats once: its worker dies when it has a batch behind it, and others before it."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pulse, name)

    def advance(self, _: int) -> None:
        die()


def deadly_purge(task: PurgeTask, pulse: Pulse) -> Outcome:
    if POISON in pickle.dumps(task) and is_to_die():
        return purge(task, _LastPulse(pulse))
    return purge(task, pulse)


def deadly_survey(task: SurveyTask, pulse: Pulse) -> Findings | Broken:
    is_victim = task.node == os.environ[NODE] and task.partition.lanes[0][0] == 0
    if is_victim and is_to_die():
        return survey(task, _LastPulse(pulse))
    return survey(task, pulse)


def deadly_survey_idle(task: IdleTask, pulse: Pulse) -> frozenset[bytes]:
    if POISON in task.keys and is_to_die():
        die()
    return survey_idle(task, pulse)
