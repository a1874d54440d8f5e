"""How long single commands held the server, by its own SLOWLOG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from bench.load.foreground import NAME as FOREGROUND_NAME

BENCH_NAME = "bench"
"""Of the bench's own connections."""

SLOWER_THAN_US = 100
"""Low enough that the slowest command of each sweep is in the log."""

MOST_ENTRIES = 50_000


@dataclass(frozen=True)
class Slowest:
    """The longest call of a command."""

    name: str
    ms: float


def watch(client: redis.Redis) -> None:
    """Log nearly everything from now on."""
    client.config_set("slowlog-log-slower-than", SLOWER_THAN_US)
    client.config_set("slowlog-max-len", MOST_ENTRIES)
    forget(client)


def forget(client: redis.Redis) -> None:
    """Begin anew."""
    client.slowlog_reset()


def slowest(client: redis.Redis) -> list[Slowest]:
    """Of each command that was logged, whoever sent it but the foreground and the bench.

    The slowest comes first. What a script calls is in the script's own time.
    """
    entries: Any = client.slowlog_get(MOST_ENTRIES)
    most_us: dict[str, int] = {}
    for entry in entries:
        if entry["client_name"].decode() not in (FOREGROUND_NAME, BENCH_NAME):
            name = entry["command"].split()[0].decode().upper()
            most_us[name] = max(most_us.get(name, 0), entry["duration"])
    found = [Slowest(name, us / 1000) for name, us in most_us.items()]
    return sorted(found, key=lambda one: -one.ms)
