"""One scenario from its seed to its four checks.

A scenario is a fault, the phase in which it strikes, the servers, the engine, and a seed that
draws the data and the instant. Whatever happens, afterwards:

1. every coordinator that lived throughout is whole, byte for byte (so are those that cannot be
   understood), and of one that came back all that was there when its heartbeat was written;
2. the report's counts add up, per family and in total;
3. the servers' truth is the report's: what is missing was deleted by it, or is unknown (what this
   means where a server loses its data is said at `Truth`);
4. the next plain run completes; then nothing of a dead coordinator is left, and all else is.

And the exit code is a documented one, nothing hangs, and no traceback is shown.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from tests.faults.people import GRACE_S, People, draw, write
from tests.faults.proxy import Link, Moment, Request, When
from tests.faults.runs import Run, Tool
from tests.faults.stage import Stage
from tests.keys import as_bytes

PHASES = ("lease", "survey", "between", "purge")
"""Of a run. RESTORE stands for the whole of a restore."""

RESTORE = "restore"

TOPOLOGIES = ("standalone", "cluster")
ENGINES = ("serial", "workers")

MOST_N = {"lease": 8, "survey": 10, "between": 8, "purge": 14, RESTORE: 300}
"""The moment is one of the first so many requests of its phase. There are a few more."""

DOCUMENTED = frozenset({0, 2, 3, 4, 75, 130, 143})
"""Exit codes, but for 1, which is a bug."""

NOTHING_DELETED = frozenset({4, 75})
"""Exit codes that promise it."""

Act = Callable[[Link], Awaitable[None]]


Report = dict[str, Any]


class Truth(Enum):
    """What the server's truth is compared with.

    EXACT: what is missing was counted as deleted, or as unknown.
    LATE: or as failed, since what had been sent before a timeout may reach the server after we
        looked (the design says so). Never less than what counts as deleted.
    UNDONE: a server came back without the last deletes, or with nothing. Then a report that
        calls itself complete must be true, and any other must only add up.
    """

    EXACT = "exact"
    LATE = "late"
    UNDONE = "undone"


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: as the table names it.
        act: gives what happens at the moment, which the scene may draw.
        when: at which points of a request it may strike.
        truth: see `Truth`.
        phases, topologies, engines: where it makes sense.
        restarts: servers forget how long keys were idle, as they do of keys that are restored; so
            orphans are not purged.
        codes: of exit, beside the documented ones.
        before: what is done before the run starts, while all is well.
        options: of the run: its `limits`, its `argv`, its streams; see `Scene.start`.
        then: more that must be true, found out between checks 3 and 4; gives what is not.
        has_report: False if the run may end without one although it deleted.
        few: by default it is played once: something has to be waited for, or it is another one in
            other circumstances.
        only_asked_for: topologies where it takes so long that none is.
        coordinators: about how many are drawn.
        most_n: in place of `MOST_N`, where more data makes more requests.
    """

    name: str
    act: Callable[[Scene], Act] | None
    when: tuple[When, ...] = ("before", "sent", "reply")
    truth: Truth = Truth.EXACT
    phases: tuple[str, ...] = PHASES
    topologies: tuple[str, ...] = TOPOLOGIES
    engines: tuple[str, ...] = ENGINES
    restarts: bool = False
    codes: frozenset[int] = frozenset()
    before: Callable[[Scene], object] | None = None
    options: Callable[[Scene], dict[str, Any]] = lambda _: {}
    then: Callable[[Scene, Outcome, list[Report | None]], list[str]] = lambda *_: []
    has_report: bool = True
    few: bool = False
    only_asked_for: tuple[str, ...] = ()
    coordinators: int = 220
    most_n: int | None = None


@dataclass(frozen=True)
class Scenario:
    """A fault at a place and a time."""

    fault: str
    phase: str
    topology: str
    engine: str
    seed: int

    def __str__(self) -> str:
        return f"{self.fault}-{self.phase}-{self.topology}-{self.engine}-{self.seed}"


@dataclass
class Outcome:
    """How a scenario went: what `--fault-log` has of it.

    Attributes:
        lost: keys of living coordinators that are gone or altered.
        wrong: what is wrong with the report's counts (checks 2 and 3).
        unfinished: what is wrong behind the next run (check 4).
        odd: an exit code or a traceback that should not be.
        struck: how the moment came about.
        note: what else is worth telling.
    """

    scenario: Scenario
    struck: str = ""
    code: int | None = None
    status: str = ""
    seconds: float = 0.0
    hung: bool = False
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def problems(self) -> list[str]:
        hung = ["hung"] if self.hung else []
        lost = [f"lost: {key}" for key in self.lost[:5]]
        return [*hung, *lost, *self.wrong, *self.unfinished, *self.odd]

    def line(self) -> str:
        """As JSON."""
        checks = {
            "live_whole": not self.lost,
            "counts": not self.wrong,
            "next_run": not self.unfinished,
            "exit": not self.odd,
        }
        known = {
            **self.scenario.__dict__,
            "struck": self.struck,
            "code": self.code,
            "status": self.status,
            "seconds": round(self.seconds, 3),
            "hung": self.hung,
            "live_keys_lost": len(self.lost),
            **checks,
            "problems": self.problems,
            "note": self.note,
        }
        return json.dumps(known)


