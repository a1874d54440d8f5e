"""What a worker makes of the job's words: when it goes on, and what it never begins."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cleanup_job import remote
from cleanup_job.model import Pulse
from cleanup_job.remote import IDENTITY, NotBegun, Order, Raised, Revoked, Word, carry_out, hear
from cleanup_job.shelf import Left, just


def stopping(task: Any, values: Iterator[Any], pulse: Pulse) -> Left:
    return just(pulse.stopping())


def add_up(task: Any, values: Iterator[Any], pulse: Pulse) -> Left:
    return Left(lambda: "told", [sum(values)])


def fail(task: Any, values: Iterator[Any], pulse: Pulse) -> Left:
    raise ZeroDivisionError


@pytest.fixture
def run_id() -> Iterator[str]:
    run_id = secrets.token_hex(4)
    yield run_id
    hear(Word(run_id, time.monotonic(), is_last=True))
    assert run_id not in remote._stations


def order(run_id: str, number: int, stage: Any = stopping, **more: Any) -> Order:
    word = Word(run_id, -math.inf)  # the oldest of all, so that it says nothing new
    return Order(run_id, more.pop("identity", IDENTITY), number, word, stage, None, **more)


def told(run_id: str, number: int, stage: Any = stopping) -> Any:
    return carry_out(order(run_id, number, stage)).told


def test_goes_on_for_as_long_as_words_come(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    hear(Word(run_id, now, silence_s=8))
    assert told(run_id, 1) is False
    monkeypatch.setattr(remote.time, "monotonic", lambda: now + 8.5)
    assert told(run_id, 2) is True
    hear(Word(run_id, now + 8.4, silence_s=8))
    assert told(run_id, 3) is False


def test_ends_with_the_lease(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    hear(Word(run_id, now, holds_until_s=now + 3, silence_s=8))
    assert told(run_id, 1) is False
    monkeypatch.setattr(remote.time, "monotonic", lambda: now + 3.5)
    hear(Word(run_id, now + 3.5, holds_until_s=now + 3, silence_s=8))
    assert told(run_id, 2) is True


def test_the_jobs_clock_is_another(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quickest word tells how they differ; one that was held up proves nothing."""
    ahead = 1_000_000.0
    now = time.monotonic()
    hear(Word(run_id, now - ahead, holds_until_s=now - ahead + 3, silence_s=8))
    monkeypatch.setattr(remote.time, "monotonic", lambda: now + 20)
    hear(Word(run_id, now - ahead + 1, holds_until_s=now - ahead + 60, silence_s=8))
    assert told(run_id, 1) is True


def test_what_is_revoked_never_begins(run_id: str) -> None:
    hear(Word(run_id, time.monotonic()))
    assert told(run_id, 1) is False
    answer = hear(Word(run_id, time.monotonic(), revoked=frozenset({1, 2})))
    assert answer.refused == {2}
    assert told(run_id, 2) == Revoked()


def test_nothing_begins_twice_or_elsewhere(run_id: str) -> None:
    assert told(run_id, 1) == NotBegun()
    hear(Word(run_id, time.monotonic()))
    assert told(run_id, 1) is False
    assert told(run_id, 1) == NotBegun()
    assert carry_out(order(run_id, 2, identity="another")).told == NotBegun()


def test_what_was_lost_is_not_made_again(run_id: str) -> None:
    """Dask would try: no step of that may fail, or have an effect."""
    hear(Word(run_id, time.monotonic()))
    lost = carry_out(order(run_id, 1, identity="another"))
    value = remote.value_of(lost, 0)
    assert value == NotBegun()
    for result, pick in ((value, None), (lost, 0), (remote.same(lost), 0)):
        made = carry_out(order(run_id, 2, add_up, picks=(pick,)), result)
        assert made.told == NotBegun()
    made = carry_out(order(run_id, 2, add_up, picks=(None,)), 5)
    assert (made.told, made.values) == ("told", [5])


def test_a_word_after_the_last_one(run_id: str) -> None:
    hear(Word(run_id, time.monotonic()))
    hear(Word(run_id, time.monotonic(), is_last=True))
    hear(Word(run_id, time.monotonic()))
    assert told(run_id, 1) == NotBegun()


def test_a_run_that_fell_silent_is_forgotten(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FORGET_S", 0.01)
    hear(Word(run_id, time.monotonic(), silence_s=0.1))
    station = remote._stations[run_id]
    assert station.over.wait(10)
    assert run_id not in remote._stations


def test_what_a_stage_raises_is_told(run_id: str) -> None:
    hear(Word(run_id, time.monotonic()))
    raised = told(run_id, 1, fail)
    assert isinstance(raised, Raised)
    assert isinstance(raised.error, ZeroDivisionError)
    assert "in fail" in raised.error.__notes__[0]
