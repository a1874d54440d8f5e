"""Every way to connect: TLS, logins, sockets, Sentinels, and addresses that are not what they say.

What fails ends with one line that names cause and remedy, and with nothing deleted.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from cleanup_job import tls
from cleanup_job.config import Config, Redis, TlsSettings
from cleanup_job.embedded import slots_of
from cleanup_job.errors import ServerRefusedError
from cleanup_job.job import run
from cleanup_job.keyspace import slot_of
from tests.certificates import DAY, Authority, Pair
from tests.conftest import require
from tests.keys import heartbeat_key, keys_of, owned_keys, write_coordinator
from tests.server.test_refusals import (
    HUSH,
    REFUSED,
    UNAVAILABLE,
    assert_nothing_deleted,
    await_that,
    call,
)
from tests.servers import (
    SentinelProcess,
    ServerCluster,
    ServerProcess,
    TlsSentinel,
    TlsServer,
    running,
)

DEBIAN = "redis-7.0"
"""The one of the servers that has TLS."""

LIVE = {heartbeat_key("live"), *owned_keys("live")}


def prepare(client: redis.Redis) -> None:
    """A dead coordinator and a live one, and no other key."""
    client.flushall()
    write_coordinator(client, "dead", 700_000)
    write_coordinator(client, "live", 1_000)


def add_user(client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "sweeper", "on", f">{HUSH}", "~*", "&*", "+@all")


# -- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def stranger(folder: Path) -> Authority:
    """An authority that nobody has a reason to trust."""
    return Authority(folder, "stranger")


def tls_options(authority: Authority, pair: Pair, **more: str) -> dict[str, str]:
    return {
        "tls-cert-file": str(pair.cert),
        "tls-key-file": str(pair.key),
        "tls-ca-cert-file": str(authority.file),
        "tls-auth-clients": "no",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


@contextlib.contextmanager
def speaking_tls(authority: Authority, pair: Pair, **more: str) -> Iterator[TlsServer]:
    """A prepared server with this certificate."""
    require(DEBIAN)
    server = TlsServer(DEBIAN, tls_options(authority, pair, **more))
    try:
        with server.client() as client:
            prepare(client)
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def _secure(authority: Authority) -> Iterator[TlsServer]:
    with speaking_tls(authority, authority.issue()) as server:
        with server.client() as client:
            add_user(client)
        yield server


@pytest.fixture
def secure(_secure: TlsServer) -> TlsServer:
    """A server with a good certificate, and the user `sweeper`."""
    with _secure.client() as client:
        prepare(client)
    return _secure


def assert_refused(server: ServerProcess, *words: str, says: str, **env: str) -> None:
    """A run ends with exit code 2 and these words, and nothing is gone."""
    code, err = call(server.url, *words, **env)
    assert code == REFUSED, err
    assert f"{server.address} {says}" in err or f" of {server.address} {says}" in err
    with server.client() as client:
        assert_nothing_deleted(client)


def assert_swept(server: ServerProcess, url: str, *words: str, **env: str) -> None:
    """A run ends with exit code 0, and with the live coordinator's keys alone."""
    assert call(url, *words, **env) == (0, "")
    with server.client() as client:
        assert keys_of(client) == LIVE


