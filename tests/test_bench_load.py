"""The load test counts right and ends what it started: never how fast."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from bench import figures
from bench.load import plots
from bench.load.burner import shares_of
from bench.load.clients import Work, working
from bench.load.cycles import Cleaning, Cycle, judge, order
from bench.load.foreground import ForegroundError, Traffic
from bench.load.latency import nearest_rank, ratio, summary
from bench.load.phases import Operation, Phase, State, by_phase, by_state, state_at
from bench.load.plan import Plan
from bench.load.result import foreground_p99, result
from bench.load.sampler import Memory, Sample, series
from bench.load.tables import tables
from bench.measure import _family
from bench.rows import report_error
from bench.slowlog import Slowest
from tests.servers import ServerProcess

ROOT = Path(__file__).parent.parent

TINY = ("--coordinators", "200", "--cycles", "1", "--cycle-s", "1", "--clients", "2")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench.load", *words]


def operation(scheduled_s: float, latency_ms: float = 1.0, late_ms: float = 0.0) -> Operation:
    return Operation(round(scheduled_s * 1e9), round(late_ms * 1e6), round(latency_ms * 1e6))


# -- percentiles -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "expected"), [(0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (0.999, 100), (1, 100)]
)
def test_nearest_rank(share: float, expected: int) -> None:
    assert nearest_rank(range(1, 101), share) == expected


@pytest.mark.parametrize("count", [100, 300, 700, 1000, 8000])
def test_nearest_rank_is_not_off_by_one_in_binary(count: int) -> None:
    """0.99 * 700 is 693.0000000000001 or so, and must not become rank 694."""
    assert nearest_rank(range(1, count + 1), 0.99) == count * 99 // 100


def test_nearest_rank_of_one_and_of_none() -> None:
    assert nearest_rank([7], 0.5) == nearest_rank([7], 0.999) == 7
    with pytest.raises(ValueError, match="among 0"):
        nearest_rank([], 0.5)


def test_summary() -> None:
    figures = summary([operation(0, latency_ms=n, late_ms=1) for n in range(1000, 0, -1)])
    assert figures["operations"] == 1000
    told = [figures[name] for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")]
    assert told == [500, 990, 999, 1000]
    assert (figures["late_p99_ms"], figures["round_trip_p99_ms"]) == (1, 989)
    assert figures["curve"][-1] == [1.0, 1000]


def test_a_summary_of_nothing() -> None:
    figures = summary([])
    assert figures["operations"] == 0
    assert figures["p99_ms"] is None
    assert figures["curve"] == []


# -- states ----------------------------------------------------------------------------------

PHASES = [
    Phase(State.ALONE, 1, 2),
    Phase(State.SWEEP, 2, 3, cycle=1),
    Phase(State.ALONE, 4, 5, cycle=1),
]


@pytest.mark.parametrize(
    ("moment_s", "state"),
    [
        (0.5, State.OTHER),
        (1, State.ALONE),
        (1.999, State.ALONE),
        (2, State.SWEEP),
        (3, State.OTHER),
        (4.5, State.ALONE),
        (5, State.OTHER),
    ],
)
def test_what_is_scheduled_in_a_phase_counts_for_it(moment_s: float, state: State) -> None:
    found = by_state(by_phase([operation(moment_s)], PHASES), PHASES)
    assert [name for name, operations in found.items() if operations] == [state]
    assert state_at(moment_s, PHASES) is state


def test_an_operation_that_outlasts_its_phase_counts_where_it_was_due() -> None:
    stalled = operation(2.9, latency_ms=1500)
    found = by_phase([stalled, operation(4.0)], PHASES)
    assert found == [[], [stalled], [operation(4.0)], []]


def test_without_phases_all_is_other() -> None:
    found = by_state(by_phase([operation(1)], []), [])
    assert found[State.OTHER] == [operation(1)]


# -- verdicts --------------------------------------------------------------------------------


def test_a_ratio_with_something_that_is_missing() -> None:
    assert ratio(None, 1) is ratio(1, None) is ratio(1, 0) is None
    assert ratio(3, 2) == 1.5


LIVE = {"blocking:heartbeat:a": "1", "blocking:signal:a": "2"}


@pytest.mark.parametrize(
    ("left", "values", "wrong"),
    [
        (10, [b"1", b"2"], None),
        (11, [b"1", b"2"], "BAD: 11 keys left, not 10"),
        (10, [b"1", b"3"], "BAD: live ones touched"),
        (10, [b"1", None], "BAD: live ones touched"),
    ],
)
def test_judge(left: int, values: list[bytes | None], wrong: str | None) -> None:
    assert judge(left, 10, LIVE, values) == wrong


def test_a_report_must_say_complete_and_all() -> None:
    keys = {"deleted": 8, "planned": 8}
    assert report_error({"status": "complete", "keys": keys}, 8) is None
    assert "says partial, 8" in str(report_error({"status": "partial", "keys": keys}, 8))
    assert "says complete, 8" in str(report_error({"status": "complete", "keys": keys}, 9))


def cycle(number: int, state: State, slowest: list[Slowest], *, good: bool = True) -> Cycle:
    memory = Memory(2_000_000, 8_000_000, 4.0)
    return Cycle(
        number=number,
        state=state,
        cleaning=Cleaning(1.0, 0.5, 0.9, 0.6, None),
        full=memory,
        swept=memory,
        keys_left=440,
        good=good,
        check="as told",
        slowest=slowest,
        arrival_slowest=[Slowest("MSET", 0.3)],
        took_s=1.0,
    )


def made(cycles: list[Cycle], work: Work, samples: list[Sample]) -> dict[str, Any]:
    return {"product": "Valkey", **result(Plan(), cycles, PHASES, work, samples)}


def test_the_result_has_the_shape_that_others_read() -> None:
    cycles = [
        cycle(1, State.SWEEP, [Slowest("EVALSHA", 1.5), Slowest("SCAN", 0.4)]),
        cycle(2, State.PIPE, [Slowest("UNLINK", 9.0)]),
    ]
    operations = [operation(1.5, 1), operation(2.5, 4), operation(4.5, 2)]
    samples = [Sample(2.55, 0.5, Memory(1, 2, 2.0), 440)]
    content = made(cycles, Work(operations, 0.4), samples)
    assert {*content["foreground"]} >= {"alone", "arrivals", "sweep", "pipe", "burner", "burners"}
    sweep = content["foreground"]["sweep"]
    assert [sweep[name] for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")] == [4] * 4
    assert (sweep["operations"], sweep["server_cpu_share"]) == (1, 0.5)
    p99 = foreground_p99(content)
    assert p99 is not None
    assert (p99["p99_without_ms"], p99["p99_during_ms"]) == (2, 4)
    assert p99["p99_pipe_ms"] is None
    # The pipe's commands are not ours.
    assert content["slowest_command"] == {"name": "EVALSHA", "ms": 1.5}
    assert content["foreground"]["pipe"]["p99_ms"] is None
    assert content["cycles"][0]["foreground"]["operations"] == 1
    assert content["foreground_cpu_share"] == pytest.approx(0.1)
    assert json.loads(json.dumps(content)) == content
    text = tables(content)
    assert "20 sweeps of 50,000 dead coordinators" in text
    assert "sweep: EVALSHA 1.50, SCAN 0.40" in text
    assert "good after 2 cycles" in text


def test_a_result_with_nothing_in_it_is_bad_and_can_be_printed() -> None:
    bad = cycle(1, State.SWEEP, [], good=False)
    content = made([bad], Work([], 0.0), [])
    assert not content["good"]
    assert foreground_p99(content) is None
    assert content["slowest_command"] == {"name": None, "ms": None}
    text = tables(content)
    assert "BAD in 1 of 1 cycles" in text


# -- the schedule and the series -------------------------------------------------------------


@pytest.mark.parametrize(("cycles", "pipes"), [(1, 1), (3, 1), (5, 1), (20, 4)])
def test_pipes_are_spread_among_the_sweeps(cycles: int, pipes: int) -> None:
    states = order(Plan(cycles=cycles), with_pipe=True)
    assert (states.count(State.SWEEP), states.count(State.PIPE)) == (cycles, pipes)
    assert states[0] is State.SWEEP
    assert order(Plan(cycles=cycles), with_pipe=False) == [State.SWEEP] * cycles


def test_shares_of_a_burner() -> None:
    assert shares_of(0.75) == [0.75]
    assert shares_of(2.25) == [1, 1, 0.25]
    assert shares_of(1.0) == [1]
    assert shares_of(0.0) == []


def test_a_long_series_is_thinned() -> None:
    samples = [Sample(n, n % 2, Memory(n, n, 1.0), n) for n in range(10)]
    thin = series(samples, origin_s=0, most=5)
    assert thin["at_s"] == [1, 3, 5, 7, 9]
    assert thin["server_cpu_share"] == [0.5] * 5
    assert thin["used_memory_bytes"] == [1, 3, 5, 7, 9]
    assert len(series(samples, origin_s=0)["at_s"]) == 10
    assert series([], origin_s=0)["at_s"] == []


# -- with a server ---------------------------------------------------------------------------


def test_a_get_must_return_what_was_set() -> None:
    traffic = Traffic(1)
    written = [request for request, _ in traffic.first()]
    assert len(set(written)) == len(written)
    requests = traffic.endless()
    next(requests)
    request, reply = next(requests)
    assert request == b"*2\r\n$3\r\nGET\r\n$15\r\nforeground:1:50\r\n"
    assert reply == b"$64\r\n" + b"0" * 64 + b"\r\n"


@pytest.mark.default_server
def test_a_stall_shows_in_every_operation_that_was_due(
    server: ServerProcess, client: redis.Redis, tmp_path: Path
) -> None:
    """Open loop: 0.5 s at 400 op/s are 200 operations, not one slow one."""
    with working(server.port, clients=2, rate=400, folder=tmp_path) as foreground:
        time.sleep(0.3)
        client.client_pause(500)
        time.sleep(1)
        foreground.check()
        work = foreground.finish()
    waited = [one for one in work.operations if one.latency_ns > 100e6]
    assert 100 <= len(waited) <= 400
    assert max(one.latency_ns for one in work.operations) >= 400e6
    # They were sent when they were due: it is the server that was late.
    assert sum(one.late_ns < 100e6 for one in waited) > len(waited) / 2
    assert client.dbsize() == 200


@pytest.mark.default_server
def test_a_foreground_that_is_lied_to_ends(
    server: ServerProcess, client: redis.Redis, tmp_path: Path
) -> None:
    with working(server.port, clients=1, rate=400, folder=tmp_path) as foreground:
        client.flushall()
        time.sleep(0.5)
        with pytest.raises(ForegroundError, match="ended"):
            foreground.check()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What one small run says, and its file."""
    file = tmp_path_factory.mktemp("load") / "load.json"
    done = subprocess.run(
        command(*TINY, "--rate", "200", "--nice", "1", "--json", str(file)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(file.read_text())


def test_a_tiny_run(tiny: tuple[str, dict[str, Any]]) -> None:
    text, content = tiny
    assert content["targets"][-1]["parts"][1]["status"] in ("pass", "missed")
    content = content["load"]
    assert content["good"]
    by = [cycle["state"] for cycle in content["cycles"]]
    assert by in (["sweep", "pipe"], ["sweep"])  # without a redis-cli there is no pipe
    first = content["cycles"][0]
    assert first["keys_left"] == 240
    assert first["slowest"]
    for state in ("alone", "arrivals", "starting", "sweep", "burner", "burners"):
        assert content["foreground"][state]["seconds"] > 0, state
    assert content["foreground"]["alone"]["operations"] > 0
    assert max(content["series"]["keys"]) > 240
    assert "7 kind to others: " in text
    assert "other clients' p99 during a sweep ÷ without: " in text
    assert "1 near the floor" not in text
    phases = content["phases"]
    for before, after in pairwise(phases):
        assert before["begin_s"] <= before["end_s"] <= after["begin_s"] + 0.001


def test_plots(tiny: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with figures.styled():
        files = figures.save(plots.drawn(tiny[1]["load"]), tmp_path)
    assert [file.name for file in files] == ["load-server.svg", "load-latency.svg"]
    assert all(file.read_text().startswith("<?xml") for file in files)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_of_its_processes(number: signal.Signals) -> None:
    process = subprocess.Popen(
        command(*TINY), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        family: set[int] = set()
        deadline_s = time.monotonic() + 20
        # The server, two clients, and one that writes the arrivals.
        while len(family) < 5 and time.monotonic() < deadline_s:
            family |= {*_family(process.pid)}
            time.sleep(0.05)
        assert len(family) >= 5
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    finally:
        process.kill()
        process.wait()
    for pid in family:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cycles", "0"), "'0' is no number above 0"),
        (("--rate", "much"), "'much' is no number above 0"),
        (("--nice", "20"), "'20' is not between 0 and 19"),
        (("--server", "memcached"), "invalid choice"),
    ],
)
def test_usage(words: tuple[str, ...], message: str) -> None:
    done = subprocess.run(
        command(*words), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert message in done.stderr
