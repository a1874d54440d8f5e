"""Data that no writer should have written: judged by the promises, or kept and reported."""

from __future__ import annotations

import redis

from tests.keys import (
    STALE_MS,
    assert_adds_up,
    heartbeat_key,
    keys_of,
    now_ms,
    owned_keys,
    sweep,
    write_coordinator,
    write_owned,
)
from tests.servers import ServerProcess

ODD_IDS = [
    b"with space",
    b"new\nline",
    b"carriage\r\nreturn",
    b"quote'\"",
    b"*?[]\\{}",
    b"[a-z]*",
    b"{id}",
    b"nul\x00byte",
    b"\xff\xfe\xc3\x28",
    b"x" * 10_000,
    b":",
    b"a:",
    b":a",
    b"a::b",
    b"error",
    b"heartbeat",
    b"-",
    "ünï💥".encode(),
]


def test_any_id_is_swept_with_what_is_its_own(server: ServerProcess, client: redis.Redis) -> None:
    for name in ODD_IDS:
        client.flushall()
        write_coordinator(client, name, STALE_MS)
        report = sweep(server)
        assert client.dbsize() == 0, name
        assert report.keys.deleted == 6


def test_any_live_id_keeps_what_is_its_own(server: ServerProcess, client: redis.Redis) -> None:
    for name in ODD_IDS:
        write_coordinator(client, name, 1000)
    before = keys_of(client)
    report = sweep(server)
    assert keys_of(client) == before
    assert report.coordinators.live == len(ODD_IDS)


def test_prefixes_and_segments_of_dead_ids_live_on(
    server: ServerProcess, client: redis.Redis
) -> None:
    dead = ["test-swarm-1000", "err", "ab", "7"]
    live = ["test-swarm-10000", "test-swarm-100", "error", "a", "b", "77"]
    for name in dead:
        write_coordinator(client, name, STALE_MS)
    for name in live:
        write_coordinator(client, name, 1000)
    sweep(server)
    assert keys_of(client) == {
        key for name in live for key in (heartbeat_key(name), *owned_keys(name))
    }


def test_unreadable_heartbeats_keep_their_keys_and_are_named(
    server: ServerProcess, client: redis.Redis
) -> None:
    old = now_ms(client) - STALE_MS
    values = {
        "no-json": "?",
        "list": f"[{old}]",
        "null": "null",
        "timeless": "{}",
        "text": f'{{"timestamp":"{old}"}}',
        "bool": '{"timestamp":true}',
        "negative": f'{{"timestamp":-{old}}}',
        "seconds": f'{{"timestamp":{old // 1000}}}',
        "nan": '{"timestamp":NaN}',
        "empty": "",
        "huge-value": "x" * 10_000_000,
        "deep": '{"a":' + "[" * 200_000,
    }
    for name, value in values.items():
        client.set(heartbeat_key(name), value)
        write_owned(client, name)
    client.hset(heartbeat_key("hash"), "timestamp", old)
    client.rpush(heartbeat_key("rpush"), old)
    client.set(heartbeat_key(""), f'{{"timestamp":{old}}}')
    client.set(heartbeat_key("huge-time"), '{"timestamp":9e300}')
    client.set(heartbeat_key("future"), f'{{"timestamp":{old + 10 * STALE_MS}}}')
    before = keys_of(client)

    report = sweep(server)

    assert keys_of(client) == before
    assert report.status == "complete"
    assert report.coordinators.unreadable == len(values) + 3
    assert report.coordinators.future == 2
    assert {warning.code for warning in report.warnings} >= {"unreadable", "future"}
    reasons = {sample.reason for sample in report.samples if sample.verdict == "unreadable"}
    assert reasons
    assert_adds_up(report)


def test_large_stale_heartbeat_is_stale(server: ServerProcess, client: redis.Redis) -> None:
    old = now_ms(client) - STALE_MS
    client.set(heartbeat_key("big"), f'{{"padding":"{"x" * 10_000_000}","timestamp":{old}}}')
    report = sweep(server)
    assert report.keys.deleted == 1


def test_owned_keys_of_any_type_go(server: ServerProcess, client: redis.Redis) -> None:
    write_coordinator(client, "dead", STALE_MS)
    client.delete("blocking:signal:dead", "coordinator:activity:dead")
    client.hset("blocking:signal:dead", "a", "1")
    client.zadd("coordinator:activity:dead", {f"m{number}": number for number in range(1000)})
    report = sweep(server)
    assert client.dbsize() == 0
    assert report.keys.deleted == 6


def test_heartbeats_that_expire_during_the_survey_do_no_harm(
    server: ServerProcess, client: redis.Redis
) -> None:
    value = f'{{"timestamp":{now_ms(client) - STALE_MS}}}'
    for number in range(2_000):
        client.set(heartbeat_key(f"brief-{number}"), value, px=1 + number % 60)
    report = sweep(server)
    assert report.status == "complete"
    assert_adds_up(report)


def test_an_empty_server(server: ServerProcess, client: redis.Redis) -> None:
    report = sweep(server)
    assert report.status == "complete"
    assert report.keys.scanned == report.coordinators.checked == 0
