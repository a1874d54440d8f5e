"""One run of a suite: servers come and go, tables are printed, and the JSON grows case by case."""

from __future__ import annotations

import compileall
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from bench import machine, record, servers, tables, targets
from bench.load import LoadError
from bench.load import tables as load_tables
from bench.load.result import foreground_p99
from bench.load.run import run as run_load
from bench.measure import ROOT, TimedOutError
from bench.rounds import Plan, Result, compare
from bench.rows import Setting
from bench.suites import Load, Step, Suite


@dataclass
class Session:
    """What was measured so far.

    Attributes:
        json: written after each case, so that a long bench may be ended early.
        say: shows a line of progress.
        notes: what was left out, and why.
        good: whether each row left on the server what it should.
        load: what the load test found; None before, and if there is none.
    """

    suite: Suite
    timeout_s: float
    json: Path | None
    say: Callable[[str], None]
    notes: list[str] = field(default_factory=list)
    good: bool = True
    load: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self._clients = servers.command_line_clients()
        self._about = machine.describe()
        self._about["command_line_clients"] = [client.version for client in self._clients]
        self._cases: list[dict[str, Any]] = []
        self._titles: dict[str, Result] = {}

    def run(self) -> None:
        """All steps and the load test; what needs a server that is not installed is left out.

        Raises:
            FileNotFoundError: none of the servers is installed.
        """
        print(machine.headline(self._about))
        # As pip does with what it installs. From a fresh clone the first row would compile it.
        compileall.compile_dir(ROOT / "cleanup_job", quiet=1)
        load = self.suite.load
        wanted = dict.fromkeys(step.server for step in self.suite.steps)
        wanted |= {load.server: None} if load else {}
        missing = [name for name in wanted if servers.binary_of(name) is None]
        if len(missing) == len(wanted):
            raise FileNotFoundError(f"{', '.join(missing)}: not installed; see bench/README.md")
        for name in missing:
            self._note(f"{name} is not installed: its part of the suite is left out")
        for name, steps in groupby(self.suite.steps, key=lambda step: step.server):
            if name not in missing:
                self._use(name, steps)
        if self._titles:
            print("\n" + tables.legend([*self._titles.values()]), flush=True)
        if load and load.server not in missing:
            self._test_load(load)
        for note in self.notes:
            print(f"note: {note}")

    def content(self) -> dict[str, Any]:
        """All of it, for the file."""
        content: dict[str, Any] = {
            "schema_version": record.SCHEMA_VERSION,
            "suite": self.suite.name,
            "machine": self._about,
            "notes": self.notes,
            "foreground": self.load and foreground_p99(self.load),
            "cases": self._cases,
            "load": self.load,
        }
        verdicts = targets.judge(record.read(content))
        return {**content, "targets": [verdict.to_json() for verdict in verdicts]}

    def finish(self) -> record.Record:
        """Write the file once more, now that all is done; all of it, to judge and to draw."""
        content = self.content()
        if self.json:
            record.write(self.json, content)
            print(f"wrote {self.json}")
        return record.read(content)

    def _use(self, name: str, steps: Iterable[Step]) -> None:
        pending = deque(steps)
        while pending:
            with servers.running(name) as server:
                try:
                    while pending:
                        self._take(server, pending.popleft())
                except TimedOutError as error:
                    # The server may still be busy with what was asked; another one goes on.
                    self.good = False
                    self._note(f"a case was given up: {error}")

    def _take(self, server: servers.Server, step: Step) -> None:
        with server.client() as client:
            product = machine.product(client)
        suite = self.suite
        plan = Plan(step.rounds, suite.slow, self.timeout_s, step.once, suite.most_s)
        setting = Setting(server, step.case, self._clients, suite.sample_s, Path())
        results = compare(setting, step.chosen, plan, self.say)
        print("\n" + tables.table(step.case, results, product), flush=True)
        self.good = self.good and all(result.good for result in results)
        self._titles |= {result.row.name: result for result in results}
        self._cases.append(_to_json(step, product, results))
        if self.json:
            record.write(self.json, self.content())

    def _test_load(self, load: Load) -> None:
        try:
            self.load = run_load(load.server, load.plan, self.say)
        except LoadError as error:
            self.good = False
            self._note(f"the load test was given up: {error}")
            return
        self.good = self.good and self.load["good"]
        print("\n" + load_tables.tables(self.load), flush=True)

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.say(f"note: {text}")


def _to_json(step: Step, product: str, results: Sequence[Result]) -> dict[str, Any]:
    return {
        "server": step.server,
        "product": product,
        "coordinators": step.case.coordinators,
        "stale": step.case.stale,
        "unrelated": step.case.unrelated,
        "keys": step.case.keys,
        "rounds": step.rounds,
        "rows": [result.to_json() for result in results],
    }
