"""A server that restarts in the middle, and has loaded an old snapshot."""

from __future__ import annotations

import pytest

from cleanup_job.job import Observer
from tests.keys import (
    STALE_MS,
    assert_adds_up,
    heartbeat_key,
    owned_keys,
    sweep,
    write_coordinator,
)
from tests.server.test_revival import write_many
from tests.servers import running

ACKS = 1_200
"""Of one coordinator: more than a batch, so that its heartbeat waits for the second wave."""


def test_heartbeats_stay_where_their_keys_may_have_come_back() -> None:
    """They went, and nobody found the keys that the snapshot had brought back."""
    with running() as server, server.client() as client:
        write_coordinator(client, "dead", STALE_MS)
        client.mset({f"blocking:ack:dead:{number}": "1" for number in range(ACKS)})
        client.save()

        class Restart(Observer):
            left = 0

            def began(self, phase: str, keys: int) -> None:
                self.left = keys - 1 if phase == "purge" else 0

            def advanced(self, keys: int) -> None:
                if self.left:
                    self.left -= keys
                    if not self.left:
                        server.stop()
                        server.start()

        report = sweep(server, observer=Restart())
        assert report.status == "partial"
        assert client.exists(heartbeat_key("dead"))
        assert "heartbeats_left" in [error.code for error in report.errors]
        assert_adds_up(report)
        again = sweep(server)
        assert again.status == "complete"
        assert client.dbsize() == 0


def test_so_do_those_whose_turn_had_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the middle of the second wave, which broke the connection and went on."""
    for name in ("plan.KEYS_PER_BATCH", "purge.KEYS_PER_BATCH", "purge.KEYS_IN_FLIGHT"):
        monkeypatch.setattr(f"cleanup_job.{name}", 5)
    names = [f"dead-{number}" for number in range(100)]
    with running() as server, server.client() as client:
        write_many(client, len(names))
        client.save()

        class Restart(Observer):
            left = 0

            def began(self, phase: str, keys: int) -> None:
                self.left = keys - 50 if phase == "purge" else 0

            def advanced(self, keys: int) -> None:
                if self.left > 0:
                    self.left -= keys
                    if self.left <= 0:
                        server.stop()
                        server.start()

        report = sweep(server, engine="serial", observer=Restart())
        assert report.status == "partial"
        assert report.coordinators.purged >= 40, "it was in the second wave"
        assert_adds_up(report)
        for name in names:
            if client.exists(*owned_keys(name)):
                assert client.exists(heartbeat_key(name)), f"{name} has keys and no heartbeat"
        assert sweep(server).status == "complete"
        assert client.dbsize() == 0
