"""One run at a time at the same keys: a lease on the server.

It is a key that holds who took it, with a random token, and that expires by itself. The job keeps
it alive; a run that is killed leaves it for `LEASE_S` at most, and on the same machine the next
run sees that its process is gone and does not wait.

Invariants:
- Only its owner renews or releases it: both compare the whole value first, in one step with what
  they do (`lua/lease.lua`).
- `holds_until_s` never lies in the future of what the server granted: it is counted from before the
  request. Whoever stops by then has stopped before somebody else can take the lease.

Not promised: that no two runs ever work at once. A failover may forget a lease, and a server whose
memory is full takes none (and needs the purge more than anybody). Two runs harm nothing: every
delete checks its heartbeat by itself.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from pathlib import Path

import msgspec
import redis

from cleanup_job import wire as wires
from cleanup_job.acl import LEASE_PREFIX, LEASE_RULE
from cleanup_job.errors import CleanupJobError, LockedError
from cleanup_job.keyspace import slot_of
from cleanup_job.model import Endpoint, Problem, Routes, Schema, printable
from cleanup_job.routes import Router, Words
from cleanup_job.wire import Reply, Wire

LEASE_S = 60.0
"""For how long a lease is good without being renewed. A judge of millions of heartbeats takes
seconds in which nobody renews, and a reply may take half of this."""

RENEW_S = 15.0
"""How old a lease gets before it is renewed: three tries before it ends."""

RETRY_S = 1.0
"""How soon a renewal is tried again that did not get through."""

PATIENCE_S = 1.0
"""How long a renewal waits for a cluster that fails over. It is tried again; the run goes on."""

RELEASE_PATIENCE_S = 5.0
"""The same for giving it back: if that fails, a run on another machine waits for a minute."""

REPLY_TIMEOUT_S = 5.0
"""How long to wait for one reply. The run waits meanwhile, and a renewal is tried again."""

LEASE_LOST = "lease_lost"

_SCRIPT = (files(__package__) / "lua" / "lease.lua").read_bytes()
_LEASE_MS = str(int(LEASE_S * 1000))
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()


class Holder(msgspec.Struct, frozen=True):
    """Who has a lease.

    Attributes:
        machine: which kernel, and which of its namespaces, `pid` is a number of.
        since: RFC 3339, by the holder's clock.
    """

    token: str
    run_id: str
    host: str
    pid: int
    machine: str
    since: str

    @property
    def is_gone(self) -> bool:
        """True if its process ran on this machine, and does not any more."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # somebody else's process is a process
        return False

    def __str__(self) -> str:
        return f"run {self.run_id} on {self.host}, pid {self.pid}, since {self.since}"


