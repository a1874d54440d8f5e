"""What to do next: a few steps for the case at hand, with commands that can be copied."""

from __future__ import annotations

import shlex

import msgspec
import pytest

from cleanup_job.arguments import parse
from cleanup_job.brakes import Limits, Scale, refusals
from cleanup_job.model import Problem, Written
from cleanup_job.next_step import next_steps
from cleanup_job.report import Coordinators, Example, Keys, Loss, PlanUse, Report, Target

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

    def test_the_same_without_it(self) -> None:
        given = ("run", "--dry-run", "--url", "redis://a b", "--json=r.json")
        assert commands(self.PLANNED, *given) == [
            "cleanup-job run --url 'redis://a b' --json=r.json"
        ]

    def test_of_which_the_words_are_not_known(self) -> None:
        assert commands(self.PLANNED) == ["cleanup-job run"]

    def test_by_its_plan(self) -> None:
        planned = report(
            dry_run=True, keys=Keys(planned=3), plan=PlanUse("a plan", "2026", 1, 3, 1)
        )
        assert commands(planned, "run", "--plan", "a plan", "--dry-run", "-v") == [
            "cleanup-job run --plan 'a plan' -v"
        ]

    def test_whose_plan_could_not_be_written(self) -> None:
        assert commands(self.PLANNED, "run", "--plan=x", "--dry-run") == []

    def test_that_would_be_refused(self) -> None:
        limits = Limits(max_keys=1)
        warned = msgspec.structs.replace(
            self.PLANNED,
            warnings=[
                Problem(found.code, f"a run would be refused: {found.message}", 1)
                for found in refusals(limits, Scale(1, 2, 1, 1, 3), {}, [])
            ],
        )
        words = ("run", "--dry-run", "--max-keys=1")
        assert commands(warned, *words) == ["cleanup-job run --max-keys 3"]

    def test_that_found_nothing(self) -> None:
        assert next_steps(report(dry_run=True)) == []


@pytest.mark.parametrize(
    ("limits", "scale", "overrides"),
    [
        (Limits(max_purge=4), Scale(1, 9, 8, 8, 40), "--max-purge 8"),
        (Limits(max_keys=4), Scale(1, 9, 8, 8, 40), "--max-keys 40"),
        (Limits(max_stale_fraction=0.1), Scale(1, 9, 8, 8, 40), "--max-stale-fraction 0.8889"),
        (Limits(suspicious_from=9), Scale(0, 9, 9, 9, 40), "--yes"),
        (Limits(max_purge=4, max_keys=4), Scale(1, 9, 8, 8, 40), "--max-purge 8 --max-keys 40"),
    ],
)
def test_refused_looks_first_and_names_what_overrides(
    limits: Limits, scale: Scale, overrides: str
) -> None:
    refused = report(status="refused", errors=refusals(limits, scale, {}, []))
    look, override = commands(refused, "run", "--url=u")
    assert look == "cleanup-job run --url=u --dry-run --show 20"
    assert override == f"cleanup-job run --url=u {overrides}"
    assert parse(shlex.split(override)[1:]).command == "run"


def test_a_clock_is_rather_set_right() -> None:
    refused = refusals(Limits(), Scale(1, 2, 1, 1, 4), {"a:1": 400_000}, [])
    _, override = next_steps(report(status="refused", errors=refused))
    assert override.text.startswith("set the clocks right")
    assert override.command == "cleanup-job run --max-clock-skew 400"


def test_who_said_no_is_not_told_how_to_say_yes() -> None:
    no = Problem("not_confirmed", "the plan was not confirmed: --yes does not ask", 1)
    refused = report(status="refused", errors=[no])
    assert commands(refused, "run", "--show=1") == ["cleanup-job run --dry-run --show 20"]


