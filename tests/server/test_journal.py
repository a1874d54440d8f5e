"""What a run with a journal deletes can be put back, and nothing else happens to anything."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cleanup_job import attempt as attempts
from cleanup_job import dump as dumps
from cleanup_job import plan
from cleanup_job import purge as purges
from cleanup_job.config import Config, Redis
from cleanup_job.errors import ConfigError
from cleanup_job.job import Observer, run
from cleanup_job.journal import Journal, partial
from cleanup_job.report import Report
from cleanup_job.restore_report import RestoreReport
from cleanup_job.undo import restore
from tests.keys import (
    STALE_MS,
    assert_adds_up,
    heartbeat_key,
    keys_of,
    now_ms,
    owned_keys,
    write_coordinator,
    write_heartbeat,
)
from tests.server.proxy import proxy
from tests.server.test_orphans import GRACE_S, orphan_keys, write_idle
from tests.server.test_revival import write_many
from tests.servers import ServerProcess, running

Snapshot = dict[bytes, tuple[Any, int]]


def snapshot(client: redis.Redis) -> Snapshot:
    """Every key's dump and expiry. A server without PEXPIRETIME is asked for what is left of it."""
    exact = int(client.info("server")["redis_version"].split(".")[0]) >= 7
    keys = sorted(keys_of(client))
    asking = client.pipeline(transaction=False)
    for key in keys:
        asking.dump(key)
        asking.execute_command("PEXPIRETIME" if exact else "PTTL", key)
    replies = asking.execute()
    if not exact:
        # The two are asked a moment apart.
        now = now_ms(client)
        replies[1::2] = [
            left if left < 0 else round((now + left) / 1_000) for left in replies[1::2]
        ]
    return dict(zip(keys, zip(replies[::2], replies[1::2], strict=True), strict=True))


def purged(server: ServerProcess, journal: Path, **settings: Any) -> Report:
    options = {name: settings.pop(name) for name in ("observer", "dry_run") if name in settings}
    config = Config(redis=Redis(server.url), expect_all_dead=True, **settings)
    return run(config, journal=str(journal), **options)


def restored(server: ServerProcess, journal: Path, **options: Any) -> RestoreReport:
    report = restore(Config(redis=Redis(server.url)), str(journal), **options)
    keys = report.keys
    for counts in (keys, *keys.by_family.values()):
        assert counts.adds_up
    return report


def write_types(client: redis.Redis) -> None:
    """A dead coordinator with a key of each type, some of which expire."""
    write_heartbeat(client, "dead", STALE_MS)
    client.pexpire(heartbeat_key("dead"), 300_000)
    client.hset("blocking:signal:dead", mapping={"a": "1", "b": "x" * 50})
    client.rpush("blocking:ack:dead:list", *range(50))
    client.sadd("blocking:ack:dead:numbers", 1, 2, 3)
    client.zadd("blocking:idempotency:op:dead", {"one": 1.5, "two": -2})
    client.xadd("coordinator:activity:dead", {"field": "value"}, id="1-1")
    client.set("blocking:ack:dead:integer", 17, px=86_400_000)
    client.set(b"blocking:ack:dead:\x00\xff\r\n", os.urandom(1_000), px=3_600_000)
    client.set("blocking:ack:dead:empty", "")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "j"


def test_byte_for_byte(server: ServerProcess, client: redis.Redis, journal: Path) -> None:
    """Issue 5, show it 2."""
    write_many(client, 100)
    write_types(client)
    write_coordinator(client, "live", 1_000)
    before = snapshot(client)
    report = purged(server, journal)
    assert (report.status, report.keys.deleted) == ("complete", 100 * 6 + 9)
    assert report.journal is not None
    assert report.journal.keys == report.keys.deleted
    assert report.journal.bytes == journal.stat().st_size
    assert not partial(journal).exists()
    assert client.dbsize() == 6

    looked = restored(server, journal, dry_run=True)
    assert (looked.status, looked.keys.absent) == ("complete", report.keys.deleted)
    assert client.dbsize() == 6
    assert client.info("commandstats").get("cmdstat_restore") is None

    told = restored(server, journal)
    assert (told.status, told.keys.restored) == ("complete", report.keys.deleted)
    assert [warning.code for warning in told.warnings] == ["still_stale"]
    assert snapshot(client) == before

    again = restored(server, journal)
    assert (again.status, again.keys.present) == ("complete", report.keys.deleted)
    assert snapshot(client) == before


