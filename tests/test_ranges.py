"""Ranges of ids: every name in one of them, and all of them together judge as one."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cleanup_job.config import Config
from cleanup_job.cursors import Order
from cleanup_job.judge import Guests, Verdicts, decide
from cleanup_job.keyspace import widths_of
from cleanup_job.model import Findings, Kind, Partition, Ref, Sample, StaleRun
from cleanup_job.plan import make_plan
from cleanup_job.ranges import (
    IdRange,
    bounds_of,
    foreign_names,
    pieces,
    ranges_between,
    shelved,
    straddling,
)
from cleanup_job.tally import Fate, Straddler, Tally, tally_of, whole_of

SCHEMA = Config().schema()

SEGMENT = st.sampled_from([b"a", b"a0", b"a-b", b"ab", b"b", b"error", b"c"])
ID = st.lists(SEGMENT, min_size=1, max_size=3).map(b":".join)


def _run(names: Sequence[bytes]) -> StaleRun:
    ordered = sorted(names)
    return StaleRun(ordered, [b"v-" + name for name in ordered], [700_000] * len(ordered))


EMPTY = Findings(
    partition=Partition("n", Order.REVERSED, ((0, 1),), 0),
    scanned=0,
    seconds=0.0,
    attempts=1,
    live=[],
    kept=[],
    stale=[],
    owned=[[] for _ in SCHEMA.owned],
    timings={},
)


@st.composite
def surveys(draw: st.DrawFn) -> list[Findings]:
    """Findings of up to three partitions, which may overlap but agree on heartbeats."""
    kinds = draw(st.dictionaries(ID, st.sampled_from(["live", "stale", "kept"]), max_size=8))
    names = st.sampled_from([*kinds, b"a", b"x", b"x:y"])
    two = st.tuples(names, names)
    keys = {
        "signal": st.lists(names.map(b"blocking:signal:%b".__mod__), max_size=5),
        "ack": st.lists(names.map(b"blocking:ack:%b:s1".__mod__), max_size=5),
        "idempotency": st.lists(two.map(b"blocking:idempotency:%b:%b:error".__mod__), max_size=5),
        "activity": st.lists(names.map(b"coordinator:activity:%b".__mod__), max_size=5),
    }
    found = []
    for _ in range(draw(st.integers(1, 3))):
        seen = draw(st.sets(st.sampled_from([*kinds]))) if kinds else set()
        found.append(
            structs.replace(
                EMPTY,
                live=[name for name in seen if kinds[name] == "live"],
                kept=[Sample(name, Kind.UNREADABLE, "r") for name in seen if kinds[name] == "kept"],
                stale=[_run([name for name in seen if kinds[name] == "stale"])],
                owned=[[sorted(set(draw(keys[name])))] for name, _ in SCHEMA.owned],
            )
        )
    return found


BOUNDS = st.lists(st.one_of(ID, st.binary(min_size=1, max_size=4)), max_size=4).map(
    lambda bounds: sorted(set(bounds))
)


def all_names(found: Findings) -> list[bytes]:
    owned = [key for runs in found.owned for run in runs for key in run]
    stale = [name for run in found.stale for name in run.ids]
    return sorted([*found.live, *(s.coordinator_id for s in found.kept), *stale, *owned])


def widths_in(survey: Sequence[Findings]) -> frozenset[int]:
    return frozenset().union(*(shelved(found, SCHEMA, Ref("")).widths for found in survey))


@given(surveys(), BOUNDS)
def test_every_name_is_at_home_in_one_range(survey: list[Findings], bounds: list[bytes]) -> None:
    widths = widths_in(survey)
    homes: dict[bytes, set[int]] = {}
    for found in survey:
        parts = pieces(found, SCHEMA, widths, bounds)
        assert sorted(name for part in parts for name in all_names(part)) == all_names(found)
        for place, part in enumerate(parts):
            for name in all_names(part):
                homes.setdefault(name, set()).add(place)
    assert all(len(places) == 1 for places in homes.values())


def judged(survey: Sequence[Findings], bounds: list[bytes]) -> list[tuple[Verdicts, Tally]]:
    """As `reduce.judge_range` does it, but the server is the whole survey."""
    whole = decide(survey, SCHEMA)
    alive = whole.live | whole.kept.keys()
    widths = widths_in(survey)
    cut = [pieces(found, SCHEMA, widths, bounds) for found in survey]
    ranges = []
    for own, parts in zip(ranges_between(bounds), zip(*cut, strict=True), strict=True):
        foreign = foreign_names(parts, SCHEMA, widths, own)
        stale = [name for name in foreign if name in whole.stale.places]
        guests = Guests(
            frozenset(name for name in foreign if name in alive),
            StaleRun(stale, [whole.stale.print_of(name) for name in stale], [700_000] * len(stale)),
        )
        verdicts = decide(parts, SCHEMA, guests=guests, widths=widths)
        plan = make_plan(verdicts, SCHEMA)
        straddles = {
            name: Straddler(Fate.REPORTED, {}) for name in straddling(verdicts.orphan_ids(), own)
        }
        ranges.append((verdicts, tally_of(verdicts, plan, SCHEMA, show=3, straddles=straddles)))
    return ranges


@given(surveys(), BOUNDS)
def test_all_ranges_together_judge_as_one(survey: list[Findings], bounds: list[bytes]) -> None:
    whole = decide(survey, SCHEMA)
    expected = tally_of(whole, make_plan(whole, SCHEMA), SCHEMA, show=3)
    together = whole_of([tally for _, tally in judged(survey, bounds)], 3)
    assert structs.replace(together, straddling={}) == expected


@given(surveys(), BOUNDS)
def test_each_key_goes_in_one_range_or_in_none(survey: list[Findings], bounds: list[bytes]) -> None:
    def going(verdicts: Verdicts) -> list[bytes]:
        plan = make_plan(verdicts, SCHEMA)
        lots = [*plan.lot.batches(lambda _: 500), *plan.batches, *plan.last.batches(lambda _: 500)]
        heartbeats = [n for lot in lots for n in lot.guard_ids[: lot.own_heartbeats]]
        return [*heartbeats, *(key for lot in lots for family in lot.keys for key in family)]

    in_ranges = [name for verdicts, _ in judged(survey, bounds) for name in going(verdicts)]
    assert sorted(in_ranges) == sorted(going(decide(survey, SCHEMA)))


@given(st.lists(st.lists(ID)), st.integers(1, 9))
def test_bounds_ascend_and_are_no_more_than_asked_for(
    samples: list[list[bytes]], ranges: int
) -> None:
    bounds = bounds_of(samples, ranges)
    assert bounds == sorted(set(bounds))
    assert len(bounds) < ranges
    assert widths_of(bounds) <= widths_of([name for some in samples for name in some])


def test_short_runs_give_even_ranges() -> None:
    """Once the first name of each run was taken, and the last range was nearly all."""
    ids = [b"test-swarm-%d" % number for number in range(40_000)]
    random.Random(1).shuffle(ids)
    runs = [_run(ids[first : first + 250]) for first in range(0, len(ids), 250)]
    sample = shelved(structs.replace(EMPTY, stale=runs), SCHEMA, Ref("")).sample
    ranges = ranges_between(bounds_of([sample], 4))
    sizes = [sum(own.holds(name) for name in ids) for own in ranges]
    assert max(sizes) < 2 * min(sizes)


@given(ID, BOUNDS)
def test_an_id_is_in_one_range(name: bytes, bounds: list[bytes]) -> None:
    assert sum(own.holds(name) for own in ranges_between(bounds)) == 1


def test_a_range_without_bounds_holds_all() -> None:
    assert IdRange().holds(b"")
    assert ranges_between([]) == [IdRange()]
