"""A live population, and a model that knows who was alive when.

Each coordinator beats a few times per `STALE_AFTER_S`, dies for a while and comes back; while it
lives it writes keys. A beat counts when it was acknowledged. From the time that it carries to the
acknowledgement of the next one is the longest that the server can have held it; so one whose
every such span is shorter than `STALE_AFTER_S` was alive throughout, whatever the network did.

All keys that such a coordinator had when a run began, or wrote during it, must be there when it
has ended. Nothing is promised to the others here: see the fault suite for those that come back.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults.stage import Stage
from tests.keys import heartbeat_key

STALE_AFTER_S = 2

MARGIN_S = 0.1
"""For clocks that are read in milliseconds, and a little more."""

BEAT_S = 0.3

LIVES_S = (3.0, 25.0)

DEAD_S = (1.0, 12.0)
"""Some come back before anybody could call them dead."""

REMEMBERED = 400
"""Beats of each: longer than any run takes."""


@dataclass
class Member:
    """One coordinator.

    Attributes:
        beats: the time that each carries, and when it was acknowledged, in seconds.
        keys: what it has written in this life, and when that was acknowledged.
        turns_at: when it dies, or comes back.
    """

    name: bytes
    lives: bool
    turns_at: float
    beats: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    keys: dict[bytes, tuple[bytes, float]] = field(default_factory=dict)
    has_keys: bool = False
    born_at: float = 0.0

    def lived_throughout(self, began: float, ended: float) -> bool:
        """True if at no instant between the two its heartbeat could be called stale."""
        most_s = STALE_AFTER_S - MARGIN_S
        known = [beat for beat in self.beats if beat[1] <= ended]
        before = [place for place, (_, known_at) in enumerate(known) if known_at <= began]
        if not before:
            return False
        held = known[before[-1] :]
        until = [known_at for _, known_at in held[1:]] + [ended]
        return all(end - at < most_s for (at, _), end in zip(held, until, strict=True))


class World:
    """The population of one topology, kept going by threads of its own."""

    def __init__(self, stage: Stage, rng: random.Random, count: int) -> None:
        self.stage = stage
        self._rng = rng
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._serial = 0
        now = time.time()
        shapes = ("c-{}", "c-{}:x", "swarm-{}:coordinator-1", "{}")
        self.members = {
            name: Member(name, rng.random() < 0.6, now + rng.uniform(*DEAD_S))
            for name in (
                shapes[number % len(shapes)].format(number // 4).encode() for number in range(count)
            )
        }
        self._threads = [threading.Thread(target=self._live, daemon=True)]
        self._threads += [
            threading.Thread(target=self._beat, args=(place,), daemon=True)
            for place in range(len(stage.servers))
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Everybody dies."""
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def expected(self, there: set[bytes], began: float, ended: float) -> dict[bytes, bytes]:
        """What those who lived throughout must have: what was there, and what they wrote since."""
        with self._lock:
            return {
                key: value
                for member in self.members.values()
                if member.lived_throughout(began, ended)
                for key, (value, written_at) in member.keys.items()
                if (key in there and written_at <= began) or began < written_at < ended
            }

    def count_alive(self, began: float, ended: float) -> int:
        with self._lock:
            return sum(m.lived_throughout(began, ended) for m in self.members.values())

    # -- what they do ----------------------------------------------------------------------------

    def _client(self, place: int) -> redis.Redis:
        retry = Retry(NoBackoff(), 0)
        return self.stage.servers[place].client(retry=retry, socket_timeout=3)

    def _beat(self, place: int) -> None:
        client = self._client(place)
        names = [name for name in self.members if self.stage.place(heartbeat_key(name)) == place]
        while not self._ends.wait(BEAT_S):
            at = time.time()
            value = json.dumps({"timestamp": int(at * 1000)})
            living = [name for name in names if self.members[name].lives]
            pipe = client.pipeline(transaction=False)
            for name in living:
                pipe.set(heartbeat_key(name), value)
            try:
                pipe.execute()
            except (redis.RedisError, OSError):
                continue
            known_at = time.time()
            with self._lock:
                for name in living:
                    self.members[name].beats.append((at, known_at))
        client.close()

    def _live(self) -> None:
        clients = {place: self._client(place) for place in range(len(self.stage.servers))}
        while not self._ends.wait(0.1):
            now = time.time()
            for member in self.members.values():
                if now >= member.turns_at:
                    self._turn(member, now)
                beats_since = member.lives and member.beats and member.beats[-1][1] > member.born_at
                if beats_since and not member.has_keys:
                    member.has_keys = all(
                        self._write(clients, member, key) for key in self._first_keys(member)
                    )
                elif beats_since and self._rng.random() < 0.02:
                    self._serial += 1
                    self._write(
                        clients, member, b"blocking:ack:%b:%d" % (member.name, self._serial)
                    )
        for client in clients.values():
            client.close()

    def _turn(self, member: Member, now: float) -> None:
        with self._lock:
            member.lives = not member.lives
            member.turns_at = now + self._rng.uniform(*(LIVES_S if member.lives else DEAD_S))
            if member.lives:
                member.has_keys = False
                member.keys = {}
                member.born_at = now

    def _first_keys(self, member: Member) -> list[bytes]:
        name, other = member.name, self._rng.choice([*self.members])
        return [
            b"blocking:signal:" + name,
            b"coordinator:activity:" + name,
            b"blocking:ack:%b:first" % name,
            b"blocking:idempotency:%b:%b:retry_request:1:2" % (name, other),
        ]

    def _write(self, clients: dict[int, redis.Redis], member: Member, key: bytes) -> bool:
        value = b"written by %b, %d" % (member.name, self._serial)
        try:
            clients[self.stage.place(key)].set(key, value)
        except (redis.RedisError, OSError):
            return False
        with self._lock:
            member.keys[key] = (value, time.time())
        return True
