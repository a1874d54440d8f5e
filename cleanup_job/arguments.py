"""The command line: its commands, flags and help. What they do is in `cli`."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from cleanup_job import __version__

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

_RENDER_EXAMPLES = """\
examples:
  cleanup-job run --json report.json                       a report to keep
  cleanup-job render report.json --html report.html        and to look at
"""

_COMPLETION_EXAMPLES = """\
examples:
  cleanup-job completion bash > ~/.local/share/bash-completion/completions/cleanup-job
  cleanup-job completion zsh > "${fpath[1]}/_cleanup-job"
"""

SHELLS = ("bash", "zsh", "tcsh")

_DESCRIPTION = """\
Find coordinators whose heartbeat is stale or gone, and delete their keys. What
lives, or can't be understood, is kept; the report says what was done."""

_FIRST_STEPS = """\
first steps:
  cleanup-job demo                                a first look, on a server of its own
  cleanup-job run --url redis://HOST --dry-run    what would go, and why
  cleanup-job run --url redis://HOST              delete it
  cleanup-job COMMAND --help                      examples of each command

"""


class _Parser(argparse.ArgumentParser):
    """Says which word was meant, where one is misspelt."""

    def error(self, message: str) -> NoReturn:
        super().error(message + self._meant(message))

    def _meant(self, message: str) -> str:
        flag = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        if flag:
            return _hint(flag[1], self.flags())
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        return _hint(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""

    def flags(self) -> set[str]:
        """Of this parser, or of all of its commands, since it is the first that is asked."""
        flags = {flag for action in self._actions for flag in action.option_strings}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - it has no other name
                flags.update(*(parser.flags() for parser in action.choices.values()))
        return flags


def _hint(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, sorted(words), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line. What it returns names its `command`."""
    parser = _Parser(
        prog="cleanup-job",
        description=_DESCRIPTION,
        epilog=_FIRST_STEPS + _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cleanup-job {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_run(commands)
    _add_demo(commands)
    _add_restore(commands)
    _add_render(commands)
    _add_check(commands)
    _add_schema(commands)
    _add_acl(commands)
    _add_completion(commands)
    return parser


def _add_command(commands: Any, name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_run(commands: Any) -> None:
    parser = _add_command(commands, "run", "sweep a server", _RUN_EXAMPLES + _EXIT_CODES)
    _add_config(parser)
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
        "--journal",
        metavar="FILE",
        help="write all that is deleted to a new FILE before it is, or to one in a folder; "
        "cleanup-job restore FILE puts it back",
    )
    parser.add_argument(
        "--cprofile",
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
    _add_output(parser)
    _add_limits(parser)
    _add_throttle(parser)


def _add_config(parser: Any, text: str = "a YAML file (see configs/)") -> None:
    parser.add_argument("-c", "--config", metavar="FILE", help=text)
    _add_profile(parser)


def _add_profile(parser: Any) -> None:
    parser.add_argument(
        "--profile", metavar="NAME", help="which of the file's profiles (profiles: {NAME: ...})"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what it writes")
    _add_json(group)
    group.add_argument("--html", metavar="FILE", help="write the report as one self-contained page")
    group.add_argument(
        "--prom",
        metavar="FILE",
        help="write metrics for node_exporter's textfile collector; keeps the last success",
    )
    group.add_argument(
        "--summary",
        choices=("full", "classic"),
        default="full",
        help="what stdout gets: the report, or the summary lines of the shell script before us",
    )
    _add_show(group)
    _add_messages(group)


def _add_json(parser: Any) -> None:
    parser.add_argument(
        "--json", metavar="FILE", help="write the report as JSON; - for stdout, without the text"
    )


def _add_messages(parser: Any) -> None:
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument(
        "-v", "--verbose", action="store_true", help="tell more: commands, partitions, our own CPU"
    )
    how_much.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="for timers: no progress, and a report only if the run is not complete",
    )
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto (the default): on a terminal, unless NO_COLOR is set",
    )
    parser.add_argument(
        "--log-file", metavar="FILE", help="append what happens to a file, which is rotated"
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        help="lines of the log; without --log-file they go to stderr, in place of messages",
    )
    parser.add_argument(
        "--log-max-bytes",
        metavar="N",
        type=_count,
        default=10_000_000,
        help="rotate the log at this size (default 10000000; 0 for never)",
    )
    parser.add_argument(
        "--log-keep", metavar="N", type=_count, default=5, help="old logs to keep (default 5)"
    )


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


def _add_show(parser: Any) -> None:
    parser.add_argument(
        "--show",
        metavar="N",
        type=_count,
        default=3,
        help="how many samples of each verdict to show (default 3)",
    )


def _add_demo(commands: Any) -> None:
    parser = _add_command(
        commands, "demo", "try it on an embedded server with made-up data", _DEMO_EXAMPLES
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
    _add_messages(parser)


def _add_restore(commands: Any) -> None:
    parser = _add_command(
        commands,
        "restore",
        "put back what a run deleted, from its journal",
        _RESTORE_EXAMPLES + _EXIT_CODES,
    )
    parser.add_argument("file", metavar="FILE", help="what run --journal has written")
    _add_config(parser, "a YAML file, for its redis section")
    parser.add_argument("--url", help="as for run")
    parser.add_argument(
        "--ca-file", metavar="FILE", help="the only authorities to trust, for rediss://"
    )
    parser.add_argument("--only", metavar="ID", help="the keys of this coordinator alone")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be put back")
    _add_no_lock(parser, "restore although a run may be at the same keys")
    _add_json(parser)
    _add_messages(parser)


def _add_acl(commands: Any) -> None:
    parser = _add_command(
        commands, "acl", "print the least rights that suffice, and why", _ACL_EXAMPLES
    )
    _add_config(parser)
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
        "validate a configuration file and show what is in effect",
        _CHECK_EXAMPLES,
    )
    parser.add_argument("file", metavar="FILE")
    _add_profile(parser)


def _add_render(commands: Any) -> None:
    parser = _add_command(
        commands, "render", "show the report of an earlier run as a page", _RENDER_EXAMPLES
    )
    parser.add_argument("file", metavar="REPORT", help="what run --json has written; - for stdin")
    parser.add_argument(
        "--html", metavar="FILE", required=True, help="the page to write; - for stdout"
    )


def _add_completion(commands: Any) -> None:
    parser = _add_command(
        commands, "completion", "print a script that completes our words", _COMPLETION_EXAMPLES
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def _add_schema(commands: Any) -> None:
    _add_command(
        commands,
        "schema",
        "print the JSON Schema of the configuration file",
        _CHECK_EXAMPLES,
    )


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return int(text)
