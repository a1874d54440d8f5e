"""A server that restarts in the middle, and has loaded an old snapshot."""

from __future__ import annotations

from cleanup_job.job import Observer
from tests.keys import STALE_MS, assert_adds_up, heartbeat_key, sweep, write_coordinator
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