class Lease:
    """The right of one run to work at the keys of a schema.

    Attributes:
        holds_until_s: by the monotonic clock, until when nobody else can take it.
        lost: why it is not ours any more.
        forgone: why the run goes on without it.
    """

    def __init__(self, routes: Routes, schema: Schema, run_id: str) -> None:
        self.key = lease_key(schema)
        self.slot = slot_of(self.key)
        self.holds_until_s = 0.0
        self.lost: Problem | None = None
        self.forgone: Problem | None = None
        self._routes = routes
        self._router: Router | None = None
        self._renew_at = 0.0
        self._value = msgspec.json.encode(
            Holder(
                token=secrets.token_hex(16),
                run_id=run_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                machine=_machine(),
                since=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            )
        )

    def take(self) -> None:
        """Take it, or forgo it where the server has no memory for it.

        Raises:
            LockedError: another run has it.
            CleanupJobError: the server refuses, or can't be asked.
        """
        with self._connected():
            self._rehearse()
            taken = self._set()
            if _is_full(taken):
                self.forgo("the server's memory is full")
                return
            value = self._act("retake", self._value)
            if isinstance(value, bytes):
                # The value is compared, so that this can't hit a lease that was taken meanwhile.
                if not (_holder(value, is_gone=True) and self._act("release", value) == 1):
                    raise self._locked(value)
                self._set()
                value = self._act("retake", self._value)
        if isinstance(value, bytes):
            raise self._locked(value)
        self._accept("EVALSHA", value)

    def forgo(self, why: str) -> None:
        """Go on without it."""
        self.holds_until_s = math.inf
        self.forgone = Problem("no_lease", f"went on without a lease: {why}", 1)

    def _rehearse(self) -> None:
        """Send all that is needed later to a key that is not there, the script's commands too.

        A right that is missing is missed now, and by its name: a script may not tell it.
        """
        probe = self.key + b":probe"
        requests: dict[str, Words] = {
            "GET": ("GET", probe),
            "PEXPIRE": ("PEXPIRE", probe, _LEASE_MS),
            "UNLINK": ("UNLINK", probe),
            "SCRIPT LOAD": ("SCRIPT", "LOAD", _SCRIPT),
            "EVALSHA": ("EVALSHA", _SHA, "1", probe, "keep", "", _LEASE_MS),
        }
        for command, reply in zip(requests, self._ask_all(*requests.values()), strict=True):
            self._accept(command, reply)

    def _set(self) -> Reply:
        reply = self._ask("SET", self.key, self._value, "NX", "PX", _LEASE_MS)
        return reply if _is_full(reply) else self._accept("SET", reply)

    def _locked(self, value: bytes) -> LockedError:
        return LockedError(
            f"another run is at these keys: {_holder(value) or printable(value)}; wait for its "
            f"end (if it was killed, for {LEASE_S:.0f} s), or give --no-lock"
        )

    def keep(self, *, deleting: bool) -> Problem | None:
        """Renew it, if it is time for that.

        Args:
            deleting: something may have been deleted. Before that, a lease that is simply gone
                (the server was restarted) is taken once more.

        Returns:
            Why it is lost.
        """
        now = time.monotonic()
        if self.lost is not None or self.forgone is not None or now < self._renew_at:
            return self.lost
        self._renew_at = now + RETRY_S
        try:
            reply = self._act("keep" if deleting else "retake", self._value, PATIENCE_S)
        except CleanupJobError as error:
            reply = error
        if isinstance(reply, bytes):
            self._lose(f"another run took it: {_holder(reply) or printable(reply)}")
        elif reply == 0:
            self._lose("it is gone from the server")
        elif reply != 1 and time.monotonic() >= self.holds_until_s:
            self._lose(f"it could not be renewed in time: {reply}")
        return self.lost

    def release(self) -> None:
        """Give it back, if it is ours. Else it ends by itself."""
        if self.forgone is not None:
            return
        with suppress(CleanupJobError):
            self._act("release", self._value, RELEASE_PATIENCE_S)
        self.holds_until_s = 0.0

    def _lose(self, why: str) -> None:
        self.lost = Problem(LEASE_LOST, f"the lease was lost: {why}", 1)
        self.holds_until_s = 0.0

    def _act(self, what: str, value: bytes, patience_s: float | None = None) -> Reply:
        """Run the script."""
        asked_at = time.monotonic()
        words = ("EVALSHA", _SHA, "1", self.key, what, value, _LEASE_MS)
        reply = self._ask(*words, patience_s=patience_s, first=("SCRIPT", "LOAD", _SCRIPT))
        if reply == 1 and what != "release":
            self.holds_until_s = asked_at + LEASE_S
            self._renew_at = asked_at + RENEW_S
        return reply

    def _ask(
        self,
        *words: bytes | str,
        patience_s: float | None = None,
        first: tuple[bytes | str, ...] = (),
    ) -> Reply:
        return self._ask_all(words, patience_s=patience_s, first=first)[0]

    def _ask_all(
        self, *requests: Words, patience_s: float | None = None, first: Words = ()
    ) -> list[Reply]:
        """Ask the lease's server."""
        with self._connected(patience_s) as router:
            replies: list[Reply] = [None] * len(requests)
            for place, words in enumerate(requests):
                router.send(self.slot, words, partial(replies.__setitem__, place), first=first)
            while router.in_flight:
                router.wait()
            return replies

    @contextmanager
    def _connected(self, patience_s: float | None = None) -> Iterator[Router]:
        """A connection of its own, for one question or for several.

        The stages' connections may have replies on the way, and this one is rarely needed.
        """
        if self._router is not None:
            yield self._router
            return
        router = self._router = Router(self._routes, connect=_connect, patience_s=patience_s)
        try:
            yield router
        finally:
            self._router = None
            router.close()
            self._routes = router.routes  # it may have followed a failover

    def _accept(self, command: str, reply: Reply) -> Reply:
        endpoint = self._routes.access.endpoint
        if isinstance(reply, redis.RedisError):
            error = wires.refusal(command, reply, endpoint, LEASE_RULE)
            raise type(error)(f"{error}; --no-lock runs without a lease", error.code)
        return wires.accept(command, reply, endpoint)


@contextmanager
def held(lease: Lease | None, uncovered: frozenset[int] = frozenset()) -> Iterator[None]:
    """Hold a lease meanwhile, if there is one and if its slot is not one that nobody serves.

    Raises:
        LockedError: another run has it.
        CleanupJobError: the server refuses, or can't be asked.
    """
    if lease is None:
        yield
        return
    if lease.slot in uncovered:
        lease.forgo("nobody serves its slot")
    else:
        lease.take()
    try:
        yield
    except KeyboardInterrupt:
        raise  # at once: nobody waits for a server any more, and the lease ends by itself
    except BaseException:
        # Why the run ended is worth more than the lease, which ends by itself.
        with suppress(MemoryError):
            lease.release()
        raise
    lease.release()


def without_lease(lease: Lease | None) -> list[Problem]:
    """Why there was none, although one was wanted."""
    return [lease.forgone] if lease is not None and lease.forgone is not None else []


def lease_key(schema: Schema) -> bytes:
    """The lease on the keys of these patterns, whatever their families are called.

    The braces have all keys that begin with it in its slot.
    """
    texts = "\n".join(sorted(pattern.text for pattern in schema.patterns))
    return LEASE_PREFIX + b"{%b}" % hashlib.sha256(texts.encode()).hexdigest()[:16].encode()


def _holder(value: bytes, *, is_gone: bool = False) -> Holder | None:
    """Who wrote this, if a run did; with `is_gone` only one whose process is no more."""
    try:
        holder = msgspec.json.decode(value, type=Holder)
    except msgspec.DecodeError:
        return None
    return holder if holder.is_gone or not is_gone else None


def _connect(endpoint: Endpoint) -> Wire:
    return Wire(endpoint, REPLY_TIMEOUT_S)


def _is_full(reply: Reply) -> bool:
    return isinstance(reply, redis.exceptions.OutOfMemoryError)


def _machine() -> str:
    """What makes a process id unique: the boot of a kernel, and the namespace; "" if not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
