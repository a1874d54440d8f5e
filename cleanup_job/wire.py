"""A worker's connection: requests in flight, each timed; a lost reply is never a retry.

redis-py makes the connection, logs in, packs and parses. What this module adds is a queue
of requests that were sent and not answered yet, so that the server works on the next one
while Python digests the last.

Invariants:
- Replies are handed out in the order of the requests.
- Nothing is sent twice. When the connection breaks, every request in flight has an unknown
  outcome: each `then` is given a `WireLostError` for a reply, and decides what that means.
- A connection belongs to the process that made it: after a fork a new one is made.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import repeat
from threading import get_ident
from time import perf_counter
from typing import Any

import redis
from hiredis import pack_command
from redis import connection as redis_connection

from cleanup_job import acl, tls
from cleanup_job.errors import (
    CleanupJobError,
    ConfigError,
    ServerRefusedError,
    ServerUnavailableError,
)
from cleanup_job.model import (
    Endpoint,
    OwnSecret,
    Secret,
    Tls,
)
from cleanup_job.timings import FEW, Timings, condensed
from cleanup_job.urls import parse_url

CONNECT_TIMEOUT_S = 5.0
"""How long to wait for a connection. On a network where this is too short, a sweep would
be hopeless anyway."""

REPLY_TIMEOUT_S = 30.0
"""How long to wait for one reply. Our own commands take milliseconds, so this only has to
outlast somebody else's slow script or a disk that stalls the server."""

LATENCY_PROBES = 3
"""The least of them counts: one may have to wait for somebody else's command."""

LONG_WAY_S = 0.005
"""A way that is longer is not measured if it was gone before: what somebody else's command adds is
little beside it, and a round trip more is not."""

Reply = Any
"""What the server answered, an error of it, or a `WireLostError` if no answer came."""

Handler = Callable[[Reply], None]

Question = tuple[Sequence[bytes | str], str]
"""A request, and the rule that gives access to its keys, for an error to name."""


class WireLostError(ServerUnavailableError):
    """The connection broke; what was in flight has an unknown outcome."""

    def __init__(self, message: str, code: str = "connection_lost") -> None:
        super().__init__(message, code)


