"""Slots that move to another server during a run (issue 3, show it 2)."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import redis

from cleanup_job import routes
from cleanup_job.config import Keys
from cleanup_job.embedded import NODE
from cleanup_job.job import Observer
from cleanup_job.keyspace import slot_of
from tests.cluster.test_failover import (
    KEYS_EACH,
    OLD_ORDER,
    STALE,
    Strike,
    assert_finished,
    await_,
    fill,
    keys_of,
)
from tests.conftest import require
from tests.keys import STALE_MS, assert_adds_up, beat, heartbeat_key, owned_keys, sweep
from tests.servers import DEFAULT, ServerCluster, ServerProcess

SLOTS = 1_000
"""So many slots of the first primary go to the second one, and come back."""


@pytest.fixture(scope="module")
def _moving() -> Iterator[dict[str, ServerCluster]]:
    clusters: dict[str, ServerCluster] = {}
    yield clusters
    for cluster in clusters.values():
        cluster.remove()


@pytest.fixture
def moving(request: pytest.FixtureRequest, _moving: dict[str, ServerCluster]) -> ServerCluster:
    """Three primaries, not those of other tests: a slot may be left where it is."""
    name = getattr(request, "param", DEFAULT)
    if name not in (request.config.getoption("--server") or [name]):
        pytest.skip("another server was asked for")
    if name not in _moving:
        require(name)
        _moving[name] = ServerCluster(name)
    return _moving[name]


class Shift:
    """Moves slots between two servers key by key, as redis-cli's reshard does."""

    def __init__(self, source: ServerProcess, target: ServerProcess, *others: ServerProcess):
        self.source, self.target = source.client(), target.client()
        self.others = [node.client() for node in others]
        self.address = ("127.0.0.1", target.port)
        self.source_id, self.target_id = (
            client.execute_command("CLUSTER", "MYID") for client in (self.source, self.target)
        )

    def begin(self, slot: int) -> None:
        setslot(self.target, slot, "IMPORTING", self.source_id)
        setslot(self.source, slot, "MIGRATING", self.target_id)

    def move(self, keys: Iterable[bytes]) -> None:
        keys = list(keys)
        if keys:
            words = ("MIGRATE", *self.address, "", 0, 5_000, "KEYS", *keys)
            assert self.source.execute_command(*words) in (b"OK", b"NOKEY")

    def keys(self, slot: int, count: int = 100) -> list[bytes]:
        return self.source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, count)

    def finish(self, slot: int) -> None:
        while keys := self.keys(slot):
            self.move(keys)
        for client in (self.target, self.source, *self.others):
            setslot(client, slot, "NODE", self.target_id)

    def whole(self, slot: int) -> None:
        self.begin(slot)
        self.finish(slot)


def setslot(client: redis.Redis, slot: int, *words: Any) -> None:
    client.execute_command("CLUSTER", "SETSLOT", slot, *words)


class Mover(threading.Thread):
    """Has slots go from the first primary to the second one and back."""

    def __init__(self, cluster: ServerCluster, first_slot: int) -> None:
        super().__init__()
        a, b, c = cluster.primaries
        self.ways = [Shift(a, b, c), Shift(b, a, c)]
        self.slots = range(first_slot, first_slot + SLOTS)
        self.moved = 0
        self.problem: Exception | None = None

    def run(self) -> None:
        try:
            for way in self.ways:
                for slot in self.slots:
                    way.whole(slot)
                    self.moved += 1
        except redis.RedisError as error:
            self.problem = error


class Alongside(Observer):
    """Has a phase go on only as slots move, so that each slot moves somewhere in its middle."""

    def __init__(self, phase: str, mover: Mover) -> None:
        self.phase, self.mover = phase, mover
        self.done = self.keys = 0
        self.moved_within = 0

    def began(self, phase: str, keys: int) -> None:
        self.keys = keys if phase == self.phase else 0
        if self.keys:
            self.mover.start()

    def advanced(self, keys: int) -> None:
        if not self.keys:
            return
        self.done += keys
        wanted = min(1.0, self.done / self.keys) * 2 * SLOTS
        await_(lambda: self.mover.moved >= wanted or not self.mover.is_alive(), 30)

    def ended(self) -> None:
        if self.keys:
            self.moved_within = self.mover.moved
        self.keys = 0


