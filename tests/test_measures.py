"""How durations, sizes and counts are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.measures import counted, duration, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.000_43, "0.43 ms"),
        (0.0436, "43.6 ms"),
        (0.103, "103 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (26.94, "26.9 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (700.04, "11 min 40 s"),
        (3_599.6, "1 h"),
        (11_100, "3 h 5 min"),
        (86_399, "1 d"),
        (1_000_000, "11 d 14 h"),
        (1e9, "11,574 d 2 h"),
        (-700, "-11 min 40 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e12))
def test_a_duration_is_short_and_has_its_unit(seconds: float) -> None:
    assert len(duration(seconds)) <= 17
    assert duration(seconds).rpartition(" ")[2] in ("ms", "s", "min", "h", "d")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (6_144_000, "6.1 MB"),
        (999_949_999, "999.9 MB"),
        (999_950_000, "1.0 GB"),
        (10**19, "10,000.0 PB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_counts() -> None:
    assert [counted(n, "key") for n in (0, 1, 1_234)] == ["0 keys", "1 key", "1,234 keys"]
