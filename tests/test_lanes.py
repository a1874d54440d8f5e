"""Lanes cut on the way: every key is found, few twice, and no more is in flight than may be."""

from __future__ import annotations

import bisect
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanup_job import survey
from cleanup_job.config import Config
from cleanup_job.cursors import Order, cursor_at, cut_by_weight, cut_evenly, end_of, place_of
from cleanup_job.keyspace import SLOTS
from cleanup_job.model import Endpoint, Partition, SurveyTask
from cleanup_job.purge import _Unwatched

WORK_S = 0.0005


class FarServer:
    """Both ends of a connection with a server on the other side of a long way, and their clock.

    It walks keys at given places of the line.
    """

    def __init__(self, order: Order, places: list[int], latency_s: float) -> None:
        self.order = order
        self.places = places
        self.latency_s = latency_s
        self.now_s = 0.0
        self.free_at_s = 0.0
        self.endpoint = Endpoint()
        self.timings: dict[str, list[float]] = {}
        self.last_s: float | None = None
        self.apart_s = self.queued_s = 0.0
        self.most = self.calls = 0
        self._in_flight: deque[tuple[float, float, Any, Callable[[Any], None]]] = deque()

    def __len__(self) -> int:
        return len(self._in_flight)

    def measure_latency(self) -> None:
        pass

    def can_receive(self, timeout_s: float) -> bool:
        due_s = self._in_flight[0][1]
        if due_s <= self.now_s + timeout_s:
            return True
        self.now_s += timeout_s
        return False

    def send(self, *words: Any, then: Callable[[Any], None]) -> None:
        assert words[0] == "SCAN"
        place = place_of(self.order, int(words[1]))
        first = bisect.bisect_left(self.places, place)
        after = first + int(words[5])
        keys = [b"blocking:signal:%d" % number for number in range(len(self.places))[first:after]]
        cursor = cursor_at(self.order, self.places[after]) if after < len(self.places) else 0
        self.free_at_s = max(self.free_at_s, self.now_s + self.latency_s / 2) + WORK_S
        due_s = self.free_at_s + self.latency_s / 2
        self._in_flight.append((self.now_s, due_s, [b"%d" % cursor, keys], then))
        self.calls += 1
        self.most = max(self.most, len(self))

    def receive(self) -> None:
        sent_at_s, due_s, reply, then = self._in_flight.popleft()
        before_s, self.now_s = self.now_s, max(self.now_s, due_s)
        self.queued_s = self.now_s - sent_at_s - self.latency_s
        self.apart_s = self.last_s = self.now_s - max(before_s, sent_at_s + self.latency_s)
        then(reply)


class Progress(_Unwatched):
    keys = 0

    def advance(self, keys: int) -> None:
        self.keys += keys


def walk(
    monkeypatch: pytest.MonkeyPatch, server: FarServer, borders: list[int], keys: int
) -> tuple[survey._Walk, int]:
    lanes = ((borders[0], borders[1]), (borders[1], borders[2]))
    partition = Partition("here", server.order, lanes, keys)
    config = Config()
    task = SurveyTask(server.endpoint, partition, config.schema(), config.rule())
    pulse = Progress()
    with monkeypatch.context() as patched:
        patched.setattr(survey, "perf_counter", lambda: server.now_s)
        found = survey._Walk(task, server, pulse)  # type: ignore[arg-type]
        found.run()
    return found, pulse.keys


def keys_of(found: survey._Walk) -> list[bytes]:
    return [key for runs in found.owned for run in runs for key in run]


@pytest.fixture(scope="module")
def patches() -> Any:
    with pytest.MonkeyPatch.context() as patches:
        yield patches


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1 << 32),
    count=st.integers(0, 12_000),
    latency_s=st.sampled_from([0.0001, 0.02, 0.08, 0.5]),
    guessed=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
    heavy=st.booleans(),
    by_slots=st.booleans(),
)
def test_every_key_is_found_whatever_was_guessed(
    patches: pytest.MonkeyPatch,
    seed: int,
    count: int,
    latency_s: float,
    guessed: float,
    heavy: bool,
    by_slots: bool,
) -> None:
    chance = random.Random(seed)
    order = Order.SLOTS if by_slots else Order.REVERSED
    end = end_of(order)
    # Heavy: all in a small part of the line, as keys of one slot are.
    share = end // SLOTS if heavy else end
    start = chance.randrange(SLOTS) * share if heavy else 0
    # A cursor within a slot leaves out the last bits of a place.
    places = sorted({start + chance.randrange(share) >> 32 << 32 for _ in range(count)} - {0})
    borders = cut_by_weight([1] * SLOTS, 2) if by_slots else cut_evenly(2)
    server = FarServer(order, places, latency_s)
    guess = int(len(places) * guessed)
    found, progress = walk(patches, server, borders, guess)
    assert set(keys_of(found)) == {b"blocking:signal:%d" % n for n in range(len(places))}
    assert server.most <= survey.MOST_IN_FLIGHT
    assert progress <= guess
    if guessed == 1.0 and not heavy:
        assert found.scanned <= 1.15 * len(places) + 2 * survey.PAGE


def test_a_long_way_takes_little_longer(patches: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    places = sorted(chance.randrange(1, end_of(Order.REVERSED)) for _ in range(200_000))
    near, far = (FarServer(Order.REVERSED, places, latency_s) for latency_s in (0.0001, 0.08))
    for server in (near, far):
        found, _ = walk(patches, server, cut_evenly(2), len(places))
        assert len(set(keys_of(found))) == len(places)
    assert near.most <= 2
    # Of the way itself there are the first page's, the last one's, and what it takes to get going.
    assert far.now_s < 1.15 * near.now_s + 3 * 0.08
    assert far.calls < 1.5 * near.calls