RUNS = [(DEFAULT, 0), *((OLD_ORDER, seed) for seed in range(1, 3))]
"""Most of them where a SETSLOT is fast: Valkey 9 writes its nodes.conf to the disk each time."""


@pytest.mark.parametrize(("moving", "seed"), RUNS, indirect=["moving"])
@pytest.mark.parametrize("phase", ["survey", "purge"])
@pytest.mark.timeout(120)
def test_resharding_back_and_forth(moving: ServerCluster, phase: str, seed: int) -> None:
    live = fill(moving)
    mover = Mover(moving, first_slot=seed * 800)
    observer = Alongside(phase, mover)
    report = sweep(moving, workers=1 + seed % 2, observer=observer)
    mover.join(60)

    assert mover.problem is None
    assert observer.moved_within > SLOTS, "too few moved: this test showed nothing"
    assert report.keys.planned == STALE * KEYS_EACH
    assert report.keys.gone == report.keys.unknown == 0
    if phase == "survey":
        assert "walked_again" in [warning.code for warning in report.warnings]
    else:
        # What was deleted is deleted, wherever it was; nobody else took it.
        assert (report.status, report.keys.deleted) == ("complete", STALE * KEYS_EACH)
    assert_finished(moving, report, live)


# -- slots that are half here and half there ---------------------------------------------------


def by_slot(keys: Iterable[bytes]) -> dict[int, list[bytes]]:
    slots: dict[int, list[bytes]] = defaultdict(list)
    for key in keys:
        slots[slot_of(key)].append(key)
    return slots


class Halves:
    """Some slots of which every other key went to the second primary."""

    def __init__(self, cluster: ServerCluster, keys: Iterable[bytes]) -> None:
        a, b, c = cluster.primaries
        self.shift = Shift(a, b, c)
        self.back = Shift(b, a, c)
        self.slots = by_slot(keys)

    def make(self) -> None:
        for slot, keys in self.slots.items():
            self.shift.begin(slot)
            self.shift.move(sorted(keys)[::2])

    def finish(self) -> None:
        for slot in self.slots:
            self.shift.finish(slot)

    def undo(self) -> None:
        """Bring everything home, so that the next test finds the cluster as it was."""
        self.finish()
        # A server that takes slots over while it has not heard of the last takeover may have to
        # give them up again.
        time.sleep(0.3)
        for slot in self.slots:
            self.back.whole(slot)


def keys_on(node: ServerProcess, slots: range) -> list[bytes]:
    return [key for key in node.client().scan_iter(count=1000) if slot_of(key) in slots]


@pytest.fixture
def halves(moving: ServerCluster) -> Iterator[Callable[[Iterable[bytes]], Halves]]:
    """Makes `Halves` of the slots of these keys; they are whole again after the test."""
    made: list[Halves] = []

    def make(keys: Iterable[bytes]) -> Halves:
        made.append(Halves(moving, keys))
        return made[-1]

    yield make
    for one in made:
        one.undo()


@pytest.mark.parametrize("moving", [DEFAULT, OLD_ORDER], indirect=True)
@pytest.mark.parametrize(("phase", "workers"), [("survey", 2), ("purge", 1)])
def test_slots_left_half_moved(
    moving: ServerCluster,
    halves: Callable[[Iterable[bytes]], Halves],
    phase: str,
    workers: int,
) -> None:
    """ASK leads to each key: what is read, judged and deleted is complete."""
    live = fill(moving)
    half = halves(keys_on(moving.primaries[0], range(500)))
    report = sweep(moving, workers=workers, observer=Strike(phase, 0, half.make))
    assert (report.status, report.keys.deleted) == ("complete", STALE * KEYS_EACH), report
    assert keys_of(moving) == live
    assert_adds_up(report)


