"""YAML, environment and flags to one frozen, validated configuration.

Precedence: flag, then environment, then YAML, then default. Nothing is contacted here. All that is
wrong is told at once, each problem with its place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from cleanup_job.document import Document, Place, Trouble, discreet
from cleanup_job.errors import ConfigError
from cleanup_job.explain import explain
from cleanup_job.model import is_text
from cleanup_job.settings import OVERLAP, Config, Dask, Keys, Redis, Timestamp, TlsSettings
from cleanup_job.urls import URL_FORMS, is_number, netloc_of, parse_url, without_password

ENV_PREFIX = "CLEANUP_JOB_"

PROFILE_VARIABLE = ENV_PREFIX + "PROFILE"

NO_SETTINGS = (ENV_PREFIX + "CONFIG", PROFILE_VARIABLE)
"""They say where the settings are."""

NO_FILE = Document("the settings", {}, {}, frozenset(), ())

SCALARS: dict[str, tuple[str, ...]] = {
    "url": ("redis", "url"),
    "url_file": ("redis", "url_file"),
    "stale_after": ("stale_after",),
    "orphans": ("orphans",),
    "orphan_grace": ("orphan_grace",),
    "workers": ("workers",),
    "engine": ("engine",),
    "memory_limit": ("memory_limit",),
    "scheduler": ("dask", "scheduler"),
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
    profile: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Config:
    """Put the configuration together from all its sources.

    Args:
        path: a YAML file; None for none.
        environ: the environment; None for none of it.
        flags: settings of the command line by name; None values are not given.
        profile: which of the file's profiles; by default that of the environment.
        variables: what `${NAME}` in the file stands for; by default the environment's.

    Raises:
        ConfigError: naming all that makes no sense, with its place.
    """
    environ = environ or {}
    chosen = profile or environ.get(PROFILE_VARIABLE) or None
    if path is None:
        if chosen is not None:
            raise ConfigError(f"--profile {chosen}: there is no file with profiles; give -c FILE")
        document = NO_FILE
    else:
        # Imported where there is a file: a sweep of a small server takes less time than that.
        from cleanup_job.profiles import only
        from cleanup_job.yaml_file import read_yaml

        document = only(read_yaml(path, environ if variables is None else variables), chosen)
    troubles = [*document.troubles]
    settings = _typed(document, troubles)
    given = [*_from_environment(environ, _is_secure(settings), troubles)]
    given += [
        ("--" + name.replace("_", "-"), name, str(value))
        for name, value in (flags or {}).items()
        if value is not None
    ]
    for source, name, text in given:
        try:
            _overlay(settings, name, text, source)
        except ConfigError as error:
            troubles.append(Trouble(str(error)))
    config = _convert(settings, document.source)
    _check(config, document, troubles)
    return _with_password(config, environ.get("REDIS_PASSWORD"))


def validated(config: Config, source: str = "the settings") -> Config:
    """The same configuration, checked beyond its types.

    Raises:
        ConfigError: naming `source` and each field that makes no sense.
    """
    _check(_convert(msgspec.to_builtins(config), source), NO_FILE._replace(source=source))
    return config


def check_file(path: str, profile: str | None, variables: Mapping[str, str]) -> dict[str, Config]:
    """What a file says: by the names of its profiles, or of the one chosen; "" if it has none.

    Raises:
        ConfigError: naming all that makes no sense, in whatever profile, with its place.
    """
    from cleanup_job.profiles import merged, names_of, only
    from cleanup_job.yaml_file import read_yaml

    document = read_yaml(path, variables)
    names = names_of(document)
    if profile is not None or not names:
        parts = {profile or "": only(document, profile)}
    else:
        # The top by itself is nothing that could be run. What is wrong there is so in each profile
        # that does not say otherwise, and is told once.
        _whole(document, [merged(document, name) for name in names])
        parts = {name: merged(document, name) for name in names}
    return {name: _whole(document, [part]) for name, part in parts.items()}


def _whole(document: Document, parts: Sequence[Document]) -> Config:
    """The configuration of the last part, if all that the parts say makes sense.

    Raises:
        ConfigError: naming all that does not.
    """
    troubles: list[Trouble] = []
    for part in parts:
        of_part = [*part.troubles]
        settings = _typed(part, of_part)
        config = _convert(settings, part.source)
        troubles += _all_troubles(config, part, of_part)
    if troubles:
        raise ConfigError(_told(document.source, troubles))
    return config


def _typed(document: Document, troubles: list[Trouble]) -> dict[str, Any]:
    """What of the document has the right types; what has not goes to the troubles.

    msgspec stops at the first that is wrong: that is taken out, and it is asked again.
    """
    settings: dict[str, Any] = _copied(document.settings)
    read_as_text = set(document.variables)
    while True:
        try:
            msgspec.convert(settings, Config)
        except msgspec.ValidationError as error:
            wrong = explain(str(error), settings)
        else:
            return settings
        place = document.places.get(wrong.place)
        if place is None:
            # Only what is no text at all has no place.
            raise ConfigError(f"{document.source}: {wrong}")
        if wrong.place in read_as_text:
            # A variable holds text; where something else is wanted, it is read as that.
            read_as_text.remove(wrong.place)
            held = _at(settings, place.path)
            if isinstance(held, str) and (value := _read_word(held)) != held:
                _put(settings, place.path, value)
                continue
        unknown = wrong.text.startswith("no such setting")
        mark = place.name if unknown else place.value
        if not any(known.mark == mark for known in troubles):
            of_variable = wrong.place in document.variables
            text = discreet(str(wrong)) if of_variable else str(wrong)
            troubles.append(Trouble(text, mark, place.path))
        _take_out(settings, place.path)


def _check(config: Config, document: Document, troubles: Iterable[Trouble] = ()) -> None:
    """Tell of all that is wrong with it.

    Raises:
        ConfigError: if anything is.
    """
    found = _all_troubles(config, document, troubles)
    if found:
        raise ConfigError(_told(document.source, found))


def _all_troubles(config: Config, document: Document, troubles: Iterable[Trouble]) -> list[Trouble]:
    """Those that are known, and what is wrong beyond the types, as far as these are right."""
    found = [*troubles]
    wrong = [trouble.path for trouble in found if trouble.path]
    for text in config.troubles():
        place = _place_of(text, document)
        if _may_follow(text, wrong) or (place and place.path in wrong):
            continue
        found.append(Trouble(_told_discreetly(text, document), place and place.value))
    return found


def _may_follow(text: str, wrong: Sequence[tuple[str | int, ...]]) -> bool:
    """True if this may only be wrong since something else is, which was taken out."""
    if text.startswith("redis.tls"):
        return any(path[0] == "redis" for path in wrong)
    return OVERLAP in text and any(path[0] == "keys" for path in wrong)


def _told_discreetly(text: str, document: Document) -> str:
    """Without what it quotes, if a variable may have held that."""
    section = text.partition(".")[0]
    held = any(place.partition(".")[0] == section for place in document.variables)
    return discreet(text) if held else text


def _place_of(text: str, document: Document) -> Place | None:
    """Where the setting stands of which a trouble tells: that with the longest name."""
    named = [place for place in document.places if text.startswith(f"{place}: ")]
    return document.places[max(named, key=len)] if named else None


def _told(source: str, troubles: Sequence[Trouble]) -> str:
    """One line for each; those of the file in its order, with line and column."""
    in_file = sorted((one.mark, one.text) for one in troubles if one.mark)
    lines = [f"{source}:{mark.line}:{mark.column}: {text}" for mark, text in in_file]
    # What came from elsewhere has named that already.
    named = re.compile(r"--|[A-Z_]+(, [A-Z_]+)*: ")
    lines += [
        one.text if named.match(one.text) else f"{source}: {one.text}"
        for one in troubles
        if not one.mark
    ]
    lines = [*dict.fromkeys(lines)]
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{len(lines)} things are wrong:", *(f"  {line}" for line in lines)])


def effective_yaml(config: Config) -> str:
    """The configuration as a file would state it, without its password."""
    import yaml  # see `load`

    text = yaml.safe_dump(config.shown(), sort_keys=False, allow_unicode=True)
    # What looks like a variable is none any more.
    return re.sub(r"\$(?=[${])", "$$", text)


def _convert(document: dict[str, Any], source: str) -> Config:
    try:
        return msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {explain(str(error), document)}") from error


def _is_secure(document: dict[str, Any]) -> bool:
    """True if the file says that the server is to be spoken to in TLS."""
    redis = document.get("redis", {})
    return redis.get("tls") is not None or redis.get("url", "").lower().startswith("rediss")


def _from_environment(
    environ: Mapping[str, str], secure: bool, troubles: list[Trouble]
) -> Iterator[tuple[str, str, str]]:
    """Variable, setting and value, where the environment has one.

    REDIS_HOST says nothing of TLS, so it leaves that as the file has it.
    """
    if environ.get("REDIS_URL"):
        yield "REDIS_URL", "url", environ["REDIS_URL"]
    elif environ.get("REDIS_HOST") or environ.get("REDIS_PORT") or environ.get("REDIS_DB"):
        host = environ.get("REDIS_HOST") or "127.0.0.1"
        port = environ.get("REDIS_PORT") or "6379"
        db = environ.get("REDIS_DB") or "0"
        wrong = [
            Trouble(f"{variable}: {text!r} is no number")
            for variable, text in (("REDIS_PORT", port), ("REDIS_DB", db))
            if not is_number(text)
        ]
        troubles += wrong
        host = f"[{host}]" if ":" in host else host
        scheme = "rediss" if secure else "redis"
        if not wrong:
            yield "REDIS_HOST, REDIS_PORT, REDIS_DB", "url", f"{scheme}://{host}:{port}/{db}"
    known = {ENV_PREFIX + name.upper(): name for name in SCALARS}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable in NO_SETTINGS:
            continue
        if variable in known:
            yield variable, known[variable], environ[variable]
        else:
            name = variable.removeprefix(ENV_PREFIX).lower()
            near = difflib.get_close_matches(name, SCALARS, n=1)
            # All of them would hide the one that was meant.
            hint = (
                f"did you mean {ENV_PREFIX}{near[0].upper()}?"
                if near
                else f"(allowed: {', '.join(known)})"
            )
            troubles.append(Trouble(f"{variable}: no such setting; {hint}"))


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
    if name == "url":
        target.pop("url_file", None)


_SWITCHES = ("allow_partial", "expect_all_dead", "lock")

_TEXTS = ("pause_file", "stop_file")
"""Settings that are never a number, whatever they look like."""


def _read_scalar(name: str, text: str) -> str | float | bool:
    """What a word of the environment or the command line means for a setting."""
    if name in _SWITCHES and text in ("true", "false"):
        return text == "true"
    if len(SCALARS[name]) > 1 or name in _TEXTS:
        return text
    return _read_number(text)


def _read_number(text: str) -> str | float:
    if re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?[0-9]{1,18}\.[0-9]{1,18}", text) else text


def _read_word(text: str) -> str | float | bool | None:
    """What a variable's text is, where something else than text is wanted."""
    words = {"true": True, "false": False, "null": None}
    return words[text] if text in words else _read_number(text)


