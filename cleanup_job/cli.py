"""argv to configuration to job to exit code: the only place that exits.

Data goes to stdout; messages and progress to stderr, and progress only to a terminal. Heavy
imports are made by the command that needs them, so that `--help` and `check` answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cleanup_job.arguments import parse
from cleanup_job.errors import CleanupJobError, ConfigError
from cleanup_job.files import (
    read_whole,
    require_different,
    require_file,
    require_other_file,
    require_writable,
    write_whole,
)
from cleanup_job.stop_signals import StopSignals
from cleanup_job.streams import (
    deafen,
    drop,
    flush_messages,
    open_closed_streams,
    put,
    put_report,
    say,
)
from cleanup_job.style import style_for

if TYPE_CHECKING:
    from cleanup_job.config import Config
    from cleanup_job.log import Log
    from cleanup_job.metrics import Textfile
    from cleanup_job.observer import Observers
    from cleanup_job.report import Report
    from cleanup_job.restore_report import RestoreReport

EXIT_COMPLETE = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_REFUSED = 4


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The `cleanup-job` command."""
    open_closed_streams()
    try:
        arguments = parse(argv)
        code = _COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
    except CleanupJobError as error:
        say(f"cleanup-job: {error}", logged=True)
        code = error.exit_code
    except BrokenPipeError:
        # Whoever read our output has gone.
        drop(sys.stdout)
        code = EXIT_PARTIAL
    except MemoryError:
        # During a run, the job knows more; this is before it, or behind it.
        say("cleanup-job: out of memory, so there is no report; run again with more of it")
        code = EXIT_PARTIAL
    except KeyboardInterrupt as stop:
        code = 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except Exception as bug:  # noqa: BLE001 - what nobody expected is a bug, and is told as one
        from cleanup_job.bugs import describe_bug

        say(describe_bug(bug), logged=True)
        code = EXIT_BUG
    deafen()
    flush_messages()
    sys.exit(code)


def _run(arguments: argparse.Namespace) -> int:
    with contextlib.ExitStack() as ends:
        log = _log(arguments, ends)
        config = _load(arguments)
        _check_run(arguments)
        if arguments.cprofile:
            require_file(Path(arguments.cprofile))
        if arguments.plan and arguments.dry_run:
            from cleanup_job import plan_file

            plan_file.require_writable(Path(arguments.plan))
        metrics = ends.enter_context(_metrics(arguments, config)) if arguments.prom else None
        code = _run_and_tell(config, arguments, metrics, log)
        if metrics is not None:
            metrics.exit_code = code
        return code


def _log(arguments: argparse.Namespace, ends: contextlib.ExitStack) -> Log | None:
    """The log, if one is wanted, until the command ends."""
    if arguments.log_file is None and arguments.log_format is None:
        return None
    from cleanup_job.log import Destination, Log

    destination = Destination(
        None if arguments.log_file == "-" else arguments.log_file,
        arguments.log_format or "text",
        arguments.log_max_bytes,
        arguments.log_keep,
    )
    return ends.enter_context(Log(destination))


def _metrics(arguments: argparse.Namespace, config: Config) -> Textfile:
    from cleanup_job.metrics import Textfile

    return Textfile(arguments.prom, config.access(), dry_run=arguments.dry_run)


def _run_and_tell(
    config: Config,
    arguments: argparse.Namespace,
    metrics: Textfile | None,
    log: Log | None,
) -> int:
    stop = StopSignals(signal.SIGHUP)
    with stop:
        report = _sweep(
            config,
            _watcher(arguments, stop, log, asks=not arguments.yes),
            arguments.cprofile,
            dry_run=arguments.dry_run,
            show=arguments.show,
            plan_path=arguments.plan,
            journal=arguments.journal,
        )
    if metrics is not None:
        metrics.report = report
    if log is not None and arguments.summary == "classic":
        log.tell_of_summary(report)
    if arguments.plan and arguments.dry_run:
        _tell_of_plan(report, quiet=arguments.quiet or _is_seen_together(arguments))
    missing = arguments.plan and _plan_is_missing(report)
    code = EXIT_USAGE if missing else _exit_code(report, stop.received)
    if log is not None:
        log.tell_of_report(report, code)
    # With the terminal the text's reader is gone, and the code is to say that.
    with contextlib.suppress(*((ConfigError,) if stop.received == signal.SIGHUP else ())):
        _publish(report, arguments, all_is_well=code == EXIT_COMPLETE and not report.losses)
    if report.status == "refused" and not _is_seen_together(arguments):
        for problem in report.errors:
            message = f"cleanup-job: refused, nothing was deleted: {problem.message}"
            say(message, logged=log is not None)
    return code


