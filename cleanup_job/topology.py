"""From an address to the servers that hold the keyspace, and to partitions of it.

`discover` finds out what stands there: one server, a cluster (any node's address will do), or
what a Sentinel knows as the primary. `partitions` cuts the keyspace into shares by the order in
which each server walks its keys (see `cursors`). That order is knowledge of an implementation,
not a promise, so it takes three to trust it: product and version are known to have it, a probe
sees it, and the walk itself checks every cursor. Otherwise a server gets one sequential walk.

What a survey of a moving cluster may have missed is told by two looks, before and after it
(`to_walk_again`):

- A walk of a server is worth nothing if the process was another one afterwards (`run_id`): the
  order depends on a seed that each process draws.
- A server that took over slots may have been given keys behind the walk's back. Taking over
  raises its epoch, so even slots that came and went are noticed; it is walked again.
- A slot on its way, key by key, is complete if its new owner is walked after its old one was.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

from msgspec import structs

from cleanup_job import wire as wires
from cleanup_job.cursors import Lane, Order, cursor_at, cut_by_weight, cut_evenly, end_of, place_of
from cleanup_job.errors import CleanupJobError, ServerRefusedError, ServerUnavailableError
from cleanup_job.keyspace import SLOTS
from cleanup_job.model import (
    Access,
    Endpoint,
    Importing,
    Partition,
    Routes,
    Server,
    SlotRange,
    Target,
)
from cleanup_job.routes import standalone
from cleanup_job.wire import Reply, Wire

KEYS_PER_PARTITION = 50_000
"""One partition's share at least. A partition overshoots its end by up to a page per lane
(about 1,000 keys), so this keeps what is walked twice below some 4 %."""

FAR_KEYS_PER_PARTITION = 250_000
"""The same where a task costs messages between machines; it is walked in about a second."""

MOST_KEYS_PER_S = 1_000_000
"""About what a walk can do. A partition begins and ends with waiting for the way to the server, so
it is to last for `ROUND_TRIPS` of them at least."""

ROUND_TRIPS = 50
"""What these two or three are then is a few per cent of the partition."""

KEYS_WORTH_A_PARTITION = 1_000
"""Below this a share is not worth a task of its own."""

LANES = 2
"""Shares of a partition that are walked side by side, so that the server fills one page while
Python reads the other."""

EVEN_ENOUGH = 1.1
"""The largest partition may hold so many times the mean; more partitions are tried to get there."""

PROBES = 16
"""Places that the probe looks at, evenly over the line and all at once. That each has the next one
behind it by chance: 16! in 16^16, one in a million."""

PATIENCE_S = 20.0
"""How long to wait for a cluster that fails over: the default cluster-node-timeout is 15 s."""

REPLICA_PATIENCE_S = 5.0
"""How long to wait for replicas: on a network that works they are milliseconds behind."""

PAUSE_S = 0.2

_PARTITIONABLE = {"redis": range(4, 9), "valkey": range(7, 10)}
"""Major versions whose tables were read or tested. A newer one gets the sequential walk."""

_SLOT_ORDERED_SINCE = {"redis": (7, 4), "valkey": (8, 0)}
"""Since when a cluster's nodes walk slot by slot."""

_FOREIGN_MARKERS = ("dragonfly_version", "keydb_version", "mvcc_depth", "garnet_version")
"""INFO fields of other products that also report a `redis_version`."""

_Slots = frozenset[int]
_ALL_SLOTS: _Slots = frozenset(range(SLOTS))


# -- discovery -------------------------------------------------------------------------------


def discover(access: Access, known: Sequence[Server] = ()) -> Target:
    """Find out which servers hold the keyspace.

    Args:
        access: how to get there.
        known: servers of an earlier discovery, any of which may be asked if the given one
            does not answer.

    Raises:
        ServerRefusedError: not a Redis, a replica, a missing right.
        ServerUnavailableError: unreachable, still loading; no node of a cluster serves anything.
    """
    endpoint = locate(access)
    others = [server.endpoint for server in known if server.endpoint != endpoint]
    problem: ServerUnavailableError | None = None
    for candidate in (endpoint, *others):
        try:
            wire = wires.borrow(candidate)
            told = _ask_about(wire)
            info = told.info
        except ServerUnavailableError as error:
            problem = problem or _if_announced(error, access)
            continue
        if info.get("cluster_enabled") == "1":
            if candidate.db:
                raise wires.only_database_0(candidate)
            return _discover_cluster(access, wire)
        if access.sentinels and info.get("role") == "slave":
            problem = problem or ServerUnavailableError(
                f"the Sentinels call {candidate.address} the primary of {access.service!r}, but "
                "it is a replica: a failover is under way, try again later",
                "failing_over",
            )
            continue
        routes = standalone(structs.replace(access, endpoint=candidate))
        return Target("standalone", routes, (_server(wire, told),))
    assert problem is not None, "at least one candidate was asked"
    raise problem


