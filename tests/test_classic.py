"""The shell script's summary lines, as the scripts around it read them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import redis

from tests.keys import STALE_MS, write_coordinator
from tests.servers import ServerProcess
from tests.test_log import command

pytestmark = pytest.mark.default_server

PATTERNS = {
    "checked": r"Total coordinators checked: \K\d+",
    "stale": r"Stale coordinators found: \K\d+",
    "deleted": r"Keys deleted: \K\d+",
    "errors": r"Cleanup errors: \K\d+",
    "ms": r"Execution time: \K\d+(?=ms)",
    "speed": r"Performance: \K\d+(?= coordinators/sec)",
}


def grep(text: str) -> dict[str, str]:
    """What each script would get: by its own grep, of one line each."""
    found = {}
    for name, pattern in PATTERNS.items():
        done = subprocess.run(
            ["grep", "-oP", pattern], input=text, capture_output=True, text=True, timeout=10
        )
        found[name] = done.stdout.strip()
    return found


def fill(client: redis.Redis) -> None:
    for number in range(1200):
        write_coordinator(client, f"dead-{number}", STALE_MS)
    for number in range(3):
        write_coordinator(client, f"live-{number}", 0)


def environment(server: ServerProcess) -> dict[str, str]:
    """As the shell script had it."""
    return {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(server.port), "REDIS_DB": "0"}


def test_scripts_get_the_right_numbers(
    server: ServerProcess, client: redis.Redis, tmp_path: Path
) -> None:
    fill(client)
    log = tmp_path / "cleanup.log"
    words = ["run", "--summary", "classic", "--log-file", str(log), "--yes", "-q"]
    done = command(*words, **environment(server))
    assert (done.returncode, done.stderr) == (0, "")
    numbers = grep(done.stdout)
    assert numbers == grep(log.read_text())
    assert {name: numbers[name] for name in ("checked", "stale", "deleted", "errors")} == {
        "checked": "1203", "stale": "1200", "deleted": "7200", "errors": "0",
    }  # fmt: skip
    assert int(numbers["ms"]) > 0
    assert int(numbers["speed"]) > 0
    assert client.dbsize() == 18
    assert f"[INFO] Keys deleted: {numbers['deleted']} run=" in log.read_text()


def test_a_dry_run_deletes_nothing_and_says_so(server: ServerProcess, client: redis.Redis) -> None:
    fill(client)
    done = command("run", "--summary", "classic", "--dry-run", **environment(server))
    assert done.returncode == 0
    assert grep(done.stdout)["deleted"] == "0"
    assert "Keys that would be deleted: 7200\n" in done.stdout
    assert client.dbsize() == 7218


def test_a_refused_run_has_an_error_in_it(server: ServerProcess, client: redis.Redis) -> None:
    fill(client)
    done = command("run", "--summary", "classic", "--max-keys", "5", **environment(server))
    assert done.returncode == 4
    assert (grep(done.stdout)["deleted"], grep(done.stdout)["errors"]) == ("0", "1")


def test_who_could_not_look_has_no_zeros() -> None:
    done = command("run", "--summary", "classic", REDIS_HOST="127.0.0.1", REDIS_PORT="1")
    assert (done.returncode, done.stdout) == (75, "")


def test_a_run_that_was_ended_in_the_survey_is_not_without_errors(
    server: ServerProcess, client: redis.Redis, tmp_path: Path
) -> None:
    fill(client)
    words = ["--pause-file", str(tmp_path), "--time-budget", "1"]
    done = command("run", "--summary", "classic", *words, **environment(server))
    assert done.returncode == 3
    assert (grep(done.stdout)["checked"], grep(done.stdout)["errors"]) == ("0", "1")


def test_json_does_not_swallow_it() -> None:
    done = command("run", "--summary", "classic", "--json", "-")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--summary classic: --json - takes stdout; name a file" in done.stderr
