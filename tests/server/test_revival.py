"""Coordinators that come back during the purge (issue 2, show it 3)."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest
import redis

from cleanup_job.job import Observer
from cleanup_job.judge import fingerprint
from tests.keys import (
    STALE_MS,
    assert_adds_up,
    beat,
    heartbeat_key,
    now_ms,
    owned_keys,
    sweep,
    write_coordinator,
    write_heartbeat,
)
from tests.servers import ServerProcess

COORDINATORS = 3_000
RUNS = 20


class Writer(threading.Thread):
    """Refreshes stale heartbeats as fast as it can, from the moment the purge begins.

    A beat is written only onto a heartbeat that is still there, and in one script with the look
    at the keys it owns: so `whole` holds exactly those that were refreshed while they had all.
    """

    SCRIPT = """
    if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
    redis.call('SET', KEYS[1], ARGV[1])
    return redis.call('EXISTS', unpack(KEYS, 2))
    """

    def __init__(self, client: redis.Redis, names: list[str]) -> None:
        super().__init__()
        self.client = client
        self.names = names
        self.whole: set[str] = set()
        self.begin = threading.Event()
        self.end = threading.Event()

    def run(self) -> None:
        refresh = self.client.register_script(self.SCRIPT)
        fresh = beat(now_ms(self.client))
        self.begin.wait(timeout=60)
        for name in self.names:
            if self.end.is_set():
                return
            keys = owned_keys(name)
            if refresh(keys=[heartbeat_key(name), *keys], args=[fresh]) == len(keys):
                self.whole.add(name)


class StartWriter(Observer):
    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def began(self, phase: str, keys: int) -> None:
        if phase == "purge":
            self.writer.begin.set()
            # A head start, so that some come back before the first batch and some during it.
            time.sleep(0.01)


@pytest.mark.default_server
@pytest.mark.parametrize(("workers", "runs"), [(1, RUNS), (2, RUNS), (4, 4)])
@pytest.mark.timeout(300)
def test_no_coordinator_refreshed_before_its_turn_loses_a_key(
    server: ServerProcess, client: redis.Redis, workers: int, runs: int
) -> None:
    revived = 0
    shuffled = random.Random(workers)
    for _ in range(runs):
        client.flushall()
        write_many(client, COORDINATORS)
        names = [f"dead-{number}" for number in range(COORDINATORS)]
        shuffled.shuffle(names)
        writer = Writer(server.client(), names)
        writer.start()
        report = sweep(server, workers=workers, observer=StartWriter(writer))
        writer.end.set()
        writer.join()

        for name in writer.whole:
            keys = [heartbeat_key(name), *owned_keys(name)]
            assert client.exists(*keys) == len(keys), f"{name} was refreshed and lost a key"
        assert report.status == "complete"
        assert report.coordinators.purged + report.coordinators.revived == COORDINATORS
        assert report.coordinators.revived <= len(writer.whole)
        assert report.keys.spared == report.coordinators.revived * 6
        assert_adds_up(report)
        revived += report.coordinators.revived
    assert revived > 0, "the writer never came in time: this test showed nothing"


def write_many(client: redis.Redis, count: int, name: str = "dead") -> None:
    value = beat(now_ms(client) - STALE_MS)
    pairs: dict[bytes, str] = {}
    for number in range(count):
        pairs[heartbeat_key(f"{name}-{number}")] = value
        pairs.update(dict.fromkeys(owned_keys(f"{name}-{number}"), "1"))
    client.mset(pairs)


class AtPurge(Observer):
    """Changes something between the verdicts and the deletion."""

    def __init__(self, client: redis.Redis, name: str, value: str | None) -> None:
        self.client = client
        self.name = name
        self.value = value

    def began(self, phase: str, keys: int) -> None:
        if phase != "purge":
            return
        key = heartbeat_key(self.name)
        self.client.delete(key)
        if self.value == "hash":
            self.client.hset(key, "timestamp", "1")
        elif self.value is not None:
            self.client.set(key, self.value)


def test_one_whose_heartbeat_expired_is_as_dead_as_before(
    server: ServerProcess, client: redis.Redis
) -> None:
    write_coordinator(client, "a", STALE_MS)
    write_coordinator(client, "b", STALE_MS)
    report = sweep(server, observer=AtPurge(client, "a", None))
    assert client.dbsize() == 0
    assert report.keys.by_family["heartbeat"].gone == 1
    assert report.keys.by_family["heartbeat"].deleted == 1
    assert report.coordinators.purged == 2
    assert_adds_up(report)


@pytest.mark.parametrize("value", ["hash", "", "no json", "x" * 1000])
def test_a_heartbeat_that_became_unreadable_spares_but_did_not_revive(
    server: ServerProcess, client: redis.Redis, value: str
) -> None:
    write_coordinator(client, "a", STALE_MS)
    write_coordinator(client, "b", STALE_MS)
    report = sweep(server, observer=AtPurge(client, "a", value))
    assert client.exists(heartbeat_key("a"), *owned_keys("a")) == 6
    assert client.dbsize() == 6
    assert report.coordinators.revived == 0
    assert report.coordinators.purged == 1
    assert report.keys.spared == 6
    assert report.status == "complete"
    assert_adds_up(report)


def test_long_heartbeats_are_compared_in_full(server: ServerProcess, client: redis.Redis) -> None:
    padding = "x" * 5_000
    write_heartbeat(client, "a", STALE_MS, padding=padding)
    write_heartbeat(client, "b", STALE_MS, padding=padding)
    fresh = beat(now_ms(client), padding=padding)
    report = sweep(server, observer=AtPurge(client, "a", fresh))
    assert client.dbsize() == 1
    assert report.coordinators.revived == 1
    assert report.coordinators.purged == 1


def test_a_record_between_two_dead_stays_if_one_comes_back(
    server: ServerProcess, client: redis.Redis
) -> None:
    for name in ("sender", "receiver"):
        write_heartbeat(client, name, STALE_MS)
    record = "blocking:idempotency:sender:receiver:completion:1:17"
    client.set(record, "1")
    report = sweep(server, observer=AtPurge(client, "receiver", beat(now_ms(client))))
    assert client.exists(record, heartbeat_key("receiver")) == 2
    assert not client.exists(heartbeat_key("sender"))
    assert report.coordinators.revived == 1
    assert_adds_up(report)


def test_a_coordinator_with_many_keys_that_comes_back_keeps_its_heartbeat(
    server: ServerProcess, client: redis.Redis
) -> None:
    write_coordinator(client, "a", STALE_MS)
    client.mset({f"blocking:ack:a:{number}": "1" for number in range(3_000)})
    report = sweep(server, observer=AtPurge(client, "a", beat(now_ms(client))))
    assert client.dbsize() == 3_006
    assert report.coordinators.revived == 1
    assert report.coordinators.purged == 0
    assert report.keys.spared == 3_006
    assert_adds_up(report)


class Nudge(Observer):
    """Does something when so many keys of the purge are done, and once more later."""

    def __init__(self, *actions: tuple[int, Callable[[], object]]) -> None:
        self.actions = list(actions)
        self.purging = False
        self.done = 0

    def began(self, phase: str, keys: int) -> None:
        self.purging = phase == "purge"

    def advanced(self, keys: int) -> None:
        if not self.purging:
            return
        self.done += keys
        while self.actions and self.done >= self.actions[0][0]:
            self.actions.pop(0)[1]()


def test_a_heartbeat_stays_if_a_key_was_spared_though_it_looks_as_before(
    server: ServerProcess, client: redis.Redis
) -> None:
    """It is refreshed in the middle, and then a slow second writer puts the old value back."""
    write_coordinator(client, "a", STALE_MS)
    client.mset({f"blocking:ack:a:{number}": "1" for number in range(8_000)})
    key = heartbeat_key("a")
    old = client.get(key)
    assert old is not None
    fresh = beat(now_ms(client))
    report = sweep(
        server,
        observer=Nudge(
            (2_000, lambda: client.set(key, fresh)), (5_000, lambda: client.set(key, old))
        ),
        engine="serial",
    )
    assert report.keys.spared > 1
    assert client.exists(key)
    assert client.dbsize() == report.keys.spared
    assert_adds_up(report)
    sweep(server)
    assert client.dbsize() == 0


def test_one_that_comes_back_after_it_was_purged_was_purged(
    server: ServerProcess, client: redis.Redis
) -> None:
    """Its heartbeat goes with the first batch; a record that it shares is looked at later."""
    write_heartbeat(client, "a", STALE_MS)
    write_heartbeat(client, "bbb", STALE_MS)
    record = "blocking:idempotency:a:bbb:completion:1:17"
    client.set(record, "1")
    # Enough to have the first batch, in which "a" is, settled before the record's is sent.
    for number in range(2_000):
        write_heartbeat(client, f"other-{number}", STALE_MS)
    report = sweep(
        server,
        observer=Nudge((1, lambda: write_heartbeat(client, "a", 0))),
        engine="serial",
    )
    assert client.exists(record, heartbeat_key("a"), heartbeat_key("bbb")) == 3
    assert report.coordinators.purged == 2_001
    assert report.coordinators.revived == 0
    assert_adds_up(report)


def test_the_text_of_a_fingerprint_is_not_what_it_was_made_of(
    server: ServerProcess, client: redis.Redis
) -> None:
    write_heartbeat(client, "a", STALE_MS, padding="x" * 1_000)
    value = client.get(heartbeat_key("a"))
    assert value is not None
    observer = AtPurge(client, "a", fingerprint(value).decode())
    report = sweep(server, observer=observer)
    assert client.exists(heartbeat_key("a"))
    assert report.keys.spared == 1