class Scene:
    """The state of one scenario, which a fault's act may look at and change.

    Attributes:
        people: who is there; an act that changes that says so here.
        rng: draws all that is drawn.
        protected: keys with what they hold (DUMP) that must be there, since an act saw or wrote
            them for one who lives.
        lossy: ids that came back and may have lost owned keys, as clusters do; the report must
            then tell.
        rewritten: keys that it wrote, which may have been deleted before.
        removed: keys that the fault itself took away, or let expire.
        forgotten: keys of which a server that lost its data knows nothing any more.
        excused: keys of the dead that the next run cannot find, as the fault took their heartbeat.
        mortal: keys of those who died after a plan was made: this run leaves them, the next not.
        recorded: what keys held that are in a journal, or will be.
        wrong: what an act saw that should not be.
        others: more runs at the same time, with their reports to be.
    """

    def __init__(
        self,
        scenario: Scenario,
        fault: Fault,
        stage: Stage,
        tool: Tool,
        folder: Path,
        people: People | None = None,
    ) -> None:
        self.scenario = scenario
        self.fault = fault
        self.stage = stage
        self.tool = tool
        self.folder = folder
        self.rng = random.Random(str(scenario))
        self.people = people or draw(self.rng, orphans=not fault.restarts, size=fault.coordinators)
        self.run: Run | None = None
        self.after = contextlib.ExitStack()
        self.protected: dict[bytes, bytes] = {}
        self.lossy: set[bytes] = set()
        self.rewritten: set[bytes] = set()
        self.removed: set[bytes] = set()
        self.forgotten: set[bytes] = set()
        self.excused: set[bytes] = set()
        self.mortal: set[bytes] = set()
        self.recorded: dict[bytes, bytes] = {}
        self.wrong: list[str] = []
        self.others: list[tuple[Run, Path]] = []
        self._starts = 0

    @property
    def orphans(self) -> str:
        return "purge" if self.people.purges_orphans else "report"

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        """Do it when the time has come, or when the run has ended."""
        lock = threading.Lock()
        done = False

        def once() -> None:
            nonlocal done
            with lock:
                if not done:
                    done = True
                    what()

        timer = threading.Timer(seconds, once)
        timer.start()
        self.after.callback(timer.join)
        self.after.callback(once)
        self.after.callback(timer.cancel)

    def start(
        self,
        *,
        command: Iterable[str] = ("run",),
        argv: Iterable[str] = ("--json", "-"),
        streams: tuple[int, int, int] | None = None,
        **options: Any,
    ) -> tuple[Run, Path]:
        """Start a run through the proxies; its report goes to a file unless told otherwise."""
        self._starts += 1
        out, err = (self.folder / f"{name}-{self._starts}" for name in ("out", "err"))
        words = [*command, "-c", str(self.folder / "cleanup-job.yaml"), *argv]
        with out.open("wb") as to_out, err.open("wb") as to_err, open(os.devnull) as nothing:  # noqa: PTH123
            given = streams or (nothing.fileno(), to_out.fileno(), to_err.fileno())
            run = self.tool.start(words, given, **options)
        return run, out


# -- play -----------------------------------------------------------------------------------------


def play(scenario: Scenario, fault: Fault, stage: Stage, tool: Tool, folder: Path) -> Outcome:
    """Let it happen, and check."""
    began = time.monotonic()
    outcome = Outcome(scenario)
    shift = 0
    while not _try(scenario, fault, stage, tool, folder, outcome, shift):
        # The phase had fewer requests than that. The same again, and earlier.
        shift += 1
        outcome = Outcome(scenario)
    outcome.seconds = time.monotonic() - began
    return outcome


