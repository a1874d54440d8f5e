"""YAML, environment and flags to one frozen, validated configuration.

Precedence: flag, then environment, then YAML, then default. Nothing is contacted here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
from msgspec import Meta

from cleanup_job import keyspace
from cleanup_job.brakes import Limits
from cleanup_job.errors import ConfigError
from cleanup_job.model import HEARTBEAT, Access, Endpoint, Rule, Schema, Secret, Tls, is_text
from cleanup_job.throttle import Bounds

ENV_PREFIX = "CLEANUP_JOB_"

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"

Seconds = Annotated[int, Meta(ge=1, description="a whole number of seconds, at least 1")]
Count = Annotated[int, Meta(ge=0)]
PatternText = Annotated[str, Meta(min_length=1, description="a key pattern with {id} in it")]


URL_FORMS = (
    "redis://[user[:password]@]host[:port][/db], rediss:// for TLS, unix:///path[?db=N], or "
    "redis+sentinel://[user[:password]@]host[:port],host[:port]/service[/db], "
    "rediss+sentinel:// for TLS"
)

SENTINEL_PORT = 26379


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


class Redis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the server is."""

    url: Annotated[str, Meta(description=URL_FORMS)] = "redis://127.0.0.1:6379/0"
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

    def access(self) -> Access:
        """How to get at the servers.

        Raises:
            ConfigError: if the URL makes no sense, or something does not go with it.
        """
        access = parse_url(self.url)
        endpoint = self._with_password(access.endpoint)
        secure = self.url.partition("://")[0].lower().startswith("rediss")
        if self.tls is not None and not secure:
            scheme = "rediss+sentinel" if access.sentinels else "rediss"
            raise ConfigError(
                f"redis.tls: {without_password(self.url)!r} does not use TLS; write it with "
                f"{scheme}://, or leave out the settings of TLS"
            )
        settings = (self.tls or TlsSettings()).parsed() if secure else None
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


HIDDEN = "***"
"""What is shown in place of a secret."""


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
        Literal["serial", "processes"], Meta(description="where the work is done")
    ] = "processes"
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


SCALARS: dict[str, tuple[str, ...]] = {
    "url": ("redis", "url"),
    "stale_after": ("stale_after",),
    "orphans": ("orphans",),
    "orphan_grace": ("orphan_grace",),
    "workers": ("workers",),
    "engine": ("engine",),
    "per_node": ("per_node",),
    "max_block_ms": ("max_block_ms",),
    "allow_partial": ("allow_partial",),
    "max_purge": ("max_purge",),
    "max_keys": ("max_keys",),
    "max_stale_fraction": ("max_stale_fraction",),
    "suspicious_from": ("suspicious_from",),
    "expect_all_dead": ("expect_all_dead",),
    "clock_tolerance": ("clock_tolerance",),
    "max_clock_skew": ("max_clock_skew",),
    "confirm_above": ("confirm_above",),
    "max_plan_age": ("max_plan_age",),
    "lock": ("lock",),
    "max_attempts": ("max_attempts",),
    "time_budget": ("time_budget",),
    "nice": ("nice",),
    "max_keys_per_second": ("max_keys_per_second",),
    "max_latency_ms": ("max_latency_ms",),
    "max_foreground_ops": ("max_foreground_ops",),
    "max_used_memory": ("max_used_memory",),
    "max_replica_lag_bytes": ("max_replica_lag_bytes",),
    "max_replica_lag": ("max_replica_lag",),
    "max_blocked_clients": ("max_blocked_clients",),
    "pause_file": ("pause_file",),
    "stop_file": ("stop_file",),
    "password_file": ("redis", "password_file"),
    "ca_file": ("redis", "tls", "ca_file"),
    "cert_file": ("redis", "tls", "cert_file"),
    "key_file": ("redis", "tls", "key_file"),
    "server_name": ("redis", "tls", "server_name"),
    "sentinel_password": ("redis", "sentinel_password"),
    "sentinel_password_file": ("redis", "sentinel_password_file"),
}
"""Settings that environment and flags can give too, and where they stand in the file."""


def load(
    path: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str | int | None] | None = None,
) -> Config:
    """Put the configuration together from all its sources.

    Args:
        path: a YAML file; None for none.
        environ: the environment; None for none of it.
        flags: settings of the command line by name; None values are not given.

    Raises:
        ConfigError: at the first thing that makes no sense, naming its place.
    """
    environ = environ or {}
    document: dict[str, Any] = {}
    if path is not None:
        # Imported where there is a file: a sweep of a small server takes less time than that.
        from cleanup_job.yaml_file import read_yaml

        document = read_yaml(path)
    _convert(document, path or "default")
    for variable, name, value in _from_environment(environ, _is_secure(document)):
        _overlay(document, name, value, variable)
    for name, given in (flags or {}).items():
        if given is not None:
            _overlay(document, name, str(given), "--" + name.replace("_", "-"))
    config = validated(_convert(document, path or "the settings"), path or "the settings")
    return _with_password(config, environ.get("REDIS_PASSWORD"))


