"""The proxy itself: a fault suite whose faults do not happen shows nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults.proxy import Link, Moment, Proxies, When, _reply_end, _request
from tests.faults.stage import Stages

REPLIES = [
    b"+OK\r\n", b":7\r\n", b"-ERR no\r\n", b"$-1\r\n", b"*-1\r\n", b"$0\r\n\r\n", b"*0\r\n",
    b"$4\r\na\r\nb\r\n", b"*2\r\n$1\r\n0\r\n*3\r\n$1\r\na\r\n:1\r\n*1\r\n$-1\r\n",
]  # fmt: skip


@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_ends_where_it_ends(reply: bytes) -> None:
    for end in range(len(reply)):
        assert _reply_end(bytearray(reply[:end]), 0) is None
    assert _reply_end(bytearray(b"+x\r\n" + reply + reply), 4) == 4 + len(reply)


def test_requests_are_told_apart() -> None:
    both = bytearray(b"*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n*1\r\n$4\r\nPING\r\n")
    assert _request(both, 0) == ([b"GET", b"\r\n"], 21)
    assert _request(both, 21) == ([b"PING"], len(both))
    assert _request(both[:20], 0) is None


@pytest.fixture
def proxies(fault_stages: Stages) -> Iterator[Proxies]:
    stage = fault_stages["standalone"]
    stage.reset()
    stage.clients[0].set("x", "1" * 100)
    yield stage.proxies
    stage.proxies.settle()


def get(proxies: Proxies, n: int, *, timeout_s: float = 5) -> bytes:
    """All that comes back for so many GETs, sent at once."""
    with socket.create_connection(("127.0.0.1", proxies.ports[0])) as connection:
        connection.settimeout(timeout_s)
        connection.sendall(b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n" * n)
        got = b""
        while len(got) < n * 108 and (more := connection.recv(1 << 16)):
            got += more
    return got


def picks(proxies: Proxies, n: int, when: When, share: float = 0) -> Moment:
    moment = Moment(lambda request: request.command == "GET", n, when, Link.reset, share)
    proxies.begin(moment)
    return moment


@pytest.mark.parametrize("when", ["before", "sent", "reply"])
def test_a_reset_ends_the_connection(proxies: Proxies, when: When) -> None:
    moment = picks(proxies, 2, when)
    with pytest.raises(ConnectionResetError):
        get(proxies, 3)
    assert moment.struck


def test_a_reply_is_cut_at_its_byte(proxies: Proxies) -> None:
    proxies.begin(
        Moment(lambda request: request.command == "GET", 2, "reply", Link.close, share=0.5)
    )
    assert len(get(proxies, 3)) == 108 + 54


def test_nothing_comes_back_from_a_half_open_connection(proxies: Proxies) -> None:
    proxies.begin(Moment(lambda request: request.command == "GET", 1, "before", Link.swallow))
    with pytest.raises(TimeoutError):
        get(proxies, 1, timeout_s=0.2)


def test_what_no_fault_concerns_passes_as_it_is(proxies: Proxies) -> None:
    proxies.begin()
    assert get(proxies, 50) == b"$100\r\n" + b"1" * 100 + b"\r\n" + get(proxies, 49)
    client = redis.Redis(port=proxies.ports[0], retry=Retry(NoBackoff(), 0), protocol=2)
    assert client.get("x") == b"1" * 100
    client.close()
