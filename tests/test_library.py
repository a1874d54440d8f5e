"""The package as other programs use it: quiet, typed, cancellable, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import doctest
import gc
import importlib
import inspect
import io
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis

import cleanup_job
from cleanup_job import (
    Callbacks,
    CleanupJobError,
    Config,
    Observer,
    Redis,
    Report,
    load,
    processes,
    run,
)
from cleanup_job.errors import ConfigError, LockedError, ServerUnavailableError
from cleanup_job.lease import LEASE_PREFIX
from tests.keys import STALE_MS, assert_adds_up, heartbeat_key, keys_of, write_coordinator
from tests.server.test_revival import write_many
from tests.servers import ServerProcess, running

PACKAGE = Path(cleanup_job.__file__).parent

EXAMPLE = PACKAGE.parent / "examples" / "embed_in_scheduler.py"

ENGINES: list[dict[str, Any]] = [{"engine": "serial"}, {"engine": "processes", "workers": 2}]

pytestmark = pytest.mark.default_server


def config_for(server: ServerProcess, **settings: Any) -> Config:
    return Config(redis=Redis(server.url), **{"expect_all_dead": True, **settings})


def in_a_thread(work: Callable[[], Report]) -> Report:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result()


def state_of_the_process() -> dict[str, object]:
    """What a run must leave as it was."""
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "gc": (gc.isenabled(), gc.get_threshold()),
        "switch interval": sys.getswitchinterval(),
        "recursion limit": sys.getrecursionlimit(),
        "hooks": (sys.excepthook, threading.excepthook, sys.gettrace(), sys.getprofile()),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "umask": _umask(),
        "threads": {thread.name for thread in threading.enumerate()},
        "children": multiprocessing.active_children(),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "files": len([*Path("/proc/self/fd").iterdir()]),
    }


def _umask() -> int:
    before = os.umask(0o022)
    os.umask(before)
    return before


@pytest.mark.parametrize("settings", ENGINES)
def test_a_run_says_nothing_and_leaves_nothing(
    server: ServerProcess,
    client: redis.Redis,
    capfd: pytest.CaptureFixture[str],
    settings: dict[str, Any],
) -> None:
    write_many(client, 50)
    write_coordinator(client, "alive", 1000)
    config = config_for(server, **settings)
    run(config, dry_run=True)  # what is made once and for all: imports, the tracker of resources
    gc.collect()  # what other tests left, and would be gone behind this one
    before = state_of_the_process()
    report = run(config)
    gc.collect()
    assert state_of_the_process() == before
    assert (report.status, report.keys.deleted) == ("complete", 300)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("settings", ENGINES)
def test_a_run_in_a_thread(
    server: ServerProcess, client: redis.Redis, settings: dict[str, Any]
) -> None:
    write_many(client, 50)
    report = in_a_thread(lambda: run(config_for(server, **settings)))
    assert (report.status, report.keys.deleted) == ("complete", 300)
    assert client.dbsize() == 0


class Together(Observer):
    """Runs that wait for each other before each phase."""

    def __init__(self, runs: int) -> None:
        self.barrier = threading.Barrier(runs, timeout=60)

    def began(self, phase: str, keys: int) -> None:
        self.barrier.wait()


def at_once(configs: Sequence[Config], **options: Any) -> list[Report]:
    together = Together(len(configs))
    with ThreadPoolExecutor(len(configs)) as threads:
        runs = [threads.submit(run, one, observer=together, **options) for one in configs]
        return [future.result() for future in runs]


@pytest.mark.parametrize("settings", ENGINES)
def test_two_runs_at_once_on_two_servers(
    server: ServerProcess, client: redis.Redis, settings: dict[str, Any]
) -> None:
    """Past bug: one closed the other's connections, before it forked its workers."""
    with running() as other, other.client() as other_client:
        write_many(client, 200)
        write_many(other_client, 100)
        reports = at_once([config_for(one, **settings) for one in (server, other)])
        assert [(one.status, one.keys.deleted) for one in reports] == [
            ("complete", 1200), ("complete", 600)
        ]  # fmt: skip
        assert reports[0].run_id != reports[1].run_id
        assert client.dbsize() == other_client.dbsize() == 0


def test_three_dry_runs_at_once_on_one_server(server: ServerProcess, client: redis.Redis) -> None:
    """Past bug: they shared a connection, and got each other's replies."""
    write_many(client, 3_000)
    for report in at_once([config_for(server)] * 3, dry_run=True):
        assert (report.status, report.keys.planned) == ("complete", 18_000)


