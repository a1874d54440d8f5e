"""One server or the primaries of a cluster: started, seeded, and asked what they hold and did.

The case is the demo's, in its own words, as `seed` has it; but each key goes to the server that
has its slot. Commands are packed once: a sweep is measured many times on data that is written
anew, and writing should take no longer than it must.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import hiredis
import redis

from bench import servers
from bench.case import chunks
from bench.seed import stale_words
from cleanup_job import demo
from cleanup_job.embedded import NODE, form_cluster, slots_of
from cleanup_job.keyspace import SLOTS, slot_of

SETS_PER_WRITE = 500
"""SET commands that are sent to a server before their replies are read."""

IDLE_S = 2.0
"""How long servers are watched to learn what they use when nobody asks them anything."""

Blob = tuple[int, bytes]
"""How many commands, packed."""


@dataclass(frozen=True)
class Work:
    """What servers did: CPU of their processes, and their own count of commands."""

    cpu_s: float
    commands: Mapping[str, tuple[int, float]]
    """Calls and seconds by name."""

    def since(self, before: Work) -> Work:
        """What was added."""
        commands = {
            name: (
                calls - before.commands.get(name, (0, 0.0))[0],
                seconds - before.commands.get(name, (0, 0.0))[1],
            )
            for name, (calls, seconds) in self.commands.items()
        }
        return Work(self.cpu_s - before.cpu_s, {n: c for n, c in commands.items() if c[0]})


class Nodes:
    """Running servers that hold the keyspace together."""

    def __init__(self, all_of_them: Sequence[servers.Server]) -> None:
        self.servers = all_of_them
        self.clients = [server.client() for server in all_of_them]
        self._node_of = [number for number in range(len(self)) for _ in slots_of(number, len(self))]
        assert len(self._node_of) == SLOTS, "every slot is somebody's"

    def __len__(self) -> int:
        return len(self.servers)

    @property
    def url(self) -> str:
        """As `cleanup-job run --url` takes it."""
        return self.servers[0].url

    def client_of(self, key: str) -> redis.Redis:
        """The client of the server that has this key."""
        return self.clients[self._node(key)]

    def keys(self) -> int:
        """How many they hold, by DBSIZE."""
        sizes: list[Any] = [client.dbsize() for client in self.clients]
        return sum(sizes)

    def work(self) -> Work:
        """What they did since they started."""
        infos: list[Any] = [client.info("everything") for client in self.clients]
        calls: Counter[str] = Counter()
        seconds: Counter[str] = Counter()
        for info in infos:
            for name, figures in info.items():
                if name.startswith("cmdstat_"):
                    calls[name[len("cmdstat_") :]] += figures["calls"]
                    seconds[name[len("cmdstat_") :]] += figures["usec"] / 1e6
        return Work(
            sum(map(servers.cpu_s, infos)), {name: (calls[name], seconds[name]) for name in calls}
        )

    def idle_cpu_share(self) -> float:
        """What they use by themselves, in seconds of CPU per second: timers, the cluster's bus."""
        before, began_s = self.work(), time.monotonic()
        time.sleep(IDLE_S)
        return self.work().since(before).cpu_s / (time.monotonic() - began_s)

    def empty(self) -> None:
        """In the foreground: nothing may be freed while something is measured."""
        for client in self.clients:
            flush_all: Any = client.execute_command
            flush_all("FLUSHALL", "SYNC")

    def pack(self, pairs: Iterator[tuple[str, str]]) -> list[list[Blob]]:
        """For each server what writes these keys to it."""
        commands: list[list[bytes]] = [[] for _ in self.servers]
        for key, value in pairs:
            words: Any = ("SET", key, value)
            commands[self._node(key)].append(hiredis.pack_command(words))
        return [
            [(len(some), b"".join(some)) for some in chunks(own, SETS_PER_WRITE)]
            for own in commands
        ]

    def write(self, packed: Sequence[Sequence[Blob]]) -> None:
        """Send what `pack` made; the servers work side by side."""
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(_connection(client)) for client in self.clients]
            for blobs in itertools.zip_longest(*packed):
                pairs = [*zip(connections, blobs, strict=True)]
                for connection, blob in pairs:
                    if blob:
                        connection.send_packed_command([blob[1]])
                for connection, blob in pairs:
                    for _ in range(blob[0] if blob else 0):
                        connection.read_response()

    def _node(self, key: str) -> int:
        return self._node_of[slot_of(key.encode())] if len(self) > 1 else 0