class Wire:
    """One connection with a queue of requests in flight.

    Attributes:
        latency_s: the least that a reply takes, if `measure_latency` was called.
        apart_s: how long after the one before it the last reply came, or after it could have come.
            That is the work of whoever is slower, the server or we; the way is not in it.
        queued_s: how much longer the last reply took than the way: its own work, and what it
            waited for at the server and here.
        last_s: how long the server took for the last reply, beyond that; None if nobody can tell,
            since the reply was there before we had time for it.
    """

    def __init__(self, endpoint: Endpoint, reply_timeout_s: float | None = None) -> None:
        """Connect and log in.

        Args:
            endpoint: where.
            reply_timeout_s: how long to wait for one reply; `REPLY_TIMEOUT_S` by default.

        Raises:
            ServerUnavailableError: unreachable, still loading.
            ServerRefusedError: wrong password, not a Redis, no such database.
        """
        self.endpoint = endpoint
        self.timings: Timings = {}
        self._in_flight: deque[tuple[str, float, Handler]] = deque()
        self._last_reply_at = 0.0
        self._waiting_since = 0.0
        self.last_s: float | None = None
        self.apart_s = 0.0
        self.queued_s = 0.0
        self._least_s = float("inf")
        self.latency_s = 0.0
        self.is_lost = False
        timeout_s = REPLY_TIMEOUT_S if reply_timeout_s is None else reply_timeout_s
        self._connection = _connect(endpoint, timeout_s)

    def __len__(self) -> int:
        """How many requests are in flight."""
        return len(self._in_flight)

    @property
    def is_stale(self) -> bool:
        """True if the connection broke, or the server closed it while nobody used it."""
        if not self.is_lost and not self._in_flight:
            try:
                # Nothing is owed, so what can be read is the connection's end.
                self.is_lost = bool(self._connection.can_read(timeout=0))
            except (redis.RedisError, OSError):
                self.is_lost = True
        return self.is_lost

    def fileno(self) -> int:
        """Of the socket, to wait for several at once."""
        return int(self._connection._sock.fileno())  # noqa: SLF001 - redis-py has no other way

    def can_receive(self, timeout_s: float = 0.0) -> bool:
        """True if a reply (or its beginning), or the connection's end, has arrived or does so."""
        if timeout_s and not self._waiting_since:
            self._waiting_since = perf_counter()
        try:
            return bool(self._connection.can_read(timeout=timeout_s))
        except (redis.RedisError, OSError):
            return True

    def send(self, *words: bytes | str, then: Handler) -> None:
        """Send one request; `then` is called with its reply.

        Numbers come as text: hiredis asks Python for theirs without looking whether it got it,
        and the process would crash where a signal's handler raises at that moment.
        """
        # redis-py packs with this too, but looks at each word in Python before.
        packed = pack_command(words)  # type: ignore[arg-type]
        self.send_packed(str(words[0]), [packed], then)

    def send_all(self, requests: Sequence[Sequence[bytes | str]], then: Handler) -> None:
        """Send requests in one piece; `then` is called with each reply, in order."""
        if requests:
            packed = [pack_command(tuple(words)) for words in requests]  # type: ignore[arg-type]
            self._write([str(words[0]) for words in requests], packed, then)

    def send_packed(
        self, command: str, packed: list[bytes], then: Handler, *, count: int = 1
    ) -> None:
        """Send `count` requests that are packed already; `then` is called for each of them."""
        self._write(repeat(command, count), packed, then)

    def _write(self, commands: Iterable[str], packed: Sequence[bytes], then: Handler) -> None:
        """Send it in one piece.

        A server that hangs up with a word is heard then: a second write would fail, and hide it.
        """
        if self.is_lost:
            for _ in commands:
                then(WireLostError(f"lost the connection to {self.endpoint.address}"))
            return
        now = perf_counter()
        self._in_flight.extend((command, now, then) for command in commands)
        try:
            self._connection.send_packed_command([b"".join(packed)], check_health=False)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self._lose(error)

    def receive(self) -> None:
        """Wait for the next reply and hand it to its `then`."""
        waiting_since, self._waiting_since = self._waiting_since or perf_counter(), 0.0
        try:
            reply = self._connection.read_response(disable_decoding=True)
        except redis.exceptions.BusyLoadingError as error:
            self._lose(error)
            return
        except (redis.ResponseError, redis.AuthenticationError) as error:
            reply = error
        except (redis.RedisError, OSError) as error:
            self._lose(error)
            return
        command, sent_at, then = self._in_flight.popleft()
        now = perf_counter()
        # With several requests in flight the server starts on one when it is done with the
        # one before, so its own time is counted from there.
        took_s = now - max(sent_at, self._last_reply_at)
        stamped = self.timings.setdefault(command, [])
        stamped.extend((now, took_s, 1.0))
        if len(stamped) > FEW:
            self.timings[command] = condensed(stamped)
        # Nothing is quicker than the way. So what was measured in a bad moment gets better.
        self._least_s = min(self._least_s, now - sent_at)
        self.latency_s = min(self.latency_s, self._least_s)
        self.queued_s = now - sent_at - self.latency_s
        self.apart_s = now - max(sent_at + self.latency_s, self._last_reply_at)
        # If most of that time went to something else, such as other servers, it tells nothing.
        has_waited = now - waiting_since >= self.apart_s / 2
        self.last_s = self.apart_s if has_waited else None
        self._last_reply_at = now
        then(reply)

    def drain(self) -> None:
        """Receive until nothing is in flight."""
        while self._in_flight:
            self.receive()
        _ways[self.endpoint] = self._least_s

    def ask(self, *words: bytes | str, keys: str = "") -> Reply:
        """Send one request, wait for it and whatever was before it.

        Args:
            words: the request.
            keys: the rule that gives access to its keys, for an error to name.

        Raises:
            WireLostError: if the connection broke.
            CleanupJobError: what `refusal` makes of an error reply.
        """
        return self.ask_all((words, keys))[0]

    def ask_all(self, *questions: Question) -> list[Reply]:
        """Send several requests in one go, and wait for all of them.

        Raises:
            WireLostError: if the connection broke.
            CleanupJobError: what `refusal` makes of the first error reply.
        """
        replies: list[Reply] = []
        self.send_all([words for words, _ in questions], replies.append)
        self.drain()
        return [
            accept(_full_name(words), reply, self.endpoint, keys)
            for (words, keys), reply in zip(questions, replies, strict=True)
        ]

    def measure_latency(self) -> None:
        """Find out how long a reply takes that costs the server nothing, once per connection.

        An error is a reply too, and a broken connection is noticed by whoever uses it next.
        """
        if self.latency_s or self._in_flight:
            return
        known_s = min(self._least_s, _ways.get(self.endpoint, self._least_s))
        if LONG_WAY_S < known_s < float("inf"):
            self.latency_s = known_s
            return
        took_s = []
        for _ in range(LATENCY_PROBES):
            started = perf_counter()
            self.send("TIME", then=_ignore)
            self.drain()
            took_s.append(perf_counter() - started)
            if took_s[-1] > LONG_WAY_S:
                break
        self.latency_s = min(took_s)

    def take_timings(self) -> Timings:
        """The timings since the last call."""
        taken, self.timings = self.timings, {}
        return taken

    def close(self) -> None:
        """Close the connection. What is in flight is lost."""
        self.is_lost = True
        self._in_flight.clear()
        self._connection.disconnect()

    def _lose(self, error: Exception) -> None:
        """Close, and tell everybody who waits. The first who raises is heard."""
        in_flight = list(self._in_flight)
        self.close()
        where = self.endpoint.address
        lost: CleanupJobError = WireLostError(
            f"lost the connection to {where} with {len(in_flight)} requests in flight: "
            f"{_reason(error)}"
        )
        if not self._last_reply_at:  # not a word so far
            wants_tls = _if_it_speaks_tls(error, self.endpoint)
            if wants_tls is not None:
                lost = wants_tls
            elif isinstance(error, redis.exceptions.InvalidResponse):
                lost = _no_redis(where, error)
        lost.__cause__ = error
        for _, _, then in in_flight:
            then(lost)


