"""The purge's rehearsal: all that it sends, sent once to keys that cannot exist.

So a right that is missing is known before anything is deleted.
"""

from __future__ import annotations

import uuid

import redis

from cleanup_job import acl
from cleanup_job import wire as wires
from cleanup_job.attempt import SCRIPT, Attempt
from cleanup_job.keyspace import Pattern, slot_of
from cleanup_job.model import ABSENT, Batch, Schema, Server, Target
from cleanup_job.wire import Reply, Wire

MOST_PROBES = 100
"""How many slots of a server are tried until one is found that is not on its way elsewhere."""


def preflight(target: Target, schema: Schema, min_idle_s: int, journal: bool = False) -> None:
    """Make sure that the purge will be allowed to do all it does, before it does anything.

    Does it, on each server, to keys of each family that cannot exist. `min_idle_s` is 0 unless
    orphans are to be purged, which takes one right more; a `journal` takes two.

    Raises:
        ServerRefusedError: if a right is missing.
        ServerUnavailableError: if the connection broke.
    """
    for server in target.servers:
        if server.slots:
            _rehearse(wires.borrow(server.endpoint), server, schema, min_idle_s, journal)


def _rehearse(wire: Wire, server: Server, schema: Schema, min_idle_s: int, journal: bool) -> None:
    """Send all that a purge sends. A command that is refused by itself is refused by name."""
    slots = server.slot_set()
    probe = _probe_here(wire, schema.heartbeat, slots)
    heartbeat = schema.heartbeat.key_for(probe)
    heartbeats = acl.key_rule(schema.heartbeat)
    # What the script sends is sent by itself too, since some servers refuse a script without
    # saying what for.
    wire.ask("MGET", heartbeat, keys=heartbeats)
    if server.node_id:
        wire.ask("ASKING")
        wire.ask("GET", heartbeat, keys=heartbeats)
    wire.ask("TIME")
    for pattern in schema.patterns:
        key = pattern.example_for(_probe_here(wire, pattern, slots))
        keys = acl.key_rule(pattern)
        wire.ask("EXISTS", key, keys=keys)
        wire.ask("UNLINK", key, keys=keys)
        if min_idle_s:
            wire.ask("OBJECT", "IDLETIME", key, keys=keys)
            wire.ask("OBJECT", "REFCOUNT", key, keys=keys)
        if journal:
            wire.ask("DUMP", key, keys=keys)
            wire.ask("PTTL", key, keys=keys)
    batch = Batch((probe,), 1, (ABSENT,), keys=[[] for _ in schema.owned])
    wire.ask("SCRIPT", "LOAD", SCRIPT)
    wire.ask(*Attempt(batch, schema).words(), keys=heartbeats)
    if journal:
        from cleanup_job import dump  # only who keeps a journal waits for its import

        wire.ask("SCRIPT", "LOAD", dump.SCRIPT)
        wire.ask("EVALSHA", dump.SHA, "1", heartbeat, keys=heartbeats)


def _probe_here(wire: Wire, pattern: Pattern, slots: frozenset[int]) -> bytes:
    """An id whose key of this pattern is in a slot of the server's.

    Not in one that is on its way to another server, which would have to be asked for a key that
    is not here.
    """
    for _ in range(MOST_PROBES):
        while slot_of(key := pattern.example_for(probe := _probe_id())) not in slots:
            pass
        replies: list[Reply] = []
        wire.send("EXISTS", key, then=replies.append)
        wire.drain()
        if not isinstance(replies[0], redis.exceptions.AskError):
            break
    return probe


def _probe_id() -> bytes:
    return b"cleanup-job-probe-" + uuid.uuid4().hex.encode()
