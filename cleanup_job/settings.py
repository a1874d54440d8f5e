"""All settings: their types, defaults and descriptions, and what they mean together.

Each is checked by its type when it is read, and beyond that by `troubles`. Nothing is contacted
here; only the files that settings name are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cleanup_job import keyspace
from cleanup_job.brakes import Limits
from cleanup_job.errors import ConfigError
from cleanup_job.memory import bytes_of
from cleanup_job.model import HEARTBEAT, Access, Endpoint, Rule, Schema, Secret, Tls, is_text
from cleanup_job.throttle import Bounds
from cleanup_job.urls import HIDDEN, URL_FORMS, parse_url, without_password

Seconds = Annotated[int, Meta(ge=1, description="a whole number of seconds, at least 1")]
Count = Annotated[int, Meta(ge=0)]
PatternText = Annotated[str, Meta(min_length=1, description="a key pattern with {id} in it")]


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to speak TLS. Certificates and names are always verified."""

    ca_file: Annotated[
        str | None,
        Meta(description="certificates of the only authorities to trust, in PEM form"),
    ] = None
    cert_file: Annotated[
        str | None, Meta(description="our own certificate, in PEM form, for servers that ask")
    ] = None
    key_file: Annotated[
        str | None, Meta(description="the key of cert_file, if it is not in the same file")
    ] = None
    server_name: Annotated[
        str | None,
        Meta(description="the name in the server's certificate, if it is not the URL's host"),
    ] = None

    def parsed(self) -> Tls:
        """The same for those who connect.

        Raises:
            ConfigError: if a file can't be read or holds something else.
        """
        from cleanup_job import tls  # only who uses TLS waits for its import

        name = self.server_name
        if name is not None and (not name or name.startswith(".") or re.search(r"[\s/:]", name)):
            raise ConfigError(f"redis.tls.server_name: {name!r} is no host name")
        settings = Tls(self.ca_file, self.cert_file, self.key_file, name)
        tls.context(settings)
        return settings


DEFAULT_URL = "redis://127.0.0.1:6379/0"


class Redis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the server is."""

    url: Annotated[str, Meta(description=URL_FORMS)] = DEFAULT_URL
    url_file: Annotated[
        str | None, Meta(description="a file with the URL and its login, in place of url")
    ] = None
    password_file: Annotated[
        str | None, Meta(description="a file with the password, if the URL has none")
    ] = None
    tls: Annotated[
        TlsSettings | None, Meta(description="for a rediss:// URL; null for the defaults")
    ] = None
    sentinel_password: Annotated[
        str | None, Meta(description="the password of the Sentinels themselves")
    ] = None
    sentinel_password_file: Annotated[
        str | None, Meta(description="a file with it, if sentinel_password is not given")
    ] = None
    address_map: Annotated[
        dict[str, str],
        Meta(
            description="host:port to use in place of a host:port that a cluster or a Sentinel "
            "announces"
        ),
    ] = {}

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.shown().items())
        return f"Redis({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # Else msgspec's own would show everything to whoever prints with rich.
        return [*self.shown().items()]

    def shown(self) -> dict[str, Any]:
        """All settings, with *** in place of secrets."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        plain["url"] = without_password(self.url)
        if self.sentinel_password is not None:
            plain["sentinel_password"] = HIDDEN
        return plain

    def address(self) -> str:
        """The URL, of the setting or of the file.

        Raises:
            ConfigError: if the file can't be read.
        """
        if self.url_file is None:
            return self.url
        return read_line("redis.url_file", self.url_file, "URL")

    def access(self) -> Access:
        """How to get at the servers.

        Raises:
            ConfigError: if the URL makes no sense, or something does not go with it.
        """
        access = self._parsed()
        endpoint = self._with_password(access.endpoint)
        settings = self._tls(access)
        password = self._sentinel_password() if access.sentinels else None
        return Access(
            endpoint=msgspec.structs.replace(endpoint, tls=settings),
            sentinels=tuple(
                msgspec.structs.replace(sentinel, tls=settings, password=password)
                for sentinel in access.sentinels
            ),
            service=access.service,
            address_map=_parse_address_map(self.address_map),
        )

    def troubles(self) -> Iterator[str]:
        """All that `access` would raise, one after the other."""
        try:
            access = self._parsed()
        except ConfigError as error:
            yield str(error)
            access = None
        yield from _troubles_of(lambda: _parse_address_map(self.address_map))
        if access is not None:
            yield from _troubles_of(lambda: self._with_password(access.endpoint))
            yield from _troubles_of(lambda: self._tls(access))
            if access.sentinels:
                yield from _troubles_of(self._sentinel_password)

    def _parsed(self) -> Access:
        if self.url_file is None:
            return parse_url(self.url)
        if self.url != DEFAULT_URL:
            raise ConfigError("redis.url_file: there is a redis.url too; leave out one of them")
        try:
            return parse_url(self.address())
        except ConfigError as error:
            text = str(error).replace("redis.url:", "redis.url_file:", 1)
            raise ConfigError(text) from error

    def _tls(self, access: Access) -> Tls | None:
        url = self.address()
        secure = url.partition("://")[0].lower().startswith("rediss")
        if self.tls is not None and not secure:
            scheme = "rediss+sentinel" if access.sentinels else "rediss"
            raise ConfigError(
                f"redis.tls: {without_password(url)!r} does not use TLS; write it with "
                f"{scheme}://, or leave out the settings of TLS"
            )
        return (self.tls or TlsSettings()).parsed() if secure else None

    def _with_password(self, endpoint: Endpoint) -> Endpoint:
        if self.password_file is None or endpoint.password is not None:
            return endpoint
        password = _read_password("redis.password_file", self.password_file)
        return msgspec.structs.replace(endpoint, password=password)

    def _sentinel_password(self) -> Secret | None:
        if self.sentinel_password is not None:
            if not is_text(self.sentinel_password):
                raise ConfigError("redis.sentinel_password: is no text in UTF-8")
            return Secret(self.sentinel_password)
        if self.sentinel_password_file is not None:
            return _read_password("redis.sentinel_password_file", self.sentinel_password_file)
        return None


class Timestamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the time of the beat stands in the heartbeat's JSON."""

    fields: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="JSON fields that may hold the time; the latest counts"),
    ] = ("timestamp", "lastHeartbeat")
    unit: Annotated[Literal["ms", "s"], Meta(description="the unit of the time")] = "ms"


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which keys matter."""

    heartbeat: Annotated[
        PatternText, Meta(description="the key whose value proves that a coordinator lives")
    ] = "blocking:heartbeat:{id}"
    timestamp: Timestamp = Timestamp()
    owned: Annotated[
        dict[str, PatternText],
        Meta(description="families of keys that belong to a coordinator, by name"),
    ] = msgspec.field(
        default_factory=lambda: {
            "signal": "blocking:signal:{id}",
            "ack": "blocking:ack:{id}:*",
            "idempotency": "blocking:idempotency:*{id}*",
            "activity": "coordinator:activity:{id}",
        }
    )


class Dask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the workers are, with `engine: dask`."""

    scheduler: Annotated[
        str | None,
        Meta(description="its address, tcp:// or tls://; null starts workers on this machine"),
    ] = None
    ca_file: Annotated[
        str | None, Meta(description="the authority of a tls:// scheduler, in PEM form")
    ] = None
    cert_file: Annotated[
        str | None, Meta(description="our own certificate for it, in PEM form")
    ] = None
    key_file: Annotated[
        str | None, Meta(description="the key of cert_file, if it is not in the same file")
    ] = None

    def troubles(self) -> Iterator[str]:
        """What makes no sense."""
        address = self.scheduler
        if address is not None and not _SCHEDULER.fullmatch(address):
            yield f"dask.scheduler: {address!r} is no address; write tcp://host:8786, or tls://"
        elif address is not None and address.startswith("tls://"):
            if self.ca_file is None or self.cert_file is None:
                yield "dask.scheduler: a tls:// address needs dask.ca_file and dask.cert_file"
            for name in ("ca_file", "cert_file", "key_file"):
                path = getattr(self, name)
                if path is not None and not Path(path).is_file():
                    yield f"dask.{name}: {path!r} is no file"
        elif self.ca_file or self.cert_file or self.key_file:
            yield "dask.ca_file: only a tls:// scheduler has use for certificates"


