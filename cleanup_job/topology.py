"""From an endpoint to what stands there, and to the partitions of its keyspace.

Why the keyspace can be cut at all: SCAN's documentation promises cursors only from 0 on,
each as returned. But every standalone Redis, and every standalone Valkey with its old and its
new table, walks its buckets in bit-reversed order, and one call from v to v' returns every key
in [rev(v), rev(v')), whatever the table's size and even in the middle of a rehash (shared
facts §4). So a share of that order is a range of reversed cursors, and walking all the shares
covers every key that is there throughout. Overshoot gives duplicates, never gaps.

That is knowledge of an implementation, not a promise. So it is used only for products and
versions that are known to work so, and the walk itself checks that cursors come in that order;
a server that is not known, or that breaks the order, gets one sequential walk.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from cleanup_job.errors import ServerRefusedError, ServerUnavailableError
from cleanup_job.model import Partition, Server
from cleanup_job.wire import Wire

KEYS_PER_PARTITION = 50_000
"""One partition's share at least. A partition overshoots its end by up to a page per lane
(about 1,000 keys), so this keeps what is walked twice below some 4 %."""

KEYS_WORTH_A_PARTITION = 1_000
"""Below this a share is not worth a task of its own."""

_PARTITIONABLE = {"redis": range(4, 9), "valkey": range(7, 10)}
"""Major versions whose tables were read or tested. A newer one gets the sequential walk."""

_FOREIGN_MARKERS = ("dragonfly_version", "keydb_version", "mvcc_depth", "garnet_version")
"""INFO fields of other products that also report a `redis_version`."""


def discover(wire: Wire) -> Server:
    """Find out what stands at the other end.

    Raises:
        ServerRefusedError: not a Redis, a replica, a cluster node.
        ServerUnavailableError: still loading.
    """
    info = read_info(wire)
    if "redis_version" not in info:
        raise ServerRefusedError(
            f"{wire.endpoint.address} answers, but is no Redis or Valkey server", "not_redis"
        )
    if info.get("loading") == "1":
        raise ServerUnavailableError(
            f"{wire.endpoint.address} is still loading its data; try again later", "loading"
        )
    if info.get("role") in ("slave", "replica"):
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        raise ServerRefusedError(
            f"{wire.endpoint.address} is a replica; give the address of its primary, {primary}",
            "replica",
        )
    product, version = _product(info)
    if info.get("cluster_enabled") == "1":
        raise ServerRefusedError(
            f"{wire.endpoint.address} is a node of a cluster; this version sweeps standalone "
            "servers only",
            "unsupported_mode",
        )
    return Server(
        address=wire.endpoint.address,
        product=product,
        version=version,
        mode="standalone",
        run_id=info.get("run_id", ""),
        keys=int(wire.ask("DBSIZE")),
        cursors_partition=_cursors_partition(product, version),
        tracks_idle_time="lfu" not in info.get("maxmemory_policy", "noeviction"),
        cpu_s=_cpu_s(info),
        used_memory=int(info.get("used_memory", 0)),
    )


def read_info(wire: Wire) -> dict[str, str]:
    """INFO as names and values.

    Raises:
        ServerRefusedError: if the user may not run INFO.
    """
    text = bytes(wire.ask("INFO")).decode("utf-8", "replace")
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value.strip() for name, _, value in lines if name}


def partitions(server: Server, workers: int) -> tuple[Partition, ...]:
    """Cut the server's keyspace into equal shares of its cursor order.

    At least one share per worker where there are keys enough; a power of two, whose shares
    end on the borders that the table itself has.
    """
    if not server.cursors_partition:
        return whole(server)
    wanted = max(workers, server.keys // KEYS_PER_PARTITION)
    affordable = server.keys // KEYS_WORTH_A_PARTITION
    count = 2 ** math.ceil(math.log2(max(1, min(wanted, affordable))))
    return tuple(Partition(server.address, index, count) for index in range(count))


def whole(server: Server) -> tuple[Partition, ...]:
    """The whole keyspace as one documented walk from cursor 0 to 0."""
    return (Partition(server.address, 0, 1, sequential=True),)


def _product(info: dict[str, str]) -> tuple[str, str]:
    if "valkey_version" in info:
        return "valkey", info["valkey_version"]
    for marker in _FOREIGN_MARKERS:
        if marker in info:
            return marker.partition("_")[0], info[marker]
    if info.get("server_name", "redis") not in ("redis", ""):
        return info["server_name"], info["redis_version"]
    return "redis", info["redis_version"]


def _cursors_partition(product: str, version: str) -> bool:
    major = version.partition(".")[0]
    return major.isdigit() and int(major) in _PARTITIONABLE.get(product, ())


def _cpu_s(info: dict[str, str]) -> float:
    return float(info.get("used_cpu_user", 0)) + float(info.get("used_cpu_sys", 0))


class Usage(NamedTuple):
    """What the server has used so far."""

    cpu_s: float
    used_memory: int


def usage(wire: Wire) -> Usage:
    """The server's CPU seconds since its start, and its memory in bytes."""
    info = read_info(wire)
    return Usage(_cpu_s(info), int(info.get("used_memory", 0)))
