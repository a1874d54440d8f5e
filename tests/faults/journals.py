"""Faults of runs that keep a journal, and of restores from one.

Whatever happened to the run: what it deleted comes back from its journal, byte for byte.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cleanup_job.config import Config, Redis
from cleanup_job.job import run
from cleanup_job.journal import partial
from cleanup_job.restore_report import RestoreReport
from cleanup_job.undo import restore
from tests.faults.scene import RESTORE, Fault, Outcome, Report, Scene
from tests.faults.stage import BRAKES_OFF

UNENDED = {"cut_off", "damaged"}
"""Errors of a restore that only say that the run was killed, maybe in the middle of a record."""


def journal_of(scene: Scene) -> Path:
    return scene.folder / "undo.journal"


def left_of(scene: Scene) -> Path | None:
    """The journal under the name that it has now."""
    path = journal_of(scene)
    return next((name for name in (path, partial(path)) if name.exists()), None)


def know_all(scene: Scene) -> None:
    """Remember what all keys hold, and begin without a journal."""
    for path in (journal_of(scene), partial(journal_of(scene))):
        path.unlink(missing_ok=True)
    held = scene.stage.dumps(scene.people.everything())
    scene.recorded = {key: value for key, value in held.items() if value is not None}


def keeping(scene: Scene) -> list[str]:
    return ["--json", "-", "--journal", str(journal_of(scene))]


def with_journal(fault: Fault, **changes: Any) -> Fault:
    """The same fault of a run that keeps a journal."""

    def options(scene: Scene) -> dict[str, Any]:
        return {**fault.options(scene), "argv": keeping(scene)}

    settings: dict[str, Any] = {
        "name": f"{fault.name}, with a journal",
        "phases": ("between", "purge"),
        "few": True,
        **changes,
    }
    return replace(
        fault, before=know_all, options=options, then=all_comes_back, restarts=True, **settings
    )


def all_comes_back(scene: Scene, outcome: Outcome, _: list[Report | None]) -> list[str]:
    """Restore what there is; then nothing is missing that the run took."""
    wrong = []
    path = left_of(scene)
    if path is not None:
        was_killed = outcome.code is not None and outcome.code < 0
        allowed = UNENDED if was_killed else {"cut_off"}
        report = put_back(scene, path)
        codes = {error.code for error in report.errors}
        if not codes <= allowed or report.keys.failed or report.keys.unknown:
            wrong.append(f"restore: {report.status}, {sorted(codes)}, {report.keys}")
    return wrong + not_back(scene)


def put_back(scene: Scene, path: Path) -> RestoreReport:
    """A plain restore, past the proxies."""
    return restore(Config(redis=Redis(scene.stage.url)), str(path))


def not_back(scene: Scene) -> list[str]:
    """What the journal should have, and is not as it was. What a fault wrote is not asked for."""
    touched = scene.removed | scene.rewritten
    expected = {key: held for key, held in scene.recorded.items() if key not in touched}
    now = scene.stage.dumps({*expected})
    lost = sorted(key for key, held in expected.items() if now[key] != held)
    return [f"{len(lost)} keys were not put back, such as {lost[0]!r}"] if lost else []


# -- restores -------------------------------------------------------------------------------------


def swept(scene: Scene) -> None:
    """A run with a journal has taken all that is dead."""
    know_all(scene)
    config = Config(
        redis=Redis(scene.stage.url),
        engine="serial",
        expect_all_dead=True,
        max_clock_skew=BRAKES_OFF["max_clock_skew"],
    )
    assert run(config, journal=str(journal_of(scene))).status == "complete"
    there = scene.stage.keys()
    scene.recorded = {key: held for key, held in scene.recorded.items() if key not in there}


def restoring(fault: Fault, **changes: Any) -> Fault:
    """The same fault of a restore."""

    def options(scene: Scene) -> dict[str, Any]:
        return {**fault.options(scene), "command": ("restore", str(journal_of(scene)))}

    settings: dict[str, Any] = {"name": f"{fault.name}, in a restore", "few": True, **changes}
    return replace(
        fault, before=swept, options=options, then=is_repeated, restarts=True,
        phases=(RESTORE,), engines=("serial",), **settings,
    )  # fmt: skip


def is_repeated(scene: Scene, outcome: Outcome, reports: list[Report | None]) -> list[str]:
    """The same restore once more puts back the rest."""
    report = put_back(scene, journal_of(scene))
    wrong = [] if report.status == "complete" else [f"restore: {report.status}, {report.errors}"]
    return wrong + not_back(scene)
