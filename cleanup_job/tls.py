"""TLS: whom to trust, who we are, and what a failed handshake means.

Certificates are always verified, and the server's name too; nothing turns that off. With
`ca_file` that authority alone is trusted, without it those of the system.

The two probes answer what people get wrong most: TLS spoken to a plain port and the other way
round both end in a silence or a closed connection that says nothing of the cause. They ask once,
only after a failure, and send neither login nor data.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from cleanup_job.errors import (
    CleanupJobError,
    ConfigError,
    ServerRefusedError,
    ServerUnavailableError,
)
from cleanup_job.model import Endpoint, Tls

HANDSHAKE_TIMEOUT_S = 5.0

PROBE_TIMEOUT_S = 2.0

_HOSTNAME_MISMATCH = (62, 64)
_EXPIRED = 10
_NOT_YET_VALID = 9
"""OpenSSL's X509_V_ERR_… numbers."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "BAD_RECORD_TYPE")
"""What OpenSSL says of an answer that is no TLS."""

_WANTS_CERTIFICATE = ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE")
"""What servers say to a client without a certificate, in TLS 1.3 and in TLS 1.2."""


@lru_cache(maxsize=8)
def context(tls: Tls) -> ssl.SSLContext:
    """What a handshake needs.

    Raises:
        ConfigError: naming the setting whose file can't be read, or holds something else.
    """
    for name in ("ca_file", "cert_file", "key_file"):
        path = getattr(tls, name)
        if path is not None:
            _require_readable(f"redis.tls.{name}", path)
    if tls.key_file is not None and tls.cert_file is None:
        raise ConfigError("redis.tls.key_file: needs a cert_file beside it")
    try:
        # Given a file, this loads it alone; else the system's authorities.
        made = ssl.create_default_context(cafile=tls.ca_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"redis.tls.ca_file: {tls.ca_file!r} holds no certificate in PEM form"
        ) from error
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.cert_file is not None:
        try:
            made.load_cert_chain(tls.cert_file, tls.key_file, password=_no_passphrase)
        except ssl.SSLError as error:
            raise ConfigError(
                f"redis.tls.cert_file, key_file: {tls.cert_file!r} and "
                f"{tls.key_file or 'the same file'!r} hold no certificate with its key in PEM form"
            ) from error
    return made


def _require_readable(place: str, path: str) -> None:
    try:
        Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{place}: {path!r} cannot be read: {reason}") from error


def _no_passphrase() -> NoReturn:
    """Instead of OpenSSL's question at the terminal."""
    raise ConfigError("redis.tls.key_file: the key is encrypted; give one without a passphrase")


def secured(connected: socket.socket, tls: Tls, endpoint: Endpoint) -> ssl.SSLSocket:
    """The socket after a handshake that both sides agree to.

    Raises:
        ServerRefusedError: a certificate is not good, or wanted; the server speaks no TLS.
        ServerUnavailableError: the connection broke, or nobody answers.
    """
    reply_timeout_s = connected.gettimeout()
    connected.settimeout(HANDSHAKE_TIMEOUT_S)
    sock = None
    try:
        sock = context(tls).wrap_socket(connected, server_hostname=tls.server_name or endpoint.host)
        sock.settimeout(reply_timeout_s)
        _hear_verdict(sock, endpoint)
    except (OSError, ValueError) as error:
        if sock is not None:
            sock.close()
        raise _why(error, tls, endpoint) from error
    except CleanupJobError:
        if sock is not None:
            sock.close()
        raise
    return sock


def _hear_verdict(sock: ssl.SSLSocket, endpoint: Endpoint) -> None:
    """Wait for the server's word.

    In TLS 1.3 the client's side of a handshake succeeds before the server has looked at the
    client's certificate. Its refusal comes afterwards, and could get lost where we write first.
    """
    with contextlib.suppress(OSError):
        sock.sendall(b"PING\r\n")
    answer = b""
    while not answer.endswith(b"\n"):
        part = sock.recv(1024)
        if not part:
            raise ConnectionError("Connection closed by server")
        answer += part
        if answer[:1] not in (b"+", b"-"):
            raise ServerRefusedError(
                f"{endpoint.address} speaks TLS, but is not a Redis or Valkey server", "not_redis"
            )


def _why(error: Exception, tls: Tls, endpoint: Endpoint) -> CleanupJobError:
    where = endpoint.address
    if isinstance(error, ssl.SSLCertVerificationError):
        return ServerRefusedError(_why_not_trusted(error, tls, endpoint), "certificate")
    reason = getattr(error, "reason", None) or ""
    if reason in _WANTS_CERTIFICATE and tls.cert_file is None:
        return ServerRefusedError(
            f"{where} wants a client certificate; set redis.tls.cert_file and key_file",
            "certificate",
        )
    if "ALERT" in reason:
        ours = f"the certificate in {tls.cert_file!r}" if tls.cert_file else "the TLS handshake"
        return ServerRefusedError(
            f"{where} does not accept {ours} ({reason.replace('_', ' ').lower()})", "tls_refused"
        )
    if reason in _NO_TLS or answers_plainly(endpoint):
        return ServerRefusedError(
            f"{where} speaks no TLS; write the URL with redis in place of rediss, or give the port "
            "that does",
            "no_tls",
        )
    if isinstance(error, UnicodeError):
        return ServerRefusedError(
            f"{tls.server_name or endpoint.host!r} is no name that TLS could verify ({error})",
            "certificate",
        )
    if isinstance(error, TimeoutError):
        text = "timed out"
    else:
        text = getattr(error, "strerror", None) or str(error)
    return ServerUnavailableError(
        f"cannot reach {where}: the TLS handshake failed: {text}; check the address and that the "
        "server runs",
        "unreachable",
    )


def _why_not_trusted(error: ssl.SSLCertVerificationError, tls: Tls, endpoint: Endpoint) -> str:
    whose = f"the certificate of {endpoint.address}"
    if error.verify_code in _HOSTNAME_MISMATCH:
        return (
            f"{whose} is for another name than {tls.server_name or endpoint.host!r}; give the "
            "address that it names, or set redis.tls.server_name to one of its names"
        )
    if error.verify_code == _EXPIRED:
        return f"{whose} has expired (or its authority's has); renew it"
    if error.verify_code == _NOT_YET_VALID:
        return f"{whose} is not valid yet; check the clocks of this machine and of its issuer"
    trusted = f"the one in {tls.ca_file!r}" if tls.ca_file else "any that the system trusts"
    return (
        f"{whose} is by another authority than {trusted} ({error.verify_message}); set "
        "redis.tls.ca_file, or --ca-file, to the file of its authority"
    )


def answers_plainly(endpoint: Endpoint) -> bool:
    """True if a server there answers like a Redis without TLS."""
    try:
        with socket.create_connection((endpoint.host, endpoint.port), PROBE_TIMEOUT_S) as probe:
            probe.sendall(b"PING\r\n")
            return probe.recv(1) in (b"+", b"-")
    except (OSError, ValueError):
        return False


def answers_tls(endpoint: Endpoint) -> bool:
    """True if a server there answers the first words of a TLS handshake with TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        hello = ssl.create_default_context().wrap_bio(
            incoming, outgoing, server_hostname=endpoint.host
        )
        with contextlib.suppress(ssl.SSLWantReadError):
            hello.do_handshake()
        with socket.create_connection((endpoint.host, endpoint.port), PROBE_TIMEOUT_S) as probe:
            probe.sendall(outgoing.read())
            return probe.recv(1) in (b"\x15", b"\x16")  # an alert, a handshake
    except (OSError, ValueError):
        return False
