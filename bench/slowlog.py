"""How long single commands held the server, by its own SLOWLOG: how long all others wait."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import redis

from bench.servers import CLIENT_NAME

MOST_ENTRIES = 50_000
"""A sweep of a million coordinators has several thousand calls; none may drop out of the log."""


@dataclass(frozen=True)
class Slowest:
    """The longest call of a command."""

    name: str
    ms: float


def begin(client: redis.Redis, least_us: int) -> None:
    """Have the server log what takes at least so long from now on, on an empty log."""
    client.config_set("slowlog-log-slower-than", least_us)
    client.config_set("slowlog-max-len", MOST_ENTRIES)
    forget(client)


def forget(client: redis.Redis) -> None:
    """Begin anew."""
    client.slowlog_reset()


def slowest(client: redis.Redis, but: Collection[str] = ()) -> list[Slowest]:
    """Of each command that was logged, the slowest first.

    Those of the bench's own connections don't count, nor those of connections whose name is in
    `but`. What a script calls is in the script's own time.
    """
    ignored = {CLIENT_NAME, *but}
    entries: Any = client.slowlog_get(MOST_ENTRIES)
    most_us: dict[str, int] = {}
    for entry in entries:
        if entry["client_name"].decode() not in ignored:
            name = _name(entry["command"])
            most_us[name] = max(most_us.get(name, 0), entry["duration"])
    found = [Slowest(name, us / 1000) for name, us in most_us.items()]
    return sorted(found, key=lambda one: -one.ms)


def _name(command: bytes) -> str:
    return command.split(b" ", 1)[0].decode("ascii", "replace").upper()