def _check_run(arguments: argparse.Namespace) -> None:
    """What can be said of the command line before anything is done."""
    if arguments.url and _password_in(arguments.url):
        say(
            "cleanup-job: warning: a password in --url can be seen in the process list; "
            "use REDIS_PASSWORD or REDIS_URL"
        )
    _require_writable(arguments)


def _require_writable(arguments: argparse.Namespace) -> None:
    """Find out before anything is done that a file can't be written."""
    if getattr(arguments, "html", None) == "-":
        raise ConfigError("--html: name a file; render --html - writes a page to stdout")
    if getattr(arguments, "summary", None) == "classic" and arguments.json == "-":
        raise ConfigError("--summary classic: --json - takes stdout; name a file for the JSON")
    require_different(arguments)
    for name in ("json", "html", "prom"):
        path = getattr(arguments, name, None)
        if path and path != "-":
            require_writable(f"--{name}", Path(path))


def _load(arguments: argparse.Namespace) -> Config:
    from cleanup_job import config

    if getattr(arguments, "yes", False):
        arguments.expect_all_dead = "true"
    flags = {name: value for name, value in vars(arguments).items() if name in config.SCALARS}
    path = arguments.config or os.environ.get("CLEANUP_JOB_CONFIG") or None
    return config.load(path, environ=os.environ, flags=flags, profile=arguments.profile)


def _watcher(
    arguments: argparse.Namespace,
    stop: StopSignals,
    log: Log | None = None,
    *,
    asks: bool = False,
) -> Observers:
    """Who is told of progress, and says when to stop."""
    from cleanup_job.observer import Observers, OnlyAsked
    from cleanup_job.progress import Bars

    bars = Bars(
        lambda: stop.name,
        say,
        asks=asks and sys.stdin.isatty() and sys.stderr.isatty(),
        quiet=getattr(arguments, "quiet", False),  # a demo is never
        verbose=arguments.verbose,
        style=style_for(sys.stderr, arguments.color, os.environ),
    )
    if log is None:
        return Observers(bars)
    from cleanup_job.log import LogObserver

    dry_run = getattr(arguments, "dry_run", False)
    return Observers(OnlyAsked(bars) if log.instead else bars, LogObserver(log, dry_run=dry_run))


def _sweep(config: Config, watcher: Observers, profile: str | None = None, **how: Any) -> Report:
    """Run the job, without what would only cost it time."""
    from cleanup_job.job import run

    sweep = functools.partial(run, config, observer=watcher, profile=profile, **how)
    # A run leaves no cycles that are worth a collection, which looks at every entry of every list:
    # 28 ms in the middle of a purge of 100,000 coordinators.
    gc.disable()
    try:
        with _noting(watcher, dry_run=how.get("dry_run", False)):
            return _profiled(sweep, profile) if profile else sweep()
    finally:
        gc.enable()


@contextlib.contextmanager
def _noting(watcher: Observers, *, dry_run: bool) -> Iterator[None]:
    """Note on a bug how far the run had come, and what it may have done."""
    try:
        yield
    except CleanupJobError:
        raise
    except Exception as bug:
        from cleanup_job.bugs import note_of

        bug.add_note(note_of(watcher.run_id, watcher.phase, dry_run=dry_run))
        raise


def _profiled(sweep: Callable[[], Report], path: str) -> Report:
    import cProfile

    profiler = cProfile.Profile()
    try:
        return profiler.runcall(sweep)
    finally:
        try:
            profiler.dump_stats(path)
        except OSError as error:
            say(f"cleanup-job: warning: --cprofile: {path} can't be written ({error.strerror})")


