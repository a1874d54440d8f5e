"""The purge's rehearsal: all that it sends, sent once to keys that cannot exist.

So a right that is missing is known before anything is deleted.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import redis

from cleanup_job import acl
from cleanup_job import wire as wires
from cleanup_job.attempt import SCRIPT, Attempt
from cleanup_job.keyspace import Pattern, slot_of
from cleanup_job.model import ABSENT, Batch, Schema, Server, Target
from cleanup_job.wire import Question, Reply, Wire

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
    patterns = (schema.heartbeat, *schema.patterns)
    probe, *probes = _probes_here(wire, patterns, slots, clustered=bool(server.node_id))
    heartbeat = schema.heartbeat.key_for(probe)
    heartbeats = acl.key_rule(schema.heartbeat)
    # What the script sends is sent by itself too, since some servers refuse a script without
    # saying what for.
    questions: list[Question] = [(("MGET", heartbeat), heartbeats)]
    if server.node_id:
        questions += [(("ASKING",), ""), (("GET", heartbeat), heartbeats)]
    questions.append((("TIME",), ""))
    for pattern, its_probe in zip(schema.patterns, probes, strict=True):
        key = pattern.example_for(its_probe)
        names: list[tuple[str, ...]] = [("EXISTS",), ("UNLINK",)]
        names += [("OBJECT", "IDLETIME"), ("OBJECT", "REFCOUNT")] if min_idle_s else []
        names += [("DUMP",), ("PTTL",)] if journal else []
        questions += [((*name, key), acl.key_rule(pattern)) for name in names]
    batch = Batch((probe,), 1, (ABSENT,), keys=[[] for _ in schema.owned])
    questions.append((("SCRIPT", "LOAD", SCRIPT), ""))
    questions.append(([*Attempt(batch, schema).words()], heartbeats))
    if journal:
        from cleanup_job import dump  # only who keeps a journal waits for its import

        questions.append((("SCRIPT", "LOAD", dump.SCRIPT), ""))
        questions.append((("EVALSHA", dump.SHA, "1", heartbeat), heartbeats))
    wire.ask_all(*questions)  # at once: on a long way each round trip counts


def _probes_here(
    wire: Wire, patterns: Sequence[Pattern], slots: frozenset[int], *, clustered: bool
) -> list[bytes]:
    """For each pattern an id whose key is in a slot of the server's.

    Not in one that is on its way to another server, which would have to be asked for a key that
    is not here.
    """
    probes = [_probe_id() for _ in patterns]
    unsure = [*range(len(patterns))] if clustered else []
    for _ in range(MOST_PROBES):
        replies: list[Reply] = []
        for place in unsure:
            while slot_of(key := patterns[place].example_for(probes[place])) not in slots:
                probes[place] = _probe_id()
            wire.send("EXISTS", key, then=replies.append)
        wire.drain()
        unsure = [
            place
            for place, reply in zip(unsure, replies, strict=True)
            if isinstance(reply, redis.exceptions.AskError)
        ]
        if not unsure:
            break
        for place in unsure:
            probes[place] = _probe_id()
    return probes


def _probe_id() -> bytes:
    return b"cleanup-job-probe-" + uuid.uuid4().hex.encode()
