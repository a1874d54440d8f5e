"""Users with few rights, on one server or on all primaries of a cluster."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis

from cleanup_job.acl import PASSWORD, Use, key_rights, rights, rule, set_user
from cleanup_job.config import Config, Redis
from cleanup_job.errors import CleanupJobError
from cleanup_job.job import run
from cleanup_job.model import Schema
from cleanup_job.report import Report

HUSH = "hush-hush"

SWEEPER = "sweeper"

SCHEMA = Config().schema()

UNASKED = {"acl", "auth", "client", "config", "hello"}
"""Commands that the tests themselves send, and the login, which needs no right."""


def rules(use: Use, schema: Schema = SCHEMA) -> list[str]:
    """All that `acl` gives for it, one by one."""
    return [*key_rights(schema, use), *(rule(right.command) for right in rights(use))]


@contextlib.contextmanager
def user(
    clients: Sequence[redis.Redis], use: Use, schema: Schema = SCHEMA, *, without: str = ""
) -> Iterator[str]:
    """A user with what `acl` prints, less one rule; gives what stands before the host in a URL."""
    words = set_user(SWEEPER, schema, use).replace(PASSWORD, HUSH).split(" ")
    if without:
        words.remove(without)
    for client in clients:
        client.execute_command(*words)
        client.execute_command("ACL", "LOG", "RESET")
        client.config_resetstat()
    try:
        yield f"redis://{SWEEPER}:{HUSH}@"
    finally:
        for client in clients:
            client.execute_command("ACL", "DELUSER", SWEEPER)


def sweep_as(login: str, address: str, use: Use, **settings: Any) -> Report:
    config = Config(
        redis=Redis(f"{login}{address}/{use.db}"),
        orphans="purge" if use.orphans else "report",
        engine="serial",
        **settings,
    )
    if not use.journal:
        return run(config, dry_run=not use.deletes)
    with tempfile.TemporaryDirectory() as folder:
        return run(config, dry_run=not use.deletes, journal=folder)


def refusal_of(login: str, address: str, use: Use) -> str:
    """The one line that says why it can't be."""
    with pytest.raises(CleanupJobError) as caught:
        sweep_as(login, address, use)
    assert caught.value.exit_code in (2, 75)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sent(clients: Sequence[redis.Redis]) -> set[str]:
    """The commands that the servers carried out for the sweeper, those in scripts too."""
    stats: set[str] = set()
    for client in clients:
        info: Any = client.info("commandstats")
        stats.update(name.removeprefix("cmdstat_").partition("|")[0] for name in info)
    return stats - UNASKED


def named(use: Use) -> set[str]:
    """The commands that `acl` names, without their subcommands as Redis 6.2 counts them."""
    return {right.command.partition(" ")[0].lower() for right in rights(use)}


def denied(clients: Sequence[redis.Redis]) -> list[Any]:
    """What the servers refused."""
    return [entry for client in clients for entry in client.execute_command("ACL", "LOG")]