@pytest.mark.parametrize("moving", [OLD_ORDER], indirect=True)
def test_rights_are_rehearsed_where_nothing_moves(moving: ServerCluster) -> None:
    """For a key that does not exist, a slot that is on its way has only a redirect."""
    live = fill(moving)
    a, b, c = moving.primaries
    shift = Shift(a, b, c)
    slots = range(2_500)
    for slot in slots:
        shift.begin(slot)
    try:
        report = sweep(moving)
    finally:
        for slot in slots:
            for node in (shift.source, shift.target):
                setslot(node, slot, "STABLE")
    assert (report.status, report.keys.deleted) == ("complete", STALE * KEYS_EACH)
    assert keys_of(moving) == live


def ids_with(count: int, first_slot_below: int) -> list[bytes]:
    """Ids whose heartbeats lie in one slot, while their other keys lie anywhere."""
    found = by_slot(heartbeat_key(b"id-%d" % number) for number in range(60_000))
    slot = next(s for s, keys in found.items() if s < first_slot_below and len(keys) >= count)
    return [key.removeprefix(heartbeat_key(b"")) for key in found[slot][:count]]


@pytest.mark.parametrize("moving", [DEFAULT, OLD_ORDER], indirect=True)
def test_heartbeats_of_a_slot_that_is_half_moved_go_one_by_one(
    moving: ServerCluster, halves: Callable[[Iterable[bytes]], Halves]
) -> None:
    """A call with some keys here and some there is answered with TRYAGAIN for ever."""
    live = fill(moving)
    ids = ids_with(4, first_slot_below=5_000)
    with moving.client() as client:
        now = client.time()[0] * 1000
        for name in ids:
            client.set(heartbeat_key(name), beat(now - STALE_MS))
            for key in owned_keys(name):
                client.set(key, "1")
    half = halves(map(heartbeat_key, ids))
    report = sweep(moving, observer=Strike("purge", 0, half.make))
    assert report.status == "complete", report
    assert keys_of(moving) == live
    assert report.coordinators.purged == STALE + len(ids)
    assert_adds_up(report)


@pytest.mark.parametrize("moving", [DEFAULT, OLD_ORDER], indirect=True)
def test_a_live_heartbeat_on_the_way_saves_its_keys(
    moving: ServerCluster, halves: Callable[[Iterable[bytes]], Halves]
) -> None:
    """It is on a server that does not own its slot yet, and is not told of by its owner."""
    live_id = next(b"a:b%d" % i for i in range(9_999) if slot_of(heartbeat_key(b"a:b%d" % i)) < 99)
    kept = {heartbeat_key(live_id), b"blocking:ack:%b:s1" % live_id}
    with moving.client() as client:
        client.flushall()
        now = client.time()[0] * 1000
        client.set(heartbeat_key(b"a"), beat(now - STALE_MS))
        client.set(heartbeat_key(live_id), beat(now - 1000))
        client.set(b"blocking:ack:%b:s1" % live_id, "1")
    half = halves([heartbeat_key(live_id)])
    half.make()
    assert moving.primaries[1].client().dbsize() >= 1
    # Else the grace would save what it is the heartbeat's to save. Nobody tells how long a key on
    # the way was untouched.
    time.sleep(2)
    report = sweep(moving, orphans="purge", orphan_grace=1)
    assert keys_of(moving) == kept
    assert (report.coordinators.live, report.coordinators.stale) == (1, 1)
    assert report.coordinators.orphaned == 0
    assert report.status == "complete"


TAGGED = Keys(
    heartbeat="blocking:heartbeat:{{id}}",
    owned={"signal": "blocking:signal:{{id}}", "ack": "blocking:ack:{{id}}:*"},
)


def write_tagged(cluster: ServerCluster, count: int = 300) -> list[bytes]:
    """Stale coordinators whose keys lie in one slot each; all keys on the first primary."""
    with cluster.client() as client:
        client.flushall()
        now = client.time()[0] * 1000
        for number in range(count):
            client.set(f"blocking:heartbeat:{{c{number}}}", beat(now - STALE_MS))
            client.set(f"blocking:signal:{{c{number}}}", "1")
            client.set(f"blocking:ack:{{c{number}}}:s1", "1")
    return keys_on(cluster.primaries[0], range(5_461))