_CONTAINERS = ("CLUSTER", "OBJECT", "SCRIPT", "SENTINEL")
"""Commands that are nothing without a subcommand, which has a right of its own."""


def _full_name(words: Sequence[bytes | str]) -> str:
    command = str(words[0])
    return f"{command} {words[1]!s}" if command in _CONTAINERS else command


def _ignore(_: Reply) -> None:
    """For replies that nothing depends on."""


def accept(command: str, reply: Reply, endpoint: Endpoint, keys: str = "") -> Reply:
    """The reply, if it is one.

    Raises:
        CleanupJobError: why none came, or what `refusal` makes of an error reply.
    """
    if isinstance(reply, CleanupJobError):
        raise reply
    if isinstance(reply, redis.RedisError):
        raise refusal(command, reply, endpoint, keys)
    return reply


_ways: dict[Endpoint, float] = {}
"""The least that a reply took, by where it came from; of the last connection that told."""

_open: dict[tuple[int, int, Endpoint], Wire] = {}
"""By process, since a fork copies them; and by thread, since each may be at a run of its own."""


def borrow(endpoint: Endpoint) -> Wire:
    """This thread's connection to a server, made if there is none or it broke."""
    key = (os.getpid(), get_ident(), endpoint)
    wire = _open.get(key)
    if wire is None or wire.is_stale:
        wire = _open[key] = Wire(endpoint)
    return wire


def discard(endpoint: Endpoint) -> None:
    """Close this thread's connection to a server, so that the next `borrow` makes a new one."""
    wire = _open.pop((os.getpid(), get_ident(), endpoint), None)
    if wire is not None:
        wire.close()


