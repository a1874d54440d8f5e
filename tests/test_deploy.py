"""The files for timers and containers: good for the tools that read them, and for us."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cleanup_job.arguments import make_parser

CONFIGS = Path(__file__).parent.parent / "configs"
UNITS = CONFIGS / "systemd"


def tool(name: str) -> str:
    """Its path; a skip where it is missing, but in CI a failure."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return found


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60)


class TestSystemd:
    def copied(self, folder: Path) -> list[Path]:
        """The units with a program that is there."""
        copies = []
        for unit in sorted(UNITS.iterdir()):
            text = unit.read_text().replace("/opt/cleanup-job/bin/cleanup-job", "/bin/true")
            copies.append(folder / unit.name)
            copies[-1].write_text(text)
        return copies

    def test_verify(self, tmp_path: Path) -> None:
        done = run(tool("systemd-analyze"), "verify", *self.copied(tmp_path))
        assert (done.returncode, done.stderr) == (0, "")

    def test_little_is_exposed(self, tmp_path: Path) -> None:
        words = ["security", "--offline=true", "--threshold=15"]
        done = run(tool("systemd-analyze"), *words, self.copied(tmp_path)[0])
        assert done.returncode == 0, done.stdout

    def test_the_command(self) -> None:
        text = (UNITS / "cleanup-job.service").read_text()
        (line,) = re.findall(r"^ExecStart=\S+/cleanup-job (.*)$", text, re.M)
        given = make_parser().parse_args(shlex.split(line))
        # --yes would switch off the brake for a server on which nobody lives.
        assert (given.command, given.quiet, given.yes) == ("run", True, False)
        # It ends by itself before systemd would end it, and before the next one is due.
        budget_s = int(given.time_budget)
        (limit_s,) = map(int, re.findall(r"^TimeoutStartSec=(\d+)$", text, re.M))
        assert budget_s < limit_s < 300


def test_cron() -> None:
    text = (CONFIGS / "cron" / "cleanup-job").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    (job,) = (line for line in lines if not re.match(r"[A-Z_]+=", line))
    minute, hour, day, month, weekday, user, program, *words = job.split()
    assert (minute, hour, day, month, weekday) == ("*/5", *"****")
    assert (user, program) == ("cleanup-job", "cleanup-job")
    assert "%" not in job, "cron makes a line's end of it"
    assert make_parser().parse_args(words).quiet
    assert text.endswith("\n")


class TestKubernetes:
    FILE = CONFIGS / "kubernetes" / "cronjob.yaml"

    def test_fits_the_schemas(self) -> None:
        done = run(tool("kubernetes-validate"), "--strict", self.FILE)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_command_and_what_it_may(self) -> None:
        job = yaml.safe_load(self.FILE.read_text())["spec"]
        assert job["concurrencyPolicy"] == "Forbid"
        pod = job["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        given = make_parser().parse_args(container["args"])
        assert given.log_format == "json"
        assert int(given.time_budget) < job["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 300
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]


class TestDocker:
    FILE = CONFIGS / "docker" / "Dockerfile"

    def test_hadolint(self) -> None:
        done = run(tool("hadolint"), self.FILE)
        assert (done.returncode, done.stdout) == (0, "")

    def test_copies_what_is_there(self) -> None:
        root = CONFIGS.parent
        for names in re.findall(r"^COPY (?!--)(.*) \S+$", self.FILE.read_text(), re.M):
            for name in names.split():
                assert (root / name).exists(), name


def test_the_table_names_every_file() -> None:
    text = (CONFIGS / "README.md").read_text()
    linked = {link.partition("/")[0] for link in re.findall(r"\]\((.*?)\)", text)}
    assert {path.name for path in CONFIGS.iterdir()} - {"README.md"} <= linked
