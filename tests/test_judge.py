"""Verdicts on heartbeats, and owners of keys, by the design's promises."""

from __future__ import annotations

from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cleanup_job import judge
from cleanup_job.config import Config, Keys
from cleanup_job.cursors import Order
from cleanup_job.judge import (
    EARLIEST_MS,
    LONG,
    Verdicts,
    ages_ms,
    decide,
    fingerprint,
    is_as_judged,
    judge_heartbeat,
)
from cleanup_job.keyspace import Pattern, slot_of
from cleanup_job.model import Findings, Kind, Partition, Rule, Sample, StaleRun, length_of

NOW = 1_760_000_000_000
RULE = Rule(stale_after_ms=600_000, fields=("timestamp", "lastHeartbeat"), unit_ms=1)
SCHEMA = Config().schema()


def kind(value: bytes | str, rule: Rule = RULE) -> Kind:
    value = value if isinstance(value, bytes) else value.encode()
    return judge_heartbeat(value, NOW, rule).kind


class TestAge:
    def test_exactly_stale_after_is_live(self) -> None:
        assert kind(f'{{"timestamp":{NOW - 600_000}}}') is Kind.LIVE

    def test_one_ms_more_is_stale(self) -> None:
        assert kind(f'{{"timestamp":{NOW - 600_001}}}') is Kind.STALE

    def test_the_very_moment_is_live(self) -> None:
        assert kind(f'{{"timestamp":{NOW}}}') is Kind.LIVE

    def test_later_than_now_is_future(self) -> None:
        assert kind(f'{{"timestamp":{NOW + 1}}}') is Kind.FUTURE

    def test_huge_is_future(self) -> None:
        assert kind('{"timestamp":9223372036854775807}') is Kind.FUTURE

    def test_age_is_told(self) -> None:
        assert judge_heartbeat(b'{"timestamp":%d}' % (NOW - 700_000), NOW, RULE).age_ms == 700_000


class TestFields:
    def test_either_field(self) -> None:
        assert kind(f'{{"lastHeartbeat":{NOW - 700_000}}}') is Kind.STALE

    def test_the_latest_of_both_counts(self) -> None:
        value = f'{{"timestamp":{NOW - 700_000},"lastHeartbeat":{NOW - 1000}}}'
        assert kind(value) is Kind.LIVE

    def test_null_is_as_good_as_absent(self) -> None:
        assert kind(f'{{"timestamp":null,"lastHeartbeat":{NOW - 700_000}}}') is Kind.STALE

    def test_an_unusable_field_beside_a_stale_one_keeps(self) -> None:
        # The text may well be the fresh time of a newer writer.
        value = f'{{"timestamp":"2025-10-10","lastHeartbeat":{NOW - 700_000}}}'
        assert kind(value) is Kind.UNREADABLE

    def test_whitespace_does_not_matter(self) -> None:
        assert kind(f'\n {{ "a" : [1, {{}}] ,\t"timestamp" : {NOW - 700_000} }} ') is Kind.STALE

    def test_a_time_inside_another_object_is_not_the_heartbeats(self) -> None:
        assert kind(f'{{"inner":{{"timestamp":{NOW - 700_000}}}}}') is Kind.UNREADABLE

    def test_seconds_where_they_are_configured(self) -> None:
        rule = Rule(600_000, ("t",), 1000)
        assert kind(f'{{"t":{NOW // 1000 - 700}}}', rule) is Kind.STALE
        assert kind(f'{{"t":{NOW / 1000 - 700:.3f}}}', rule) is Kind.STALE

    def test_a_finite_float_is_a_time(self) -> None:
        assert kind(f'{{"timestamp":{NOW - 700_000}.5}}') is Kind.STALE


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"no json",
        b"{",
        b'{"timestamp":1760000000000',
        b"null",
        b"[]",
        b"[1760000000000]",
        b"1760000000000",
        b'"1760000000000"',
        b"true",
        b"{}",
        b'{"timestamp":null}',
        b'{"timestamp":"1750000000000"}',
        b'{"timestamp":true}',
        b'{"timestamp":[]}',
        b'{"timestamp":{}}',
        b'{"timestamp":NaN}',
        b'{"timestamp":Infinity}',
        b'{"timestamp":1e999}',
        b'{"timestamp":-1750000000000}',
        b'{"timestamp":0}',
        b'{"timestamp":1750000000}',
        b'{"timestamp":978307199999}',
        b'{"timestamp":17500000000000000000000000000000' + b"0" * 400 + b"}",
        b'{"Timestamp":1750000000000}',
        b"\xff\xfe\x00",
        b'{"a":' + b"[" * 100_000,
        b"\x00" * 1000,
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_cannot_be_understood_is_kept_with_a_reason(value: bytes) -> None:
    judgement = judge_heartbeat(value, NOW, RULE)
    assert judgement.kind in (Kind.UNREADABLE, Kind.FUTURE)
    assert judgement.reason


