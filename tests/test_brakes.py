from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.brakes import NO_CLOCK_MS, Limits, Scale, clock_warnings, refusals
from cleanup_job.model import Kind, Sample

ALL_WELL = Scale(live=10, known=110, dead=100, purged=100, keys=500)


def refused(
    scale: Scale = ALL_WELL, ahead_ms: int = 0, beat_ahead_ms: int = 0, **limits: Any
) -> str:
    """The one reason, or nothing."""
    future = [Sample(b"early", Kind.FUTURE, "", -beat_ahead_ms)] if beat_ahead_ms else []
    problems = refusals(Limits(**limits), scale, {"db:1": ahead_ms}, future)
    assert len(problems) <= 1
    return problems[0].message if problems else ""


class TestTooMany:
    def test_what_is_within_all_limits_goes(self) -> None:
        assert not refused(max_purge=100, max_keys=500, max_stale_fraction=0.91)

    def test_coordinators(self) -> None:
        assert refused(max_purge=99) == (
            "100 coordinators would be deleted, more than max_purge 99: if that is right, give "
            "--max-purge 100"
        )

    def test_keys(self) -> None:
        assert refused(max_keys=0) == (
            "500 keys would be deleted, more than max_keys 0: if that is right, give --max-keys 500"
        )

    def test_share(self) -> None:
        assert refused(max_stale_fraction=0.9) == (
            "100 of 110 coordinators look dead, a share of 0.9091 and more than "
            "max_stale_fraction 0.9: if that is right, give --max-stale-fraction 0.9091"
        )

    @given(st.integers(1, 10**7), st.integers(0, 10**7))
    def test_what_a_refusal_advises_is_enough(self, dead: int, others: int) -> None:
        scale = Scale(live=1, known=dead + others, dead=dead, purged=dead, keys=dead)
        reason = refused(scale, max_stale_fraction=0)
        share = float(reason.rpartition(" ")[2])
        assert 0 < share <= 1
        assert not refused(scale, max_stale_fraction=share)

    def test_all_reasons_are_told(self) -> None:
        limits = Limits(max_purge=1, max_keys=1, max_stale_fraction=0.1)
        codes = [problem.code for problem in refusals(limits, ALL_WELL, {}, [])]
        assert codes == ["max_purge", "max_keys", "max_stale_fraction"]


class TestAllDead:
    def test_from_a_hundred_on(self) -> None:
        assert not refused(ALL_WELL._replace(live=0, known=99))
        assert "not one of 100 coordinators is live" in refused(
            ALL_WELL._replace(live=0, known=100)
        )

    def test_one_that_lives_is_enough(self) -> None:
        assert not refused(ALL_WELL._replace(live=1, known=10**6))

    def test_expected(self) -> None:
        assert not refused(ALL_WELL._replace(live=0), expect_all_dead=True)

    def test_from_fewer(self) -> None:
        assert refused(ALL_WELL._replace(live=0, known=3), suspicious_from=3)


class TestClocks:
    @pytest.mark.parametrize(
        ("ahead_ms", "words"),
        [(300_001, "is 300.0 s ahead of this machine's"), (-86_400_000, "86,400.0 s behind this")],
    )
    def test_of_servers(self, ahead_ms: int, words: str) -> None:
        reason = refused(ahead_ms=ahead_ms)
        assert words in reason
        enough_s = int(reason.rpartition(" ")[2])
        assert not refused(ahead_ms=ahead_ms, max_clock_skew_s=enough_s)

    def test_near_enough(self) -> None:
        assert not refused(ahead_ms=300_000)
        assert not refused(ahead_ms=-300_000)

    def test_of_heartbeats(self) -> None:
        assert "a heartbeat is 300.0 s ahead of the server's clock" in refused(
            beat_ahead_ms=300_001
        )

    def test_a_time_in_another_unit_says_nothing_of_a_clock(self) -> None:
        assert refused(beat_ahead_ms=NO_CLOCK_MS - 1)
        assert not refused(beat_ahead_ms=NO_CLOCK_MS)

    def test_between_tolerance_and_refusal_there_is_a_warning(self) -> None:
        def warned(ahead_ms: int) -> list[str]:
            return [p.message for p in clock_warnings(Limits(), {"db:1": ahead_ms}, [])]

        assert warned(5_000) == []
        message = "clocks differ: the clock of db:1 is 5.0 s behind this machine's"
        assert warned(-5_001) == [message]

    def test_the_worst_is_told(self) -> None:
        future = [Sample(b"a", Kind.FUTURE, "", -7_000), Sample(b"b\n", Kind.FUTURE, "", -9_000)]
        (problem,) = clock_warnings(Limits(), {"db:1": 6_000}, future)
        assert problem.message == "clocks differ: a heartbeat is 9.0 s ahead of the server's clock"
        assert problem.samples == ("b\\n",)


def test_a_plan_that_deletes_nothing_breaks_no_limit() -> None:
    nothing = Scale(live=0, known=10**6, dead=0, purged=0, keys=0)
    assert not refused(nothing, ahead_ms=10**9, max_purge=0, max_keys=0, max_stale_fraction=0)
