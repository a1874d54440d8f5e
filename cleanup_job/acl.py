"""The rights that a run needs, and what for: the one list of the commands that it sends (pure).

`set_user` gives the smallest ACL that suffices. A test holds it to real servers: with it all works,
and without any one right nothing is deleted and the error names the right.

The rules are written as Redis ≥ 6.2 and Valkey understand them, subcommands too. Redis 7 could
tell reading from writing by key (`%R~`), but the script's keys are both read and deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from cleanup_job.errors import ConfigError
from cleanup_job.keyspace import Pattern
from cleanup_job.model import Schema

LEASE_PREFIX = b"cleanup-job:lease:"
"""How the key of every lease begins (see `lease`)."""

LEASE_RULE = "~cleanup-job:lease:*"

PASSWORD = "PASSWORD"  # noqa: S105 - stands for one
"""What the administrator is to replace."""


class Use(NamedTuple):
    """What a user is to do.

    Attributes:
        clustered: on a cluster, not on a single server.
        orphans: it purges orphans (in a dry run: tells which it would).
        deletes: it does more than dry runs (restores, with `restores`).
        db: the number of the database.
        locks: it holds a lease meanwhile.
        journal: it writes what it deletes to a journal.
        restores: it puts back what is in a journal, and does nothing else.
    """

    clustered: bool = False
    orphans: bool = False
    deletes: bool = True
    db: int = 0
    locks: bool = True
    journal: bool = False
    restores: bool = False


class Right(NamedTuple):
    """A command with its subcommand, and what it is for."""

    command: str
    reason: str


_ALWAYS = (
    Right("INFO", "product, version, role; what the run costs the server"),
    Right("DBSIZE", "how many keys there are"),
    Right("SCAN", "the one walk over the keyspace"),
    Right("TIME", "the server's clock, by which heartbeats are judged"),
    Right("TYPE", "what a heartbeat is that is no string"),
)
_STANDALONE = (Right("MGET", "to read heartbeats"),)
_CLUSTER = (
    Right("GET", "to read heartbeats, each in its slot"),
    Right("CLUSTER INFO", "whether a node serves its slots"),
    Right("CLUSTER NODES", "who has which slots, and which are on their way"),
    Right("CLUSTER SLOTS", "under which addresses nodes are announced"),
    Right("CLUSTER COUNTKEYSINSLOT", "even shares (sent to Redis ≥ 7.4 and Valkey ≥ 8 only)"),
    Right("ASKING", "to follow a slot that changes hands meanwhile"),
)
_ORPHANS = (
    Right("OBJECT IDLETIME", "for how long an orphan's keys were untouched"),
    Right("OBJECT REFCOUNT", "whether that time is the key's own"),
)
_DELETES = (
    Right("MGET", "to read heartbeats once more, by the script that deletes"),
    Right("EXISTS", "to tell a missing heartbeat from one of another type, and failed from gone"),
    Right("UNLINK", "to delete"),
    Right("SCRIPT LOAD", "to bring the script"),
    Right("EVALSHA", "to run it: check and delete in one step"),
)
_LEASE = (
    Right("GET", "to see who holds the lease"),
    Right("SET", "to take the lease"),
    Right("PEXPIRE", "to keep the lease"),
    Right("UNLINK", "to give the lease back"),
    Right("SCRIPT LOAD", "to bring the script of the lease"),
    Right("EVALSHA", "to run it"),
)
_JOURNAL = (
    Right("DUMP", "to write to the journal what is about to be deleted"),
    Right("PTTL", "when it would have expired"),
)
_RESTORE = (
    Right("INFO", "product, version, role; whose journal this may be"),
    Right("DBSIZE", "how many keys there are"),
    Right("TIME", "the server's clock, by which keys have expired"),
    Right("EXISTS", "what is there, in a dry run and after an unclear reply"),
)
_RESTORE_CLUSTER = (
    Right("CLUSTER INFO", "whether a node serves its slots"),
    Right("CLUSTER NODES", "who has which slots"),
    Right("CLUSTER SLOTS", "under which addresses nodes are announced"),
    Right("ASKING", "to follow a slot that changes hands meanwhile"),
)
_RESTORES = (Right("RESTORE", "to put back what is not there"),)
_DATABASE = (Right("SELECT", "to get to the database"),)


def rights(use: Use) -> tuple[Right, ...]:
    """Every command that such a run may send, each once."""
    if use.restores:
        return (
            *_RESTORE,
            *(_RESTORE_CLUSTER if use.clustered else ()),
            *(_RESTORES if use.deletes else ()),
            *(_LEASE if use.deletes and use.locks else ()),
            *(_DATABASE if use.db else ()),
        )
    needed = [
        *_ALWAYS,
        *(_CLUSTER if use.clustered else _STANDALONE),
        *(_ORPHANS if use.orphans else ()),
        *(_DELETES if use.deletes else ()),
        *(_LEASE if use.deletes and use.locks else ()),
        *(_JOURNAL if use.deletes and use.journal else ()),
        *(_DATABASE if use.db else ()),
    ]
    by_command: dict[str, Right] = {}
    for right in needed:
        by_command.setdefault(right.command, right)
    return tuple(by_command.values())


def key_rights(schema: Schema, use: Use) -> dict[str, str]:
    """The rule of every family that such a run touches, and whose keys they are."""
    rules = {key_rule(schema.heartbeat): "the heartbeats"}
    if use.deletes or use.orphans or use.restores:
        for family, pattern in schema.owned:
            rules.setdefault(key_rule(pattern), f"the keys of {family}")
    if use.deletes and use.locks:
        rules.setdefault(LEASE_RULE, "the lease, so that one run at a time is at these keys")
    return rules


def rule(command: str) -> str:
    """The rule that allows a command: `CLUSTER NODES` gives `+cluster|nodes`."""
    return "+" + command.lower().replace(" ", "|")


def key_rule(pattern: Pattern) -> str:
    """The rule that allows the keys of a pattern, and as few others as a glob can."""
    named = "{*}" if pattern.tagged else "*"
    if pattern.anywhere:
        named = f"*{named}*" if pattern.tagged else "*"
    before = [_literal(token) for token in pattern.before]
    after = [_literal(token) for token in pattern.after]
    return "~" + ":".join([*before, named, *after])


def key_rule_for(key: bytes, schema: Schema) -> str:
    """The rule that allows this key of some family."""
    return next(key_rule(pattern) for pattern in schema.patterns if pattern.select([key]))


def set_user(name: str, schema: Schema, use: Use) -> str:
    """The command that makes such a user, whatever it was before.

    Raises:
        ConfigError: if no user can be called so, or it is everybody.
    """
    _check_name(name)
    if use.clustered and use.db:
        raise ConfigError("a cluster is swept in database 0 only; write the URL without another")
    words = ["ACL", "SETUSER", name, "reset", "on", f">{PASSWORD}", "resetchannels"]
    words += key_rights(schema, use)
    words += [rule(right.command) for right in rights(use)]
    return " ".join(words)


def explain(schema: Schema, use: Use) -> Iterator[str]:
    """Line by line, what each of the rules of `set_user` is for."""
    rules = key_rights(schema, use)
    rules.update((rule(right.command), right.reason) for right in rights(use))
    width = max(map(len, rules))
    for name, reason in rules.items():
        yield f"  {name:<{width}}  {reason}"
    yield f"Put a long random password in the place of {PASSWORD}."
    yield "ACL SAVE or CONFIG REWRITE keeps the user over a restart, as the server is configured."
    if use.clustered:
        yield "Nodes do not tell each other of users: run it on each, replicas too."


def _literal(token: bytes | None) -> str:
    """A segment as a glob. What a rule can't hold, or redis-cli would take apart, becomes `?`."""
    if token is None:
        return "*"
    return "".join(
        "?" * len(char.encode())
        if char in "\"'" or char.isspace() or not char.isprintable()
        else re.sub(r"[\\*?\[\]]", r"\\\g<0>", char)
        for char in token.decode()
    )


def _check_name(name: str) -> None:
    if not name or any(c in "\"'\\" or c.isspace() or not c.isprintable() for c in name):
        raise ConfigError(f"--user: {name!r} is no user name; it needs plain characters")
    if name == "default":
        raise ConfigError(
            "--user: 'default' is everybody who does not log in, the administrator too; make a "
            "user of its own"
        )