@given(st.binary(max_size=200))
def test_no_value_breaks_the_judge(value: bytes) -> None:
    assert judge_heartbeat(value, NOW, RULE).kind in tuple(Kind)


def found(
    live: list[bytes] | None = None,
    stale: list[bytes] | None = None,
    kept: list[bytes] | None = None,
    **owned: list[bytes],
) -> Findings:
    stale = stale or []
    return Findings(
        partition=Partition("n", Order.REVERSED, ((0, 1),), 0),
        scanned=0,
        seconds=0.0,
        attempts=1,
        live=live or [],
        stale=[StaleRun(sorted(stale), [b"v"] * len(stale), [700_000] * len(stale))],
        kept=[Sample(name, Kind.UNREADABLE, "r") for name in kept or []],
        owned=[[sorted(owned.get(name, []))] for name, _ in SCHEMA.owned],
        timings={},
    )


def owner_of(key: bytes, family: str, *findings: Findings) -> tuple[str, bytes] | None:
    """What the key is: ("stale", id), ("orphan", id) or None for kept."""
    verdicts = decide([*findings, found(**{family: [key]})], SCHEMA)
    place = [name for name, _ in SCHEMA.owned].index(family)
    for what, groups in (("stale", of_owners(verdicts)), ("orphan", verdicts.orphans)):
        for name, keys in groups[place].items():
            assert keys == [key]
            return what, name
    return None


def of_owners(verdicts: Verdicts) -> list[dict[bytes, list[bytes]]]:
    """The owned keys by owner, for each family."""
    names = verdicts.stale.ids
    families = []
    for owned in verdicts.owned:
        family: dict[bytes, list[bytes]] = {}
        for key, place in owned.pairs(names):
            family.setdefault(names[place], []).append(key)
        families.append(family)
    return families


class TestOwnership:
    ACK = b"blocking:ack:a:b:s1"
    RECORD = b"blocking:idempotency:sender:receiver:error:3:17"

    def test_a_live_longer_reading_keeps_the_key(self) -> None:
        assert owner_of(self.ACK, "ack", found(stale=[b"a"], live=[b"a:b"])) is None

    def test_a_live_shorter_reading_keeps_the_key(self) -> None:
        assert owner_of(self.ACK, "ack", found(stale=[b"a:b"], live=[b"a"])) is None

    def test_an_unreadable_reading_keeps_the_key(self) -> None:
        assert owner_of(self.ACK, "ack", found(stale=[b"a"], kept=[b"a:b"])) is None

    def test_the_longest_stale_reading_owns(self) -> None:
        verdict = owner_of(self.ACK, "ack", found(stale=[b"a", b"a:b"]))
        assert verdict == ("stale", b"a:b")

    def test_an_unknown_reading_does_not_save(self) -> None:
        assert owner_of(self.ACK, "ack", found(stale=[b"a:b"])) == ("stale", b"a:b")

    def test_no_reading_known_is_an_orphan_of_the_shortest_leading(self) -> None:
        assert owner_of(self.ACK, "ack") == ("orphan", b"a")

    def test_a_dead_sender_and_a_living_receiver_keep_the_record(self) -> None:
        survey = found(stale=[b"sender"], live=[b"receiver"])
        assert owner_of(self.RECORD, "idempotency", survey) is None

    def test_an_id_like_an_idempotency_type_is_a_whole_segment(self) -> None:
        survey = found(stale=[b"error"])
        assert owner_of(self.RECORD, "idempotency", survey) == ("stale", b"error")
        assert owner_of(self.RECORD, "idempotency", found(stale=[b"err"])) == ("orphan", b"sender")

    def test_verdicts_wait_for_all_partitions(self) -> None:
        assert owner_of(self.ACK, "ack", found(stale=[b"a"]), found(live=[b"a:b"])) is None

    def test_a_heartbeat_seen_stale_and_live_is_live(self) -> None:
        verdicts = decide([found(stale=[b"a"]), found(live=[b"a"])], SCHEMA)
        assert verdicts.live == {b"a"}
        assert not verdicts.stale.ids

    def test_a_key_seen_twice_counts_once(self) -> None:
        key = b"blocking:signal:a"
        verdicts = decide([found(stale=[b"a"], signal=[key]), found(signal=[key])], SCHEMA)
        assert of_owners(verdicts)[0] == {b"a": [key]}
        assert verdicts.matched[0] == 1

    def test_empty_heartbeat_id_owns_nothing(self) -> None:
        survey = found(kept=[b""])
        assert owner_of(b"blocking:idempotency:a::b", "idempotency", survey) == ("orphan", b"a")