_SCHEDULER = re.compile(r"(tcp|tls)://(\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]]+):[0-9]{1,5}", re.ASCII)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a run can be told. Make it with `load`, or `validated`."""

    redis: Redis = Redis()
    stale_after: Annotated[
        Seconds, Meta(description="a heartbeat older than this many seconds is stale")
    ] = 600
    keys: Keys = Keys()
    orphans: Annotated[
        Literal["ignore", "report", "purge"],
        Meta(description="what to do with keys whose coordinator has no heartbeat"),
    ] = "report"
    orphan_grace: Annotated[
        Seconds, Meta(description="seconds that an orphan's keys must have been untouched")
    ] = 600
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | Literal["auto"],
        Meta(description="worker processes, or auto"),
    ] = "auto"
    engine: Annotated[
        Literal["serial", "processes", "dask"], Meta(description="where the work is done")
    ] = "processes"
    dask: Dask = Dask()
    memory_limit: Annotated[
        Annotated[str, Meta(min_length=1)] | Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="memory of all our processes together, as 500MB; above it names are kept "
            "in files and judged in waves"
        ),
    ] = None
    per_node: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | Literal["auto"],
        Meta(description="workers that walk the same primary at once, or auto"),
    ] = "auto"
    max_block_ms: Annotated[
        Annotated[int, Meta(ge=1, le=1000)],
        Meta(description="milliseconds that one command may hold the server, about"),
    ] = 2
    allow_partial: Annotated[
        bool, Meta(description="sweep a cluster of which some slots are not served")
    ] = False
    max_purge: Annotated[
        Count | None, Meta(description="refuse a run that would delete more coordinators")
    ] = None
    max_keys: Annotated[
        Count | None, Meta(description="refuse a run that would delete more keys")
    ] = None
    max_stale_fraction: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="refuse a run if more than this share of all coordinators is stale"),
    ] = None
    suspicious_from: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(description="so many coordinators, and none of them live, are refused"),
    ] = 100
    expect_all_dead: Annotated[
        bool, Meta(description="go on even if no coordinator at all is live")
    ] = False
    clock_tolerance: Annotated[
        Seconds, Meta(description="seconds that clocks may differ before there is a warning")
    ] = 5
    max_clock_skew: Annotated[
        Seconds, Meta(description="seconds that clocks may differ before a run is refused")
    ] = 300
    confirm_above: Annotated[
        Count, Meta(description="on a terminal, ask before more coordinators are deleted")
    ] = 100
    max_plan_age: Annotated[
        Seconds, Meta(description="seconds after which a plan file is too old to be executed")
    ] = 3600
    lock: Annotated[
        bool, Meta(description="let one run at a time be at the same keys of a server")
    ] = True
    max_attempts: Annotated[
        Annotated[int, Meta(ge=1, le=10)],
        Meta(description="how often a task is tried whose worker or connection was lost"),
    ] = 3
    time_budget: Annotated[
        Seconds | None, Meta(description="seconds after which a run ends; the next one goes on")
    ] = None
    nice: Annotated[
        Annotated[float, Meta(ge=0, le=100)],
        Meta(description="seconds to rest for each second of work"),
    ] = 0.0
    max_keys_per_second: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="most keys to delete per second")
    ] = None
    max_latency_ms: Annotated[
        Annotated[float, Meta(ge=0.1)] | None,
        Meta(description="give way while a command of somebody else would wait longer"),
    ] = None
    max_foreground_ops: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="pause while others send a server more commands per second"),
    ] = None
    max_used_memory: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="pause while a server uses more bytes"),
    ] = None
    max_replica_lag_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="pause while a replica is more bytes behind"),
    ] = None
    max_replica_lag: Annotated[
        Seconds | None, Meta(description="pause while a replica is silent for more seconds")
    ] = None
    max_blocked_clients: Annotated[
        Count | None, Meta(description="pause while more clients wait in a blocking command")
    ] = None
    pause_file: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="pause while a file of this name is there"),
    ] = None
    stop_file: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="end the run when a file of this name appears"),
    ] = None

    def shown(self) -> dict[str, Any]:
        """All settings as plain values, with *** in place of secrets."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        plain["redis"] = self.redis.shown()
        plain["keys"]["timestamp"]["fields"] = list(self.keys.timestamp.fields)
        return plain

    def access(self) -> Access:
        """How to get at the servers.

        Raises:
            ConfigError: if the URL makes no sense, or something does not go with it.
        """
        return self.redis.access()

    def endpoint(self) -> Endpoint:
        """Where to connect, or with Sentinels how to log in.

        Raises:
            ConfigError: as `access` does.
        """
        return self.access().endpoint

    def schema(self) -> Schema:
        """The parsed key patterns.

        Raises:
            ConfigError: if a pattern makes no sense, or two can match the same key.
        """
        return _schema(self.keys)

    def troubles(self) -> Iterator[str]:
        """All that makes no sense beyond the types, each with its place first."""
        yield from self.redis.troubles()
        yield from _field_troubles(self.keys.timestamp.fields)
        yield from _pattern_troubles(self.keys)
        yield from _troubles_of(self.memory_bytes)
        yield from self.dask.troubles()
        if self.engine == "dask" and self.memory_limit is not None:
            yield (
                "memory_limit: with engine dask names are in the memory of its workers; limit that "
                "where they are started"
            )

    def memory_bytes(self) -> int | None:
        """What all our processes may have together, if there is a limit.

        Raises:
            ConfigError: if that is no size.
        """
        return None if self.memory_limit is None else bytes_of(self.memory_limit)

    def limits(self) -> Limits:
        """What a run may not exceed."""
        return Limits(
            max_purge=self.max_purge,
            max_keys=self.max_keys,
            max_stale_fraction=self.max_stale_fraction,
            suspicious_from=self.suspicious_from,
            expect_all_dead=self.expect_all_dead,
            clock_tolerance_s=self.clock_tolerance,
            max_clock_skew_s=self.max_clock_skew,
        )

    def bounds(self) -> Bounds:
        """What the throttle keeps a run within."""
        return Bounds(
            nice=self.nice,
            max_keys_per_second=self.max_keys_per_second,
            max_latency_ms=self.max_latency_ms,
            max_foreground_ops=self.max_foreground_ops,
            max_used_memory=self.max_used_memory,
            max_replica_lag_bytes=self.max_replica_lag_bytes,
            max_replica_lag_s=self.max_replica_lag,
            max_blocked_clients=self.max_blocked_clients,
            pause_file=self.pause_file,
        )

    def rule(self) -> Rule:
        """When a heartbeat is stale."""
        timestamp = self.keys.timestamp
        return Rule(
            self.stale_after * 1000, timestamp.fields, 1 if timestamp.unit == "ms" else 1000
        )


