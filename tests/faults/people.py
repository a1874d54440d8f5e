"""The coordinators of a scenario: drawn by a seed, written, changed meanwhile, and judged.

What must be left is not known from what the tool says, but from the slow and obvious model of
the promises that the tests of generated keyspaces use.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import redis

from tests.keys import STALE_MS, beat, heartbeat_key, now_ms
from tests.server.test_promises import Keyspace, expected_left, readings

OLD_S = 10_000
"""How long an orphan was untouched."""

GRACE_S = 600

ClientOf = Callable[[bytes], redis.Redis]
"""Whose server has a key."""


@dataclass
class People:
    """Who is there, and what is theirs.

    Attributes:
        states: by id, of those that have a heartbeat: as `Keyspace` names them.
        owned: all other keys.
        young: of orphans, those that were touched lately.
        purges_orphans: the run is to purge the old ones.
    """

    states: dict[bytes, str]
    owned: list[bytes]
    young: frozenset[bytes]
    purges_orphans: bool
    lasting: frozenset[bytes] = frozenset()
    changed: set[bytes] = field(default_factory=set)

    def ids(self, state: str) -> list[bytes]:
        return sorted(name for name, its in self.states.items() if its == state)

    def everything(self) -> set[bytes]:
        """All keys that were written."""
        return {*map(heartbeat_key, self.states), *self.owned}

    def to_be_left(self, keys: set[bytes] | None = None) -> set[bytes]:
        """What the promises leave, of all keys or of those that are there by now."""
        states = self.states
        owned = self.owned
        if keys is not None:
            states = {name: its for name, its in states.items() if heartbeat_key(name) in keys}
            owned = [key for key in owned if key in keys]
        space = Keyspace(states, frozenset(owned), self.young)
        return expected_left(space, purge_orphans=self.purges_orphans)

    def keys_of(self, name: bytes) -> list[bytes]:
        """The keys that were written for it, its heartbeat first."""
        owned = (key for key in self.owned if name in key and name in readings(key))
        return [heartbeat_key(name), *owned]


SHAPES = ["c-{}", "swarm-{}:coordinator-7", "c-{}:x", "{}", "glob*[{}]?", "é{}", "error-{}"]
"""Ids; the third is the first one's with a segment more."""


def draw(rng: random.Random, *, orphans: bool = True, size: int = 220) -> People:
    """A few hundred coordinators, most of them stale."""
    states: dict[bytes, str] = {}
    owned: list[bytes] = []
    weights = {"stale": 70, "live": 20, "unreadable": 2, "future": 2, "hash": 1, "none": 5}
    names: list[bytes] = []
    known: set[bytes] = set()
    for number in range(size):
        name = rng.choice(SHAPES).format(number // 2).encode()
        if name in known:
            continue
        known.add(name)
        names.append(name)
        state = rng.choices([*weights], [*weights.values()])[0]
        if state != "none":
            states[name] = state
        owned += _draw_owned(rng, name, names)
    owned = sorted(set(owned))
    space = Keyspace(states, frozenset(owned))
    old_orphans = expected_left(space, purge_orphans=False) - expected_left(
        space, purge_orphans=True
    )
    young = frozenset(key for key in sorted(old_orphans) if rng.random() < 0.2)
    lasting = frozenset(key for key in owned if rng.random() < 0.1)
    return People(states, owned, young, orphans and rng.random() < 0.5, lasting)


def _draw_owned(rng: random.Random, name: bytes, names: list[bytes]) -> list[bytes]:
    keys = [b"blocking:signal:" + name, b"coordinator:activity:" + name]
    keys += [b"blocking:ack:%b:s%d" % (name, number) for number in range(rng.randrange(4))]
    other = rng.choice(names)
    if rng.random() < 0.5:
        keys.append(b"blocking:idempotency:%b:%b:completion:1:17" % (name, other))
    if rng.random() < 0.3:
        keys.append(b"blocking:idempotency:op:" + name)
    return [key for key in keys if rng.random() < 0.9]


def write(
    people: People, clients: Mapping[int, redis.Redis], place: Callable[[bytes], int]
) -> None:
    """Put them on empty servers.

    Args:
        people: who.
        clients: of the servers, by place.
        place: which of them has a key.
    """
    first = clients[0]
    now = now_ms(first)
    template = next(key for n in itertools.count() if not place(key := b"template-%d" % n))
    first.set(template, "no small number: those may share one idle time")
    payload = first.dump(template)
    first.delete(template)
    pipelines = {number: client.pipeline(transaction=False) for number, client in clients.items()}
    for name, state in people.states.items():
        key = heartbeat_key(name)
        pipeline = pipelines[place(key)]
        if state == "hash":
            pipeline.hset(key, "timestamp", str(now - STALE_MS))
        else:
            pipeline.set(key, value_of(state, now))
    idle = set(people.owned) - people.young
    for number, key in enumerate(people.owned):
        pipeline = pipelines[place(key)]
        if number % 7 == 3 and key in idle and not people.purges_orphans:
            pipeline.rpush(key, "a", "b")
        elif key in idle:
            # EXPIRE would touch it.
            lasts_ms = 86_400_000 if key in people.lasting else 0
            pipeline.restore(key, lasts_ms, payload, idletime=OLD_S)
        else:
            pipeline.set(key, b"value of " + key)
    for pipeline in pipelines.values():
        pipeline.execute()


def value_of(state: str, now: int) -> str:
    return {
        "live": beat(now - 1000),
        "stale": beat(now - STALE_MS, field="lastHeartbeat"),
        "unreadable": "?",
        "future": beat(now + 3_600_000),
    }[state]


def all_keys(clients: Iterable[redis.Redis]) -> set[bytes]:
    """All keys of all servers. SCAN leaves idle times alone."""
    return {key for client in clients for key in client.scan_iter(count=2000)}


def dumps(
    keys: Iterable[bytes], clients: Mapping[int, redis.Redis], place: Callable[[bytes], int]
) -> dict[bytes, bytes | None]:
    """What they hold, byte for byte; None for those that are not there."""
    by_place: dict[int, list[bytes]] = {}
    for key in keys:
        by_place.setdefault(place(key), []).append(key)
    found: dict[bytes, bytes | None] = {}
    for number, some in by_place.items():
        pipeline = clients[number].pipeline(transaction=False)
        for key in some:
            pipeline.dump(key)
        found.update(zip(some, pipeline.execute(), strict=True))
    return found