@contextlib.contextmanager
def running(name: str, primaries: int) -> Iterator[Nodes]:
    """So many primaries that share all slots evenly; one alone is no cluster.

    Raises:
        FileNotFoundError: the server is not installed.
    """
    binary = servers.binary_of(name)
    if binary is None:
        raise FileNotFoundError(f"{name} is not installed (dependency group `servers`)")
    options = NODE if primaries > 1 else {}
    started = [servers.Server(name, binary, options) for _ in range(primaries)]
    try:
        with ThreadPoolExecutor(primaries) as starters:
            list(starters.map(lambda server: server.start(), started))
        nodes = Nodes(started)
        if primaries > 1:
            form_cluster(nodes.clients)
        yield nodes
    finally:
        for server in started:
            server.remove()


@dataclass(frozen=True)
class Population:
    """What is on the servers before each sweep: besides these there are the demo's live ones.

    Attributes:
        coordinators: stale ones, of four keys each.
        tagged: ids are hash tags, so that a coordinator's keys lie in one slot.
        unrelated: keys of somebody else.
    """

    coordinators: int
    tagged: bool = False
    unrelated: int = 0

    @property
    def stale_keys(self) -> int:
        """What a sweep should delete."""
        return self.coordinators * demo.KEYS_PER_COORDINATOR

    @property
    def matching(self) -> int:
        """Keys of a family, those of live ones too."""
        return self.stale_keys + demo.LIVE * demo.KEYS_PER_COORDINATOR

    @property
    def keys(self) -> int:
        """All there are."""
        return self.matching + self.unrelated

    def stale_pairs(self, beat_ms: int) -> Iterator[tuple[str, str]]:
        """Keys and values that do not change from one round to the next."""
        for words in stale_words(self.coordinators, beat_ms):
            pairs = zip(words[::2], words[1::2], strict=True)
            yield from ((self._name(key), value) for key, value in pairs)
        for number in range(self.unrelated):
            yield f"session:{number}", str(number)

    def live_pairs(self, now_ms: int) -> dict[str, str]:
        """Of coordinators that beat right now."""
        found: dict[str, str] = {}
        for number in range(1, demo.LIVE + 1):
            name = f"live-coordinator-{number}"
            beat = json.dumps({"coordinatorId": name, "timestamp": now_ms, "iteration": 1})
            found |= {
                f"blocking:heartbeat:{name}": beat,
                f"blocking:signal:{name}": json.dumps({"timestamp": now_ms, "senderId": name}),
                f"blocking:ack:{name}:signal-{number}": json.dumps({"ack": number}),
                f"coordinator:activity:{name}": str(now_ms),
            }
        return {self._name(key): value for key, value in found.items()}

    def _name(self, key: str) -> str:
        if not self.tagged:
            return key
        first, second, name, *rest = key.split(":")
        return ":".join([first, second, f"{{{name}}}", *rest])


class Seeder:
    """Writes a population again and again."""

    def __init__(self, nodes: Nodes, population: Population) -> None:
        self.nodes = nodes
        self.population = population
        self._stale = nodes.pack(population.stale_pairs(_now_ms(nodes) - demo.STALE_AGE_MS))

    def seed(self) -> dict[str, str]:
        """Write it to empty servers; returns the live coordinators' keys and values.

        Raises:
            RuntimeError: the servers hold something else.
        """
        self.nodes.empty()
        live = self.population.live_pairs(_now_ms(self.nodes))
        self.nodes.write(self._stale)
        self.nodes.write(self.nodes.pack(iter(live.items())))
        if (held := self.nodes.keys()) != self.population.keys:
            raise RuntimeError(f"seeded {held} keys, not {self.population.keys}")
        return live


def untouched(nodes: Nodes, live: Mapping[str, str]) -> bool:
    """Whether all live coordinators' keys hold what was written."""
    return all(nodes.client_of(key).get(key) == value.encode() for key, value in live.items())


@contextlib.contextmanager
def _connection(client: redis.Redis) -> Iterator[Any]:
    pool: Any = client.connection_pool
    connection = pool.get_connection()
    try:
        yield connection
    except BaseException:
        connection.disconnect()  # replies that are owed would answer somebody else
        raise
    finally:
        pool.release(connection)


def _now_ms(nodes: Nodes) -> int:
    now: Any = nodes.clients[0].time()
    return int(now[0]) * 1000 + int(now[1]) // 1000
