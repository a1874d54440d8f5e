"""The metrics: what Prometheus' own tools accept, and alerts that fire when runs go wrong."""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cleanup_job import metrics
from cleanup_job.config import Config, Redis, load
from cleanup_job.errors import ConfigError, ServerUnavailableError
from cleanup_job.metrics import STATUSES, Textfile, target_of
from cleanup_job.report import Report
from tests.keys import STALE_MS, sweep, write_coordinator, write_heartbeat, write_owned
from tests.servers import ServerProcess
from tests.test_deploy import tool
from tests.test_log import command
from tools import dashboard

CONFIGS = Path(__file__).parent.parent / "configs"
RULES = CONFIGS / "prometheus" / "cleanup-job.rules.yml"
ACCESS = Config(redis=Redis("redis://someone:secret@db.example:6380/2")).access()

Samples = dict[tuple[str, ...], float]


def samples_of(path: Path) -> Samples:
    """By name and the values of the labels, but for the target."""
    return {
        (sample.name, *(v for k, v in sorted(sample.labels.items()) if k != "target")): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def write(path: Path, report: Report | None, code: int = 0, *, dry_run: bool = False) -> Samples:
    with Textfile(str(path), ACCESS, dry_run=dry_run) as textfile:
        textfile.report, textfile.exit_code = report, code
    return samples_of(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cleanup-job.prom"


@pytest.fixture
def report(server: ServerProcess, client: redis.Redis) -> Report:
    for number in range(3):
        write_coordinator(client, f"dead-{number}", STALE_MS)
    write_coordinator(client, "live", 0)
    write_owned(client, "lost")
    write_heartbeat(client, "future", -60_000)
    return sweep(server)


@pytest.mark.default_server
class TestOfARun:
    def test_says_what_the_report_says(self, path: Path, report: Report) -> None:
        found = write(path, report)
        assert found["cleanup_job_coordinators", "stale"] == 3
        assert found["cleanup_job_coordinators", "live"] == 1
        # `op` of `blocking:idempotency:op:lost` may be an id as well.
        assert found["cleanup_job_coordinators", "orphaned"] == 2
        assert found["cleanup_job_coordinators", "future"] == 1
        assert found["cleanup_job_coordinators_handled", "purged"] == 3
        assert found["cleanup_job_keys", "ack", "deleted"] == 6
        assert found["cleanup_job_keys_planned", "heartbeat"] == 3
        assert found["cleanup_job_keys_scanned",] == report.keys.scanned
        assert found["cleanup_job_last_run_status", "complete"] == 1
        assert sum(v for k, v in found.items() if k[0] == "cleanup_job_last_run_status") == 1
        assert found["cleanup_job_phase_duration_seconds", "survey"] == report.phases.survey_s
        assert found["cleanup_job_server_info", "standalone", "valkey", report.target.version]
        assert time.time() - found[metrics.LAST_SUCCESS,] < 60

    def test_promtool_has_nothing_to_say(self, path: Path, report: Report) -> None:
        write(path, report)
        promtool = tool("promtool")
        with path.open() as file:
            done = subprocess.run(
                [promtool, "check", "metrics"], stdin=file, capture_output=True, text=True
            )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_the_file_is_for_others_to_read(self, path: Path, report: Report) -> None:
        before = os.umask(0o077)
        try:
            write(path, report)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert [*path.parent.iterdir()] == [path]

    def test_no_login_is_in_it(self, path: Path, report: Report) -> None:
        write(path, report)
        text = path.read_text()
        assert 'target="db.example:6380/2"' in text
        assert "secret" not in text
        assert "someone" not in text


class TestWithoutAReport:
    def test_an_error_keeps_the_last_success(self, path: Path) -> None:
        path.write_text(f'{metrics.LAST_SUCCESS}{{target="db.example:6380/2"}} 123.5\n')
        with (
            pytest.raises(ServerUnavailableError),
            Textfile(str(path), ACCESS, dry_run=False),
        ):
            raise ServerUnavailableError("gone", "unreachable")
        found = samples_of(path)
        assert found[metrics.LAST_SUCCESS,] == 123.5
        assert found["cleanup_job_last_run_status", "try_again"] == 1
        assert found["cleanup_job_last_run_exit_code",] == 75
        assert not any(name == "cleanup_job_coordinators" for name, *_ in found)

    @pytest.mark.parametrize(
        ("error", "status", "code"),
        [
            (ConfigError("x"), "error", 2),
            (KeyboardInterrupt(15), "stopped", 143),
            (KeyboardInterrupt(), "stopped", 130),
            (MemoryError(), "partial", 3),
            (ZeroDivisionError(), "failed", 1),
        ],
    )
    def test_each_end_has_its_status(
        self, path: Path, error: BaseException, status: str, code: int
    ) -> None:
        with pytest.raises(type(error)), Textfile(str(path), ACCESS, dry_run=False):
            raise error
        found = samples_of(path)
        assert found["cleanup_job_last_run_status", status] == 1
        assert found["cleanup_job_last_run_exit_code",] == code
        assert found[metrics.LAST_SUCCESS,] == 0

    @pytest.mark.parametrize("content", [b"", b"{{{", b"\xff", b"x" * 1000, b"a b c d\n"])
    def test_a_damaged_file_costs_the_last_success_only(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(ConfigError), Textfile(str(path), ACCESS, dry_run=False):
            raise ConfigError("x")
        assert samples_of(path)[metrics.LAST_SUCCESS,] == 0

    def test_the_success_of_another_target_is_not_ours(self, path: Path) -> None:
        path.write_text(f'{metrics.LAST_SUCCESS}{{target="other:1/0"}} 123.5\n')
        with pytest.raises(ConfigError), Textfile(str(path), ACCESS, dry_run=False):
            raise ConfigError("x")
        assert samples_of(path)[metrics.LAST_SUCCESS,] == 0


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://u:p@a.example", "a.example:6379/0"),
        ("rediss://[::1]:7000/3", "[::1]:7000/3"),
        ("unix:///run/redis.sock?db=1", "/run/redis.sock/1"),
        ("redis+sentinel://:p@a,b/main/4", "main/4"),
    ],
)
def test_a_target_has_no_login(url: str, target: str) -> None:
    assert target_of(load(environ={"REDIS_URL": url}).access()) == target


class TestCommand:
    def test_a_name_that_is_not_collected(self, tmp_path: Path) -> None:
        done = command("run", "--prom", str(tmp_path / "x.txt"))
        assert done.returncode == 2
        assert "would not be collected" in done.stderr

    def test_a_server_that_is_not_there(self, path: Path) -> None:
        done = command("run", "--prom", str(path), "--url", "redis://127.0.0.1:1")
        assert done.returncode == 75
        assert samples_of(path)["cleanup_job_last_run_status", "try_again"] == 1

    @pytest.mark.default_server
    def test_a_dry_run_is_no_success(self, path: Path, server: ServerProcess) -> None:
        done = command("run", "--dry-run", "--prom", str(path), "--url", server.url)
        assert (done.returncode, done.stderr) == (0, "")
        found = samples_of(path)
        assert found["cleanup_job_last_run_dry_run",] == 1
        assert found["cleanup_job_last_run_status", "complete"] == 1
        assert found[metrics.LAST_SUCCESS,] == 0


def promtool(*words: str | Path) -> None:
    done = subprocess.run(
        [tool("promtool"), *map(str, words)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


class TestRules:
    def test_are_good(self) -> None:
        promtool("check", "rules", RULES)

    def test_pass_their_own_tests(self) -> None:
        promtool("test", "rules", RULES.with_name("cleanup-job.test.yml"))

    def test_point_to_what_is_written(self) -> None:
        text = (CONFIGS.parent / "docs" / "what-if.md").read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.M)
        anchors = {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}
        wanted = set(re.findall(r"docs/what-if\.md#([\w-]+)", RULES.read_text()))
        assert wanted
        assert wanted <= anchors


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bcleanup_job_\w+", text))


@pytest.mark.default_server
def test_rules_and_dashboard_ask_for_what_is_written(path: Path, report: Report) -> None:
    write(path, report)
    written = {family.name for family in text_string_to_metric_families(path.read_text())}
    assert names_in(RULES.read_text()) <= written
    assert names_in(dashboard.text()) - {"cleanup_job_paused_seconds"} <= written
    assert "cleanup_job_paused_seconds" in path.read_text()


class TestDashboard:
    def test_is_up_to_date(self) -> None:
        assert dashboard.FILE.read_text() == dashboard.text(), "run python -m tools.dashboard"

    def test_every_query_can_be_parsed(self, tmp_path: Path) -> None:
        panels = json.loads(dashboard.FILE.read_text())["panels"]
        queries = [query["expr"] for panel in panels for query in panel["targets"]]
        rules = [
            {"record": f"q:{number}", "expr": query.replace("$target", ".*")}
            for number, query in enumerate(queries)
        ]
        file = tmp_path / "queries.yml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": rules}]}))
        promtool("check", "rules", file)

    def test_panels_do_not_overlap_and_have_ids(self) -> None:
        panels = dashboard.dashboard()["panels"]
        assert [panel["id"] for panel in panels] == [*range(1, len(panels) + 1)]
        cells = [
            (x, y)
            for panel in panels
            for place in [panel["gridPos"]]
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24
        assert set(dashboard.STATUS_COLOURS) == set(STATUSES)


Series = list[Samples]


@pytest.mark.default_server
class TestSeriesOfRuns:
    """Real runs, five minutes apart by the clock of promtool, and what alerts they set off."""

    def alerts(self, tmp_path: Path, runs: Series, minutes: int) -> set[str]:
        """Which of our alerts fire after so many minutes, by promtool."""
        names = sorted(set().union(*runs))
        series = [
            {
                "series": _name(name),
                "values": " ".join(str(run[name]) if name in run else "_" for run in runs),
            }
            for name in names
        ]
        alerts = [rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]]
        fired = set()
        for alert in alerts:
            test = {
                "interval": "5m",
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": f'ALERTS{{alertname="{alert}", alertstate="firing"}}',
                        "eval_time": f"{minutes}m",
                        "exp_samples": [],
                    }
                ],
            }
            file = tmp_path / "series.yml"
            document = {
                "rule_files": [str(RULES)],
                "evaluation_interval": "1m",
                "tests": [test],
            }
            file.write_text(yaml.safe_dump(document))
            done = subprocess.run(
                [tool("promtool"), "test", "rules", str(file)], capture_output=True, text=True
            )
            if done.returncode:
                assert "got:" in done.stdout + done.stderr, done
                fired.add(alert)
        return fired

    def runs(
        self, path: Path, server: ServerProcess, steps: list[Callable[[], Any]], *words: str
    ) -> Series:
        """Make a run after each step, and move its times to promtool's clock, which begins at 0."""
        found = []
        for number, step in enumerate(steps):
            step()
            command("run", "--prom", str(path), "--url", server.url, *words)
            now_s = number * 300
            of_run = samples_of(path)
            succeeded = of_run["cleanup_job_last_run_status", "complete"]
            last_s = now_s if succeeded else found[-1][metrics.LAST_SUCCESS,] if found else 0
            found.append(
                {
                    **of_run,
                    (metrics.LAST_SUCCESS,): last_s,
                    ("cleanup_job_last_run_timestamp_seconds",): now_s,
                }
            )
        return found

    def test_good_runs_are_silent(
        self, tmp_path: Path, path: Path, server: ServerProcess, client: redis.Redis
    ) -> None:
        numbers = itertools.count()

        def die() -> None:
            write_coordinator(client, "live", 0)
            write_coordinator(client, f"dead-{next(numbers)}", STALE_MS)

        runs = self.runs(path, server, [die] * 6)
        assert all(run["cleanup_job_coordinators_handled", "purged"] == 1 for run in runs)
        assert self.alerts(tmp_path, runs, 25) == set()

    def test_refused_runs(
        self, tmp_path: Path, path: Path, server: ServerProcess, client: redis.Redis
    ) -> None:
        def die() -> None:
            write_coordinator(client, "dead", STALE_MS)

        def nothing() -> None:
            pass

        runs = self.runs(path, server, [die, nothing, nothing, nothing, nothing], "--max-purge=0")
        assert self.alerts(tmp_path, runs, 6) == {"CleanupJobRefused"}
        assert self.alerts(tmp_path, runs, 20) == {"CleanupJobRefused", "CleanupJobNoSuccess"}

    def test_orphans_that_nobody_purges(
        self, tmp_path: Path, path: Path, server: ServerProcess, client: redis.Redis
    ) -> None:
        numbers = itertools.count()

        def die() -> None:
            write_coordinator(client, "live", 0)
            for _ in range(12):
                write_owned(client, f"lost-{next(numbers)}")

        few = self.runs(path, server, [die] * 2)
        # As in 100 minutes of it, without making as many runs.
        step = few[1]["cleanup_job_coordinators", "orphaned"]
        runs = [
            {
                **few[1],
                ("cleanup_job_coordinators", "orphaned"): step / 2 * (number + 1),
                (metrics.LAST_SUCCESS,): number * 300,
            }
            for number in range(24)
        ]
        assert self.alerts(tmp_path, runs, 60) == set()
        assert self.alerts(tmp_path, runs, 110) == {"CleanupJobOrphansRising"}

    def test_partial_runs(
        self, tmp_path: Path, path: Path, server: ServerProcess, client: redis.Redis
    ) -> None:
        stop = tmp_path / "stop"
        pause = ["--pause-file", str(tmp_path), "--time-budget", "1", "--stop-file", str(stop)]

        def die() -> None:
            write_coordinator(client, "dead", STALE_MS)

        runs = self.runs(path, server, [die, die], *pause)
        assert all(run["cleanup_job_last_run_status", "partial"] for run in runs)
        assert self.alerts(tmp_path, [runs[0], *runs], 9) == {"CleanupJobPartial"}


def _name(name: tuple[str, ...]) -> str:
    labels = {
        "cleanup_job_last_run_status": ["status"],
        "cleanup_job_coordinators": ["state"],
        "cleanup_job_coordinators_handled": ["outcome"],
    }.get(name[0], [f"l{number}" for number in range(len(name) - 1)])
    values = zip(labels, name[1:], strict=True)
    inner = ", ".join(f'{label}="{value}"' for label, value in values)
    return f'{name[0]}{{target="a:1/0", {inner}}}' if inner else f'{name[0]}{{target="a:1/0"}}'
