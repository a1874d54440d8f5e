"""Servers of a cluster that die during a run (issue 3, show it 2).

Whatever happens: a live coordinator has all its keys, the counts add up, and a run that left
something stale says `partial`, and the next plain one finishes.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from cleanup_job import routes, topology
from cleanup_job.errors import ServerUnavailableError
from cleanup_job.job import Observer
from cleanup_job.report import Report
from tests.conftest import require
from tests.keys import STALE_MS, assert_adds_up, beat, heartbeat_key, owned_keys, sweep
from tests.servers import DEFAULT, ServerCluster, ServerProcess

STALE = 1_000
LIVE = 100
KEYS_EACH = 1 + len(owned_keys("x"))

REPLICATED = {
    "cluster-node-timeout": "1000",
    "cluster-replica-validity-factor": "0",
    "repl-diskless-sync-delay": "0",
}
"""A node is missed after a second, and whatever replica there is takes over."""

OLD_ORDER = "redis-6.2"
"""Its nodes walk their keys in bit-reversed order."""


@pytest.fixture(scope="module")
def _replicated() -> Iterator[dict[str, ServerCluster]]:
    clusters: dict[str, ServerCluster] = {}
    yield clusters
    for cluster in clusters.values():
        cluster.remove()


@pytest.fixture
def replicated(
    request: pytest.FixtureRequest, _replicated: dict[str, ServerCluster]
) -> ServerCluster:
    """Three primaries with a replica each, all of them well."""
    name = request.param
    if name not in (request.config.getoption("--server") or [name]):
        pytest.skip("another server was asked for")
    if name not in _replicated:
        require(name)
        _replicated[name] = ServerCluster(name, replicas=1, config=REPLICATED)
    mend(_replicated[name])
    return _replicated[name]


def coordinators(age_ms: int, name: str, count: int, now: int) -> dict[bytes, str]:
    pairs: dict[bytes, str] = {}
    for number in range(count):
        pairs[heartbeat_key(f"{name}-{number}")] = beat(now - age_ms)
        pairs.update(dict.fromkeys(owned_keys(f"{name}-{number}"), "1"))
    return pairs


def fill(cluster: ServerCluster) -> set[bytes]:
    """Write stale and live coordinators; the keys of the live ones."""
    with cluster.client() as client:
        client.flushall()
        now = client.time()[0] * 1000
        live = coordinators(1000, "live", LIVE, now)
        pipeline = client.pipeline()
        for key, value in {**coordinators(STALE_MS, "dead", STALE, now), **live}.items():
            pipeline.set(key, value)
        pipeline.execute()
    await_(lambda: all(has_heard_all(node) for node in primaries(cluster)))
    return set(live)


def keys_of(cluster: ServerCluster) -> set[bytes]:
    found: set[bytes] = set()
    for node in primaries(cluster):
        found.update(node.client().scan_iter(count=1000))
    return found


def runs(node: ServerProcess) -> bool:
    return node._process is not None


def is_primary(node: ServerProcess) -> bool:
    return bool(node.client().info("replication")["role"] == "master")


def primaries(cluster: ServerCluster) -> list[ServerProcess]:
    return [node for node in cluster.nodes if runs(node) and is_primary(node)]


def replica_of(cluster: ServerCluster, primary: ServerProcess) -> ServerProcess:
    ports = {
        replication["master_port"]: node
        for node in cluster.nodes
        if (replication := node.client().info("replication"))["role"] == "slave"
    }
    return ports[primary.port]


def await_(what: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        time.sleep(0.02)


def is_well(node: ServerProcess) -> bool:
    """True if it serves, and its replicas, or its primary, are there and in step."""
    state, replication = node.client().cluster("info"), node.client().info("replication")
    if state["cluster_state"] != "ok" or state["cluster_slots_ok"] != "16384":
        return False
    if replication["role"] == "slave":
        return bool(replication["master_link_status"] == "up")
    return replication["connected_slaves"] > 0 and has_heard_all(node)


def has_heard_all(primary: ServerProcess) -> bool:
    """True if no replica of it is behind."""
    # Replicas tell how far they are once a second, or when somebody waits for them.
    client = primary.client()
    offset = client.info("replication")["master_repl_offset"]
    client.wait(9, 20)
    replicas = [one for one in client.info("replication").values() if isinstance(one, dict)]
    return all(one["state"] == "online" and one["offset"] >= offset for one in replicas)


def mend(cluster: ServerCluster) -> None:
    """Start what was killed; it becomes a replica of whoever took over."""
    for node in cluster.nodes:
        if not runs(node):
            node.start()
    await_(lambda: all(map(is_well, cluster.nodes)))
    await_(lambda: len(primaries(cluster)) == 3)


class Strike(Observer):
    """Does something once, when a share of a phase's keys is done."""

    def __init__(self, phase: str, share: float, action: Callable[[], object]) -> None:
        self.phase, self.share, self.action = phase, share, action
        self.least: float | None = None
        self.done = 0
        self.struck = False

    def began(self, phase: str, keys: int) -> None:
        self.least = self.share * keys if phase == self.phase else None
        self.advanced(0)

    def advanced(self, keys: int) -> None:
        self.done += keys if self.least is not None else 0
        if self.least is not None and self.done >= self.least and not self.struck:
            self.struck = True
            self.action()

    def ended(self) -> None:
        self.least = None