def _if_announced(error: ServerUnavailableError, access: Access) -> ServerUnavailableError:
    """The same with a remedy, where Sentinels gave the address that can't be reached."""
    if not access.sentinels or error.code != "unreachable":
        return error
    return ServerUnavailableError(
        f"{error}; the Sentinels announce this address for {access.service!r}: if it can't be "
        "reached from here, set redis.address_map",
        error.code,
    )


def locate(access: Access) -> Endpoint:
    """The address to begin at: the given one, or what the Sentinels say.

    Each Sentinel is asked until one knows, as one that was just set up may not.

    Raises:
        ServerUnavailableError: if no Sentinel can be reached, or none has a primary now.
        ServerRefusedError: if those that can do not know the service, or will not tell.
    """
    if not access.sentinels:
        return access.endpoint
    refusals: list[ServerRefusedError] = []
    problems: list[str] = []
    for sentinel in access.sentinels:
        try:
            return _ask_sentinel(access, sentinel)
        except ServerRefusedError as error:
            refusals.append(error)
        except ServerUnavailableError as error:
            problems.append(str(error))
    if refusals:
        raise refusals[0]
    raise ServerUnavailableError(
        f"no Sentinel can be reached ({'; '.join(problems)})", "unreachable"
    )


def _ask_sentinel(access: Access, sentinel: Endpoint) -> Endpoint:
    try:
        wire = wires.borrow(sentinel)
        found = wire.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", access.service)
    except ServerRefusedError as error:
        if error.code == "wrong_password":
            raise ServerRefusedError(
                f"the Sentinel {sentinel.address} did not accept the login; set "
                "CLEANUP_JOB_SENTINEL_PASSWORD, or redis.sentinel_password_file",
                error.code,
            ) from error
        if "unknown command" not in str(error).lower():
            raise
        scheme = "redis" if sentinel.tls is None else "rediss"
        raise ServerRefusedError(
            f"{sentinel.address} is no Sentinel; for a server or a cluster write "
            f"{scheme}://{sentinel.address}",
            "no_sentinel",
        ) from error
    if found is None:
        known = ", ".join(_services(wire)) or "none"
        raise ServerRefusedError(
            f"the Sentinel {sentinel.address} knows no service {access.service!r}; "
            f"it knows: {known}",
            "unknown_service",
        )
    host, port = found
    return access.announced(bytes(host).decode(), int(port))


def _services(wire: Wire) -> list[str]:
    """The names that a Sentinel knows, as far as it tells."""
    try:
        replies = wire.ask("SENTINEL", "MASTERS")
    except CleanupJobError:
        return []
    pairs = [dict(zip(reply[::2], reply[1::2], strict=False)) for reply in replies]
    return sorted(bytes(pair.get(b"name", b"?")).decode("utf-8", "replace") for pair in pairs)


def clock_ms(server: Server) -> int:
    """The server's clock, since 1970.

    Raises:
        CleanupJobError: if it can't be asked.
    """
    return _read_clock_ms(wires.borrow(server.endpoint))


def _read_clock_ms(wire: Wire) -> int:
    return _milliseconds(wire.ask("TIME"))


def _milliseconds(clock: Reply) -> int:
    seconds, micros = clock
    return int(seconds) * 1000 + int(micros) // 1000


def read_info(wire: Wire) -> dict[str, str]:
    """INFO as names and values.

    Raises:
        ServerRefusedError: if the user may not run INFO, or this is no Redis.
        ServerUnavailableError: if it is still loading.
    """
    return _info_of(wire, wire.ask("INFO"))


def _info_of(wire: Wire, reply: Reply) -> dict[str, str]:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    info = {name: value.strip() for name, _, value in lines if name}
    if "redis_version" not in info:
        raise ServerRefusedError(
            f"{wire.endpoint.address} answers, but is no Redis or Valkey server", "not_redis"
        )
    if info.get("redis_mode") == "sentinel" or info.get("server_mode") == "sentinel":
        scheme = "redis" if wire.endpoint.tls is None else "rediss"
        raise ServerRefusedError(
            f"{wire.endpoint.address} is a Sentinel; write {scheme}+sentinel://"
            f"{wire.endpoint.address}/SERVICE; it knows: {', '.join(_services(wire)) or 'none'}",
            "sentinel",
        )
    if info.get("loading") == "1":
        raise ServerUnavailableError(
            f"{wire.endpoint.address} is still loading its data; try again later", "loading"
        )
    return info


