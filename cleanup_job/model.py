"""The values that travel between stages and processes (pure).

All are frozen and picklable. Names of keys and ids are bytes. Many of them travel as one
packed value (`pack`, `unpack`), which costs the receiving process a split in C instead of
an object per name in the pickle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from cleanup_job.keyspace import Pattern

HEARTBEAT = "heartbeat"
"""The name of the heartbeat family in counts and reports."""

OUTCOMES = ("deleted", "gone", "spared", "failed", "unknown")
"""What can become of a planned key. Each planned key ends in exactly one of them."""


class Secret(str):
    """A password that no repr shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Endpoint(msgspec.Struct, frozen=True):
    """Where a server is and how to log in; enough for a worker to connect by itself."""

    host: str = "127.0.0.1"
    port: int = 6379
    unix_path: str | None = None
    db: int = 0
    username: str | None = None
    password: Secret | None = None

    @property
    def address(self) -> str:
        """`host:port` or the socket's path, for people; never a password."""
        if self.unix_path is not None:
            return self.unix_path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Schema(msgspec.Struct, frozen=True):
    """Which keys matter: the heartbeat's pattern and the owned families', by name."""

    heartbeat: Pattern
    owned: tuple[tuple[str, Pattern], ...]

    @property
    def family_names(self) -> tuple[str, ...]:
        """The owned families in order, the heartbeat last, as keys are deleted."""
        return (*(name for name, _ in self.owned), HEARTBEAT)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """Every pattern, the heartbeat's first."""
        return (self.heartbeat, *(pattern for _, pattern in self.owned))


class Rule(msgspec.Struct, frozen=True):
    """When a heartbeat is stale, and where its time stands."""

    stale_after_ms: int
    fields: tuple[str, ...]
    unit_ms: int


class Kind(StrEnum):
    """What a heartbeat, or its absence, says of a coordinator."""

    LIVE = "live"
    STALE = "stale"
    UNREADABLE = "unreadable"
    FUTURE = "future"
    ORPHANED = "orphaned"


class Server(msgspec.Struct, frozen=True):
    """What INFO told of the server."""

    address: str
    product: str
    version: str
    mode: str
    run_id: str
    keys: int
    cursors_partition: bool
    tracks_idle_time: bool
    cpu_s: float
    used_memory: int


class Partition(msgspec.Struct, frozen=True):
    """A share of one server's keyspace: part `index` of `count` in bit-reversed cursor order.

    A sequential one follows the cursors as they come, which every server's documentation
    promises to cover the whole keyspace.
    """

    node: str
    index: int
    count: int
    sequential: bool = False

    @property
    def range(self) -> str:
        """The share in words, for the report."""
        return "all" if self.sequential else f"cursors {self.index + 1}/{self.count}"


Timings = dict[str, list[float]]
"""Seconds that each call of a command took on the server's side of the wire, by command."""


class Sample(msgspec.Struct, frozen=True):
    """One coordinator as an example of its verdict."""

    coordinator_id: bytes
    kind: Kind
    reason: str
    age_ms: int | None = None


class SurveyTask(msgspec.Struct, frozen=True):
    """Walk one partition once. `keys` is the size of its server's keyspace."""

    endpoint: Endpoint
    partition: Partition
    schema: Schema
    rule: Rule
    keys: int


class Findings(msgspec.Struct, frozen=True):
    """What one partition holds. Names are packed; a key may occur more than once.

    Attributes:
        scanned: keys that the SCAN calls returned.
        live: ids.
        stale: ids, with their heartbeats' values and ages in step.
        kept: coordinators whose heartbeat is unreadable or in the future, with the reason.
        owned: keys per owned family, in the schema's order.
    """

    partition: Partition
    scanned: int
    seconds: float
    attempts: int
    live: bytes
    stale: bytes
    stale_values: bytes
    stale_ages_ms: tuple[int, ...]
    kept: tuple[Sample, ...]
    owned: tuple[bytes, ...]
    timings: Timings


