"""What happens, as lines for a file or a collector; one run id goes through all of them.

The text lines are those of the shell script before us, `[2025-10-10 21:01:11] [INFO] message`, with
the run behind the message. JSON lines have the same, and the numbers as fields.

The file is rotated by the standard library's handler. That holds for one run at a time, which is
what the lease makes of runs at the same keys; give each target a file of its own. Of two that
rotate one file at once, each moves the other's away as well: old lines go sooner than `keep` says.

Worker processes write no lines: what they find comes back to the job, which does.

A log that can't be written any more costs one message on stderr, and never the run.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from cleanup_job import __version__
from cleanup_job.classic import classic_lines
from cleanup_job.errors import CleanupJobError, ConfigError
from cleanup_job.model import Problem, Target
from cleanup_job.observer import Observer
from cleanup_job.report import Coordinators, Report
from cleanup_job.streams import listen, show
from cleanup_job.text import product_name

PAUSE_EVERY_S = 10.0
"""A reason to pause that comes and goes is logged this often."""

MOST_REASONS = 5
"""Reasons why heartbeats could not be understood: each of them may be another one."""

LEVELS = {"info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


class Destination(msgspec.Struct, frozen=True):
    """Where the log goes, and how.

    Attributes:
        path: the file; None for stderr.
        form: text or json.
        max_bytes: the size at which it is rotated; 0 for never.
        keep: how many old ones stay.
    """

    path: str | None
    form: str
    max_bytes: int
    keep: int


class Log:
    """The log of one command. Within its block, errors that end the command are in it too."""

    def __init__(self, destination: Destination) -> None:
        """Open it, and have all messages that are said.

        Raises:
            ConfigError: if the file can't be written.
        """
        self.run_id = ""
        self.instead = destination.path is None
        self._logger = logging.Logger("cleanup-job")
        self._logger.addHandler(_handler(destination))
        listen(self._said, instead=self.instead)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Log what ended the command, if it was an error."""
        if isinstance(error, CleanupJobError):
            code = error.exit_code
            self.tell("error", "error", str(error), code=error.code, exit_code=code)
        elif isinstance(error, KeyboardInterrupt):
            self.tell("error", "stopped", "stopped at once by a signal")
        elif error is not None:
            for line in "".join(traceback.format_exception(error)).splitlines():
                self.tell("error", "bug", line)
        for handler in self._logger.handlers:
            handler.close()

    def tell(self, level: str, event: str, message: str, **fields: Any) -> None:
        """Write a line, or one for each line of the message.

        Args:
            level: info, warn or error.
            event: what happened, in a word that stays.
            message: the same for people.
            fields: for machines.
        """
        for line in message.splitlines() or [""]:
            extra = {"run_id": self.run_id, "event": event, "fields": fields}
            self._logger.log(LEVELS[level], "%s", plain(line), extra=extra)

    def tell_of_summary(self, report: Report) -> None:
        """Write the shell script's summary lines."""
        for line in classic_lines(report):
            self.tell("info", "summary", line)

    def tell_of_restore(
        self, status: str, exit_code: int, warnings: Sequence[Problem], errors: Sequence[Problem]
    ) -> None:
        """Write what a restore came to."""
        for level, problems in (("warn", warnings), ("error", errors)):
            for problem in problems:
                self._tell_of_problem(level, problem)
        level = "info" if status == "complete" else "error"
        self.tell(level, "finished", f"restore: {status}", status=status, exit_code=exit_code)

    def tell_of_report(self, report: Report, exit_code: int) -> None:
        """Write what a run came to."""
        for level, problems in (("warn", report.warnings), ("error", report.errors)):
            for problem in problems:
                self._tell_of_problem(level, problem)
        keys, found = report.keys, report.coordinators
        well = report.status == "complete"
        self.tell(
            "info" if well else "error",
            "finished",
            f"{report.status}: {found.purged + found.orphans_purged} coordinators, {keys.deleted} "
            f"of {keys.planned} planned keys deleted in {report.duration_s:.3f} s",
            status=report.status,
            exit_code=exit_code,
            dry_run=report.dry_run,
            duration_s=report.duration_s,
            stopped_by=report.stopped_by,
            coordinators=msgspec.to_builtins(found),
            keys={name: getattr(keys, name) for name in _KEYS},
        )

    def _tell_of_problem(self, level: str, problem: Problem) -> None:
        samples = f"; e.g. {', '.join(problem.samples)}" if problem.samples else ""
        self.tell(
            level,
            "problem",
            f"{problem.message} ({problem.count}){samples}",
            code=problem.code,
            count=problem.count,
            samples=list(problem.samples),
        )

    def _said(self, text: str) -> None:
        text = text.removeprefix("cleanup-job: ")
        level = "warn" if text.startswith("warning") else "info"
        self.tell(level, "message", text)


_KEYS = (
    "scanned", "matched", "planned", "deleted", "gone", "spared", "failed", "unknown",
)  # fmt: skip