class TestPartial:
    @pytest.mark.parametrize(
        ("fields", "why"),
        [
            ({"keys": Keys(failed=1234)}, "1,234 keys could not be deleted"),
            ({"keys": Keys(unknown=1)}, "of 1 key it is unknown"),
            ({}, "not all of it was covered"),
            ({"errors": [Problem("x", "y", 1)]}, "see the errors"),
            ({"stopped_by": "told"}, "the run was stopped"),
            (
                {"stopped_by": "time_budget", "keys": Keys(planned=9, deleted=4)},
                "the time budget ended the run",
            ),
            ({"stopped_by": "stop_file"}, "remove the stop file"),
        ],
    )
    def test_runs_again_and_says_why(self, fields: dict[str, object], why: str) -> None:
        [step] = next_steps(report(status="partial", **fields), ["run", "-q"])
        assert why in step.text
        assert step.command == "cleanup-job run -q"

    def test_a_time_budget_that_no_delete_fits_into_is_to_be_larger(self) -> None:
        shown = report(status="partial", stopped_by="time_budget", keys=Keys(planned=9))
        [step] = next_steps(shown, ["run", "--time-budget", "1"])
        assert step.text.startswith("give it more time")
        assert step.command == ""

    def test_a_journal_is_never_written_twice(self) -> None:
        shown = report(status="partial", journal=Written("/var/j/one", 1, 2, 3))
        words = ("run", "--journal", "/var/j/one")
        assert commands(shown, *words) == ["cleanup-job run --journal /var/j/"]


def test_failed_is_a_bug_whatever_else() -> None:
    [step] = next_steps(report(status="failed", warnings=[ORPHANS]))
    assert "bug" in step.text


def test_orphans_that_were_only_reported() -> None:
    found = report(coordinators=Coordinators(orphaned=1234), warnings=[ORPHANS])
    [step] = next_steps(found, ["run", "--orphans", "report"])
    assert step.text.startswith("1,234 orphans only reported")
    assert step.command == "cleanup-job run --orphans purge"


def test_unreadable_ones() -> None:
    shown = report(coordinators=Coordinators(unreadable=1, future=1))
    [step] = next_steps(shown)
    assert "2 heartbeats not understood" in step.text
    assert "keys.timestamp" in step.text
    assert step.command == "cleanup-job run --dry-run --show 20"
    all_shown = [Example("a", "unreadable", "r"), Example("b", "future", "r")]
    [step] = next_steps(msgspec.structs.replace(shown, samples=all_shown))
    assert "the samples above" in step.text


def test_a_journal_undoes_it() -> None:
    shown = report(journal=Written("/j f", 1, 2, 3))
    words = ("run", "--journal=/j f", "-c", "my.yaml", "--profile=prod", "--nice", "1")
    assert commands(shown, *words) == ["cleanup-job restore '/j f' -c my.yaml --profile=prod"]


class TestLosses:
    @pytest.mark.parametrize(
        ("losses", "name"),
        [([Loss("a", 1)], "a"), ([Loss("\\xff", 1)], "ID"), ([Loss("a", 1)] * 2, "ID")],
    )
    def test_come_first_and_back(self, losses: list[Loss], name: str) -> None:
        shown = report(losses=losses, journal=Written("/j", 1, 2, 3), status="partial")
        assert commands(shown)[0] == f"cleanup-job restore /j --only {name}"

    def test_without_a_journal(self) -> None:
        assert "under losses" in next_steps(report(losses=[Loss("a", 1)]))[0].text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:hush@h:1/2", "redis://me@h:1/2"),
        ("redis://:hush@h", "redis://h"),
        ("redis://h?password=hush", "URL"),
    ],
)
def test_no_password_is_repeated(url: str, shown: str) -> None:
    planned = report(dry_run=True, keys=Keys(planned=3))
    assert commands(planned, "run", "--url", url) == [f"cleanup-job run --url {shown}"]
    assert commands(planned, "run", f"--url={url}") == [f"cleanup-job run --url={shown}"]


def test_not_more_than_can_be_read() -> None:
    shown = report(
        dry_run=True,
        keys=Keys(planned=3),
        coordinators=Coordinators(unreadable=1, orphaned=3),
        warnings=[ORPHANS],
        journal=Written("/j", 1, 2, 3),
        losses=[Loss("a", 1)],
    )
    assert len(next_steps(shown)) == 3
