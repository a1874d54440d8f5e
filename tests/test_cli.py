"""The command as people and scripts meet it: words, streams and exit codes, by subprocess."""

from __future__ import annotations

import itertools
import json
import os
import pstats
import pty
import re
import shlex
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import cleanup_job
from cleanup_job import arguments, cli
from cleanup_job.config_schema import json_schema
from tests.keys import write_coordinator, write_owned
from tests.server.test_revival import write_many
from tests.servers import ServerProcess

COMMAND = [sys.executable, "-m", "cleanup_job"]

REPO = Path(__file__).parent.parent

HUSH = "hush-hush"

ALL_DEAD = {"CLEANUP_JOB_EXPECT_ALL_DEAD": "true"}
"""Most cases have nobody who lives."""


def call(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **ALL_DEAD, **(env or {})},
        cwd=REPO,
    )
    assert "Traceback" not in done.stderr
    return done


def shell(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The command by `"$@"` in a shell, for its redirections."""
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *COMMAND, *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **ALL_DEAD},
        cwd=REPO,
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def listener() -> Iterator[tuple[str, list[object]]]:
    """A URL, and who connected to it."""
    visitors: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                visitors.append(address)
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0", visitors
        server.shutdown(socket.SHUT_RDWR)


COMMANDS = ("run", "demo", "restore", "render", "check", "schema", "acl", "completion")


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_has_examples(self, command: str) -> None:
        done = call(command, "--help")
        assert done.returncode == 0
        assert "examples:\n  cleanup-job " in done.stdout
        assert done.stderr == ""

    @pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
    def test_has_exit_codes(self, words: list[str]) -> None:
        out = call(*words).stdout
        for code in ("0 ", "1 ", "2 ", "3 ", "75 ", "130/143 "):
            assert f"\n  {code}" in out

    @pytest.mark.parametrize("command", COMMANDS)
    def test_fits_80_columns(self, command: str) -> None:
        lines = call(command, "--help", env={"COLUMNS": "80"}).stdout.splitlines()
        assert max(map(len, lines)) <= 80

    def test_names_every_command(self) -> None:
        out = call("--help").stdout
        for command in COMMANDS:
            assert re.search(rf"^ +{command}  ", out, re.M), command

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_example_can_be_parsed(self, command: str) -> None:
        text = call(command, "--help", env={"COLUMNS": "80"}).stdout
        text = text[text.index("\nexamples:\n") :].replace("\\\n", " ")
        examples = re.findall(r"^  (?:\S+=\S+ )?cleanup-job (.*?)(?:  +.*)?$", text, re.M)
        assert examples
        for example in examples:
            for part in re.split(r" \| cleanup-job ", example):
                words = itertools.takewhile(lambda word: word != ">", shlex.split(part))
                arguments.make_parser().parse_args([*words])


def test_version() -> None:
    done = call("--version")
    assert (done.returncode, done.stdout) == (0, f"cleanup-job {cleanup_job.__version__}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["swepe"], "invalid choice: 'swepe'"),
        (["run", "--dryrun"], "unrecognized arguments: --dryrun"),
        (["run", "extra"], "unrecognized arguments: extra"),
        (["run", "--url"], "argument --url: expected one argument"),
        (["run", "--show", "-1"], "argument --show: "),
        (["run", "--show", "²"], "argument --show: '²' is no number of 0 or more"),
        (["demo", "--coordinators", "many"], "argument --coordinators: 'many' is no number of 0"),
        (["check"], "the following arguments are required: FILE"),
        (["schema", "x"], "unrecognized arguments: x"),
    ],
)
def test_usage_errors(words: list[str], message: str) -> None:
    done = call(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.startswith("usage: cleanup-job")


class TestCheckAndSchema:
    def test_check_shows_what_is_in_effect(self) -> None:
        done = call("check", "configs/incident.yaml")
        assert done.returncode == 0
        assert "orphan_grace: 7200" in done.stdout
        assert "heartbeat: blocking:heartbeat:{id}" in done.stdout
        assert done.stderr == "configs/incident.yaml: good\n"

    def test_check_shows_no_password(self, tmp_path: Path) -> None:
        path = tmp_path / "my.yaml"
        path.write_text(f"redis: {{url: 'redis://u:{HUSH}@h'}}\n")
        done = call("check", str(path))
        assert done.returncode == 0
        assert "redis://u:***@h" in done.stdout
        assert HUSH not in done.stdout + done.stderr

    def test_check_names_the_place(self, tmp_path: Path) -> None:
        path = tmp_path / "my.yaml"
        path.write_text("stale_after: 10:00\n")
        done = call("check", str(path))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"cleanup-job: {path}:1:14: YAML reads 10:00 as 600; ")
        assert done.stderr.count("\n") == 1

    def test_schema(self) -> None:
        done = call("schema")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.encode() == json_schema()


BAD_CONFIGS = [
    "",
    "stale_afer: 600",
    "stale_after: -1",
    "stale_after: 0755",
    "orphans: no",
    "a: 1\na: 2",
    "keys:\n  heartbeat: *{id}*",
    'keys: {heartbeat: "blocking:heartbeat"}',
    'keys: {owned: {a: "x:{id}", b: "x:{id}:*"}}',
]


class TestNothingIsContacted:
    @pytest.mark.parametrize("text", BAD_CONFIGS)
    def test_on_a_bad_file(
        self, listener: tuple[str, list[object]], tmp_path: Path, text: str
    ) -> None:
        url, visitors = listener
        path = tmp_path / "my.yaml"
        path.write_text(text)
        done = call("run", "-c", str(path), "--url", url)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(rf"cleanup-job: {re.escape(str(path))}:.+\n", done.stderr)
        assert not visitors

    @pytest.mark.parametrize(
        ("words", "env", "message"),
        [
            (["--stale-after", "0"], {}, "--stale-after: stale_after: Expected `int` >= 1"),
            (["--workers", "x"], {}, "--workers: workers: Invalid enum value 'x'"),
            (["--orphans", "all"], {}, "--orphans: orphans: Invalid enum value 'all'"),
            (["--engine", "gpu"], {}, "--engine: engine: Invalid enum value 'gpu'"),
            ([], {"CLEANUP_JOB_WORKERS": "x"}, "CLEANUP_JOB_WORKERS: workers: Invalid"),
            ([], {"CLEANUP_JOB_WROKERS": "1"}, "CLEANUP_JOB_WROKERS: no such setting"),
            (["-c", "none.yaml"], {}, "none.yaml: cannot be read: No such file or directory"),
            ([], {"CLEANUP_JOB_CONFIG": "none.yaml"}, "none.yaml: cannot be read: No such file"),
            (["--json", "/none/report.json"], {}, "--json: /none/report.json can't be written"),
            (["--json", "/"], {}, "--json: / can't be written"),
        ],
    )
    def test_on_a_bad_flag_or_variable(
        self,
        listener: tuple[str, list[object]],
        words: list[str],
        env: dict[str, str],
        message: str,
    ) -> None:
        url, visitors = listener
        done = call("run", *words, env={"REDIS_URL": url, **env})
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"cleanup-job: {message}")
        assert done.stderr.count("\n") == 1
        assert not visitors

    def test_on_a_good_one_somebody_is(self, listener: tuple[str, list[object]]) -> None:
        url, visitors = listener
        assert call("run", "--url", url).returncode == 75
        assert visitors


@pytest.mark.default_server
class TestRun:
    def test_text_on_stdout_and_nothing_on_stderr(
        self, server: ServerProcess, client: redis.Redis
    ) -> None:
        write_coordinator(client, "dead", 700_000)
        done = call("run", "--url", server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("run ")
        assert done.stdout.endswith("complete: 6 of 6 planned keys deleted\n")
        assert client.dbsize() == 0

    def test_dry_run_shows_samples_and_deletes_nothing(
        self, server: ServerProcess, client: redis.Redis
    ) -> None:
        for number in range(5):
            write_coordinator(client, f"dead-{number}", 700_000)
        done = call("run", "--url", server.url, "--dry-run", "--show", "2")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("  stale  ") == 2
        assert "complete: 30 keys would be deleted; nothing was\n" in done.stdout
        assert client.dbsize() == 30

    def test_json_on_stdout_is_nothing_else(
        self, server: ServerProcess, client: redis.Redis
    ) -> None:
        write_coordinator(client, "dead-é", 700_000)
        done = call("run", "--url", server.url, "--json", "-")
        assert (done.returncode, done.stderr) == (0, "")
        report = json.loads(done.stdout)
        assert report["schema_version"] == 1
        assert report["keys"]["deleted"] == 6
        assert report["samples"][0]["id"] == "dead-é"

    def test_json_to_a_file_beside_the_text(
        self, server: ServerProcess, client: redis.Redis, tmp_path: Path
    ) -> None:
        write_coordinator(client, "dead", 700_000)
        path = tmp_path / "report.json"
        path.write_text("an old one")
        done = call("run", "--url", server.url, "--json", str(path))
        assert done.returncode == 0
        assert "6 of 6" in done.stdout
        assert json.loads(path.read_text())["keys"]["deleted"] == 6
        assert [*tmp_path.iterdir()] == [path]

    def test_json_to_a_link_or_a_device_replaces_neither(
        self, server: ServerProcess, client: redis.Redis, tmp_path: Path
    ) -> None:
        link, path = tmp_path / "link", tmp_path / "report.json"
        link.symlink_to(path)
        assert call("run", "--url", server.url, "--json", str(link)).returncode == 0
        assert link.is_symlink()
        assert json.loads(path.read_text())["status"] == "complete"

        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with subprocess.Popen(["/bin/cat", pipe], stdout=subprocess.PIPE) as reader:
            assert call("run", "--url", server.url, "--json", str(pipe)).returncode == 0
            assert json.loads(reader.communicate(timeout=30)[0])["status"] == "complete"
        assert pipe.is_fifo()

    def test_an_environment_is_enough(self, server: ServerProcess, client: redis.Redis) -> None:
        write_coordinator(client, "dead", 700_000)
        env = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(server.port)}
        assert call("run", env=env).returncode == 0
        assert client.dbsize() == 0

    def test_a_flag_wins_over_the_environment(
        self, server: ServerProcess, client: redis.Redis
    ) -> None:
        write_coordinator(client, "dead", 700_000)
        env = {"REDIS_URL": "redis://127.0.0.1:1", "CLEANUP_JOB_STALE_AFTER": "5"}
        done = call("run", "--url", server.url, "--stale-after", "1000", env=env)
        assert done.returncode == 0
        assert client.dbsize() == 6

    def test_by_a_socket(self, server: ServerProcess, client: redis.Redis) -> None:
        write_coordinator(client, "dead", 700_000)
        assert call("run", "--url", f"unix://{server.socket}").returncode == 0
        assert client.dbsize() == 0

    @pytest.mark.parametrize("workers", [1, 2])
    def test_profiles_of_the_job_and_of_each_worker(
        self, server: ServerProcess, client: redis.Redis, tmp_path: Path, workers: int
    ) -> None:
        write_many(client, 1_000)
        path = tmp_path / "job.prof"
        words = ("run", "--url", server.url, "--workers", str(workers), "--cprofile", str(path))
        assert call(*words).returncode == 0
        assert client.dbsize() == 0
        profile: Any = pstats.Stats(str(path))
        names = {name for _, _, name in profile.stats}
        assert "decide" in names
        beside = {found.name for found in tmp_path.iterdir()} - {path.name}
        if workers == 1:
            assert "purge" in names
            assert not beside
        else:
            assert beside
            assert beside <= {"job.prof.worker-1", "job.prof.worker-2"}
            stages = set[str]()
            for name in beside:
                profile = pstats.Stats(str(tmp_path / name))
                stages |= {function for _, _, function in profile.stats}
            assert {"survey", "purge"} <= stages

    def test_a_profile_that_cannot_be_written_is_told_before_the_run(
        self, server: ServerProcess, client: redis.Redis, tmp_path: Path
    ) -> None:
        write_many(client, 1)
        done = call("run", "--url", server.url, "--cprofile", str(tmp_path / "no" / "p"))
        assert (done.returncode, client.dbsize()) == (2, 6)
        assert "--cprofile" in done.stderr
        for path in ("-", "/dev/null", str(tmp_path)):
            done = call("run", "--url", server.url, "--cprofile", path)
            assert (done.returncode, client.dbsize()) == (2, 6)
            assert f"--cprofile: {path} is no file" in done.stderr

    def test_a_profile_that_finds_no_room_costs_nothing_else(
        self, server: ServerProcess, client: redis.Redis, tmp_path: Path
    ) -> None:
        write_many(client, 1_000)
        path = tmp_path / "p"
        # No file of this process may be longer than that; the signal that says so is ignored.
        script = 'trap "" XFSZ; ulimit -f 0; exec "$@"'
        words = ("run", "--url", server.url, "--cprofile", str(path))
        done = shell(script, *words)
        assert (done.returncode, client.dbsize()) == (0, 0)
        assert "6,000 of 6,000 planned keys deleted" in done.stdout
        assert f"--cprofile: {path} can't be written" in done.stderr

    def test_nor_do_those_of_workers(
        self, server: ServerProcess, client: redis.Redis, tmp_path: Path
    ) -> None:
        write_many(client, 1_000)
        path = tmp_path / "p"
        for number in range(1, 5):
            path.with_name(f"p.worker-{number}").mkdir()
        done = call("run", "--url", server.url, "--workers", "2", "--cprofile", str(path))
        assert (done.returncode, client.dbsize()) == (0, 0)
        assert path.is_file()

    def test_a_password_in_the_flag_is_warned_of_and_not_shown(
        self, server: ServerProcess, client: redis.Redis
    ) -> None:
        client.acl_setuser(
            "sweeper", True, passwords=[f"+{HUSH}"], categories=["+@all"], keys=["*"]
        )
        try:
            url = f"redis://sweeper:{HUSH}@127.0.0.1:{server.port}/0"
            by_flag = call("run", "--url", url)
            by_environment = call("run", env={"REDIS_URL": url})
        finally:
            client.acl_deluser("sweeper")
        assert (by_flag.returncode, by_environment.returncode) == (0, 0)
        assert by_flag.stderr == (
            "cleanup-job: warning: a password in --url can be seen in the process list; use "
            "REDIS_PASSWORD or REDIS_URL\n"
        )
        assert by_environment.stderr == ""
        assert HUSH not in by_flag.stdout + by_flag.stderr + by_environment.stdout


@pytest.mark.default_server
class TestStreams:
    def test_a_reader_that_goes_away(self, server: ServerProcess, client: redis.Redis) -> None:
        done = shell('("$@"; echo "code $?" >&2) | /bin/true', "run", "--url", server.url)
        # What could not be told there is told here.
        assert re.fullmatch(r"code 0\n|(?s:.*the report:\nrun .*)code 3\n", done.stderr)
        done = shell('("$@"; echo "code $?" >&2) | /bin/true', "schema")
        assert done.stderr in ("code 3\n", "code 0\n")

    def test_closed_stdout_loses_nothing(self, server: ServerProcess, client: redis.Redis) -> None:
        write_coordinator(client, "dead", 700_000)
        done = shell('"$@" >&-', "run", "--url", server.url, "--json", "-")
        assert (done.returncode, done.stdout) == (0, "")
        message, _, report = done.stderr.partition("\n")
        assert message == "cleanup-job: stdout is closed; the report:"
        assert json.loads(report)["keys"]["deleted"] == 6
        assert client.dbsize() == 0

    def test_closed_stderr_does_not_spill_into_the_data(self, tmp_path: Path) -> None:
        good = shell('"$@" 2>&-', "check", "configs/blocking.yaml")
        assert good.returncode == 0
        assert "good" not in good.stdout
        bad = shell('"$@" 2>&-', "check", str(tmp_path / "none.yaml"))
        assert (bad.returncode, bad.stdout) == (2, "")

    def test_all_streams_closed(self, server: ServerProcess, client: redis.Redis) -> None:
        write_many(client, 100)
        done = shell('"$@" <&- >&- 2>&-', "run", "--workers", "2", "--url", server.url)
        assert done.returncode == 0
        assert client.dbsize() == 0

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
    @pytest.mark.parametrize("words", [["schema"], ["check", "configs/blocking.yaml"]])
    def test_no_room_for_the_output(self, words: list[str]) -> None:
        done = shell('"$@" >/dev/full', *words)
        assert done.returncode == 2
        assert done.stderr == (
            "cleanup-job: the output can't be written: No space left on device\n"
        )

    def test_no_room_for_the_report(self, server: ServerProcess, client: redis.Redis) -> None:
        write_coordinator(client, "dead", 700_000)
        done = call("run", "--url", server.url, "--json", "/dev/full")
        assert done.returncode == 2
        assert done.stderr == (
            "cleanup-job: --json: /dev/full can't be written (No space left on device); "
            "the report is on stdout\n"
        )
        assert json.loads(done.stdout)["keys"]["deleted"] == 6

    @pytest.mark.parametrize("words", [[], ["--json", "-"], ["--json", "/dev/full"]])
    def test_no_room_for_the_report_anywhere_but_on_stderr(
        self, server: ServerProcess, client: redis.Redis, words: list[str]
    ) -> None:
        write_coordinator(client, "dead", 700_000)
        done = shell('"$@" >/dev/full', "run", "--url", server.url, *words)
        assert done.returncode == 2
        assert "stdout takes no more; the report:\n" in done.stderr
        assert ('"deleted": 6' if words else "6 of 6 planned keys deleted") in done.stderr
        last = "cleanup-job: the output can't be written: No space left on device\n"
        assert done.stderr.endswith(last)

    def test_a_terminal_that_knows_ascii_only(
        self, server: ServerProcess, client: redis.Redis
    ) -> None:
        write_coordinator(client, "dead-é", 700_000)
        env = {"PYTHONIOENCODING": "ascii"}
        done = call("run", "--dry-run", "--url", server.url, env=env)
        assert done.returncode == 0
        assert "dead-\\xe9" in done.stdout
        as_json = call("run", "--dry-run", "--json", "-", "--url", server.url, env=env)
        assert json.loads(as_json.stdout)["samples"][0]["id"] == "dead-é"


@pytest.mark.default_server
class TestProgress:
    def test_a_bar_on_a_terminal(self, server: ServerProcess, client: redis.Redis) -> None:
        write_many(client, 2_000)
        out, seen = on_a_terminal("run", "--yes", "--url", server.url)
        assert "survey:" in seen
        assert "purge :" in seen
        assert "keys/s" in seen
        assert b"12,000 of 12,000 planned keys deleted" in out
        assert b"survey:" not in out

    def test_no_bar_where_stderr_is_no_terminal(
        self, server: ServerProcess, client: redis.Redis
    ) -> None:
        write_many(client, 2_000)
        assert call("run", "--url", server.url).stderr == ""


def on_a_terminal(*words: str) -> tuple[bytes, str]:
    """What the command writes to stdout, a pipe, and to stderr, a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux tells so that the other side is closed
                break
            if not part:
                break
            seen += part
        out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    return out, seen.decode()


@pytest.mark.default_server
class TestHowMuchIsSaid:
    def test_quiet_says_nothing_while_all_is_well(
        self, server: ServerProcess, client: redis.Redis
    ) -> None:
        write_coordinator(client, "dead", 700_000)
        write_owned(client, "lost")  # an orphan is worth a warning, but no mail
        done = call("run", "-q", "--url", server.url)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        done = call("run", "-q", "--url", server.url, "--json", "-")
        assert json.loads(done.stdout)["warnings"]
        assert (done.returncode, done.stderr) == (0, "")

    def test_quiet_says_all_of_it_when_it_is_not(
        self, server: ServerProcess, client: redis.Redis
    ) -> None:
        write_coordinator(client, "dead", 700_000)
        write_coordinator(client, "dead-too", 700_000)
        done = call("run", "-q", "--url", server.url, "--max-purge", "1")
        assert done.returncode == 4
        assert "\nREFUSED: 12 keys would be deleted; nothing was\n" in done.stdout
        assert done.stderr.startswith("cleanup-job: refused, nothing was deleted: ")
        # What it says to do next does just that.
        override = done.stdout.replace("\\\n", "").splitlines()[-1]
        done = call(*shlex.split(override)[1:])
        assert (done.returncode, done.stdout, client.dbsize()) == (0, "", 0)

    def test_verbose_adds_and_takes_nothing_away(
        self, server: ServerProcess, client: redis.Redis
    ) -> None:
        write_coordinator(client, "dead", 700_000)
        done = call("run", "-v", "--color", "always", "--dry-run", "--url", server.url)
        assert "\x1b[1;32mcomplete\x1b[0m: 6 keys would be" in done.stdout
        out, err = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in (done.stdout, done.stderr))
        for word in ("  SCAN ", "client CPU", "(older than stale_after)", "partition "):
            assert word in out
        labels = [line.partition(":")[0] for line in err.splitlines() if line[0] != " "]
        assert labels == ["server", "survey", "judge", "found", "to go", "purge"]

    def test_one_or_the_other(self) -> None:
        assert "not allowed with" in call("run", "-q", "-v").stderr


class TestBugs:
    @pytest.fixture
    def told(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
        """What is said if a command fails as none should."""
        monkeypatch.setitem(cli._COMMANDS, "schema", lambda _: 1 // 0)
        with pytest.raises(SystemExit) as ended:
            cli.main(["schema"])
        assert ended.value.code == 1
        return capsys.readouterr().err

    def test_keep_their_traceback_and_ask_for_a_report(self, told: str) -> None:
        assert "ZeroDivisionError: integer division or modulo by zero" in told
        assert "cleanup-job: this is a bug. Please report it" in told
        assert f"cleanup-job {cleanup_job.__version__}, Python {sys.version.split()[0]}" in told

    def test_say_how_far_a_run_had_come(
        self,
        server: ServerProcess,
        client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        write_coordinator(client, "dead", 700_000)
        monkeypatch.setattr("cleanup_job.job.purge_all", lambda *_: 1 // 0)
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", "--url", server.url, "--yes"])
        told = capsys.readouterr().err
        assert ended.value.code == 1
        assert "purge" in told[told.index("ZeroDivisionError") :]
        assert "the next run goes on" in told