class LogObserver(Observer):
    """Writes down how a run gets on."""

    def __init__(self, log: Log, *, dry_run: bool) -> None:
        self._log = log
        self._dry_run = dry_run
        self._phase = ""
        self._began_s = 0.0
        self._keys = 0
        self._paused_at_s: dict[str, float] = {}

    def started(self, run_id: str, started_at: str) -> None:
        """The first line of a run."""
        self._log.run_id = run_id
        what = "dry run" if self._dry_run else "run"
        self._log.tell(
            "info",
            "started",
            f"{what} of cleanup-job {__version__} started",
            version=__version__,
            dry_run=self._dry_run,
            started_at=started_at,
        )

    def found(self, target: Target) -> None:
        """What is swept."""
        first = target.servers[0]
        nodes = [server.address for server in target.servers]
        self._log.tell(
            "info",
            "server",
            f"{product_name(first.product)} {first.version} {target.mode} at {', '.join(nodes)}: "
            f"{target.keys} keys",
            product=first.product,
            server_version=first.version,
            mode=target.mode,
            nodes=nodes,
            keys=target.keys,
        )

    def began(self, phase: str, keys: int) -> None:  # noqa: ARG002 - how many come at the end
        """Remember it: a line comes at its end."""
        self._phase, self._keys, self._began_s = phase, 0, time.monotonic()

    def advanced(self, keys: int) -> None:
        """Count them for that line."""
        self._keys += keys

    def ended(self) -> None:
        """What a phase did, and how long it took."""
        seconds = round(time.monotonic() - self._began_s, 3)
        did = f"{self._phase}: {self._keys} keys in {seconds:.3f} s"
        self._log.tell("info", "phase", did, phase=self._phase, keys=self._keys, seconds=seconds)

    def judged(self, found: Coordinators, kept: Mapping[str, int]) -> None:
        """Who was found."""
        states = {
            name: getattr(found, name)
            for name in ("checked", "live", "stale", "unreadable", "future", "orphaned")
        }
        message = ", ".join(f"{number} {name}" for name, number in states.items())
        self._log.tell("info", "judged", f"coordinators: {message}", **states)
        for reason, number in islice(kept.items(), MOST_REASONS):
            message = f"not to be understood, and kept: {reason} ({number})"
            self._log.tell("warn", "kept", message, reason=reason, count=number)

    def planned(self, coordinators: int, keys: Mapping[str, int]) -> None:
        """What is to go."""
        total = sum(keys.values())
        message = f"to go: {coordinators} coordinators, {total} keys"
        self._log.tell(
            "info", "planned", message, coordinators=coordinators, keys=total, by_family=dict(keys)
        )

    def paused(self, reason: str | None) -> None:
        """Why the run stands still; one that comes and goes not each time."""
        if reason is None:
            return
        code, now_s = reason.partition(":")[0], time.monotonic()
        if now_s >= self._paused_at_s.get(code, -PAUSE_EVERY_S) + PAUSE_EVERY_S:
            self._paused_at_s[code] = now_s
            self._log.tell("warn", "paused", f"paused: {reason}", reason=code)


def plain(text: str) -> str:
    """Text on one line, so that no id can write one of its own."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _handler(destination: Destination) -> logging.Handler:
    form = _JsonLines() if destination.form == "json" else _TextLines()
    handler: logging.Handler
    if destination.path is None:
        handler = _StderrHandler()
    elif Path(destination.path).is_fifo():
        raise ConfigError(
            f"--log-file: {destination.path} is a pipe, on which a run could wait for ever; name a "
            "file, or - for stderr"
        )
    else:
        try:
            handler = _FileHandler(
                destination.path,
                maxBytes=destination.max_bytes,
                backupCount=destination.keep,
                encoding="utf-8",
                errors="backslashreplace",
            )
        except OSError as error:
            raise ConfigError(
                f"--log-file: {destination.path} can't be written ({error.strerror}); name a file "
                "in a folder that can be"
            ) from error
    handler.setFormatter(form)
    return handler


class _FileHandler(RotatingFileHandler):
    _is_lost = False

    def doRollover(self) -> None:  # noqa: N802 - its name
        try:
            super().doRollover()
        except FileNotFoundError:
            # Another run has rotated it in the same moment: go on in what is there now.
            self.stream = self.stream or self._open()

    def emit(self, record: logging.LogRecord) -> None:
        if not self._is_lost:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - its name
        error = sys.exc_info()[1]
        if isinstance(error, RuntimeError):
            return  # a signal's handler came in the middle of another line: this one is lost
        self._is_lost = True
        show(
            f"cleanup-job: warning: the log {self.baseFilename} can't be written any more "
            f"({getattr(error, 'strerror', None) or error}); the run goes on without it"
        )

    def close(self) -> None:
        try:
            super().close()
        except OSError:
            self._is_lost = True


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        show(self.format(record))


_NAMES = {logging.INFO: "INFO", logging.WARNING: "WARN", logging.ERROR: "ERROR"}


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        line = f"[{when}] [{_NAMES[record.levelno]}] {record.getMessage()}"
        run_id = record.__dict__["run_id"]
        return f"{line} run={run_id}" if run_id else line


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = record.__dict__
        return json.dumps(
            {
                "time": when.replace("+00:00", "Z"),
                "level": _NAMES[record.levelno].lower(),
                "run_id": told["run_id"] or None,
                "event": told["event"],
                "message": record.getMessage(),
                **told["fields"],
            },
            ensure_ascii=False,
        )
