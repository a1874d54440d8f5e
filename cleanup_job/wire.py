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
import ssl
from collections import deque
from collections.abc import Callable
from itertools import repeat
from time import perf_counter
from typing import Any

import redis
from hiredis import pack_command
from redis import connection as redis_connection

from cleanup_job.errors import CleanupJobError, ServerRefusedError, ServerUnavailableError
from cleanup_job.model import Endpoint, Timings, Tls

CONNECT_TIMEOUT_S = 5.0
"""How long to wait for a connection. On a network where this is too short, a sweep would
be hopeless anyway."""

REPLY_TIMEOUT_S = 30.0
"""How long to wait for one reply. Our own commands take milliseconds, so this only has to
outlast somebody else's slow script or a disk that stalls the server."""

Reply = Any
"""What the server answered, an error of it, or a `WireLostError` if no answer came."""

Handler = Callable[[Reply], None]


class WireLostError(ServerUnavailableError):
    """The connection broke; what was in flight has an unknown outcome."""

    def __init__(self, message: str, code: str = "connection_lost") -> None:
        super().__init__(message, code)


class Wire:
    """One connection with a queue of requests in flight."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connect and log in.

        Raises:
            ServerUnavailableError: unreachable, still loading.
            ServerRefusedError: wrong password, not a Redis, no such database.
        """
        self.endpoint = endpoint
        self.timings: Timings = {}
        self._in_flight: deque[tuple[str, float, Handler]] = deque()
        self._last_reply_at = 0.0
        self.is_lost = False
        self._connection = _connect(endpoint)

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

    def send(self, *words: bytes | str | int, then: Handler) -> None:
        """Send one request; `then` is called with its reply."""
        # redis-py packs with this too, but looks at each word in Python before.
        self.send_packed(str(words[0]), [pack_command(words)], then)  # type: ignore[arg-type]

    def send_packed(
        self, command: str, packed: list[bytes], then: Handler, *, count: int = 1
    ) -> None:
        """Send `count` requests that are packed already; `then` is called for each of them."""
        if self.is_lost:
            for _ in range(count):
                then(WireLostError(f"lost the connection to {self.endpoint.address}"))
            return
        self._in_flight.extend(repeat((command, perf_counter(), then), count))
        try:
            self._connection.send_packed_command(packed, check_health=False)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self._lose(error)

    def receive(self) -> None:
        """Wait for the next reply and hand it to its `then`."""
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
        self.timings.setdefault(command, []).append(now - max(sent_at, self._last_reply_at))
        self._last_reply_at = now
        then(reply)

    def drain(self) -> None:
        """Receive until nothing is in flight."""
        while self._in_flight:
            self.receive()

    def ask(self, *words: bytes | str | int) -> Reply:
        """Send one request, wait for it and whatever was before it.

        Raises:
            WireLostError: if the connection broke.
            CleanupJobError: what `refusal` makes of an error reply.
        """
        replies: list[Reply] = []
        self.send(*words, then=replies.append)
        self.drain()
        return accept(str(words[0]), replies[-1], self.endpoint)

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
        if isinstance(error, redis.exceptions.InvalidResponse) and not self._last_reply_at:
            lost = _no_redis(where, error)
        lost.__cause__ = error
        for _, _, then in in_flight:
            then(lost)


def accept(command: str, reply: Reply, endpoint: Endpoint) -> Reply:
    """The reply, if it is one.

    Raises:
        CleanupJobError: why none came, or what `refusal` makes of an error reply.
    """
    if isinstance(reply, CleanupJobError):
        raise reply
    if isinstance(reply, redis.RedisError):
        raise refusal(command, reply, endpoint)
    return reply


_open: dict[tuple[int, Endpoint], Wire] = {}


def borrow(endpoint: Endpoint) -> Wire:
    """This process's connection to a server, made if there is none or it broke."""
    key = (os.getpid(), endpoint)
    wire = _open.get(key)
    if wire is None or wire.is_stale:
        wire = _open[key] = Wire(endpoint)
    return wire


def discard(endpoint: Endpoint) -> None:
    """Close this process's connection to a server, so that the next `borrow` makes a new one."""
    wire = _open.pop((os.getpid(), endpoint), None)
    if wire is not None:
        wire.close()


def close_all() -> None:
    """Close all connections of this process; the next `borrow` makes new ones."""
    for pid, endpoint in [*_open]:
        if pid == os.getpid():
            discard(endpoint)


_PASSING = (
    redis.exceptions.ClusterDownError,  # and MASTERDOWN
    redis.exceptions.TryAgainError,
    redis.exceptions.AskError,  # and MOVED: only when it was followed too often
)
"""What redis-py makes of errors that pass; it strips the word that they begin with."""


def refusal(command: str, error: redis.RedisError, endpoint: Endpoint) -> CleanupJobError:
    """The error of ours that an error reply stands for."""
    where = endpoint.address
    text = str(error)
    if isinstance(error, redis.exceptions.NoPermissionError) or "NOPERM" in text:
        return ServerRefusedError(
            f"{where}: this user may not run {command} ({text}); "
            f"give it the right with ACL SETUSER … +{command.lower()} and access to the keys",
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


class _TlsConnection(_CLASSES.SSLConnection):  # type: ignore[misc]
    """redis-py's, which can also be told under which name the server has its certificate."""

    host: str

    def __init__(self, server_name: str | None, **options: Any) -> None:
        super().__init__(**options)
        self._server_name = server_name

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> Any:
        address: str = self.host
        self.host = self._server_name or address
        try:
            return super()._wrap_socket_with_ssl(sock)
        finally:
            self.host = address


def _tls_options(tls: Tls) -> dict[str, Any]:
    """Certificates are always verified, the server's name too; there is no way to turn it off."""
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": tls.ca_file,
        "ssl_certfile": tls.cert_file,
        "ssl_keyfile": tls.key_file,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }


def _connect(endpoint: Endpoint) -> Any:
    options: dict[str, Any] = {
        "db": endpoint.db,
        "username": endpoint.username,
        "password": str(endpoint.password) if endpoint.password is not None else None,
        "socket_timeout": REPLY_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "protocol": 2,  # known by every server in use; RESP3 brings us nothing
        "driver_info": None,  # no CLIENT SETINFO: one right less to ask for
    }
    if endpoint.unix_path is not None:
        connection = _CLASSES.UnixDomainSocketConnection(path=endpoint.unix_path, **options)
    elif endpoint.tls is not None:
        connection = _TlsConnection(
            endpoint.tls.server_name,
            host=endpoint.host,
            port=endpoint.port,
            **options,
            **_tls_options(endpoint.tls),
        )
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
        return _no_redis(where, error)
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return ServerUnavailableError(
            f"{where} is still loading its data; try again later", "loading"
        )
    if "invalid DB index" in text or "out of range" in text:
        return ServerRefusedError(f"{where} has no database {endpoint.db} ({text})", "no_database")
    if isinstance(error, redis.ResponseError):
        return refusal("AUTH or SELECT", error, endpoint)
    return ServerUnavailableError(
        f"cannot reach {where}: {text}; check the address and that the server runs", "unreachable"
    )


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
