"""What to do next: one step for the case at hand, as a command that can be copied."""

from __future__ import annotations

import pytest

from cleanup_job.model import Problem
from cleanup_job.next_step import next_steps
from cleanup_job.report import Coordinators, Keys, PlanUse, Report, Target

ORPHANS = Problem("orphans_reported", "x", 3)


def report(**fields: object) -> Report:
    plain = {
        "status": "complete",
        "dry_run": False,
        "run_id": "0123abcd",
        "started_at": "2026-01-02T03:04:05.678Z",
        "duration_s": 0.5,
        "target": Target("valkey", "9.1.2", "standalone", ["127.0.0.1:6379"], 0),
    }
    return Report(**{**plain, **fields})  # type: ignore[arg-type]


def commands(shown: Report, *words: str) -> list[str]:
    return [step.command for step in next_steps(shown, words or None) if step.command]


def test_nothing_to_do() -> None:
    assert next_steps(report(keys=Keys(planned=3, deleted=3))) == []


class TestAfterADryRun:
    PLANNED = report(dry_run=True, keys=Keys(planned=3))

    @pytest.mark.parametrize("flag", ["--dry-run", "--dry"])
    def test_the_same_without_it(self, flag: str) -> None:
        given = ("run", flag, "--url", "redis://a b", "--json=r.json")
        assert commands(self.PLANNED, *given) == [
            "cleanup-job run --url 'redis://a b' --json=r.json"
        ]

    def test_of_which_the_words_are_not_known(self) -> None:
        assert commands(self.PLANNED) == ["cleanup-job run"]

    def test_by_its_plan(self) -> None:
        planned = report(dry_run=True, plan=PlanUse("a plan", "2026", 1, 3, 1))
        for words in (["--plan", "x y"], ["--plan=x y"]):
            assert commands(planned, "run", *words, "--dry-run", "-v") == [
                "cleanup-job run -v --plan 'a plan'"
            ]

    def test_that_would_be_refused(self) -> None:
        warned = report(
            dry_run=True,
            keys=Keys(planned=3),
            warnings=[Problem("max_keys", "a run would be refused: 3 keys", 1)],
        )
        assert commands(warned, "run", "--dry-run") == []
        assert "names what overrides it" in next_steps(warned)[0].text

    def test_that_found_nothing(self) -> None:
        assert next_steps(report(dry_run=True)) == []


def test_partial_runs_again() -> None:
    assert commands(report(status="partial"), "run", "-q") == ["cleanup-job run -q"]


def test_refused_looks_first() -> None:
    assert commands(report(status="refused"), "run", "--yes") == [
        "cleanup-job run --dry-run --show 20"
    ]


def test_failed_is_a_bug_whatever_else() -> None:
    [step] = next_steps(report(status="failed", warnings=[ORPHANS]))
    assert "bug" in step.text


def test_orphans_that_were_only_reported() -> None:
    found = report(coordinators=Coordinators(orphaned=1234), warnings=[ORPHANS])
    [step] = next_steps(found, ["run"])
    assert step == (
        "delete what 1,234 orphaned coordinators left",
        "cleanup-job run --orphans purge",
    )


def test_unreadable_ones() -> None:
    [step] = next_steps(report(coordinators=Coordinators(unreadable=1)))
    assert "keys.timestamp" in step.text
