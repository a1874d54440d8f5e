"""The demo's case, written in a fraction of its time: the very same commands, made cheaper.

A million coordinators are four million keys. `cleanup_job.demo.seed` spends most of its time on
dictionaries and `json.dumps`; here texts are formatted, packed in C, and one MSET is made while
the server works on another. What the server gets is the same, byte by byte and in the same
order, so that its memory is laid out no more favourably; a test compares the two.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import hiredis
import redis

from cleanup_job import demo

COORDINATORS_PER_COMMAND = 2_500
"""The demo's 10,000 pairs per MSET."""

IN_FLIGHT = 2


def seed(
    client: redis.Redis,
    coordinators: int,
    per_command: int = COORDINATORS_PER_COMMAND,
    over_s: float = 0.0,
) -> dict[str, str]:
    """Write the case; returns the live coordinators' keys and values.

    Args:
        client: the server's.
        coordinators: stale ones.
        per_command: how many of them one MSET writes.
        over_s: how long to take for it, at an even pace; 0: no longer than it needs.
    """
    live = demo.seed(client, 0)
    seconds, micros = client.time()
    beat_ms = seconds * 1000 + micros // 1000 - demo.STALE_AGE_MS
    commands = stale_words(coordinators, beat_ms, per_command)
    interval_s = over_s * per_command / coordinators if coordinators else 0.0
    _send(client, _paced(commands, interval_s))
    return live


def stale_words(
    coordinators: int, beat_ms: int, per_command: int = COORDINATORS_PER_COMMAND
) -> Iterator[list[str]]:
    """Keys and values in turn of each MSET that writes the stale ones."""
    for first in range(1, coordinators + 1, per_command):
        last = min(first + per_command - 1, coordinators)
        words: list[str] = []
        for number in range(first, last + 1):
            name = f"test-swarm-{number}"
            words += (
                f"blocking:heartbeat:{name}",
                f'{{"coordinatorId": "{name}", "timestamp": {beat_ms}, "iteration": 1}}',
                f"blocking:signal:{name}",
                f'{{"timestamp": {beat_ms}, "senderId": "{name}", "type": "completion"}}',
                f"blocking:ack:{name}:signal-{number}",
                f'{{"ack": {number}}}',
                f"coordinator:activity:{name}",
                str(beat_ms),
            )
        yield words


def _paced(commands: Iterator[list[str]], interval_s: float) -> Iterator[list[str]]:
    """Each at its time; one that is late does not delay those after it."""
    due_s = time.monotonic()
    for words in commands:
        time.sleep(max(0.0, due_s - time.monotonic()))
        due_s += interval_s
        yield words


def _send(client: redis.Redis, commands: Iterator[list[str]]) -> None:
    pool: Any = client.connection_pool
    connection = pool.get_connection()
    in_flight = 0
    try:
        for words in commands:
            command: Any = ("MSET", *words)
            connection.send_packed_command([hiredis.pack_command(command)])
            in_flight += 1
            while in_flight >= IN_FLIGHT:
                connection.read_response()
                in_flight -= 1
        while in_flight:
            connection.read_response()
            in_flight -= 1
    finally:
        if in_flight:
            connection.disconnect()  # replies that are owed would answer somebody else
        pool.release(connection)
