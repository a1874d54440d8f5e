"""The servers of a scenario with the proxies before them, shared by scenarios and emptied between.

What a fault changes on a server it sets back itself, except for what dies with the process:
`reset` starts whoever does not run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from cleanup_job.acl import LEASE_PREFIX
from cleanup_job.config import Config, Redis
from cleanup_job.embedded import slots_of
from cleanup_job.job import run
from cleanup_job.keyspace import slot_of
from cleanup_job.report import Report
from tests.faults.people import GRACE_S, all_keys, dumps
from tests.faults.proxy import Proxies
from tests.servers import ServerCluster, ServerProcess

USER, PASSWORD = "sweeper", "hush-hush"
"""Whom the tool logs in as; the tests are the default user."""

ALL_RIGHTS = ("on", f">{PASSWORD}", "~*", "&*", "+@all")

BRAKES_OFF: dict[str, Any] = {
    "expect_all_dead": "true",
    "max_clock_skew": 10_000,
    "confirm_above": 1_000_000,
}
"""Some beats lie an hour ahead, nobody answers questions, and a server may come back with none
that is live."""

PATIENCE_S = 20.0

NODE = {"cluster-node-timeout": "5000", "cluster-replica-validity-factor": "0"}
"""A primary that is stopped for a moment keeps its slots."""

REPLICATED = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
"""A replica is there at once, and is missed soon."""


class StageServer(ServerProcess):
    """One that knows the tool's user from its start on."""

    def _launch(self) -> None:
        users = self.folder / "users.acl"
        users.write_text(
            f"user default on nopass ~* &* +@all\nuser {USER} {' '.join(ALL_RIGHTS)}\n"
        )
        self.options["aclfile"] = str(users)
        super()._launch()


class Stage:
    """Some primaries, each behind a proxy.

    Attributes:
        topology: as the table names it.
        servers: the primaries, in the order of their slots.
        clients: the tests' own connections to them, past the proxies, by place.
    """

    def __init__(
        self,
        topology: str,
        servers: list[ServerProcess],
        replicas: Sequence[ServerProcess] = (),
    ) -> None:
        self.topology = topology
        self.servers = servers
        self.nodes = [*servers, *replicas]
        self.proxies = Proxies([server.port for server in self.nodes])
        self.clients = {number: _client(server) for number, server in enumerate(servers)}
        self._replica: ServerProcess | None = None

    @property
    def clustered(self) -> bool:
        return len(self.servers) > 1

    def replica(self) -> ServerProcess:
        """A replica of the standalone server, in step with it; `detach` ends that."""
        if self._replica is None:
            self._replica = StageServer(self.servers[0].name, REPLICATED)
        elif not is_running(self._replica):
            self._replica.stop()
            self._replica.start()
        with self._replica.client() as client:
            client.replicaof("127.0.0.1", self.servers[0].port)
            await_(lambda: has_role(client, "slave") and is_in_step(client, self.clients[0]))
        return self._replica

    def detach(self) -> None:
        """Two servers that know nothing of each other."""
        for server in (self.servers[0], self._replica):
            if server is not None and is_running(server):
                with server.client() as client:
                    client.replicaof("NO", "ONE")

    @property
    def url(self) -> str:
        return self.servers[0].url

    def place(self, key: bytes) -> int:
        """Which server has a key."""
        if not self.clustered:
            return 0
        return next(i for i in range(len(self.servers)) if slot_of(key) in slots_of(i, 3))

    def client_of(self, key: bytes) -> redis.Redis:
        return self.clients[self.place(key)]

    def configuration(self, folder: Path, **settings: Any) -> Path:
        """A file for the tool, which leads it through the proxies."""
        pairs = zip(self.nodes, self.proxies.ports, strict=True)
        lines = [f'    "{server.address}": "127.0.0.1:{port}"' for server, port in pairs]
        url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{self.proxies.ports[0]}/0"
        text = f"redis:\n  url: {url}\n  address_map:\n" + "\n".join(lines) + "\n"
        settings = {**BRAKES_OFF, **settings}
        text += "".join(f"{name}: {value}\n" for name, value in settings.items())
        path = folder / "cleanup-job.yaml"
        path.write_text(text)
        return path

    def reset(self) -> None:
        """All servers run, empty and as they were configured."""
        for server in self.nodes:
            if not is_running(server):
                server.stop()
                with contextlib.suppress(OSError):
                    (server.folder / "dump.rdb").unlink(missing_ok=True)
                server.start()
        if len(self.nodes) > len(self.servers):
            self.await_well()
        for client in self.clients.values():
            client.execute_command("CLIENT", "UNPAUSE")
            client.flushall()
            client.script_flush()
            give_rights(client)
        self.await_well()

    def await_well(self) -> None:
        """Wait until all serve. Behind a restart a cluster's nodes have to find together."""
        if self.clustered:
            await_(lambda: all(map(_is_well, self.clients.values())))
        else:
            await_(lambda: bool(self.clients[0].ping()))

    def keys(self) -> set[bytes]:
        """All but a lease."""
        keys = all_keys(self.clients.values())
        return {key for key in keys if not key.startswith(LEASE_PREFIX)}

    def dumps(self, keys: set[bytes]) -> dict[bytes, bytes | None]:
        return dumps(keys, self.clients, self.place)

    def sweep(self, *, orphans: str) -> Report:
        """A plain run, past the proxies."""
        config = Config(
            redis=Redis(self.url),
            orphans=orphans,
            orphan_grace=GRACE_S,
            engine="serial",
            expect_all_dead=True,
            max_clock_skew=BRAKES_OFF["max_clock_skew"],
        )
        return run(config)

    def close(self) -> None:
        self.proxies.close()
        for client in self.clients.values():
            client.close()
        if self._replica is not None:
            self._replica.remove()