class _Told(NamedTuple):
    """What a server told of itself, all at once: on a long way each round trip counts.

    Attributes:
        keys, clock: replies, errors too.
        asked_at_ms: by our clock.
        took_s: until all of it was there.
        more: replies to what else was asked.
    """

    info: dict[str, str]
    keys: Reply
    clock: Reply
    asked_at_ms: int
    took_s: float
    more: list[Reply]


def _ask_about(wire: Wire, *more: tuple[str, str]) -> _Told:
    """Ask for what `_server` needs, and `more`.

    Raises:
        CleanupJobError: as `read_info`.
    """
    replies: list[Reply] = []
    asked_at_ms, started = time.time_ns() // 1_000_000, time.perf_counter()
    wire.send_all([("INFO",), ("DBSIZE",), ("TIME",), *more], replies.append)
    wire.drain()
    took_s = time.perf_counter() - started
    info = _info_of(wire, wires.accept("INFO", replies[0], wire.endpoint))
    return _Told(info, replies[1], replies[2], asked_at_ms, took_s, replies[3:])


def _server(wire: Wire, told: _Told, node: _Node | None = None) -> Server:
    """What a primary tells of itself.

    Raises:
        ServerRefusedError: if it is a replica.
    """
    info = told.info
    if info.get("role") in ("slave", "replica"):
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        raise ServerRefusedError(
            f"{wire.endpoint.address} is a replica; give the address of its primary, {primary}",
            "replica",
        )
    product, version = _product(info)
    keys = wires.accept("DBSIZE", told.keys, wire.endpoint)
    clock = wires.accept("TIME", told.clock, wire.endpoint)
    if not isinstance(keys, int):
        raise ServerRefusedError(
            f"{wire.endpoint.address} answers DBSIZE with no number: no Redis or Valkey server",
            "not_redis",
        )
    server = Server(
        endpoint=wire.endpoint,
        product=product,
        version=version,
        node_id=node.id if node else "",
        run_id=info.get("run_id", ""),
        keys=keys,
        order=_order(product, version, clustered=node is not None),
        tracks_idle_time="lfu" not in info.get("maxmemory_policy", "noeviction"),
        cpu_s=_cpu_s(info),
        used_memory=int(info.get("used_memory", 0)),
        clock_ahead_ms=_clock_ahead_ms(told.asked_at_ms, _milliseconds(clock), told.took_s),
        latency_s=told.took_s,
    )
    if node is not None:
        server = structs.replace(
            server, epoch=node.epoch, slots=node.slots, importing=node.importing
        )
    return server


def _product(info: dict[str, str]) -> tuple[str, str]:
    if "valkey_version" in info:
        return "valkey", info["valkey_version"]
    for marker in _FOREIGN_MARKERS:
        if marker in info:
            return marker.partition("_")[0], info[marker]
    if info.get("server_name", "redis") not in ("redis", ""):
        return info["server_name"], info["redis_version"]
    return "redis", info["redis_version"]


def _order(product: str, version: str, *, clustered: bool) -> Order:
    """The order that this product and version is known to have."""
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    if len(numbers) < 2 or numbers[0] not in _PARTITIONABLE.get(product, ()):
        return Order.SEQUENCE
    if clustered and (numbers[0], numbers[1]) >= _SLOT_ORDERED_SINCE[product]:
        return Order.SLOTS
    return Order.REVERSED


def _clock_ahead_ms(before_ms: int, server_ms: int, took_s: float) -> int:
    """The server's clock less ours. It was read at some instant between our two readings."""
    after_ms = before_ms + 1 + int(took_s * 1000)
    return min(0, server_ms - before_ms) or max(0, server_ms - after_ms)


def _cpu_s(info: dict[str, str]) -> float:
    return float(info.get("used_cpu_user", 0)) + float(info.get("used_cpu_sys", 0))


# -- clusters --------------------------------------------------------------------------------


