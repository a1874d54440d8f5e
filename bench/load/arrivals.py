"""Dead coordinators arrive: `python -m bench.load.arrivals URL COORDINATORS SECONDS`.

Writes what the bench seeds, but spread over the seconds and in small commands, since the load of
writing is not what is measured. On stdout the time of the first and the last write, and the live
coordinators' keys with their values.
"""

from __future__ import annotations

import json
import sys
import time

import redis

from bench.seed import seed

COORDINATORS_PER_COMMAND = 25
"""A hundred keys."""


def main(argv: list[str]) -> int:
    """Exit code 0, or an exception."""
    url, coordinators, seconds = argv[0], int(argv[1]), float(argv[2])
    with redis.Redis.from_url(url) as client:
        client.ping()
        began_s = time.monotonic()
        live = seed(client, coordinators, COORDINATORS_PER_COMMAND, seconds)
        ended_s = time.monotonic()
    print(json.dumps({"began_s": began_s, "ended_s": ended_s, "live": live}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
