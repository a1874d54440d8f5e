"""What stands there, by its own words, and into how many shares its keyspace is cut."""

from __future__ import annotations

import pytest
import redis

from cleanup_job import topology
from tests.keys import sweep, write_coordinator
from tests.server.test_revival import write_many
from tests.servers import ServerProcess

VERSIONS = {
    "valkey-9.1": ("valkey", "9.1"),
    "valkey-8.1": ("valkey", "8.1"),
    "redis-6.2": ("redis", "6.2"),
    "redis-7.0": ("redis", "7.0"),
}


@pytest.mark.parametrize(
    ("info", "product"),
    [
        ("redis_version:7.0.15", ("redis", "7.0.15")),
        ("redis_version:6.0.16", ("redis", "6.0.16")),
        # Valkey calls itself Redis too, for clients that look for it.
        ("redis_version:7.2.4 server_name:valkey valkey_version:8.1.8", ("valkey", "8.1.8")),
        ("redis_version:7.2.4 valkey_version:9.1.2", ("valkey", "9.1.2")),
        ("redis_version:7.2.0 dragonfly_version:df-v1.30.0", ("dragonfly", "df-v1.30.0")),
        ("redis_version:6.3.4 mvcc_depth:0", ("mvcc", "0")),
        ("redis_version:7.2.5 garnet_version:1.0.60", ("garnet", "1.0.60")),
        ("redis_version:7.4.0 server_name:other", ("other", "7.4.0")),
    ],
)
def test_products_are_told_apart_by_info(info: str, product: tuple[str, str]) -> None:
    fields = dict(line.split(":", 1) for line in info.split())
    assert topology._product(fields) == product


def test_the_report_names_product_version_and_mode(
    server: ServerProcess, client: redis.Redis
) -> None:
    target = sweep(server, dry_run=True).target
    product, version = VERSIONS[server.name]
    assert (target.product, target.mode) == (product, "standalone")
    assert target.version.startswith(version + ".")
    assert target.nodes == [f"127.0.0.1:{server.port}"]


class TestShares:
    @pytest.mark.default_server
    @pytest.mark.parametrize("workers", [1, 2, 3, 4])
    def test_at_least_one_per_worker_where_keys_are_many(
        self, server: ServerProcess, client: redis.Redis, workers: int
    ) -> None:
        write_many(client, 2_000)
        report = sweep(server, dry_run=True, workers=workers)
        assert len(report.partitions) >= workers
        assert len({walk.range for walk in report.partitions}) == len(report.partitions)
        assert report.keys.planned == 12_000
        assert sum(walk.scanned for walk in report.partitions) >= 12_000

    @pytest.mark.default_server
    @pytest.mark.parametrize("coordinators", [0, 1, 100])
    def test_one_where_they_are_few(
        self, server: ServerProcess, client: redis.Redis, coordinators: int
    ) -> None:
        if coordinators:
            write_many(client, coordinators)
        report = sweep(server, dry_run=True, workers=4)
        assert len(report.partitions) == 1
        assert report.keys.planned == coordinators * 6

    def test_one_sequence_where_the_cursors_are_not_known_to_be_in_order(
        self, server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(topology, "_PARTITIONABLE", {})
        write_many(client, 1_000)
        write_coordinator(client, "live", 1_000)
        report = sweep(server, workers=2)
        assert [walk.range for walk in report.partitions] == ["all"]
        assert report.status == "complete"
        assert report.keys.deleted == 6_000
        assert client.dbsize() == 6