class TestACallWithKeysHereAndThere:
    """TRYAGAIN: with hash tags a coordinator goes in one call, or not at all."""

    def test_it_waits_for_the_slot(
        self,
        moving: ServerCluster,
        halves: Callable[[Iterable[bytes]], Halves],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # Whoever moves the keys may be slow; that the wait ends is the next test's subject.
        monkeypatch.setattr(routes, "MIGRATION_PATIENCE_S", 30.0)
        half = halves(write_tagged(moving))
        finish = threading.Timer(0.5, half.finish)

        def begin() -> None:
            half.make()
            finish.start()

        report = sweep(moving, keys=TAGGED, observer=Strike("purge", 0, begin))
        finish.join()
        assert (report.status, report.keys.deleted) == ("complete", 900)
        assert keys_of(moving) == set()

    def test_it_fails_whole_and_the_next_run_finishes(
        self, moving: ServerCluster, halves: Callable[[Iterable[bytes]], Halves]
    ) -> None:
        half = halves(write_tagged(moving))
        before = len(keys_of(moving))
        report = sweep(moving, keys=TAGGED, observer=Strike("purge", 0, half.make))
        assert report.status == "partial"
        assert report.keys.failed > 0
        assert report.keys.deleted == before - len(keys_of(moving))
        assert report.keys.unknown == report.keys.gone == 0
        assert_adds_up(report)
        counts = by_slot(keys_of(moving)).values()
        assert all(len(keys) % 3 == 0 for keys in counts), "one went in part"
        half.finish()
        again = sweep(moving, keys=TAGGED)
        assert (again.status, again.keys.deleted) == ("complete", report.keys.failed)
        assert keys_of(moving) == set()


def knows_and_serves(node: ServerProcess, count: int) -> bool:
    state = node.client().cluster("info")
    return bool(state["cluster_state"] == "ok" and state["cluster_known_nodes"] == str(count))


def test_a_new_node_that_takes_slots_over_gets_the_script() -> None:
    """It had no slots when the rights were rehearsed, so that nobody gave it the script."""
    own = ServerCluster(DEFAULT)
    new = ServerProcess(DEFAULT, NODE)
    try:
        live = fill(own)
        first = own.primaries[0]
        first.client().execute_command("CLUSTER", "MEET", "127.0.0.1", new.port)
        nodes = [*own.primaries, new]
        await_(lambda: all(knows_and_serves(node, len(nodes)) for node in nodes))
        shift = Shift(first, new, *own.primaries[1:])
        slots = by_slot(keys_on(first, range(300)))

        def begin() -> None:
            for slot, keys in slots.items():
                shift.begin(slot)
                shift.move(keys)

        report = sweep(own, observer=Strike("purge", 0, begin))
        assert report.keys.deleted == STALE * KEYS_EACH, report
        assert report.keys.failed == 0
        assert_adds_up(report)
        own.nodes.append(new)
        assert keys_of(own) == live
    finally:
        own.remove()
        new.remove()


# -- slots that move in one step ---------------------------------------------------------------


class AtomicMover(Mover):
    """Moves slots as Valkey 9 does: in the background, and handed over in one step."""

    def run(self) -> None:
        try:
            for way in self.ways:
                first, last = self.slots[0], self.slots[-1]
                words = ("SLOTSRANGE", first, last, "NODE", way.target_id)
                way.source.execute_command("CLUSTER", "MIGRATESLOTS", *words)
                while self.under_way(way):
                    time.sleep(0.01)
                self.moved += SLOTS
        except (redis.RedisError, AssertionError) as error:
            self.problem = error

    def under_way(self, way: Shift) -> bool:
        jobs = way.source.execute_command("CLUSTER", "GETSLOTMIGRATIONS")
        states = {job[b"state"] for job in jobs}
        assert b"failed" not in states, jobs
        return not states <= {b"success"}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("phase", ["survey", "purge"])
@pytest.mark.timeout(120)
def test_atomic_migration(moving: ServerCluster, phase: str, seed: int) -> None:
    live = fill(moving)
    mover = AtomicMover(moving, first_slot=seed * 1_500)
    report = sweep(moving, workers=1 + seed, observer=Alongside(phase, mover))
    mover.join(60)
    assert mover.problem is None
    assert report.keys.planned == STALE * KEYS_EACH
    assert report.keys.gone == 0
    if phase == "survey":
        assert "walked_again" in [warning.code for warning in report.warnings]
    assert_finished(moving, report, live)
