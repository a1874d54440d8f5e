"""Addresses as people write them: URLs of a server, a socket, or Sentinels (pure)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from cleanup_job.errors import ConfigError
from cleanup_job.model import Access, Endpoint, Secret, is_text

URL_FORMS = (
    "redis://[user[:password]@]host[:port][/db], rediss:// for TLS, unix:///path[?db=N], or "
    "redis+sentinel://[user[:password]@]host[:port],host[:port]/service[/db], "
    "rediss+sentinel:// for TLS"
)

SENTINEL_PORT = 26379


HIDDEN = "***"
"""What is shown in place of a secret."""


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
    netloc = netloc_of(rest)
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


def netloc_of(rest: str) -> str:
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
    if not is_number(text):
        raise _bad_url(url, f"its database {text!r} is no number")
    return int(text)


def is_number(text: str) -> bool:
    """True for a plain, not too large one."""
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _bad_url(url: str, why: str) -> ConfigError:
    return ConfigError(f"redis.url: {without_password(url)!r}: {why}")
