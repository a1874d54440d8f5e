"""YAML, environment and flags to one frozen, validated configuration.

Precedence: flag, then environment, then YAML, then default. Nothing is contacted here.

YAML has values that are not what they look like: `no` is false, `10:00` is 600, `0755` is 493,
and of two equal keys the last wins in silence. A configuration that decides what is deleted must
not guess, so each of these is an error that names file, line and column.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import msgspec
import yaml
from msgspec import Meta

from cleanup_job import keyspace
from cleanup_job.errors import ConfigError
from cleanup_job.model import HEARTBEAT, Access, Endpoint, Rule, Schema, Secret

ENV_PREFIX = "CLEANUP_JOB_"

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"

Seconds = Annotated[int, Meta(ge=1, description="a whole number of seconds, at least 1")]
PatternText = Annotated[str, Meta(min_length=1, description="a key pattern with {id} in it")]


class Redis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the server is."""

    url: Annotated[
        str, Meta(description="redis://[user[:password]@]host[:port][/db] or unix:///path[?db=N]")
    ] = "redis://127.0.0.1:6379/0"

    def __repr__(self) -> str:
        return f"Redis(url={without_password(self.url)!r})"


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
    allow_partial: Annotated[
        bool, Meta(description="sweep a cluster of which some slots are not served")
    ] = False

    def access(self) -> Access:
        """How to get at the servers.

        Raises:
            ConfigError: if the URL makes no sense.
        """
        return Access(self.endpoint())

    def endpoint(self) -> Endpoint:
        """Where to connect.

        Raises:
            ConfigError: if the URL makes no sense.
        """
        return parse_url(self.redis.url)

    def schema(self) -> Schema:
        """The parsed key patterns.

        Raises:
            ConfigError: if a pattern makes no sense, or two can match the same key.
        """
        return _schema(self.keys)

    def rule(self) -> Rule:
        """When a heartbeat is stale."""
        timestamp = self.keys.timestamp
        return Rule(
            self.stale_after * 1000, timestamp.fields, 1 if timestamp.unit == "ms" else 1000
        )


_SCALARS: dict[str, tuple[str, ...]] = {
    "url": ("redis", "url"),
    "stale_after": ("stale_after",),
    "orphans": ("orphans",),
    "orphan_grace": ("orphan_grace",),
    "workers": ("workers",),
    "engine": ("engine",),
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
    document = read_yaml(path) if path is not None else {}
    _convert(document, path or "default")
    for variable, name, value in _from_environment(environ):
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
        config.endpoint()
        _check_fields(config.keys.timestamp.fields)
        config.schema()
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return config


def parse_url(url: str) -> Endpoint:
    """A server's URL as an endpoint.

    Raises:
        ConfigError: saying what is wrong with it, without its password.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _bad_url(url, "the brackets of its IPv6 address do not fit") from error
    if parts.scheme not in ("redis", "unix") or "://" not in url:
        raise _bad_url(url, "it must start with redis:// or unix://")
    if parts.fragment or (parts.scheme == "redis" and "@" in parts.path + parts.query):
        # Nothing of such a URL may be quoted: what looks like a path is the password's end.
        raise _bad_url(url, "write / # ? in a user name or password as %2F %23 %3F")
    login: dict[str, Any] = {
        "username": unquote(parts.username) if parts.username else None,
        "password": Secret(unquote(parts.password)) if parts.password else None,
    }
    db = _db_option(url, parts.query)
    if parts.scheme == "unix":
        if not parts.path or parts.path == "/" or parts.hostname:
            raise _bad_url(url, "a socket is written unix:///path/to/socket")
        return Endpoint(unix_path=unquote(parts.path), db=_database(url, db or "0"), **login)
    host = unquote(parts.hostname or "")
    if not host:
        raise _bad_url(url, "it names no host")
    if re.search(r"\s", host) or ".." in host:
        raise _bad_url(url, "its host is no name and no address")
    path = parts.path.strip("/")
    if db is not None and path:
        raise _bad_url(url, "it names a database twice, as /db and as ?db=N")
    database = _database(url, path or "0" if db is None else db)
    return Endpoint(host=host, port=_port(url, parts), db=database, **login)


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
    plain = msgspec.to_builtins(config)
    plain["redis"]["url"] = without_password(config.redis.url)
    plain["keys"]["timestamp"]["fields"] = list(config.keys.timestamp.fields)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: if it can't be read, is empty, or is not what it looks like.
    """
    try:
        text = Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text in UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    document = _parse_yaml(path, text)
    if document is None:
        raise ConfigError(f"{path}: is empty; leave out -c to run with the defaults")
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must be a mapping of settings, such as 'stale_after: 600'")
    return document


def _parse_yaml(path: str, text: str) -> Any:
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        line = [*text.split("\n"), ""][mark.line] if mark else ""
        looks_like_a_pattern = "{" in line or "*" in line
        if isinstance(error, _NotWhatItLooksLikeError):
            looks_like_a_pattern = False
        hint = _QUOTE_HINT if looks_like_a_pattern else ""
        raise ConfigError(f"{place}: {error.problem or error.context}{hint}") from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"{path}: has the character {error.character:#x}, which is not allowed in YAML"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply") from error


_QUOTE_HINT = "; a pattern with { or * in it needs quotes"


class _NotWhatItLooksLikeError(yaml.MarkedYAMLError):
    pass


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses what YAML 1.1 would quietly turn into something else."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise _NotWhatItLooksLikeError(
                    problem=f"{key.value!r} stands twice; remove one of the two",
                    problem_mark=key.start_mark,
                )
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_PLAIN = {
    "tag:yaml.org,2002:bool": re.compile(r"true|false"),
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    "tag:yaml.org,2002:float": re.compile(r"[-+]?(0|[1-9][0-9]*)\.[0-9]+"),
}
"""How a plain scalar of each type may be written: as everybody reads it."""