class Batch(msgspec.Struct, frozen=True):
    """Keys that one guarded call deletes together, or not at all.

    Attributes:
        guards: heartbeat keys to re-read; the first `own_heartbeats` of them are deleted
            with the batch, the others are only watched.
        guard_ids: the ids of `guards`.
        expected: the value that each guard had when it was judged; `ABSENT` for none.
        keys: owned keys per family, in the schema's order.
        needs: in step with `keys`, which guards must be as judged for the key to go. The
            first one is the coordinator that the key is counted under.
        min_idle_s: every key must have been untouched for so long; 0 asks nothing.
        wave: batches of wave 1 start only when all of wave 0 are through. A coordinator
            with too many keys for one batch has its heartbeat in wave 1.
    """

    guards: tuple[bytes, ...]
    guard_ids: tuple[bytes, ...]
    own_heartbeats: int
    expected: tuple[bytes, ...]
    keys: tuple[tuple[bytes, ...], ...]
    needs: tuple[tuple[tuple[int, ...], ...], ...]
    min_idle_s: int = 0
    wave: int = 0

    @property
    def is_of_orphans(self) -> bool:
        """True if its keys belong to no heartbeat; orphans always have to be idle."""
        return self.min_idle_s > 0

    @property
    def size(self) -> int:
        """How many keys the batch plans to delete."""
        return self.own_heartbeats + sum(len(family) for family in self.keys)


ABSENT = b""
"""The expected value of a heartbeat that is not there. No heartbeat with an empty value is
ever judged stale, so this can't be mistaken for one."""


class PurgeTask(msgspec.Struct, frozen=True):
    """Some batches for one worker, to be sent with several in flight."""

    endpoint: Endpoint
    schema: Schema
    rule: Rule
    batches: tuple[Batch, ...]


class IdleTask(msgspec.Struct, frozen=True):
    """Find those of `keys` (packed) that were touched less than `min_idle_s` ago."""

    endpoint: Endpoint
    keys: bytes
    min_idle_s: int


class Problem(msgspec.Struct, frozen=True):
    """Something that went wrong, or needs attention, with examples."""

    code: str
    message: str
    count: int
    samples: tuple[str, ...] = ()


Counts = dict[str, dict[str, int]]
"""Keys by family and outcome."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of some batches, from the server's replies alone.

    Attributes:
        counts: keys by family and outcome.
        purged: coordinators, or orphans, whose last keys went.
        spared: ids whose heartbeat, or idle time, had changed.
        revived: those of `spared` that were stale when judged and fresh when their turn came.
        unsettled: ids of which some key failed or is unclear; their heartbeat must stay.
        not_attempted: keys that were counted as failed because the run was stopped.
    """

    counts: Counts
    purged: frozenset[bytes]
    spared: frozenset[bytes]
    revived: frozenset[bytes]
    unsettled: frozenset[bytes]
    not_attempted: int
    problems: tuple[Problem, ...]
    timings: Timings


class Pulse(Protocol):
    """How a running task tells that it gets on, and learns that it should stop."""

    def advance(self, keys: int) -> None:
        """Tell that so many more keys are done."""

    def stopping(self) -> bool:
        """True if no new batch should be started."""


def pack(names: Sequence[bytes]) -> bytes:
    """Pack names into one value that `unpack` reads back, whatever bytes they hold."""
    if not names:
        return b""
    joined = b"\n".join(names)
    if joined.count(b"\n") == len(names) - 1:
        return b"\n" + joined
    return b"m" + msgspec.msgpack.encode(list(names))


def unpack(packed: bytes) -> list[bytes]:
    """The names that `pack` packed."""
    if not packed:
        return []
    if packed[:1] == b"\n":
        return packed[1:].split(b"\n")
    return msgspec.msgpack.decode(packed[1:], type=list[bytes])


def printable(name: bytes, limit: int = 120) -> str:
    """A name as text for people and reports: escaped where needed, cut where it is long."""
    text = name[:limit].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(name) <= limit else f"{text}… ({len(name)} bytes)"


def merge_timings(parts: Iterable[Timings]) -> Timings:
    """All timings together."""
    merged: Timings = {}
    for part in parts:
        for command, seconds in part.items():
            merged.setdefault(command, []).extend(seconds)
    return merged