def take_over(replica: ServerProcess) -> None:
    replica.client().execute_command("CLUSTER", "FAILOVER", "TAKEOVER")


def fail_over(victim: ServerProcess, replica: ServerProcess, how: str) -> None:
    victim.stop()
    if how == "at once":
        take_over(replica)
    elif how == "soon":
        threading.Timer(0.3, take_over, [replica]).start()
    else:
        assert how == "by election"


HOW = ["at once", "soon", "by election"]


def assert_finished(cluster: ServerCluster, report: Report, live: set[bytes]) -> None:
    """Nothing live is lost; what is stale is gone, or the next plain run has it."""
    left = keys_of(cluster)
    assert live <= left
    assert_adds_up(report)
    if report.status == "complete":
        assert left == live
    else:
        assert report.status == "partial"
        again = sweep(primaries(cluster)[0])
        assert again.status == "complete", again
        assert keys_of(cluster) == live
        assert_adds_up(again)


SEEDS = {DEFAULT: range(4), OLD_ORDER: range(7, 9)}


@pytest.mark.parametrize(
    ("replicated", "seed"),
    [(name, seed) for name, seeds in SEEDS.items() for seed in seeds],
    indirect=["replicated"],
)
@pytest.mark.parametrize("phase", ["survey", "purge"])
@pytest.mark.timeout(120)
def test_failover_in_the_middle(replicated: ServerCluster, phase: str, seed: int) -> None:
    live = fill(replicated)
    chosen = random.Random(f"{phase}{seed}")
    victim = chosen.choice(primaries(replicated))
    replica = replica_of(replicated, victim)
    how = HOW[seed % len(HOW)]
    strike = Strike(phase, chosen.random(), lambda: fail_over(victim, replica, how))

    report = sweep(replicated, workers=1 + seed % 2, observer=strike)

    assert strike.struck
    # A survey that was disturbed is made again until it is whole; what was not lost to anybody
    # else was deleted by us.
    assert report.keys.planned == STALE * KEYS_EACH
    assert report.keys.gone == 0
    if phase == "survey":
        assert report.status == "complete"
    assert_finished(replicated, report, live)


@pytest.mark.parametrize("replicated", [DEFAULT], indirect=True)
@pytest.mark.timeout(120)
def test_deletions_that_a_failover_takes_back_are_made_again(replicated: ServerCluster) -> None:
    """The keys come back on one server; their heartbeats, on others, must still be there."""
    live = fill(replicated)
    victim = primaries(replicated)[0]
    replica = replica_of(replicated, victim)
    junk = b"junk-{%b}" % victim.client().randomkey()  # in one of its slots

    def cut_off_the_replica() -> None:
        os.kill(replica.pid, signal.SIGSTOP)
        # More than the sockets between them hold, so that no deletion gets through.
        victim.client().set(junk, b"x" * 48_000_000)

    try:
        # Without a lease: the failover would take back that it was given back, and its holder,
        # this process, lives.
        strike = Strike("purge", 0, cut_off_the_replica)
        report = sweep(replicated, observer=strike, lock=False)
        after = int(victim.client().dbsize())
        victim.stop()
    finally:
        os.kill(replica.pid, signal.SIGCONT)
    await_(lambda: try_to_take_over(replica))
    assert int(replica.client().dbsize()) > after, "nothing came back: this test showed nothing"

    assert report.status == "partial"
    assert "heartbeats_left" in [error.code for error in report.errors]
    assert report.keys.by_family["heartbeat"].failed == STALE
    assert_finished(replicated, report, live)


def try_to_take_over(replica: ServerProcess) -> bool:
    try:
        take_over(replica)
    except redis.RedisError:
        return False
    return is_primary(replica)


class Patience:
    """Waits in proportion to the tests' cluster-node-timeout, in place of the default's 15 s."""

    SECONDS = 2.0

    @pytest.fixture(autouse=True)
    def _shorter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (routes, topology):
            monkeypatch.setattr(module, "PATIENCE_S", self.SECONDS)


@pytest.fixture
def fragile(request: pytest.FixtureRequest) -> Iterator[ServerCluster]:
    """Three primaries without replicas, for one test; the parameter says if all must be there."""
    config = {"cluster-node-timeout": "1000", "cluster-require-full-coverage": request.param}
    cluster = ServerCluster(DEFAULT, config=config)
    yield cluster
    cluster.remove()


