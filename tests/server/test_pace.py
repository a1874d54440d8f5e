"""A server that is slow gets smaller commands by itself; one that is far away does not."""

from __future__ import annotations

import re
import time

import pytest
import redis

from cleanup_job.config import Config, Redis
from cleanup_job.job import run
from cleanup_job.model import KEYS_PER_BATCH
from cleanup_job.report import Report
from tests.keys import assert_adds_up
from tests.server.proxy import Decide, proxy
from tests.server.test_revival import write_many
from tests.servers import ServerProcess

pytestmark = pytest.mark.default_server

COORDINATORS = 1_000
KEYS = 6 * COORDINATORS
KEY_S = 100e-6
"""Of a slow server: twenty keys in the two milliseconds that a command may take. On a busy machine
not every answer tells how long the server took, so that it takes a while to get there."""


def delay_by_size(data: bytes) -> str:
    """Let each command take its time for each key that it is about."""
    counts = map(int, re.findall(rb"COUNT\r\n\$\d+\r\n(\d+)", data))
    keys = data.count(b"blocking:") + data.count(b"coordinator:") if b"EVALSHA" in data else 0
    time.sleep(KEY_S * (keys + sum(counts)))
    return "pass"


def delay_each(_: bytes) -> str:
    time.sleep(0.05)
    return "pass"


def sweep_through(server: ServerProcess, decide: Decide, max_block_ms: int = 2) -> Report:
    with proxy(server.port, decide) as port:
        redis_at = Redis(f"redis://127.0.0.1:{port}")
        report = run(
            Config(redis=redis_at, engine="serial", max_block_ms=max_block_ms, expect_all_dead=True)
        )
    assert report.keys.deleted == KEYS
    assert_adds_up(report)
    return report


def test_a_slow_server_gets_smaller_commands(server: ServerProcess, client: redis.Redis) -> None:
    write_many(client, COORDINATORS)
    report = sweep_through(server, delay_by_size)
    # The first ones are of full size, until their answers come.
    assert report.commands["EVALSHA"].calls > KEYS / 150
    assert report.commands["SCAN"].calls > KEYS / 150


def test_they_may_be_larger_if_that_is_allowed(server: ServerProcess, client: redis.Redis) -> None:
    write_many(client, COORDINATORS)
    report = sweep_through(server, delay_by_size, max_block_ms=100)
    assert report.commands["EVALSHA"].calls <= KEYS / KEYS_PER_BATCH + 2


def test_the_way_there_is_no_work_of_the_server(server: ServerProcess, client: redis.Redis) -> None:
    write_many(client, COORDINATORS)
    report = sweep_through(server, delay_each, max_block_ms=20)
    assert report.commands["EVALSHA"].calls <= 2 * KEYS / KEYS_PER_BATCH