class TestTls:
    def test_a_sweep(self, secure: TlsServer, authority: Authority) -> None:
        assert_swept(secure, secure.url, "--ca-file", str(authority.file))

    def test_with_workers(self, secure: TlsServer, authority: Authority) -> None:
        words = ("--ca-file", str(authority.file), "--workers", "2")
        assert_swept(secure, secure.url, *words)

    def test_the_authorities_of_the_system(self, secure: TlsServer, authority: Authority) -> None:
        assert_swept(secure, secure.url, SSL_CERT_FILE=str(authority.file))

    def test_a_ca_file_is_trusted_alone(
        self, secure: TlsServer, authority: Authority, stranger: Authority
    ) -> None:
        assert_refused(
            secure,
            "--ca-file",
            str(stranger.file),
            SSL_CERT_FILE=str(authority.file),
            says=f"is by another authority than the one in '{stranger.file}'",
        )

    def test_an_authority_that_nobody_trusts(self, secure: TlsServer) -> None:
        assert_refused(
            secure,
            says="is by another authority than any that the system trusts (",
        )

    def test_the_remedy_is_named(self, secure: TlsServer) -> None:
        _, err = call(secure.url)
        assert err.endswith("; set redis.tls.ca_file, or --ca-file, to the file of its authority\n")

    @pytest.mark.parametrize(
        ("begins", "ends", "says"),
        [
            (-2 * DAY, -DAY, "has expired (or its authority's has); renew it"),
            (DAY, 2 * DAY, "is not valid yet; check the clocks"),
        ],
    )
    def test_out_of_its_time(
        self, authority: Authority, begins: timedelta, ends: timedelta, says: str
    ) -> None:
        pair = authority.issue(begins=begins, ends=ends)
        with speaking_tls(authority, pair) as server:
            assert_refused(server, "--ca-file", str(authority.file), says=says)

    def test_another_name(self, authority: Authority) -> None:
        with speaking_tls(authority, authority.issue("db.example")) as server:
            words = ("--ca-file", str(authority.file))
            assert_refused(
                server,
                *words,
                says="is for another name than '127.0.0.1'; give the address that it names, or "
                "set redis.tls.server_name",
            )
            assert_refused(
                server,
                *words,
                CLEANUP_JOB_SERVER_NAME="other.example",
                says="is for another name than 'other.example'",
            )
            assert_swept(server, server.url, *words, CLEANUP_JOB_SERVER_NAME="db.example")

    @pytest.mark.parametrize("password", ["", HUSH])
    def test_plain_words_to_a_port_with_tls(self, secure: TlsServer, password: str) -> None:
        plain = secure.url.replace("rediss://", "redis://")
        code, err = call(plain, REDIS_PASSWORD=password)
        assert code == REFUSED
        assert err == (
            f"cleanup-job: {secure.address} speaks TLS; write the URL with rediss in place of "
            "redis\n"
        )
        with secure.client() as client:
            assert_nothing_deleted(client)

    def test_a_tls_server_that_is_no_redis(self, authority: Authority) -> None:
        with answering_tls(authority.issue(), b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
            code, err = call(f"rediss://{address}", "--ca-file", str(authority.file))
        assert code == REFUSED
        assert f"{address} speaks TLS, but is not a Redis or Valkey server" in err

    def test_one_that_hangs_up_after_the_handshake(self, authority: Authority) -> None:
        with answering_tls(authority.issue(), b"") as address:
            code, err = call(f"rediss://{address}", "--ca-file", str(authority.file))
        assert code == UNAVAILABLE
        assert f"cannot reach {address}: the TLS handshake failed: " in err

    def test_one_that_hangs_up_at_once(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=hang_up_on_all, args=(listener,), daemon=True).start()
            port = listener.getsockname()[1]
            code, err = call(f"rediss://127.0.0.1:{port}")
            listener.shutdown(socket.SHUT_RDWR)
        assert code == UNAVAILABLE
        assert f"cannot reach 127.0.0.1:{port}: the TLS handshake failed: " in err

    def test_nobody_listens(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
            code, err = call(f"rediss://{address}")
        assert code == UNAVAILABLE
        assert f"cannot reach {address}: " in err
        assert "Connection refused; check the address and that the server runs" in err


def hang_up_on_all(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


@contextlib.contextmanager
def answering_tls(pair: Pair, answer: bytes) -> Iterator[str]:
    """The address of something that speaks TLS, answers once and hangs up."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = context.wrap_socket(listener.accept()[0], server_side=True)
                with connection:
                    connection.recv(1024)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.default_server
def test_tls_to_a_plain_port(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may wait for the end of what it takes for a command, or answer that it knows none."""
    monkeypatch.setattr(tls, "HANDSHAKE_TIMEOUT_S", 0.3)
    prepare(client)
    for _ in range(10):
        with pytest.raises(ServerRefusedError) as caught:
            run(Config(redis=Redis(f"rediss://{server.address}")))
        assert str(caught.value) == (
            f"{server.address} speaks no TLS; write the URL with redis in place of rediss, or "
            "give the port that does"
        )
    assert_nothing_deleted(client)


def test_the_time_to_wait_for_a_handshake_is_bounded() -> None:
    assert 0 < tls.PROBE_TIMEOUT_S <= tls.HANDSHAKE_TIMEOUT_S <= 10


@pytest.fixture(scope="module", params=["TLSv1.2", "TLSv1.3"])
def wanting(request: pytest.FixtureRequest, authority: Authority) -> Iterator[TlsServer]:
    """A server that asks its clients for a certificate."""
    with speaking_tls(
        authority, authority.issue(), tls_auth_clients="yes", tls_protocols=request.param
    ) as server:
        yield server


class TestClientCertificate:
    @pytest.fixture(autouse=True)
    def _prepared(self, wanting: TlsServer) -> None:
        with wanting.client() as client:
            prepare(client)

    def test_a_good_one(self, wanting: TlsServer, authority: Authority) -> None:
        mine = authority.issue("sweeper")
        assert_swept(
            wanting,
            wanting.url,
            "--ca-file",
            str(authority.file),
            CLEANUP_JOB_CERT_FILE=str(mine.cert),
            CLEANUP_JOB_KEY_FILE=str(mine.key),
        )

    def test_none(self, wanting: TlsServer, authority: Authority) -> None:
        assert_refused(
            wanting,
            "--ca-file",
            str(authority.file),
            says="wants a client certificate; set redis.tls.cert_file and key_file",
        )

    def test_none_is_told_every_time(self, wanting: TlsServer, authority: Authority) -> None:
        """The server's refusal races with what we send; it must not get lost."""
        settings = TlsSettings(ca_file=str(authority.file))
        config = Config(redis=Redis(wanting.url, tls=settings))
        for _ in range(50):
            with pytest.raises(ServerRefusedError, match="wants a client certificate"):
                run(config)

    def test_one_by_a_stranger(
        self, wanting: TlsServer, authority: Authority, stranger: Authority
    ) -> None:
        mine = stranger.issue("sweeper")
        assert_refused(
            wanting,
            "--ca-file",
            str(authority.file),
            CLEANUP_JOB_CERT_FILE=str(mine.cert),
            CLEANUP_JOB_KEY_FILE=str(mine.key),
            says=f"does not accept the certificate in '{mine.cert}' (",
        )


@pytest.fixture(scope="module")
def _secure_cluster(authority: Authority) -> Iterator[ServerCluster]:
    require(DEBIAN)
    pair = authority.issue("cluster.example")
    options = tls_options(authority, pair, tls_cluster="yes", tls_replication="yes")
    cluster = ServerCluster(DEBIAN, kind=TlsServer, config=options)
    try:
        for node in cluster.nodes:
            with node.client() as client:
                add_user(client)
        yield cluster
    finally:
        cluster.remove()


class TestTlsCluster:
    @pytest.fixture
    def secure_cluster(self, _secure_cluster: ServerCluster) -> ServerCluster:
        fill(_secure_cluster)
        return _secure_cluster

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_a_sweep_with_tls_and_a_login(
        self, secure_cluster: ServerCluster, authority: Authority, tmp_path: Path, workers: str
    ) -> None:
        """As configs/cluster.yaml has it."""
        (tmp_path / "password").write_text(f"{HUSH}\n")
        (tmp_path / "my.yaml").write_text(
            "redis:\n"
            f"  url: rediss://sweeper@{secure_cluster.nodes[1].address}\n"
            f"  password_file: {tmp_path / 'password'}\n"
            f"  tls: {{ca_file: {authority.file}, server_name: cluster.example}}\n"
            f"workers: {workers}\n"
        )
        assert call("", "-c", str(tmp_path / "my.yaml")) == (0, "")
        assert cluster_keys(secure_cluster) == set(all_keys("live"))

    def test_the_nodes_are_verified_too(
        self, secure_cluster: ServerCluster, authority: Authority
    ) -> None:
        code, err = call(secure_cluster.url, "--ca-file", str(authority.file))
        assert code == REFUSED
        assert "is for another name than '127.0.0.1'" in err
        assert cluster_keys(secure_cluster) == {*all_keys("live"), *all_keys("dead")}


# -- logins and sockets ------------------------------------------------------------------------


class TestLogin:
    """On TLS, where a password belongs."""

    @pytest.mark.parametrize(
        ("login", "env"),
        [
            (f"sweeper:{HUSH}@", {}),
            ("sweeper@", {"REDIS_PASSWORD": HUSH}),
            (f"sweeper:{HUSH}@", {"REDIS_PASSWORD": "not that"}),
        ],
    )
    def test_a_user(
        self, secure: TlsServer, authority: Authority, login: str, env: dict[str, str]
    ) -> None:
        url = secure.url.replace("//", f"//{login}")
        assert_swept(secure, url, "--ca-file", str(authority.file), **env)

    def test_a_password_file(self, secure: TlsServer, authority: Authority, tmp_path: Path) -> None:
        path = tmp_path / "password"
        path.write_text(f"{HUSH}\n")
        url = secure.url.replace("//", "//sweeper@")
        words = ("--ca-file", str(authority.file))
        code, err = call(
            url, *words, REDIS_PASSWORD="not that", CLEANUP_JOB_PASSWORD_FILE=str(path)
        )
        assert code == REFUSED
        assert "did not accept the login" in err
        assert_swept(secure, url, *words, CLEANUP_JOB_PASSWORD_FILE=str(path))

    def test_a_wrong_password(self, secure: TlsServer, authority: Authority) -> None:
        url = secure.url.replace("//", f"//sweeper:x{HUSH}@")
        code, err = call(url, "--ca-file", str(authority.file))
        assert code == REFUSED
        assert f"{secure.address} did not accept the login" in err
        with secure.client() as client:
            assert_nothing_deleted(client)


def test_a_socket(server: ServerProcess, client: redis.Redis) -> None:
    prepare(client)
    add_user(client)
    try:
        assert_swept(server, f"unix://sweeper:{HUSH}@{server.socket}?db=0")
    finally:
        client.execute_command("ACL", "DELUSER", "sweeper")


# -- Sentinels ---------------------------------------------------------------------------------


class Sentinels:
    """A primary, its replica, and a Sentinel with a password that watches them."""

    def __init__(self, name: str) -> None:
        self.stack = contextlib.ExitStack()
        with self.stack as stack:
            self.primary = stack.enter_context(running(name, repl_diskless_sync_delay="0"))
            self.replica = stack.enter_context(running(name, repl_diskless_sync_delay="0"))
            self.sentinel = SentinelProcess(name, {"requirepass": HUSH})
            stack.callback(self.sentinel.remove)
            with self.replica.client() as client:
                client.replicaof("127.0.0.1", self.primary.port)
            self.await_sync()
            self.sentinel.monitor("service", self.primary.port, failover_timeout=3000)
            self.stack = stack.pop_all()

    def await_sync(self) -> None:
        """Wait until the replica has all that the primary has."""
        with self.replica.client() as client:
            await_that(lambda: client.info("replication")["master_link_status"] == "up")
        with self.primary.client() as client:
            client.set("other", "1")
            assert client.wait(1, 10_000) == 1
            client.delete("other")

    def url(self, service: str = "service", *before: str) -> str:
        return f"redis+sentinel://{','.join([*before, self.sentinel.address])}/{service}/0"


@pytest.fixture(scope="module", params=["valkey-9.1", DEBIAN])
def _sentinels(request: pytest.FixtureRequest) -> Iterator[Sentinels]:
    require(request.param)
    sentinels = Sentinels(request.param)
    with sentinels.stack:
        yield sentinels


KNOWN = {"CLEANUP_JOB_SENTINEL_PASSWORD": HUSH}


class TestSentinel:
    @pytest.fixture
    def sentinels(self, _sentinels: Sentinels) -> Sentinels:
        with _sentinels.primary.client() as client:
            prepare(client)
        return _sentinels

    def assert_refused(self, sentinels: Sentinels, url: str, says: str, **env: str) -> None:
        code, err = call(url, **env)
        assert code == REFUSED, err
        assert says in err
        with sentinels.primary.client() as client:
            assert_nothing_deleted(client)

    def test_a_sweep(self, sentinels: Sentinels) -> None:
        assert_swept(sentinels.primary, sentinels.url(), **KNOWN)

    def test_the_password_in_a_file(self, sentinels: Sentinels, tmp_path: Path) -> None:
        (tmp_path / "password").write_text(HUSH)
        env = {"CLEANUP_JOB_SENTINEL_PASSWORD_FILE": str(tmp_path / "password")}
        assert_swept(sentinels.primary, sentinels.url(), **env)

    @pytest.mark.parametrize("password", ["wrong", ""])
    def test_a_wrong_password(self, sentinels: Sentinels, password: str) -> None:
        env = {"CLEANUP_JOB_SENTINEL_PASSWORD": password} if password else {}
        says = (
            f"the Sentinel {sentinels.sentinel.address} did not accept the login; set "
            "CLEANUP_JOB_SENTINEL_PASSWORD, or redis.sentinel_password_file\n"
        )
        self.assert_refused(sentinels, sentinels.url(), says, **env)

    def test_a_service_that_it_does_not_know(self, sentinels: Sentinels) -> None:
        says = (
            f"the Sentinel {sentinels.sentinel.address} knows no service 'other'; "
            "it knows: service\n"
        )
        self.assert_refused(sentinels, sentinels.url("other"), says, **KNOWN)

    def test_the_first_is_gone_and_the_second_knows_nothing(self, sentinels: Sentinels) -> None:
        ignorant = SentinelProcess(sentinels.primary.name, {"requirepass": HUSH})
        try:
            with socket.socket() as nobody:
                nobody.bind(("127.0.0.1", 0))
                gone = f"127.0.0.1:{nobody.getsockname()[1]}"
                url = sentinels.url("service", gone, ignorant.address)
                assert_swept(sentinels.primary, url, **KNOWN)
        finally:
            ignorant.remove()

    def test_none_can_be_reached(self) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{nobody.getsockname()[1]}"
            code, err = call(f"redis+sentinel://{address},{address}/service")
        assert code == UNAVAILABLE
        assert f"no Sentinel can be reached (cannot reach {address}: " in err

    def test_its_own_address_as_a_server(self, sentinels: Sentinels) -> None:
        address = sentinels.sentinel.address
        says = (
            f"{address} is a Sentinel; write redis+sentinel://{address}/SERVICE; "
            "it knows: service\n"
        )
        self.assert_refused(sentinels, f"redis://{address}/0", says, REDIS_PASSWORD=HUSH)
        says = f"if it is a Sentinel, write redis+sentinel://{address}/SERVICE/1\n"
        self.assert_refused(sentinels, f"redis://{address}/1", says, REDIS_PASSWORD=HUSH)

    def test_a_server_as_a_sentinel(self, sentinels: Sentinels) -> None:
        address = sentinels.primary.address
        says = f"{address} is no Sentinel; for a server or a cluster write redis://{address}\n"
        self.assert_refused(sentinels, f"redis+sentinel://{address}/service", says)

    def test_an_address_that_cannot_be_reached(self, sentinels: Sentinels, tmp_path: Path) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            port = nobody.getsockname()[1]
            sentinels.sentinel.monitor("far", port)
            code, err = call(sentinels.url("far"), **KNOWN)
            assert code == UNAVAILABLE
            assert f"cannot reach 127.0.0.1:{port}: " in err
            assert "set redis.address_map\n" in err
            path = tmp_path / "my.yaml"
            path.write_text(
                f'redis: {{address_map: {{"127.0.0.1:{port}": "{sentinels.primary.address}"}}}}\n'
            )
            assert_swept(sentinels.primary, sentinels.url("far"), "-c", str(path), **KNOWN)

    def test_what_it_calls_the_primary_is_none(self, sentinels: Sentinels) -> None:
        """As in the middle of a failover."""
        sentinels.sentinel.monitor("demoted", sentinels.replica.port)
        code, err = call(sentinels.url("demoted"), **KNOWN)
        assert code == UNAVAILABLE
        assert f"call {sentinels.replica.address} the primary of 'demoted', but it is a re" in err
        with sentinels.primary.client() as client:
            assert_nothing_deleted(client)


@pytest.mark.parametrize("name", ["valkey-9.1", DEBIAN])
def test_after_a_failover_the_new_primary_is_swept(name: str) -> None:
    require(name)
    sentinels = Sentinels(name)
    with sentinels.stack:
        with sentinels.primary.client() as client:
            prepare(client)
            assert client.wait(1, 10_000) == 1
        with sentinels.sentinel.client() as client:
            # The Sentinel must know the replica before it can promote it.
            await_that(lambda: len(client.sentinel_slaves("service")) == 1)
        sentinels.primary.stop()
        code, err = call(sentinels.url(), **KNOWN)
        assert code == UNAVAILABLE, err
        assert "set redis.address_map\n" in err
        with sentinels.sentinel.client() as client:
            client.sentinel_set("service", "down-after-milliseconds", 500)
        await_that(lambda: sentinels.sentinel.primary_port("service") == sentinels.replica.port)
        with sentinels.replica.client() as client:
            await_that(lambda: client.info("replication")["role"] == "master")
        assert_swept(sentinels.replica, sentinels.url(), **KNOWN)


def test_a_sentinel_that_speaks_tls(secure: TlsServer, authority: Authority) -> None:
    options = tls_options(authority, authority.issue(), tls_replication="yes")
    sentinel = TlsSentinel(DEBIAN, options)
    words = ("--ca-file", str(authority.file))
    try:
        sentinel.monitor("service", secure.port)
        url = f"rediss+sentinel://{sentinel.address}/service"
        code, err = call(url.replace("rediss", "redis"))
        assert code == REFUSED
        assert f"{sentinel.address} speaks TLS; write the URL with rediss in place of" in err
        assert_swept(secure, url, *words)
    finally:
        sentinel.remove()


# -- clusters ----------------------------------------------------------------------------------

COUNT = 200


def all_keys(name: str) -> Iterator[bytes]:
    for number in range(COUNT):
        yield heartbeat_key(f"{name}-{number}")
        yield from owned_keys(f"{name}-{number}")


def fill(cluster: ServerCluster) -> None:
    """Dead and live coordinators on all nodes, and no other keys."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for node in cluster.primaries]
        now_s = int(clients[0].time()[0])
        for client in clients:
            client.flushall()
        for name, age_s in (("dead", 700), ("live", 1)):
            value = f'{{"timestamp": {(now_s - age_s) * 1000}}}'
            for key in all_keys(name):
                put(clients, key, value if b":heartbeat:" in key else "1")


def put(clients: list[redis.Redis], key: bytes, value: str) -> None:
    """To the node that has the key, without a client that would have to know all addresses."""
    slot = slot_of(key)
    number = next(i for i in range(len(clients)) if slot in slots_of(i, len(clients)))
    clients[number].set(key, value)


def cluster_keys(cluster: ServerCluster) -> set[bytes]:
    found: set[bytes] = set()
    for node in cluster.primaries:
        with node.client() as client:
            found |= keys_of(client)
    return found


def test_another_database_of_a_cluster(cluster: ServerCluster, cluster_client: Any) -> None:
    fill(cluster)
    node = cluster.nodes[0]
    code, err = call(f"redis://{node.address}/1")
    assert code == REFUSED
    assert (
        f"{node.address} is a node of a cluster, which is swept in database 0 only; write the "
        "URL without the database 1\n"
    ) in err or f"{node.address} has no database 1 (" in err
    assert cluster_keys(cluster) == {*all_keys("dead"), *all_keys("live")}


@pytest.mark.default_server
def test_a_cluster_with_more_databases() -> None:
    """Valkey 9 can have them. They are not swept by mistake."""
    with running(cluster_enabled="yes", cluster_databases="2") as server:
        code, err = call(f"redis://{server.address}/1")
    assert code == REFUSED
    assert "a node of a cluster, which is swept in database 0 only" in err


@pytest.fixture(scope="module")
def far() -> Iterator[ServerCluster]:
    """A cluster that can announce ports where nobody listens."""
    cluster = ServerCluster("valkey-9.1", config={"cluster-require-full-coverage": "no"})
    try:
        yield cluster
    finally:
        cluster.remove()


class TestAddresses:
    @pytest.fixture(autouse=True)
    def _filled(self, far: ServerCluster) -> None:
        fill(far)

    def announce(self, far: ServerCluster, *nodes: ServerProcess) -> dict[str, str]:
        """Let these nodes announce other addresses; returns the map from those to their own."""
        mapped = {}
        for node in far.nodes:
            port = node.port if node not in nodes else free_of_servers(node)
            mapped[f"127.0.0.1:{port}"] = node.address
            with node.client() as client:
                client.config_set("cluster-announce-bus-port", node.port + 10_000)
                client.config_set("cluster-announce-port", port)
        expected = {int(address.rpartition(":")[2]) for address in mapped}
        for node in far.nodes:
            with node.client() as client:
                await_that(lambda client=client: announced_ports(client) == expected)  # type: ignore[misc]
        return mapped

    def test_none_can_be_reached_without_the_map(self, far: ServerCluster, tmp_path: Path) -> None:
        mapped = self.announce(far, *far.nodes)
        code, err = call(far.url)
        assert code == UNAVAILABLE
        assert f"no primary of the cluster at {far.nodes[0].address} can be used (" in err
        assert "set redis.address_map\n" in err
        assert cluster_keys(far) == {*all_keys("dead"), *all_keys("live")}
        path = tmp_path / "my.yaml"
        lines = "".join(f'    "{one}": "{other}"\n' for one, other in mapped.items())
        path.write_text(f"redis:\n  address_map:\n{lines}")
        assert call(far.url, "-c", str(path), "--workers", "2") == (0, "")
        assert cluster_keys(far) == set(all_keys("live"))

    def test_one_cannot_be_reached(self, far: ServerCluster) -> None:
        self.announce(far, far.nodes[2])
        code, err = call(far.url)
        assert code == 4
        assert "slots of the cluster are served by no primary that can be reached (" in err
        assert "set redis.address_map); nothing was deleted; --allow-partial sweeps the" in err
        assert cluster_keys(far) == {*all_keys("dead"), *all_keys("live")}

    def test_one_is_gone(self, far: ServerCluster) -> None:
        """The last of this class, since it takes a node away."""
        self.announce(far)
        gone = far.nodes[2]
        with gone.client() as client:
            lost = keys_of(client)
        gone.stop()
        far.primaries = far.nodes[:2]
        before = cluster_keys(far)
        code, err = call(far.url)
        assert code == 4
        assert f"cannot reach {gone.address}: " in err
        assert cluster_keys(far) == before

        done = subprocess.run(
            [sys.executable, "-m", "cleanup_job", "run", "--allow-partial", "--json", "-"],
            capture_output=True,
            timeout=60,
            env={**os.environ, "REDIS_URL": far.url},
        )
        assert (done.returncode, done.stderr) == (3, b"")
        report = json.loads(done.stdout)
        assert report["status"] == "partial"
        assert "uncovered" in [warning["code"] for warning in report["warnings"]]
        after = cluster_keys(far)
        assert after >= set(all_keys("live")) - lost
        dead = {heartbeat_key(f"dead-{number}") for number in range(COUNT)}
        assert after & dead == before & dead, "a heartbeat went before all keys that it guards"
        # Owned keys are free to go where their coordinator's heartbeat could be seen.
        gone_keys = before - after
        assert gone_keys
        assert gone_keys <= set(all_keys("dead"))


def free_of_servers(node: ServerProcess) -> int:
    """A port of its own for each node, below those that servers or systems give away."""
    return 2_000 + node.port % 7_000


def announced_ports(client: redis.Redis) -> set[int]:
    return {int(primary[1]) for _, _, primary, *_ in slots(client)}


def slots(client: redis.Redis) -> list[Any]:
    with client.client() as connection:
        connection.connection.send_command("CLUSTER", "SLOTS")
        return list(connection.connection.read_response())


def test_the_address_of_a_replica_of_a_cluster_will_do() -> None:
    options = {"repl-diskless-sync-delay": "0"}
    cluster = ServerCluster("valkey-9.1", primaries=1, replicas=1, config=options)
    try:
        fill(cluster)
        assert call(cluster.nodes[1].url) == (0, "")
        assert cluster_keys(cluster) == set(all_keys("live"))
        for node in cluster.nodes:
            node.stop()
        code, err = call(cluster.nodes[1].url)
    finally:
        cluster.remove()
    assert code == UNAVAILABLE
    assert f"cannot reach {cluster.nodes[1].address}: " in err
