"""The whole load test: a server, the foreground and the sampler around the cycles."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from bench import machine, servers
from bench.load import LoadError, clients, cycles
from bench.load.cycles import Stage, Timeline
from bench.load.plan import Plan
from bench.load.result import result
from bench.load.sampler import Sampler
from bench.measure import TimedOutError


def run(name: str, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the plan on a new server of that name; what it found, for the file.

    Raises:
        FileNotFoundError: the server is not installed.
        LoadError: something that it needs failed.
    """
    try:
        with servers.running(name) as server, server.client() as client:
            product = machine.product(client)
            return {"server": name, "product": product, **_measured(plan, server, client, say)}
    except (TimedOutError, redis.RedisError) as error:
        raise LoadError(str(error)) from error


def _measured(
    plan: Plan, server: servers.Server, client: redis.Redis, say: Callable[[str], None]
) -> dict[str, Any]:
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
