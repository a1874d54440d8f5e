"""The values that travel between stages and processes (pure).

All are frozen and picklable. Names of keys and ids are bytes. Where they stay in this process
they are lists; where they go to another one, many of them travel as one packed value (`pack`,
`unpack`), which costs the receiving process a split in C instead of an object per name in the
pickle.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import compress
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from cleanup_job.cursors import Lane, Order, describe
from cleanup_job.keyspace import SLOTS, Pattern
from cleanup_job.throttle import Allowance
from cleanup_job.timings import Timings

HEARTBEAT = "heartbeat"
"""The name of the heartbeat family in counts and reports."""

OUTCOMES = ("deleted", "gone", "spared", "failed", "unknown")
"""What can become of a planned key. Each planned key ends in exactly one of them."""


WORKER_LOST = "worker_lost"
"""The code of problems with worker processes that died."""

SCHEDULER_LOST = "scheduler_lost"
"""The code of the end that comes with whoever stands between the job and its workers."""


class Secret(str):
    """A password that no repr shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class OwnSecret(Secret):
    """In place of a password: whoever connects has it in its own environment (see `wire`)."""

    __slots__ = ()


class Tls(msgspec.Struct, frozen=True):
    """How to speak TLS. Without `ca_file` the system's authorities are trusted."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """Where a server is and how to log in; enough for a worker to connect by itself."""

    host: str = "127.0.0.1"
    port: int = 6379
    unix_path: str | None = None
    db: int = 0
    username: str | None = None
    password: Secret | None = None
    tls: Tls | None = None

    def at(self, host: str, port: int) -> Endpoint:
        """Another server of the same kind: same login, same TLS."""
        return msgspec.structs.replace(self, host=host, port=port, unix_path=None)

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


class Access(msgspec.Struct, frozen=True):
    """How to get at the servers that hold the keyspace.

    Attributes:
        endpoint: a standalone server, or any node of a cluster. With `sentinels` it only says
            how to log in.
        sentinels: who knows the address of the primary of `service`.
        address_map: addresses to use in place of those that a cluster or a Sentinel announces.
    """

    endpoint: Endpoint
    sentinels: tuple[Endpoint, ...] = ()
    service: str = ""
    address_map: dict[str, str] = {}

    def announced(self, host: str, port: int) -> Endpoint:
        """The endpoint of a server that was announced under this address."""
        mapped = self.address_map.get(f"{host}:{port}")
        if mapped is not None:
            host, _, text = mapped.rpartition(":")
            port = int(text)
        return self.endpoint.at(host.strip("[]"), port)


def withheld(access: Access) -> Access:
    """The same for workers who have the password themselves; Sentinels are for the job to ask."""
    endpoint = msgspec.structs.replace(access.endpoint, password=OwnSecret())
    sentinels = tuple(msgspec.structs.replace(one, password=None) for one in access.sentinels)
    return msgspec.structs.replace(access, endpoint=endpoint, sentinels=sentinels)


SlotRange = tuple[int, int]
"""The first and the last of some slots."""


class Importing(NamedTuple):
    """A slot that a node is taking over, key by key."""

    slot: int
    source_id: str


class Server(msgspec.Struct, frozen=True):
    """What a primary told of itself.

    Attributes:
        node_id: what it is called in its cluster; its address if it stands alone.
        run_id: drawn anew at each start of the server process.
        epoch: rises whenever the node takes over slots.
        slots: those that it serves; a standalone server serves all.
        order: the order that SCAN walks its keys in.
        slot_keys: keys per slot, where the order goes by slots and they are many.
        clock_ahead_ms: its clock less this machine's, nearer to 0 by what could be the network.
        latency_s: how long a reply took that cost it nothing.
    """

    endpoint: Endpoint
    product: str
    version: str
    node_id: str
    run_id: str
    keys: int
    order: Order
    tracks_idle_time: bool
    cpu_s: float
    used_memory: int
    clock_ahead_ms: int = 0
    epoch: int = 0
    slots: tuple[SlotRange, ...] = ((0, SLOTS - 1),)
    importing: frozenset[Importing] = frozenset()
    slot_keys: tuple[int, ...] = ()
    latency_s: float = 0.0

    @property
    def address(self) -> str:
        """For people."""
        return self.endpoint.address

    def slot_set(self) -> frozenset[int]:
        """Its slots, one by one."""
        return frozenset(slot for first, last in self.slots for slot in range(first, last + 1))


class Routes(msgspec.Struct, frozen=True):
    """Which server has which slot. A standalone one has them all, and no slot matters."""

    access: Access
    spans: tuple[tuple[int, int, Endpoint], ...]
    clustered: bool


class Target(msgspec.Struct, frozen=True):
    """The servers that hold the keyspace together: one, or the primaries of a cluster.

    Attributes:
        uncovered: slots that no reachable primary serves.
    """

    mode: str
    routes: Routes
    servers: tuple[Server, ...]
    uncovered: frozenset[int] = frozenset()
    unreachable: tuple[str, ...] = ()

    @property
    def keys(self) -> int:
        """Keys in all servers together."""
        return sum(server.keys for server in self.servers)

    @property
    def clustered(self) -> bool:
        """True for a cluster, where a coordinator's keys lie on several servers."""
        return self.routes.clustered

    @property
    def tracks_idle_time(self) -> bool:
        """True if all servers know how long a key was untouched."""
        return all(server.tracks_idle_time for server in self.servers)

    @property
    def clocks_ahead_ms(self) -> dict[str, int]:
        """How far each server's clock is ahead of ours, by address."""
        return {server.address: server.clock_ahead_ms for server in self.servers}