def test_large_collections(server: ServerProcess, client: redis.Redis, journal: Path) -> None:
    """Their dumps may differ, since a hash table has no order of its own; their contents do not."""
    write_heartbeat(client, "dead", STALE_MS)
    fields = {f"f{number}": str(number) for number in range(2_000)}
    client.hset("blocking:signal:dead", mapping=fields)
    client.sadd("blocking:ack:dead:s", *fields)
    client.zadd("blocking:ack:dead:z", dict.fromkeys(fields, 1.0))
    purged(server, journal)
    assert client.dbsize() == 0
    restored(server, journal)
    assert client.hgetall("blocking:signal:dead") == {
        k.encode(): v.encode() for k, v in fields.items()
    }
    assert client.smembers("blocking:ack:dead:s") == {field.encode() for field in fields}
    assert client.zcard("blocking:ack:dead:z") == 2_000


def test_what_exists_stays_and_what_expired_does_not_come_back(
    server: ServerProcess, client: redis.Redis, journal: Path
) -> None:
    write_coordinator(client, "dead", STALE_MS)
    soon_ms = now_ms(client) + 400
    client.pexpireat("blocking:signal:dead", soon_ms)
    client.pexpireat("blocking:ack:dead:s1", now_ms(client) + 100_000)
    purged(server, journal)
    client.set("coordinator:activity:dead", "mine")
    while now_ms(client) <= soon_ms:
        time.sleep(0.02)
    assert restored(server, journal, dry_run=True).keys.expired == 1
    report = restored(server, journal)
    assert report.status == "complete"
    keys = report.keys
    assert (keys.restored, keys.present, keys.expired) == (4, 1, 1)
    assert keys.by_family["signal"].expired == keys.by_family["activity"].present == 1
    assert client.get("coordinator:activity:dead") == b"mine"
    assert not client.exists("blocking:signal:dead")
    assert client.pttl("blocking:ack:dead:s1") > 0


@pytest.mark.default_server
def test_only_one_coordinator(server: ServerProcess, client: redis.Redis, journal: Path) -> None:
    """A key goes with the longest id that it names, and one id may begin another."""
    for name in ("a", "a:b", "ab"):
        write_heartbeat(client, name, STALE_MS)
        client.set(f"blocking:ack:{name}:s1", name)
    client.set("blocking:idempotency:ab:a", "both")
    purged(server, journal)
    assert client.dbsize() == 0
    report = restored(server, journal, only=b"a")
    assert keys_of(client) == {heartbeat_key("a"), b"blocking:ack:a:s1"}
    assert (report.only, report.keys.recorded, report.keys.restored) == ("a", 2, 2)
    restored(server, journal, only=b"a:b")
    assert client.exists("blocking:ack:a:b:s1")
    assert restored(server, journal, only=b"ab").keys.restored == 3
    with pytest.raises(ConfigError, match="of 'aa'; it names 3 other ids, next to it a:b, ab"):
        restored(server, journal, only=b"aa")


def test_orphans(server: ServerProcess, client: redis.Redis, journal: Path) -> None:
    write_idle(client, orphan_keys("gone"), 10_000)
    write_idle(client, orphan_keys("young"), 10_000)
    for number in range(300):
        write_idle(client, orphan_keys(f"many-{number}"), 10_000)
    before = snapshot(client)
    write_idle(client, orphan_keys("late"), 10_000)

    class Touch(Observer):
        def began(self, phase: str, keys: int) -> None:
            if phase == "purge":
                client.get("blocking:ack:late:s1")

    # Taking a snapshot touches keys too, so all of them are written anew.
    client.flushall()
    for name in ("gone", "young", "late", *(f"many-{number}" for number in range(300))):
        write_idle(client, orphan_keys(name), 10_000)
    client.get("blocking:ack:young:s2")
    report = purged(server, journal, orphans="purge", orphan_grace=GRACE_S, observer=Touch())
    assert_adds_up(report)
    assert report.coordinators.orphans_purged == 301
    assert report.keys.spared == 4
    assert keys_of(client) == {*orphan_keys("young"), *orphan_keys("late")}
    told = restored(server, journal, only=b"gone")
    assert told.keys.restored == 4
    assert set(orphan_keys("gone")) <= keys_of(client)
    assert restored(server, journal).keys.restored == 1_200
    after = snapshot(client)
    assert all(after[key] == value for key, value in before.items())


