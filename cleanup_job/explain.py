"""What is wrong with a setting, in words: its place first, then what is allowed there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from cleanup_job import keyspace
from cleanup_job.settings import Config, Dask, Keys, Redis, Timestamp, TlsSettings
from cleanup_job.urls import URL_FORMS


class Explained(NamedTuple):
    """What is wrong, behind the dotted name of the setting."""

    place: str
    text: str

    def __str__(self) -> str:
        # A URL with its login may stand where a name should.
        place = "***" if "://" in self.place or "@" in self.place else self.place
        return f"{place or 'the file'}: {self.text}"


def explain(message: str, document: dict[str, Any]) -> Explained:
    """Turn msgspec's message around: the place first, and what is allowed there.

    Args:
        message: of its `ValidationError`.
        document: what it was about.
    """
    what, _, place = message.partition(" - at `")
    if place.startswith("key"):
        return Explained(place.partition("`$")[2].strip("`."), "a name must be text")
    place = place.removeprefix("$").rstrip("`").lstrip(".")
    if place.endswith("[...]"):
        place = place.removesuffix("[...]")
        outer, _, inner = place.partition(".")
        place = next(
            f"{place}.{name}"
            for name, text in document[outer][inner].items()
            if not isinstance(text, str) or not text
        )
    unknown = re.match(r"Object contains unknown field `(.*)`", what, re.DOTALL)
    if unknown:
        where = f"{place}.{unknown[1]}" if place else unknown[1]
        return Explained(where, f"no such setting; {_meant(unknown[1], _allowed_in(place))}")
    hint = keyspace.QUOTE_HINT if "got `object`" in what and "keys" in place else ""
    entry = next((text for start, text in _ENTRIES.items() if place.startswith(start)), "")
    allowed_here = _DESCRIPTIONS.get(place.partition("[")[0], entry)
    allowed_text = f" (allowed: {allowed_here})" if allowed_here else ""
    return Explained(place, f"{_nearest(what, allowed_here)}{hint}{allowed_text}")


MOST_ALLOWED = 10
"""So many names can be read through; more of them would hide the one that was meant."""


def _meant(name: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, allowed, n=1)
    if near and len(allowed) > MOST_ALLOWED:
        return f"did you mean {near[0]}?"
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}(allowed: {', '.join(allowed)})"


def _nearest(what: str, allowed: str) -> str:
    """With a guess at what was meant, where only some words are allowed."""
    wrong = re.fullmatch(r"Invalid enum value '(.*)'", what, re.DOTALL)
    if not wrong:
        return what
    near = difflib.get_close_matches(wrong[1], re.findall(r"[a-z]+", allowed), n=1, cutoff=0.7)
    return what + (f"; did you mean {near[0]}?" if near else "")


_DESCRIPTIONS = {
    "stale_after": "a whole number of seconds, at least 1",
    "orphan_grace": "a whole number of seconds, at least 1",
    "orphans": "ignore, report, purge",
    "workers": "a whole number from 1 to 256, or auto",
    "engine": "serial, processes, dask",
    "keys.timestamp.unit": "ms, s",
    "keys.timestamp.fields": "a list of names",
    "per_node": "a whole number from 1 to 256, or auto",
    "max_block_ms": "a whole number of milliseconds from 1 to 1000",
    "allow_partial": "true, false",
    "max_purge": "a whole number of 0 or more, or null",
    "max_keys": "a whole number of 0 or more, or null",
    "max_stale_fraction": "a number from 0 to 1, or null",
    "suspicious_from": "a whole number, at least 1",
    "expect_all_dead": "true, false",
    "clock_tolerance": "a whole number of seconds, at least 1",
    "max_clock_skew": "a whole number of seconds, at least 1",
    "confirm_above": "a whole number of 0 or more",
    "max_plan_age": "a whole number of seconds, at least 1",
    "lock": "true, false",
    "max_attempts": "a whole number from 1 to 10",
    "time_budget": "a whole number of seconds, at least 1, or null",
    "nice": "a number from 0 to 100",
    "max_keys_per_second": "a whole number, at least 1, or null",
    "max_latency_ms": "a number of milliseconds, at least 0.1, or null",
    "max_foreground_ops": "a whole number, at least 1, or null",
    "max_used_memory": "a whole number of bytes, at least 1, or null",
    "max_replica_lag_bytes": "a whole number of bytes, at least 1, or null",
    "max_replica_lag": "a whole number of seconds, at least 1, or null",
    "max_blocked_clients": "a whole number of 0 or more, or null",
    "pause_file": "a path, or null",
    "stop_file": "a path, or null",
    "redis": f"a mapping with {', '.join(Redis.__struct_fields__)}",
    "redis.url": URL_FORMS,
    "redis.url_file": "a path, or null",
    "redis.password_file": "a path, or null",
    "dask": f"a mapping with {', '.join(Dask.__struct_fields__)}",
    "dask.scheduler": "tcp://host:8786, tls://host:8786, or null",
    "dask.ca_file": "a path, or null",
    "dask.cert_file": "a path, or null",
    "dask.key_file": "a path, or null",
    "memory_limit": "a size such as 500MB or 2GiB, a number of bytes, or null",
    "redis.tls": f"a mapping with {', '.join(TlsSettings.__struct_fields__)}, or null",
    "redis.tls.ca_file": "a path, or null",
    "redis.tls.cert_file": "a path, or null",
    "redis.tls.key_file": "a path, or null",
    "redis.tls.server_name": "a host name, or null",
    "redis.sentinel_password": "text in quotes, or null",
    "redis.sentinel_password_file": "a path, or null",
    "redis.address_map": 'a mapping of "host:port" to "host:port"',
    "keys": "a mapping with heartbeat, timestamp, owned",
    "keys.heartbeat": "a pattern with {id}",
    "keys.timestamp": "a mapping with fields, unit",
    "keys.owned": "a mapping of families to patterns",
}


_ENTRIES = {
    "keys.owned.": "a pattern with {id}",
    "redis.address_map.": '"host:port"',
}
"""The same for the entries of mappings whose names are free."""


def _allowed_in(place: str) -> list[str]:
    structs: dict[str, Any] = {
        "dask": Dask,
        "redis": Redis,
        "redis.tls": TlsSettings,
        "keys": Keys,
        "keys.timestamp": Timestamp,
    }
    return list(structs.get(place, Config).__struct_fields__)