def close_all() -> None:
    """Close all connections of this thread; the next `borrow` makes new ones."""
    for pid, thread, endpoint in [*_open]:
        if (pid, thread) == (os.getpid(), get_ident()):
            discard(endpoint)


def close_everywhere() -> None:
    """Close the connections of all threads of this process, when none of them is at work."""
    for key in [*_open]:
        if key[0] == os.getpid() and (wire := _open.pop(key, None)) is not None:
            wire.close()


_PASSING = (
    redis.exceptions.ClusterDownError,  # and MASTERDOWN
    redis.exceptions.TryAgainError,
    redis.exceptions.AskError,  # and MOVED: only when it was followed too often
)
"""What redis-py makes of errors that pass; it strips the word that they begin with."""


def refusal(
    command: str, error: redis.RedisError, endpoint: Endpoint, keys: str = ""
) -> CleanupJobError:
    """The error of ours that an error reply stands for.

    Args:
        command: with its subcommand.
        error: the reply.
        endpoint: whose.
        keys: the rule that gives access to the command's keys.
    """
    where = endpoint.address
    text = str(error)
    right = acl.rule(command)
    command = command.partition(" ")[0]
    if isinstance(error, redis.exceptions.NoPermissionError) or "NOPERM" in text:
        if "permissions to access" in text:
            right = keys or "~… for these keys"
        return ServerRefusedError(
            f"{where}: this user may not run {command} ({text}); give it the right with "
            f"ACL SETUSER … {right}; cleanup-job acl prints all that it needs",
            "no_permission",
        )
    if isinstance(error, redis.exceptions.ReadOnlyError) or text.startswith("READONLY"):
        return ServerRefusedError(
            f"{where} is a read-only replica; give the address of its primary", "replica"
        )
    if isinstance(error, redis.AuthenticationError) or text.startswith("NOAUTH"):
        return _wrong_password(where, text)
    if isinstance(error, _PASSING) or text.startswith(("BUSY", "LOADING", "NOREPLICAS", "MISCONF")):
        return ServerUnavailableError(f"{where} cannot answer {command} now: {text}", "busy")
    return ServerRefusedError(f"{where} answered {command} with an error: {text}", "error_reply")


_CLASSES: Any = redis_connection  # its connections are not typed


class _TlsConnection(_CLASSES.Connection):  # type: ignore[misc]
    """redis-py's plain one over our own handshake.

    Its `SSLConnection` trusts the system's authorities beside a `ca_file`, has no server name of
    its own, and can't tell a failed handshake from an address that nobody listens at.
    """

    def __init__(self, endpoint: Endpoint, settings: Tls, **options: Any) -> None:
        super().__init__(host=endpoint.host, port=endpoint.port, **options)
        self._endpoint = endpoint
        self._settings = settings

    def _connect(self) -> socket.socket:
        connected = super()._connect()
        try:
            return tls.secured(connected, self._settings, self._endpoint)
        except CleanupJobError:
            connected.close()
            raise


_known_password: Secret | None = None
"""Of this process, for endpoints that came without theirs."""


def know_password(password: Secret | None) -> None:
    """Have it for endpoints with an `OwnSecret`, in place of the environment's."""
    global _known_password
    _known_password = password


def knows_password() -> bool:
    """True if this process has one for endpoints with an `OwnSecret`."""
    return _own_password() is not None


def _own_password() -> str | None:
    """What the process was told, or what its environment has."""
    if _known_password is not None:
        return str(_known_password)
    if os.environ.get("REDIS_PASSWORD"):
        return os.environ["REDIS_PASSWORD"]
    with suppress(ConfigError):
        password = parse_url(os.environ.get("REDIS_URL", "")).endpoint.password
        return None if password is None else str(password)
    return None


def _password_of(endpoint: Endpoint) -> str | None:
    if isinstance(endpoint.password, OwnSecret):
        return _own_password()
    return None if endpoint.password is None else str(endpoint.password)


