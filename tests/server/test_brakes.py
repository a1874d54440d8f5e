"""Every refusal on the command line: exit code 4, one line, nothing deleted; and its override."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
import redis

from tests.keys import keys_of, now_ms, write_coordinator, write_heartbeat, write_owned
from tests.server.test_revival import write_many
from tests.servers import ServerProcess

pytestmark = pytest.mark.default_server

DEAD = 5

DAY_MS = 86_400_000


def call(server: ServerProcess, *words: str, clock_ms: int = 0) -> tuple[int, str, str]:
    """The command, with the clock of this machine so many ms ahead: exit code, stdout, stderr."""
    script = (
        "import time; real = time.time_ns;"
        f"time.time_ns = lambda: real() + {clock_ms} * 1_000_000;"
        "from cleanup_job.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "--url", server.url, *words],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def prepared(client: redis.Redis) -> redis.Redis:
    """Five dead coordinators and one that is alive."""
    for number in range(DEAD):
        write_coordinator(client, f"dead-{number}", 700_000)
    write_coordinator(client, "live", 1_000)
    return client


def assert_refused(
    server: ServerProcess, client: redis.Redis, *words: str, clock_ms: int = 0
) -> str:
    """Refused, with one line and a true report; returns the line."""
    before = keys_of(client)
    code, out, err = call(server, "--json", "-", *words, clock_ms=clock_ms)
    assert code == 4, err
    assert err.startswith("cleanup-job: refused, nothing was deleted: ")
    assert err.count("\n") == 1
    report = json.loads(out)
    assert report["status"] == "refused"
    assert report["keys"]["planned"] > 0
    assert report["keys"]["deleted"] == report["keys"]["failed"] == 0
    assert [error["message"] in err for error in report["errors"]] == [True]
    assert keys_of(client) == before
    return err


@pytest.mark.parametrize(
    ("words", "override"),
    [
        (("--max-purge", "4"), "--max-purge 5"),
        (("--max-keys", "29"), "--max-keys 30"),
        (("--max-stale-fraction", "0.83"), "--max-stale-fraction 0.8334"),
    ],
)
def test_too_many(
    server: ServerProcess, prepared: redis.Redis, words: tuple[str, ...], override: str
) -> None:
    assert override in assert_refused(server, prepared, *words)
    code, out, err = call(server, *words, *override.split())
    assert (code, err) == (0, "")
    assert "30 of 30 planned keys deleted" in out


@pytest.mark.parametrize("override", [["--yes"], ["--expect-all-dead"], ["--suspicious-from", "6"]])
def test_all_dead(server: ServerProcess, prepared: redis.Redis, override: list[str]) -> None:
    words = ["--suspicious-from", "5"]
    assert call(server, "--dry-run", *words)[2] == ""
    prepared.delete("blocking:heartbeat:live")
    assert "give --yes or set expect_all_dead" in assert_refused(server, prepared, *words)
    assert call(server, *words, *override)[0] == 0


def test_all_dead_without_any_heartbeat(server: ServerProcess, client: redis.Redis) -> None:
    """As a wrong pattern for heartbeats looks too.

    Idempotency records count under their first segment, so these are six coordinators.
    """
    for number in range(DEAD):
        write_owned(client, f"lost-{number}")
    time.sleep(1.1)  # idle time is known in whole seconds
    words = ["--orphans", "purge", "--orphan-grace", "1", "--suspicious-from", "6"]
    assert "not one of 6 coordinators is live" in assert_refused(server, client, *words)
    assert call(server, *words, "--yes")[0] == 0
    assert not keys_of(client)


@pytest.mark.parametrize(("clock_ms", "way"), [(DAY_MS, "behind"), (-DAY_MS, "ahead of")])
def test_the_clock_of_this_machine_is_a_day_off(
    server: ServerProcess, prepared: redis.Redis, clock_ms: int, way: str
) -> None:
    err = assert_refused(server, prepared, clock_ms=clock_ms)
    assert f" s {way} this machine's, more than max_clock_skew 300 s" in err
    allow = ["--max-clock-skew", "86410"]
    code, out, _ = call(server, *allow, clock_ms=clock_ms)
    assert code == 0
    assert "warning: clocks differ: the clock of " in out


def test_a_heartbeat_an_hour_ahead(server: ServerProcess, prepared: redis.Redis) -> None:
    write_heartbeat(prepared, "early", -3_600_000)
    err = assert_refused(server, prepared)
    assert "s ahead of the server's clock, more than max_clock_skew 300 s" in err
    assert call(server, "--max-clock-skew", "3600")[0] == 0


def test_a_heartbeat_in_another_unit_hinders_nobody(
    server: ServerProcess, prepared: redis.Redis
) -> None:
    prepared.set("blocking:heartbeat:micros", json.dumps({"timestamp": now_ms(prepared) * 1000}))
    code, out, err = call(server)
    assert (code, err) == (0, "")
    assert "warning: future heartbeats" in out
    assert "clocks differ" not in out


def test_a_dry_run_tells_what_would_be_refused(
    server: ServerProcess, prepared: redis.Redis
) -> None:
    code, out, err = call(server, "--dry-run", "--max-purge", "1", "--max-keys", "1")
    assert (code, err) == (0, "")
    assert "warning: a run would be refused: 5 coordinators would be deleted" in out
    assert "warning: a run would be refused: 30 keys would be deleted" in out


def test_the_text_says_so_too(server: ServerProcess, prepared: redis.Redis) -> None:
    code, out, err = call(server, "--max-purge", "1", "--max-keys", "1")
    assert code == 4
    assert "\nREFUSED: 30 keys would be deleted; nothing was\n" in out
    assert err.count("cleanup-job: refused, nothing was deleted: ") == 2


# -- somebody at a terminal --------------------------------------------------------------------


def at_terminal(server: ServerProcess, answer: bytes | int, *words: str) -> tuple[int, str]:
    """Answer the question with these bytes, or by a signal; exit code and what was seen."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "cleanup_job", "run", "--url", server.url, *words],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        seen, answered = b"", False
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux tells so that the other side is closed
                break
            if not part:
                break
            seen += part
            if b"[y/N]" in seen and not answered:
                answered = True
                if isinstance(answer, int):
                    process.send_signal(answer)
                else:
                    os.write(ours, answer)
        code = process.wait(timeout=30)
    os.close(ours)
    return code, seen.decode()


