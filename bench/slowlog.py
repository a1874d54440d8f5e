"""The longest single command of a run, as the server itself logs it: how long all others wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

LEAST_US = 1_000
"""Shorter commands are not logged: nobody notices them, and each entry costs the server some."""

MOST_ENTRIES = 20_000
"""A sweep of a million coordinators has several thousand calls; none may drop out of the log."""


@dataclass(frozen=True)
class Longest:
    """One command and its time on the server; None took as long as `LEAST_US` if it has no name."""

    command: str | None
    ms: float


def begin(client: redis.Redis) -> None:
    """Have the server log from now on, on an empty log."""
    client.config_set("slowlog-log-slower-than", LEAST_US)
    client.config_set("slowlog-max-len", MOST_ENTRIES)
    client.slowlog_reset()


def longest(client: redis.Redis) -> Longest:
    """The longest since `begin` that was not sent by this client."""
    own = str(client.client_info()["addr"]).encode()
    entries: Any = client.slowlog_get(MOST_ENTRIES)
    theirs = [entry for entry in entries if entry.get("client_address") != own]
    if not theirs:
        return Longest(None, LEAST_US / 1000)
    entry = max(theirs, key=lambda entry: entry["duration"])
    return Longest(_name(bytes(entry["command"])), entry["duration"] / 1000)


def _name(command: bytes) -> str:
    return command.split(b" ", 1)[0].decode("ascii", "replace").upper()
