"""The rows: what each runs, what it promises, and up to which size it is worth the time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.case import COVERING_GLOB, Case, Promise
from bench.measure import ROOT, Measured
from bench.servers import CommandLineClient, Server

WALKS_PER_COORDINATOR = 2
"""Of the shell script's algorithm: one for ACKs, one for idempotency keys."""

SHELLS_AT_ONCE = 10

LARGE_COUNT = 1_000

SCAN_COUNT = 10
"""What SCAN takes where nobody says it."""

SHELL_COUNT = 100

_ROUND_TRIP_S = 60e-6
_PROCESS_S = 5e-3
_PASSED_IN_SCRIPT_S = 1e-7
"""Of a round trip, of a command-line client, and of a key that a walk inside a script passes:
guesses, which only decide what is not begun at all."""


@dataclass(frozen=True)
class Setting:
    """What a row needs to know to make its command."""

    server: Server
    case: Case
    clients: list[CommandLineClient]
    sample_s: float
    folder: Path
    """Empty, and the row's own."""


@dataclass(frozen=True)
class Told:
    """What a row says about its run.

    Attributes:
        sweep_s: its own time without the start of its process; None where it does not say.
        scale: by how much its figures must grow to stand for the whole case; 1 for all but
            samples; None for a sample too short to stand for anything.
        stale_done: how many coordinators it deleted, if it is a sample.
        error: why its own words are enough to fail it.
        report: figures of its own that are worth keeping.
    """

    sweep_s: float | None = None
    scale: float | None = 1.0
    stale_done: int | None = None
    error: str | None = None
    report: dict[str, Any] | None = None


@dataclass(frozen=True)
class Row:
    """One way to do the work.

    Attributes:
        name: as it is given to `--rows`.
        title: one line for the legend.
        command: what is run; None where something for it is not installed.
        hear: reads what it printed.
        promise: what is checked.
        most: the largest size at which it runs without `--slow`, once rather than in rounds
            beyond it.
        guess_s: about how long a case would take it.
    """

    name: str
    title: str
    command: Callable[[Setting], list[str] | None]
    hear: Callable[[Setting, Measured], Told]
    promise: Promise = Promise.SWEEP
    most: int | None = None
    guess_s: Callable[[Case], float] = lambda _: 0.0


def rows() -> list[Row]:
    """All of them, in the order of the table."""
    return [
        Row("floor", "two walks in flight, MGET, UNLINK; no guard, no report", _floor, _own_time),
        *(_ours(workers) for workers in (1, 2, 4)),
        _redis_py("redis-py", "per_key", "redis-py as people write it, a round trip per key"),
        _redis_py("redis-py-pipelined", "pipelined", "redis-py, a thousand keys per round trip"),
        _pipe("pipe", None),
        _pipe("pipe-count", LARGE_COUNT),
        Row("lua", "the Lua algorithm, one EVAL", _lua, _own_time, most=1_000, guess_s=_lua_s),
        _shell("shell", 1),
        _shell("shell-10", SHELLS_AT_ONCE),
        Row("walk", _WALK_TITLE, _walk, _own_time, promise=Promise.LOOK),
        Row("import-redis", _IMPORT_TITLE, _import, lambda *_: Told(), promise=Promise.LOOK),
    ]


def named(names: Collection[str]) -> list[Row]:
    """The rows of exactly these names, in the order of the table."""
    return [row for row in rows() if row.name in names]


def select(words: list[str]) -> list[Row]:
    """Rows by name, or all that begin so: `ours` is `ours-1`, `ours-2` and `ours-4`.

    Raises:
        ValueError: no row has that name.
    """
    chosen = []
    for word in words:
        found = [row for row in rows() if row.name == word or row.name.startswith(f"{word}-")]
        if not found:
            raise ValueError(f"no row {word!r}; there are {', '.join(row.name for row in rows())}")
        chosen += found
    return named({found.name for found in chosen})


# -- Python ----------------------------------------------------------------------------------


def _floor(setting: Setting) -> list[str]:
    # Without a haystack a bare walk is the floor; with one, replies should not carry it.
    glob = [COVERING_GLOB] if setting.case.unrelated else []
    return [sys.executable, "-m", "bench.clients.floor", setting.server.url, *glob]


def _walk(setting: Setting) -> list[str]:
    return [sys.executable, "-m", "bench.clients.walk", setting.server.url, COVERING_GLOB]


_WALK_TITLE = "one bare walk over all keys with the covering glob, two SCANs in flight"


def _import(_: Setting) -> list[str]:
    return [sys.executable, "-c", "import redis"]


_IMPORT_TITLE = 'python -c "import redis": what no Python client can do without'


def _lua(setting: Setting) -> list[str]:
    return [sys.executable, "-m", "bench.clients.lua", setting.server.url]


