"""`python -m bench.load`: start a server and its clients, run the cycles, say what came out."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import redis

from bench import figures, machine, options, servers
from bench.load import LoadError, clients, cycles, plots, tables
from bench.load.cycles import Plan, Stage, Timeline
from bench.load.result import result
from bench.load.sampler import Sampler
from bench.measure import TimedOutError
from bench.options import EXIT_BAD, EXIT_GOOD, EXIT_USAGE, say

N = TypeVar("N", int, float)


class _Quick(argparse.Action):
    def __call__(self, _: Any, namespace: argparse.Namespace, *__: Any) -> None:
        namespace.coordinators, namespace.cycles, namespace.cycle_s = 2_000, 3, 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if the server held what it should after each cycle, 1 if not, 2 for usage.

    Missed targets are said, and change nothing: how fast a machine is can't be an error.
    """
    arguments = _parser().parse_args(argv)
    if arguments.plots and not figures.can_draw():
        say(f"bench.load: {figures.MISSING}")
        return EXIT_USAGE
    # So that SIGTERM ends all processes too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with servers.running(arguments.server) as server:
            return _run(arguments, server)
    except FileNotFoundError as error:
        say(f"bench.load: {error}")
        return EXIT_USAGE
    except (TimedOutError, LoadError, redis.RedisError) as error:
        say(f"bench.load: {error}")
        return EXIT_BAD
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(arguments: argparse.Namespace, server: servers.Server) -> int:
    plan = Plan(**{field.name: getattr(arguments, field.name) for field in fields(Plan)})
    with server.client() as client:
        about, product = machine.describe(), machine.product(client)
        print(_headline(about, product, plan), flush=True)
        content = {"machine": about, "product": product, **measured(plan, server, client, say)}
    if arguments.json:
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    print("\n" + tables.tables(content), flush=True)
    if arguments.plots:
        with figures.styled():
            for file in figures.save(plots.drawn(content), arguments.plots):
                say(f"wrote {file}")
    return EXIT_GOOD if content["good"] else EXIT_BAD


def measured(
    plan: Plan, server: servers.Server, client: redis.Redis, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run the plan on that server, which is empty.

    Raises:
        LoadError: a process of it failed.
        TimedOutError: a process took too long.
        redis.RedisError: the server failed the bench.
    """
    with (
        tempfile.TemporaryDirectory(prefix="cleanup-job-bench-") as folder,
        clients.working(server.port, plan.clients, plan.rate, Path(folder)) as foreground,
    ):
        sampler = Sampler(server, plan.sample_s)
        sampler.start()
        try:
            timeline = Timeline()
            done = cycles.run(Stage(plan, server, client, foreground, timeline), say)
        finally:
            samples = sampler.stop()
        work = foreground.finish()
    return result(plan, done, timeline.phases, work, samples)


def _headline(about: dict[str, Any], product: str, plan: Plan) -> str:
    return (
        f"{product} on {machine.headline(about)}\n"
        f"{plan.cycles} sweeps of {plan.coordinators:,} dead coordinators, one in "
        f"{plan.cycle_s:g} s; foreground: {plan.clients} clients, {plan.rate:g} op/s together"
    )


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

    number("--coordinators", options.positive, plan.coordinators, "that die in each cycle")
    number(
        "--cycles",
        options.positive,
        plan.cycles,
        "with a sweep; for each fifth one more with the pipe",
    )
    number("--cycle-s", options.amount, plan.cycle_s, "a cycle's length, unless it takes longer")
    number("--rate", options.amount, plan.rate, "operations per second of all clients together")
    number("--clients", options.positive, plan.clients, "foreground processes")
    number("--sample-s", options.amount, plan.sample_s, "between two looks at the server")
    number("--timeout-s", options.amount, plan.timeout_s, "seconds for any one process")
    parser.add_argument(
        "--workers",
        type=options.workers,
        default=plan.workers,
        metavar="N",
        help="of cleanup-job run; default: auto",
    )
    parser.add_argument(
        "--nice",
        type=options.niceness,
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
