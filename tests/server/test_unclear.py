"""Connections that break, scripts that fail: nothing is repeated blindly, and counts stay true."""

from __future__ import annotations

import pytest
import redis

from cleanup_job import wire as wires
from cleanup_job.config import Config, Redis
from cleanup_job.errors import ServerUnavailableError
from cleanup_job.job import run
from cleanup_job.report import Report
from tests.keys import assert_adds_up, now_ms, sweep, write_coordinator
from tests.server.proxy import Decide, proxy
from tests.server.test_revival import write_many
from tests.servers import ServerProcess

COORDINATORS = 3_000


class Nth:
    """Does `what` with the n-th chunk that holds `word`, once, or ever after."""

    def __init__(self, word: bytes, n: int, what: str, *, for_ever: bool = False) -> None:
        self.word, self.n, self.what, self.for_ever = word, n, what, for_ever
        self.seen = 0

    def __call__(self, data: bytes) -> str:
        if self.seen >= self.n and self.for_ever:
            return "cut"
        if self.word in data:
            self.seen += 1
            if self.seen == self.n:
                return self.what
        return "pass"


def sweep_through(server: ServerProcess, decide: Decide) -> Report:
    with proxy(server.port, decide) as port:
        # Without a lease, whose calls would be counted too.
        redis_at = Redis(f"redis://127.0.0.1:{port}")
        return run(Config(redis=redis_at, engine="serial", expect_all_dead=True, lock=False))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_survey_that_loses_its_connection_starts_its_partition_anew(
    server: ServerProcess, client: redis.Redis, n: int
) -> None:
    write_many(client, COORDINATORS)
    report = sweep_through(server, Nth(b"MATCH", n, "cut"))
    assert report.status == "complete"
    assert report.keys.deleted == COORDINATORS * 6
    assert max(partition.attempts for partition in report.partitions) == 2
    assert client.dbsize() == 0


@pytest.mark.default_server
def test_survey_that_never_gets_through_deletes_nothing(
    server: ServerProcess, client: redis.Redis
) -> None:
    write_many(client, COORDINATORS)
    with pytest.raises(ServerUnavailableError) as caught:
        sweep_through(server, Nth(b"MATCH", 2, "cut", for_ever=True))
    assert caught.value.exit_code == 75
    assert client.dbsize() == COORDINATORS * 6


@pytest.mark.parametrize("what", ["cut", "mute"])
@pytest.mark.parametrize("n", [2, 4, 9])
def test_a_delete_without_reply_is_looked_at_and_never_counted_as_deleted(
    server: ServerProcess, client: redis.Redis, what: str, n: int
) -> None:
    write_many(client, COORDINATORS)
    report = sweep_through(server, Nth(b"EVALSHA", n, what))
    keys = report.keys
    assert report.status == "partial"
    assert keys.deleted + keys.unknown + client.dbsize() == COORDINATORS * 6
    assert keys.failed == client.dbsize()
    assert keys.failed + keys.unknown > 0
    assert [error.code for error in report.errors] == ["connection_lost"]
    assert_adds_up(report)
    assert report.coordinators.purged == keys.by_family["heartbeat"].deleted

    again = sweep(server)
    assert again.status == "complete"
    assert client.dbsize() == 0


@pytest.mark.default_server
def test_a_server_that_goes_away_for_good_ends_the_run(
    server: ServerProcess, client: redis.Redis
) -> None:
    write_many(client, COORDINATORS)
    decide = Nth(b"EVALSHA", 6, "cut", for_ever=True)
    report = sweep_through(server, decide)
    assert report.status == "partial"
    assert report.keys.unknown > 0
    assert report.keys.failed > 0
    gone = COORDINATORS * 6 - client.dbsize()
    assert report.keys.deleted <= gone <= report.keys.deleted + report.keys.unknown
    assert_adds_up(report)


def test_a_script_that_fails_in_the_middle_is_told(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script breaks after its first UNLINK: heartbeats, which go last, are all there."""
    import hashlib

    from cleanup_job import attempt

    write_many(client, 500)
    broken = attempt.SCRIPT.replace(b"from = from + count", b"from = from + count; error('broken')")
    assert broken != attempt.SCRIPT
    monkeypatch.setattr(attempt, "SCRIPT", broken)
    monkeypatch.setattr(attempt, "SHA", hashlib.sha1(broken).hexdigest())
    monkeypatch.setattr("cleanup_job.waves.preflight", lambda *_: None)
    report = sweep(server, engine="serial")
    assert report.status == "partial"
    assert report.keys.deleted == 0
    assert report.keys.by_family["signal"].unknown == 500
    assert report.keys.by_family["heartbeat"].failed == 500
    assert report.coordinators.purged == 0
    assert_adds_up(report)

    monkeypatch.undo()
    assert sweep(server).status == "complete"
    assert client.dbsize() == 0


def test_a_heartbeat_stays_while_a_key_of_its_coordinator_is_left(
    server: ServerProcess, client: redis.Redis
) -> None:
    """A coordinator with many keys, and a connection that breaks among them."""
    write_coordinator(client, "dead", 700_000)
    client.mset({f"blocking:ack:dead:{number}": "1" for number in range(6_000)})
    report = sweep_through(server, Nth(b"EVALSHA", 4, "cut"))
    assert report.status == "partial"
    assert client.exists("blocking:heartbeat:dead")
    assert report.keys.by_family["heartbeat"].failed == 1
    assert_adds_up(report)
    assert sweep(server).status == "complete"
    assert client.dbsize() == 0


@pytest.mark.default_server
def test_requests_in_flight_are_answered_in_order(
    server: ServerProcess, client: redis.Redis
) -> None:
    wire = wires.Wire(Config(redis=Redis(server.url)).endpoint())
    replies: list[int] = []
    for number in range(1_000):
        wire.send("ECHO", str(number), then=lambda reply: replies.append(int(reply)))
    wire.drain()
    assert replies == [*range(1_000)]
    assert sum(wire.take_timings()["ECHO"][2::3]) == 1_000
    assert now_ms(client) > 0
    wire.close()