def _publish(report: Report, arguments: argparse.Namespace, *, all_is_well: bool) -> None:
    """The report in each form that was asked for; what fails costs none of the others.

    Args:
        report: of the run.
        arguments: which forms, and how.
        all_is_well: with --quiet, the text is not worth a mail then.

    Raises:
        ConfigError: of the first file that could not be written.
    """
    from cleanup_job.report import to_json

    failed = _write_page(report, arguments)
    # Scripts read the classic summary, so that it comes in any case.
    is_silent = all_is_well and arguments.quiet and arguments.summary != "classic"
    text = None if is_silent else _text_of(report, arguments)
    if text is not None and _is_seen_together(arguments):
        text = f"\n{text}"  # apart from the progress above it
    _publish_as(text, to_json(report), arguments.json, failed)


def _text_of(report: Report, arguments: argparse.Namespace) -> str:
    if getattr(arguments, "summary", None) == "classic":  # a demo has none
        from cleanup_job.classic import classic_lines

        return "\n".join([*classic_lines(report), ""])
    from cleanup_job.text import to_text

    style = style_for(sys.stdout, arguments.color, os.environ)
    return to_text(report, style, verbose=arguments.verbose, words=arguments.words)


def _write_page(report: Report, arguments: argparse.Namespace) -> list[ConfigError]:
    """Write the page, if it is asked for; why it could not be written."""
    failed: list[ConfigError] = []
    if arguments.html:
        from cleanup_job.page import to_html

        write_whole("--html", arguments.html, to_html(report), failed)
    return failed


def _publish_as(
    text: str | None, json: bytes, json_path: str | None, failed: list[ConfigError]
) -> None:
    """The text on stdout, if any; or the JSON, asked for there or impossible to write elsewhere.

    Raises:
        ConfigError: of the first file that could not be written.
    """
    written = json_path and json_path != "-" and write_whole("--json", json_path, json, failed)
    if json_path and not written:
        put_report(json)
    elif text is not None:
        put_report(text)
    if failed:
        raise failed[0]


def _is_seen_together(arguments: argparse.Namespace) -> bool:
    """Whether one who reads our messages has the report, which says the same, before their eyes."""
    is_text = arguments.json != "-" and getattr(arguments, "summary", None) != "classic"
    return is_text and sys.stdout.isatty() and sys.stderr.isatty()


def _tell_of_plan(report: Report, *, quiet: bool) -> None:
    """Say where the plan is, and what to do with it; or why there is none."""
    from cleanup_job.plan_file import NOT_WRITTEN, UNFINISHED

    plan = report.plan
    if plan is not None and not quiet:
        say(
            f"plan written to {plan.file} ({plan.coordinators:,} coordinators, {plan.keys:,} "
            f"keys); execute it with: cleanup-job run --plan {shlex.quote(plan.file)}, and the "
            "same settings"
        )
    for warning in report.warnings:
        if warning.code in (NOT_WRITTEN, UNFINISHED):
            say(f"cleanup-job: {warning.message}")


def _plan_is_missing(report: Report) -> bool:
    from cleanup_job.plan_file import NOT_WRITTEN

    return any(warning.code == NOT_WRITTEN for warning in report.warnings)


def _exit_code(report: Report | RestoreReport, received: int) -> int:
    if received:
        return 128 + received
    codes = {"complete": EXIT_COMPLETE, "failed": EXIT_BUG, "refused": EXIT_REFUSED}
    return codes.get(report.status, EXIT_PARTIAL)


def _restore(arguments: argparse.Namespace) -> int:
    from cleanup_job.report import to_json
    from cleanup_job.restore_report import to_text
    from cleanup_job.undo import restore

    with contextlib.ExitStack() as ends:
        log = _log(arguments, ends)
        config = _load(arguments)
        _check_run(arguments)
        stop = StopSignals(signal.SIGHUP)
        watcher = _watcher(arguments, stop, log)
        with stop, _noting(watcher, dry_run=arguments.dry_run):
            report = restore(
                config,
                arguments.file,
                only=None if arguments.only is None else os.fsencode(arguments.only),
                dry_run=arguments.dry_run,
                observer=watcher,
            )
        code = _exit_code(report, stop.received)
        if log is not None:
            log.tell_of_restore(report.status, code, report.warnings, report.errors)
        style = style_for(sys.stdout, arguments.color, os.environ)
        text = to_text(report, style, verbose=arguments.verbose, words=arguments.words)
        is_silent = arguments.quiet and code == EXIT_COMPLETE
        _publish_as(None if is_silent else text, to_json(report), arguments.json, [])
        return code


