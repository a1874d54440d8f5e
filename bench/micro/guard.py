"""What the guard costs the server: `python -m bench.micro.guard`.

The same coordinators are deleted in several ways, each on data that is written anew, in the
order in which a walk finds it: what was written together lies together, and a walk's order is
another one. Rounds are interleaved. Times are the server's own, of INFO commandstats.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

import redis

from bench import machine, servers
from bench.micro.data import SCHEMA, script_call
from bench.record import Spread
from bench.seed import seed
from cleanup_job import demo

PER_CALL = 250
"""Coordinators, a thousand keys: as a sweep has it."""

_UNCHECKED = "return redis.call('UNLINK', unpack(KEYS))"

Coordinators = tuple[Sequence[bytes], Sequence[bytes]]
"""Ids, and their heartbeats' values in step."""


@dataclass(frozen=True)
class Way:
    """One way to delete a batch; `command` is the one whose time counts."""

    name: str
    command: str
    delete: Callable[[redis.Redis, Coordinators], int]


def ways(client: redis.Redis) -> list[Way]:
    """All of them, their scripts loaded."""
    script = (files("cleanup_job") / "lua" / "purge.lua").read_text()
    guarded, unchecked = client.script_load(script), client.script_load(_UNCHECKED)
    return [
        Way("UNLINK, no script", "unlink", _unlink),
        Way("script without a check", "evalsha", partial(_script_unlink, unchecked)),
        Way("purge.lua, values joined", "evalsha", partial(_purge, guarded, True)),
        Way("purge.lua, values one by one", "evalsha", partial(_purge, guarded, False)),
    ]


def measure(client: redis.Redis, way: Way, coordinators: int) -> float:
    """Microseconds of the server per coordinator.

    Raises:
        RuntimeError: it deleted something else than the stale coordinators.
    """
    client.flushall()
    seed(client, coordinators)
    batches = _batches(client)
    client.config_resetstat()
    deleted = sum(way.delete(client, batch) for batch in batches)
    info: Any = client.info("commandstats")
    if deleted != coordinators * demo.KEYS_PER_COORDINATOR:
        raise RuntimeError(f"{way.name} deleted {deleted} keys; has the script's call changed?")
    return float(info[f"cmdstat_{way.command}"]["usec"]) / coordinators


def _batches(client: redis.Redis) -> list[Coordinators]:
    """The stale coordinators as a walk finds their heartbeats."""
    prefix = SCHEMA.heartbeat.key_for(b"test-swarm-")
    walked = dict.fromkeys(client.scan_iter(prefix + b"*", count=1000))
    ids = SCHEMA.heartbeat.ids([bytes(key) for key in walked])
    parts = [ids[start : start + PER_CALL] for start in range(0, len(ids), PER_CALL)]
    return [(part, _values(client, part)) for part in parts]


def _values(client: redis.Redis, ids: Sequence[bytes]) -> list[bytes]:
    values: Any = client.mget(SCHEMA.heartbeat.keys_for(ids))
    return list(values)


def _keys(batch: Coordinators) -> list[bytes]:
    count, *words = script_call(*batch, joined=True)
    return words[: int(count)]


def _unlink(client: redis.Redis, batch: Coordinators) -> int:
    return int(client.unlink(*_keys(batch)))


def _script_unlink(sha: str, client: redis.Redis, batch: Coordinators) -> int:
    keys = _keys(batch)
    return int(_evalsha(client, sha, [b"%d" % len(keys), *keys]))


def _purge(sha: str, joined: bool, client: redis.Redis, batch: Coordinators) -> int:
    reply = _evalsha(client, sha, script_call(*batch, joined=joined))
    return sum(reply[1:]) if reply[0] == 1 else 0


def _evalsha(client: redis.Redis, sha: str, words: Sequence[bytes]) -> Any:
    call: Any = client.execute_command
    return call("EVALSHA", sha, *words)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per way."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro.guard")
    parser.add_argument("--server", choices=servers.NAMES, default=servers.DEFAULT)
    parser.add_argument("--coordinators", type=int, default=100_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    arguments = parser.parse_args(argv)
    try:
        with servers.running(arguments.server) as server, server.client() as client:
            _compare(client, arguments.coordinators, arguments.rounds)
    except FileNotFoundError as error:
        print(f"guard: {error}", file=sys.stderr)
        return 2
    return 0


def _compare(client: redis.Redis, coordinators: int, rounds: int) -> None:
    found: dict[str, list[float]] = {}
    chosen = ways(client)
    for number in range(rounds):
        first = number % len(chosen)
        for way in [*chosen[first:], *chosen[:first]]:
            found.setdefault(way.name, []).append(measure(client, way, coordinators))
    print(f"{coordinators:,} coordinators, {PER_CALL} per call, on {machine.product(client)}")
    print("µs of the server per coordinator: median (least–most)\n")
    for way in chosen:
        spread = Spread.of(found[way.name])
        assert spread is not None, "there are rounds"
        print(f"{way.name:<30} {spread.median:6.2f} ({spread.low:.2f}–{spread.high:.2f})")


if __name__ == "__main__":
    sys.exit(main())