def _construct_plain(loader: _StrictLoader, node: yaml.ScalarNode) -> Any:
    kind = node.tag.rpartition(":")[2]
    try:
        value = getattr(yaml.SafeLoader, f"construct_yaml_{kind}")(loader, node)
    except (ValueError, LookupError, AttributeError) as error:
        raise _NotWhatItLooksLikeError(
            problem=f"{node.value[:40]!r} can't be read as {kind}", problem_mark=node.start_mark
        ) from error
    allowed = _PLAIN.get(node.tag)
    if allowed is None or not allowed.fullmatch(node.value):
        read_as = "a date" if allowed is None else str(value).lower()
        raise _NotWhatItLooksLikeError(
            problem=f"YAML reads {node.value} as {read_as}; write it in quotes if it is text, "
            "else as a plain number, true or false",
            problem_mark=node.start_mark,
        )
    return value


def _construct_text(loader: _StrictLoader, node: yaml.ScalarNode) -> Any:
    text = loader.construct_scalar(node)
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise _NotWhatItLooksLikeError(
            problem="half of a surrogate pair is no character; a key can't be made of it",
            problem_mark=node.start_mark,
        )
    return text


_StrictLoader.add_constructor("tag:yaml.org,2002:str", _construct_text)

for _tag in (*_PLAIN, "tag:yaml.org,2002:timestamp"):
    _StrictLoader.add_constructor(_tag, _construct_plain)


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
    if place == "keys.owned[...]":
        place = next(
            f"keys.owned.{name}"
            for name, text in document["keys"]["owned"].items()
            if not isinstance(text, str) or not text
        )
    unknown = re.match(r"Object contains unknown field `(.*)`", what, re.DOTALL)
    if unknown:
        allowed = _allowed_in(place)
        near = difflib.get_close_matches(unknown[1], allowed, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        where = f"{place}.{unknown[1]}" if place else unknown[1]
        return f"{where}: no such setting; {guess}(allowed: {', '.join(allowed)})"
    hint = _QUOTE_HINT if "got `object`" in what and "keys" in place else ""
    owned = "a pattern with {id}" if place.startswith("keys.owned.") else ""
    allowed_here = _DESCRIPTIONS.get(place.partition("[")[0], owned)
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
    "redis": "a mapping with url",
    "redis.url": "redis://[user[:password]@]host[:port][/db] or unix:///path[?db=N]",
    "keys": "a mapping with heartbeat, timestamp, owned",
    "keys.heartbeat": "a pattern with {id}",
    "keys.timestamp": "a mapping with fields, unit",
    "keys.owned": "a mapping of families to patterns",
}


def _allowed_in(place: str) -> list[str]:
    structs: dict[str, Any] = {
        "redis": Redis,
        "keys": Keys,
        "keys.timestamp": Timestamp,
    }
    return list(structs.get(place, Config).__struct_fields__)


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Variable, setting and value, where the environment has one."""
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
        yield "REDIS_HOST, REDIS_PORT, REDIS_DB", "url", f"redis://{host}:{port}/{db}"
    known = {ENV_PREFIX + name.upper(): name for name in _SCALARS}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable == ENV_PREFIX + "CONFIG":
            continue
        if variable not in known:
            near = difflib.get_close_matches(variable, known, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{variable}: no such setting{guess} (allowed: {', '.join(known)})")
        yield variable, known[variable], environ[variable]


def _overlay(document: dict[str, Any], name: str, text: str, source: str) -> None:
    """Put one setting over the file's, checked by itself so that the error names its source."""
    path = _SCALARS[name]
    value: str | int = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) and name != "url" else text
    single: dict[str, Any] = {path[-1]: value}
    for part in reversed(path[:-1]):
        single = {part: single}
    validated(_convert(single, source), source)
    target = document
    for part in path[:-1]:
        # Copied, so that the caller's document is not changed below its first level.
        target[part] = dict(target.get(part) or {})
        target = target[part]
    target[path[-1]] = value


def _with_password(config: Config, password: str | None) -> Config:
    """REDIS_PASSWORD serves a URL that has none, so that no file needs to hold it."""
    if not password or config.endpoint().password is not None:
        return config
    parts = urlsplit(config.redis.url)
    try:
        quoted = "".join(f"%{byte:02X}" for byte in password.encode())
    except UnicodeEncodeError as error:
        raise ConfigError("REDIS_PASSWORD: is no text in UTF-8") from error
    user, at, host = parts.netloc.rpartition("@")
    netloc = f"{user.rstrip(':') if at else ''}:{quoted}@{host}"
    url = urlunsplit(parts._replace(netloc=netloc))
    return msgspec.structs.replace(config, redis=Redis(url))


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


def _port(url: str, parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise _bad_url(
            url,
            "its port is no number from 1 to 65535, or its password has one of / # ? that must "
            "be written as %2F %23 %3F",
        )
    return port or 6379


def _database(url: str, text: str) -> int:
    if not _is_number(text):
        raise _bad_url(url, f"its database {text!r} is no number")
    return int(text)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _bad_url(url: str, why: str) -> ConfigError:
    return ConfigError(f"redis.url: {without_password(url)!r}: {why}")