def test_workers_of_two_pools_are_numbered_by_pool() -> None:
    """Past bug: two workers of a pool could get the same place in what they share."""
    contexts = [processes._numbered("spawn", count(1)) for _ in range(2)]
    names = [context.Process(target=print).name for _ in range(2) for context in contexts]
    assert [name.rpartition("-")[2] for name in names] == ["1", "1", "2", "2"]


def test_two_runs_at_once_at_the_same_keys(server: ServerProcess, client: redis.Redis) -> None:
    write_many(client, 20)
    raised: list[CleanupJobError] = []

    class Second(Observer):
        def planned(self, *_: object) -> None:
            with pytest.raises(LockedError) as caught:
                in_a_thread(lambda: run(config_for(server)))
            raised.append(caught.value)

    assert run(config_for(server), observer=Second()).status == "complete"
    assert [(error.code, error.exit_code) for error in raised] == [("locked", 75)]


@pytest.mark.parametrize("settings", ENGINES)
def test_another_thread_cancels_it(
    server: ServerProcess, client: redis.Redis, settings: dict[str, Any]
) -> None:
    write_many(client, 10_000)
    cancelled, purging = threading.Event(), threading.Event()

    def note(phase: str, done: int, _: int) -> None:
        if phase == "purge" and done:
            purging.set()
            cancelled.wait(30)  # or it may be over before the other thread has its turn

    watching = Callbacks(progress=note, stop=cancelled.is_set)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(run, config_for(server, **settings), observer=watching)
        assert purging.wait(30)
        cancelled.set()
        report = future.result()
    if settings["engine"] == "serial":
        assert (report.status, report.stopped_by) == ("partial", "told")
        assert report.keys.failed == client.dbsize() > 0
    # Other processes may have been through by then.
    assert report.keys.deleted == 60_000 - client.dbsize()
    assert_adds_up(report)


def test_asyncio(server: ServerProcess, client: redis.Redis) -> None:
    write_many(client, 20)

    async def sweep_and_tick() -> tuple[Report, int]:
        ticks = 0
        sweeping = asyncio.create_task(asyncio.to_thread(run, config_for(server)))
        while not sweeping.done():
            await asyncio.sleep(0)
            ticks += 1
        return await sweeping, ticks

    report, ticks = asyncio.run(sweep_and_tick())
    assert (report.status, report.keys.deleted) == ("complete", 120)
    assert ticks > 1


def test_progress_goes_from_nothing_to_all(server: ServerProcess, client: redis.Redis) -> None:
    write_many(client, 2_000)
    calls: list[tuple[str, int, int]] = []
    watching = Callbacks(progress=lambda *call: calls.append(call))
    assert run(config_for(server), observer=watching).status == "complete"
    phases = [*dict.fromkeys(phase for phase, _, _ in calls)]
    assert phases == ["survey", "judge", "purge"]
    for phase in ("survey", "purge"):
        counts = [(done, total) for name, done, total in calls if name == phase]
        assert counts[0] == (0, 12_000)
        assert 11_900 <= counts[-1][0] <= counts[-1][1] == 12_000, "about: pages are shares"
        assert counts == sorted(counts)
        assert len(counts) > 2


class _OurOwnError(Exception):
    pass


def test_what_a_callback_raises_comes_out_and_nothing_stays_locked(
    server: ServerProcess, client: redis.Redis
) -> None:
    write_many(client, 10)

    def fail(*_: object) -> None:
        raise _OurOwnError

    with pytest.raises(_OurOwnError):
        run(config_for(server), observer=Callbacks(progress=fail))
    assert not [key for key in keys_of(client) if key.startswith(LEASE_PREFIX)]
    assert run(config_for(server)).keys.deleted == 60


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("redis://127.0.0.1:1/0", ServerUnavailableError),
        ("http://127.0.0.1/0", ConfigError),
    ],
)
def test_what_goes_wrong_is_one_of_our_errors(
    url: str, error: type[CleanupJobError], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error) as caught:
        run(Config(redis=Redis(url)))
    assert isinstance(caught.value, CleanupJobError)
    assert caught.value.code
    assert capfd.readouterr() == ("", "")


def _sweep_into(results: Any, url: str) -> None:
    report = run(Config(redis=Redis(url), workers=2, expect_all_dead=True))
    results.put((report.status, report.keys.deleted, report.workers))


