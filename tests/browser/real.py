"""Make the cases that a page and a terminal are looked at for, by real runs on real servers.

    python -m tests.browser.real FOLDER [NAME ...]

writes NAME.json for each; `cleanup-job render` makes pages of them. All but the million take a
minute together; that one takes some minutes and about a gigabyte.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from cleanup_job import demo
from cleanup_job.config import Config, Redis
from cleanup_job.job import run
from cleanup_job.report import Report, to_json
from tests.cluster import test_failover as failover
from tests.keys import (
    STALE_MS,
    heartbeat_key,
    now_ms,
    owned_keys,
    sweep,
    write_coordinator,
    write_heartbeat,
    write_owned,
)
from tests.servers import DEFAULT, ServerCluster, ServerProcess

HOSTILE = (
    b'"><script>document.title="ran"</script>',
    b"<img src=x onerror=alert(1)>",
    b"</td></tr></table></main><style>*{display:none}</style>",
    b"javascript:alert(1)",
    b"&lt;b&gt;&#x41;",
    "\u202edetrevni \u2066isolated".encode(),
    b"line\nbreak\ttab\x1b[31mred\x00null",
    b"\xff\xfe no utf-8",
    b"x" * 5000,
    b"<!--",
    "漢字 العربية עברית 🙂".encode(),
)


def seed_case() -> Report:
    """The validation report's case: 10,000 dead and 10 live ones."""
    return _seeded(10_000)


def a_million() -> Report:
    """1,000,000 dead and 10 live ones."""
    return _seeded(1_000_000)


def _seeded(coordinators: int) -> Report:
    server = ServerProcess(DEFAULT)
    try:
        demo.seed(server.client(decode_responses=True), coordinators)
        return run(Config(redis=Redis(server.url)))
    finally:
        server.remove()


def failed_over() -> Report:
    """A cluster of which a primary dies in the middle of the purge."""
    cluster = ServerCluster(DEFAULT, replicas=1, config=failover.REPLICATED)
    try:
        failover.mend(cluster)
        failover.fill(cluster)
        victim = failover.primaries(cluster)[1]
        replica = failover.replica_of(cluster, victim)
        strike = failover.Strike(
            "purge", 0.4, lambda: failover.fail_over(victim, replica, "at once")
        )
        return sweep(cluster, workers=2, observer=strike)
    finally:
        cluster.remove()


def refused() -> Report:
    """A hundred dead and more, and nobody alive."""
    server = ServerProcess(DEFAULT)
    try:
        for number in range(150):
            write_coordinator(server.client(), f"dead-{number}", STALE_MS + 79_190 * number)
        return run(Config(redis=Redis(server.url)))
    finally:
        server.remove()


def empty() -> Report:
    """A server without a key."""
    server = ServerProcess(DEFAULT)
    try:
        return run(Config(redis=Redis(server.url)))
    finally:
        server.remove()


def hostile() -> Report:
    """Ids that are HTML, script, control characters, no UTF-8 and very long."""
    server = ServerProcess(DEFAULT)
    try:
        client = server.client()
        for number, name in enumerate(HOSTILE):
            # With a ':' it would be an id of several segments; here each is one.
            plain = name.replace(b":", b";")
            write_coordinator(client, plain, STALE_MS * (number + 1))
            client.set(heartbeat_key(b"unreadable " + plain), plain)
            write_heartbeat(client, b"future " + plain, -20_000 * (number + 1))
            write_owned(client, b"orphan " + plain)
        write_coordinator(client, "live-1", 1000)
        return run(Config(redis=Redis(server.url)), show=20)
    finally:
        server.remove()


def revived() -> Report:
    """Coordinators that come back between the survey and their turn, and orphans to purge."""
    server = ServerProcess(DEFAULT)
    client = server.client()

    class Revive(failover.Strike):
        def __init__(self) -> None:
            super().__init__("purge", 0, self.beat)

        def beat(self) -> None:
            for number in range(0, 500, 25):
                write_heartbeat(client, f"dead-{number}", 0)

    try:
        now = now_ms(client)
        client.mset(failover.coordinators(STALE_MS, "dead", 500, now))  # type: ignore[arg-type]
        client.mset(failover.coordinators(1000, "live", 20, now))  # type: ignore[arg-type]
        for number in range(30):
            client.mset(dict.fromkeys(owned_keys(f"lost-{number}"), "1"))
        return run(Config(redis=Redis(server.url)), observer=Revive(), show=20)
    finally:
        server.remove()


CASES: dict[str, Callable[[], Report]] = {
    "seed": seed_case,
    "failover": failed_over,
    "refused": refused,
    "empty": empty,
    "hostile": hostile,
    "revived": revived,
    "million": a_million,
}


def main(words: list[str]) -> None:
    """Write the reports of all cases, or of those named."""
    folder = Path(words[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name in words[1:] or CASES:
        report = CASES[name]()
        (folder / f"{name}.json").write_bytes(to_json(report))
        print(f"{name}: {report.status}")  # noqa: T201 - a script's word


if __name__ == "__main__":
    main(sys.argv[1:])