class Partition(msgspec.Struct, frozen=True):
    """A share of one server's keyspace, in lanes that are walked side by side.

    `keys` is about how many keys it has.
    """

    node: str
    order: Order
    lanes: tuple[Lane, ...]
    keys: int

    @property
    def range(self) -> str:
        """The share in words, for the report."""
        return describe(self.order, (self.lanes[0][0], self.lanes[-1][1]))


class Sample(msgspec.Struct, frozen=True):
    """One coordinator as an example of its verdict."""

    coordinator_id: bytes
    kind: Kind
    reason: str
    age_ms: int | None = None


MAX_BLOCK_MS = 2.0
"""About how long one of our commands may hold the server, by default. Everybody else waits for
so long at most: much less than a client's patience, and twice what the commands take by
themselves on an idle server (shared facts §3), so that it only bites where the server is slow."""


class SurveyTask(msgspec.Struct, frozen=True):
    """Walk one partition of one server once.

    Attributes:
        max_attempts: how often the walk may be begun, by whomever.
        attempt: which of these comes next; those before it went down with their workers.
    """

    endpoint: Endpoint
    partition: Partition
    schema: Schema
    rule: Rule
    clustered: bool = False
    max_block_ms: float = MAX_BLOCK_MS
    max_attempts: int = 3
    attempt: int = 1

    @property
    def node(self) -> str:
        """Which server has the work of it: see `pool`."""
        return self.partition.node


class StaleRun(NamedTuple):
    """Some stale coordinators, ascending by id, with their heartbeats' fingerprints and ages."""

    ids: list[bytes]
    prints: list[bytes]
    ages_ms: list[int]

    def part(self, first: int, end: int) -> StaleRun:
        """Those from `first` up to, not including, `end`."""
        return StaleRun(self.ids[first:end], self.prints[first:end], self.ages_ms[first:end])

    def only(self, wanted: Sequence[bool]) -> StaleRun:
        """Those that are wanted."""
        return StaleRun(
            [*compress(self.ids, wanted)],
            [*compress(self.prints, wanted)],
            [*compress(self.ages_ms, wanted)],
        )

    def extend(self, other: StaleRun) -> None:
        """Put another run behind."""
        self.ids.extend(other.ids)
        self.prints.extend(other.prints)
        self.ages_ms.extend(other.ages_ms)


class Ref(msgspec.Struct, frozen=True):
    """Where a value is kept that did not come to the job: see `shelf`.

    Attributes:
        place: whoever keeps it knows what that is.
        first: where in it the value begins.
        length: how long it is, in bytes; 0 for nobody knows.
    """

    place: str
    first: int = 0
    length: int = 0


class Shelved(msgspec.Struct, frozen=True):
    """What the job has to know of findings that it does not have.

    Attributes:
        ref: where they are.
        names: how many names they hold.
        size: bytes of these.
        sample: a few of the ids, and of what follows the prefixes of owned keys.
        widths: the numbers of segments of all ids.
    """

    ref: Ref
    names: int
    size: int
    sample: list[bytes]
    widths: frozenset[int]