class _Node(NamedTuple):
    """A line of CLUSTER NODES."""

    id: str
    host: str
    port: int
    flags: frozenset[str]
    epoch: int
    slots: tuple[SlotRange, ...]
    importing: frozenset[Importing]

    @property
    def is_primary(self) -> bool:
        """True for a primary that its cluster believes to be there."""
        return "master" in self.flags and not self.flags & {"fail", "noaddr", "handshake"}

    @property
    def is_missed(self) -> bool:
        """True for a primary that its cluster believes to be gone."""
        return {"master", "fail"} <= self.flags


def _discover_cluster(access: Access, wire: Wire) -> Target:
    endpoints = _announced_endpoints(access, wire)
    servers: list[Server] = []
    unreachable: list[str] = []
    for node in _read_nodes(wire):
        if not node.is_primary:
            if node.slots and node.is_missed:
                unreachable.append(f"the cluster has lost {node.host}:{node.port}")
            continue
        endpoint = endpoints.get(node.id) or access.announced(
            node.host or wire.endpoint.host, node.port
        )
        try:
            servers.append(_cluster_server(wires.borrow(endpoint)))
        except (ServerUnavailableError, _NoPrimaryError) as error:
            wires.discard(endpoint)
            unreachable.append(str(error))
    if not servers:
        raise ServerUnavailableError(
            f"no primary of the cluster at {wire.endpoint.address} can be used "
            f"({'; '.join(unreachable) or 'it has none'}); if its announced addresses can't be "
            "reached from here, set redis.address_map",
            "unreachable",
        )
    servers = _without_rivals(servers)
    uncovered = _ALL_SLOTS.difference(*(server.slot_set() for server in servers))
    spans = tuple(
        (first, last, server.endpoint) for server in servers for first, last in server.slots
    )
    return Target(
        "cluster",
        Routes(access, spans, clustered=True),
        tuple(servers),
        uncovered,
        tuple(unreachable),
    )


class _NoPrimaryError(CleanupJobError):
    """A node that its cluster calls a primary does not see itself as one that serves."""


def _cluster_server(wire: Wire) -> Server:
    told = _ask_about(wire, ("CLUSTER", "INFO"), ("CLUSTER", "NODES"))
    state, nodes = (
        bytes(wires.accept(f"CLUSTER {what}", reply, wire.endpoint)).decode()
        for what, reply in zip(("INFO", "NODES"), told.more, strict=True)
    )
    if told.info.get("role") != "master" or "cluster_state:ok" not in state:
        raise _NoPrimaryError(
            f"{wire.endpoint.address} does not serve its slots now", "cluster_down"
        )
    myself = next(node for node in _parse_nodes(nodes) if "myself" in node.flags)
    return _server(wire, told, myself)


def _announced_endpoints(access: Access, wire: Wire) -> dict[str, Endpoint]:
    """Addresses by node, as the cluster prefers them: names where it has names."""
    endpoints = {}
    for _, _, primary, *_ in wire.ask("CLUSTER", "SLOTS"):
        host = bytes(primary[0] or b"").decode() or wire.endpoint.host
        endpoints[bytes(primary[2]).decode()] = access.announced(host, int(primary[1]))
    return endpoints


def _read_nodes(wire: Wire) -> list[_Node]:
    return _parse_nodes(bytes(wire.ask("CLUSTER", "NODES")).decode())


def _parse_nodes(text: str) -> list[_Node]:
    return [_parse_node(line.split(" ")) for line in text.splitlines() if line]


def _parse_node(fields: Sequence[str]) -> _Node:
    """Read one line: id, address, flags, primary, ping, pong, epoch, link, then slots.

    Source: the CLUSTER NODES command's documentation, "Serialization format".
    """
    host, _, port = fields[1].partition("@")[0].rpartition(":")
    slots: list[SlotRange] = []
    importing: list[Importing] = []
    for word in fields[8:]:
        if word.startswith("["):
            slot, arrow, node_id = word.strip("[]").partition("-<-")
            if arrow:
                importing.append(Importing(int(slot), node_id))
        else:
            first, _, last = word.partition("-")
            slots.append((int(first), int(last or first)))
    return _Node(
        id=fields[0],
        host=host,
        port=int(port),
        flags=frozenset(fields[2].split(",")),
        epoch=int(fields[6]),
        slots=tuple(slots),
        importing=frozenset(importing),
    )


def _without_rivals(servers: Iterable[Server]) -> list[Server]:
    """Where two servers claim a slot, the one with the higher epoch has it."""
    taken: set[int] = set()
    settled = []
    for server in sorted(servers, key=lambda server: -server.epoch):
        slots = server.slot_set()
        if not slots.isdisjoint(taken):
            server = structs.replace(server, slots=ranges_of(slots - taken))
        taken |= slots
        settled.append(server)
    return sorted(settled, key=lambda server: server.slots)


