"""`python -m bench.load`: the load test by itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from bench import cli, figures, plots, servers, targets
from bench.cli import EXIT_BAD, EXIT_GOOD, say
from bench.load.plan import QUICK, Plan
from bench.session import Session
from bench.suites import Load, Suite

N = TypeVar("N", int, float)


class _Quick(argparse.Action):
    def __call__(self, _: Any, namespace: argparse.Namespace, *__: Any) -> None:
        namespace.coordinators = QUICK.coordinators
        namespace.cycles, namespace.cycle_s = QUICK.cycles, QUICK.cycle_s


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if the server held what it should after each cycle, 1 if not, 2 for usage.

    Missed targets are said, and change nothing: how fast a machine is can't be an error.
    """
    arguments = _parser().parse_args(argv)
    return cli.supervised("bench.load", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.plots and not figures.can_draw():
        raise FileNotFoundError(figures.MISSING)
    plan = Plan(**{field.name: getattr(arguments, field.name) for field in fields(Plan)})
    suite = Suite("load", (), load=Load(arguments.server, plan))
    session = Session(suite, plan.timeout_s, arguments.json, say)
    session.run()
    results = session.finish()
    print("\n" + targets.text([targets.kind(results)]), flush=True)
    if arguments.plots:
        for path in plots.draw(results, arguments.plots):
            print(f"wrote {path}")
    return EXIT_GOOD if session.good else EXIT_BAD


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.load",
        description="Masses of coordinators die and are swept while foreground clients work.",
    )
    plan = Plan()
    parser.add_argument(
        "--quick", action=_Quick, nargs=0, help="3 cycles of 3 s with 2,000 coordinators"
    )

    def number(flag: str, kind: Callable[[str], N], default: N, text: str) -> None:
        text = f"{text}; default: {default:,g}"
        parser.add_argument(flag, type=kind, default=default, metavar="N", help=text)

    amount, positive = cli.amount, cli.positive
    number("--coordinators", positive, plan.coordinators, "that die in each cycle")
    number("--cycles", positive, plan.cycles, "with a sweep; for each fifth one more with the pipe")
    number("--cycle-s", amount, plan.cycle_s, "a cycle's length, unless it takes longer")
    number("--rate", amount, plan.rate, "operations per second of all clients together")
    number("--clients", positive, plan.clients, "foreground processes")
    number("--sample-s", amount, plan.sample_s, "between two looks at the server")
    number("--timeout-s", amount, plan.timeout_s, "seconds for any one process")
    parser.add_argument(
        "--workers",
        type=cli.workers,
        default=plan.workers,
        metavar="N",
        help="of cleanup-job run; default: auto",
    )
    parser.add_argument(
        "--nice",
        type=cli.niceness,
        default=plan.nice,
        metavar="N",
        help="0 to 19: all that write, sweep, pipe and burn yield to the server; default: 0",
    )
    parser.add_argument("--server", choices=servers.NAMES, default=servers.DEFAULT)
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures and time series")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="SVG files; needs matplotlib")
    return parser


if __name__ == "__main__":
    sys.exit(main())
