"""What `cleanup-job acl` prints; whether it holds is tested in server/ and cluster/."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.acl import Use, explain, key_rule, key_rule_for, rights, rule, set_user
from cleanup_job.config import Config
from cleanup_job.errors import ConfigError
from cleanup_job.keyspace import parse

SCHEMA = Config().schema()

WRITING = {"UNLINK", "SCRIPT LOAD", "EVALSHA", "EXISTS", "SET", "PEXPIRE"}


def call(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "cleanup_job", "acl", *words],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **env},
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("blocking:heartbeat:{id}", "~blocking:heartbeat:*"),
        ("blocking:ack:{id}:*", "~blocking:ack:*:*"),
        ("blocking:idempotency:*{id}*", "~blocking:idempotency:*"),
        ("swarm:*:blocking:{id}", "~swarm:*:blocking:*"),
        ("{id}:signal", "~*:signal"),
        ("blocking:heartbeat:{{id}}", "~blocking:heartbeat:{*}"),
        ("blocking:ack:{{id}}:*", "~blocking:ack:{*}:*"),
        ("blocking:idempotency:*{{id}}*", "~blocking:idempotency:*{*}*"),
        (r"what?:[a-z]:c:\d:{id}", r"~what\?:\[a-z\]:c:\\d:*"),
        ("a b:\t:\"':\u2028:{id}", "~a?b:?:??:???:*"),
        ("über:{id}", "~über:*"),
    ],
)
def test_key_rules(pattern: str, expected: str) -> None:
    assert key_rule(parse(pattern)) == expected


def allows(rule: str, key: bytes) -> bool:
    """Whether a rule's glob matches, as the servers' documentation describes globs."""
    tokens = re.findall(rb"\\.|.", rule.removeprefix("~").encode(), re.DOTALL)
    wild = {b"*": b".*", b"?": b"."}
    regex = b"".join(wild.get(token, re.escape(token[-1:])) for token in tokens)
    return re.fullmatch(regex, key, re.DOTALL) is not None


PATTERNS = [
    parse(text)
    for text in (
        "b:{id}", "b:{id}:*", "b:*{id}*", "b:*:{id}", "b:*{id}*:end", "b:{{id}}", "b:*{{id}}*:*",
        "[b]:{id}:?", "b b:{id}", "b\n:{id}:*",
    )
]  # fmt: skip


@given(
    st.sampled_from(PATTERNS),
    st.lists(st.sampled_from([b"b", b"[b]", b"?", b"b b", b"b\n", b"{b}", b"", b"\xff", b"end"])),
)
def test_a_rule_allows_every_key_of_its_pattern(pattern: object, segments: list[bytes]) -> None:
    key = b":".join(segments)
    assert isinstance(pattern, type(PATTERNS[0]))
    if pattern.select([key]):
        assert allows(key_rule(pattern), key)


def test_a_key_s_rule_is_its_pattern_s() -> None:
    assert key_rule_for(b"blocking:ack:a:s1", SCHEMA) == "~blocking:ack:*:*"
    assert key_rule_for(b"blocking:heartbeat:a", SCHEMA) == "~blocking:heartbeat:*"


def test_the_line() -> None:
    assert set_user("sweeper", SCHEMA, Use()) == (
        "ACL SETUSER sweeper reset on >PASSWORD resetchannels ~blocking:heartbeat:* "
        "~blocking:signal:* ~blocking:ack:*:* ~blocking:idempotency:* ~coordinator:activity:* "
        "~cleanup-job:lease:* "
        "+info +dbsize +scan +time +type +mget +exists +unlink +script|load +evalsha "
        "+get +set +pexpire"
    )


def test_a_dry_run_reads_heartbeats_and_nothing_else() -> None:
    assert set_user("sweeper", SCHEMA, Use(deletes=False)) == (
        "ACL SETUSER sweeper reset on >PASSWORD resetchannels ~blocking:heartbeat:* "
        "+info +dbsize +scan +time +type +mget"
    )


def test_a_journal_takes_two_more() -> None:
    assert set_user("sweeper", SCHEMA, Use(journal=True)).endswith(" +pexpire +dump +pttl")
    assert "+dump" not in set_user("sweeper", SCHEMA, Use(journal=True, deletes=False))


def test_a_restore_neither_walks_nor_deletes() -> None:
    assert set_user("restorer", SCHEMA, Use(restores=True)) == (
        "ACL SETUSER restorer reset on >PASSWORD resetchannels ~blocking:heartbeat:* "
        "~blocking:signal:* ~blocking:ack:*:* ~blocking:idempotency:* ~coordinator:activity:* "
        "~cleanup-job:lease:* +info +dbsize +time +exists +restore "
        "+get +set +pexpire +unlink +script|load +evalsha"
    )


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("orphans", [False, True])
def test_a_dry_run_never_writes(clustered: bool, orphans: bool) -> None:
    use = Use(clustered=clustered, orphans=orphans, deletes=False)
    assert not WRITING & {right.command for right in rights(use)}


@pytest.mark.parametrize("use", [Use(), Use(clustered=True, orphans=True), Use(deletes=False)])
def test_every_rule_is_explained(use: Use) -> None:
    told = {line.split()[0] for line in explain(SCHEMA, use) if line.startswith("  ")}
    words = set_user("sweeper", SCHEMA, use).split()
    assert told == {word for word in words if word[0] in "~+"}


def test_subcommands() -> None:
    assert rule("CLUSTER NODES") == "+cluster|nodes"


@pytest.mark.parametrize("name", ["", "two words", 'a"b', "a'b", "a\\b", "a\nb", "a\x00b"])
def test_no_name(name: str) -> None:
    with pytest.raises(ConfigError, match="is no user name"):
        set_user(name, SCHEMA, Use())


def test_the_administrator_is_not_locked_out() -> None:
    with pytest.raises(ConfigError, match="everybody who does not log in"):
        set_user("default", SCHEMA, Use())


def test_a_cluster_has_one_database() -> None:
    with pytest.raises(ConfigError, match="database 0"):
        set_user("sweeper", SCHEMA, Use(clustered=True, db=1))


class TestCommand:
    def test_one_line_on_stdout_and_the_reasons_on_stderr(self) -> None:
        done = call("--user", "sweeper")
        assert done.returncode == 0
        assert done.stdout == set_user("sweeper", SCHEMA, Use()) + "\n"
        assert done.stderr.splitlines() == list(explain(SCHEMA, Use()))

    def test_options_and_environment(self) -> None:
        done = call("--orphans", "purge", "--dry-run", REDIS_URL="redis://:hush@none.invalid/3")
        use = Use(orphans=True, deletes=False, db=3)
        assert done.stdout == set_user("cleanup-job", SCHEMA, use) + "\n"
        assert "hush" not in done.stdout + done.stderr

    def test_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "c.yaml"
        file.write_text('keys: {heartbeat: "hb:{id}", owned: {one: "x:{id}"}}\norphans: purge\n')
        done = call("-c", str(file), "--cluster")
        assert " resetchannels ~hb:* ~x:* ~cleanup-job:lease:* +info " in done.stdout
        assert " +cluster|nodes " in done.stdout
        assert " +object|idletime " in done.stdout
        assert "run it on each, replicas too" in done.stderr

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--user", "default"], "--user: 'default' is everybody"),
            (["--orphans", "eat"], "--orphans: "),
            (["-c", "none.yaml"], "none.yaml: cannot be read"),
        ],
    )
    def test_bad_input(self, words: list[str], message: str) -> None:
        done = call(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"cleanup-job: {message}")
