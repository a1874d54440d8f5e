"""The report: counts that add up or say so, percentiles, and JSON that can be read again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.errors import ConfigError
from cleanup_job.model import OUTCOMES, Counts, Kind, Outcome, Problem, Sample
from cleanup_job.report import (
    CommandTimes,
    Example,
    FamilyKeys,
    Keys,
    NodeUse,
    Report,
    ServerUse,
    Target,
    count_keys,
    example,
    from_json,
    imbalances,
    merge_problems,
    status_of,
    sum_up,
    summarize_timings,
    to_json,
)

FAMILIES = ("heartbeat", "signal")


def outcome(**by_family: dict[str, int]) -> Outcome:
    """An outcome of which only the counts matter."""
    counts: Counts = {
        family: {**dict.fromkeys(OUTCOMES, 0), **given} for family, given in by_family.items()
    }
    nobody: frozenset[bytes] = frozenset()
    required = {
        field.name: nobody
        for field in msgspec.structs.fields(Outcome)
        if field.required and field.name not in ("counts", "problems", "timings", "not_attempted")
    }
    return Outcome(counts=counts, problems=(), timings={}, not_attempted=0, **required)  # type: ignore[arg-type]


def report(**fields: Any) -> Report:
    settings: dict[str, Any] = {
        "status": "complete",
        "dry_run": False,
        "run_id": "0123abcd",
        "started_at": "2025-10-10T21:01:11.000Z",
        "duration_s": 1.5,
        "target": Target("valkey", "9.1.2", "standalone", ["127.0.0.1:6379"], 0),
    }
    return Report(**{**settings, **fields})


def keys(planned: int = 0, **outcomes: int) -> Keys:
    family = FamilyKeys(matched=planned, planned=planned, **outcomes)
    return Keys(matched=planned, planned=planned, **outcomes, by_family={"signal": family})


class TestIdentity:
    @given(
        st.lists(
            st.dictionaries(st.sampled_from(FAMILIES), st.fixed_dictionaries(
                {name: st.integers(0, 1000) for name in OUTCOMES}
            )),
            max_size=5,
        )
    )  # fmt: skip
    def test_what_workers_counted_is_summed_and_adds_up_to_its_plan(
        self, parts: list[dict[str, dict[str, int]]]
    ) -> None:
        planned = {
            family: sum(sum(part.get(family, {}).values()) for part in parts) for family in FAMILIES
        }
        counted = count_keys(
            7, dict.fromkeys(FAMILIES, 9), planned, [outcome(**part) for part in parts]
        )
        assert counted.scanned == 7
        assert counted.matched == 18
        assert counted.planned == sum(planned.values())
        for name in OUTCOMES:
            assert getattr(counted, name) == sum(
                counts[name] for part in parts for counts in part.values()
            )
        assert not imbalances(counted)
        assert status_of(counted, [], covered=True, dry_run=False) in ("complete", "partial")

    @given(st.integers(-3, 3).filter(bool))
    def test_a_key_too_many_or_too_few_is_a_failure_that_names_the_family(self, off: int) -> None:
        planned = {"heartbeat": 5, "signal": 10 + off}
        done = outcome(heartbeat={"deleted": 5}, signal={"deleted": 8, "gone": 2})
        counted = count_keys(0, dict.fromkeys(FAMILIES, 20), planned, [done])
        problems = imbalances(counted)
        assert [problem.code for problem in problems] == ["imbalance"]
        assert "signal" in problems[0].message
        assert status_of(counted, problems, covered=True, dry_run=False) == "failed"

    def test_families_that_are_off_in_opposite_ways_do_not_make_it_good(self) -> None:
        done = outcome(heartbeat={"deleted": 4}, signal={"deleted": 6})
        counted = count_keys(0, dict.fromkeys(FAMILIES, 9), dict.fromkeys(FAMILIES, 5), [done])
        assert counted.planned == counted.deleted
        assert status_of(counted, [], covered=True, dry_run=False) == "failed"
        assert len(imbalances(counted)) == 2

    def test_a_dry_run_deletes_nothing_and_is_complete(self) -> None:
        counted = count_keys(0, {"signal": 9}, {"signal": 9}, [])
        assert (counted.planned, counted.deleted) == (9, 0)
        assert status_of(counted, [], covered=True, dry_run=True) == "complete"


class TestStatus:
    @pytest.mark.parametrize(
        ("counted", "covered", "errors", "status"),
        [
            (keys(), True, [], "complete"),
            (keys(3, deleted=1, gone=1, spared=1), True, [], "complete"),
            (keys(3, deleted=2, failed=1), True, [], "partial"),
            (keys(3, deleted=2, unknown=1), True, [], "partial"),
            (keys(3, deleted=3), False, [], "partial"),
            (keys(3, deleted=3), True, [Problem("x", "y", 1)], "partial"),
            (keys(3, deleted=2), True, [], "failed"),
            (keys(3, deleted=4), False, [Problem("x", "y", 1)], "failed"),
        ],
    )
    def test_of_a_run(
        self, counted: Keys, covered: bool, errors: list[Problem], status: str
    ) -> None:
        assert status_of(counted, errors, covered=covered, dry_run=False) == status

    def test_what_was_not_covered_is_never_complete(self) -> None:
        assert status_of(keys(), [], covered=False, dry_run=True) == "partial"


def stamped(seconds: Iterable[float]) -> list[float]:
    """Each behind the moment of its reply, as `wire` keeps them."""
    return [number for i, took_s in enumerate(seconds) for number in (float(i), took_s, 1.0)]


class TestTimings:
    def test_nearest_rank_percentiles(self) -> None:
        times = summarize_timings({"SCAN": stamped(n / 1000 for n in range(100, 0, -1))})["SCAN"]
        assert times == CommandTimes(calls=100, p50_ms=50.0, p99_ms=99.0, max_ms=100.0)

    def test_of_one_call(self) -> None:
        times = summarize_timings({"TIME": stamped([0.002])})["TIME"]
        assert times == CommandTimes(calls=1, p50_ms=2.0, p99_ms=2.0, max_ms=2.0)

    @given(st.lists(st.floats(0, 100), min_size=1))
    def test_percentiles_are_values_that_occurred_in_order(self, seconds: list[float]) -> None:
        times = summarize_timings({"X": stamped(seconds)})["X"]
        occurred = {round(second * 1000, 3) for second in seconds}
        assert {times.p50_ms, times.p99_ms, times.max_ms} <= occurred
        assert times.p50_ms <= times.p99_ms <= times.max_ms == max(occurred)

    def test_the_busiest_first_and_none_without_calls(self) -> None:
        timings = {"TIME": stamped([0.1]), "SCAN": stamped([0.1, 0.1]), "MGET": []}
        assert [*summarize_timings(timings)] == ["SCAN", "TIME"]


def test_equal_problems_become_one() -> None:
    problems = [
        Problem("a", "x", 1, ("k1", "k2")),
        Problem("b", "x", 1),
        Problem("a", "x", 2, ("k3", "k4")),
        Problem("a", "y", 5),
    ]
    assert merge_problems(problems) == [
        Problem("a", "x", 3, ("k1", "k2", "k3")),
        Problem("b", "x", 1),
        Problem("a", "y", 5),
    ]


def test_a_sample_of_any_id_is_text() -> None:
    shown = example(Sample(b"\xff\n\x1b[31m" + b"x" * 10_000, Kind.STALE, "r", 700_500))
    assert shown.id.isprintable()
    assert len(shown.id) < 200
    assert (shown.verdict, shown.age_s) == ("stale", 700.5)


class TestJson:
    def test_has_every_field_of_the_format(self) -> None:
        document = json.loads(to_json(report(keys=keys(3, deleted=3))))
        assert document["schema_version"] == 1
        assert {
            "schema_version", "status", "dry_run", "run_id", "started_at", "duration_s", "target",
            "coordinators", "keys", "phases", "commands", "costs", "server", "client",
            "partitions", "warnings", "errors",
        } <= document.keys()  # fmt: skip
        assert {"product", "version", "mode", "nodes", "db"} <= document["target"].keys()
        assert {
            "checked", "live", "stale", "unreadable", "future", "orphaned", "purged", "revived",
            "orphans_purged",
        } <= document["coordinators"].keys()  # fmt: skip
        counts = {"matched", "planned", *OUTCOMES}
        assert counts | {"scanned", "by_family"} <= document["keys"].keys()
        assert counts <= document["keys"]["by_family"]["signal"].keys()

    def test_ends_with_a_newline_and_is_utf_8(self) -> None:
        encoded = to_json(report(samples=[Example("é", "stale", "r")]))
        assert encoded.endswith(b"}\n")
        assert '"é"'.encode() in encoded


def test_what_primaries_used_is_summed() -> None:
    nodes = [NodeUse("a:1", "9", 0, 1, 1, 1.25, 9, 8), NodeUse("b:1", "9", 0, 1, 1, 2.5, 7, 6)]
    assert sum_up(nodes) == ServerUse(3.75, 16, 14)


class TestFromJson:
    def test_gives_the_same_report(self) -> None:
        before = report(keys=keys(3), nodes=[NodeUse("a:1", "9", 2, 1, 1, 0.0, 1, 1, [(0, 1)])])
        assert from_json(to_json(before), "r.json") == before

    def test_one_of_an_earlier_version_lacks_some_and_a_later_one_has_more(self) -> None:
        plain = json.loads(to_json(report()))
        for name in ("ages", "timeline", "stops", "uncovered", "config", "samples"):
            del plain[name]
        plain["tomorrow"] = [1]
        assert from_json(json.dumps(plain).encode(), "r.json") == report()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "r.json: is no JSON: Input data was truncated"),
            (b"{", "r.json: is no JSON: Input data was truncated"),
            (b'{"schema_version": 1, "status": "\xff"}', "r.json: is no JSON: "),
            (b"[]", "r.json: is no report of a run: Expected `object`, got `array`"),
            (b"{}", "missing required field `schema_version`"),
            (b'{"schema_version": 2}', "r.json: is a report of version 2, and this is a"),
            (b'{"schema_version": 1, "status": 3}', "got `int` - at `$.status`"),
            (
                b'{"schema_version": 1, "config": ' + b'{"a": ' * 100_000,
                "r.json: is nested too deeply",
            ),
        ],
    )
    def test_anything_else_is_an_error(self, content: bytes, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            from_json(content, "r.json")
        assert message in str(caught.value)
