"""Dead coordinators arrive: `python -m bench.load.arrivals URL COORDINATORS SECONDS`.

Writes what `cleanup_job.demo.seed` writes, but spread over the seconds and in small commands,
since the load of writing is not what is measured. On stdout the time of the first and the last
write, and the live coordinators' keys with their values.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

import redis

from cleanup_job import demo

KEYS_PER_COMMAND = 100


class PacedRedis(redis.Redis):
    """Writes large MSETs in small ones, each at its time."""

    def pace(self, commands: int, seconds: float) -> None:
        """Spread so many small commands over the seconds from now on."""
        self._interval_s = seconds / commands
        self._due_s = time.monotonic()

    def mset(self, mapping: Mapping[Any, Any]) -> Any:
        """As the client's own, but it takes its time."""
        pairs = iter(mapping.items())
        while some := dict(islice(pairs, KEYS_PER_COMMAND)):
            time.sleep(max(0.0, self._due_s - time.monotonic()))
            self._due_s += self._interval_s
            super().mset(some)


def main(argv: list[str]) -> int:
    """Exit code 0, or an exception."""
    url, coordinators, seconds = argv[0], int(argv[1]), float(argv[2])
    keys = (coordinators + demo.LIVE) * demo.KEYS_PER_COORDINATOR
    with PacedRedis.from_url(url) as client:
        client.ping()
        began_s = time.monotonic()
        client.pace(-(-keys // KEYS_PER_COMMAND), seconds)
        live = demo.seed(client, coordinators)
        ended_s = time.monotonic()
    print(json.dumps({"began_s": began_s, "ended_s": ended_s, "live": live}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