def validated(config: Config, source: str = "the settings") -> Config:
    """The same configuration, checked beyond its types.

    Raises:
        ConfigError: naming `source` and the field.
    """
    try:
        config.access()
        _check_fields(config.keys.timestamp.fields)
        config.schema()
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return config


def parse_url(url: str) -> Access:
    """What a URL says: a server, or Sentinels and a service, and the login.

    Raises:
        ConfigError: saying what is wrong with it, without its password.
    """
    if url.partition("://")[0].lower() in ("redis+sentinel", "rediss+sentinel"):
        return _parse_sentinel_url(url)
    parts = _split(url, url)
    login = _login(url, parts)
    db = _db_option(url, parts.query)
    if parts.scheme == "unix":
        if not parts.path or parts.path == "/" or parts.hostname:
            raise _bad_url(url, "a socket is written unix:///path/to/socket")
        path = unquote(parts.path)
        return Access(Endpoint(unix_path=path, db=_database(url, "", db), **login))
    host, port = _place(url, parts, 6379)
    database = _database(url, parts.path.strip("/"), db)
    return Access(Endpoint(host=host, port=port, db=database, **login))


def _parse_sentinel_url(url: str) -> Access:
    """The same with a list of hosts, which no URL has: the first of them stands for all."""
    scheme, _, rest = url.partition("://")
    netloc = _netloc(rest)
    user, at, names = netloc.rpartition("@")
    hosts = names.split(",")
    parts = _split(url, f"{scheme}://{user}{at}{hosts[0]}{rest[len(netloc) :]}")
    places = [_place(url, _split(url, f"redis://{host}"), SENTINEL_PORT) for host in hosts]
    service, _, path = parts.path.strip("/").partition("/")
    if not service:
        raise _bad_url(url, "it names no service; write it as /service after the hosts")
    database = _database(url, path, _db_option(url, parts.query))
    return Access(
        endpoint=Endpoint(db=database, **_login(url, parts)),
        sentinels=tuple(Endpoint(host=host, port=port) for host, port in places),
        service=unquote(service),
    )


_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")

_START = (
    "it must start with redis:// or rediss:// (TLS), unix:// or redis+sentinel:// or "
    "rediss+sentinel://"
)


def _split(url: str, text: str) -> SplitResult:
    """The parts of `text`, which is the URL or made of it."""
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise _bad_url(url, "the brackets of its IPv6 address do not fit") from error
    if parts.scheme not in _SCHEMES or "://" not in text:
        raise _bad_url(url, _START)
    if parts.fragment or (parts.scheme != "unix" and "@" in parts.path + parts.query):
        # Nothing of such a URL may be quoted: what looks like a path is the password's end.
        raise _bad_url(url, "write / # ? in a user name or password as %2F %23 %3F")
    return parts


def _netloc(rest: str) -> str:
    """Login and hosts, of what follows the scheme."""
    return re.split("[/?#]", rest, maxsplit=1)[0]


def _login(url: str, parts: SplitResult) -> dict[str, Any]:
    user = unquote(parts.username) if parts.username else None
    password = Secret(unquote(parts.password)) if parts.password else None
    if not is_text(f"{user}{password}"):
        raise _bad_url(url, "its login is no text in UTF-8")
    return {"username": user, "password": password}


def without_password(url: str) -> str:
    """The URL with *** in place of its password, even where it is no URL that we understand."""
    scheme, separator, rest = url.partition("://")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) or not separator:
        scheme, separator, rest = "", "", url
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    if at and colon:
        # Without a scheme it can't be told where the user name ends.
        login = f"{user}:***" if separator else "***"
    # An option may be meant as a password too; redis-py has ?password=.
    place = re.sub(r"([?&](?!db=)[^=&]*=)[^&]*", r"\1***", place)
    return f"{scheme}{separator}{login}{at}{place}"


def json_schema() -> bytes:
    """The JSON Schema of the configuration file."""
    schema = msgspec.json.schema(Config)
    schema = {"$schema": SCHEMA_ID, "title": "cleanup-job configuration", **schema}
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def effective_yaml(config: Config) -> str:
    """The configuration as a file would state it, without its password."""
    import yaml  # see `load`

    return yaml.safe_dump(config.shown(), sort_keys=False, allow_unicode=True)


