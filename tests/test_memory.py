"""What memory a sweep needs, and how much of the ids fits into it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.errors import ConfigError
from cleanup_job.memory import (
    LEAST_BYTES,
    PROCESS_BYTES,
    bytes_of,
    fits,
    needed,
    share_of,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("2G", 2_000_000_000),
        ("512MiB", 512 * 2**20),
        ("1gib", 2**30),
        ("64k", 64_000),
        ("123456789", 123_456_789),
        (250_000_000, 250_000_000),
    ],
)
def test_sizes_as_people_write_them(text: str | int, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "MB", "1.5GB", "-1", "500 M B", "1TB", "٣MB", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size; write it as 500MB"):
        bytes_of(text)


@given(st.integers(1, 10**11), st.integers(1, 64))
def test_all_workers_together_keep_the_limit(limit: int, workers: int) -> None:
    processes = 1 if workers == 1 else 1 + workers
    try:
        share = share_of(limit, workers)
    except ConfigError as error:
        assert "set fewer workers" in str(error)  # noqa: PT017 - it is one of two ends
        assert processes * PROCESS_BYTES + workers * LEAST_BYTES > limit
    else:
        assert share >= LEAST_BYTES
        assert processes * PROCESS_BYTES + workers * share <= limit


def test_long_names_need_more() -> None:
    assert needed(100, 100 * 10_000) > 80 * needed(100, 100 * 30)


def test_what_fits_is_not_cut() -> None:
    assert fits(500_000_000, 1_000_000, 1)
    assert not fits(500_000_000, 12_000_000, 1)
