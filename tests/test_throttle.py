"""When to pause and how long to rest: decided without a server, and without a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.throttle import (
    CALM_LOOKS,
    FIRST_PAUSE_S,
    LATENCY_SHARE,
    LEAST_SHARE,
    LISTEN_EVERY_S,
    LISTEN_S,
    LISTENING,
    LOOK_EVERY_S,
    MOST_PAUSE_S,
    MOST_WORK_S,
    PORTION_S,
    SETTLE_S,
    SHARE_STEP_S,
    SILENCE_PATIENCE_S,
    UNLIMITED,
    Allowance,
    Backoff,
    Bounds,
    Ledger,
    Listener,
    Reading,
    Reason,
    Replica,
    Tempo,
    Throttle,
    portion,
    read,
    troubles,
)

HERE = "127.0.0.1:6379"

INFO = """\
# Memory\r
used_memory:1048576\r
used_memory_human:1.00M\r
# Clients\r
blocked_clients:3\r
# Replication\r
role:master\r
connected_slaves:2\r
slave0:ip=127.0.0.1,port=7001,state=online,offset=900,lag=4,type=replica\r
slave1:ip=::1,port=7002,state=wait_bgsave,offset=0,lag=0\r
slaves_waiting_psync:0\r
master_repl_offset:1000\r
"""


def test_info_is_read() -> None:
    assert read(INFO) == Reading(
        1_048_576,
        3,
        (
            Replica("127.0.0.1:7001", "online", 100, 4),
            Replica("::1:7002", "wait_bgsave", 1_000, 0),
        ),
    )
    assert read("") == Reading()


def codes(limits: Bounds, info: str = INFO) -> list[str]:
    return [reason.code for reason in troubles(limits, HERE, read(info))]


@pytest.mark.parametrize(
    ("kept", "broken", "code"),
    [
        (Bounds(max_used_memory=1_048_576), Bounds(max_used_memory=1_048_575), "max_used_memory"),
        (Bounds(max_blocked_clients=3), Bounds(max_blocked_clients=2), "max_blocked_clients"),
    ],
)
def test_a_limit_is_kept_until_it_is_exceeded(kept: Bounds, broken: Bounds, code: str) -> None:
    assert codes(kept) == []
    assert codes(broken) == [code]


@pytest.mark.parametrize(
    ("limits", "most", "code"),
    [
        (Bounds(max_replica_lag_bytes=100), 100, "max_replica_lag_bytes"),
        (Bounds(max_replica_lag_s=4), 4, "max_replica_lag"),
    ],
)
def test_a_replica_that_is_not_online_counts_as_behind(
    limits: Bounds, most: int, code: str
) -> None:
    online = INFO.replace("wait_bgsave,offset=0", "online,offset=1000")
    assert codes(limits, online) == []
    found = list(troubles(limits, HERE, read(INFO)))
    assert [reason.code for reason in found] == [code]
    assert found[0].message == f"{code}: replica ::1:7002 is not online (wait_bgsave)"
    behind = online.replace("offset=900", "offset=899").replace("lag=4", "lag=5")
    assert codes(limits, behind) == [code]
    assert most


def test_only_what_is_limited_is_asked_for() -> None:
    assert not Bounds().any
    assert not Bounds().asks_servers
    assert not Bounds(nice=1, max_keys_per_second=1, pause_file="x").asks_servers
    assert Bounds(nice=1).any
    assert Bounds(max_blocked_clients=0).sections == ("clients",)
    assert Bounds(max_used_memory=1, max_replica_lag_s=1).sections == ("memory", "replication")
    assert Bounds(max_latency_ms=1).asks_servers


def test_commands_are_as_small_as_the_latency_asks_for() -> None:
    assert Bounds().block_ms(2, 2) == 2
    assert Bounds(max_latency_ms=4).block_ms(2, 1) == 4 / LATENCY_SHARE
    assert Bounds(max_latency_ms=4).block_ms(2, 2) == 4 / LATENCY_SHARE / 2
    assert Bounds(max_latency_ms=100).block_ms(2, 2) == 2


# -- latency ---------------------------------------------------------------------------------


def test_latency_pauses_at_once_and_recovers_slowly() -> None:
    backoff = Backoff(1.0)
    backoff.saw(0.0, 1.0)
    assert (backoff.pauses(0.0), backoff.share) == (False, 1.0)
    backoff.saw(0.01, 1.1)
    assert (backoff.pauses(0.01), backoff.share) == (True, 0.5)
    assert not backoff.pauses(0.01 + FIRST_PAUSE_S)
    backoff.saw(0.02 + FIRST_PAUSE_S, 0.5)
    assert backoff.share == 0.5
    at_s, steps = 0.02 + FIRST_PAUSE_S, 0
    while backoff.share < 1:
        at_s += SHARE_STEP_S
        steps += 1
        backoff.saw(at_s, 0.5)
    assert steps >= 20


def test_it_stays_paused_while_the_latency_is_too_high() -> None:
    """Its share is halved once, since nothing of ours is at work meanwhile."""
    backoff = Backoff(1.0)
    at_s = 0.0
    while at_s < 5:
        backoff.saw(at_s, 9.0)
        at_s += 0.01
        assert backoff.pauses(at_s)
    assert backoff.share == 0.5
    assert backoff.pauses(at_s + MOST_PAUSE_S - 0.1)
    assert not backoff.pauses(at_s + MOST_PAUSE_S)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300))
def test_a_share_is_always_left(latencies_ms: list[float]) -> None:
    backoff = Backoff(1.0)
    for number, latency_ms in enumerate(latencies_ms):
        backoff.saw(number * 0.1, latency_ms)
        assert LEAST_SHARE <= backoff.share <= 1
        assert backoff.pauses(number * 0.1) or latency_ms <= 1


# -- what others send ------------------------------------------------------------------------


def listen(listener: Listener, at_s: float, before: int, after: int) -> float:
    """Until the second count, at the end of a window in which so many commands came."""
    assert not listener.wants_count(at_s, quiet=False)
    assert not listener.wants_count(at_s, quiet=True)
    at_s += SETTLE_S
    assert listener.wants_count(at_s, quiet=True)
    listener.take(at_s, {HERE: before})
    assert not listener.wants_count(at_s, quiet=True)
    at_s += LISTEN_S + 1e-9
    assert listener.wants_count(at_s, quiet=True)
    listener.take(at_s, {HERE: after})
    return at_s


def test_it_listens_once_a_second() -> None:
    listener = Listener(1_000)
    assert listener.wants_silence(0.0)
    at_s = listen(listener, 0.0, 500, 500 + int(1_000 * LISTEN_S))
    assert listener.loud is None
    assert not listener.wants_silence(at_s)
    assert listener.wants_silence(at_s + LISTEN_EVERY_S)


def test_it_waits_while_others_are_loud() -> None:
    listener = Listener(1_000)
    at_s = listen(listener, 0.0, 0, 100)
    assert listener.loud is not None
    assert listener.loud.message == (
        f"max_foreground_ops: others send 2,000 commands/s to {HERE} (limit 1,000)"
    )
    assert listener.wants_silence(at_s)
    at_s += LOOK_EVERY_S
    assert listener.wants_count(at_s, quiet=True)
    listener.take(at_s, {HERE: 200})
    assert listener.loud is None


def test_a_window_in_which_we_were_at_work_does_not_count() -> None:
    listener = Listener(1_000)
    listener.wants_count(0.0, quiet=True)
    assert listener.wants_count(SETTLE_S, quiet=True)
    listener.take(SETTLE_S, {HERE: 0})
    assert not listener.wants_count(SETTLE_S + 0.01, quiet=False)
    listen(listener, 1.0, 1_000_000, 1_000_000)
    assert listener.loud is None


def test_low_limits_take_longer_to_hear() -> None:
    listener = Listener(20)
    listener.wants_count(0.0, quiet=True)
    listener.take(SETTLE_S, {HERE: 0})
    assert not listener.wants_count(0.5, quiet=True)
    assert listener.wants_count(SETTLE_S + 0.5 + 1e-9, quiet=True)


def test_a_server_that_restarted_has_counted_nothing() -> None:
    listener = Listener(1_000)
    listen(listener, 0.0, 1_000_000, 5)
    assert listener.loud is None


# -- the whole run ---------------------------------------------------------------------------


def test_a_pause_ends_when_it_was_calm_for_a_while() -> None:
    throttle = Throttle(Bounds(max_blocked_clients=0))
    good, bad = {HERE: Reading()}, {HERE: Reading(blocked_clients=1)}

    def paused() -> bool:
        return throttle.decide(0.0, is_file_there=False).paused

    assert not paused()
    throttle.saw_info({**bad, "other": Reading()})
    assert paused()
    for _ in range(CALM_LOOKS - 1):
        throttle.saw_info(good)
        assert paused()
    throttle.saw_info(good)
    assert not paused()


def test_reasons_are_named_and_counted() -> None:
    throttle = Throttle(Bounds(pause_file="/p", max_latency_ms=1.0))
    throttle.saw_latencies(0.0, {HERE: 0.5, "other": 3.25})
    allowed = throttle.decide(0.0, is_file_there=False)
    assert (allowed.paused, allowed.share) == (True, 0.5)
    assert throttle.reason == Reason(
        "max_latency_ms", "max_latency_ms: other takes 3.2 ms (limit 1, gives way from 0.7)"
    )
    throttle.decide(0.02, is_file_there=True)
    assert throttle.reason == Reason("pause_file", "pause_file: /p is there")
    throttle.decide(0.08, is_file_there=False)
    assert throttle.reason is None
    throttle.decide(1.08, is_file_there=False)
    entries = throttle.ledger.entries
    assert [(code, entry.pauses) for code, entry in entries.items()] == [
        ("max_latency_ms", 1),
        ("pause_file", 1),
    ]
    assert entries["pause_file"].seconds == pytest.approx(0.06)
    # A pause of 0.02 s, and half of a second at rest.
    assert entries["max_latency_ms"].seconds == pytest.approx(0.52)


def test_no_time_counts_between_two_phases() -> None:
    ledger = Ledger()
    ledger.account(0.0, Reason("a", "a: b"), {})
    ledger.interrupt()
    ledger.account(9.0, None, {"nice": 0.5})
    ledger.account(10.0, None, {})
    assert {code: entry.seconds for code, entry in ledger.entries.items()} == {"a": 0, "nice": 0.5}


def test_silence_holds_the_run_up_for_a_while_only() -> None:
    throttle = Throttle(Bounds(max_used_memory=1))

    def paused(at_s: float, *silent: str) -> bool:
        throttle.saw_silence(at_s, silent)
        return throttle.decide(at_s, is_file_there=False).paused

    assert paused(0.0, "a")
    assert paused(SILENCE_PATIENCE_S - 0.1, "a", "b")
    assert paused(SILENCE_PATIENCE_S, "a", "b")
    assert not paused(2 * SILENCE_PATIENCE_S, "a", "b")
    assert not paused(2 * SILENCE_PATIENCE_S, "b")
    assert paused(2 * SILENCE_PATIENCE_S, "a")


def test_listening_is_a_pause_too() -> None:
    throttle = Throttle(Bounds(max_foreground_ops=1))
    assert throttle.decide(0.0, is_file_there=False).paused
    assert throttle.reason is not None
    assert throttle.reason.code == LISTENING


def test_nice_and_latency_share_one_rest() -> None:
    """Whoever asks for more of it."""
    throttle = Throttle(Bounds(nice=3.0, max_latency_ms=1.0), workers=2)
    assert throttle.decide(0.0, is_file_there=False).share == 0.25
    for at_s in (1.0, 2.0, 3.0):
        throttle.saw_latencies(at_s, {HERE: 5.0})
    assert throttle.decide(3.0, is_file_there=False).share == 0.125
    assert Throttle(Bounds(max_keys_per_second=100), 4).decide(
        0.0, is_file_there=False
    ) == Allowance(keys_per_s=25.0)


# -- a worker --------------------------------------------------------------------------------


@given(st.lists(st.floats(0.0001, 0.05), min_size=5, max_size=200), st.sampled_from([0.1, 0.5]))
def test_a_worker_works_its_share(works_s: list[float], share: float) -> None:
    allowed = Allowance(share=share)
    tempo = Tempo(0.0)
    at_s = worked_s = rested_s = 0.0
    for work_s in works_s:
        at_s += work_s
        worked_s += work_s
        while (due_s := tempo.rest_s(at_s, allowed)) > 0:
            assert due_s >= PORTION_S
            at_s += due_s
            rested_s += due_s
            tempo.rested(at_s, allowed)
    wanted_s = worked_s * (1 / share - 1)
    assert wanted_s - PORTION_S <= rested_s <= wanted_s + 1e-9
    assert tempo.waited_s == 0


@given(st.lists(st.integers(1, 500), min_size=1, max_size=200))
def test_a_worker_deletes_its_keys_per_second(batches: list[int]) -> None:
    allowed = Allowance(keys_per_s=1_000)
    tempo = Tempo(0.0)
    at_s = 0.0
    for keys in batches:
        while (due_s := tempo.rest_s(at_s, allowed)) > 0:
            at_s += due_s
            tempo.rested(at_s, allowed)
        tempo.takes(at_s, keys, allowed)
        at_s += 0.001
    # Up to the start of the last batch, and up to the burst.
    assert at_s >= sum(batches[:-1]) / 1_000 - 0.05
    assert tempo.waited_s <= at_s


def test_a_pause_pays_the_debt_and_waits_for_nothing() -> None:
    allowed = Allowance(share=0.5, keys_per_s=1)
    tempo = Tempo(0.0)
    tempo.takes(0.0, 1, allowed)
    assert tempo.rest_s(0.5, allowed) > 0
    tempo.rested(2.0, allowed._replace(paused=True))
    assert tempo.rest_s(2.0, allowed) == 0
    assert tempo.waited_s == 0


def test_a_server_that_was_held_up_is_no_work_and_a_share_that_recovers_forgives() -> None:
    tempo = Tempo(0.0)
    assert tempo.rest_s(60.0, Allowance(share=0.1)) == pytest.approx(MOST_WORK_S * 9)
    assert tempo.rest_s(60.0, Allowance(share=1.0)) == 0


def test_the_time_between_two_tasks_is_no_work() -> None:
    tempo = Tempo(0.0)
    tempo.begin(100.0)
    assert tempo.rest_s(100.0, Allowance(share=0.1)) == 0


def test_low_rates_have_small_batches() -> None:
    assert portion(500, UNLIMITED, 10) == 500
    assert portion(500, Allowance(keys_per_s=1_000), 10) == 200
    assert portion(500, Allowance(keys_per_s=1), 10) == 10
    assert portion(5, Allowance(keys_per_s=1), 10) == 5