class AtDelete:
    """Does something when the first batch is about to be deleted, behind the rehearsal."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.seen = 0

    def __call__(self, data: bytes) -> str:
        if attempts.SHA.encode() in data:
            self.seen += 1
            if self.seen == 2:
                self.action()
        return "pass"


CHANGES: dict[str, Callable[[redis.Redis, str], Any]] = {
    "value": lambda client, key: client.set(key, "new"),
    "expiry": lambda client, key: client.pexpire(key, 1_000_000),
    "type": lambda client, key: (client.delete(key), client.rpush(key, "new")),
    "large": lambda client, key: client.set(key, "y" * 600_000),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_orphan_that_changes_between_dump_and_delete_is_spared(
    server: ServerProcess, client: redis.Redis, journal: Path, change: str
) -> None:
    write_idle(client, orphan_keys("gone"), 10_000)
    write_idle(client, orphan_keys("back"), 10_000)
    decide = AtDelete(lambda: CHANGES[change](client, "blocking:signal:back"))
    with proxy(server.port, decide) as port:
        config = Config(
            redis=Redis(f"redis://127.0.0.1:{port}"),
            orphans="purge",
            orphan_grace=GRACE_S,
            engine="serial",
            expect_all_dead=True,
        )
        report = run(config, journal=str(journal))
    assert keys_of(client) == set(orphan_keys("back"))
    assert (report.keys.deleted, report.keys.spared) == (4, 4)
    assert_adds_up(report)


def test_orphans_with_expiry_and_one_that_expires(
    server: ServerProcess, client: redis.Redis, journal: Path
) -> None:
    client.set("template", "some value")
    payload = client.dump("template")
    client.delete("template")
    for key in orphan_keys("gone"):
        client.restore(key, 90_000_000, payload, idletime=10_000)
    decide = AtDelete(lambda: client.delete("blocking:signal:gone"))
    with proxy(server.port, decide) as port:
        config = Config(
            redis=Redis(f"redis://127.0.0.1:{port}"),
            orphans="purge",
            orphan_grace=GRACE_S,
            engine="serial",
            expect_all_dead=True,
        )
        report = run(config, journal=str(journal))
    assert (report.keys.deleted, report.keys.gone, client.dbsize()) == (3, 1, 0)


@pytest.mark.default_server
def test_a_revived_coordinator_is_spared_as_ever(
    server: ServerProcess, client: redis.Redis, journal: Path
) -> None:
    write_coordinator(client, "dead", STALE_MS)
    write_coordinator(client, "back", STALE_MS)
    with proxy(server.port, AtDelete(lambda: write_heartbeat(client, "back", 0))) as port:
        config = Config(
            redis=Redis(f"redis://127.0.0.1:{port}"), engine="serial", expect_all_dead=True
        )
        report = run(config, journal=str(journal))
    assert keys_of(client) == {heartbeat_key("back"), *owned_keys("back")}
    assert (report.coordinators.purged, report.coordinators.revived) == (1, 1)
    assert restored(server, journal).keys.present == 6


@pytest.mark.default_server
def test_a_value_of_10_mb_and_many_of_100_kb(
    server: ServerProcess, client: redis.Redis, journal: Path
) -> None:
    write_coordinator(client, "dead", STALE_MS)
    large = os.urandom(10_000_000)
    client.set("blocking:signal:dead", large)
    for number in range(30):
        client.set(f"blocking:ack:dead:{number}", os.urandom(100_000))
    report = purged(server, journal)
    assert report.status == "complete"
    assert report.journal is not None
    assert report.journal.records > 5, "a reply ends after some bytes"
    assert restored(server, journal).keys.restored == 36
    assert client.get("blocking:signal:dead") == large


@pytest.mark.default_server
def test_many_batches_held_up_by_the_disk(
    server: ServerProcess, client: redis.Redis, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dumps, "BACKLOG_BYTES", 1)
    write_many(client, 1_000)
    assert purged(server, journal, engine="serial").keys.deleted == 6_000
    assert restored(server, journal).keys.restored == 6_000


def test_the_scripts_are_flushed_in_the_middle(
    server: ServerProcess, client: redis.Redis, journal: Path
) -> None:
    write_many(client, 1_000)
    with proxy(server.port, AtDelete(client.script_flush)) as port:
        config = Config(
            redis=Redis(f"redis://127.0.0.1:{port}"), engine="serial", expect_all_dead=True
        )
        report = run(config, journal=str(journal))
    assert (report.status, client.dbsize()) == ("complete", 0)
    assert restored(server, journal).keys.restored == 6_000


# -- files -----------------------------------------------------------------------------------


@pytest.mark.default_server
class TestFiles:
    def test_nothing_to_delete_leaves_none(
        self, server: ServerProcess, client: redis.Redis, journal: Path
    ) -> None:
        write_coordinator(client, "live", 1_000)
        report = purged(server, journal)
        assert (report.status, report.journal) == ("complete", None)
        assert [*journal.parent.iterdir()] == []

    def test_a_dry_run_leaves_none(
        self, server: ServerProcess, client: redis.Redis, journal: Path
    ) -> None:
        write_coordinator(client, "dead", STALE_MS)
        assert purged(server, journal, dry_run=True).journal is None
        assert [*journal.parent.iterdir()] == []

    def test_a_folder_gives_each_run_its_own(
        self, server: ServerProcess, client: redis.Redis, tmp_path: Path
    ) -> None:
        paths = set()
        for _ in range(2):
            write_coordinator(client, "dead", STALE_MS)
            report = purged(server, tmp_path)
            assert report.journal is not None
            assert report.run_id in report.journal.path
            paths.add(Path(report.journal.path))
        assert paths == {*tmp_path.iterdir()}

    @pytest.mark.parametrize("name", ["j", "j.partial"])
    def test_one_that_exists_stops_everything(
        self, server: ServerProcess, client: redis.Redis, tmp_path: Path, name: str
    ) -> None:
        write_coordinator(client, "dead", STALE_MS)
        (tmp_path / name).write_text("precious")
        done = call("run", "--url", server.url, "--journal", str(tmp_path / "j"))
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{name} exists already" in done.stderr
        assert (tmp_path / name).read_text() == "precious"
        assert client.dbsize() == 6


def call(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "cleanup_job", *words],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.default_server
def test_the_commands(server: ServerProcess, client: redis.Redis, journal: Path) -> None:
    write_coordinator(client, "dead", STALE_MS)
    done = call("run", "--url", server.url, "--journal", str(journal))
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    assert re.search(rf"journal 6 keys in 1 record, \d+ B: {journal} ", text)
    assert f"cleanup-job restore \\ {journal} \\ --url {server.url}" in text
    words = ["restore", str(journal), "--url", server.url]
    done = call(*words, "--dry-run", "--only", "dead")
    assert (done.returncode, client.dbsize()) == (0, 0)
    assert "complete: 6 of 6 recorded keys would be put back; nothing was" in done.stdout
    done = call(*words, "--json", "-")
    report = json.loads(done.stdout)
    assert (report["status"], report["keys"]["restored"], client.dbsize()) == ("complete", 6, 6)
    cut = journal.read_bytes()[:-10]
    journal.write_bytes(cut)
    done = call(*words)
    assert done.returncode == 3
    assert "error: the journal has no end" in done.stdout
    assert "e.g. bytes " in done.stdout
    assert "PARTIAL: 0 of 6 recorded keys put back" in done.stdout


# -- what goes wrong -------------------------------------------------------------------------


@pytest.mark.default_server
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_costs_nobody_anything(
    server: ServerProcess, client: redis.Redis, journal: Path, workers: str
) -> None:
    write_many(client, 5_000)
    write_coordinator(client, "live", 1_000)
    before = client.dbsize()
    done = call(
        *f"run --url {server.url} --workers {workers} --json - --journal {journal}".split(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    report = json.loads(done.stdout)
    keys = report["keys"]
    assert (done.returncode, report["status"]) == (3, "partial")
    assert keys["planned"] == keys["deleted"] + keys["failed"] == 30_000
    assert 0 < keys["deleted"] == before - client.dbsize()
    errors = {error["code"]: error for error in report["errors"]}
    assert "File too large" in errors["journal"]["message"]
    assert journal.exists() or partial(journal).exists()
    found = Journal(journal if journal.exists() else partial(journal))
    assert found.damage == [], "what did not fit was taken back"
    told = restored(server, found.path)
    assert told.keys.restored == keys["deleted"]
    assert client.dbsize() == before


@pytest.mark.default_server
def test_heartbeats_stay_where_the_journal_ends(
    server: ServerProcess, client: redis.Redis, journal: Path
) -> None:
    """One with so many keys that its heartbeat goes later."""
    write_heartbeat(client, "dead", STALE_MS)
    client.mset({f"blocking:ack:dead:{number}": os.urandom(500) for number in range(2_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
    try:
        report = purged(server, journal, engine="serial")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert report.status == "partial"
    assert 0 < report.keys.deleted < 2_000
    assert client.exists(heartbeat_key("dead"))
    assert_adds_up(report)


@pytest.mark.default_server
def test_a_killed_worker(
    server: ServerProcess, client: redis.Redis, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "KEYS_PER_PORTION", 2_000)
    write_many(client, 3_000)
    killed: list[Any] = []

    class Kill(Observer):
        now = ""

        def began(self, phase: str, keys: int) -> None:
            self.now = phase

        def advanced(self, keys: int) -> None:
            if self.now == "purge" and keys and not killed:
                killed.append(multiprocessing.active_children()[0])
                killed[0].kill()

    report = purged(server, journal, workers=3, observer=Kill())
    assert killed
    left = client.dbsize()
    assert_adds_up(report)
    told = restored(server, journal)
    # What the dead one was about to write may be torn, and was not deleted.
    assert {error.code for error in told.errors} <= {"damaged"}
    assert told.keys.restored == 18_000 - left
    assert client.dbsize() == 18_000


@pytest.mark.default_server
def test_a_killed_job_leaves_a_journal_of_all_that_is_gone(
    server: ServerProcess, client: redis.Redis, journal: Path
) -> None:
    write_many(client, 5_000)
    words = f"-m cleanup_job run --yes --url {server.url} --journal {journal}"
    process = subprocess.Popen([sys.executable, *words.split()], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while client.dbsize() >= 30_000:  # the lease is one more
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert client.dbsize() > 0, "it was killed in the middle"
    assert not journal.exists()
    told = restored(server, partial(journal))
    assert told.status == "partial"
    assert "cut_off" in {error.code for error in told.errors}
    assert client.dbsize() == 30_000


@pytest.mark.default_server
def test_two_workers_share_the_journal(
    server: ServerProcess, client: redis.Redis, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "KEYS_PER_PORTION", 1_000)
    write_many(client, 1_000)
    report = purged(server, journal, workers=2)
    assert (report.status, report.workers, client.dbsize()) == ("complete", 2, 0)
    assert restored(server, journal).keys.restored == 6_000


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purges, "KEYS_PER_BATCH", 6)


@pytest.mark.default_server
@pytest.mark.usefixtures("small_batches")
def test_200_random_cuts(
    server: ServerProcess, client: redis.Redis, journal: Path, tmp_path: Path
) -> None:
    """Issue 5, show it 2: every whole record is restored, and the rest is named."""
    write_many(client, 20)
    before = snapshot(client)
    purged(server, journal, engine="serial")
    data = journal.read_bytes()
    assert len([*Journal(journal).entries()]) >= 20
    rng = random.Random(5)
    cut_file = tmp_path / "cut"
    for _ in range(200):
        client.flushall()
        cut = rng.randrange(len(data))
        cut_file.write_bytes(data[:cut])
        told = restored(server, cut_file)
        whole = {key for entry in Journal(cut_file).entries() for key in entry.keys}
        assert keys_of(client) == whole
        assert told.status == "partial"
        assert told.keys.restored == len(whole)
        last = told.journal.damage[0][0] if told.journal.damage else cut
        assert last <= cut
        assert [tuple(span) for span in told.journal.damage] == (
            [(last, cut)] if last < cut else []
        )
    cut_file.write_bytes(data)
    assert restored(server, cut_file).status == "complete"
    assert snapshot(client) == before


@pytest.fixture
def full(client: redis.Redis) -> Iterator[None]:
    yield
    client.config_set("maxmemory", 0)


@pytest.mark.usefixtures("full")
def test_a_server_without_memory_says_so(
    server: ServerProcess, client: redis.Redis, journal: Path
) -> None:
    write_coordinator(client, "dead", STALE_MS)
    purged(server, journal)
    client.config_set("maxmemory", 1)
    report = restored(server, journal)
    client.config_set("maxmemory", 0)
    assert (report.status, report.keys.failed) == ("partial", 6)
    assert "raise its maxmemory or free some" in report.errors[0].message
    assert restored(server, journal).keys.restored == 6


@pytest.mark.default_server
def test_another_product_is_explained(
    server: ServerProcess, client: redis.Redis, journal: Path
) -> None:
    write_coordinator(client, "dead", STALE_MS)
    purged(server, journal)
    with running("redis-6.2") as other, other.client() as there:
        report = restored(other, journal)
        assert there.dbsize() == 0
    assert (report.status, report.keys.failed) == ("partial", 6)
    assert "only be restored on the product that wrote it" in report.errors[0].message
    assert [warning.code for warning in report.warnings] == ["other_product", "other_server"]


@pytest.mark.default_server
@pytest.mark.parametrize("what", ["cut", "mute"])
def test_a_restore_without_reply_is_looked_at(
    server: ServerProcess, client: redis.Redis, journal: Path, what: str
) -> None:
    write_many(client, 1_000)
    purged(server, journal)
    seen = 0

    def decide(data: bytes) -> str:
        nonlocal seen
        seen += b"RESTORE" in data
        return what if b"RESTORE" in data and seen == 12 else "pass"

    with proxy(server.port, decide) as port:
        url = Redis(f"redis://127.0.0.1:{port}")
        report = restore(Config(redis=url), str(journal))
    keys = report.keys
    assert keys.adds_up
    assert report.status == "partial"
    assert keys.failed + keys.unknown > 0
    assert client.dbsize() == keys.restored + keys.unknown
    assert "connection_lost" in {error.code for error in report.errors}
    assert restored(server, journal).keys.restored == keys.failed


@pytest.mark.default_server
def test_a_stopped_restore_says_what_it_left(
    server: ServerProcess, client: redis.Redis, journal: Path
) -> None:
    """Heartbeats come last, so that no sweep undoes what was put back meanwhile."""
    write_many(client, 1_000)
    purged(server, journal)

    class Stop(Observer):
        done = 0

        def advanced(self, keys: int) -> None:
            self.done += keys

        def stopping(self) -> bool:
            return self.done >= 2_000

    report = restored(server, journal, observer=Stop())
    assert report.status == "partial"
    assert report.keys.restored == client.dbsize() < 6_000
    assert report.keys.by_family["heartbeat"].restored == 0
    assert report.errors[-1].code == "not_attempted"
    # A sweep in between finds orphans, and leaves them.
    assert run(Config(redis=Redis(server.url))).keys.deleted == 0
    assert restored(server, journal).keys.restored == report.keys.failed


@pytest.mark.default_server
@pytest.mark.parametrize("what", ["cut", "mute"])
def test_a_dump_without_reply_is_asked_for_again(
    server: ServerProcess, client: redis.Redis, journal: Path, what: str
) -> None:
    """It only reads. Deletes that were in flight on that connection are another matter."""
    write_many(client, 1_000)
    seen = 0

    def decide(data: bytes) -> str:
        nonlocal seen
        seen += dumps.SHA.encode() in data
        return what if dumps.SHA.encode() in data and seen == 2 else "pass"

    with proxy(server.port, decide) as port:
        config = Config(
            redis=Redis(f"redis://127.0.0.1:{port}"), engine="serial", expect_all_dead=True
        )
        report = run(config, journal=str(journal))
    keys = report.keys
    assert_adds_up(report)
    assert keys.failed == client.dbsize()
    assert keys.deleted >= 4_000
    assert restored(server, journal).keys.restored == 6_000 - keys.failed