class Findings(msgspec.Struct, frozen=True):
    """What one partition holds. A name may occur more than once.

    Names are in *runs*, as they came, page by page: what is in order need not be sorted again. It
    is pickled with its names packed.

    Attributes:
        scanned: keys that the SCAN calls returned.
        live: ids.
        kept: coordinators whose heartbeat is unreadable or in the future, with the reason.
        stale: runs.
        owned: per owned family in the schema's order, runs of keys, each ascending.
        longest: bytes of the longest name or heartbeat.
        shelved: where the names are, if not here.
    """

    partition: Partition
    scanned: int
    seconds: float
    attempts: int
    live: list[bytes]
    kept: list[Sample]
    stale: list[StaleRun]
    owned: list[list[list[bytes]]]
    timings: Timings
    longest: int = 0
    shelved: Shelved | None = None

    def without_names(self) -> Findings:
        """What is left to tell of the walk when its names are in the verdicts."""
        return msgspec.structs.replace(self, live=[], kept=[], stale=[], owned=[])

    def __reduce__(self) -> tuple[Callable[..., Findings], tuple[object, ...]]:
        fields = msgspec.structs.asdict(self)
        fields["live"] = pack(self.live)
        fields["stale"] = [(pack(run.ids), pack(run.prints), run.ages_ms) for run in self.stale]
        fields["owned"] = [[pack(run) for run in runs] for runs in self.owned]
        return _unpack_findings, (fields,)


def _unpack_findings(fields: dict[str, Any]) -> Findings:
    fields["live"] = unpack(fields["live"])
    fields["stale"] = [
        StaleRun(unpack(ids), unpack(prints), ages_ms) for ids, prints, ages_ms in fields["stale"]
    ]
    fields["owned"] = [[unpack(packed) for packed in runs] for runs in fields["owned"]]
    return Findings(**fields)


class Broken(msgspec.Struct, frozen=True):
    """A partition that could not be walked, and why; `code` as in errors."""

    partition: Partition
    reason: str
    code: str = "connection_lost"

    @property
    def kills_workers(self) -> bool:
        """True if another walk would only cost more workers."""
        return self.code == WORKER_LOST


KEYS_PER_BATCH = 500
"""Most keys of one call, and as many guards at the worst: about half a millisecond of the server,
and far from the 8,000 values at which Lua's unpack fails (shared facts §5). Calls of 250 to 1,000
keys cost the server the same on Redis, and those of 1,000 cost Valkey a sixth more (docs/design.md,
"Where the time goes"), so the smaller ones are a gift to everybody else."""

BYTES_PER_BATCH = 512 * 1024
"""Names of keys, and values of heartbeats, in one call. Ids of 10 kB exist, and a script's
arguments are copied."""


def length_of(print_: bytes) -> int:
    """How long the value of this fingerprint is; `judge.fingerprint` makes them."""
    return int(print_.rpartition(b":")[2]) if print_[:1] == b"#" else len(print_)


class Batch(msgspec.Struct, frozen=True):
    """Keys that are deleted together.

    In one slot, a guarded call deletes all of them or none. A batch without a slot is
    *scattered*: its guards and keys lie in several slots of a cluster, so its guards are read
    first and its keys deleted right after.

    Attributes:
        guard_ids: whose heartbeats are re-read; those of the first `own_heartbeats` are deleted
            with the batch, the others are only watched.
        expected: the fingerprint of what each guard held when it was judged; `ABSENT` for
            nothing.
        keys: owned keys per family, in the schema's order. A key needs all of the guards that it
            can be read as naming.
        min_idle_s: every key must have been untouched for so long; 0 asks nothing.
        wave: batches of wave 1 start only when all of wave 0 are through. A coordinator
            with too many keys for one batch has its heartbeat in wave 1.
        slot: where all of it lies (any one, on a standalone server); None if it is scattered.
    """

    guard_ids: Sequence[bytes]
    own_heartbeats: int
    expected: Sequence[bytes]
    keys: Sequence[Sequence[bytes]]
    min_idle_s: int = 0
    wave: int = 0
    slot: int | None = 0

    @property
    def is_of_orphans(self) -> bool:
        """True if its keys belong to no heartbeat; orphans always have to be idle."""
        return self.min_idle_s > 0

    @property
    def can_be_split(self) -> bool:
        """True if it is several heartbeats and nothing else, each of which stands for itself."""
        return 1 < len(self.guard_ids) == self.own_heartbeats and not any(self.keys)

    @property
    def size(self) -> int:
        """How many keys the batch plans to delete."""
        return self.own_heartbeats + sum(map(len, self.keys))

    @property
    def length(self) -> int:
        """How long its names are, and the heartbeats that are read for it."""
        names = sum(map(len, self.guard_ids)) + sum(sum(map(len, keys)) for keys in self.keys)
        return names + sum(map(length_of, self.expected))

    def pieces(self, most_keys: int) -> Iterator[Batch]:
        """The batch in pieces of so many keys where its keys do not depend on each other.

        They do where a heartbeat goes with them, and where an orphan is to keep all or none. A
        piece has no fewer keys than guards, all of which are read for each piece.
        """
        most_keys = max(most_keys, len(self.guard_ids))
        if self.own_heartbeats or self.is_of_orphans or self.size <= most_keys:
            yield self
            return
        for family, keys in enumerate(self.keys):
            for first in range(0, len(keys), most_keys):
                some: list[Sequence[bytes]] = [()] * len(self.keys)
                some[family] = keys[first : first + most_keys]
                yield msgspec.structs.replace(self, keys=some)


