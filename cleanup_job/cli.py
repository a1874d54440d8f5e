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
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cleanup_job import __version__
from cleanup_job.errors import CleanupJobError, ConfigError
from cleanup_job.files import require_file, require_plan, require_writable, write_whole
from cleanup_job.stop_signals import StopSignals
from cleanup_job.streams import (
    drop,
    flush_messages,
    open_closed_streams,
    put,
    put_report,
    say,
)

if TYPE_CHECKING:
    from cleanup_job.config import Config
    from cleanup_job.report import Report
    from cleanup_job.restore_report import RestoreReport

EXIT_COMPLETE = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_REFUSED = 4

_EXIT_CODES = """\
exit codes:
  0        complete (a dry run too)
  1        a bug; please report it
  2        usage, configuration, or the server refuses (password, rights, replica)
  3        partial: something failed, is unknown or was not covered; run again
  4        refused by a safety limit that the message names; nothing was deleted
  75       try again later: unreachable, loading, out of memory, another run is at it, or the stop
           file is there; nothing was deleted
  130/143  stopped by Ctrl-C or SIGTERM (129: the terminal is gone); batches in flight were
           finished
"""

_RUN_EXAMPLES = """\
examples:
  cleanup-job run --url redis://db.example:6379/0 --dry-run    what would go, and why
  cleanup-job run --url redis://db.example:6379/0              delete it
  cleanup-job run -c configs/blocking.yaml --json report.json  by a file, with a report
  REDIS_PASSWORD=... cleanup-job run --url redis://db.example  the password, out of sight
  cleanup-job run --dry-run --plan plan.jsonl.gz               write down what would go,
  cleanup-job run --plan plan.jsonl.gz                         and delete nothing else
  cleanup-job run --orphans purge --orphan-grace 3600          keys without a heartbeat too
  cleanup-job run --url rediss://db.example --ca-file ca.pem   TLS, and whom to trust
  cleanup-job run --url redis+sentinel://a.example,b.example/service/0

environment:
  REDIS_URL, or REDIS_HOST, REDIS_PORT, REDIS_DB; REDIS_PASSWORD if the URL has none
  CLEANUP_JOB_CONFIG (as -c), CLEANUP_JOB_STALE_AFTER, _ORPHANS, _ORPHAN_GRACE, _WORKERS,
  _ENGINE, _PER_NODE, _MAX_BLOCK_MS, _ALLOW_PARTIAL (true or false), _LOCK, _EXPECT_ALL_DEAD, and
  each limit and throttle above by its name (_MAX_PURGE, _NICE, ...); _PASSWORD_FILE, _CA_FILE,
  _CERT_FILE, _KEY_FILE, _SERVER_NAME, _SENTINEL_PASSWORD, _SENTINEL_PASSWORD_FILE (as in the file).
  A flag wins over the environment, the environment over the file.

"""

_DEMO_EXAMPLES = """\
examples:
  cleanup-job demo                         10,000 dead coordinators, swept and checked
  cleanup-job demo --coordinators 100000   a larger case
  cleanup-job demo --cluster               the same on a cluster of three primaries
  cleanup-job demo --keep                  leave the server running to look around

It needs the embedded server: pip install 'cleanup-job[embedded]'
"""

_ACL_EXAMPLES = """\
examples:
  cleanup-job acl                                     on stdout a command for redis-cli
  cleanup-job acl --cluster --orphans purge           for each node of a cluster
  cleanup-job acl -c configs/blocking.yaml --dry-run  for a user who may only look
"""

_RESTORE_EXAMPLES = """\
examples:
  cleanup-job run --journal /var/lib/cleanup-job/          a run that can be undone
  cleanup-job restore FILE --dry-run                       what would be put back
  cleanup-job restore FILE --url redis://db.example:6379   put it back
  cleanup-job restore FILE --only coordinator-7            of one coordinator

What exists is never overwritten, and what has expired does not come back. Restored heartbeats are
as stale as they were: stop the timer of the job, or raise stale_after, before it runs again.

"""

