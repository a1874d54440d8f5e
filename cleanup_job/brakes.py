"""What looks too wrong to go on with (pure).

A bulk delete that is wrong is wrong all at once, so these rules are asked when all is known and
nothing is deleted: after the verdicts, before the first delete. Each answer names its reason and
what overrides it. A plan that deletes nothing breaks no rule.

Two things can make the living look dead: a wrong clock, and a wrong pattern for heartbeats. Both
show as a fleet without any survivor, which is why that alone is suspicious. Clocks are compared
with this machine's, and with heartbeats that lie in the future: whoever writes those is ahead of
the server, and somebody else may as well be behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from cleanup_job.model import Problem, Sample, printable

NO_CLOCK_MS = 10 * 365 * 86_400_000
"""A heartbeat so far in the future (ten years) has its time in another unit, or made up. It is
kept and reported like any other, but says nothing of a clock."""

CLOCK_SKEW = "clock_skew"
"""The code of what is said of clocks."""


class Limits(msgspec.Struct, frozen=True):
    """What a run may not exceed; None for no limit. `config.Config` says what each means."""

    max_purge: int | None = None
    max_keys: int | None = None
    max_stale_fraction: float | None = None
    suspicious_from: int = 100
    expect_all_dead: bool = False
    clock_tolerance_s: int = 5
    max_clock_skew_s: int = 300


class Scale(NamedTuple):
    """How large the plan is, and out of what.

    Attributes:
        live: coordinators with a live heartbeat.
        known: coordinators with any heartbeat, and the orphans that are to be purged.
        dead: stale ones, and those orphans.
        purged: coordinators that the plan deletes.
        keys: keys that it deletes.
    """

    live: int
    known: int
    dead: int
    purged: int
    keys: int


def refusals(
    limits: Limits, scale: Scale, clocks_ahead_ms: Mapping[str, int], future: Sequence[Sample]
) -> list[Problem]:
    """Why this plan must not be executed; empty if it may.

    Args:
        limits: what it may not exceed.
        scale: how large it is.
        clocks_ahead_ms: by server, how far its clock is ahead of this machine's.
        future: heartbeats that lie in the future.
    """
    if not scale.keys:
        return []
    broken = [*_too_many(limits, scale)]
    skew = _worst_skew(limits.max_clock_skew_s, clocks_ahead_ms, future)
    if skew is not None:
        enough_s = -(-skew.count // 1000)
        broken.append(
            Problem(
                CLOCK_SKEW,
                f"{skew.message}, more than max_clock_skew {limits.max_clock_skew_s:,} s: set the "
                f"clocks right, or give --max-clock-skew {enough_s}",
                1,
                skew.samples,
            )
        )
    return broken


def clock_warnings(
    limits: Limits, clocks_ahead_ms: Mapping[str, int], future: Sequence[Sample]
) -> list[Problem]:
    """Clocks that differ by more than is tolerated, at most one problem."""
    skew = _worst_skew(limits.clock_tolerance_s, clocks_ahead_ms, future)
    if skew is None:
        return []
    return [Problem(CLOCK_SKEW, f"clocks differ: {skew.message}", 1, skew.samples)]


def _too_many(limits: Limits, scale: Scale) -> Iterator[Problem]:
    if limits.max_purge is not None and scale.purged > limits.max_purge:
        yield Problem(
            "max_purge",
            f"{scale.purged:,} coordinators would be deleted, more than max_purge "
            f"{limits.max_purge:,}: if that is right, give --max-purge {scale.purged}",
            scale.purged,
        )
    if limits.max_keys is not None and scale.keys > limits.max_keys:
        yield Problem(
            "max_keys",
            f"{scale.keys:,} keys would be deleted, more than max_keys {limits.max_keys:,}: if "
            f"that is right, give --max-keys {scale.keys}",
            scale.keys,
        )
    most = limits.max_stale_fraction
    if most is not None and scale.dead > most * scale.known:
        # Rounded up, so that what is shown is more than the limit, and enough to give.
        share = -(-scale.dead * 10_000 // scale.known) / 10_000
        yield Problem(
            "max_stale_fraction",
            f"{scale.dead:,} of {scale.known:,} coordinators look dead, a share of {share:g} and "
            f"more than max_stale_fraction {most:g}: if that is right, give "
            f"--max-stale-fraction {share:g}",
            scale.dead,
        )
    if not scale.live and scale.known >= limits.suspicious_from and not limits.expect_all_dead:
        yield Problem(
            "all_dead",
            f"not one of {scale.known:,} coordinators is live: either all are dead, or a clock or "
            "the heartbeat's pattern is wrong; if they are, give --yes or set expect_all_dead",
            scale.known,
        )


def _worst_skew(
    most_s: int, clocks_ahead_ms: Mapping[str, int], future: Sequence[Sample]
) -> Problem | None:
    """The largest difference beyond so many seconds, with its milliseconds as the count."""
    worst: list[Problem] = []
    for address, ahead_ms in clocks_ahead_ms.items():
        direction = "ahead of" if ahead_ms > 0 else "behind"
        message = (
            f"the clock of {address} is {abs(ahead_ms) / 1000:,.1f} s {direction} this machine's"
        )
        worst.append(Problem("", message, abs(ahead_ms)))
    for sample in future:
        ahead_ms = -(sample.age_ms or 0)
        if ahead_ms < NO_CLOCK_MS:
            message = f"a heartbeat is {ahead_ms / 1000:,.1f} s ahead of the server's clock"
            worst.append(Problem("", message, ahead_ms, (printable(sample.coordinator_id),)))
    largest = max(worst, key=lambda problem: problem.count, default=None)
    return largest if largest is not None and largest.count > most_s * 1000 else None
