"""Partitions leave no gaps, whatever the table does meanwhile (issue 2, show it 5)."""

from __future__ import annotations

import itertools
import threading

import pytest
import redis

from cleanup_job import topology, walks
from cleanup_job.config import Config
from cleanup_job.cursors import Order, cut_evenly
from cleanup_job.errors import CursorOrderError
from cleanup_job.model import Broken, Endpoint, Findings, Partition, SurveyTask
from cleanup_job.pulse import Rests, unlimited
from cleanup_job.survey import survey
from tests.keys import sweep, write_coordinator
from tests.servers import ServerProcess, running

STABLE = 6_666


class NoPulse(Rests):
    def __init__(self) -> None:
        super().__init__(unlimited, self.stopping)

    def advance(self, keys: int) -> None:
        pass

    def stopping(self) -> bool:
        return False


class Churn(threading.Thread):
    """Makes the table grow and shrink again until it is told to stop."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self.client = client
        self.rounds = 0
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.is_set() and self.rounds < 10_000:
            names = [f"churn:{number}" for number in range(40_000)]
            for start in range(0, len(names), 4_000):
                self.client.mset(dict.fromkeys(names[start : start + 4_000], "x"))
            for start in range(0, len(names), 4_000):
                self.client.delete(*names[start : start + 4_000])
            self.rounds += 1

    def end(self) -> None:
        self._stop_asked.set()
        self.join()


def task_for(server: ServerProcess, partition: Partition) -> SurveyTask:
    config = Config()
    return SurveyTask(Endpoint(port=server.port), partition, config.schema(), config.rule())


def reversed_shares(count: int) -> list[Partition]:
    lanes = list(itertools.pairwise(cut_evenly(2 * count)))
    return [
        Partition("n", Order.REVERSED, (lanes[2 * i], lanes[2 * i + 1]), STABLE // count)
        for i in range(count)
    ]


def in_sequence() -> Partition:
    return Partition("n", Order.SEQUENCE, ((0, 1 << 64),), STABLE)


def walk(server: ServerProcess, partitions: list[Partition]) -> list[list[bytes]]:
    shares = []
    for partition in partitions:
        found = survey(task_for(server, partition), NoPulse())
        assert isinstance(found, Findings)
        shares.append([key for run in found.owned[0] for key in run])
    return shares


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 16])
def test_the_union_holds_every_stable_key_while_the_table_changes(
    server: ServerProcess, client: redis.Redis, count: int
) -> None:
    stable = {b"blocking:signal:%d" % number for number in range(STABLE)}
    client.mset(dict.fromkeys(stable, "1"))
    churn = Churn(server.client())
    churn.start()
    try:
        while churn.rounds == 0:
            pass
        for _ in range(4):
            shares = walk(server, reversed_shares(count))
            assert stable <= {key for share in shares for key in share}
    finally:
        churn.end()


def test_partitions_share_the_work(server: ServerProcess, client: redis.Redis) -> None:
    client.mset({f"blocking:signal:{number}": "1" for number in range(40_000)})
    shares = walk(server, reversed_shares(4))
    assert max(map(len, shares)) < 1.3 * 10_000


def test_sequential_walk_covers_everything(server: ServerProcess, client: redis.Redis) -> None:
    stable = {b"blocking:signal:%d" % number for number in range(STABLE)}
    client.mset(dict.fromkeys(stable, "1"))
    (share,) = walk(server, [in_sequence()])
    assert set(share) == stable


def test_unknown_server_is_walked_in_sequence(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coordinator(client, "dead", 700_000)
    monkeypatch.setattr(topology, "_PARTITIONABLE", {})
    report = sweep(server, workers=2, engine="serial")
    assert [partition.range for partition in report.partitions] == ["all"]
    assert report.keys.deleted == 6


def test_cursors_out_of_order_fall_back_to_one_sequence(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coordinator(client, "dead", 700_000)

    def break_order(task: SurveyTask, pulse: NoPulse) -> Findings | Broken:
        if task.partition.order is not Order.SEQUENCE:
            raise CursorOrderError("out of order", "cursor_order")
        return survey(task, pulse)

    monkeypatch.setattr(walks, "survey", break_order)
    report = sweep(server, engine="serial", workers=4)
    assert [warning.code for warning in report.warnings] == ["cursor_order"]
    assert [partition.range for partition in report.partitions] == ["all"]
    assert report.keys.deleted == 6


def test_another_order_of_cursors_is_noticed() -> None:
    """A cluster's node walks slot by slot, so bit-reversed shares do not fit it."""
    with running(cluster_enabled="yes") as node, node.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while client.cluster("info")["cluster_state"] != "ok":
            pass
        for number in range(5_000):
            client.set(f"blocking:signal:{number}", "1")
        with pytest.raises(CursorOrderError):
            walk(node, reversed_shares(4))


def test_one_walk_costs_no_more_scans_than_it_must(
    server: ServerProcess, client: redis.Redis
) -> None:
    client.mset({f"blocking:signal:{number}": "1" for number in range(100_000)})
    client.config_resetstat()
    # A server that is held up gets smaller commands, and so more of them.
    sweep(server, dry_run=True, max_block_ms=1000)
    stats = client.info("commandstats")
    assert stats["cmdstat_scan"]["calls"] <= 1.3 * 100_000 / 1000
    assert "cmdstat_keys" not in stats
