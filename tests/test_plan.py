"""Plans: whole coordinators together, large ones with their heartbeat last, every key once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.config import Config
from cleanup_job.judge import MOST_NAMED, Stale, Verdicts, by_owner
from cleanup_job.keyspace import parse
from cleanup_job.model import ABSENT, BYTES_PER_BATCH, KEYS_PER_BATCH, Batch, Lot, Owned, Schema
from cleanup_job.plan import Plan, everything, hold_back, listed, make_plan, scope_of

SCHEMA = Config().schema()

FAMILIES = [name for name, _ in SCHEMA.owned]


def heartbeat(name: bytes) -> bytes:
    return SCHEMA.heartbeat.key_for(name)


def value_of(name: bytes) -> bytes:
    return b"beat of " + name


def ack(name: bytes, number: int) -> bytes:
    return b"blocking:ack:%b:s%d" % (name, number)


def record(one: bytes, other: bytes) -> bytes:
    return b"blocking:idempotency:%b:%b:error:1:2" % (one, other)


def verdicts(
    acks: dict[bytes, int],
    shared: Iterable[tuple[bytes, bytes]] = (),
    orphans: dict[bytes, list[bytes]] | None = None,
) -> Verdicts:
    """Stale coordinators with so many ACKs each, records that two of them share, and orphans."""
    owned = [Owned([], []) for _ in FAMILIES]
    for place, (name, count) in enumerate(acks.items()):
        owned[FAMILIES.index("ack")].keys.extend(ack(name, number) for number in range(count))
        owned[FAMILIES.index("ack")].owners.extend([place] * count)
    co_owners: dict[bytes, tuple[bytes, ...]] = {}
    for one, other in shared:
        owned[FAMILIES.index("idempotency")].keys.append(record(one, other))
        owned[FAMILIES.index("idempotency")].owners.append(list(acks).index(one))
        co_owners[record(one, other)] = (other,)
    lost: list[dict[bytes, list[bytes]]] = [{} for _ in FAMILIES]
    lost[FAMILIES.index("ack")] = orphans or {}
    ids = list(acks)
    return Verdicts(
        stale=Stale(
            ids,
            [value_of(name) for name in ids],
            [700_000] * len(ids),
            {name: place for place, name in enumerate(ids)},
        ),
        owned=[by_owner(family) for family in owned],
        co_owners=co_owners,
        orphans=lost,
        longest=max((len(key) for family in owned for key in family.keys), default=0),
    )


def keys_of(batch: Batch) -> list[bytes]:
    heartbeats = SCHEMA.heartbeat.keys_for(batch.guard_ids[: batch.own_heartbeats])
    return [*heartbeats, *(key for keys in batch.keys for key in keys)]


def needs_of(batch: Batch) -> dict[bytes, list[bytes]]:
    """The ids that each owned key of the batch depends on: its guards that it names."""
    return {
        key: [name for name in pattern.candidates(key) if name in batch.guard_ids]
        for keys, (_, pattern) in zip(batch.keys, SCHEMA.owned, strict=True)
        for key in keys
    }


def batches_of(plan: Plan, keys: int = KEYS_PER_BATCH) -> list[Batch]:
    """The whole plan in the order of deletion, in calls of so many keys."""
    lots = (list(lot.batches(lambda _: keys)) for lot in (plan.lot, plan.last))
    first, last = lots
    return [*first, *(piece for batch in plan.batches for piece in batch.pieces(keys)), *last]


def places(plan: Plan) -> dict[bytes, int]:
    """Which batch each key is in."""
    return {key: i for i, batch in enumerate(batches_of(plan)) for key in keys_of(batch)}


sizes = st.one_of(
    st.integers(0, 5),
    st.sampled_from([KEYS_PER_BATCH - 1, KEYS_PER_BATCH, KEYS_PER_BATCH + 1, 2500]),
)
names = st.sampled_from([b"a", b"b", b"a:b", b"error", b"\xff\n", b"x" * 300])
cases = st.dictionaries(names, sizes, max_size=6).flatmap(
    lambda acks: st.tuples(
        st.just(acks),
        st.sets(
            st.tuples(*[st.sampled_from(sorted(acks))] * 2).filter(lambda two: two[0] != two[1]),
            max_size=3,
        )
        if len(acks) > 1
        else st.just(set()),
    )
)


class TestEveryPlan:
    @given(cases)
    def test_has_every_key_and_every_heartbeat_once(
        self, case: tuple[dict[bytes, int], set[tuple[bytes, bytes]]]
    ) -> None:
        acks, shared = case
        plan = make_plan(verdicts(acks, shared), SCHEMA)
        expected = Counter(heartbeat(name) for name in acks)
        expected.update(ack(name, number) for name, n in acks.items() for number in range(n))
        expected.update(record(*two) for two in shared)
        assert Counter(key for batch in batches_of(plan) for key in keys_of(batch)) == expected
        assert plan.size == expected.total()
        counts = plan.counts
        assert sum(counts.values()) == plan.size
        assert (counts["heartbeat"], counts["ack"]) == (len(acks), sum(acks.values()))
        assert counts["idempotency"] == len(shared)

    @given(cases)
    def test_guards_every_key_by_the_heartbeats_of_all_that_it_names(
        self, case: tuple[dict[bytes, int], set[tuple[bytes, bytes]]]
    ) -> None:
        acks, shared = case
        plan = make_plan(verdicts(acks, shared), SCHEMA)
        for batch in batches_of(plan):
            assert list(batch.expected) == list(map(value_of, batch.guard_ids))
            assert len(set(batch.guard_ids)) == len(batch.guard_ids)
            for key, ids in needs_of(batch).items():
                named = next((two for two in shared if record(*two) == key), None)
                if named is None:
                    assert any(key.startswith(b"blocking:ack:%b:s" % name) for name in ids)
                else:
                    assert set(named) <= set(ids)

    @given(cases)
    def test_has_no_heartbeat_before_its_keys(
        self, case: tuple[dict[bytes, int], set[tuple[bytes, bytes]]]
    ) -> None:
        acks, shared = case
        data = verdicts(acks, shared)
        plan = make_plan(data, SCHEMA)
        waves = [batch.wave for batch in batches_of(plan)]
        assert waves == sorted(waves)
        place = places(plan)
        for name in acks:
            last = place[heartbeat(name)]
            for owned in data.owned:
                for key, owner in owned.pairs(list(acks)):
                    if list(acks)[owner] != name:
                        continue
                    same_step = place[key] == last
                    assert same_step or (waves[place[key]], waves[last]) == (0, 1)

    @given(cases)
    def test_has_batches_that_a_server_can_take(
        self, case: tuple[dict[bytes, int], set[tuple[bytes, bytes]]]
    ) -> None:
        plan = make_plan(verdicts(*case), SCHEMA)
        for batch in batches_of(plan):
            words = len(batch.guard_ids) + sum(map(len, batch.keys))
            assert 0 < words < 2 * KEYS_PER_BATCH
            assert batch.size > 0


class TestLimits:
    """A plan that was made before only takes away from what a plan of now would delete."""

    @given(cases, st.data())
    def test_nothing_outside_of_it_is_planned(
        self, case: tuple[dict[bytes, int], set[tuple[bytes, bytes]]], data: st.DataObject
    ) -> None:
        acks, shared = case
        now = verdicts(acks, shared)
        before = [one for one in listed(now, SCHEMA, ()) if data.draw(st.booleans())]
        # Some had fewer keys when they were planned.
        for one in before:
            for keys in one.keys.values():
                if keys and data.draw(st.booleans()):
                    keys.pop()
        scope = scope_of(now, SCHEMA, before)
        plan = make_plan(now, SCHEMA, left_out=scope.left_out)
        named = {heartbeat(one.coordinator_id) for one in before}
        named |= {key for one in before for keys in one.keys.values() for key in keys}
        going = Counter(key for batch in batches_of(plan) for key in keys_of(batch))
        assert going.keys() <= named
        assert plan.size == going.total() == len(going)
        assert len(before) == plan.counts["heartbeat"] + len(scope.changed)
        assert scope.gone_or_alive == 0
        # All keys of one go, or none.
        for one in listed(now, SCHEMA, ()):
            its = {heartbeat(one.coordinator_id), *(k for keys in one.keys.values() for k in keys)}
            assert going.keys() >= its or not going.keys() & its
            assert not going.keys() & its or one.coordinator_id not in scope.changed
        for batch in batches_of(plan):
            assert list(batch.expected) == list(map(value_of, batch.guard_ids))

    @given(cases)
    def test_all_of_it_is_the_plan_without_it(
        self, case: tuple[dict[bytes, int], set[tuple[bytes, bytes]]]
    ) -> None:
        now = verdicts(*case)
        scope = scope_of(now, SCHEMA, listed(now, SCHEMA, ()))
        assert scope == everything(now)
        assert make_plan(now, SCHEMA, left_out=scope.left_out) == make_plan(now, SCHEMA)

    def test_one_that_is_left_out_still_guards(self) -> None:
        now = verdicts({b"a": 0, b"b": 0}, [(b"a", b"b")])
        plan = make_plan(now, SCHEMA, left_out={1})
        (batch,) = plan.batches
        assert batch.guard_ids == [b"a", b"b"]
        assert (plan.lot.ids, list(plan.last.ids)) == ([], [b"a"])

    @pytest.mark.parametrize(("clustered", "covered"), [(True, True), (False, False)])
    def test_no_heartbeat_of_those_left_out_waits(self, clustered: bool, covered: bool) -> None:
        now = verdicts({b"a": 3, b"b": 3})
        plan = make_plan(now, SCHEMA, clustered=clustered, covered=covered, left_out={0})
        assert (list(plan.lot.ids), list(plan.last.ids)) == ([b"b"], [b"b"])
        assert plan.counts["ack"] == 3

    def test_what_became_of_each(self) -> None:
        before = verdicts(
            {b"alive": 1, b"changed": 1, b"expired": 1, b"same": 2},
            orphans={b"lost": [ack(b"lost", 0)], b"back": [ack(b"back", 0)], b"more": []},
        )
        now = verdicts(
            {b"back": 1, b"changed": 2, b"new": 1, b"same": 1},
            orphans={
                b"lost": [ack(b"lost", 0)],
                b"expired": [ack(b"expired", 0)],
                b"more": [ack(b"more", 0)],
            },
        )
        planned = listed(before, SCHEMA, [b"lost", b"back", b"more"])
        scope = scope_of(now, SCHEMA, planned)
        assert scope.orphans == {b"lost"}
        assert [now.stale.ids[place] for place in sorted(scope.left_out)] == [
            b"back",
            b"changed",
            b"new",
        ]
        assert scope.changed == (b"changed", b"more")
        assert scope.gone_or_alive == 3  # alive, back, expired

    def test_is_listed_in_the_order_of_ids(self) -> None:
        now = verdicts({b"a": 1, b"c": 0}, orphans={b"b": [ack(b"b", 1)], b"d": [ack(b"d", 1)]})
        found = list(listed(now, SCHEMA, [b"d", b"b"]))
        assert [(one.coordinator_id, one.kind.value, one.age_ms) for one in found] == [
            (b"a", "stale", 700_000),
            (b"b", "orphaned", None),
            (b"c", "stale", 700_000),
            (b"d", "orphaned", None),
        ]
        assert found[0].keys["ack"] == [ack(b"a", 0)]


class TestWholeAndSpread:
    def test_small_coordinators_share_batches_and_none_is_torn(self) -> None:
        acks = {b"c%d" % number: number % 7 for number in range(3_000)}
        data = verdicts(acks)
        plan = make_plan(data, SCHEMA)
        assert {batch.wave for batch in batches_of(plan)} == {0}
        largest = 1 + 6  # a batch ends before the first that does not fit
        assert len(batches_of(plan)) <= plan.size // (KEYS_PER_BATCH - largest) + 1
        place = places(plan)
        for name, count in acks.items():
            assert {place[ack(name, number)] for number in range(count)} <= {place[heartbeat(name)]}

    @pytest.mark.parametrize(
        ("count", "waves"), [(KEYS_PER_BATCH - 1, [0]), (KEYS_PER_BATCH, [0, 1])]
    )
    def test_one_with_more_keys_than_a_batch_is_spread(self, count: int, waves: list[int]) -> None:
        plan = make_plan(verdicts({b"large": count}), SCHEMA)
        assert sorted({batch.wave for batch in batches_of(plan)}) == waves
        if waves == [0, 1]:
            *others, last = batches_of(plan)
            assert keys_of(last) == [heartbeat(b"large")]
            assert all(batch.own_heartbeats == 0 for batch in others)

    def test_one_with_long_names_is_spread(self) -> None:
        name = b"n" * 10_000
        count = BYTES_PER_BATCH // len(name) + 1
        plan = make_plan(verdicts({name: count}), SCHEMA)
        assert batches_of(plan)[-1].wave == 1
        for batch in batches_of(plan):
            assert sum(map(len, keys_of(batch))) < BYTES_PER_BATCH + 2 * len(ack(name, 40))

    def test_coordinators_that_share_a_key_are_not_deleted_before_it(self) -> None:
        """The one that owns it is spread; the other's heartbeat is watched."""
        plan = make_plan(verdicts({b"a": 1, b"b": 1}, [(b"a", b"b")]), SCHEMA)
        with_record = next(b for b in batches_of(plan) if record(b"a", b"b") in keys_of(b))
        assert set(with_record.guard_ids) == {b"a", b"b"}
        assert with_record.own_heartbeats == 0

    def test_nothing_stale_nothing_planned(self) -> None:
        plan = make_plan(verdicts({}), SCHEMA)
        assert batches_of(plan) == []
        assert set(plan.counts.values()) == {0}