def test_a_daemonic_process_sweeps_by_itself(server: ServerProcess, client: redis.Redis) -> None:
    """It may have no children; the workers of many task queues are such processes."""
    write_many(client, 10)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    results = context.Queue()
    process = context.Process(target=_sweep_into, args=(results, server.url), daemon=True)
    process.start()
    assert results.get(timeout=60) == ("complete", 60, 1)
    process.join()
    results.close()
    results.join_thread()


def test_the_public_names() -> None:
    assert {*cleanup_job.__all__} <= {*dir(cleanup_job)}
    for name in cleanup_job.__all__:
        public: Any = getattr(cleanup_job, name)
        assert name == "__version__" or inspect.getdoc(public)
    with pytest.raises(AttributeError, match="'walk'"):
        cleanup_job.walk  # noqa: B018
    assert load(flags={"workers": "3"}) == Config(workers=3)


def doctests() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for path in sorted(PACKAGE.glob("*.py")):
        if ">>>" in path.read_text("utf-8"):
            name = "cleanup_job" if path.stem == "__init__" else f"cleanup_job.{path.stem}"
            yield from finder.find(importlib.import_module(name), name)


@pytest.mark.parametrize(
    "example", [test for test in doctests() if test.examples], ids=lambda test: test.name
)
def test_doctests(example: doctest.DocTest, server: ServerProcess, client: redis.Redis) -> None:
    """`url` in them is the address of an empty server."""
    said = io.StringIO()
    example.globs["url"] = server.url
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(example, out=said.write).failed == 0, said.getvalue()


# -- examples/embed_in_scheduler.py ---------------------------------------------------------------


@pytest.fixture
def sweeper_class() -> Any:
    return runpy.run_path(str(EXAMPLE))["Sweeper"]


def test_the_example_sweeps_again_and_again(
    server: ServerProcess,
    client: redis.Redis,
    sweeper_class: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    sweeper = sweeper_class(config_for(server, engine="serial"))
    write_coordinator(client, "alive", 1000)

    async def serve_until(done: Callable[[], bool]) -> None:
        service = asyncio.create_task(sweeper.serve(every_s=0.05))
        deadline = time.monotonic() + 30
        while not done() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        sweeper.cancel()
        await service

    async def die_twice() -> None:
        def comes_and_goes() -> bool:
            if client.exists(heartbeat_key(f"dead-{len(died)}")):
                return False
            died.append(None)
            write_coordinator(client, f"dead-{len(died)}", STALE_MS)
            return len(died) > 2

        died: list[None] = []
        await serve_until(comes_and_goes)

    asyncio.run(die_twice())
    assert client.exists(heartbeat_key("alive"))
    assert sweeper.progress == ("waiting", 0, 0)
    assert capfd.readouterr().out == ""


def test_the_example_tells_each_outcome(
    server: ServerProcess, client: redis.Redis, sweeper_class: Any
) -> None:
    told: list[str] = []
    write_many(client, 5)
    refused = sweeper_class(config_for(server, max_purge=1), told.append)
    assert refused.sweep().status == "refused"
    assert "more than max_purge 1" in told.pop()

    cancelled = sweeper_class(config_for(server), told.append)
    cancelled.cancel()
    assert cancelled.sweep().status == "partial"
    assert told == []

    away = sweeper_class(Config(redis=Redis("redis://127.0.0.1:1/0")), told.append)
    assert [away.sweep() for _ in range(3)] == [None] * 3
    assert len(told) == 1, "the third time in a row"
    assert "no sweep (unreachable)" in told.pop()

    wrong = sweeper_class(Config(redis=Redis("http://nowhere")), told.append)
    assert wrong.sweep() is None
    assert "no sweep (config)" in told.pop()

    good = sweeper_class(config_for(server), told.append)
    assert good.sweep().status == "complete"
    assert (told, good.bad_runs, client.dbsize()) == ([], 0, 0)


def test_the_example_ends_a_run_at_hand(
    server: ServerProcess, client: redis.Redis, sweeper_class: Any
) -> None:
    write_many(client, 10_000)
    sweeper = sweeper_class(config_for(server, engine="serial", nice=3))
    with ThreadPoolExecutor(1) as threads:
        sweeping = threads.submit(sweeper.sweep)
        deadline = time.monotonic() + 30
        while sweeper.progress[0] != "purge" and time.monotonic() < deadline:
            time.sleep(0.001)
        sweeper.cancel()
        report = sweeping.result()
    assert (report.status, report.stopped_by) == ("partial", "told")
    assert report.keys.failed == client.dbsize() > 0
