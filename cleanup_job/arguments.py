"""The command line: its commands and flags. What they do is in `cli`, what help says in `manual`.

Flags can't be abbreviated: a shorter one would mean something else, or nothing, as soon as there is
another that begins like it. A misspelt one is answered with the nearest name instead.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from cleanup_job import __version__, manual
from cleanup_job.style import WHEN

SHELLS = ("bash", "zsh", "tcsh")


class _Parser(argparse.ArgumentParser):
    """One that offers the nearest name, and answers an error with a few lines."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **settings,
        )

    def error(self, message: str) -> NoReturn:
        """Exit with the usage, what is wrong, the nearest name, and where to learn more."""
        self.print_usage(sys.stderr)
        choices = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        offer = _offer(choices[1], re.findall(r"[^ ,']+", choices[2])) if choices else ""
        if "COMMAND" in message and not offer:
            offer = "; a command comes first, as in: cleanup-job run --dry-run"
        message += offer
        self.exit(2, f"{self.prog}: error: {message}\n'{self.prog} --help' has examples\n")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Exit with the error that these words mean nothing to this command."""
        flags = (word.partition("=")[0] for word in words if word.startswith("-"))
        offers = (_offer(flag, self._option_string_actions) for flag in flags)
        hint = next((offer for offer in offers if offer), "")
        self.error(f"unrecognized arguments: {' '.join(words)}{hint}")


class _TopParser(_Parser):
    """The one of the commands, which lists them by what they are for.

    Attributes:
        summaries: what each command does, in a few words.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.summaries: dict[str, str] = {}

    def format_help(self) -> str:
        """The help, with the commands in groups, which argparse does not know."""
        lines = [self.format_usage(), manual.ABOUT]
        for group, names in manual.COMMANDS.items():
            lines += ["", f"{group}:"]
            lines += [f"  {name:<12}{self.summaries[name]}" for name in names]
        lines += [
            "",
            "options:",
            "  -h, --help  show this, or behind a command: all about it",
            "  --version   show the version",
            "",
            manual.FIRST_STEPS,
            manual.EXIT_CODES,
        ]
        return "\n".join(lines)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The words of a command line, by default this process's.

    What is returned names its `command`, and has all the `words`.
    """
    parser, commands = _make()
    given = sys.argv[1:] if words is None else [*words]
    arguments, extra = parser.parse_known_args(given)
    if extra:
        commands[arguments.command].refuse(extra)
    arguments.words = given
    return arguments


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line. What it returns names its `command`."""
    return _make()[0]


def _make() -> tuple[argparse.ArgumentParser, dict[str, _Parser]]:
    parser = _TopParser(prog="cleanup-job", usage="cleanup-job COMMAND [OPTION ...]")
    parser.add_argument("--version", action="version", version=f"cleanup-job {__version__}")
    commands = parser.add_subparsers(
        prog="cleanup-job",
        required=True,
        metavar="COMMAND",
        dest="command",
        parser_class=_Parser,
    )
    for add in (
        _add_run,
        _add_demo,
        _add_restore,
        _add_render,
        _add_check,
        _add_schema,
        _add_acl,
        _add_completion,
    ):
        add(commands)
    parser.summaries = _SUMMARIES
    return parser, dict(commands.choices)


_SUMMARIES = {
    "run": "sweep a server",
    "demo": "try it on an embedded server with made-up data",
    "restore": "put back what a run deleted, from its journal",
    "render": "show the report of an earlier run as a page",
    "check": "validate a configuration file, show what is in effect",
    "schema": "print the JSON Schema of the configuration file",
    "acl": "print the least rights that suffice, and why",
    "completion": "print a script that completes our words in a shell",
}


def _add_command(
    commands: Any, name: str, usage: str, description: str, *epilog: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=_SUMMARIES[name],
        usage=f"cleanup-job {name} {usage}".rstrip(),
        description=description,
        epilog="\n".join(epilog),
    )
    return parser


def _offer(word: str, names: Iterable[str]) -> str:
    """The nearest of these names, as a question; nothing if none is near."""
    near = difflib.get_close_matches(word, [*names], 1)
    return f"; did you mean {near[0]}?" if near else ""


def _add_run(commands: Any) -> None:
    parser = _add_command(
        commands,
        "run",
        "[--url URL] [-c FILE] [--dry-run] [OPTION ...]",
        manual.RUN,
        manual.RUN_EXAMPLES,
        manual.STREAMS,
        manual.RUN_ENVIRONMENT,
        manual.EXIT_CODES,
    )
    _add_where(parser)
    _add_what(parser)
    _add_output(parser)
    _add_limits(parser)
    _add_throttle(parser)
    _add_work(parser)