class TestHoldBack:
    @given(
        st.sets(st.binary(min_size=1, max_size=3), max_size=8),
        st.frozensets(st.binary(min_size=1, max_size=3)),
    )
    def test_a_heartbeat_stays_if_something_of_its_coordinator_is_left(
        self, ids: set[bytes], unsettled: frozenset[bytes]
    ) -> None:
        large = dict.fromkeys(ids, KEYS_PER_BATCH)
        plan = make_plan(verdicts(large), SCHEMA)
        go, stay = hold_back(plan.last, unsettled)
        assert sorted(go.ids) == sorted(ids - unsettled)
        assert sorted(stay.ids) == sorted(ids & unsettled)
        for lot in (go, stay):
            for batch in lot.batches(lambda _: 2):
                assert batch.own_heartbeats == len(batch.guard_ids) == batch.size <= 2
                assert batch.wave == 1
                assert list(batch.expected) == list(map(value_of, batch.guard_ids))


class TestOrphans:
    def test_are_guarded_by_the_absence_of_every_id_that_a_key_could_name(self) -> None:
        key = b"blocking:ack:a:b:s1"
        plan = make_plan(
            verdicts({}, orphans={b"a": [key]}), SCHEMA, orphans=[b"a"], orphan_grace_s=5
        )
        (batch,) = batches_of(plan)
        assert set(batch.expected) == {ABSENT}
        assert batch.guard_ids == [b"a", b"a:b"]
        assert (batch.own_heartbeats, batch.min_idle_s, batch.is_of_orphans) == (0, 5, True)
        assert (plan.orphans, plan.min_idle_s) == (frozenset([b"a"]), 5)

    def test_are_planned_only_if_they_are_asked_for(self) -> None:
        data = verdicts({}, orphans={b"a": [ack(b"a", 1)], b"b": [ack(b"b", 1)]})
        assert batches_of(make_plan(data, SCHEMA)) == []
        plan = make_plan(data, SCHEMA, orphans=[b"b"], orphan_grace_s=5)
        assert [key for batch in batches_of(plan) for key in keys_of(batch)] == [ack(b"b", 1)]

    def test_keep_their_keys_together_where_a_batch_holds_them(self) -> None:
        orphans = {b"o%d" % n: [ack(b"o%d" % n, i) for i in range(300)] for n in range(10)}
        plan = make_plan(verdicts({}, orphans=orphans), SCHEMA, orphans=orphans, orphan_grace_s=5)
        place = places(plan)
        assert len(batches_of(plan)) > 1
        for keys in orphans.values():
            assert len({place[key] for key in keys}) == 1

    def test_are_left_out_if_a_key_could_name_more_ids_than_can_be_checked(self) -> None:
        def key(segments: int) -> bytes:
            return b"blocking:ack:" + b":".join([b"s"] * segments) + b":end"

        most = {b"s": [key(MOST_NAMED)]}
        plan = make_plan(verdicts({}, orphans=most), SCHEMA, orphans=most, orphan_grace_s=5)
        assert plan.orphans == {b"s"}
        more = {b"s": [key(1), key(MOST_NAMED + 1)]}
        plan = make_plan(verdicts({}, orphans=more), SCHEMA, orphans=more, orphan_grace_s=5)
        assert (batches_of(plan), plan.orphans) == ([], frozenset())

    def test_come_after_the_stale_and_are_not_mixed_with_them(self) -> None:
        data = verdicts({b"dead": 2}, orphans={b"a": [ack(b"a", 1)]})
        plan = make_plan(data, SCHEMA, orphans=[b"a"], orphan_grace_s=5)
        assert [batch.is_of_orphans for batch in batches_of(plan)] == [False, True]