def _try(
    scenario: Scenario,
    fault: Fault,
    stage: Stage,
    tool: Tool,
    folder: Path,
    outcome: Outcome,
    shift: int,
) -> bool:
    stage.reset()
    scene = Scene(scenario, fault, stage, tool, folder)
    write(scene.people, stage.clients, stage.place)
    left = scene.people.to_be_left()
    before, whole = scene.people.everything(), stage.dumps(left)
    stage.configuration(
        folder, orphans=scene.orphans, orphan_grace=GRACE_S, **engine_of(scenario.engine)
    )
    with scene.after:
        if fault.before is not None:
            fault.before(scene)
        moment = moment_of(scene, shift)
        stage.proxies.begin(*([moment] if moment else []))
        scene.run, out = scene.start(**fault.options(scene))
        outcome.code = scene.run.wait()
        outcome.hung = scene.run.hung
        for other, _ in scene.others:
            other.wait()
            outcome.hung = outcome.hung or other.hung
    stage.proxies.settle()
    if moment is not None and not moment.struck:
        assert moment.n > 1, f"{scenario}: its moment never came"
        return False
    stage.await_well()
    if moment is not None:
        outcome.struck = f"{moment.when} {moment.n} of {scenario.phase}, {moment.struck_at}"
    reports = [read_report(out), *(read_report(path) for _, path in scene.others)]
    _check(scene, outcome, before, whole, reports)
    return True


def engine_of(engine: str) -> dict[str, Any]:
    """The settings for it."""
    if engine == "serial":
        return {"engine": "serial", "workers": 1}
    return {"engine": "processes", "workers": 2}


def moment_of(scene: Scene, shift: int = 0) -> Moment | None:
    fault, rng = scene.fault, scene.rng
    if fault.act is None:
        return None
    n = max(1, rng.randint(1, fault.most_n or MOST_N[scene.scenario.phase]) >> shift)
    when = rng.choice(fault.when)
    share = rng.choice([0.0, rng.random(), 1.0])
    return Moment(_Picker(scene.scenario.phase), n, when, fault.act(scene), share)


class _Picker:
    """The requests of a phase; those of the lease are one of their own, whenever they come.

    The rehearsal of the purge, which is between, loads the script; so what comes before it is the
    survey's, and what comes behind it, on keys that exist, is the purge's. A restore is all one.
    """

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._loaded = False

    def __call__(self, request: Request) -> bool:
        return self._phase_of(request) == self._phase

    def _phase_of(self, request: Request) -> str:
        command = request.command
        if request.is_of_lease:
            return "lease"
        if self._phase == RESTORE:
            return RESTORE
        if command == "SCRIPT":
            self._loaded = True
        if request.is_rehearsed or command in ("SCRIPT", "OBJECT"):
            return "between" if not (command == "OBJECT" and self._loaded) else "purge"
        if command in ("SCAN", "MGET", "GET", "TYPE") and not self._loaded:
            return "survey"
        if command in ("EVALSHA", "GET", "UNLINK") and self._loaded:
            return "purge"
        return ""


def read_report(path: Path) -> Report | None:
    """The report that a run left, if it left one."""
    text = path.read_bytes() if path.exists() else b""
    start = text.find(b"{\n")
    return None if start < 0 else dict(json.loads(text[start:]))


# -- check ----------------------------------------------------------------------------------------


def _check(
    scene: Scene,
    outcome: Outcome,
    before: set[bytes],
    whole: dict[bytes, bytes | None],
    reports: list[Report | None],
) -> None:
    there = scene.stage.keys()
    known = [report for report in reports if report is not None]
    outcome.status = str(known[0]["status"]) if known else ""
    if known:
        outcome.errors = [error["code"] for error in known[0]["errors"]]
    expected = {key: held for key, held in whole.items() if key not in scene.forgotten}
    expected |= scene.protected
    outcome.lost = lost_of(scene.stage, expected)
    outcome.wrong += scene.wrong
    if scene.scenario.phase == RESTORE:
        outcome.wrong += _truth_of_restore(scene, there, known)
    else:
        for report in known:
            outcome.wrong += sums_of(report)
        outcome.wrong += _truth(scene, outcome, before, there, reports)
    outcome.odd += odd_of(scene, outcome)
    outcome.wrong += scene.fault.then(scene, outcome, reports)
    there = scene.stage.keys()
    expected = {key: held for key, held in expected.items() if key not in scene.mortal}
    outcome.unfinished += _next(scene, before, there, expected)


def _truth_of_restore(scene: Scene, there: set[bytes], reports: list[Report]) -> list[str]:
    """Checks 2 and 3 of a restore: what has come back is what it says."""
    wrong = []
    outcomes = ("restored", "absent", "present", "expired", "failed", "unknown")
    back = len(there & scene.recorded.keys())
    for report in reports:
        keys = report["keys"]
        for name, counts in (("all", keys), *keys["by_family"].items()):
            if counts["recorded"] != sum(counts[each] for each in outcomes):
                wrong.append(f"{name}: {counts}")
        if keys["recorded"] != len(scene.recorded):
            wrong.append(f"{keys['recorded']} recorded, {len(scene.recorded)} were deleted")
        most = keys["restored"] + keys["unknown"]
        most += keys["failed"] if scene.fault.truth is Truth.LATE else 0
        if not keys["restored"] <= back <= most:
            wrong.append(f"{back} came back: {keys}")
    return wrong


