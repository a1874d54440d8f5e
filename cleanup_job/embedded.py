"""Servers that we start ourselves, joined to a cluster."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from cleanup_job.errors import ServerUnavailableError
from cleanup_job.keyspace import SLOTS

FORM_TIMEOUT_S = 30

PAUSE_S = 0.02

Node = Any
"""A redis.Redis, whose execute_command is not typed."""


def form_cluster(primaries: Sequence[Node], replicas: Sequence[Node] = ()) -> None:
    """Make these nodes a cluster that serves all slots; returns when all of them say so.

    The replicas go to the primaries in turn.

    Raises:
        ServerUnavailableError: if they do not find together.
    """
    deadline = time.monotonic() + FORM_TIMEOUT_S
    nodes = [*primaries, *replicas]
    for number, primary in enumerate(primaries):
        _assign_slots(primary, number, len(primaries))
    host, port = _address(nodes[0])
    for node in nodes[1:]:
        node.execute_command("CLUSTER", "MEET", host, port)
    everybody = {"cluster_known_nodes": str(len(nodes))}
    _await(lambda: all(_says(node, everybody) for node in nodes), deadline)
    ids = [_text(primary.execute_command("CLUSTER", "MYID")) for primary in primaries]
    for number, replica in enumerate(replicas):
        replica.execute_command("CLUSTER", "REPLICATE", ids[number % len(ids)])
    _await(lambda: all(_says(node, {"cluster_state": "ok"}) for node in nodes), deadline)
    _await(lambda: all(_is_linked(replica) for replica in replicas), deadline)


def _assign_slots(primary: Node, number: int, count: int) -> None:
    """Give one primary its share, and an epoch of its own so that none has to be negotiated."""
    slots = range(SLOTS * number // count, SLOTS * (number + 1) // count)
    # ADDSLOTSRANGE would be shorter, but Redis has it from 7.0 on only.
    primary.execute_command("CLUSTER", "ADDSLOTS", *slots)
    primary.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)


def _address(node: Node) -> tuple[str, int]:
    options: dict[str, Any] = node.connection_pool.connection_kwargs
    # MEET takes no name.
    return socket.gethostbyname(options["host"]), options["port"]


def _says(node: Node, expected: dict[str, str]) -> bool:
    """True if CLUSTER INFO of the node has these values."""
    lines = _text(node.execute_command("CLUSTER", "INFO")).split()
    return {f"{name}:{value}" for name, value in expected.items()} <= set(lines)


def _is_linked(replica: Node) -> bool:
    info: Any = replica.info("replication")
    return bool(info["role"] == "slave" and info["master_link_status"] == "up")


def _text(reply: Any) -> str:
    if isinstance(reply, dict):  # redis-py parses CLUSTER INFO
        return " ".join(f"{name}:{value}" for name, value in reply.items())
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _await(done: Callable[[], bool], deadline: float) -> None:
    while not done():
        if time.monotonic() > deadline:
            raise ServerUnavailableError(
                f"the nodes did not form a cluster within {FORM_TIMEOUT_S} s", "embedded_server"
            )
        time.sleep(PAUSE_S)