class TestUncovered:
    """Slots that nobody looked into may hold anybody's heartbeat."""

    KEY = b"blocking:ack:a:b:s1"

    def owner(
        self, uncovered: set[int]
    ) -> tuple[dict[bytes, list[bytes]], dict[bytes, list[bytes]]]:
        verdicts = decide([found(stale=[b"a"], ack=[self.KEY])], SCHEMA, frozenset(uncovered))
        return of_owners(verdicts)[1], verdicts.orphans[1]

    def test_a_reading_there_keeps_the_key(self) -> None:
        assert self.owner({slot_of(b"blocking:heartbeat:a:b")}) == ({}, {})

    def test_the_stale_one_itself_was_seen(self) -> None:
        owned, _ = self.owner({slot_of(b"blocking:heartbeat:a")})
        assert owned == {b"a": [self.KEY]}

    def test_an_orphan_must_have_no_reading_there(self) -> None:
        key = b"blocking:signal:x"
        slot = slot_of(b"blocking:heartbeat:x")
        assert decide([found(signal=[key])], SCHEMA, frozenset({slot})).orphans[0] == {}
        assert decide([found(signal=[key])], SCHEMA, frozenset({slot + 1})).orphans[0]


def test_text_that_is_not_utf_8_is_never_stale() -> None:
    """The decoder skips fields that it does not need without a look at their bytes."""
    assert kind(b'{"x":"\xff","timestamp":%d}' % (NOW - 700_000)) is Kind.UNREADABLE


class TestFingerprint:
    def test_short_values_are_their_own(self) -> None:
        assert fingerprint(b"x" * LONG) == b"x" * LONG

    def test_long_ones_tell_their_length(self) -> None:
        assert length_of(fingerprint(b"x" * 5_000)) == 5_000
        assert length_of(fingerprint(b"x" * 5)) == 5

    @given(st.binary(max_size=2 * LONG))
    def test_a_value_is_as_judged_if_nothing_changed(self, value: bytes) -> None:
        assert is_as_judged(value, fingerprint(value)) is not value.startswith(b"#")
        assert not is_as_judged(value + b"x", fingerprint(value))

    def test_the_text_of_a_fingerprint_is_not_its_value(self) -> None:
        print_ = fingerprint(b"x" * 5_000)
        assert not is_as_judged(print_, print_)


times = st.one_of(
    st.integers(NOW - 800_000, NOW + 1000),
    st.integers(0, 2 * EARLIEST_MS),
    st.sampled_from(["null", '"x"', "1.5", "true", "[]", f"{NOW}0"]),
)
texts = st.one_of(
    st.builds('{{"timestamp":{},"a":1}}'.format, times),
    st.builds('{{"lastHeartbeat": {}}}'.format, times),
    st.builds('{{"timestamp":{},"lastHeartbeat":{}}}'.format, times, times),
    st.sampled_from(
        ["", "{}", "[]", "{", '{"timestamp":'],
    ),
).map(str.encode)
heartbeats = st.one_of(texts, st.none(), st.just(b'{"timestamp":1,"x":"\xff"}'))


