"""The bench of the throttle: its verdict, and what it prints."""

from __future__ import annotations

import argparse

import pytest

from bench import throttle
from bench.throttle import ALONE, FREE, THROTTLED, Stretch


@pytest.mark.parametrize(
    ("free_ms", "throttled_ms", "good"),
    [(9.0, 5.0, True), (9.0, 5.1, False), (5.0, 4.0, False)],
)
def test_only_the_throttled_sweep_may_keep_the_limit(
    free_ms: float, throttled_ms: float, good: bool
) -> None:
    p99_ms = {ALONE: 1.0, FREE: free_ms, THROTTLED: throttled_ms}
    assert throttle.holds(p99_ms, argparse.Namespace(max_latency_ms=5.0)) == good


def test_the_table_has_the_reasons() -> None:
    figures = {
        "p50_ms": 0.1,
        "p99_ms": 1.2,
        "max_ms": 3.4,
        "late_p99_ms": 0.5,
        "round_trip_p99_ms": 0.7,
    }
    pause = {"pauses": 2, "seconds": 0.25, "message": "max_latency_ms: why"}
    stretches = [
        Stretch(ALONE, 0, 1, {}),
        Stretch(THROTTLED, 1, 2, {"duration_s": 1.5, "throttle": [pause]}),
    ]
    assert throttle.table(stretches, [figures, figures], 5.0) == [
        "limit 5 ms                 p50 ms   p99 ms   max ms  late p99  trip p99  sweep s",
        "no sweep                     0.10     1.20     3.40      0.50      0.70",
        "a sweep, throttled           0.10     1.20     3.40      0.50      0.70     1.50",
        "  2 pauses, 0.25 s: max_latency_ms: why",
    ]
