"""A plan that was made before is executed: nothing outside it goes, and nothing that changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from msgspec import structs

from cleanup_job import cli, plan_file
from cleanup_job.config import Config, Redis
from cleanup_job.errors import RefusedError
from cleanup_job.job import Observer, run
from cleanup_job.report import PlanUse, Report
from cleanup_job.text import to_text
from tests.keys import (
    STALE_MS,
    assert_adds_up,
    heartbeat_key,
    keys_of,
    owned_keys,
    write_coordinator,
    write_heartbeat,
    write_owned,
)
from tests.server.test_orphans import orphan_keys, write_idle
from tests.servers import ServerProcess, running


def sweep(server: ServerProcess, path: Path, *, dry_run: bool = False, **more: Any) -> Report:
    observer = more.pop("observer", None)
    config = Config(redis=Redis(server.url), **more)
    return run(config, dry_run=dry_run, observer=observer, plan_path=str(path))


def plan_use(report: Report) -> PlanUse:
    assert report.plan is not None
    if not report.dry_run:
        assert_adds_up(report)
    return report.plan


def all_keys(name: str) -> set[bytes]:
    return {heartbeat_key(name), *owned_keys(name)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plan.jsonl"


def test_what_is_planned_goes_and_what_died_later_stays(
    server: ServerProcess, client: redis.Redis, path: Path
) -> None:
    for name in ("a", "b", "c"):
        write_coordinator(client, name, STALE_MS)
    write_coordinator(client, "live", 1000)
    written = plan_use(sweep(server, path, dry_run=True))
    assert (written.coordinators, written.keys, written.due) == (3, 18, 3)
    assert client.dbsize() == 24

    write_coordinator(client, "live", STALE_MS)
    write_coordinator(client, "b", 1000)
    client.delete(*all_keys("c"))
    client.delete("blocking:ack:a:s1")
    report = sweep(server, path)
    use = plan_use(report)
    assert report.status == "complete"
    assert keys_of(client) == all_keys("b") | all_keys("live")
    assert (use.coordinators, use.due, use.gone_or_alive, use.changed) == (3, 1, 2, 0)
    assert (report.keys.planned, report.keys.deleted) == (5, 5)
    assert report.coordinators.purged == 1
    assert use.created_at == written.created_at
    text = to_text(report)
    assert f"by the plan of {use.created_at}: 1 of 3 coordinators\n" in text
    assert max(map(len, text.splitlines())) <= 80


def test_one_with_a_new_key_is_left_whole(
    server: ServerProcess, client: redis.Redis, path: Path
) -> None:
    write_coordinator(client, "a", STALE_MS)
    write_coordinator(client, "b", STALE_MS)
    sweep(server, path, dry_run=True)
    client.set("blocking:ack:b:s3", "1")
    report = sweep(server, path)
    assert keys_of(client) == all_keys("b") | {b"blocking:ack:b:s3"}
    assert plan_use(report).changed == 1
    (warning,) = (warning for warning in report.warnings if warning.code == "changed_since_plan")
    assert warning.samples == ("b",)


@pytest.mark.default_server
def test_a_dry_run_writes_a_plan_of_what_a_run_would_delete(
    server: ServerProcess, client: redis.Redis, path: Path
) -> None:
    write_coordinator(client, b"a\xff", STALE_MS)
    write_coordinator(client, "live", 1000)
    report = sweep(server, path, dry_run=True)
    found = plan_file.read(path)
    (planned,) = found.coordinators()
    assert planned.coordinator_id == b"a\xff"
    assert {key for keys in planned.keys.values() for key in keys} == {*owned_keys(b"a\xff")}
    assert found.header.run_id == report.run_id
    assert found.header.target.run_ids == [client.info("server")["run_id"]]
    assert found.header.keys == {
        name: counts.planned for name, counts in report.keys.by_family.items()
    }


@pytest.mark.default_server
def test_a_plan_twice_finds_nothing_the_second_time(
    server: ServerProcess, client: redis.Redis, path: Path
) -> None:
    write_coordinator(client, "a", STALE_MS)
    sweep(server, path, dry_run=True)
    assert sweep(server, path).keys.deleted == 6
    again = sweep(server, path)
    assert (again.keys.planned, plan_use(again).gone_or_alive) == (0, 1)
    assert again.status == "complete"


@pytest.mark.default_server
def test_large_coordinators_in_and_outside_of_the_plan(
    server: ServerProcess, client: redis.Redis, path: Path
) -> None:
    write_coordinator(client, "a", STALE_MS)
    client.mset({f"blocking:ack:a:{number}": "1" for number in range(1_200)})
    sweep(server, path, dry_run=True)
    write_coordinator(client, "b", STALE_MS)
    client.mset({f"blocking:ack:b:{number}": "1" for number in range(1_200)})
    report = sweep(server, path, workers=2)
    assert report.keys.deleted == report.keys.planned == 1_206
    assert client.dbsize() == 1_206
    assert report.coordinators.purged == 1


class DuringPurge(Observer):
    def __init__(self, action: Any) -> None:
        self.action = action

    def began(self, phase: str, keys: int) -> None:
        if phase == "purge":
            self.action()


@pytest.mark.default_server
class TestSharedKeys:
    RECORD = "blocking:idempotency:a:bb:error:1:17"
    """Counted under bb, the longer one, if both are dead."""

    def test_one_outside_of_the_plan_still_guards_its_key(
        self, server: ServerProcess, client: redis.Redis, path: Path
    ) -> None:
        write_heartbeat(client, "bb", STALE_MS)
        client.set(self.RECORD, "1")
        sweep(server, path, dry_run=True)
        # Now a is dead as well, and its heartbeat watches the record without being planned.
        write_heartbeat(client, "a", STALE_MS)
        revived = sweep(server, path, observer=DuringPurge(lambda: write_heartbeat(client, "a", 0)))
        assert client.exists(self.RECORD, heartbeat_key("bb")) == 2
        assert revived.keys.spared == 2
        assert plan_use(revived).due == 1

        write_heartbeat(client, "a", STALE_MS)
        report = sweep(server, path)
        assert keys_of(client) == {heartbeat_key("a")}
        assert report.keys.deleted == 2
        assert_adds_up(report)

    def test_a_key_that_is_now_anothers_stays(
        self, server: ServerProcess, client: redis.Redis, path: Path
    ) -> None:
        write_heartbeat(client, "a", STALE_MS)
        client.set(self.RECORD, "1")
        sweep(server, path, dry_run=True)
        write_heartbeat(client, "bb", STALE_MS)
        report = sweep(server, path)
        assert keys_of(client) == {heartbeat_key("bb"), self.RECORD.encode()}
        assert report.keys.deleted == 1
        assert_adds_up(report)

    def test_one_that_has_got_a_key_of_another_in_the_plan_is_left(
        self, server: ServerProcess, client: redis.Redis, path: Path
    ) -> None:
        write_heartbeat(client, "a", STALE_MS)
        write_heartbeat(client, "bb", STALE_MS)
        sweep(server, path, dry_run=True)
        client.set(self.RECORD, "1")
        report = sweep(server, path)
        assert keys_of(client) == {heartbeat_key("bb"), self.RECORD.encode()}
        assert plan_use(report).changed == 1


class TestOrphans:
    def test_go_if_they_were_planned_and_are_still_untouched(
        self, server: ServerProcess, client: redis.Redis, path: Path
    ) -> None:
        for name in ("gone", "young", "more", "back"):
            write_idle(client, orphan_keys(name), 10_000)
        written = plan_use(sweep(server, path, dry_run=True, orphans="purge"))
        assert (written.coordinators, written.keys) == (4, 16)
        client.get("blocking:signal:young")
        write_idle(client, [b"blocking:ack:more:s3", *orphan_keys("new")], 10_000)
        write_heartbeat(client, "back", STALE_MS)
        before = keys_of(client)
        report = sweep(server, path, orphans="purge")
        assert before - keys_of(client) == set(orphan_keys("gone"))
        use = plan_use(report)
        assert (use.due, use.gone_or_alive, use.changed) == (1, 1, 1)
        kept = {warning.code: warning.samples for warning in report.warnings}
        assert kept["orphans_kept"] == ("young",)
        assert kept["changed_since_plan"] == ("more",)
        assert report.coordinators.orphans_purged == 1

    @pytest.mark.default_server
    def test_stay_if_they_are_not_to_be_purged_any_more(
        self, server: ServerProcess, client: redis.Redis, path: Path
    ) -> None:
        write_idle(client, orphan_keys("gone"), 10_000)
        sweep(server, path, dry_run=True, orphans="purge")
        report = sweep(server, path)
        assert client.dbsize() == 4
        assert "orphans_left" in [warning.code for warning in report.warnings]

    @pytest.mark.default_server
    def test_stay_if_they_were_not_to_be_purged_then(
        self, server: ServerProcess, client: redis.Redis, path: Path
    ) -> None:
        write_idle(client, orphan_keys("gone"), 10_000)
        sweep(server, path, dry_run=True)
        assert sweep(server, path, orphans="purge").keys.planned == 0
        assert client.dbsize() == 4

    @pytest.mark.default_server
    def test_stay_if_they_were_planned_with_a_heartbeat(
        self, server: ServerProcess, client: redis.Redis, path: Path
    ) -> None:
        write_idle(client, orphan_keys("gone"), 10_000)
        write_heartbeat(client, "gone", STALE_MS)
        sweep(server, path, dry_run=True, orphans="purge")
        client.delete(heartbeat_key("gone"))
        report = sweep(server, path, orphans="purge")
        assert (client.dbsize(), plan_use(report).gone_or_alive) == (4, 1)


@pytest.mark.default_server
class TestStopping:
    class Stop(Observer):
        def __init__(self, phase: str) -> None:
            self.phase = phase
            self.is_stopping = False

        def began(self, phase: str, keys: int) -> None:
            self.is_stopping = self.is_stopping or phase == self.phase

        def stopping(self) -> bool:
            return self.is_stopping

    @pytest.mark.parametrize("phase", ["survey", "judge"])
    def test_a_dry_run_that_is_stopped_writes_no_plan(
        self, server: ServerProcess, client: redis.Redis, path: Path, phase: str
    ) -> None:
        write_coordinator(client, "a", STALE_MS)
        report = sweep(server, path, dry_run=True, observer=self.Stop(phase))
        assert (report.plan, path.exists()) == (None, False)
        assert "plan_unfinished" in [warning.code for warning in report.warnings]

    def test_a_run_that_is_stopped_says_nothing_of_what_it_did_not_look_at(
        self, server: ServerProcess, client: redis.Redis, path: Path
    ) -> None:
        write_coordinator(client, "a", STALE_MS)
        sweep(server, path, dry_run=True)
        use = plan_use(sweep(server, path, observer=self.Stop("survey")))
        assert (use.due, use.gone_or_alive, use.changed) == (0, 0, 0)
        assert client.dbsize() == 6


@pytest.mark.default_server
def test_a_server_that_restarts_during_the_survey_is_another_one(path: Path) -> None:
    class Restart(Observer):
        def walked(self, partition: object) -> None:
            if not self.is_done:
                self.is_done = True
                server.stop()
                server.start()

        is_done = False

    with running(save="") as server, server.client() as client:
        write_coordinator(client, "a", STALE_MS)
        sweep(server, path, dry_run=True)
        with pytest.raises(RefusedError, match="or one that restarted or failed over since"):
            sweep(server, path, observer=Restart(), workers=1)


def move(path: Path, later_s: int) -> None:
    """Make the plan one of another time."""
    found = plan_file.read(path)
    at_ms = found.header.created_at_ms + later_s * 1000
    header = structs.replace(found.header, created_at_ms=at_ms)
    plan_file.write(path, header, [*found.coordinators()])


@pytest.mark.default_server
class TestCommand:
    """Every refusal, as it is met."""

    @pytest.fixture(autouse=True)
    def _capture(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def call(self, *words: str) -> tuple[int, str, str]:
        """The command, in this process; its exit code and what it says."""
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", *words])
        out, err = self.capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    def refuse(self, *words: str, code: int = 4) -> str:
        ended, out, err = self.call(*words)
        assert (ended, out) == (code, "")
        assert err.startswith("cleanup-job: --plan: ")
        assert err.count("\n") == 1
        return err

    @pytest.mark.parametrize("name", ["my plan", "plan.gz"])
    def test_both_commands(
        self, server: ServerProcess, client: redis.Redis, tmp_path: Path, name: str
    ) -> None:
        write_coordinator(client, "a", STALE_MS)
        path = tmp_path / name
        code, out, err = self.call("--url", server.url, "--dry-run", "--plan", str(path))
        quoted = f"'{path}'" if " " in name else str(path)
        assert (code, err) == (
            0,
            f"plan written to {path} (1 coordinators, 6 keys); execute it with: cleanup-job run "
            f"--plan {quoted}, and the same settings\n",
        )
        assert "complete: 6 keys would be deleted; nothing was" in out
        assert "by the plan" not in out
        code, out, err = self.call("--url", server.url, "--plan", str(path))
        assert (code, err) == (0, "")
        assert "1 of 1 coordinators" in out
        client.flushall()
        write_coordinator(client, "a", STALE_MS)
        report = tmp_path / "report"
        self.call("--url", server.url, "--plan", str(path), "--json", str(report))
        assert json.loads(report.read_text())["plan"] == {
            "file": str(path),
            "created_at": plan_file.read(path).header.created_at,
            "coordinators": 1,
            "keys": 6,
            "due": 1,
            "gone_or_alive": 0,
            "changed": 0,
        }
        assert client.dbsize() == 0

    def test_refused_by_settings_server_and_age(
        self, server: ServerProcess, client: redis.Redis, path: Path
    ) -> None:
        write_coordinator(client, "a", STALE_MS)
        sweep(server, path, dry_run=True)
        by_plan = ("--plan", str(path))
        nowhere = ("--url", "redis://127.0.0.1:1/0")  # what differs is told before any contact
        assert "stale_after = 600, which is now smaller: 5;" in self.refuse(
            *nowhere, *by_plan, "--stale-after", "5"
        )
        assert "is for database 0, and this is 3" in self.refuse(
            "--url", "redis://127.0.0.1:1/3", *by_plan
        )
        config = path.with_name("other.yaml")
        config.write_text('keys: {heartbeat: "hb:{id}", owned: {a: "a:{id}"}}\n')
        assert 'keys.heartbeat = "blocking:heartbeat:{id}", which is now "hb:{id}"' in self.refuse(
            *nowhere, *by_plan, "-c", str(config)
        )
        with running() as other:
            message = self.refuse("--url", other.url, *by_plan)
        assert f"is for {server.address} (run_id " in message
        assert f"and here is {other.address} (run_id " in message

        move(path, later_s=100)
        assert "in the future by the server's clock; nothing was" in self.refuse(
            "--url", server.url, *by_plan
        )
        assert client.dbsize() == 6

    def test_max_plan_age_overrides(
        self, server: ServerProcess, client: redis.Redis, path: Path
    ) -> None:
        write_coordinator(client, "a", STALE_MS)
        sweep(server, path, dry_run=True)
        move(path, later_s=-7200)
        by_plan = ("--url", server.url, "--plan", str(path))
        assert "or raise --max-plan-age\n" in self.refuse(*by_plan)
        assert self.call(*by_plan, "--max-plan-age", "8000")[0] == 0
        assert client.dbsize() == 0

    def test_files_that_are_no_plan(self, server: ServerProcess, path: Path) -> None:
        nowhere = ("--url", "redis://127.0.0.1:1/0", "--plan", str(path))
        assert "can't be read (No such file or directory)" in self.refuse(*nowhere, code=2)
        path.write_text("stale_after: 600\n")
        assert f"{path}:1: is no plan" in self.refuse(*nowhere, code=2)
        assert "name another file" in self.refuse(*nowhere, "--dry-run", code=2)
        assert path.read_text() == "stale_after: 600\n"
        assert "is the file of --json too" in self.refuse(*nowhere, "--json", str(path), code=2)
        sweep(server, path, dry_run=True)
        with path.open("ab") as file:
            file.write(b"more")
        assert f"{path}:3: there is something behind" in self.refuse(*nowhere, code=2)

    def test_no_room_for_the_plan_keeps_the_report_and_the_old_plan(
        self, server: ServerProcess, client: redis.Redis, path: Path
    ) -> None:
        write_coordinator(client, "a", STALE_MS)
        sweep(server, path, dry_run=True)
        before = path.read_bytes()
        words = [sys.executable, "-m", "cleanup_job", "run", "--url", server.url, "--dry-run"]
        words += ["--plan", str(path)]
        done = subprocess.run(
            # No file of this process may be longer; the signal that says so is ignored.
            ["/bin/sh", "-c", 'trap "" XFSZ; ulimit -f 0; exec "$@"', "sh", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr == f"cleanup-job: --plan: {path} can't be written (File too large)\n"
        assert "complete: 6 keys would be deleted; nothing was" in done.stdout
        assert [*path.parent.iterdir()] == [path]
        assert path.read_bytes() == before


def test_owned_keys_without_their_coordinator_are_not_planned(
    server: ServerProcess, client: redis.Redis, path: Path
) -> None:
    """Orphans that are only reported have no line in a plan."""
    write_owned(client, "orphan")
    written = plan_use(sweep(server, path, dry_run=True))
    assert (written.coordinators, written.keys) == (0, 0)