@given(st.lists(heartbeats, max_size=4))
def test_many_at_once_are_judged_as_one_by_one(values: list[bytes | None]) -> None:
    ages = ages_ms(values, NOW, RULE)
    if ages is None:
        return
    assert len(ages) == len(values)
    for value, age_ms in zip(values, ages, strict=True):
        assert value is not None
        judged = judge_heartbeat(value, NOW, RULE)
        assert judged.age_ms == age_ms
        assert judged.kind is (Kind.STALE if age_ms > RULE.stale_after_ms else Kind.LIVE)


def test_plain_heartbeats_are_judged_at_once() -> None:
    values = [b'{"timestamp":%d}' % (NOW - 5), b'{"x":"y","lastHeartbeat":%d}' % (NOW - 700_000)]
    assert ages_ms(values, NOW, RULE) == [5, 700_000]
    assert ages_ms(values, NOW // 1000, Rule(600, ("timestamp", "lastHeartbeat"), 1000)) is None


segments = st.sampled_from([b"a", b"b", b"a-b", b"aa", b"1", b"10", b"", b"\xff", b"\n"])
ids_of_any_shape = st.lists(segments, min_size=1, max_size=2).map(b":".join)
cases = st.tuples(
    st.lists(st.lists(ids_of_any_shape, max_size=12), max_size=4),
    st.lists(ids_of_any_shape, max_size=3),
    st.lists(st.lists(ids_of_any_shape, max_size=12), max_size=4),
)


@given(cases, st.integers(1, 3))
def test_ranges_of_any_size_come_to_the_same(
    case: tuple[list[list[bytes]], list[bytes], list[list[bytes]]], size: int
) -> None:
    """Cutting the ids in ranges is for speed only."""
    of_stale, live, of_keys = case
    surveys = [
        found(
            live=live,
            stale=[name for name in names if name],
            signal=[b"blocking:signal:" + name for name in keys if name],
            ack=[b"blocking:ack:%b:%b" % (name, name) for name in keys if name.strip(b":")],
        )
        for names, keys in zip_longest(of_stale, of_keys, fillvalue=[])
    ]
    whole = decide(surveys, SCHEMA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "RANGE", size)
        patch.setattr(judge, "SAMPLES_PER_RANGE", 1)
        in_ranges = decide(surveys, SCHEMA)
    assert in_ranges.stale == whole.stale
    assert (in_ranges.live, in_ranges.matched) == (whole.live, whole.matched)
    assert of_owners(in_ranges) == of_owners(whole)
    for some, all_at_once in zip(in_ranges.orphans, whole.orphans, strict=True):
        assert {name: sorted(keys) for name, keys in some.items()} == {
            name: sorted(keys) for name, keys in all_at_once.items()
        }


TAGGED = Config(
    keys=Keys(
        heartbeat="blocking:heartbeat:{{id}}",
        owned={"signal": "blocking:signal:{{id}}", "ack": "blocking:ack:{{id}}:*"},
    )
).schema()


@given(st.data())
def test_tagged_keys_are_judged_alike_the_quick_way_and_the_slow(data: st.DataObject) -> None:
    ids = st.sampled_from([b"a", b"b", b"a0", b"a:b", b"}", b"{a"])
    signals = data.draw(st.lists(ids.map(b"blocking:signal:{%b}".__mod__)))
    acks = data.draw(st.lists(ids.map(b"blocking:ack:{%b}:s1".__mod__)))
    dead = sorted(data.draw(st.sets(ids)))
    survey = structs.replace(
        found(live=[b"b"], stale=[name for name in dead if name != b"b"]),
        owned=[[sorted(signals)], [sorted(acks)]],
    )
    quick = decide([survey], TAGGED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pattern, "only_ids", lambda *_: None)
        slow = decide([survey], TAGGED)
    assert of_owners(quick) == of_owners(slow)
    assert (quick.orphans, quick.matched) == (slow.orphans, slow.matched)
