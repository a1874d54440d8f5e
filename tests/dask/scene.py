"""A population with the living among the dead, a fault at a chosen instant, and what must hold.

Whatever is killed and when: nothing of the living is lost, counts lie between what the server lost
and what nobody can know, and the next run finishes.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis

from cleanup_job.config import Config, Redis
from cleanup_job.job import Observer, run
from cleanup_job.keyspace import slot_of
from cleanup_job.report import Report
from tests.keys import STALE_MS, beat, heartbeat_key, now_ms, owned_keys
from tests.servers import ServerCluster, ServerProcess

Server = ServerProcess | ServerCluster

BOUND_S = 60.0
"""In which a run has to end, whatever is lost."""


@dataclass
class Population:
    """What is there, what must stay, and what is to go."""

    living: set[bytes] = field(default_factory=set)
    orphans: set[bytes] = field(default_factory=set)
    dead: set[bytes] = field(default_factory=set)

    @property
    def stays(self) -> set[bytes]:
        return self.living | self.orphans


def populate(server: Server, dead: int, seed: int) -> Population:
    """Write it anew: one of ten is live, one of fifty is an orphan, and keys name two of them."""
    rng = random.Random(seed)
    clients = clients_of(server)
    for client in clients:
        client.flushall()
        client.script_flush()
    now = now_ms(clients[0])
    found = Population()
    values: dict[bytes, str] = {}

    def add(name: bytes, value: str | None, to: set[bytes]) -> None:
        keys = owned_keys(name)
        to.update(keys)
        values.update(dict.fromkeys(keys, "1"))
        if value is not None:
            to.add(heartbeat_key(name))
            values[heartbeat_key(name)] = value

    def pair(a: bytes, b: bytes, to: set[bytes]) -> None:
        key = b"blocking:idempotency:%b:%b:%d" % (a, b, rng.randrange(10**9))
        to.add(key)
        values[key] = "1"

    gone = [b"c-%d" % number for number in range(dead)]
    alive = [b"l-%d" % number for number in range(dead // 10)]
    for name in gone:
        add(name, beat(now - STALE_MS), found.dead)
    for name in alive:
        add(name, beat(now), found.living)
    for number in range(dead // 50):
        add(b"o-%d" % number, None, found.orphans)
    for _ in range(dead // 10):
        pair(rng.choice(gone), rng.choice(alive), found.living)
        pair(*rng.sample(gone, 2), found.dead)
    _write(server, clients, values)
    return found


def _write(server: Server, clients: list[redis.Redis], values: dict[bytes, str]) -> None:
    if isinstance(server, ServerProcess):
        clients[0].mset(values)
        return
    for client, (first, last) in zip(clients, _spans(clients), strict=True):
        pipeline = client.pipeline(transaction=False)
        for key, value in values.items():
            if first <= slot_of(key) <= last:
                pipeline.set(key, value)
        pipeline.execute()


def _spans(clients: list[redis.Redis]) -> list[tuple[int, int]]:
    mine = [client.execute_command("CLUSTER MYID") for client in clients]
    spans: dict[str, tuple[int, int]] = {}
    for first, last, primary, *_ in clients[0].execute_command("CLUSTER SLOTS"):
        node_id = primary[2]
        spans[node_id if isinstance(node_id, str) else node_id.decode()] = first, last
    return [spans[one if isinstance(one, str) else one.decode()] for one in mine]


def clients_of(server: Server) -> list[redis.Redis]:
    nodes = server.primaries if isinstance(server, ServerCluster) else [server]
    return [node.client() for node in nodes]


def keys_at(server: Server) -> set[bytes]:
    """All keys but the lease."""
    keys: set[bytes] = set()
    for client in clients_of(server):
        with client:
            keys.update(client.scan_iter(count=10_000))
    return {key for key in keys if not key.startswith(b"cleanup-job:")}


def count_at(server: Server) -> int:
    total = 0
    for client in clients_of(server):
        with client:
            total += client.dbsize()
    return total


class Strike(Observer):
    """Does something once, on a thread, so long after so many keys of a phase are done."""

    def __init__(
        self, phase: str, does: Callable[[], object], *, keys: int = 0, after_s: float = 0.0
    ) -> None:
        self.phase, self.does, self.keys, self.after_s = phase, does, keys, after_s
        self.now = ""
        self.done = 0
        self.log: list[str] = []
        self._struck = False
        self._thread: threading.Thread | None = None

    def began(self, phase: str, keys: int) -> None:
        self.now, self.done = phase, 0
        self._look()

    def advanced(self, keys: int) -> None:
        self.done += keys
        self._look()

    def ended(self) -> None:
        self.log.append(self.now)

    def _look(self) -> None:
        if self.now == self.phase and self.done >= self.keys and not self._struck:
            self._struck = True
            self._thread = threading.Thread(target=self._act, daemon=True)
            self._thread.start()

    def _act(self) -> None:
        time.sleep(self.after_s)
        self.in_time = self.now == self.phase and self.phase not in self.log
        self.does()

    in_time = False
    """Whether its phase was still on."""

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()


def sweep(
    server: Server, address: str | None, observer: Observer | None = None, **settings: Any
) -> Report:
    engine: dict[str, Any] = {"engine": "serial"}
    if address is not None:
        engine = {"engine": "dask", "dask": {"scheduler": address}}
    return run(config_of(server, **engine, **settings), observer=observer)


def config_of(server: Server, **settings: Any) -> Config:
    from cleanup_job.settings import Dask

    if isinstance(settings.get("dask"), dict):
        settings["dask"] = Dask(**settings["dask"])
    return Config(redis=Redis(server.url), **settings)


def wrongs(server: Server, population: Population, before: int, report: Report) -> Iterator[str]:
    """What of the promises does not hold after a run; then the next run is made too."""
    left = keys_at(server)
    lost = population.stays - left
    if lost:
        yield f"{len(lost)} keys of the living or of orphans are gone: {sorted(lost)[:3]}"
    yield from _miscounts(report, before - len(left))
    stale = left & population.dead
    if report.status == "complete" and stale:
        yield f"complete, but {len(stale)} keys are there"
    if report.status == "partial" and not stale and not report.keys.unknown:
        yield "partial, but nothing is left and nothing unknown"
    again = sweep(server, None)
    if again.status != "complete":
        yield f"the next run is {again.status}: {again.errors}"
    if keys_at(server) != population.stays:
        missing = population.stays - keys_at(server)
        more = keys_at(server) - population.stays
        yield f"after the next run {len(missing)} are missing, {len(more)} too many"
    if sweep(server, None).keys.planned:
        yield "a third run found something"


def _miscounts(report: Report, vanished: int) -> Iterator[str]:
    for name, counts in [*report.keys.by_family.items(), ("all", report.keys)]:
        became = counts.deleted + counts.gone + counts.spared + counts.failed + counts.unknown
        if counts.planned != became and not (report.status == "partial" and not became):
            yield f"{name}: {counts.planned} planned, {became} told of"
    keys = report.keys
    if not keys.deleted <= vanished <= keys.deleted + keys.unknown + keys.gone:
        yield (
            f"{vanished} vanished: {keys.deleted} deleted, {keys.gone} gone, {keys.unknown} unknown"
        )
    if keys.gone:
        yield f"{keys.gone} gone, and nobody else deletes"
