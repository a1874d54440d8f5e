"""The log: one run id through all of it, no secret, no line that an id has written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest
import redis

from cleanup_job.log import Destination, Log
from cleanup_job.streams import deafen
from tests.keys import STALE_MS, write_coordinator, write_heartbeat, write_owned
from tests.servers import ServerProcess

LINE = re.compile(
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] \[(INFO|WARN|ERROR)\] (.*?)(?: run=(\w{8}))?"
)

HUSH = "hu" + "sh"

pytestmark = pytest.mark.default_server


def command(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cleanup_job", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
    )


def parsed(path: Path) -> list[tuple[str, str, str | None]]:
    """Level, message and run of each line; every one is as the shell script's were."""
    found = []
    for line in path.read_text().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        found.append((match[1], match[2], match[3]))
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "cleanup-job.log"


@pytest.fixture
def url(server: ServerProcess, client: redis.Redis) -> str:
    for number in range(3):
        write_coordinator(client, f"dead-{number}", STALE_MS)
    write_coordinator(client, "live", 0)
    return server.url


class TestText:
    def test_tells_the_whole_run_with_one_id(self, url: str, log: Path) -> None:
        done = command("run", "--url", url, "--log-file", str(log), "--json", "-")
        assert (done.returncode, done.stderr) == (0, "")
        run_id = json.loads(done.stdout)["run_id"]
        lines = parsed(log)
        assert {line[2] for line in lines} == {run_id}
        messages = "\n".join(message for _, message, _ in lines)
        for part in (
            "run of cleanup-job",
            "standalone at 127.0.0.1:",
            "survey: 2",
            "coordinators: 4 checked, 1 live, 3 stale",
            "to go: 3 coordinators, 18 keys",
            "purge: 18 keys in",
            "complete: 3 coordinators, 18 of 18 planned keys deleted in",
        ):
            assert part in messages
        assert lines[0][1].startswith("run of")
        assert lines[-1][1].startswith("complete")

    def test_appends(self, url: str, log: Path) -> None:
        for _ in range(2):
            command("run", "--url", url, "--log-file", str(log), "-q")
        assert len({line[2] for line in parsed(log)}) == 2

    def test_on_stderr_in_place_of_messages(self, url: str) -> None:
        done = command("run", "--url", url, "--log-file", "-", "--json", "-")
        assert done.returncode == 0
        assert all(LINE.fullmatch(line) for line in done.stderr.splitlines())

    def test_is_rotated(self, url: str, log: Path) -> None:
        words = ["--log-file", str(log), "--log-max-bytes", "300", "--log-keep", "2"]
        command("run", "--url", url, *words)
        assert sorted(path.name for path in log.parent.iterdir()) == [
            "cleanup-job.log",
            "cleanup-job.log.1",
            "cleanup-job.log.2",
        ]
        for path in log.parent.iterdir():
            assert parsed(path)

    def test_is_rotated_by_another_run_in_the_same_moment(
        self, log: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def rotated_already(*_: object) -> None:
            raise FileNotFoundError(2, "No such file or directory")

        with Log(Destination(str(log), "text", 200, 1)) as one:
            monkeypatch.setattr(RotatingFileHandler, "rotate", rotated_already)
            for number in range(10):
                one.tell("info", "x", f"line {number}, which is long enough to fill the log soon")
        deafen()
        assert len(parsed(log)) == 10
        assert capfd.readouterr().err == ""

    def test_an_id_writes_no_line(
        self, server: ServerProcess, client: redis.Redis, log: Path
    ) -> None:
        forged = b"x\n[2025-10-10 21:01:11] [INFO] complete: all is well"
        client.set(b"blocking:heartbeat:" + forged, "no json")
        write_owned(client, forged.replace(b":", b";"))
        command("run", "--url", server.url, "--log-file", str(log))
        lines = parsed(log)
        assert any("\\n[2025-10-10" in message for _, message, _ in lines)
        assert not any(message.startswith("complete: all") for _, message, _ in lines)


class TestErrors:
    def test_what_ends_the_command_is_in_it(self, log: Path) -> None:
        url = "redis://127.0.0.1:1"
        done = command("run", "--url", url, "--log-file", str(log), REDIS_PASSWORD=HUSH)
        assert done.returncode == 75
        level, message, _ = parsed(log)[-1]
        assert level == "ERROR"
        assert message in done.stderr
        assert HUSH not in log.read_text() + done.stderr

    def test_a_bad_configuration_is_too(self, log: Path) -> None:
        done = command("run", "--workers", "many", "--log-file", str(log))
        assert done.returncode == 2
        assert "--workers: workers: Invalid enum value" in log.read_text()

    def test_refused(self, url: str, log: Path) -> None:
        done = command("run", "--url", url, "--log-file", str(log), "--max-purge", "1")
        assert done.returncode == 4
        assert [level for level, message, _ in parsed(log) if "max_purge" in message] == ["ERROR"]
        assert "cleanup-job: refused, nothing was deleted: 3 coordinators" in done.stderr

    @pytest.mark.parametrize("name", ["no/such/folder/log", "."])
    def test_a_log_that_can_not_be(self, tmp_path: Path, name: str) -> None:
        done = command("run", "--log-file", str(tmp_path / name))
        assert done.returncode == 2
        assert done.stderr.startswith("cleanup-job: --log-file: ")

    def test_a_pipe_that_nobody_reads(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        done = command("run", "--log-file", str(tmp_path / "pipe"))
        assert done.returncode == 2
        assert "pipe is a pipe, on which a run could wait for ever" in done.stderr

    def test_a_full_disk_costs_the_log_and_not_the_run(self, url: str) -> None:
        done = command("run", "--url", url, "--log-file", "/dev/full", "--json", "-")
        assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "complete")
        assert done.stderr == (
            "cleanup-job: warning: the log /dev/full can't be written any more (No space left on "
            "device); the run goes on without it\n"
        )

    def test_one_file_for_two_things(self, tmp_path: Path) -> None:
        path = str(tmp_path / "x")
        done = command("run", "--log-file", path, "--json", path)
        assert done.returncode == 2
        assert f"--log-file: {path} is the file of --json too" in done.stderr


class TestJson:
    def test_on_stderr_in_place_of_messages(self, url: str) -> None:
        done = command("run", "--url", url, "--log-format", "json", "-q")
        assert (done.returncode, done.stdout) == (0, "")
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        assert [line["event"] for line in lines] == [
            "started", "server", "phase", "phase", "judged", "planned", "phase", "finished",
        ]  # fmt: skip
        assert len({line["run_id"] for line in lines}) == 1
        assert all({"time", "level", "message"} <= line.keys() for line in lines)
        last = lines[-1]
        assert (last["status"], last["exit_code"], last["keys"]["deleted"]) == ("complete", 0, 18)
        assert last["coordinators"]["purged"] == 3

    def test_of_an_error(self) -> None:
        done = command("run", "--url", "redis://127.0.0.1:1", "--log-format", "json")
        line = json.loads(done.stderr.splitlines()[-1])
        assert (line["event"], line["level"], line["exit_code"]) == ("error", "error", 75)

    def test_a_warning_about_the_command_line_is_one_too(self, server: ServerProcess) -> None:
        url = server.url.replace("://", f"://:{HUSH}@")
        done = command("run", "--url", url, "--log-format", "json")
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        assert (lines[0]["event"], lines[0]["level"]) == ("message", "warn")
        assert HUSH not in done.stderr

    def test_a_restore_has_a_log_too(self, url: str, tmp_path: Path, log: Path) -> None:
        journal = tmp_path / "journal"
        command("run", "--url", url, "--journal", str(journal))
        words = ["--log-file", str(log), "--log-format", "json"]
        done = command("restore", str(journal), "--url", url, *words)
        assert done.returncode == 0
        assert json.loads(log.read_text().splitlines()[-1])["status"] == "complete"


def test_reasons_are_told(server: ServerProcess, client: redis.Redis, log: Path) -> None:
    client.set("blocking:heartbeat:odd", "{}")
    write_heartbeat(client, "early", -60_000)
    command("run", "--url", server.url, "--log-file", str(log))
    warned = [message for level, message, _ in parsed(log) if level == "WARN"]
    assert any("has no timestamp or lastHeartbeat (1)" in message for message in warned)