def _add_where(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where")
    _add_config(group)
    group.add_argument(
        "--url",
        help="redis://[user@]host[:port][/db], rediss:// for TLS, unix:///path[?db=N], or "
        "redis+sentinel://host[:port],host[:port]/service[/db]; any node of a cluster will do",
    )
    _add_ca_file(group)


def _add_ca_file(parser: Any) -> None:
    parser.add_argument(
        "--ca-file", metavar="FILE", help="the only authorities to trust, for rediss://"
    )


def _add_what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what goes")
    group.add_argument(
        "--dry-run", action="store_true", help="only tell what would go; nothing is written"
    )
    group.add_argument("--stale-after", metavar="S", help="seconds after which a beat is stale")
    group.add_argument(
        "--orphans", metavar="WHAT", help="ignore, report (the default) or purge keys without beat"
    )
    group.add_argument(
        "--orphan-grace", metavar="S", help="seconds untouched before an orphan may go"
    )
    group.add_argument(
        "--plan",
        metavar="FILE",
        help="with --dry-run: write there what would go, gzipped if it ends in .gz; without: "
        "delete nothing but what is in there and still dead",
    )
    group.add_argument(
        "--journal",
        metavar="FILE",
        help="write all that is deleted to a new FILE before it is, or to one in a folder; "
        "cleanup-job restore FILE puts it back",
    )
    group.add_argument(
        "--allow-partial",
        action="store_const",
        const="true",
        help="sweep a cluster of which some slots are not served",
    )


def _add_work(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it works")
    group.add_argument("--workers", metavar="N", help="worker processes, or auto")
    group.add_argument(
        "--engine",
        metavar="NAME",
        help="serial, processes, or dask: workers on other machines",
    )
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="with --engine dask: its scheduler, as tcp://HOST:8786 or tls://; without it, workers "
        "are started on this machine",
    )
    group.add_argument(
        "--memory-limit",
        metavar="SIZE",
        help="memory of all our processes together, such as 500MB; above it names are kept in "
        "files (in TMPDIR) and judged in waves",
    )
    group.add_argument(
        "--max-block-ms",
        metavar="MS",
        help="about how long one command may hold the server (default 2); slow servers get "
        "smaller commands",
    )
    group.add_argument(
        "--per-node", metavar="N", help="workers at one primary of a cluster at once, or auto"
    )
    group.add_argument(
        "--max-attempts",
        metavar="N",
        help="how often a task is tried whose worker or connection was lost (default 3)",
    )
    group.add_argument(
        "--cprofile",
        metavar="FILE",
        help="write cProfile's figures of the job, and of each worker to FILE.worker-N; "
        "python -m pstats FILE reads them",
    )


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
    _add_html(group)
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


def _add_html(parser: Any) -> None:
    parser.add_argument(
        "--html", metavar="FILE", help="write the report as one self-contained page"
    )


def _add_verbose(parser: Any) -> None:
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="say more: what each phase did, what each command took, and why",
    )


def _add_color(parser: Any) -> None:
    parser.add_argument(
        "--color",
        choices=WHEN,
        default="auto",
        help="auto (the default): on a terminal, unless NO_COLOR is set",
    )


def _add_messages(parser: Any) -> None:
    how_much = parser.add_mutually_exclusive_group()
    _add_verbose(how_much)
    how_much.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="for timers: nothing at all if the exit code is 0 and nothing was lost",
    )
    _add_color(parser)
    parser.add_argument(
        "--log-file",
        metavar="FILE",
        help="append what happens to a file, which is rotated; - for stderr",
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
        commands, "demo", "[--coordinators N] [OPTION ...]", manual.DEMO, manual.DEMO_EXAMPLES
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
    group = parser.add_argument_group("what it writes")
    _add_json(group)
    _add_html(group)
    _add_show(group)
    _add_verbose(group)
    _add_color(group)


def _add_restore(commands: Any) -> None:
    parser = _add_command(
        commands,
        "restore",
        "FILE [--url URL] [-c FILE] [--dry-run] [OPTION ...]",
        manual.RESTORE,
        manual.RESTORE_EXAMPLES,
        manual.EXIT_CODES,
    )
    parser.add_argument("file", metavar="FILE", help="what run --journal has written")
    _add_config(parser, "a YAML file, for its redis section")
    parser.add_argument("--url", help="as for run")
    _add_ca_file(parser)
    parser.add_argument("--only", metavar="ID", help="the keys of this coordinator alone")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be put back")
    _add_no_lock(parser, "restore although a run may be at the same keys")
    group = parser.add_argument_group("what it writes")
    _add_json(group)
    _add_messages(group)


def _add_acl(commands: Any) -> None:
    parser = _add_command(commands, "acl", "[OPTION ...]", manual.ACL, manual.ACL_EXAMPLES)
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
    parser.add_argument("--journal", action="store_true", help="for runs with --journal")
    parser.add_argument(
        "--restore", action="store_true", help="for a user who restores, and nothing else"
    )


def _add_check(commands: Any) -> None:
    parser = _add_command(
        commands, "check", "FILE [--profile NAME]", manual.CHECK, manual.CHECK_EXAMPLES
    )
    parser.add_argument("file", metavar="FILE", help="the YAML file")
    _add_profile(parser)


def _add_render(commands: Any) -> None:
    parser = _add_command(
        commands, "render", "REPORT --html FILE", manual.RENDER, manual.RENDER_EXAMPLES
    )
    parser.add_argument("file", metavar="REPORT", help="what run --json has written; - for stdin")
    parser.add_argument(
        "--html", metavar="FILE", required=True, help="the page to write; - for stdout"
    )


def _add_completion(commands: Any) -> None:
    parser = _add_command(
        commands, "completion", "SHELL", manual.COMPLETION, manual.COMPLETION_EXAMPLES
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def _add_schema(commands: Any) -> None:
    _add_command(commands, "schema", "", manual.SCHEMA, manual.SCHEMA_EXAMPLES)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return int(text)
