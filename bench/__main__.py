"""`python -m bench`: start a server, run the rows, print the tables, write JSON."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine, servers, tables
from bench.case import Case
from bench.measure import TimedOutError
from bench.rounds import Plan, Result, compare
from bench.rows import Row, Setting, rows, select

SIZES = (100, 1_000, 10_000, 100_000)

QUICK_SIZES = (100, 1_000)

EXIT_GOOD = 0
EXIT_BAD = 1
EXIT_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if every row did its work, 1 if not, 2 if it could not begin."""
    arguments = _parser().parse_args(argv)
    # So that SIGTERM ends the server too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with servers.running(arguments.server) as server:
            return _run(arguments, server)
    except FileNotFoundError as error:
        _say(f"bench: {error}")
        return EXIT_USAGE
    except TimedOutError as error:
        _say(f"bench: {error}")
        return EXIT_BAD
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(arguments: argparse.Namespace, server: servers.Server) -> int:
    with server.client() as client:
        about = machine.describe(client)
    clients = servers.command_line_clients()
    about["command_line_clients"] = [client.version for client in clients]
    print(_headline(about))
    plan = Plan(arguments.rounds, arguments.slow, arguments.timeout)
    cases: list[tuple[Case, list[Result]]] = []
    for size in arguments.sizes:
        case = Case(size, arguments.live_share, arguments.unrelated)
        setting = Setting(server, case, clients, arguments.sample_s, Path())
        results = compare(setting, arguments.rows, plan, _say)
        print("\n" + tables.table(case, results), flush=True)
        cases.append((case, results))
        if arguments.json:  # after each case, so that a long bench may be ended early
            _write(arguments.json, about, plan, cases)
    print("\n" + tables.legend(cases[0][1]))
    good = all(result.good for _, results in cases for result in results)
    return EXIT_GOOD if good else EXIT_BAD


def _headline(about: dict[str, Any]) -> str:
    return (
        f"{about['server']} on {about['cores']} cores of {about['cpu']}, {about['system']}; "
        f"Python {about['python']}, redis-py {about['redis_py']}"
    )


def _write(
    path: Path, about: dict[str, Any], plan: Plan, cases: Sequence[tuple[Case, list[Result]]]
) -> None:
    content = {
        "schema_version": 1,
        "machine": about,
        "rounds": plan.rounds,
        "cases": [
            {
                "coordinators": case.coordinators,
                "stale": case.stale,
                "unrelated": case.unrelated,
                "keys": case.keys,
                "rows": [result.to_json() for result in results],
            }
            for case, results in cases
        ],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="cleanup-job beside what people would use instead."
    )
    names = ", ".join(row.name for row in rows())
    parser.add_argument(
        "--quick", action=_Quick, nargs=0, help="100 and 1,000 coordinators, one short round"
    )
    parser.add_argument("--sizes", type=_sizes, default=SIZES, metavar="N,N", help="coordinators")
    parser.add_argument(
        "--rows", type=_rows, default=rows(), metavar="ROW,ROW", help=f"of: {names} (or a prefix)"
    )
    parser.add_argument("--rounds", type=_positive, default=3, metavar="N", help="default: 3")
    parser.add_argument(
        "--slow", action="store_true", help="rows that take minutes too, once at such sizes"
    )
    parser.add_argument("--live-share", type=_share, default=0.0, metavar="X", help="0 to 1")
    parser.add_argument("--unrelated", type=_count, default=0, metavar="N", help="other keys")
    parser.add_argument("--server", choices=servers.NAMES, default=servers.DEFAULT)
    parser.add_argument(
        "--sample-s", type=_seconds, default=5.0, metavar="S", help="for a sampled row; default: 5"
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=900.0, metavar="S", help="for one command; default: 900"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures of all runs")
    return parser


class _Quick(argparse.Action):
    def __call__(self, _: Any, namespace: argparse.Namespace, *__: Any) -> None:
        namespace.sizes, namespace.rounds, namespace.sample_s = QUICK_SIZES, 1, 1.0


def _rows(text: str) -> list[Row]:
    try:
        return select(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _sizes(text: str) -> list[int]:
    return [_positive(word) for word in text.split(",")]


def _positive(text: str) -> int:
    if not (number := _count(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return number


def _count(text: str) -> int:
    if not text.replace("_", "").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return share


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
