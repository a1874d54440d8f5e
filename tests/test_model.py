"""Packing, secrets and printable names."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.model import Endpoint, Secret, pack, printable, unpack

names = st.one_of(st.binary(), st.sampled_from([b"", b"\n", b"a\nb", b"m", b"\nm"]))


@given(st.lists(names))
def test_unpack_gives_back_what_was_packed(items: list[bytes]) -> None:
    assert unpack(pack(items)) == items


@given(st.binary())
def test_printable_names_hold_no_control_characters(name: bytes) -> None:
    assert printable(name, limit=1000).isprintable() or not name


def test_long_names_are_cut_and_say_so() -> None:
    assert printable(b"x" * 10_000) == "x" * 120 + "… (10000 bytes)"


def test_no_repr_shows_a_password() -> None:
    endpoint = Endpoint(password=Secret("hush"))
    assert "hush" not in repr(endpoint)
    assert pickle.loads(pickle.dumps(endpoint)).password == "hush"