def _lua_s(case: Case) -> float:
    # A walk per stale coordinator; in the middle half of the keys that go are still there.
    mean_keys = case.keys - case.stale_keys / 2
    return case.stale * mean_keys * _PASSED_IN_SCRIPT_S


def _redis_py(name: str, way: str, title: str) -> Row:
    def command(setting: Setting) -> list[str]:
        return [sys.executable, "-m", "bench.clients.redis_py", setting.server.url, way]

    if way == "pipelined":
        return Row(name, title, command, _own_time)
    return Row(name, title, command, _own_time, most=10_000, guess_s=_per_key_s)


def _per_key_s(case: Case) -> float:
    pages = 3 * case.keys / SCAN_COUNT
    return (pages + case.coordinators + case.stale_keys) * _ROUND_TRIP_S


def _own_time(_: Setting, measured: Measured) -> Told:
    return Told(sweep_s=json.loads(measured.stdout)["sweep_s"])


def _ours(workers: int) -> Row:
    def command(setting: Setting) -> list[str]:
        return our_command(setting.server, str(workers))

    return Row(
        f"ours-{workers}", f"cleanup-job run --workers {workers}, guarded", command, _our_report
    )


def our_command(server: Server, workers: str) -> list[str]:
    """A sweep that prints its report."""
    words = ["run", "--url", server.url, "--workers", workers, "--json", "-"]
    return [sys.executable, "-m", "cleanup_job", *words]


def _our_report(setting: Setting, measured: Measured) -> Told:
    report = json.loads(measured.stdout)
    return Told(
        sweep_s=report["duration_s"],
        error=report_error(report, setting.case.stale_keys),
        report={name: report[name] for name in ("phases", "commands", "server")},
    )


def report_error(report: Mapping[str, Any], stale_keys: int) -> str | None:
    """What a sweep's own report says against it."""
    keys = report["keys"]
    if (report["status"], keys["deleted"], keys["planned"]) == ("complete", stale_keys, stale_keys):
        return None
    return f"its report says {report['status']}, {keys['deleted']:,} deleted"


# -- the shell -------------------------------------------------------------------------------


def _pipe(name: str, count: int | None) -> Row:
    def command(setting: Setting) -> list[str] | None:
        client = _client(setting, counts=count is not None)
        if client is None:
            return None
        words = ["--pattern", COVERING_GLOB] if setting.case.unrelated else []
        words += ["--count", str(count)] if count else []
        script = (
            'cli=$1 port=$2; shift 2; "$cli" -p "$port" --scan "$@" | '
            'xargs -n 1000 "$cli" -p "$port" unlink'
        )
        return ["sh", "-c", script, "sh", str(client.path), str(setting.server.port), *words]

    scan = f"--scan --count {count}" if count else "--scan"
    title = f"redis-cli {scan} | xargs -n 1000 redis-cli unlink, blind"

    def guess_s(case: Case) -> float:
        return case.keys / (count or SCAN_COUNT) * _ROUND_TRIP_S

    return Row(name, title, command, lambda *_: Told(), promise=Promise.BLIND, guess_s=guess_s)


def _shell(name: str, shells: int) -> Row:
    def command(setting: Setting) -> list[str] | None:
        client = _client(setting, counts=False)
        if client is None:
            return None
        script = str(ROOT / "bench" / "clients" / "per_coordinator.sh")
        limits = [str(shells), str(setting.sample_s), str(setting.folder)]
        return ["sh", script, str(client.path), str(setting.server.port), *limits]

    at_once = "" if shells == 1 else f", {shells} at once"
    title = f"the shell script's algorithm{at_once}; cut short and projected where marked ~"

    def guess_s(case: Case) -> float:
        return case.keys / SHELL_COUNT * _PROCESS_S  # for the list; the rest is a sample

    return Row(
        name, title, command, _projected, promise=Promise.SAMPLE, most=10_000, guess_s=guess_s
    )


def _projected(setting: Setting, measured: Measured) -> Told:
    """From the walks made in the sample to those that all coordinators would take.

    Walks shorten as keys go. The projection grants that, in proportion to the keys, which is
    about half the time of a plain multiplication.
    """
    told = json.loads(measured.stdout)
    case = setting.case
    if told["purged"] == case.stale:
        return Told(stale_done=told["purged"], report=told)
    if not told["pages"]:
        return Told(scale=None, stale_done=told["purged"], report=told)
    done = told["pages"] / told["list_pages"] / WALKS_PER_COORDINATOR
    mean_keyspace = 1 - case.stale_keys / case.keys / 2
    list_s, loop_s = told["list_us"] / 1e6, told["loop_us"] / 1e6
    whole_s = list_s + loop_s * case.stale / done * mean_keyspace
    return Told(scale=whole_s / measured.wall_s, stale_done=told["purged"], report=told)


def _client(setting: Setting, *, counts: bool) -> CommandLineClient | None:
    return next((client for client in setting.clients if client.counts or not counts), None)