class ReplicatedStage(Stage):
    """A cluster in which each primary has a replica; who took over gives back what it took."""

    def replica_of(self, place: int) -> ServerProcess:
        """Of a primary; and of a replica, the primary."""
        count = len(self.servers)
        return self.nodes[(place + count) % len(self.nodes)]

    def await_well(self) -> None:
        for node in self.nodes:
            if not is_running(node):
                node.stop()
                node.start()
        for client in self.clients.values():
            await_(lambda c=client: _is_well(c))  # type: ignore[misc]
            await_(lambda c=client: self._is_primary_again(c))  # type: ignore[misc]
        for place, client in self.clients.items():
            with self.replica_of(place).client() as replica:
                await_(
                    lambda r=replica, c=client: has_role(r, "slave") and is_in_step(r, c)  # type: ignore[misc]
                )
        super().await_well()

    @staticmethod
    def _is_primary_again(client: redis.Redis) -> bool:
        if has_role(client, "master"):
            return True
        if client.info("replication")["master_link_status"] == "up":
            with contextlib.suppress(redis.ResponseError):  # one is under way
                client.execute_command("CLUSTER", "FAILOVER")
            time.sleep(0.05)
        return False


def is_running(server: ServerProcess) -> bool:
    return server._process is not None and server._process.poll() is None


def has_role(client: redis.Redis, role: str) -> bool:
    return bool(client.info("replication")["role"] == role)


def is_in_step(replica: redis.Redis, primary: redis.Redis) -> bool:
    """True if the replica has all that its primary has."""
    offset = primary.info("replication")["master_repl_offset"]
    info = replica.info("replication")
    return bool(info["master_link_status"] == "up" and info["slave_repl_offset"] >= offset)


def give_rights(client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", USER, "reset", *ALL_RIGHTS)


def _client(server: ServerProcess) -> redis.Redis:
    # A server that is killed and started again is there within a second.
    retry = Retry(ConstantBackoff(0.05), 40)
    return server.client(retry=retry, socket_timeout=20)


def _is_well(client: redis.Redis) -> bool:
    info: Any = client.cluster("info")
    return bool(info["cluster_state"] == "ok" and info["cluster_slots_ok"] == "16384")


def await_(what: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        time.sleep(0.01)


class Stages:
    """Each topology when it is first needed."""

    def __init__(self, server: str, config: Mapping[str, str]) -> None:
        self._server = server
        self._config = {**REPLICATED, **config}
        self._stages: dict[str, Stage] = {}
        self._servers: list[ServerProcess | ServerCluster] = []

    def __getitem__(self, topology: str) -> Stage:
        if topology not in self._stages:
            self._stages[topology] = self._make(topology)
        return self._stages[topology]

    def _make(self, topology: str) -> Stage:
        if topology == "standalone":
            server = StageServer(self._server, self._config)
            self._servers.append(server)
            return Stage(topology, [server])
        replicas = {"cluster": 0, "replicated": 1}[topology]
        config = {**NODE, **self._config}
        cluster = ServerCluster(self._server, config=config, kind=StageServer, replicas=replicas)
        self._servers.append(cluster)
        if not replicas:
            return Stage(topology, cluster.primaries)
        return ReplicatedStage(topology, cluster.primaries, cluster.nodes[3:])

    def close(self) -> None:
        for stage in self._stages.values():
            stage.close()
        for server in self._servers:
            server.remove()


@contextlib.contextmanager
def stages(server: str, **config: str) -> Iterator[Stages]:
    """For a while; `_` in names of options stands for `-`."""
    made = Stages(server, {name.replace("_", "-"): value for name, value in config.items()})
    try:
        yield made
    finally:
        made.close()
