"""The documents: their commands run, in order, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cleanup_job.arguments import make_parser
from tests.keys import STALE_MS, write_coordinator, write_owned
from tests.servers import ServerProcess

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "configs/README.md"]
WITH_COMMANDS = ["README.md", "docs/guide.md", "docs/what-if.md"]

NOT_RUN = {
    "demo": "test_demo does",
    "restore FILE": "has no file",
    "run --journal /var/lib": "is no folder here",
}
"""What is only parsed, and why."""

EXPECTED = {"run": (0, 3), "restore": (0,), "check": (0,), "render": (0,), "acl": (0,)}

IGNORED = ("pip ", "python3 ", "touch ", "systemctl ", "journalctl ", "tail ")


def commands_of(name: str) -> list[str]:
    """The lines of all sh blocks, comments taken off."""
    text = (ROOT / name).read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+#.*$", "", line) for line in lines if line.strip()]


def ours(line: str) -> list[str]:
    """The words behind cleanup-job."""
    return shlex.split(line.partition("cleanup-job ")[2])


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_can_be_parsed(name: str) -> None:
    found = 0
    for line in commands_of(name):
        if line.startswith(IGNORED):
            continue
        assert "cleanup-job " in line, line
        make_parser().parse_args(ours(line))
        found += 1
    assert found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(client: redis.Redis) -> None:
    """The dead, the living and the lost, so that each command has something to do."""
    for number in range(5):
        write_coordinator(client, f"dead-{number}", STALE_MS)
    write_coordinator(client, "live", 0)
    write_owned(client, "lost")


@pytest.mark.default_server
@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_runs(
    name: str, folder: Path, server: ServerProcess, client: redis.Redis
) -> None:
    """In order, in one folder, against a real server in place of db.example."""
    if name == "docs/what-if.md":
        # Its restore is of a run that was before.
        fill(client)
        run_line(f"cleanup-job run --url {server.url} --journal journal", server)
    for line in commands_of(name):
        if line.startswith(IGNORED) or any(f"cleanup-job {part}" in line for part in NOT_RUN):
            continue
        if "--dry-run" in line:
            fill(client)  # what was there may be deleted by now
        if "--profile staging" in line and " run " in line:
            line = f"STAGING_REDIS_URL={server.url} {line}"
        run_line(line, server)


def run_line(line: str, server: ServerProcess) -> None:
    line = re.sub(r"redis://db\.example(:6379)?(/0)?", server.url, line)
    line = line.replace("REDIS_HOST=db.example REDIS_PORT=6379", f"REDIS_URL={server.url}")
    line = line.replace("cleanup-job", f"{shlex.quote(sys.executable)} -m cleanup_job", 1)
    script = f"export PYTHONPATH={shlex.quote(str(ROOT))}; {line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    command = ours(line.replace("-m cleanup_job", "cleanup-job"))[0]
    assert done.returncode in EXPECTED[command], (line, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.default_server
def test_the_python_of_the_guide_runs(server: ServerProcess, client: redis.Redis) -> None:
    fill(client)
    text = (ROOT / "docs/guide.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    code = code.replace("redis://db.example:6379/0", server.url)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "complete 5 30"


def test_the_yaml_of_the_guide_is_good(tmp_path: Path) -> None:
    from cleanup_job.config import load

    text = (ROOT / "docs/guide.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S)
    (tmp_path / "my.yaml").write_text(example)
    assert [*load(str(tmp_path / "my.yaml")).keys.owned] == ["jobs", "locks"]


def anchors_of(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", text).strip().lower().replace(" ", "-") for text in headings}


def links() -> Iterator[tuple[Path, str]]:
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            if "://" not in link:
                yield path, link


def test_links_lead_somewhere() -> None:
    for path, link in links():
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), (path.name, link)
        if anchor:
            assert anchor in anchors_of(target), (path.name, link)


def test_named_files_are_there() -> None:
    for path in DOCUMENTS:
        for name in re.findall(r"\b((?:configs|examples|docs)/[\w/.-]*\w)", path.read_text()):
            assert (ROOT / name).exists(), (path.name, name)