def _read_password(place: str, path: str) -> Secret:
    """The password that a file holds."""
    return Secret(read_line(place, path, "password"))


def read_line(place: str, path: str, what: str) -> str:
    """The only line of a file.

    Raises:
        ConfigError: if there is none. What the file holds is not shown.
    """
    try:
        text = Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: {path!r} is no text in UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{place}: {path!r} cannot be read: {reason}") from error
    line = text.removesuffix("\n")  # read_text made one of each line's end
    if not line or "\n" in line:
        raise ConfigError(f"{place}: {path!r} must hold the {what} in one line, and only that")
    return line


def _troubles_of(part: Callable[[], object]) -> Iterator[str]:
    try:
        part()
    except ConfigError as error:
        yield str(error)


def _parse_address_map(pairs: Mapping[str, str]) -> dict[str, str]:
    """The map with its keys as `Access.announced` looks them up."""
    parsed = {}
    for announced, used in pairs.items():
        for text in (announced, used):
            if not _ADDRESS.fullmatch(text) or not 1 <= int(text.rpartition(":")[2]) <= 65535:
                raise ConfigError(
                    f"redis.address_map: {text!r} is no address; write host:port, or "
                    "[address]:port for IPv6"
                )
        host, _, port = announced.rpartition(":")
        parsed[f"{host.strip('[]')}:{int(port)}"] = used
    return parsed


_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+(%\w+)?\]|[^\s:/@\[\]]+):[0-9]{1,5}", re.ASCII)


def _schema(keys: Keys) -> Schema:
    for trouble in _pattern_troubles(keys):
        raise ConfigError(trouble)
    owned = tuple((name, keyspace.parse(text)) for name, text in keys.owned.items())
    return Schema(keyspace.parse(keys.heartbeat), owned)


OVERLAP = "can match the same key as"


def _pattern_troubles(keys: Keys) -> Iterator[str]:
    """What makes no sense in each pattern, and then in those that do, together."""
    texts = {"keys.heartbeat": keys.heartbeat}
    texts |= {f"keys.owned.{name}": text for name, text in keys.owned.items()}
    patterns: dict[str, keyspace.Pattern] = {}
    for place, text in texts.items():
        family = place.removeprefix("keys.owned.")
        if family in (HEARTBEAT, ""):
            yield f"{place}: a family needs a name other than '{HEARTBEAT}'"
        try:
            patterns[place] = keyspace.parse(text)
        except keyspace.PatternError as error:
            yield f"{place}: {error}"
    heartbeat = patterns.get("keys.heartbeat")
    if heartbeat and (heartbeat.anywhere or None in (*heartbeat.before, *heartbeat.after)):
        yield (
            f"keys.heartbeat: pattern {keys.heartbeat!r} must not have '*', since the key is "
            "made from the id"
        )
        del patterns["keys.heartbeat"]
    for (one, first), (other, second) in combinations(patterns.items(), 2):
        if keyspace.overlap(first, second):
            yield (
                f"{other}: pattern {second.text!r} {OVERLAP} {one} ({first.text!r}); make them "
                "differ in a literal segment"
            )


def _field_troubles(fields: tuple[str, ...]) -> Iterator[str]:
    for name in dict.fromkeys(fields):
        if not name or re.search(r'["\\\x00-\x1f]', name):
            yield (
                f"keys.timestamp.fields: {name!r} is no name; it must have a character, and no "
                "quote, backslash or control character"
            )
        if fields.count(name) > 1:
            yield f"keys.timestamp.fields: {name!r} stands twice"
