"""A limit on memory: one line that says so, and nothing is lost."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import redis

from cleanup_job import waves
from cleanup_job.acl import LEASE_PREFIX
from cleanup_job.errors import BrokenOffError
from tests.keys import sweep
from tests.server.test_revival import write_many
from tests.servers import ServerProcess

pytestmark = pytest.mark.default_server

COORDINATORS = 10_000
KEYS = COORDINATORS * 6

SCRIPT = """
import resource, sys
from pathlib import Path
from cleanup_job import cli, job, progress, config, report, processes, yaml_file
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
cli.main(sys.argv[2:])
"""
"""The command with so many bytes of memory beyond what it has when it begins."""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory is in use")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_too_little_memory_is_told_in_a_line(
    server: ServerProcess, client: redis.Redis, workers: str
) -> None:
    """Two workers have no room for the stacks of their threads."""
    write_many(client, COORDINATORS)
    words = ["run", "--url", server.url, "--workers", workers]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "9000000", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 75, done.stderr
    assert re.fullmatch(r"cleanup-job: .*memory.*; nothing was deleted.*\n", done.stderr)
    client.unlink(*client.scan_iter(LEASE_PREFIX + b"*", count=1000), "none")
    assert client.dbsize() == KEYS


def test_in_the_middle_of_the_purge_the_next_run_goes_on(
    server: ServerProcess, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_many(client, 1_000)

    def purge_and_run_out(task: object, pulse: object) -> None:
        def advance(_: int) -> None:
            raise MemoryError

        monkeypatch.setattr(pulse, "advance", advance)
        purge(task, pulse)

    purge = waves.purge
    monkeypatch.setattr(waves, "purge", purge_and_run_out)
    with pytest.raises(BrokenOffError) as caught:
        sweep(server, engine="serial")
    assert caught.value.exit_code == 3
    monkeypatch.undo()
    assert 0 < client.dbsize() < 6_000
    assert sweep(server, engine="serial").status == "complete"
    assert client.dbsize() == 0
