"""A server that is far away: enough is in flight, nothing is missed, and a stop ends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from bench.delay_line import delayed
from cleanup_job import purge, survey
from cleanup_job.config import Config, Redis
from cleanup_job.job import run
from cleanup_job.observer import Observer
from cleanup_job.report import Report
from cleanup_job.topology import LANES
from cleanup_job.wire import Wire
from tests.keys import assert_adds_up
from tests.server.test_revival import write_many
from tests.server.test_stopping import StopAt
from tests.servers import ServerProcess

pytestmark = pytest.mark.default_server

DELAY_MS = 40
COORDINATORS = 4_000
KEYS = 6 * COORDINATORS


@pytest.fixture(scope="module")
def far(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a long way to the server."""
    server: ServerProcess = request.getfixturevalue("server")
    with delayed(server.port, DELAY_MS) as port:
        yield port


class InFlight:
    """The most requests of each command that were in flight on one connection, without probes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most: Counter[str] = Counter()
        send = Wire.send_packed

        def send_and_count(
            wire: Wire, command: str, packed: list[bytes], *args: Any, **options: Any
        ) -> None:
            send(wire, command, packed, *args, **options)
            if command != "SCAN" or b"MATCH" in packed[0]:
                now = sum(1 for name, _, _ in wire._in_flight if name == command)
                self.most[command] = max(self.most[command], now)

        monkeypatch.setattr(Wire, "send_packed", send_and_count)


@pytest.fixture
def in_flight(monkeypatch: pytest.MonkeyPatch) -> InFlight:
    return InFlight(monkeypatch)


def sweep(port: int, observer: Observer | None = None, **settings: Any) -> Report:
    config = Config(
        redis=Redis(f"redis://127.0.0.1:{port}"), engine="serial", expect_all_dead=True, **settings
    )
    report = run(config, observer=observer)
    assert_adds_up(report)
    return report


def test_all_is_found_and_deleted_with_more_in_flight(
    server: ServerProcess, client: redis.Redis, far: int, in_flight: InFlight
) -> None:
    write_many(client, COORDINATORS)
    report = sweep(far)
    assert (report.status, report.keys.deleted) == ("complete", KEYS)
    assert report.coordinators.purged == COORDINATORS
    assert client.dbsize() == 0
    assert in_flight.most["SCAN"] > 2 * LANES
    assert in_flight.most["EVALSHA"] > 4
    [partition] = report.partitions
    # Lanes that were cut walk some keys twice, but few.
    assert KEYS <= partition.scanned < 1.2 * KEYS


def test_names_that_are_long_are_fewer_in_flight(
    server: ServerProcess,
    client: redis.Redis,
    far: int,
    in_flight: InFlight,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(survey, "FIRST_IN_FLIGHT", LANES)
    monkeypatch.setattr(survey, "BYTES_IN_FLIGHT", 5 * survey.PAGE * 30)
    write_many(client, COORDINATORS)
    # Smaller pages, which a busy machine gets, are more.
    assert sweep(far, max_block_ms=1000).keys.deleted == KEYS
    assert in_flight.most["SCAN"] <= 6


def test_with_a_journal(
    server: ServerProcess, client: redis.Redis, far: int, in_flight: InFlight, tmp_path: Any
) -> None:
    write_many(client, COORDINATORS)
    config = Config(redis=Redis(f"redis://127.0.0.1:{far}"), engine="serial", expect_all_dead=True)
    report = run(config, journal=str(tmp_path))
    assert (report.status, report.keys.deleted) == ("complete", KEYS)
    assert report.journal is not None
    assert report.journal.keys == KEYS


def test_a_stop_in_the_survey_deletes_nothing(
    server: ServerProcess, client: redis.Redis, far: int
) -> None:
    write_many(client, COORDINATORS)
    report = sweep(far, StopAt("survey", 1))
    assert report.status == "partial"
    assert client.dbsize() == KEYS


def test_a_stop_in_the_purge_concerns_no_more_than_is_in_flight(
    server: ServerProcess, client: redis.Redis, far: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "MOST_KEYS_IN_FLIGHT", 3_000)
    write_many(client, COORDINATORS)
    report = sweep(far, StopAt("purge", 6_000))
    assert report.status == "partial"
    assert report.keys.deleted == KEYS - client.dbsize()
    assert report.keys.failed == client.dbsize()
    assert 6_000 <= report.keys.deleted <= 6_000 + 3_000 + 2 * purge.KEYS_PER_BATCH


@pytest.mark.parametrize("settings", [{"nice": 1.0}, {"max_keys_per_second": 100_000}])
def test_rests_empty_what_is_in_flight_and_go_on(
    server: ServerProcess, client: redis.Redis, far: int, settings: dict[str, Any]
) -> None:
    write_many(client, COORDINATORS // 4)
    report = sweep(far, **settings)
    assert (report.status, report.keys.deleted) == ("complete", KEYS // 4)
