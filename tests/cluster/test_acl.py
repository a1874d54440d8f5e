"""The printed rights are enough on the nodes of each cluster, and each of them is needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from cleanup_job import topology
from cleanup_job.acl import Use
from tests.keys import STALE_MS, beat, heartbeat_key, keys_of, owned_keys
from tests.rights import denied, named, refusal_of, rules, sent, sweep_as, user
from tests.server.test_acl import describe
from tests.servers import ServerCluster

USES = [
    Use(clustered=True, orphans=orphans, deletes=deletes)
    for orphans in (False, True)
    for deletes in (False, True)
] + [Use(clustered=True, orphans=True, journal=True)]

COUNTS_SLOTS = ("valkey-9.1", "valkey-8.1")
"""Clusters that walk slot by slot, and are asked how many keys each slot has."""

COUNT_RULE = "+cluster|countkeysinslot"


@pytest.fixture(autouse=True)
def _few_keys_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that slots are counted although the test has few keys."""
    monkeypatch.setattr(topology, "KEYS_WORTH_A_PARTITION", 1)


@pytest.fixture
def admins(
    cluster: ServerCluster, cluster_client: redis.RedisCluster
) -> Iterator[list[redis.Redis]]:
    """A client of each primary, with keys of each kind."""
    now_ms = cluster_client.time()[0] * 1000
    for name, age_ms in (("dead", STALE_MS), ("live", 1_000)):
        cluster_client.set(heartbeat_key(name), beat(now_ms - age_ms))
        for key in owned_keys(name):
            cluster_client.set(key, "1")
    cluster_client.hset(heartbeat_key("odd"), "a", "b")
    for key in owned_keys("orphan"):
        cluster_client.set(key, "some value")
        payload = cluster_client.dump(key)
        cluster_client.restore(key, 0, payload, replace=True, idletime=10_000)
    admins = [node.client() for node in cluster.primaries]
    yield admins
    for admin in admins:
        admin.close()


def all_keys(admins: list[redis.Redis]) -> set[bytes]:
    return set().union(*map(keys_of, admins))


@pytest.mark.parametrize("use", USES, ids=describe)
def test_they_are_enough(cluster: ServerCluster, admins: list[redis.Redis], use: Use) -> None:
    before = all_keys(admins)
    with user(admins, use) as login:
        report = sweep_as(login, cluster.nodes[0].address, use)
        assert denied(admins) == []
        # A dry run asks for a slot on its way only where there is one.
        assert sent(admins) == named(use) - (set() if use.deletes else {"asking"})
    assert (report.status, report.coordinators.unreadable) == ("complete", 1)
    gone = {heartbeat_key("dead"), *owned_keys("dead")} if use.deletes else set()
    gone |= set(owned_keys("orphan")) if use.deletes and use.orphans else set()
    assert all_keys(admins) == before - gone


@pytest.mark.parametrize("rule", rules(USES[-1]))
def test_without_any_one_of_them_nothing_is_deleted(
    cluster: ServerCluster, admins: list[redis.Redis], rule: str
) -> None:
    """Issue 3, show it 5."""
    before = all_keys(admins)
    with user(admins, USES[-1], without=rule) as login:
        if rule == COUNT_RULE and cluster.name not in COUNTS_SLOTS:
            assert sweep_as(login, cluster.nodes[0].address, USES[-1]).status == "complete"
            return
        message = refusal_of(login, cluster.nodes[0].address, USES[-1])
    assert f"give it the right with ACL SETUSER … {rule};" in message
    assert all_keys(admins) == before


def test_a_node_without_the_user_is_named(
    cluster: ServerCluster, admins: list[redis.Redis]
) -> None:
    """Nodes do not tell each other of users."""
    before = all_keys(admins)
    with user(admins[:2], USES[-1]) as login:
        message = refusal_of(login, cluster.nodes[0].address, USES[-1])
    assert f"{cluster.nodes[2].address} did not accept the login" in message
    assert all_keys(admins) == before
