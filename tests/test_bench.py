"""The bench runs, and its rows do what they say: never how fast."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import figures, plots, record, seed, servers, session, suites, targets
from bench.__main__ import _parser, _suite
from bench.case import Case
from bench.load import LoadError
from bench.load.plan import Plan
from bench.rows import rows
from bench.session import Session
from cleanup_job import demo

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.default_server


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def rows_of(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    assert content["schema_version"] == 2
    (case,) = content["cases"]
    return {row["name"]: row for row in case["rows"]}


def test_rows_do_their_work(tmp_path: Path) -> None:
    chosen = "floor,ours-1,ours-2,redis-py,lua,pipe,shell,walk,import-redis"
    file = tmp_path / "bench.json"
    options = ("--rounds", "1", "--sizes", "100", "--sample-s", "0.5", "--json", str(file))
    done = bench("--rows", chosen, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "== 100 coordinators, and 10 live ones: 440 keys" in done.stdout
    assert "5 small sweeps: " in done.stdout
    assert "6 large haystack: not measured" in done.stdout
    rows = rows_of(file)
    more = {"redis-py-pipelined", "pipe-count", "shell-10"}
    assert {*rows} == {*chosen.split(",")} | more
    for name, row in rows.items():
        assert row["good"], row
        assert len(row["runs"]) == (0 if row["skipped"] else 1)
        assert f"{name} " in done.stdout
    assert rows["lua"]["runs"][0]["longest_ms"] >= 1
    assert not rows["floor"]["skipped"]
    assert not rows["ours-1"]["skipped"]


def test_live_ones_and_a_haystack(tmp_path: Path) -> None:
    """What is live stays, and what is none of our business too."""
    file = tmp_path / "bench.json"
    options = ("--rounds", "1", "--sizes", "200", "--live-share", "0.5", "--unrelated", "5000")
    done = bench("--rows", "ours-1,floor,walk", *options, "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 coordinators, 100 of them live" in done.stdout
    checks = {name: row["runs"][0]["check"] for name, row in rows_of(file).items()}
    assert checks == {"ours-1": "done", "floor": "done", "walk": "done, nothing deleted"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rows", "theirs"), "no row 'theirs'"),
        (("--sizes", "ten"), "'ten' is no number"),
        (("--live-share", "2"), "'2' is not between 0 and 1"),
        (("--quick", "--full"), "not allowed with"),
        (("targets", "nowhere.json"), "nowhere.json"),
    ],
)
def test_usage(words: tuple[str, ...], message: str) -> None:
    done = bench(*words)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_file_of_something_else(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text('{"schema_version": 1}')
    done = bench("targets", str(file))
    assert done.returncode == 2
    assert "schema_version is 1, not 2" in done.stderr


def test_it_seeds_what_the_demo_does() -> None:
    """The same commands, and so the same memory on the server; only faster."""

    class Server:
        """Writes down what the demo writes."""

        def __init__(self) -> None:
            self.commands: list[list[str]] = []

        def time(self) -> tuple[int, int]:
            return 1_760_000_000, 123_000

        def mset(self, pairs: Mapping[str, str]) -> None:
            self.commands.append([word for pair in pairs.items() for word in pair])

    server: Any = Server()
    demo.seed(server, 5_001)
    _live, *stale = server.commands
    beat_ms = 1_760_000_000_123 - demo.STALE_AGE_MS
    assert [*seed.stale_words(5_001, beat_ms)] == stale
    in_small = [word for words in seed.stale_words(5_001, beat_ms, 25) for word in words]
    assert in_small == [word for words in stale for word in words]


# -- suites --------------------------------------------------------------------------------------

BOTH = ("valkey-9.1", "redis-debian")


@pytest.mark.parametrize("make", [suites.quick, suites.default, suites.full])
def test_suites_hold_together(make: Any) -> None:
    suite = make(BOTH)
    for step in suite.steps:
        assert step.server in servers.NAMES
        assert [row.name for row in step.chosen] == [r.name for r in rows() if r.name in step.rows]
        assert len(step.chosen) == len(step.rows)
    for server in {step.server for step in suite.steps}:
        haystacks = [step.case.unrelated for step in suite.steps if step.server == server]
        assert haystacks == sorted(haystacks), "each is written once"


def test_the_default_suite_measures_every_target() -> None:
    """Each target's part gets a figure, if every run takes a second of everything."""
    cases = [
        case(
            step.server,
            step.case.coordinators,
            {name: {} for name in step.rows},
            live=step.case.live,
            unrelated=step.case.unrelated,
        )
        for step in suites.default(BOTH).steps
    ]
    assert suites.default(BOTH).load is not None
    verdicts = targets.judge(results(*cases, foreground=P99))
    assert [verdict.number for verdict in verdicts] == [1, 2, 3, 4, 5, 6, 7]
    assert {part.status for verdict in verdicts for part in verdict.parts} <= {
        targets.PASS,
        targets.MISSED,
    }


