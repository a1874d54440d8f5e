"""`python -m bench`: start servers, run the rows, print tables and targets, write files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import cli, figures, plots, record, servers, suites, targets
from bench.case import Case
from bench.cli import EXIT_BAD, EXIT_GOOD, EXIT_USAGE, say
from bench.measure import ROOT
from bench.rows import Row, rows, select
from bench.session import Session
from bench.suites import Suite

SIZES = (100, 1_000, 10_000, 100_000)

QUICK_SIZES = (100, 1_000)

OUT = ROOT / "bench" / "out"
"""Where a suite's JSON and plots go if nobody says where. It is in .gitignore."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if every row did its work, 1 if not, 2 if it could not begin.

    No exit code says how fast it was.
    """
    words = [*(sys.argv[1:] if argv is None else argv)]
    if words[:1] and words[0] in _COMMANDS:
        return _from_file(words)
    arguments = _parser().parse_args(words)
    return cli.supervised("bench", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    suite = _suite(arguments)
    is_custom = suite.name == "custom"
    json = arguments.json or (None if is_custom else OUT / f"{suite.name}.json")
    folder = arguments.plots
    if folder is None and not is_custom and figures.can_draw():
        folder = OUT
    if folder and not figures.can_draw():
        raise FileNotFoundError(figures.MISSING)
    session = Session(suite, arguments.timeout, json, say)
    session.run()
    results = session.finish()
    print("\n" + targets.text(targets.judge(results)), flush=True)
    _draw(results, folder)
    return EXIT_GOOD if session.good else EXIT_BAD


def _suite(arguments: argparse.Namespace) -> Suite:
    """What the options ask for; those that describe a case make it a custom run."""
    if _is_custom(arguments):
        sizes = arguments.sizes or (QUICK_SIZES if arguments.quick else SIZES)
        cases = [
            Case(size, arguments.live_share or 0.0, arguments.unrelated or 0) for size in sizes
        ]
        rounds = arguments.rounds or (1 if arguments.quick else 3)
        sample_s = arguments.sample_s or (1.0 if arguments.quick else 5.0)
        server = arguments.server or servers.DEFAULT
        chosen = arguments.rows or rows()
        suite = suites.custom(server, cases, chosen, rounds)
        return replace(suite, sample_s=sample_s, slow=arguments.slow)
    return _named_suite(arguments)


def _is_custom(arguments: argparse.Namespace) -> bool:
    told = (arguments.sizes, arguments.live_share, arguments.unrelated)
    return arguments.slow or any(one is not None for one in told)


def _named_suite(arguments: argparse.Namespace) -> Suite:
    make = suites.quick if arguments.quick else suites.full if arguments.full else suites.default
    suite = make([arguments.server] if arguments.server else [servers.DEFAULT, suites.OTHER_SERVER])
    if arguments.no_load:
        suite = replace(suite, load=None)
    if arguments.rows:
        suite = suite.only({row.name for row in arguments.rows})
    if arguments.rounds:
        suite = suite.with_rounds(arguments.rounds)
    return replace(suite, sample_s=arguments.sample_s or suite.sample_s)


def _from_file(words: Sequence[str]) -> int:
    """Draw plots, or judge targets, from a file of an earlier run."""
    arguments = _file_parser().parse_args(words)
    try:
        results = record.load(arguments.file)
        if arguments.command == "targets":
            print(targets.text(targets.judge(results)))
        elif figures.can_draw():
            _draw(results, arguments.plots)
        else:
            raise FileNotFoundError(figures.MISSING)
    except (OSError, ValueError) as error:
        say(f"bench: {error}")
        return EXIT_USAGE
    return EXIT_GOOD


def _draw(results: record.Record, folder: Path | None) -> None:
    if folder:
        for path in plots.draw(results, folder):
            print(f"wrote {path}")


_COMMANDS = ("plots", "targets")


def _file_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench")
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("plots", help="draw the plots again")
    drawing.add_argument("file", type=Path, metavar="FILE.json")
    drawing.add_argument("--plots", type=Path, default=OUT, metavar="DIR")
    judging = commands.add_parser("targets", help="judge the targets again")
    judging.add_argument("file", type=Path, metavar="FILE.json")
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="cleanup-job beside what people would use instead. Without an option that "
        "describes a case, all that the targets need.",
        epilog="python -m bench plots FILE.json [--plots DIR] and python -m bench targets "
        "FILE.json do that again with an earlier run's file.",
    )
    names = ", ".join(row.name for row in rows())
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="up to 10,000, once: a minute")
    which.add_argument("--full", action="store_true", help="the whole matrix, once: hours")
    cases = parser.add_argument_group("cases of your own")
    cases.add_argument("--sizes", type=cli.sizes, metavar="N,N", help="coordinators")
    cases.add_argument("--live-share", type=cli.share, metavar="X", help="0 to 1")
    cases.add_argument("--unrelated", type=cli.count, metavar="N", help="other keys")
    cases.add_argument(
        "--slow", action="store_true", help="rows that take minutes too, once at such sizes"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--rows", type=_rows, metavar="ROW,ROW", help=f"of: {names} (or a prefix)")
    how.add_argument("--rounds", type=cli.positive, metavar="N", help="default: 3, or the suite's")
    how.add_argument("--no-load", action="store_true", help="a suite without the load test")
    how.add_argument("--server", choices=servers.NAMES, help=f"default: {servers.DEFAULT}")
    how.add_argument(
        "--sample-s", type=cli.amount, metavar="S", help="for a sampled row; default: 5"
    )
    how.add_argument(
        "--timeout",
        type=cli.amount,
        default=900.0,
        metavar="S",
        help="for one command; default: 900",
    )
    how.add_argument("--json", type=Path, metavar="FILE", help="all figures of all runs")
    how.add_argument("--plots", type=Path, metavar="DIR", help="draw plots (needs matplotlib)")
    return parser


def _rows(text: str) -> list[Row]:
    try:
        return select(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
