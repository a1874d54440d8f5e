"""Times of commands: all are counted, however many, and none is off by much."""

from __future__ import annotations

import random
from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.report import summarize_timings
from cleanup_job.timings import ALIKE, FEW, FEW_SENT, condensed, merge_timings, replies, sent

ROWS = st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 30), st.integers(1, 9)))


def flat(rows: list[tuple[float, float, int]]) -> list[float]:
    return [float(number) for row in rows for number in row]


def many(count: int, seed: int = 1) -> list[tuple[float, float, int]]:
    rng = random.Random(seed)
    return [(1000 + n / 10_000, rng.lognormvariate(-7, 1), 1) for n in range(count)]


def test_a_few_stay_as_they_are() -> None:
    stamped = flat(many(FEW // 15))
    assert condensed(stamped) == stamped


def test_many_are_few_groups_and_all_are_counted() -> None:
    rows = many(200_000)
    grouped = condensed(flat(rows))
    assert len(grouped) <= FEW // 5
    assert sum(count for _, _, count in replies(grouped)) == len(rows)
    assert max(seconds for _, seconds, _ in replies(grouped)) == max(row[1] for row in rows)
    first, last = rows[0][0], rows[-1][0]
    assert all(first <= moment <= last for moment, _, _ in replies(grouped))


def test_percentiles_are_right_within_a_group() -> None:
    rows = many(50_000)
    took = summarize_timings({"GET": condensed(flat(rows))})["GET"]
    ordered = sorted(seconds for _, seconds, _ in rows)
    for found_ms, share in ((took.p50_ms, 0.5), (took.p99_ms, 0.99)):
        true_ms = 1000 * ordered[int(share * len(ordered)) - 1]
        assert true_ms * 0.99 <= found_ms <= true_ms * ALIKE * 1.01
    assert took.max_ms == round(1000 * ordered[-1], 3)
    assert bisect_left(ordered, took.p50_ms / 1000) > 0


@given(st.lists(st.dictionaries(st.sampled_from(["SCAN", "GET"]), ROWS)))
def test_merged_they_are_all_there(parts: list[dict[str, list]]) -> None:
    merged = merge_timings([{name: flat(rows) for name, rows in part.items()} for part in parts])
    for name in ("SCAN", "GET"):
        rows = [row for part in parts for row in part.get(name, [])]
        assert [*replies(merged.get(name, []))] == rows


def test_what_is_sent_is_small_and_later() -> None:
    rows = many(20_000)
    later = sent({"GET": flat(rows)}, 5.0)["GET"]
    assert len(later) <= FEW_SENT
    assert sum(count for _, _, count in replies(later)) == len(rows)
    assert min(later[::3]) == rows[0][0] + 5.0


def test_a_few_are_sent_as_they_are() -> None:
    assert sent({"GET": [1.0, 0.1, 1.0]}, 5.0) == {"GET": [6.0, 0.1, 1.0]}