@pytest.mark.parametrize("name", BOTH)
def test_the_default_suite_compares_on_both_servers(name: str) -> None:
    steps = {
        step.case.coordinators: step
        for step in suites.default(BOTH).steps
        if step.server == name and step.case in (Case(10_000), Case(100_000))
    }
    ours_and_pipes = {"floor", "ours-1", "ours-2", "ours-4", "pipe", "pipe-count"}
    assert {*steps[100_000].rows} == ours_and_pipes | {"redis-py-pipelined"}
    assert steps[100_000].rounds == 5
    once = {"lua", "shell", "shell-10"}
    assert {*steps[10_000].rows} == {*steps[100_000].rows} | {"redis-py"} | once
    assert steps[10_000].once == once


def test_the_whole_matrix_is_whole() -> None:
    cases = {step.case for step in suites.full(BOTH).steps}
    assert len(cases) == 5 * 3 * 3
    assert Case(1_000_000, 0.999, 10_000_000) in cases


def test_a_suite_with_some_rows_only() -> None:
    suite = suites.default(BOTH).only({"walk"}).with_rounds(2)
    assert suite.load is None
    assert {step.rows for step in suite.steps} == {("walk",)}
    assert {step.rounds for step in suite.steps} == {2}


def test_a_server_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its part is left out, visibly; what can be measured is."""
    installed = servers.binary_of
    monkeypatch.setattr(
        servers, "binary_of", lambda name: None if name == "redis-debian" else installed(name)
    )
    steps = tuple(suites.Step(server, Case(10), ("import-redis",), 1) for server in BOTH)
    file = tmp_path / "out" / "bench.json"
    Session(suites.Suite("some", steps), 60.0, file, lambda _: None).run()
    assert "note: redis-debian is not installed" in capsys.readouterr().out
    content = json.loads(file.read_text())
    assert [case["server"] for case in content["cases"]] == ["valkey-9.1"]
    assert len(content["notes"]) == 1


def test_a_load_test_in_a_suite(tmp_path: Path) -> None:
    """The file has all of it, and targets and plots have what they need of it."""
    plan = Plan(coordinators=200, cycles=1, cycle_s=1.0, clients=2, rate=200.0)
    file = tmp_path / "bench.json"
    load = suites.Load("valkey-9.1", plan)
    one = Session(suites.Suite("some", (), load=load), 60.0, file, lambda _: None)
    one.run()
    found = one.finish()
    assert one.good
    assert found == record.load(file)
    assert found.load is not None
    assert found.load["good"]
    assert [part.status for part in targets.kind(found).parts].count("not measured") == 0
    if figures.can_draw():
        drawn = {path.name for path in plots.draw(found, tmp_path)}
        assert drawn == {"load-server.svg", "load-latency.svg"}


def test_a_load_test_that_fails_is_no_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the cases found is kept, and the exit code says that something went wrong."""

    def fail(*_: Any) -> Any:
        raise LoadError("a foreground client ended")

    monkeypatch.setattr(session, "run_load", fail)
    steps = (suites.Step("valkey-9.1", Case(10), ("import-redis",), 1),)
    suite = suites.Suite("some", steps, load=suites.Load("valkey-9.1", Plan()))
    one = Session(suite, 60.0, None, lambda _: None)
    one.run()
    assert not one.good
    assert "note: the load test was given up: a foreground client" in capsys.readouterr().out
    assert len(one.finish().cases) == 1


