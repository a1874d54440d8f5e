"""`python -m bench.far`: how many bytes pass through the job's process with `engine: dask`.

A scheduler and workers run as processes of their own. The job reaches the scheduler only through a
relay, which counts what it passes on in both directions: so nothing is left out, whatever Dask
sends. It is compared with the names of the keys, which stay with the workers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench import cli, machine, nodes
from bench.cli import EXIT_BAD, EXIT_GOOD, say
from bench.nodes import Nodes, Population, Seeder
from bench.servers import DEFAULT, NAMES
from cleanup_job.config import Config, Dask, Redis
from cleanup_job.job import run
from cleanup_job.report import Report

START_S = 60.0

MOST_SHARE = 0.01
"""Of the names' size; what issue 7 asks for."""


class Relay:
    """Passes bytes on between the job and the scheduler, and counts them."""

    def __init__(self, port: int) -> None:
        self.to_job = self.from_job = 0
        self._behind = port
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(START_S)

    def close(self) -> None:
        """End it; what was counted stays."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(START_S)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        await asyncio.gather(
            self._pass(reader, behind_writer, "from_job"),
            self._pass(behind_reader, writer, "to_job"),
        )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: str
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                setattr(self, count, getattr(self, count) + len(data))
                writer.write(data)
                await writer.drain()
        writer.close()


@contextmanager
def fleet(workers: int) -> Iterator[int]:
    """A scheduler and so many workers; the port of the scheduler."""
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory()))
        address = folder / "scheduler.json"
        _start(ends, folder, "dask_scheduler", "--port", "0", "--scheduler-file", str(address))
        _until(address.exists)
        for _ in range(workers):
            _start(
                ends, folder, "dask_worker", "--scheduler-file", str(address), "--nthreads", "1",
                "--no-nanny",
            )  # fmt: skip
        yield int(json.loads(address.read_text())["address"].rpartition(":")[2])


def _start(ends: ExitStack, folder: Path, program: str, *words: str) -> None:
    log = ends.enter_context((folder / f"{program}.log").open("ab"))
    process = subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{program}", "--host", "127.0.0.1",
         "--no-dashboard", *words],
        stdout=log, stderr=log, cwd=folder, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip

    def end() -> None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()

    ends.callback(end)


def _until(done: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + START_S
    while not done():
        if time.monotonic() > give_up_at:
            raise TimeoutError("the scheduler did not start")
        time.sleep(0.1)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if no more than 1 % of the names' size passed, 1 if it was more, 2 for usage."""
    parser = argparse.ArgumentParser(prog="python -m bench.far", description=__doc__)
    parser.add_argument("--coordinators", type=cli.positive, default=1_000_000, metavar="N")
    parser.add_argument("--primaries", type=cli.positive, default=1, metavar="N")
    parser.add_argument("--workers", type=cli.positive, default=2, metavar="N")
    parser.add_argument("--server", choices=NAMES, default=DEFAULT)
    arguments = parser.parse_args(argv)
    return cli.supervised("bench.far", lambda: _measured(arguments))


def _measured(arguments: argparse.Namespace) -> int:
    population = Population(arguments.coordinators)
    with (
        nodes.running(arguments.server, arguments.primaries) as servers,
        fleet(arguments.workers) as port,
    ):
        say(machine.headline(machine.describe()))
        say(f"{arguments.workers} workers, {arguments.primaries} primaries")
        live = Seeder(servers, population).seed()
        size = names_size(servers)
        relay = Relay(port)
        report = _sweep(servers, f"tcp://127.0.0.1:{relay.port}")
        relay.close()
        good = _told(report, relay, size)
        if not nodes.untouched(servers, live) or servers.keys() != len(live):
            say("the servers do not hold what they should")
            good = False
        return EXIT_GOOD if good else EXIT_BAD


def names_size(servers: Nodes) -> int:
    """Bytes of all names of keys, by a walk of our own."""
    return sum(sum(map(len, client.scan_iter(count=10_000))) for client in servers.clients)


def _sweep(servers: Nodes, scheduler: str) -> Report:
    config = Config(
        redis=Redis(servers.url), engine="dask", dask=Dask(scheduler=scheduler),
        expect_all_dead=True,
    )  # fmt: skip
    return run(config)


def _told(report: Report, relay: Relay, size: int) -> bool:
    share = (relay.to_job + relay.from_job) / size
    say(
        f"{report.status}: {report.coordinators.purged:,} coordinators, {report.keys.deleted:,} of "
        f"{report.keys.planned:,} keys deleted; survey {report.phases.survey_s:.1f}, judge "
        f"{report.phases.judge_s:.1f}, purge {report.phases.purge_s:.1f} s"
    )
    say(
        f"names {size:,} bytes; to the job {relay.to_job:,}, from it {relay.from_job:,}: "
        f"{share:.2%} of the names (at most {MOST_SHARE:.0%})"
    )
    return report.status == "complete" and share <= MOST_SHARE


if __name__ == "__main__":
    sys.exit(main())