_CHECK_EXAMPLES = """\
examples:
  cleanup-job check configs/blocking.yaml   errors with their place, or what is in effect
  cleanup-job schema > cleanup-job.schema.json
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The `cleanup-job` command."""
    open_closed_streams()
    try:
        arguments = _parser().parse_args(argv)
        code = arguments.command(arguments)
        sys.stdout.flush()
    except CleanupJobError as error:
        say(f"cleanup-job: {error}")
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
    flush_messages()
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cleanup-job",
        description="Find coordinators whose heartbeat is stale or gone, and delete their keys.",
        epilog="'cleanup-job COMMAND --help' has examples.\n\n" + _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cleanup-job {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_demo(commands)
    _add_restore(commands)
    _add_acl(commands)
    _add_check(commands)
    _add_schema(commands)
    return parser


def _add_command(
    commands: Any, name: str, command: Callable[..., int], summary: str, epilog: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def _add_run(commands: Any) -> None:
    parser = _add_command(commands, "run", _run, "sweep a server", _RUN_EXAMPLES + _EXIT_CODES)
    parser.add_argument("-c", "--config", metavar="FILE", help="a YAML file (see configs/)")
    parser.add_argument(
        "--url",
        help="redis://[user@]host[:port][/db], rediss:// for TLS, unix:///path[?db=N], or "
        "redis+sentinel://host[:port],host[:port]/service[/db]; any node of a cluster will do",
    )
    parser.add_argument(
        "--ca-file", metavar="FILE", help="the only authorities to trust, for rediss://"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only tell what would go; nothing is written"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the report as JSON; - for stdout, without the text"
    )
    parser.add_argument(
        "--journal",
        metavar="FILE",
        help="write all that is deleted to a new FILE before it is, or to one in a folder; "
        "cleanup-job restore FILE puts it back",
    )
    parser.add_argument(
        "--profile",
        metavar="FILE",
        help="write cProfile's figures of the job, and of each worker to FILE.worker-N; "
        "python -m pstats FILE reads them",
    )
    parser.add_argument(
        "--plan",
        metavar="FILE",
        help="with --dry-run: write there what would go, gzipped if it ends in .gz; without: "
        "delete nothing but what is in there and still dead",
    )
    parser.add_argument("--stale-after", metavar="S", help="seconds after which a beat is stale")
    parser.add_argument(
        "--orphans", metavar="WHAT", help="ignore, report (the default) or purge keys without beat"
    )
    parser.add_argument(
        "--orphan-grace", metavar="S", help="seconds untouched before an orphan may go"
    )
    parser.add_argument("--workers", metavar="N", help="worker processes, or auto")
    parser.add_argument("--engine", metavar="NAME", help="serial or processes")
    parser.add_argument(
        "--max-block-ms",
        metavar="MS",
        help="about how long one command may hold the server (default 2); slow servers get "
        "smaller commands",
    )
    parser.add_argument(
        "--per-node", metavar="N", help="workers at one primary of a cluster at once, or auto"
    )
    parser.add_argument(
        "--allow-partial",
        action="store_const",
        const="true",
        help="sweep a cluster of which some slots are not served",
    )
    parser.add_argument(
        "--max-attempts",
        metavar="N",
        help="how often a task is tried whose worker or connection was lost (default 3)",
    )
    _add_show(parser)
    _add_limits(parser)
    _add_throttle(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits, checked before anything is deleted (exit code 4)")
    for flag, metavar, text in (
        ("--max-purge", "N", "refuse to delete more coordinators"),
        ("--max-keys", "N", "refuse to delete more keys"),
        ("--max-stale-fraction", "X", "refuse if more than this share, 0 to 1, is stale"),
        (
            "--suspicious-from",
            "N",
            "refuse if none of N coordinators or more is live (default 100)",
        ),
        ("--clock-tolerance", "S", "warn if clocks differ by more seconds (default 5)"),
        ("--max-clock-skew", "S", "refuse if they do (default 300)"),
        ("--max-plan-age", "S", "refuse a plan that is older (default 3600)"),
        ("--confirm-above", "N", "on a terminal, ask before more coordinators go (default 100)"),
    ):
        group.add_argument(flag, metavar=metavar, help=text)
    group.add_argument(
        "--expect-all-dead",
        action="store_const",
        const="true",
        help="go on even if no coordinator at all is live",
    )
    group.add_argument(
        "-y", "--yes", action="store_true", help="the same, and do not ask for confirmation"
    )
    _add_no_lock(group, "run although another run may be at the same keys")


def _add_no_lock(parser: Any, text: str) -> None:
    parser.add_argument("--no-lock", dest="lock", action="store_const", const="false", help=text)


def _add_throttle(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("throttle, to go gently or to end in time")
    for flag, metavar, text in (
        ("--max-latency-ms", "MS", "give way while somebody else's command would wait longer"),
        ("--max-foreground-ops", "N", "pause while others send more commands per second"),
        ("--max-used-memory", "BYTES", "pause while a server uses more"),
        ("--max-replica-lag-bytes", "N", "pause while a replica is more bytes behind"),
        ("--max-replica-lag", "S", "pause while a replica is silent for more seconds"),
        ("--max-blocked-clients", "N", "pause while more clients wait in a blocking command"),
        ("--nice", "R", "seconds to rest for each second of work"),
        ("--max-keys-per-second", "N", "most keys to delete per second"),
        ("--pause-file", "FILE", "pause while it is there"),
        ("--stop-file", "FILE", "end the run when it appears (exit code 3)"),
        ("--time-budget", "S", "end the run after so long (exit code 3); the next one goes on"),
    ):
        group.add_argument(flag, metavar=metavar, help=text)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--show",
        metavar="N",
        type=_count,
        default=3,
        help="how many samples of each verdict to show (default 3)",
    )


def _add_demo(commands: Any) -> None:
    parser = _add_command(
        commands, "demo", _demo, "try it on an embedded server with made-up data", _DEMO_EXAMPLES
    )
    parser.add_argument(
        "--coordinators",
        metavar="N",
        type=_count,
        default=10_000,
        help="stale coordinators to seed (default 10000), beside 10 live ones",
    )
    parser.add_argument("--cluster", action="store_true", help="three primaries, not one server")
    parser.add_argument("--keep", action="store_true", help="leave the server running")
    _add_show(parser)


def _add_restore(commands: Any) -> None:
    parser = _add_command(
        commands,
        "restore",
        _restore,
        "put back what a run deleted, from its journal",
        _RESTORE_EXAMPLES + _EXIT_CODES,
    )
    parser.add_argument("file", metavar="FILE", help="what run --journal has written")
    parser.add_argument("-c", "--config", metavar="FILE", help="a YAML file, for its redis section")
    parser.add_argument("--url", help="as for run")
    parser.add_argument(
        "--ca-file", metavar="FILE", help="the only authorities to trust, for rediss://"
    )
    parser.add_argument("--only", metavar="ID", help="the keys of this coordinator alone")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be put back")
    _add_no_lock(parser, "restore although a run may be at the same keys")
    parser.add_argument(
        "--json", metavar="FILE", help="write the report as JSON; - for stdout, without the text"
    )


def _add_acl(commands: Any) -> None:
    parser = _add_command(
        commands, "acl", _acl, "print the least rights that suffice, and why", _ACL_EXAMPLES
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="a YAML file (see configs/)")
    parser.add_argument(
        "--user", metavar="NAME", default="cleanup-job", help="whose rights (default cleanup-job)"
    )
    parser.add_argument("--cluster", action="store_true", help="for the nodes of a cluster")
    parser.add_argument(
        "--orphans", metavar="WHAT", help="ignore, report or purge, as it is to be run"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="for a user who may only make dry runs"
    )
    _add_no_lock(parser, "for a user who runs with --no-lock only")
    parser.add_argument(
        "--journal",
        action="store_true",
        help="for runs with --journal",
    )
    parser.add_argument(
        "--restore", action="store_true", help="for a user who restores, and nothing else"
    )


def _add_check(commands: Any) -> None:
    parser = _add_command(
        commands,
        "check",
        _check,
        "validate a configuration file and show what is in effect",
        _CHECK_EXAMPLES,
    )
    parser.add_argument("file", metavar="FILE")


def _add_schema(commands: Any) -> None:
    _add_command(
        commands,
        "schema",
        _schema,
        "print the JSON Schema of the configuration file",
        _CHECK_EXAMPLES,
    )


def _run(arguments: argparse.Namespace) -> int:
    config = _load(arguments)
    _check_run(arguments)
    if arguments.profile:
        require_file(Path(arguments.profile))
    if arguments.plan:
        require_plan(arguments)
    stop = StopSignals(signal.SIGHUP)
    with stop:
        report = _sweep(
            config,
            arguments.dry_run,
            arguments.show,
            stop,
            arguments.profile,
            arguments.plan,
            arguments.journal,
            asks=not arguments.yes and sys.stdin.isatty() and sys.stderr.isatty(),
        )
    if arguments.plan and arguments.dry_run:
        _tell_of_plan(report)
    # With the terminal the text's reader is gone, and the code is to say that.
    with contextlib.suppress(*((ConfigError,) if stop.received == signal.SIGHUP else ())):
        _publish(report, arguments.json)
    if report.status == "refused":
        for problem in report.errors:
            say(f"cleanup-job: refused, nothing was deleted: {problem.message}")
    if arguments.plan and _plan_is_missing(report):
        return EXIT_USAGE
    return _exit_code(report, stop.received)


def _check_run(arguments: argparse.Namespace) -> None:
    """What can be said of the command line before anything is done."""
    if arguments.url and _password_in(arguments.url):
        say(
            "cleanup-job: warning: a password in --url can be seen in the process list; "
            "use REDIS_PASSWORD or REDIS_URL"
        )
    if arguments.json and arguments.json != "-":
        require_writable(Path(arguments.json))


def _load(arguments: argparse.Namespace) -> Config:
    from cleanup_job import config

    if getattr(arguments, "yes", False):
        arguments.expect_all_dead = "true"
    flags = {name: value for name, value in vars(arguments).items() if name in config.SCALARS}
    path = arguments.config or os.environ.get("CLEANUP_JOB_CONFIG") or None
    return config.load(path, environ=os.environ, flags=flags)


def _sweep(
    config: Config,
    dry_run: bool,
    show: int,
    stop: StopSignals,
    profile: str | None = None,
    plan_path: str | None = None,
    journal: str | None = None,
    *,
    asks: bool = False,
) -> Report:
    """Run the job with a progress bar where there is somebody to see it."""
    from cleanup_job.job import run
    from cleanup_job.progress import Bars

    sweep = functools.partial(
        run,
        config,
        dry_run=dry_run,
        show=show,
        observer=Bars(lambda: stop.name, say, asks=asks),
        profile=profile,
        plan_path=plan_path,
        journal=journal,
    )
    # A run leaves no cycles that are worth a collection, which looks at every entry of every list:
    # 28 ms in the middle of a purge of 100,000 coordinators.
    gc.disable()
    try:
        return _profiled(sweep, profile) if profile else sweep()
    finally:
        gc.enable()


def _profiled(sweep: Callable[[], Report], path: str) -> Report:
    import cProfile

    profiler = cProfile.Profile()
    try:
        return profiler.runcall(sweep)
    finally:
        try:
            profiler.dump_stats(path)
        except OSError as error:
            say(f"cleanup-job: warning: --profile: {path} can't be written ({error.strerror})")


def _publish(report: Report, json_path: str | None) -> None:
    """The text on stdout, or the JSON if it is asked for there."""
    from cleanup_job.report import to_json, to_text

    _publish_as(to_text(report), to_json(report), json_path)


def _publish_as(text: str, json: bytes, json_path: str | None) -> None:
    if json_path == "-":
        put_report(json)
        return
    if json_path:
        write_whole(Path(json_path), json)
    put_report(text)


def _tell_of_plan(report: Report) -> None:
    """Say where the plan is, and what to do with it; or why there is none."""
    from cleanup_job.plan_file import NOT_WRITTEN, UNFINISHED

    plan = report.plan
    if plan is not None:
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
    from cleanup_job.progress import Bars
    from cleanup_job.report import to_json
    from cleanup_job.restore_report import to_text
    from cleanup_job.undo import restore

    config = _load(arguments)
    _check_run(arguments)
    stop = StopSignals(signal.SIGHUP)
    with stop:
        report = restore(
            config,
            arguments.file,
            only=None if arguments.only is None else os.fsencode(arguments.only),
            dry_run=arguments.dry_run,
            observer=Bars(lambda: stop.name, say),
        )
    _publish_as(to_text(report), to_json(report), arguments.json)
    return _exit_code(report, stop.received)


def _demo(arguments: argparse.Namespace) -> int:
    from cleanup_job import demo

    # The servers are to be ended whatever comes, a closed terminal too.
    stop = StopSignals(signal.SIGHUP, patient=True)

    def sweep(config: Config) -> Report:
        with stop.at_once():
            return _sweep(config, False, arguments.show, stop)

    with stop:
        result = demo.play(
            arguments.coordinators,
            keep=arguments.keep,
            sweep=sweep,
            say=lambda text: put(text + "\n"),
            stopping=lambda: bool(stop.received),
            clustered=arguments.cluster,
        )
    if stop.received:
        return 128 + stop.received
    return EXIT_COMPLETE if result else EXIT_BUG


def _acl(arguments: argparse.Namespace) -> int:
    from cleanup_job import acl, config

    path = arguments.config or os.environ.get("CLEANUP_JOB_CONFIG") or None
    loaded = config.load(
        path, environ=os.environ, flags={"orphans": arguments.orphans, "lock": arguments.lock}
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

    put(config.effective_yaml(config.load(arguments.file)))
    say(f"{arguments.file}: good")
    return EXIT_COMPLETE


def _schema(_: argparse.Namespace) -> int:
    from cleanup_job import config

    put(config.json_schema())
    return EXIT_COMPLETE


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return int(text)


def _password_in(url: str) -> bool:
    from cleanup_job.config import parse_url

    return parse_url(url).endpoint.password is not None