def addresses(servers: Iterable[Server]) -> tuple[str, ...]:
    """Of the first three, as samples of a problem."""
    return tuple(server.address for server in islice(servers, 3))


def slot_texts(slots: Iterable[int]) -> list[str]:
    """These slots for people, as ranges."""
    return [f"slots {first} to {last}" for first, last in ranges_of(slots)]


def ranges_of(slots: Iterable[int]) -> tuple[SlotRange, ...]:
    """First and last of each run of slots."""
    ranges: list[SlotRange] = []
    for slot in sorted(slots):
        if ranges and ranges[-1][1] == slot - 1:
            ranges[-1] = (ranges[-1][0], slot)
        else:
            ranges.append((slot, slot))
    return tuple(ranges)


# -- what moved ------------------------------------------------------------------------------


def rediscover(access: Access, before: Target, patience_s: float | None = None) -> Target:
    """How things are now; waits for a cluster that is failing over, at most `patience_s`.

    Raises:
        CleanupJobError: as `discover` does.
    """
    give_up_at = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
    while True:
        try:
            target = discover(access, before.servers)
        except ServerUnavailableError:
            if not before.clustered or time.monotonic() > give_up_at:
                raise
        else:
            if target.uncovered <= before.uncovered or time.monotonic() > give_up_at:
                return target
        time.sleep(PAUSE_S)


def replaced(before: Target, after: Target) -> tuple[Server, ...]:
    """The servers that have slots now and were not there before, or not as the same process."""
    known = {(server.node_id, server.run_id) for server in before.servers}
    return tuple(
        server
        for server in after.servers
        if server.slots and (server.node_id, server.run_id) not in known
    )


def behind(target: Target) -> tuple[Server, ...]:
    """The servers of which a replica does not have all that they have done until now.

    Waits for the replicas, at most `REPLICA_PATIENCE_S`. They tell how far they are once a second.

    Raises:
        CleanupJobError: if a server can't be asked.
    """
    give_up_at = time.monotonic() + REPLICA_PATIENCE_S
    waiting = {server: _offsets(server)[0] for server in target.servers}
    while True:
        waiting = {
            server: wanted
            for server, wanted in waiting.items()
            if any(offset < wanted for offset in _offsets(server)[1])
        }
        if not waiting or time.monotonic() > give_up_at:
            return tuple(waiting)
        time.sleep(PAUSE_S)


def _offsets(server: Server) -> tuple[int, list[int]]:
    """How far a primary's replication is, and how far each of its replicas said to be.

    One that still waits for its first copy has nothing that a failover could bring back.
    """
    info = read_info(wires.borrow(server.endpoint))
    replicas = [
        dict(pair.partition("=")[::2] for pair in value.split(","))
        for name, value in info.items()
        if name.startswith("slave") and name[5:].isdigit()
    ]
    online = [int(replica["offset"]) for replica in replicas if replica.get("state") == "online"]
    return int(info.get("master_repl_offset", 0)), online


def to_walk_again(
    before: Target, after: Target, settled: frozenset[tuple[str, Importing]]
) -> tuple[Server, ...]:
    """The servers that may hold keys which no walk has seen.

    Args:
        before: as it was when the walk began.
        after: as it was when the walk had ended.
        settled: slots on their way whose new owner was already walked after the old one.
    """
    earlier = {server.node_id: server for server in before.servers}
    return tuple(
        server
        for server in after.servers
        if _may_have_gained(earlier.get(server.node_id), server, settled)
    )


def _may_have_gained(
    before: Server | None, after: Server, settled: frozenset[tuple[str, Importing]]
) -> bool:
    if before is None or before.run_id != after.run_id:
        return True
    if after.epoch > before.epoch or not after.slot_set() <= before.slot_set():
        return True
    moving = before.importing | after.importing
    return any((after.node_id, slot) not in settled for slot in moving)


# -- partitions ------------------------------------------------------------------------------


def confirmed(server: Server) -> Server:
    """The server with its order confirmed by a probe, and with its keys per slot.

    A server without the order that it should have gets the sequential walk. So does one that is
    out of reach: what to do about that is decided when its walk breaks.

    Raises:
        ServerRefusedError: if a right is missing.
    """
    if server.order is Order.SEQUENCE or server.keys < KEYS_WORTH_A_PARTITION:
        return server
    try:
        wire = wires.borrow(server.endpoint)
        if not _has_order(wire, server):
            return structs.replace(server, order=Order.SEQUENCE)
        if server.order is Order.SLOTS:
            return structs.replace(server, slot_keys=_count_slots(wire, server))
    except ServerUnavailableError:
        wires.discard(server.endpoint)
        return structs.replace(server, order=Order.SEQUENCE)
    return server