ASK = ("--confirm-above", "4")


def test_a_yes_deletes(server: ServerProcess, prepared: redis.Redis) -> None:
    code, seen = at_terminal(server, b"y\n", *ASK)
    assert code == 0
    assert "5 coordinators, 30 keys" in seen
    families = "signal 5, ack 10, idempotency 5, activity 5, heartbeat 5"
    assert families in " ".join(seen.split())  # it takes two lines
    assert "oldest" in seen
    assert "newest" in seen
    assert all(f"dead-{number}" in seen for number in range(DEAD))
    assert len(keys_of(prepared)) == 6


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"what?\n", b"\x04"])
def test_anything_else_does_not(
    server: ServerProcess, prepared: redis.Redis, answer: bytes
) -> None:
    code, seen = at_terminal(server, answer, *ASK)
    assert code == 4
    assert "refused, nothing was deleted: the plan was not confirmed: --yes does not ask" in seen
    assert len(keys_of(prepared)) == 36


def test_a_signal_ends_it(server: ServerProcess, prepared: redis.Redis) -> None:
    code, seen = at_terminal(server, signal.SIGINT, *ASK)
    assert code == 130
    assert "Traceback" not in seen
    assert len(keys_of(prepared)) == 36


@pytest.mark.parametrize("words", [("--confirm-above", "5"), (*ASK, "--yes"), (*ASK, "--dry-run")])
def test_nobody_is_asked_for_little_or_who_said_yes(
    server: ServerProcess, prepared: redis.Redis, words: tuple[str, ...]
) -> None:
    code, seen = at_terminal(server, b"", *words)
    assert code == 0
    assert "[y/N]" not in seen


def test_without_a_terminal_nobody_is_asked(server: ServerProcess, client: redis.Redis) -> None:
    write_coordinator(client, "live", 1_000)
    write_many(client, 101)
    assert call(server)[0] == 0