class TestCutting:
    """A lot can be cut into calls of any size between two coordinators."""

    @given(cases, st.integers(1, 2 * KEYS_PER_BATCH))
    def test_every_size_has_every_key_once_and_tears_nobody(
        self, case: tuple[dict[bytes, int], set[tuple[bytes, bytes]]], keys: int
    ) -> None:
        plan = make_plan(verdicts(*case), SCHEMA)
        lot = list(plan.lot.batches(lambda _: keys))
        assert [name for batch in lot for name in batch.guard_ids] == list(plan.lot.ids)
        for batch in lot:
            assert batch.own_heartbeats == len(batch.guard_ids)
            assert batch.size <= keys or batch.own_heartbeats == 1
        whole = Counter(key for batch in batches_of(plan) for key in keys_of(batch))
        assert Counter(key for batch in batches_of(plan, keys) for key in keys_of(batch)) == whole

    def test_the_size_is_asked_for_each_batch(self) -> None:
        lot = make_plan(verdicts({b"c%02d" % n: 1 for n in range(10)}), SCHEMA).lot
        sizes = iter([2, 6, 4, 100])
        assert [batch.size for batch in lot.batches(lambda _: next(sizes))] == [2, 6, 4, 8]

    @given(cases, st.integers(1, 300))
    def test_parts_are_cut_like_the_whole(
        self, case: tuple[dict[bytes, int], set[tuple[bytes, bytes]]], keys: int
    ) -> None:
        lot = make_plan(verdicts(*case), SCHEMA).lot
        of_parts = [
            batch for part in lot.parts(keys) for batch in part.batches(lambda _: KEYS_PER_BATCH)
        ]
        assert Counter(key for batch in of_parts for key in keys_of(batch)) == Counter(
            key for batch in lot.batches(lambda _: 1) for key in keys_of(batch)
        )
        for batch in of_parts:
            assert batch.size <= keys or batch.own_heartbeats == 1

    def test_batches_of_a_slot_are_cut_at_its_end(self) -> None:
        lot = Lot([b"a", b"b", b"c"], [b"v"] * 3, [Owned([])], slots=[5, 5, 7])
        batches = list(lot.batches(lambda _: 100))
        assert [(batch.guard_ids, batch.slot) for batch in batches] == [
            ([b"a", b"b"], 5),
            ([b"c"], 7),
        ]

    def test_long_names_make_small_batches(self) -> None:
        names = {b"%d" % n + b"n" * 10_000: 1 for n in range(200)}
        lot = make_plan(verdicts(names), SCHEMA).lot
        batches = list(lot.batches(lambda _: KEYS_PER_BATCH))
        assert sum(len(batch.guard_ids) for batch in batches) == len(names)
        assert all(batch.length <= BYTES_PER_BATCH for batch in batches)

    def test_a_large_coordinators_keys_come_in_pieces_as_small_as_asked(self) -> None:
        plan = make_plan(verdicts({b"large": 2_500}), SCHEMA)
        pieces = [piece for batch in plan.batches for piece in batch.pieces(40)]
        assert max(piece.size for piece in pieces) == 40
        assert sum(piece.size for piece in pieces) == 2_500
        assert {tuple(piece.guard_ids) for piece in pieces} == {(b"large",)}

    def test_a_piece_has_no_fewer_keys_than_guards(self) -> None:
        names = [b"%03d" % n for n in range(90)]
        batch = Batch(names, 0, names, [[], [ack(name, 1) for name in names], [], []])
        assert [piece.size for piece in batch.pieces(10)] == [90]

    def test_names_of_exact_families_are_made_late_even_if_somebody_is_spread(self) -> None:
        ids = [b"a", b"b", b"c"]
        data = verdicts(dict.fromkeys(ids, 0), [(b"a", b"b")])
        data.owned[FAMILIES.index("signal")] = Owned([0, 1, 2], prefix=b"blocking:signal:")
        plan = make_plan(data, SCHEMA)
        assert list(plan.lot.ids) == [b"b", b"c"]
        signals = plan.lot.owned[FAMILIES.index("signal")]
        assert (signals.owners, signals.keys) == ([0, 1], [])
        assert {key for batch in batches_of(plan) for key in keys_of(batch)} >= {
            b"blocking:signal:a",
            b"blocking:signal:b",
            b"blocking:signal:c",
        }

    def test_one_with_a_key_in_each_of_very_many_families_is_spread(self) -> None:
        schema = Schema(
            SCHEMA.heartbeat,
            tuple((f"f{n}", parse(f"f{n}:{{id}}")) for n in range(KEYS_PER_BATCH + 1)),
        )
        data = Verdicts(
            stale=Stale([b"a"], [b"v"], [1], {b"a": 0}),
            owned=[Owned([0], prefix=pattern.prefix) for _, pattern in schema.owned],
            orphans=[{} for _ in schema.owned],
        )
        assert list(make_plan(data, schema).last.ids) == [b"a"]

    def test_what_has_to_go_together_is_not_cut(self) -> None:
        with_heartbeat = Batch([b"a"], 1, [b"v"], [[ack(b"a", n) for n in range(9)], [], [], []])
        of_orphan = Batch([b"a"], 0, [ABSENT], with_heartbeat.keys, min_idle_s=5)
        for batch in (with_heartbeat, of_orphan):
            assert list(batch.pieces(2)) == [batch]