ABSENT = b""
"""The expected value of a heartbeat that is not there. No heartbeat with an empty value is
ever judged stale, so this can't be mistaken for one."""


class Owned(msgspec.Struct, frozen=True):
    """Keys of one family that belong to stale coordinators.

    Attributes:
        owners: whose each key is, as places in a list of ids, ascending.
        keys: their names in step; empty if each is the prefix and its owner's id.
        prefix: of such names, which are made when their turn comes: that saves memory, and time
            before the first delete.
    """

    owners: list[int]
    keys: list[bytes] = []
    prefix: bytes = b""

    def between(self, first: int, end: int, ids: Sequence[bytes]) -> list[bytes]:
        """The keys of the coordinators from `first` up to, not including, `end`."""
        lowest, highest = self._places(first, end)
        if self.keys:
            return self.keys[lowest:highest]
        prefix = self.prefix
        return [prefix + ids[owner] for owner in self.owners[lowest:highest]]

    def pairs(self, ids: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
        """Each key with its owner."""
        keys = self.keys or (self.prefix + ids[owner] for owner in self.owners)
        return zip(keys, self.owners, strict=True)

    def part(self, first: int, end: int) -> Owned:
        """The same with their owners counted from `first`."""
        lowest, highest = self._places(first, end)
        owners = [place - first for place in self.owners[lowest:highest]]
        return Owned(owners, self.keys[lowest:highest], self.prefix)

    def of(self, new_places: Mapping[int, int]) -> Owned:
        """The keys of the owners that have a new place; these must ascend as the old ones do."""
        wanted = [owner in new_places for owner in self.owners]
        return Owned(
            [new_places[owner] for owner in compress(self.owners, wanted)],
            [*compress(self.keys, wanted)],
            self.prefix,
        )

    def _places(self, first: int, end: int) -> tuple[int, int]:
        return bisect_left(self.owners, first), bisect_left(self.owners, end)


class Lot(msgspec.Struct, frozen=True):
    """Coordinators with all of their keys, to be cut into batches between any two of them.

    How many keys a call may have is only known while others are under way (see `pace`), so it is
    the worker who cuts. One coordinator is never cut: each has at most `KEYS_PER_BATCH` keys.

    Attributes:
        ids: of the coordinators.
        prints: in step with them, the fingerprints of their heartbeats.
        owned: their keys per owned family, in the schema's order.
        slots: in step with them, the slot in which all keys of each lie, or None if they lie in
            several; those of a slot follow each other. Empty: all are in slot 0.
        is_long: names or heartbeats may be so long that a batch has to count their bytes.
        wave: of all batches.
    """

    ids: Sequence[bytes]
    prints: Sequence[bytes]
    owned: Sequence[Owned]
    slots: Sequence[int | None] = ()
    is_long: bool = False
    wave: int = 0

    @property
    def size(self) -> int:
        """How many keys it has, and heartbeats, even if those go in another wave."""
        return len(self.ids) + sum(len(family.owners) for family in self.owned)

    def batches(self, most_keys: Callable[[int | None], int]) -> Iterator[Batch]:
        """The lot in batches, each of at most so many keys, but of one coordinator at least.

        Args:
            most_keys: is asked for each batch, by its slot.
        """
        first = 0
        while first < len(self.ids):
            slot = self.slots[first] if self.slots else 0
            batch = self._cut(first, slot, most_keys(slot))
            first += len(batch.guard_ids)
            yield batch

    def parts(self, keys: int) -> Iterator[Lot]:
        """The lot in parts of about so many keys."""
        first = 0
        while first < len(self.ids):
            end = self._end(first, len(self.ids), keys)
            yield self._part(first, end)
            first = end

    def only(self, wanted: Sequence[bool]) -> Lot:
        """The wanted coordinators with their keys."""
        if all(wanted):
            return self
        places = [place for place, yes in enumerate(wanted) if yes]
        new_places = dict(zip(places, range(len(places)), strict=True))
        return msgspec.structs.replace(
            self,
            ids=[*compress(self.ids, wanted)],
            prints=[*compress(self.prints, wanted)],
            owned=[family.of(new_places) for family in self.owned],
            slots=[*compress(self.slots, wanted)],
        )

    def _part(self, first: int, end: int) -> Lot:
        return msgspec.structs.replace(
            self,
            ids=self.ids[first:end],
            prints=self.prints[first:end],
            owned=[family.part(first, end) for family in self.owned],
            slots=self.slots[first:end],
        )

    def _cut(self, first: int, slot: int | None, most_keys: int) -> Batch:
        last = min(len(self.ids), first + most_keys)
        if self.slots and self.slots[last - 1] != slot:
            last = next(place for place in range(first, last) if self.slots[place] != slot)
        end = self._end(first, last, most_keys)
        batch = self._batch(first, end, slot)
        while self.is_long and end - first > 1 and batch.length > BYTES_PER_BATCH:
            end = first + (end - first) // 2
            batch = self._batch(first, end, slot)
        return batch

    def _batch(self, first: int, end: int, slot: int | None) -> Batch:
        return Batch(
            guard_ids=self.ids[first:end],
            own_heartbeats=0 if slot is None else end - first,
            expected=self.prints[first:end],
            keys=[family.between(first, end, self.ids) for family in self.owned],
            wave=self.wave,
            slot=slot,
        )

    def _end(self, first: int, last: int, most_keys: int) -> int:
        """How far, up to `last`, so many keys reach; one coordinator at least."""
        limit = self._keys_before(first) + most_keys
        if self._keys_before(last) <= limit:
            return last
        return first + max(1, bisect_right(range(first + 1, last), limit, key=self._keys_before))

    def _keys_before(self, place: int) -> int:
        return place + sum(bisect_left(family.owners, place) for family in self.owned)


class PurgeTask(msgspec.Struct, frozen=True):
    """Something to delete for one worker, to be sent with several batches in flight.

    It is pickled with its names in MessagePack, which costs a quarter for so many.

    Attributes:
        lots: are cut into batches on the way.
        batches: come after them, as they are.
        max_block_ms: about how long one call may hold the server.
        journal: the file that has to hold each batch before it is deleted; empty for none.
    """

    routes: Routes
    schema: Schema
    rule: Rule
    lots: tuple[Lot, ...] = ()
    batches: tuple[Batch, ...] = ()
    max_block_ms: float = MAX_BLOCK_MS
    journal: str = ""

    def __reduce__(self) -> tuple[Callable[..., PurgeTask], tuple[object, ...]]:
        packed = msgspec.msgpack.encode((self.lots, self.batches))
        return _unpack_purge_task, (
            self.routes,
            self.schema,
            self.rule,
            packed,
            self.max_block_ms,
            self.journal,
        )


def _unpack_purge_task(
    routes: Routes, schema: Schema, rule: Rule, packed: bytes, max_block_ms: float, journal: str
) -> PurgeTask:
    lots, batches = msgspec.msgpack.decode(packed, type=tuple[tuple[Lot, ...], tuple[Batch, ...]])
    return PurgeTask(routes, schema, rule, lots, batches, max_block_ms, journal)


class IdleTask(msgspec.Struct, frozen=True):
    """Find those of `keys` (packed) that were touched less than `min_idle_s` ago."""

    routes: Routes
    schema: Schema
    keys: bytes
    min_idle_s: int


class Planned(NamedTuple):
    """One coordinator of a plan, stale or orphaned, with its owned keys by family.

    The heartbeat of a stale one goes without saying.
    """

    coordinator_id: bytes
    kind: Kind
    keys: dict[str, list[bytes]]
    age_ms: int | None = None


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
        purged: stale coordinators whose heartbeats went, each once.
        orphans_purged: orphans of which keys went.
        spared: ids whose heartbeat, or idle time, had changed, or of which a key was kept
            because of another id that it names.
        revived: those of `spared` that were stale when judged and fresh when their turn came.
        unsettled: ids of which some key failed or is unclear; their heartbeat must stay.
        begun: keys that were deleted, by id, of coordinators whose heartbeat was left to a
            later batch. One that comes back before that has lost so many.
        not_attempted: keys that were counted as failed because the run was stopped.
        rewritten: those of `spared` whose own heartbeat was stale when judged and is another one
            now, fresh or not.
        hopeless: a server that the batches need is gone, and waiting did not help.
        purged_unnamed: how many more went, whose names stayed where they were deleted.
        begun_elsewhere: what is left out of `begun`, packed.
    """

    counts: Counts
    purged: list[bytes]
    orphans_purged: frozenset[bytes]
    spared: frozenset[bytes]
    revived: frozenset[bytes]
    unsettled: frozenset[bytes]
    begun: dict[bytes, int]
    not_attempted: int
    problems: tuple[Problem, ...]
    timings: Timings
    rewritten: frozenset[bytes] = frozenset()
    hopeless: bool = False
    purged_unnamed: int = 0
    begun_elsewhere: tuple[bytes, bytes] = (b"", b"")

    @property
    def purged_count(self) -> int:
        """How many stale coordinators' heartbeats went."""
        return len(self.purged) + self.purged_unnamed

    def brief(self) -> Outcome:
        """The same for a job that is to hold no names of what went well."""
        names, keys = [*self.begun], [*self.begun.values()]
        return msgspec.structs.replace(
            self,
            purged=[],
            purged_unnamed=self.purged_count,
            begun={},
            begun_elsewhere=(pack(names), msgspec.msgpack.encode(keys)) if names else (b"", b""),
        )

    def begun_of(self, names: Container[bytes]) -> dict[bytes, int]:
        """Those of `begun`, wherever it is, that are among these."""
        begun = self.begun
        packed, keys = self.begun_elsewhere
        if packed:
            counts = msgspec.msgpack.decode(keys, type=list[int])
            begun = {**begun, **dict(zip(unpack(packed), counts, strict=True))}
        return {name: count for name, count in begun.items() if name in names}


class Written(msgspec.Struct, frozen=True):
    """A journal in the report of the run that wrote it."""

    path: str
    records: int
    keys: int
    bytes: int


class Pulse(Protocol):
    """How a running task tells that it gets on, and learns that it should stop."""

    def advance(self, keys: int) -> None:
        """Tell that so many more keys are done."""

    def stopping(self) -> bool:
        """True if no new batch should be started."""

    def must_rest(self) -> bool:
        """True if nothing should be sent now; asked before each command."""

    def rest(self) -> float:
        """Wait until work may go on or the run is to end, for so many seconds.

        To be called when nothing is in flight any more.
        """

    def takes(self, keys: int) -> None:
        """Tell that so many keys are about to be deleted."""

    def portion(self, most: int) -> int:
        """How many keys to delete at once, of at most so many."""


Stage = Callable[[Any, Pulse], Any]
"""A function of one picklable task, which may be run in any process."""

UNTRIED: Final = object()
"""In place of a result: the task was never begun, and will not be."""


class Watch(Protocol):
    """What the job wants to know and say while a stage runs."""

    def advanced(self, keys: int) -> None:
        """So many more keys are done."""

    def stopping(self) -> bool:
        """True if the run should come to an end."""

    @property
    def holds_until_s(self) -> float:
        """By the monotonic clock, until when the run has its lease; infinity without one.

        Tasks stop by then, even if nobody can tell them.
        """

    @property
    def allowance(self) -> Callable[[bool], Allowance] | None:
        """What the stages may do now, or None if nothing limits them.

        It is told whether nothing of ours is in flight anywhere.
        """


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


def is_text(text: str) -> bool:
    """False for what an environment can hold, but nobody could send."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def printable(name: bytes, limit: int = 120) -> str:
    """A name as text for people and reports: escaped where needed, cut where it is long."""
    text = name[:limit].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(name) <= limit else f"{text}… ({len(name)} bytes)"
