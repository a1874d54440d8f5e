"""Patterns and owners: the rules of the design's table, and properties over generated keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job import keyspace
from cleanup_job.keyspace import (
    Pattern,
    PatternError,
    covering_glob,
    overlap,
    parse,
    slot_of,
    widths_of,
)

SIGNAL = parse("blocking:signal:{id}")
ACK = parse("blocking:ack:{id}:*")
IDEMPOTENCY = parse("blocking:idempotency:*{id}*")

PATTERNS = [
    SIGNAL,
    ACK,
    IDEMPOTENCY,
    parse("{id}:heartbeat"),
    parse("swarm:*:blocking:{id}"),
    parse("coordinator:work:*:{id}:*"),
    parse("a:*{id}*:z"),
    parse("*{id}*:z"),
    parse("blocking:signal:{{id}}"),
    parse("blocking:ack:{{id}}:*"),
    parse("a:*{{id}}*"),
    parse("*:{{id}}:z"),
]

segments = st.lists(st.sampled_from([b"", b"a", b"b", b"z", b"ack", b"x\ny", b"\xff"]), max_size=5)


def keys_near(pattern: Pattern) -> st.SearchStrategy[bytes]:
    """Keys that match the pattern, almost match it, or have nothing to do with it."""
    literal = [token for token in (*pattern.before, *pattern.after) if token is not None]
    odd = [b"", b"a", b"b", b"a\nb", b"\xff\x00", b"{a}", b"{a", b"b}", b"{}"]
    part = st.sampled_from([*odd, *literal])
    rest = st.lists(part, max_size=6).map(b":".join)
    return st.one_of(
        rest,
        rest.map(lambda tail: pattern.prefix + tail),
        rest.map(lambda head: pattern.prefix + head + b":" + b":".join(literal[-1:])),
    )


class TestCandidates:
    def test_exact_pattern_names_one_id_with_all_its_colons(self) -> None:
        assert list(SIGNAL.candidates(b"blocking:signal:a:b")) == [b"a:b"]

    def test_trailing_star_allows_every_proper_prefix(self) -> None:
        assert list(ACK.candidates(b"blocking:ack:a:b:s1")) == [b"a", b"a:b"]

    def test_trailing_star_needs_a_segment(self) -> None:
        assert list(ACK.candidates(b"blocking:ack:a")) == []

    def test_id_anywhere_allows_every_run_of_segments(self) -> None:
        named = list(IDEMPOTENCY.candidates(b"blocking:idempotency:s:r:error"))
        assert named == [b"s", b"s:r", b"s:r:error", b"r", b"r:error", b"error"]

    def test_empty_id_is_never_named(self) -> None:
        assert list(SIGNAL.candidates(b"blocking:signal:")) == []
        assert b"" not in list(IDEMPOTENCY.candidates(b"blocking:idempotency:a::b"))

    def test_prefix_of_an_id_is_not_the_id(self) -> None:
        assert b"test-swarm-1000" not in list(ACK.candidates(b"blocking:ack:test-swarm-10000:s"))


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.text)
class TestProperties:
    @given(st.data())
    def test_select_agrees_with_candidates(self, pattern: Pattern, data: st.DataObject) -> None:
        key = data.draw(keys_near(pattern))
        assert (pattern.select([key]) == [key]) == (next(pattern.candidates(key), None) is not None)

    @given(st.data())
    def test_pick_agrees_with_select(self, pattern: Pattern, data: st.DataObject) -> None:
        keys = sorted(data.draw(st.lists(keys_near(pattern), max_size=8)))
        assert list(pattern.pick(keys)) == pattern.select(keys)

    @given(st.data())
    def test_only_ids_agrees_with_candidates(self, pattern: Pattern, data: st.DataObject) -> None:
        keys = pattern.select(data.draw(st.lists(keys_near(pattern), max_size=5)))
        widths = data.draw(st.sets(st.integers(1, 3), min_size=1))
        only = pattern.only_ids(keys, widths)
        if only is not None:
            for key, name in zip(keys, only, strict=True):
                quick = {name} if len(name.split(b":")) in widths else set()
                assert quick - {b""} == set(pattern.candidates(key, widths))

    @given(st.data())
    def test_reader_agrees_with_candidates(self, pattern: Pattern, data: st.DataObject) -> None:
        keys = pattern.select(data.draw(st.lists(keys_near(pattern), max_size=5)))
        widths = data.draw(st.sets(st.integers(1, 3), min_size=1))
        read = pattern.reader(widths)
        for key in keys:
            quick = {name for name in read(key) if len(name.split(b":")) in widths} - {b""}
            assert quick == set(pattern.candidates(key, widths))

    @given(st.data())
    def test_each_candidate_explains_the_key(self, pattern: Pattern, data: st.DataObject) -> None:
        key = data.draw(keys_near(pattern))
        for name in pattern.candidates(key):
            shown = b"{" + name + b"}" if pattern.tagged else name
            assert b":" + shown + b":" in b":" + key + b":"


class TestIds:
    def test_key_and_id_are_inverse(self) -> None:
        for text in (
            "blocking:heartbeat:{id}",
            "{id}:heartbeat",
            "a:{id}:z",
            "a:{{id}}",
            "{{id}}:z",
        ):
            pattern = parse(text)
            for name in (b"a", b"a:b", b"\n\xff\x00", b""):
                assert pattern.ids([pattern.key_for(name)]) == [name]

    def test_prefix_and_suffix_must_not_share_a_colon(self) -> None:
        assert parse("a:{id}:a").ids([b"a:a"]) == []


class TestOverlap:
    @pytest.mark.parametrize(
        ("one", "other", "meet"),
        [
            ("blocking:signal:{id}", "blocking:ack:{id}:*", False),
            ("blocking:{id}", "blocking:ack:{id}:*", True),
            ("a:{id}", "a:{id}", True),
            ("{id}:a", "b:{id}", True),
            ("{id}:a", "{id}:b", False),
            ("a:*:b:{id}", "a:{id}", True),
            ("a:{id}:x", "a:{id}:*:y", False),
            ("a:*{id}*:x", "a:{id}:x", True),
        ],
    )
    def test_cases(self, one: str, other: str, meet: bool) -> None:
        assert overlap(parse(one), parse(other)) is meet
        assert overlap(parse(other), parse(one)) is meet

    @given(st.sampled_from(PATTERNS), st.sampled_from(PATTERNS), st.data())
    def test_no_key_matches_two_patterns_that_do_not_overlap(
        self, one: Pattern, other: Pattern, data: st.DataObject
    ) -> None:
        key = data.draw(keys_near(one))
        if one.select([key]) and other.select([key]):
            assert overlap(one, other)


class TestParse:
    @pytest.mark.parametrize(
        "text", ["", "a", "a:*", "{id}:{id}", "{id}", "*:{id}", "a:x{id}", "a:{id}:b*", "a:{ID}"]
    )
    def test_refuses_what_has_no_clear_meaning(self, text: str) -> None:
        with pytest.raises(PatternError):
            parse(text)


class TestCoveringGlob:
    def test_merges_prefixes_into_classes(self) -> None:
        glob = covering_glob([parse("blocking:{id}"), parse("coordinator:{id}")])
        assert glob == b"[bc][lo]o[cr][dk]in[ag][:t]*"

    def test_pattern_without_prefix_covers_everything(self) -> None:
        assert covering_glob([SIGNAL, parse("{id}:x")]) == b"*"

    def test_glob_characters_in_prefixes_are_taken_literally(self) -> None:
        assert covering_glob([parse("a[b?:{id}")]) == b"a\\[b\\?:*"


@given(st.lists(segments.map(b":".join), max_size=4))
def test_widths_count_segments(names: list[bytes]) -> None:
    assert widths_of(names) == {len(name.split(keyspace.SEPARATOR)) for name in names}


class TestSlots:
    """Against CLUSTER KEYSLOT of real nodes: tests/server/test_cluster.py."""

    def test_the_specification_s_example(self) -> None:
        assert slot_of(b"123456789") == 0x31C3

    def test_a_tag_decides_alone(self) -> None:
        assert slot_of(b"blocking:ack:{a:b}:s1") == slot_of(b"a:b") == slot_of(b"x{a:b}{c}")

    def test_an_empty_or_open_tag_is_none(self) -> None:
        assert slot_of(b"{}x") != slot_of(b"x")
        assert slot_of(b"a{b") != slot_of(b"b")
