"""Servers that won't, can't or aren't: one line, the right exit code, nothing deleted, an end."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from cleanup_job import wire
from cleanup_job.config import Config, Redis
from cleanup_job.errors import ServerUnavailableError
from cleanup_job.job import run
from tests.keys import heartbeat_key, keys_of, owned_keys, write_coordinator
from tests.servers import ServerProcess, running

REFUSED, UNAVAILABLE = 2, 75

HUSH = "hush-hush"

KEYS = {heartbeat_key("dead"), *owned_keys("dead")}


def call(url: str, *words: str, timeout_s: float = 20, **env: str) -> tuple[int, str]:
    """Exit code and stderr, which is one line unless all went well."""
    done = subprocess.run(
        [sys.executable, "-m", "cleanup_job", "run", *words],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "REDIS_URL": url, **env},
    )
    assert HUSH not in done.stdout + done.stderr
    if done.returncode:
        assert done.stdout == ""
        assert re.fullmatch(r"cleanup-job: .+\n", done.stderr), done.stderr
    return done.returncode, done.stderr


@pytest.fixture
def prepared(client: redis.Redis) -> redis.Redis:
    """A server with one dead coordinator and one that is alive."""
    write_coordinator(client, "dead", 700_000)
    write_coordinator(client, "live", 1_000)
    return client


def assert_nothing_deleted(client: redis.Redis) -> None:
    assert keys_of(client) >= KEYS


# -- unreachable, and not a Redis --------------------------------------------------------------


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        code, err = call(f"redis://127.0.0.1:{port}/0")
    assert code == UNAVAILABLE
    assert f"cannot reach 127.0.0.1:{port}: " in err
    assert "Connection refused; check the address and that the server runs" in err


def test_no_such_socket() -> None:
    code, err = call("unix:///none/redis.sock")
    assert code == UNAVAILABLE
    assert "cannot reach /none/redis.sock: " in err


def test_no_such_host() -> None:
    code, err = call("redis://none.invalid")
    assert code == UNAVAILABLE
    assert "cannot reach none.invalid:6379: " in err


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of something that answers every connection in its own way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        def serve(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                answer(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        listener.shutdown(socket.SHUT_RDWR)


def http(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def banner(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    connection.recv(65536)


def noise(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(bytes(range(255, 0, -1)) * 10)


def odd_info(reply: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        while requests := connection.recv(65536):
            connection.sendall(reply * requests.count(b"*"))  # several may come in one piece

    return answer


not_info = odd_info(b"$5\r\nhello\r\n")

unknown_command = odd_info(b"-ERR unknown command\r\n")


@pytest.mark.parametrize("reply", [b"$-1\r\n", b"*-1\r\n", b"*1\r\n:1\r\n", b":99999999999999\r\n"])
def test_one_whose_info_is_no_text(reply: bytes) -> None:
    with answering(odd_info(reply)) as url:
        assert call(url)[0] == REFUSED


@pytest.mark.parametrize(
    "reply", [b"-MASTERDOWN x\r\n", b"-CLUSTERDOWN x\r\n", b"-TRYAGAIN x\r\n", b"-BUSY x\r\n"]
)
def test_errors_that_pass_are_no_refusal(reply: bytes) -> None:
    with answering(odd_info(reply)) as url:
        assert call(url)[0] == UNAVAILABLE


def hang_up(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def half_an_answer(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"$1000\r\nredis_vers")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (http, REFUSED),
        (banner, REFUSED),
        (noise, REFUSED),
        (not_info, REFUSED),
        (unknown_command, REFUSED),
        (hang_up, UNAVAILABLE),
        (half_an_answer, UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("login", [False, True])
def test_not_a_redis(
    answer: Callable[[socket.socket], None],
    code: int,
    login: bool,
) -> None:
    with answering(answer) as url:
        assert call(url, **({"REDIS_PASSWORD": HUSH} if login else {}))[0] == code


@pytest.mark.parametrize("login", [False, True])
def test_one_that_never_answers(monkeypatch: pytest.MonkeyPatch, login: bool) -> None:
    monkeypatch.setattr(wire, "REPLY_TIMEOUT_S", 0.3)
    silence = threading.Event()
    with answering(lambda _: silence.wait() and None) as url:
        url = url.replace("redis://", "redis://:x@") if login else url
        began = time.monotonic()
        with pytest.raises(ServerUnavailableError, match="timed out"):
            run(Config(redis=Redis(url)))
        silence.set()
    assert time.monotonic() - began < 5


def test_the_time_to_wait_for_a_reply_is_bounded() -> None:
    assert 0 < wire.CONNECT_TIMEOUT_S <= wire.REPLY_TIMEOUT_S <= 60


# -- logins and rights --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked() -> Iterator[ServerProcess]:
    """A server that asks for a password."""
    with running(requirepass=HUSH) as server:
        with server.client() as client:
            write_coordinator(client, "dead", 700_000)
        yield server


class TestPassword:
    @pytest.mark.parametrize("password", ["wrong", ""])
    @pytest.mark.parametrize("db", [0, 1])
    def test_wrong_or_missing(self, locked: ServerProcess, password: str, db: int) -> None:
        url = f"redis://127.0.0.1:{locked.port}/{db}"
        code, err = call(url, REDIS_PASSWORD=password)
        assert code == REFUSED
        assert f"127.0.0.1:{locked.port} did not accept the login" in err
        assert "set REDIS_PASSWORD" in err
        with locked.client() as client:
            assert_nothing_deleted(client)

    def test_unknown_user(self, locked: ServerProcess) -> None:
        code, err = call(f"redis://nobody:{HUSH}@127.0.0.1:{locked.port}")
        assert code == REFUSED
        assert "did not accept the login" in err

    def test_the_right_one(self, locked: ServerProcess) -> None:
        url = f"redis://127.0.0.1:{locked.port}"
        assert call(url, "--dry-run", REDIS_PASSWORD=HUSH) == (0, "")


def test_a_password_where_none_is_set(server: ServerProcess, prepared: redis.Redis) -> None:
    """Redis answers with an error, so that it does not seem to be protected."""
    code, err = call(server.url, REDIS_PASSWORD=HUSH)
    assert code == REFUSED
    assert f"127.0.0.1:{server.port} did not accept the login" in err
    assert_nothing_deleted(prepared)


@contextlib.contextmanager
def user(client: redis.Redis, server: ServerProcess, *rules: str) -> Iterator[str]:
    """The URL of a user who may do everything but what these rules take away."""
    client.execute_command(
        "ACL", "SETUSER", "sweeper", "reset", "on", f">{HUSH}", "~*", "&*", "+@all", *rules
    )
    try:
        yield f"redis://sweeper:{HUSH}@127.0.0.1:{server.port}/0"
    finally:
        client.execute_command("ACL", "DELUSER", "sweeper")


@pytest.mark.default_server
@pytest.mark.parametrize("command", ["INFO", "DBSIZE", "SCAN", "MGET", "TIME", "EVALSHA", "SCRIPT"])
def test_no_right_to_a_command(server: ServerProcess, prepared: redis.Redis, command: str) -> None:
    with user(prepared, server, f"-{command.lower()}") as url:
        code, err = call(url)
    assert code == REFUSED
    assert f"this user may not run {command} (" in err
    assert f"+{command.lower()}" in err
    assert_nothing_deleted(prepared)


@pytest.mark.parametrize("command", ["UNLINK", "EXISTS"])
def test_no_right_to_a_command_of_the_script(
    server: ServerProcess, prepared: redis.Redis, command: str
) -> None:
    with user(prepared, server, f"-{command.lower()}") as url:
        code, err = call(url)
    assert code == REFUSED
    assert command in err.upper()
    assert_nothing_deleted(prepared)


@pytest.mark.default_server
def test_no_right_to_see_types(server: ServerProcess, prepared: redis.Redis) -> None:
    """TYPE is asked for only where a heartbeat is no string."""
    with user(prepared, server, "-type") as url:
        assert call(url, "--dry-run") == (0, "")
        prepared.hset(heartbeat_key("odd"), "a", "b")
        code, err = call(url)
    assert code == REFUSED
    assert "this user may not run TYPE (" in err
    assert_nothing_deleted(prepared)


@pytest.mark.default_server
def test_no_right_to_idle_times(server: ServerProcess, prepared: redis.Redis) -> None:
    """OBJECT is asked for only where orphans are to be purged."""
    prepared.set("blocking:signal:orphan", "some text")
    with user(prepared, server, "-object") as url:
        assert call(url, "--dry-run") == (0, "")
        code, err = call(url, "--orphans", "purge")
    assert code == REFUSED
    assert "this user may not run OBJECT (" in err
    assert_nothing_deleted(prepared)


@pytest.mark.default_server
@pytest.mark.parametrize("words", ["resetkeys ~blocking:heartbeat:*", "resetkeys ~blocking:*"])
def test_no_right_to_some_family(server: ServerProcess, prepared: redis.Redis, words: str) -> None:
    with user(prepared, server, *words.split()) as url:
        code, err = call(url)
    assert code == REFUSED
    assert "may not" in err or "permission" in err
    assert_nothing_deleted(prepared)


@pytest.mark.default_server
def test_no_right_to_the_heartbeats(server: ServerProcess, prepared: redis.Redis) -> None:
    with user(prepared, server, "resetkeys", "~blocking:signal:*") as url:
        code, err = call(url, "--no-lock")
    assert code == REFUSED
    assert "this user may not run MGET (" in err
    assert_nothing_deleted(prepared)


@pytest.mark.default_server
def test_no_right_with_workers(server: ServerProcess, prepared: redis.Redis) -> None:
    """An error crosses from a worker to the job as it is."""
    with user(prepared, server, "-mget") as url:
        code, err = call(url, "--workers", "2")
    assert code == REFUSED
    assert "this user may not run MGET (" in err
    assert_nothing_deleted(prepared)


@pytest.mark.default_server
def test_a_dry_run_needs_no_right_to_write(server: ServerProcess, prepared: redis.Redis) -> None:
    with user(prepared, server, "-@all", "+info", "+dbsize", "+scan", "+mget", "+time") as url:
        assert call(url, "--dry-run") == (0, "")
    assert_nothing_deleted(prepared)


def test_the_least_rights_are_enough(server: ServerProcess, prepared: redis.Redis) -> None:
    rights = ["info", "dbsize", "scan", "mget", "time", "type", "object"]
    rights += ["script|load", "evalsha", "exists", "unlink"]
    with user(prepared, server, "-@all", *(f"+{right}" for right in rights)) as url:
        assert call(url, "--orphans", "purge", "--no-lock") == (0, "")
    assert keys_of(prepared) == {heartbeat_key("live"), *owned_keys("live")}


@pytest.mark.default_server
@pytest.mark.parametrize("db", ["16", "999999999"])
def test_no_such_database(server: ServerProcess, prepared: redis.Redis, db: str) -> None:
    code, err = call(f"redis://127.0.0.1:{server.port}/{db}")
    assert code == REFUSED
    assert f"127.0.0.1:{server.port} has no database {db}" in err
    assert_nothing_deleted(prepared)


@pytest.mark.default_server
def test_another_database_is_left_alone(server: ServerProcess, prepared: redis.Redis) -> None:
    assert call(f"redis://127.0.0.1:{server.port}/1") == (0, "")
    assert_nothing_deleted(prepared)


# -- servers in no state to be swept ------------------------------------------------------------


@pytest.mark.parametrize("db", [0, 1])
@pytest.mark.default_server
def test_loading(db: int) -> None:
    with running(
        rdbcompression="no", key_load_delay="2000", loading_process_events_interval_bytes="1024"
    ) as server:
        client = server.client()
        write_coordinator(client, "dead", 700_000)
        client.mset({f"other:{number}": "x" * 100 for number in range(5_000)})
        client.save()
        client.close()
        server.stop()
        server.start()  # takes 10 s to load
        code, err = call(f"redis://127.0.0.1:{server.port}/{db}")
        with server.client() as client:
            assert client.info("persistence")["loading"] == 1, "the test came too late"
    assert code == UNAVAILABLE
    assert f"127.0.0.1:{server.port} is still loading its data; try again later" in err


def test_a_replica(server: ServerProcess, prepared: redis.Redis) -> None:
    prepared.config_set("repl-diskless-sync-delay", 0)
    with running(server.name) as replica, replica.client() as client:
        client.replicaof("127.0.0.1", server.port)
        await_that(lambda: client.info("replication")["master_link_status"] == "up")
        code, err = call(replica.url)
        assert code == REFUSED
        assert (
            f"127.0.0.1:{replica.port} is a replica; give the address of its primary, "
            f"127.0.0.1:{server.port}"
        ) in err
        assert_nothing_deleted(client)
    assert_nothing_deleted(prepared)


def test_a_server_that_refuses_to_write(server: ServerProcess, prepared: redis.Redis) -> None:
    """It wants more replicas than it has: found out before anything is deleted."""
    prepared.config_set("min-replicas-to-write", 1)
    try:
        code, err = call(server.url)
        dry = call(server.url, "--dry-run")
    finally:
        prepared.config_set("min-replicas-to-write", 0)
    assert code in (REFUSED, UNAVAILABLE)
    assert "NOREPLICAS" in err
    assert dry == (0, "")
    assert_nothing_deleted(prepared)


def test_out_of_memory_does_not_hinder_a_purge(
    server: ServerProcess, prepared: redis.Redis
) -> None:
    """A sweep is what one wants to run then."""
    prepared.config_set("maxmemory", 1)
    try:
        code, _ = call(server.url)
    finally:
        prepared.config_set("maxmemory", 0)
    assert code == 0
    assert keys_of(prepared) == {heartbeat_key("live"), *owned_keys("live")}


@pytest.mark.default_server
def test_a_paused_server_is_waited_for(server: ServerProcess, prepared: redis.Redis) -> None:
    prepared.execute_command("CLIENT", "PAUSE", "1000", "ALL")
    began = time.monotonic()
    assert call(server.url) == (0, "")
    assert time.monotonic() - began < 10
    assert not keys_of(prepared) & KEYS


@pytest.mark.default_server
def test_a_server_busy_with_a_script(server: ServerProcess, prepared: redis.Redis) -> None:
    prepared.config_set("lua-time-limit", 50)
    endless = threading.Thread(target=run_endless_script, args=(server,))
    endless.start()
    try:
        await_that(lambda: is_busy(prepared))
        code, err = call(server.url)
    finally:
        prepared.script_kill()
        endless.join()
        prepared.config_set("lua-time-limit", 5000)
    assert code == UNAVAILABLE
    assert f"127.0.0.1:{server.port} cannot answer INFO now: BUSY" in err
    assert_nothing_deleted(prepared)


def run_endless_script(server: ServerProcess) -> None:
    with server.client() as client, contextlib.suppress(redis.ResponseError):
        client.eval("while true do end", 0)


def is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


@pytest.mark.default_server
def test_a_cluster_without_its_slots_is_not_swept() -> None:
    with running(cluster_enabled="yes") as server:
        code, err = call(server.url)
    assert code in (REFUSED, UNAVAILABLE)
    assert "cluster" in err


@pytest.mark.default_server
def test_a_full_house_of_clients() -> None:
    with running(maxclients="1") as server:
        client = server.client()
        write_coordinator(client, "dead", 700_000)
        code, err = call(server.url)
        assert code == UNAVAILABLE
        assert "max number of clients reached" in err
        assert_nothing_deleted(client)
        client.close()


def await_that(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be within 15 s"
        time.sleep(0.02)
