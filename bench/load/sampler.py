"""The server's CPU, memory and keys over time, by INFO from a thread of the bench."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import redis

from bench.servers import Server, cpu_s

MOST_POINTS = 2_000
"""Of a time series in the file."""


@dataclass(frozen=True)
class Memory:
    """What INFO says about memory.

    Resident memory stays when used memory falls, since the allocator keeps it for the next time:
    their ratio is telling only while the server is full.
    """

    used_bytes: int
    rss_bytes: int
    fragmentation: float


@dataclass(frozen=True)
class Sample:
    """One look, and the CPU since the last one, in processors."""

    at_s: float
    cpu_share: float
    memory: Memory
    keys: int


@dataclass(frozen=True)
class _Look:
    at_s: float
    cpu_s: float
    memory: Memory
    keys: int


class Sampler(threading.Thread):
    """Looks until `stop`."""

    def __init__(self, server: Server, interval_s: float) -> None:
        super().__init__(daemon=True, name="sampler")
        self.samples: list[Sample] = []
        self._client = server.client()
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._failure: redis.RedisError | None = None

    def run(self) -> None:
        """Look, and look again."""
        try:
            before = _look(self._client)
            while not self._stopped.wait(self._interval_s):
                now = _look(self._client)
                self.samples.append(_between(before, now))
                before = now
        except redis.RedisError as error:
            self._failure = error
        finally:
            self._client.close()

    def stop(self) -> list[Sample]:
        """End it; all samples.

        Raises:
            redis.RedisError: that ended it before.
        """
        self._stopped.set()
        if self.is_alive():
            self.join()
        if self._failure is not None:
            raise self._failure
        return self.samples


def memory_of(client: redis.Redis) -> Memory:
    """Now."""
    return _memory(client.info("memory"))


def series(samples: Sequence[Sample], origin_s: float, most: int = MOST_POINTS) -> dict[str, Any]:
    """As columns, thinned: mean CPU and keys, the most memory of each few samples."""
    few = [*_groups(samples, -(-len(samples) // most) or 1)]

    def column(of: Callable[[Sample], float], over: Callable[[list[float]], float]) -> list[float]:
        return [over([of(sample) for sample in some]) for some in few]

    return {
        "at_s": [round(some[-1].at_s - origin_s, 3) for some in few],
        "server_cpu_share": [round(n, 4) for n in column(lambda s: s.cpu_share, fmean)],
        "used_memory_bytes": column(lambda s: s.memory.used_bytes, max),
        "rss_bytes": column(lambda s: s.memory.rss_bytes, max),
        "mem_fragmentation_ratio": column(lambda s: s.memory.fragmentation, max),
        "keys": [round(n) for n in column(lambda s: s.keys, fmean)],
    }


def to_json(memory: Memory) -> dict[str, Any]:
    """For the file."""
    return asdict(memory)


def _look(client: redis.Redis) -> _Look:
    # One section per call: Redis 6.2 takes no more.
    pipeline = client.pipeline(transaction=False)
    pipeline.info("cpu")
    pipeline.info("memory")
    pipeline.dbsize()
    cpu, memory, keys = pipeline.execute()
    return _Look(time.monotonic(), cpu_s(cpu), _memory(memory), keys)


def _between(before: _Look, now: _Look) -> Sample:
    share = (now.cpu_s - before.cpu_s) / (now.at_s - before.at_s)
    return Sample(now.at_s, share, now.memory, now.keys)


def _memory(info: Any) -> Memory:
    return Memory(
        info["used_memory"], info["used_memory_rss"], float(info["mem_fragmentation_ratio"])
    )


def _groups(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    return (samples[start : start + size] for start in range(0, len(samples), size))