def _demo(arguments: argparse.Namespace) -> int:
    from cleanup_job import demo
    from cleanup_job.report import to_json

    _require_writable(arguments)
    # The servers are to be ended whatever comes, a closed terminal too.
    stop = StopSignals(signal.SIGHUP, patient=True)
    reports: list[Report] = []
    has_text = arguments.json != "-"

    def sweep(config: Config) -> Report:
        with stop.at_once():
            watcher = _watcher(arguments, stop)
            reports.append(_sweep(config, watcher, show=arguments.show))
        return reports[-1]

    with stop:
        result = demo.play(
            arguments.coordinators,
            keep=arguments.keep,
            sweep=sweep,
            say=(lambda text: put(text + "\n")) if has_text else say,
            stopping=lambda: bool(stop.received),
            text_of=(lambda report: _text_of(report, arguments)) if has_text else None,
            clustered=arguments.cluster,
        )
    for report in reports:
        json = to_json(report) if arguments.json else b""
        _publish_as(None, json, arguments.json, _write_page(report, arguments))
    if stop.received:
        return 128 + stop.received
    return EXIT_COMPLETE if result else EXIT_BUG


def _render(arguments: argparse.Namespace) -> int:
    from cleanup_job.page import to_html
    from cleanup_job.report import from_json

    to_stdout = arguments.html == "-"
    if not to_stdout:
        require_other_file("--html", arguments.html, arguments.file)
        require_writable("--html", Path(arguments.html))
    source = "stdin" if arguments.file == "-" else arguments.file
    page = to_html(from_json(read_whole(arguments.file), source))
    failed: list[ConfigError] = []
    if to_stdout:
        put(page)
    elif not write_whole("--html", arguments.html, page, failed):
        raise failed[0]
    return EXIT_COMPLETE


def _completion(arguments: argparse.Namespace) -> int:
    from importlib.resources import files

    put((files("cleanup_job") / "completions" / arguments.shell).read_text("utf-8"))
    return EXIT_COMPLETE


def _acl(arguments: argparse.Namespace) -> int:
    from cleanup_job import acl, config

    path = arguments.config or os.environ.get("CLEANUP_JOB_CONFIG") or None
    loaded = config.load(
        path,
        environ=os.environ,
        flags={"orphans": arguments.orphans, "lock": arguments.lock},
        profile=arguments.profile,
    )
    use = acl.Use(
        clustered=arguments.cluster,
        orphans=loaded.orphans == "purge",
        deletes=not arguments.dry_run,
        db=loaded.access().endpoint.db,
        locks=loaded.lock,
        journal=arguments.journal,
        restores=arguments.restore,
    )
    command = acl.set_user(arguments.user, loaded.schema(), use)
    put(command + "\n")
    for line in acl.explain(loaded.schema(), use):
        say(line)
    return EXIT_COMPLETE


def _check(arguments: argparse.Namespace) -> int:
    from cleanup_job import config

    checked = config.check_file(arguments.file, arguments.profile, os.environ)
    for name, part in checked.items():
        put((f"--- # profile {name}\n" if len(checked) > 1 else "") + config.effective_yaml(part))
    say(f"{arguments.file}: good")
    return EXIT_COMPLETE


def _schema(_: argparse.Namespace) -> int:
    from cleanup_job.config_schema import json_schema

    put(json_schema())
    return EXIT_COMPLETE


def _password_in(url: str) -> bool:
    from cleanup_job.config import parse_url

    return parse_url(url).endpoint.password is not None


_COMMANDS = {
    "run": _run,
    "demo": _demo,
    "restore": _restore,
    "render": _render,
    "check": _check,
    "schema": _schema,
    "acl": _acl,
    "completion": _completion,
}
