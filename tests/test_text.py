"""The report as text: it fits its columns whatever the numbers, and means the same in colour."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.layout import WIDTH
from cleanup_job.model import Problem, Written
from cleanup_job.report import (
    ClientUse,
    CommandTimes,
    Coordinators,
    Example,
    FamilyKeys,
    Keys,
    Loss,
    NodeUse,
    PartitionWalk,
    Pause,
    PhaseCost,
    Phases,
    PlanUse,
    Report,
    ServerUse,
    Target,
)
from cleanup_job.style import Style
from cleanup_job.text import MOST_PARTITIONS, to_text
from tests.test_report import keys, report


def lines_of(shown: Report) -> list[str]:
    return to_text(shown).splitlines()


def test_what_held_the_run_up_fits_into_the_width() -> None:
    codes = ("max_latency_ms", "max_replica_lag_bytes", "pause_file", "nice")
    pauses = [Pause(code, f"{code}: why", 1_000, 12.34) for code in codes]
    lines = lines_of(report(throttle=[*pauses, Pause("no_answer", "", 1, 0.26)]))
    (first,) = (number for number, line in enumerate(lines) if line.startswith("throttle"))
    assert lines[first] == "throttle      49.6 s: max_latency_ms 12.3 s (1,000 pauses),"
    assert lines[first + 1].strip() == "max_replica_lag_bytes 12.3 s (1,000 pauses),"
    assert "no_answer 260 ms" in lines[first + 3]
    assert all(len(line) <= 80 for line in lines)


def large(size: int) -> Report:
    counts = dict.fromkeys(("matched", "planned", "deleted"), size)
    counts |= dict.fromkeys(("gone", "spared", "failed", "unknown"), size // 1000)
    families = ("heartbeat", "signal", "ack", "idempotency", "activity")
    return report(
        coordinators=Coordinators(*[size] * 9),
        keys=Keys(scanned=size, **counts, by_family=dict.fromkeys(families, FamilyKeys(**counts))),
        phases=Phases(size / 1000, size / 1000, size / 1000),
        costs={
            name: PhaseCost(
                size / 1000,
                size / 1000,
                None if name == "judge" else size / 1000,
                {"EVALSHA": CommandTimes(size, 1234.567, 1234.567, 1234.567)},
            )
            for name in ("survey", "judge", "purge")
        },
        client=ClientUse(size / 1000),
        server=ServerUse(size / 1000, size * 1000, size * 1000),
        duration_s=size / 1000,
        workers=256,
    )


class TestText:
    @pytest.mark.parametrize("size", [0, 1, 10_010, 999_999, 9_999_999])
    @pytest.mark.parametrize("dry_run", [False, True])
    @pytest.mark.parametrize("status", ["complete", "partial", "failed"])
    def test_fits_80_columns(self, size: int, dry_run: bool, status: str) -> None:
        shown = msgspec.structs.replace(large(size), dry_run=dry_run, status=status)
        for line in to_text(shown, verbose=True).splitlines():
            assert len(line) <= WIDTH, line

    def test_numbers_do_not_run_into_each_other(self) -> None:
        row = next(line for line in lines_of(large(9_999_999)) if line.startswith("idempotency"))
        assert row.split() == ["idempotency", *["9,999,999"] * 3, *["9,999"] * 4]
        rows = lines_of(large(10**15))
        total = next(line for line in rows if line.startswith("total"))
        assert total.split()[1:4] == ["1,000,000,000,000,000"] * 3

    def test_a_family_called_total_is_told_from_the_total(self) -> None:
        counted = Keys(matched=7, by_family={"total": FamilyKeys(matched=3)})
        rows = [line.split()[:2] for line in lines_of(report(keys=counted)) if "total" in line]
        assert rows == [["total", "3"], ["total", "7"]]

    def test_says_what_it_is_about(self) -> None:
        first = lines_of(report())[0]
        assert first == "run 0123abcd on Valkey 9.1.2 standalone, 127.0.0.1:6379 db 0"
        assert lines_of(report(dry_run=True))[0].startswith("dry run 0123abcd on ")

    def test_a_dry_run_has_no_column_of_what_it_did_not_do(self) -> None:
        text = to_text(report(dry_run=True, keys=keys(3)))
        assert "  matched   planned\n" in text
        assert "purged" not in text

    @pytest.mark.parametrize(
        ("fields", "conclusion"),
        [
            ({"keys": keys(3, deleted=3)}, "complete: 3 of 3 planned keys deleted"),
            (
                {"keys": keys(3), "dry_run": True},
                "complete: 3 keys would be deleted; nothing was",
            ),
            (
                {"keys": keys(3, deleted=2, failed=1), "status": "partial"},
                "PARTIAL: 2 of 3 planned keys deleted; run again",
            ),
            (
                {"status": "partial", "dry_run": True},
                "PARTIAL: not all of the keyspace was covered; run again",
            ),
            (
                {"keys": keys(3, deleted=2), "status": "failed"},
                "FAILED: the counts do not add up; please report this as a bug",
            ),
        ],
    )
    def test_ends_with_its_conclusion(self, fields: dict[str, Any], conclusion: str) -> None:
        blocks = to_text(report(**fields)).rstrip("\n").split("\n\n")
        behind = blocks[blocks.index(conclusion) + 1 :]
        assert len(behind) <= 1
        assert all(block.startswith("next\n") for block in behind)

    def test_problems_come_with_count_and_samples(self) -> None:
        shown = report(
            warnings=[Problem("a", "odd things", 1234, ("x", "y"))], errors=[Problem("b", "bad", 1)]
        )
        assert "warning: odd things (1,234); e.g. x, y" in lines_of(shown)
        assert "error: bad (1)" in lines_of(shown)

    def test_samples_come_with_age_and_reason(self) -> None:
        samples = [
            Example("dead", "stale", "older than stale_after", 700.04),
            Example("lost", "orphaned", "no heartbeat, 3 keys"),
        ]
        lines = lines_of(report(samples=samples))
        shown = [" ".join(line.split()) for line in lines[lines.index("samples") + 1 :][:2]]
        assert shown == [
            "stale 11 min 40 s dead",
            "orphaned lost (no heartbeat, 3 keys)",
        ]

    def test_the_reason_of_a_stale_one_is_its_age_unless_more_is_asked_for(self) -> None:
        shown = report(samples=[Example("dead", "stale", "older than stale_after", 700)])
        assert "older than" not in to_text(shown)
        assert "(older than stale_after)" in to_text(shown, verbose=True)

    def test_commands_and_partitions_are_for_who_asks(self) -> None:
        walk = PartitionWalk("127.0.0.1:6379", "all", 12_345, 0.5, 1)
        shown = msgspec.structs.replace(large(7), partitions=[walk] * (MOST_PARTITIONS + 2))
        calm, all_of_it = to_text(shown), to_text(shown, verbose=True)
        for word in ("EVALSHA", "client CPU", "partition", "12,345"):
            assert word not in calm
            assert word in all_of_it
        assert "\nand 2 more\n" in all_of_it

    def test_long_warnings_are_broken_between_words(self) -> None:
        words = "one-of-many-words " * 20
        lines = lines_of(report(warnings=[Problem("x", words.strip(), 3, ("an id",))]))
        told = [line for line in lines if "words" in line]
        assert len(told) > 3
        assert all(line.startswith("  ") for line in told[1:])
        assert max(map(len, told)) <= WIDTH


counts = st.integers(0, 2**63)
seconds = st.floats(0, 1e9)
words = st.text("abcdefg-_ ", max_size=200)
times = st.builds(CommandTimes, counts, seconds, seconds, seconds)
families = st.builds(FamilyKeys, *[counts] * 7)
problems = st.lists(
    st.builds(Problem, st.just("x"), words, counts, st.tuples(words.filter(str.strip))), max_size=2
)
samples = st.builds(
    Example, st.text("abc:", max_size=20), st.sampled_from(["stale", "future"]), words, seconds
)
reports = st.builds(
    report,
    status=st.sampled_from(["complete", "partial", "refused", "failed"]),
    dry_run=st.booleans(),
    duration_s=seconds,
    target=st.builds(
        Target,
        st.just("valkey"),
        st.just("9.1.2"),
        st.sampled_from(["standalone", "cluster"]),
        st.lists(st.just("127.0.0.1:6379"), max_size=9),
        st.integers(0, 15),
    ),
    coordinators=st.builds(Coordinators, *[counts] * 9),
    keys=st.builds(
        Keys, *[counts] * 8, st.dictionaries(st.text("abc", max_size=90), families, max_size=3)
    ),
    phases=st.builds(Phases, seconds, seconds, seconds),
    costs=st.dictionaries(
        st.sampled_from(["survey", "judge", "purge"]),
        st.builds(
            PhaseCost,
            seconds,
            seconds,
            st.none() | seconds,
            st.dictionaries(st.sampled_from(["SCAN", "SCRIPT|LOAD"]), times),
        ),
    ),
    server=st.builds(ServerUse, seconds, counts, counts),
    client=st.builds(ClientUse, seconds),
    nodes=st.lists(
        st.builds(NodeUse, words, st.just("9"), counts, counts, counts, seconds, counts, counts),
        max_size=2,
    ),
    workers=counts,
    plan=st.none() | st.builds(PlanUse, st.just("f"), st.just("2026-01-01"), *[counts] * 5),
    throttle=st.lists(st.builds(Pause, st.just("max_latency_ms"), words, counts, seconds)),
    stopped_by=st.sampled_from([None, "told", "stop_file", "time_budget"]),
    journal=st.none() | st.builds(Written, st.just("/j/f"), counts, counts, counts),
    losses=st.lists(st.builds(Loss, st.just("an id"), counts), max_size=2),
    partitions=st.lists(
        st.builds(PartitionWalk, words, words, counts, seconds, counts), max_size=2
    ),
    samples=st.lists(samples, max_size=2),
    warnings=problems,
    errors=problems,
)


class TestProperties:
    @given(reports, st.booleans())
    def test_every_line_fits_whatever_the_numbers(self, shown: Report, verbose: bool) -> None:
        for line in to_text(shown, verbose=verbose, words=["run", "-c", "a b"]).splitlines():
            assert len(line) <= WIDTH, line

    @given(reports)
    def test_colours_change_nothing_else(self, shown: Report) -> None:
        coloured = to_text(shown, Style(True), verbose=True)
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == to_text(shown, verbose=True)
        assert coloured.count("\x1b[0m") * 2 == coloured.count("\x1b[")


class TestColours:
    def test_what_failed_is_seen_from_afar(self) -> None:
        shown = report(status="partial", keys=keys(30, deleted=27, failed=3))
        text = to_text(shown, Style(True))
        assert re.search(r"\x1b\[31m +3\x1b\[0m", text)
        assert "\x1b[1;33mPARTIAL\x1b[0m: 27 of" in text

    def test_nothing_is_red_where_nothing_failed(self) -> None:
        assert "\x1b[31m" not in to_text(report(keys=keys(3, deleted=3)), Style(True))


class TestClusters:
    NODES = (
        NodeUse("127.0.0.1:7000", "9.1.2", 8_192, 1_000_000, 10, 1.25, 9, 8),
        NodeUse("[2001:db8::1]:6379", "9.1.2", 8_192, 2_000_000, 20, 2.5, 7, 6),
    )

    def text(self) -> str:
        target = Target("valkey", "9.1.2", "cluster", [node.address for node in self.NODES], 0)
        return to_text(
            report(target=target, nodes=list(self.NODES), server=ServerUse(3.75, 16, 14))
        )

    def test_each_primary_has_a_line_that_fits(self) -> None:
        lines = self.text().splitlines()
        assert max(map(len, lines)) <= WIDTH
        assert lines[0].endswith("cluster, 2 primaries")
        row = next(line for line in lines if line.startswith("127.0.0.1:7000"))
        assert row.split() == ["127.0.0.1:7000", "8,192", "1,000,000", "10", "1.25", "s"]

    def test_a_standalone_server_has_no_such_table(self) -> None:
        assert "keys before" not in to_text(report())