def _connect(endpoint: Endpoint, reply_timeout_s: float) -> Any:
    options: dict[str, Any] = {
        "db": endpoint.db,
        "username": endpoint.username,
        "password": _password_of(endpoint),
        "socket_timeout": reply_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "protocol": 2,  # known by every server in use; RESP3 brings us nothing
        "driver_info": None,  # no CLIENT SETINFO: one right less to ask for
    }
    if endpoint.unix_path is not None:
        connection = _CLASSES.UnixDomainSocketConnection(path=endpoint.unix_path, **options)
    elif endpoint.tls is not None:
        connection = _TlsConnection(endpoint, endpoint.tls, **options)
    else:
        connection = _CLASSES.Connection(host=endpoint.host, port=endpoint.port, **options)
    try:
        connection.connect()
    except (redis.RedisError, OSError, ValueError) as error:
        connection.disconnect()
        raise _why_no_connection(error, endpoint) from error
    return connection


def _why_no_connection(error: Exception, endpoint: Endpoint) -> CleanupJobError:
    where = endpoint.address
    text = _reason(error)
    if isinstance(error, redis.AuthenticationError) or "NOAUTH" in text or "WRONGPASS" in text:
        return _wrong_password(where, text)
    if isinstance(error, redis.exceptions.InvalidResponse | ValueError) or "Protocol" in text:
        return _if_it_speaks_tls(error, endpoint) or _no_redis(where, error)
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return ServerUnavailableError(
            f"{where} is still loading its data; try again later", "loading"
        )
    if "invalid DB index" in text or "out of range" in text:
        return ServerRefusedError(f"{where} has no database {endpoint.db} ({text})", "no_database")
    if "SELECT is not allowed in cluster mode" in text:
        return only_database_0(endpoint)
    if "unknown command" in text and "SELECT" in text:
        return ServerRefusedError(
            f"{where} has no databases ({text}); if it is a Sentinel, write redis+sentinel://"
            f"{where}/SERVICE/{endpoint.db}",
            "no_database",
        )
    if isinstance(error, redis.ResponseError):
        return refusal("SELECT" if endpoint.db else "AUTH", error, endpoint)
    return _if_it_speaks_tls(error, endpoint) or ServerUnavailableError(
        f"cannot reach {where}: {text}; check the address and that the server runs", "unreachable"
    )


def only_database_0(endpoint: Endpoint) -> ServerRefusedError:
    """What to say of another database of a cluster."""
    return ServerRefusedError(
        f"{endpoint.address} is a node of a cluster, which is swept in database 0 only; write "
        f"the URL without the database {endpoint.db}",
        "no_database",
    )


def _if_it_speaks_tls(error: BaseException, endpoint: Endpoint) -> ServerRefusedError | None:
    """The reason why a server without an answer has none, if it is that it wants TLS.

    Where it would be slow to ask, since nobody answers there, nobody is asked.
    """
    if endpoint.tls is not None or endpoint.unix_path is not None or _is_silence(error):
        return None
    if not tls.answers_tls(endpoint):
        return None
    return ServerRefusedError(
        f"{endpoint.address} speaks TLS; write the URL with rediss in place of redis", "wants_tls"
    )


def _is_silence(error: BaseException) -> bool:
    """True unless a connection was made, and then answered oddly or closed by the other side."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionResetError | BrokenPipeError):
            return False
        if isinstance(cause, OSError):
            return True
        cause = cause.__cause__ or cause.__context__
    return isinstance(error, redis.TimeoutError)


def _no_redis(where: str, error: Exception) -> ServerRefusedError:
    return ServerRefusedError(
        f"{where} is not a Redis or Valkey server ({_reason(error)})", "not_redis"
    )


def _wrong_password(where: str, text: str) -> ServerRefusedError:
    return ServerRefusedError(
        f"{where} did not accept the login ({text}); "
        "set REDIS_PASSWORD, or user and password in REDIS_URL",
        "wrong_password",
    )


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words: redis-py wraps the system's own."""
    if isinstance(error, redis.TimeoutError | socket.timeout):
        return "timed out"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