def _copied(settings: Any) -> Any:
    """The mappings and lists anew, so that the document stays as it was."""
    if isinstance(settings, dict):
        return {name: _copied(value) for name, value in settings.items()}
    return [*map(_copied, settings)] if isinstance(settings, list) else settings


def _at(settings: Any, path: Iterable[str | int]) -> Any:
    for part in path:
        settings = settings[part]
    return settings


def _put(settings: Any, path: Sequence[str | int], value: Any) -> None:
    _at(settings, path[:-1])[path[-1]] = value


def _take_out(settings: dict[str, Any], path: Sequence[str | int]) -> None:
    """Take out a setting, or the whole list of which an item is wrong."""
    while isinstance(path[-1], int):
        path = path[:-1]
    del _at(settings, path[:-1])[path[-1]]


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
    address = config.redis.address()
    if not password or parse_url(address).endpoint.password is not None:
        return config
    if not is_text(password):
        raise ConfigError("REDIS_PASSWORD: is no text in UTF-8")
    quoted = "".join(f"%{byte:02X}" for byte in password.encode())
    scheme, _, rest = address.partition("://")
    netloc = netloc_of(rest)
    user, at, host = netloc.rpartition("@")
    login = f"{user.rstrip(':') if at else ''}:{quoted}"
    url = f"{scheme}://{login}@{host}{rest[len(netloc) :]}"
    redis = msgspec.structs.replace(config.redis, url=url, url_file=None)
    return msgspec.structs.replace(config, redis=redis)


__all__ = [
    "SCALARS",
    "URL_FORMS",
    "Config",
    "Dask",
    "Keys",
    "Redis",
    "Timestamp",
    "TlsSettings",
    "check_file",
    "effective_yaml",
    "load",
    "parse_url",
    "validated",
    "without_password",
]