def _convert(document: dict[str, Any], source: str) -> Config:
    try:
        return msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error), document)}") from error


def _explain(message: str, document: dict[str, Any]) -> str:
    """Turn msgspec's message around: the place first, and what is allowed there."""
    what, _, place = message.partition(" - at `")
    if place.startswith("key"):
        where = place.partition("`$")[2].strip("`.")
        return f"{where or 'the file'}: a name must be text; write it in quotes"
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
        allowed = _allowed_in(place)
        near = difflib.get_close_matches(unknown[1], allowed, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        where = f"{place}.{unknown[1]}" if place else unknown[1]
        return f"{where}: no such setting; {guess}(allowed: {', '.join(allowed)})"
    hint = keyspace.QUOTE_HINT if "got `object`" in what and "keys" in place else ""
    entry = next((text for start, text in _ENTRIES.items() if place.startswith(start)), "")
    allowed_here = _DESCRIPTIONS.get(place.partition("[")[0], entry)
    allowed_text = f" (allowed: {allowed_here})" if allowed_here else ""
    return f"{place or 'the file'}: {what}{hint}{allowed_text}"


_DESCRIPTIONS = {
    "stale_after": "a whole number of seconds, at least 1",
    "orphan_grace": "a whole number of seconds, at least 1",
    "orphans": "ignore, report, purge",
    "workers": "a whole number from 1 to 256, or auto",
    "engine": "serial, processes",
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
    "redis.password_file": "a path, or null",
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
        "redis": Redis,
        "redis.tls": TlsSettings,
        "keys": Keys,
        "keys.timestamp": Timestamp,
    }
    return list(structs.get(place, Config).__struct_fields__)


def _is_secure(document: dict[str, Any]) -> bool:
    """True if the file says that the server is to be spoken to in TLS."""
    redis = document.get("redis", {})
    return redis.get("tls") is not None or redis.get("url", "").lower().startswith("rediss")


def _from_environment(environ: Mapping[str, str], secure: bool) -> Iterator[tuple[str, str, str]]:
    """Variable, setting and value, where the environment has one.

    REDIS_HOST says nothing of TLS, so it leaves that as the file has it.
    """
    if environ.get("REDIS_URL"):
        yield "REDIS_URL", "url", environ["REDIS_URL"]
    elif environ.get("REDIS_HOST") or environ.get("REDIS_PORT") or environ.get("REDIS_DB"):
        host = environ.get("REDIS_HOST") or "127.0.0.1"
        port = environ.get("REDIS_PORT") or "6379"
        db = environ.get("REDIS_DB") or "0"
        for variable, text in (("REDIS_PORT", port), ("REDIS_DB", db)):
            if not _is_number(text):
                raise ConfigError(f"{variable}: {text!r} is no number")
        host = f"[{host}]" if ":" in host else host
        scheme = "rediss" if secure else "redis"
        yield "REDIS_HOST, REDIS_PORT, REDIS_DB", "url", f"{scheme}://{host}:{port}/{db}"
    known = {ENV_PREFIX + name.upper(): name for name in SCALARS}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable == ENV_PREFIX + "CONFIG":
            continue
        if variable not in known:
            name = variable.removeprefix(ENV_PREFIX).lower()
            near = difflib.get_close_matches(name, SCALARS, n=1)
            # All of them would hide the one that was meant.
            hint = (
                f"did you mean {ENV_PREFIX}{near[0].upper()}?"
                if near
                else f"(allowed: {', '.join(known)})"
            )
            raise ConfigError(f"{variable}: no such setting; {hint}")
        yield variable, known[variable], environ[variable]


def _overlay(document: dict[str, Any], name: str, text: str, source: str) -> None:
    """Put one setting over the file's, checked by itself so that the error names its source."""
    path = SCALARS[name]
    value = _read_scalar(name, text)
    single: dict[str, Any] = {path[-1]: value}
    for part in reversed(path[:-1]):
        single = {part: single}
    _check_alone(_convert(single, source), source)
    target = document
    for part in path[:-1]:
        # Copied, so that the caller's document is not changed below its first level.
        target[part] = dict(target.get(part) or {})
        target = target[part]
    target[path[-1]] = value


_SWITCHES = ("allow_partial", "expect_all_dead", "lock")

_TEXTS = ("pause_file", "stop_file")
"""Settings that are never a number, whatever they look like."""


def _read_scalar(name: str, text: str) -> str | float | bool:
    """What a word of the environment or the command line means for a setting."""
    if name in _SWITCHES and text in ("true", "false"):
        return text == "true"
    if len(SCALARS[name]) > 1 or name in _TEXTS:
        return text
    if re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?[0-9]{1,18}\.[0-9]{1,18}", text) else text


def _check_alone(config: Config, source: str) -> None:
    """Check the one setting that differs from the defaults, as far as it can be by itself.

    Raises:
        ConfigError: naming `source`.
    """
    try:
        parse_url(config.redis.url)
        tls = config.redis.tls
        if tls is not None and not (tls.cert_file or tls.key_file):  # those need each other
            tls.parsed()
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _with_password(config: Config, password: str | None) -> Config:
    """REDIS_PASSWORD serves a URL that has none, so that no file needs to hold it."""
    if not password or parse_url(config.redis.url).endpoint.password is not None:
        return config
    if not is_text(password):
        raise ConfigError("REDIS_PASSWORD: is no text in UTF-8")
    quoted = "".join(f"%{byte:02X}" for byte in password.encode())
    scheme, _, rest = config.redis.url.partition("://")
    netloc = _netloc(rest)
    user, at, host = netloc.rpartition("@")
    login = f"{user.rstrip(':') if at else ''}:{quoted}"
    url = f"{scheme}://{login}@{host}{rest[len(netloc) :]}"
    return msgspec.structs.replace(config, redis=msgspec.structs.replace(config.redis, url=url))


def _read_password(place: str, path: str) -> Secret:
    """The password that a file holds: its only line.

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
    password = text.removesuffix("\n")  # read_text made one of each line's end
    if not password or "\n" in password:
        raise ConfigError(f"{place}: {path!r} must hold the password in one line, and only that")
    return Secret(password)


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
    patterns = {"keys.heartbeat": _pattern("keys.heartbeat", keys.heartbeat)}
    for name, text in keys.owned.items():
        place = f"keys.owned.{name}"
        if name == HEARTBEAT or not name:
            raise ConfigError(f"{place}: a family needs a name other than '{HEARTBEAT}'")
        patterns[place] = _pattern(place, text)
    heartbeat = patterns["keys.heartbeat"]
    if heartbeat.anywhere or None in (*heartbeat.before, *heartbeat.after):
        raise ConfigError(
            f"keys.heartbeat: pattern {keys.heartbeat!r} must not have '*', since the key is "
            "made from the id"
        )
    for (one, first), (other, second) in combinations(patterns.items(), 2):
        if keyspace.overlap(first, second):
            raise ConfigError(
                f"{other}: pattern {second.text!r} can match the same key as {one} "
                f"({first.text!r}); make them differ in a literal segment"
            )
    owned = tuple((name, patterns[f"keys.owned.{name}"]) for name in keys.owned)
    return Schema(heartbeat, owned)


def _pattern(place: str, text: str) -> keyspace.Pattern:
    try:
        return keyspace.parse(text)
    except keyspace.PatternError as error:
        raise ConfigError(f"{place}: {error}") from error


def _check_fields(fields: tuple[str, ...]) -> None:
    for name in fields:
        if not name or re.search(r'["\\\x00-\x1f]', name):
            raise ConfigError(
                f"keys.timestamp.fields: {name!r} is no name; it must have a character, and no "
                "quote, backslash or control character"
            )
        if fields.count(name) > 1:
            raise ConfigError(f"keys.timestamp.fields: {name!r} stands twice")


def _db_option(url: str, query: str) -> str | None:
    options = [option.partition("=")[::2] for option in query.split("&") if option]
    if len(options) > 1 or any(name != "db" for name, _ in options):
        raise _bad_url(url, "the only option it can have is ?db=N")
    return options[0][1] if options else None


def _place(url: str, parts: SplitResult, default_port: int) -> tuple[str, int]:
    """Host and port."""
    host = unquote(parts.hostname or "")
    if not host:
        raise _bad_url(url, "it names no host")
    if re.search(r"[\s,]", host) or ".." in host:
        raise _bad_url(url, f"its host is no name and no address{_for_lists(host)}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise _bad_url(
            url,
            "its port is no number from 1 to 65535, or its password has one of / # ? that must "
            f"be written as %2F %23 %3F{_for_lists(parts.netloc)}",
        )
    return host, port or default_port


def _for_lists(text: str) -> str:
    return "; a list of Sentinels is written redis+sentinel://" if "," in text else ""


def _database(url: str, path: str, option: str | None) -> int:
    if option is not None and path:
        raise _bad_url(url, "it names a database twice, as /db and as ?db=N")
    text = path or "0" if option is None else option
    if not _is_number(text):
        raise _bad_url(url, f"its database {text!r} is no number")
    return int(text)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _bad_url(url: str, why: str) -> ConfigError:
    return ConfigError(f"redis.url: {without_password(url)!r}: {why}")