@pytest.mark.parametrize(
    ("words", "has_load"),
    [
        ((), True),
        (("--quick",), True),
        (("--full",), True),
        (("--no-load",), False),
        (("--quick", "--no-load"), False),
        (("--rows", "floor"), False),
        (("--sizes", "100"), False),
    ],
)
def test_which_runs_have_a_load_test(words: tuple[str, ...], has_load: bool) -> None:
    suite = _suite(_parser().parse_args(words))
    assert (suite.load is not None) is has_load


def test_a_row_that_takes_too_long_is_left_out() -> None:
    suite = suites.full(BOTH)
    (step,) = (step for step in suite.steps if step.case == Case(100_000))
    assert suite.most_s is not None
    too_long = {row.name for row in step.chosen if row.guess_s(step.case) > suite.most_s}
    assert too_long == {"lua"}


# -- targets, with made-up results ----------------------------------------------------------------


def case(
    server: str,
    coordinators: int,
    rows_: Mapping[str, Mapping[str, Any]],
    *,
    live: int = 0,
    unrelated: int = 0,
) -> dict[str, Any]:
    """A case as the file has it; a figure that is a list has a value for each round."""
    return {
        "server": server,
        "product": {"valkey-9.1": "Valkey 9.1", "redis-debian": "Redis 7.0"}[server],
        "coordinators": coordinators,
        "stale": coordinators - live,
        "unrelated": unrelated,
        "rows": [row(name, figures) for name, figures in rows_.items()],
    }