def _has_order(wire: Wire, server: Server) -> bool:
    own = server.slot_set() | {slot for slot, _ in server.importing}
    places = cut_evenly(PROBES)[:-1]
    if server.order is Order.SLOTS:
        places = cut_by_weight([slot in own for slot in range(SLOTS)], PROBES)[:-1]
    cursors = [str(cursor_at(server.order, place)) for place in places]
    replies = wire.ask_all(*((("SCAN", cursor, "COUNT", "1"), "") for cursor in cursors))
    for place, (reply, _) in zip(places, replies, strict=True):
        cursor = int(reply)
        if cursor == 0:  # nothing is behind it
            continue
        if server.order is Order.SLOTS and cursor % SLOTS not in own:
            return False
        if place_of(server.order, cursor) <= place:
            return False
    return True


def _count_slots(wire: Wire, server: Server) -> tuple[int, ...]:
    counts = [0] * SLOTS
    slots = sorted(server.slot_set())
    replies: list[object] = []
    wire.send_all([("CLUSTER", "COUNTKEYSINSLOT", str(slot)) for slot in slots], replies.append)
    wire.drain()
    for slot, reply in zip(slots, replies, strict=True):
        counts[slot] = int(wires.accept("CLUSTER COUNTKEYSINSLOT", reply, wire.endpoint))
    return tuple(counts)


def partitions(
    servers: Sequence[Server], workers: int, *, is_far: bool = False
) -> tuple[Partition, ...]:
    """Cut the servers' keyspaces into shares of about the same size.

    At least one share per worker where there are keys enough.

    Args:
        servers: whose.
        workers: how many walk them.
        is_far: they are on other machines, where a share is better large.
    """
    least = FAR_KEYS_PER_PARTITION if is_far else KEYS_PER_PARTITION
    way_s = max((server.latency_s for server in servers), default=0.0)
    each = max(least, int(way_s * ROUND_TRIPS * MOST_KEYS_PER_S))
    counts = _share_out([server.keys for server in servers], _cuttable(servers), workers, each)
    return tuple(
        partition
        for server, count in zip(servers, counts, strict=True)
        for partition in _cut(server, count)
    )


def whole(server: Server) -> Partition:
    """The whole keyspace as one documented walk from cursor 0 to 0."""
    return Partition(server.address, Order.SEQUENCE, ((0, end_of(Order.SEQUENCE)),), server.keys)


def _cuttable(servers: Sequence[Server]) -> list[int]:
    """How many shares each server's keys are worth at most."""
    return [
        1 if server.order is Order.SEQUENCE else max(1, server.keys // KEYS_WORTH_A_PARTITION)
        for server in servers
    ]


def _share_out(keys: Sequence[int], most: Sequence[int], workers: int, each: int) -> list[int]:
    """How many shares each server gets, so that all shares are about the same size."""
    total = sum(keys)
    wanted = max(workers, total // each, len(keys))
    best: list[int] = []
    best_ratio = float("inf")
    for shares in range(wanted, 2 * wanted + 1):
        counts = [
            min(top, max(1, round(shares * some / total))) if total else 1
            for some, top in zip(keys, most, strict=True)
        ]
        largest = max(some / count for some, count in zip(keys, counts, strict=True))
        ratio = largest * sum(counts) / total if total else 1.0
        if ratio < best_ratio:
            best, best_ratio = counts, ratio
        if ratio <= EVEN_ENOUGH:
            break
    return best


def _cut(server: Server, count: int) -> list[Partition]:
    if server.order is Order.SEQUENCE:
        return [whole(server)]
    if server.order is Order.SLOTS and server.slot_keys:
        borders = cut_by_weight(server.slot_keys, count * LANES)
    elif server.order is Order.SLOTS:
        borders = cut_by_weight([1] * SLOTS, count * LANES)
    else:
        borders = cut_evenly(count * LANES)
    lanes: list[Lane] = list(pairwise(borders))
    return [
        Partition(
            server.address,
            server.order,
            tuple(lanes[first : first + LANES]),
            server.keys // count,
        )
        for first in range(0, len(lanes), LANES)
    ]