def lost_of(stage: Stage, expected: dict[bytes, Any]) -> list[str]:
    """Keys of the living that are not as they were."""
    now = stage.dumps(set(expected))
    return sorted(repr(key) for key, held in expected.items() if now[key] != held)


def sums_of(report: Report) -> list[str]:
    """What does not add up in a report."""
    wrong = []
    keys = report["keys"]
    is_idle = report["dry_run"] or report["status"] == "refused"
    outcomes = ("deleted", "gone", "spared", "failed", "unknown")
    for name, counts in (("all", keys), *keys["by_family"].items()):
        if not is_idle and counts["planned"] != sum(counts[each] for each in outcomes):
            wrong.append(f"{name}: {counts}")
    wrong += [
        f"{each} is not the sum of its families"
        for each in ("matched", "planned", *outcomes)
        if keys[each] != sum(counts[each] for counts in keys["by_family"].values())
    ]
    found = report["coordinators"]
    if found["checked"] != sum(found[each] for each in ("live", "stale", "unreadable", "future")):
        wrong.append(f"coordinators: {found}")
    return wrong


def _truth(
    scene: Scene,
    outcome: Outcome,
    before: set[bytes],
    there: set[bytes],
    reports: list[Report | None],
) -> list[str]:
    """Check 3."""
    missing = before - there
    fault = scene.fault
    codes = [outcome.code, *(other.code for other, _ in scene.others)]
    pairs = [*zip(codes, reports, strict=True)]
    known = [report for report in reports if report is not None]
    if any(report is None and code not in NOTHING_DELETED for code, report in pairs):
        return []
    if not known:
        taken = missing - scene.removed
        return [f"exit {outcome.code}, and {len(taken)} keys are gone"] if taken else []
    if not fault.has_report:
        return []
    if fault.truth is Truth.UNDONE and any(report["status"] != "complete" for report in known):
        return []

    def count(name: str) -> int:
        return sum(int(report["keys"][name]) for report in known)

    most = count("deleted") + count("unknown")
    if fault.truth is Truth.LATE:
        most += count("failed")
    wrong = []
    least = len(missing | scene.rewritten)
    if fault.truth is not Truth.UNDONE and count("deleted") > least:
        wrong.append(f"{count('deleted')} counted as deleted, {least} missing")
    if len(missing - scene.removed) > most:
        wrong.append(f"{len(missing - scene.removed)} missing, at most {most} by the report")
    if count("gone") and not (scene.removed or scene.others):
        wrong.append(f"{count('gone')} counted as gone, and nobody took them")
    return wrong + _untold_losses(scene, there, known)


def _untold_losses(scene: Scene, there: set[bytes], reports: list[Report]) -> list[str]:
    """Coordinators that came back with less than they had, and that no report names."""
    told = {as_bytes(loss["id"]) for report in reports for loss in report["losses"]}
    return [
        f"{name!r} came back without its keys, and no report tells"
        for name in sorted(scene.lossy)
        if name.isascii() and name not in told and set(scene.people.keys_of(name)) - there
    ]


def odd_of(scene: Scene, outcome: Outcome) -> list[str]:
    odd = []
    codes = [outcome.code, *(other.code for other, _ in scene.others)]
    odd += [f"exit {code}" for code in codes if code not in DOCUMENTED | scene.fault.codes]
    for path in scene.folder.glob("err-*"):
        text = path.read_text(errors="replace")
        if "Traceback" in text:
            odd.append(f"traceback: {text}")
        path.unlink()
    if outcome.code == 0 and outcome.status not in ("complete", ""):
        odd.append(f"exit 0 for a run that is {outcome.status}")
    return odd


def _next(
    scene: Scene, before: set[bytes], there: set[bytes], expected: dict[bytes, Any]
) -> list[str]:
    """Check 4."""
    to_be_left = scene.people.to_be_left(there)
    dead = before - scene.people.to_be_left() - scene.excused
    report = scene.stage.sweep(orphans=scene.orphans)
    wrong = []
    if report.status != "complete":
        wrong.append(f"next run: {report.status}, {[error.code for error in report.errors]}")
    left = scene.stage.keys()
    # What nobody knows of any more, or what became an orphan, is told apart by the model.
    wrong += [f"next run left {key!r}" for key in sorted((left & dead) - to_be_left)[:3]]
    wrong += [f"nobody finds {key!r}" for key in sorted(left & dead & to_be_left)[:3]]
    wrong += [f"next run took {key!r}" for key in sorted(to_be_left - left)[:3]]
    wrong += [f"next run altered {key}" for key in lost_of(scene.stage, expected)[:3]]
    return wrong