@pytest.mark.parametrize("fragile", ["no"], indirect=True)
class TestAPrimaryWithoutReplicaIsGone(Patience):
    """The others go on serving; what was on it is out of reach, whoever it belongs to."""

    @pytest.mark.parametrize(
        ("share", "workers", "place"),
        # The last one was walked when it went, and is the one whose address was given.
        [(0, 2, 1), (0.5, 1, 1), (0.9, 1, 0)],
    )
    def test_in_the_survey(
        self, fragile: ServerCluster, share: float, workers: int, place: int
    ) -> None:
        live = fill(fragile)
        victim = fragile.primaries[place]
        lost = set(victim.client().scan_iter(count=1000))
        report = sweep(fragile, workers=workers, observer=Strike("survey", share, victim.stop))

        assert report.status == "partial"
        uncovered = next(w for w in report.warnings if w.code == "uncovered")
        assert uncovered.count == 5461
        first = 5_461 * place
        assert f"slots {first} to {first + 5_460}" in uncovered.samples
        assert victim.address in str(uncovered.samples)
        left = keys_of(fragile)
        assert live - lost <= left
        # Without a look at its heartbeat nobody is dead, and no heartbeat goes before the keys
        # that may be on the lost server.
        for number in range(STALE):
            if heartbeat_key(f"dead-{number}") in lost:
                assert set(owned_keys(f"dead-{number}")) - lost <= left
            else:
                assert heartbeat_key(f"dead-{number}") in left
        assert report.keys.unknown == report.keys.gone == 0
        assert [error.code for error in report.errors] == ["not_attempted"]
        assert_adds_up(report)

    @pytest.mark.parametrize(("share", "workers"), [(0, 1), (0.2, 2), (0.6, 1)])
    def test_in_the_purge(self, fragile: ServerCluster, share: float, workers: int) -> None:
        live = fill(fragile)
        victim = fragile.primaries[1]
        lost: set[bytes] = set()

        def strike() -> None:
            lost.update(victim.client().scan_iter(count=1000))
            victim.stop()

        report = sweep(fragile, workers=workers, observer=Strike("purge", share, strike))
        assert report.status == "partial"
        assert report.errors
        assert report.keys.gone == 0
        assert live - lost <= keys_of(fragile)
        assert_adds_up(report)
        assert report.duration_s < 4 * self.SECONDS


@pytest.mark.parametrize("fragile", ["yes"], indirect=True)
class TestAClusterThatIsDown(Patience):
    """One primary is gone, and the others refuse to serve without it.

    The run waits three times here (for each wave, and to give the lease back), and a second and a
    half go to connecting, whatever the patience is. With one of two seconds that left half a second
    between what it takes and its limit of four times the patience, and on a busy machine nothing.
    """

    SECONDS = 3.0

    def test_in_the_survey_nothing_is_deleted(self, fragile: ServerCluster) -> None:
        fill(fragile)
        victim = fragile.primaries[1]
        before = [node.client().dbsize() for node in fragile.primaries if node is not victim]
        with pytest.raises(ServerUnavailableError):
            # With a lease that could not be given back, there would be a key more.
            sweep(fragile, observer=Strike("survey", 0.5, victim.stop), lock=False)
        after = [node.client().dbsize() for node in fragile.primaries if node is not victim]
        assert after == before

    def test_in_the_purge_the_report_is_partial(self, fragile: ServerCluster) -> None:
        fill(fragile)
        before = [node.client().dbsize() for node in fragile.primaries]
        victim = fragile.primaries[1]
        report = sweep(fragile, observer=Strike("purge", 0.2, victim.stop))
        assert report.status == "partial"
        assert report.keys.failed > 0
        assert report.keys.gone == 0
        assert_adds_up(report)
        assert report.duration_s < 4 * self.SECONDS
        after = [n.client().dbsize() for n in fragile.primaries if n is not victim]
        assert sum(before) - sum(after) - before[1] <= report.keys.deleted + report.keys.unknown


@pytest.mark.parametrize("fragile", ["yes"], indirect=True)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_restarts_during_the_survey_is_walked_again(
    fragile: ServerCluster, workers: int
) -> None:
    live = fill(fragile)
    victim = fragile.primaries[1]

    def restart() -> None:
        victim.client().save()
        victim.stop()
        victim.start()

    report = sweep(fragile, workers=workers, observer=Strike("survey", 0.9, restart))
    assert "walked_again" in [warning.code for warning in report.warnings]
    assert report.status == "complete"
    assert report.keys.deleted == STALE * KEYS_EACH
    assert keys_of(fragile) == live
    assert_adds_up(report)