def row(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    plain = {
        **dict.fromkeys(("command_s", "sweep_s", "server_cpu_s", "client_cpu_s"), 1.0),
        "peak_mb": 50.0,
        "longest_ms": 1.0,
        "longest_command": None,
        "scale": 1,
        "good": True,
    }
    rounds = max((len(f) for f in figures.values() if isinstance(f, list)), default=1)
    runs = [
        {**plain, **{key: f[at] if isinstance(f, list) else f for key, f in figures.items()}}
        for at in range(rounds)
    ]
    return {"name": name, "title": name, "projected": False, "runs": runs}


P99 = {"p99_without_ms": 1.0, "p99_during_ms": 2.0}


def results(*cases: Any, **found: Any) -> record.Record:
    return record.read({"schema_version": 2, "machine": {}, "cases": cases, **found})


def statuses(verdict: targets.Verdict) -> list[str]:
    return [part.status for part in verdict.parts]


class TestTargets:
    def test_nothing_measured_is_no_pass(self) -> None:
        verdicts = targets.judge(results())
        assert {verdict.in_words for verdict in verdicts} == {"not measured"}
        assert len(targets.text(verdicts).splitlines()) == 2 + 7

    def test_near_the_floor(self) -> None:
        """Each server has a bound of its own."""
        rows_ = {
            "floor": {"server_cpu_s": [0.9, 1.0, 1.1]},
            "ours-1": {"sweep_s": [1.8, 1.9, 2.3], "server_cpu_s": [1.7, 1.8, 2.0]},
        }
        cases = [case(server, 100_000, rows_) for server in BOTH]
        verdict = targets.near_the_floor(results(*cases))
        assert statuses(verdict) == ["missed", "pass", "pass", "pass"]
        assert verdict.in_words == "missed by 0.40 (27%)"
        floor = verdict.parts[0]
        assert "Redis 7.0" in floor.what
        assert floor.reached is not None
        assert floor.reached.median == pytest.approx(1.9)
        assert floor.reached.low == pytest.approx(1.9 / 1.0)
        assert floor.reached.high == pytest.approx(2.3 / 1.1)

    def test_near_the_floor_on_one_server_only(self) -> None:
        rows_ = {"floor": {}, "ours-1": {}}
        verdict = targets.near_the_floor(results(case("valkey-9.1", 100_000, rows_)))
        assert verdict.status == "pass so far"
        assert statuses(verdict) == ["not measured", "not measured", "pass", "pass"]

    def test_pipe(self) -> None:
        """Sweep against command at 10,000, command against command at 100,000."""
        ours = {"command_s": 0.4, "sweep_s": 0.1}
        small = case("valkey-9.1", 10_000, {"pipe": {"command_s": 0.31}, "ours-1": ours})
        rows_ = {"pipe": {"command_s": 1.0}, "pipe-count": {"command_s": 0.6}, "ours-1": ours}
        verdict = targets.faster_than_the_pipe(results(small, case("valkey-9.1", 100_000, rows_)))
        assert statuses(verdict) == ["pass", "missed"]
        assert verdict.in_words == "missed by 0.50 (17%)"
        assert verdict.parts[1].beside == "with --count 1000: 1.50"
        assert "COUNT 10)" in verdict.parts[1].what

    @pytest.mark.parametrize(("lua_s", "status"), [(40.0, "pass"), (39.0, "missed")])
    def test_lua(self, lua_s: float, status: str) -> None:
        """It runs once, and is held against every round of ours."""
        rows_ = {"lua": {"sweep_s": lua_s}, "ours-1": {"sweep_s": [0.1, 0.08, 0.2]}}
        verdict = targets.faster_than_lua(results(case("redis-debian", 10_000, rows_)))
        assert verdict.status == status
        assert verdict.parts[0].reached is not None
        assert verdict.parts[0].reached.low == pytest.approx(lua_s / 0.2)

    def test_linear(self) -> None:
        floor = {"floor": {"server_cpu_s": 0.06}}
        small = case("valkey-9.1", 10_000, {"ours-1": {"sweep_s": 0.1}, **floor})
        rows_ = {
            "ours-1": {"sweep_s": [12.0, 14.0, 15.0], "peak_mb": [900.0, 950.0, 1001.0]},
            "floor": {"server_cpu_s": 9.0},
        }
        verdict = targets.linear(results(small, case("valkey-9.1", 1_000_000, rows_)))
        assert statuses(verdict) == ["missed", "pass"]
        assert verdict.in_words == "missed by 0.10 (8%)"
        assert verdict.parts[0].beside == "the floor's server CPU: 1.50"

    def test_linear_compares_within_a_server(self) -> None:
        small = case("redis-debian", 10_000, {"ours-1": {}})
        verdict = targets.linear(results(small, case("valkey-9.1", 1_000_000, {"ours-1": {}})))
        assert statuses(verdict) == ["not measured", "pass"]

    def test_too_much_memory(self) -> None:
        large = case("valkey-9.1", 1_000_000, {"ours-1": {"peak_mb": 1_200.0}})
        memory = targets.linear(results(large)).parts[1]
        assert memory.in_words == "missed by 200 MB (20%)"

    def test_small(self) -> None:
        rows_ = {"import-redis": {"command_s": 0.15}, "ours-1": {"command_s": 0.29}}
        assert targets.small(results(case("valkey-9.1", 100, rows_))).status == "pass"

    def test_large_haystack(self) -> None:
        rows_ = {"walk": {"server_cpu_s": 2.0}, "ours-1": {"sweep_s": 2.7}}
        large = case("valkey-9.1", 10_000, rows_, unrelated=10_000_000)
        assert targets.large_haystack(results(large)).in_words == "missed by 0.05 (4%)"
        smaller = case("valkey-9.1", 10_000, rows_, unrelated=1_000_000)
        assert targets.large_haystack(results(smaller)).status == "not measured"

    def test_kind(self) -> None:
        """One long command in any run of ours is a miss; other rows' are not ours."""
        longest = {"longest_ms": [2.0, 6.0, 3.0], "longest_command": "EVALSHA"}
        rows_ = {"ours-1": longest, "lua": {"longest_ms": 900.0, "longest_command": "EVAL"}}
        measured = results(case("valkey-9.1", 1_000, rows_))
        verdict = targets.kind(measured)
        assert statuses(verdict) == ["missed", "not measured"]
        assert verdict.in_words == "missed by 1.00 ms (20%)"
        assert "EVALSHA, 1,000 coordinators on Valkey 9.1" in verdict.parts[0].beside

    @pytest.mark.parametrize(("during_ms", "status"), [(1.4, "pass"), (1.6, "missed")])
    def test_kind_to_other_clients(self, during_ms: float, status: str) -> None:
        foreground = {"p99_without_ms": 0.5, "p99_during_ms": during_ms}
        cases = [case("valkey-9.1", 1_000, {"ours-1": {}})]
        assert targets.kind(results(*cases, foreground=foreground)).status == status

    def test_kind_beside_a_machine_that_is_only_busy(self) -> None:
        foreground = {**P99, "p99_pipe_ms": None, "p99_burner_ms": 1.5, "p99_burners_ms": 1.75}
        (_, waited) = targets.kind(results(foreground=foreground)).parts
        assert waited.beside == (
            "alone 1.00 ms, during a sweep 2.00 ms, "
            "without a sweep while as much CPU is burnt as by its client 1.50 ms, "
            "as by client and server 1.75 ms"
        )

    def test_kind_in_the_load_test(self) -> None:
        """Its sweeps count as any other run of ours; its pipes do not."""

        def cycle(state: str, ms: float, *, good: bool = True) -> dict[str, Any]:
            return {"state": state, "good": good, "slowest": [{"name": "EVALSHA", "ms": ms}]}

        cycles = [cycle("sweep", 2.5), cycle("pipe", 9.0), cycle("sweep", 8.0, good=False)]
        load = {"product": "Valkey 9.1", "plan": {"coordinators": 50_000}, "cycles": cycles}
        rows_ = {"ours-1": {"longest_ms": 2.0}}
        (longest, _) = targets.kind(results(case("valkey-9.1", 1_000, rows_), load=load)).parts
        assert longest.reached is not None
        assert longest.reached.median == 2.5
        assert "EVALSHA, load test with 50,000 coordinators" in longest.beside
        assert "median of 2 runs" in longest.beside

    def test_a_run_that_did_not_do_its_work_counts_nowhere(self) -> None:
        rows_ = {
            "import-redis": {"command_s": [0.1, 0.1]},
            "ours-1": {"command_s": [0.01, 0.3], "good": [False, True]},
        }
        verdict = targets.small(results(case("valkey-9.1", 100, rows_)))
        assert verdict.parts[0].reached is not None
        assert verdict.parts[0].reached.median == pytest.approx(3.0)
        assert verdict.parts[0].reached.low == pytest.approx(3.0)

    def test_in_the_file(self) -> None:
        rows_ = {"import-redis": {"command_s": 0.1}, "ours-1": {"command_s": 0.3}}
        verdict = targets.small(results(case("valkey-9.1", 100, rows_))).to_json()
        assert (verdict["status"], verdict["text"]) == ("missed", "missed by 1.00 (50%)")
        (part,) = json.loads(json.dumps(verdict["parts"]))
        assert part["reached"]["median"] == pytest.approx(3.0)
        assert part["limit"] == 2.0


# -- plots ---------------------------------------------------------------------------------------


def test_plots(tmp_path: Path) -> None:
    """Drawn from a file, and twice the same."""
    pytest.importorskip("matplotlib")
    names: Sequence[str] = ("floor", "ours-1", "pipe", "shell", "walk")
    rows_: dict[str, dict[str, Any]] = {name: {"sweep_s": [0.9, 1.0, 1.2]} for name in names}
    sizes = (100, 1_000, 100_000)
    cases = [case(server, size, rows_) for server in BOTH for size in sizes]
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"schema_version": 2, "machine": {}, "cases": cases}))
    for folder in ("one", "two"):
        done = bench("plots", str(file), "--plots", str(tmp_path / folder))
        assert done.returncode == 0, done.stderr
    drawn = {path.name: path.read_text() for path in (tmp_path / "one").iterdir()}
    assert {*drawn} == {"time-by-size.svg", "wall-and-cpu.svg"}
    assert drawn == {path.name: path.read_text() for path in (tmp_path / "two").iterdir()}


def test_too_little_for_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert plots.draw(results(case("valkey-9.1", 100, {"ours-1": {}})), tmp_path) == []


# -- parts by themselves -------------------------------------------------------------------------


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_micro_benches_run_once() -> None:
    options = ("-q", "--benchmark-disable", "-p", "no:cacheprovider")
    assert " passed" in run("pytest", "bench/micro", *options)


def test_the_guard_bench_deletes_all_in_every_way() -> None:
    printed = run("bench.micro.guard", "--coordinators", "600", "--rounds", "1")
    _heading, figures = printed.strip().split("\n\n")
    assert len(figures.splitlines()) == 4


def test_the_journal_bench_sweeps_both_ways(tmp_path: Path) -> None:
    printed = run("bench.journal", "--sizes", "50", "--rounds", "1", "--folder", str(tmp_path))
    assert [line.split()[:2] for line in printed.splitlines()[2:4]] == [
        ["50", "plain"],
        ["50", "journal"],
    ]
    assert [*tmp_path.iterdir()] == []
