"""What a terminal shows while a run goes on."""

from __future__ import annotations

import contextlib
import os
import pty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job import progress
from cleanup_job.cursors import Lane, Order, cut_by_weight, cut_evenly
from cleanup_job.model import Partition, SlotRange
from cleanup_job.progress import Bars, describe_kept, describe_walk
from cleanup_job.report import Coordinators

NODE = "127.0.0.1:7000"


def describe(order: Order, lane: Lane, slots: list[SlotRange]) -> str:
    return describe_walk(Partition(NODE, order, (lane,), 1), slots)


BORDERS = cut_by_weight([1] * 16_384, 2)


@pytest.mark.parametrize(
    ("lane", "slots", "expected"),
    [
        ((BORDERS[0], BORDERS[2]), [(0, 5460)], "0-5,460"),
        ((BORDERS[0], BORDERS[1]), [(5461, 10_921)], "5,461-8,191"),
        ((BORDERS[1], BORDERS[2]), [(5461, 10_921)], "8,192-10,921"),
        ((BORDERS[0], BORDERS[2]), [(7, 7), (9, 10)], "7, 9-10"),
        ((BORDERS[0], BORDERS[2]), [(n, n) for n in (1, 3, 5, 7)], "4 from 1 to 7"),
        ((BORDERS[1], BORDERS[2]), [(0, 100)], "of others"),
    ],
)
def test_slot_by_slot(lane: Lane, slots: list[SlotRange], expected: str) -> None:
    assert describe(Order.SLOTS, lane, slots) == f"walked slots {expected} of {NODE}"


def test_a_share_of_all_slots() -> None:
    start, end, _ = cut_evenly(2)
    assert describe(Order.REVERSED, (start, end), [(0, 5460)]) == (
        f"walked slots 0-5,460 of {NODE}, cursors 0.0% to 50.0%"
    )


def test_without_a_terminal_each_reason_is_said_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [5.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    heard: list[str] = []
    bars = Bars(bool, heard.append)
    for at_s in (5.0, 6.0, 14.9, 15.0):
        now_s[0] = at_s
        bars.paused(f"nice: at {at_s:g}")
        bars.paused(None)
    bars.paused("pause_file: x is there")
    assert heard == [
        "cleanup-job: paused: nice: at 5",
        "cleanup-job: paused: nice: at 15",
        "cleanup-job: paused: pause_file: x is there",
    ]


@pytest.mark.parametrize("reason", ["pause_file: /a/{b} is there", "max_latency_ms: " + "x" * 90])
def test_the_bar_shows_the_reason(
    reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    heard: list[str] = []
    bars = Bars(bool, heard.append)
    bars.began("purge", 1_000)
    bars.advanced(500)
    bars.paused(reason)
    lines = capsys.readouterr().err.split("\r")
    assert lines[-1].startswith(f"purge :  50% paused: {reason[:40]}")
    assert len(lines[-1]) <= 80
    bars.paused(None)
    assert "500/1.00k" in capsys.readouterr().err
    bars.ended()
    assert heard == []


def test_a_terminal_that_is_gone_costs_the_bars_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where SIGHUP was ignored, the next phase ended the run with a traceback."""
    other, end = pty.openpty()
    terminal = os.fdopen(end, "w")
    monkeypatch.setattr("sys.stderr", terminal)
    bars = Bars(bool, print)
    bars.began("survey", 1_000_000)
    os.close(other)
    terminal.write("what could not be flushed stays in the buffer")
    bars.advanced(100_000)
    bars.walked(Partition(NODE, Order.SLOTS, ((0, 1),), 1))
    bars.ended()
    bars.began("purge", 1_000_000)
    bars.ended()
    with contextlib.suppress(OSError):
        terminal.close()


def told(**settings: bool) -> list[str]:
    """What a run says where there is no terminal."""
    heard: list[str] = []
    bars = Bars(bool, heard.append, **settings)
    bars.started("0123abcd", "2025-10-10T21:01:11.000Z")
    bars.began("judge", 0)
    bars.ended()
    bars.judged(Coordinators(live=1, stale=2_000, unreadable=3), {"is no JSON": 3})
    bars.planned(2_000, {"signal": 2_000, "ack": 0, "heartbeat": 2_000})
    assert (bars.run_id, bars.phase) == ("0123abcd", "judge")
    return heard


def test_who_was_found_and_what_is_to_go_is_for_a_terminal_or_who_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = [
        "found:  1 live, 2,000 stale, 3 unreadable",
        "kept:   is no JSON (3)",
        "to go:  2,000 coordinators, 4,000 keys: signal 2,000, heartbeat 2,000",
    ]
    judge, *others = told(verbose=True)
    assert judge.startswith("judge:  ")
    assert others == said
    assert told() == told(quiet=True) == []
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert told() == said
    assert told(quiet=True) == []


class TestReasons:
    def test_that_differ_only_in_numbers_are_one(self) -> None:
        kept = {f"its time is {n:,} s ahead": 1 for n in range(5_000)}
        assert describe_kept(kept) == ["its time is 0 s ahead (5,000)"]

    def test_others_keep_their_numbers(self) -> None:
        assert describe_kept({"lies before 2001": 2, "is no JSON": 3}) == [
            "is no JSON (3)",
            "lies before 2001 (2)",
        ]

    @given(st.dictionaries(st.text(max_size=300), st.integers(1, 10**9), min_size=1))
    def test_are_few_and_add_up(self, kept: dict[str, int]) -> None:
        parts = describe_kept(kept)
        assert len(parts) <= progress.MOST_REASONS + 1
        counts = [part[part.rindex("(") + 1 : -1].replace(",", "") for part in parts]
        assert sum(map(int, counts)) == sum(kept.values())
        assert all(part.isprintable() for part in parts)
