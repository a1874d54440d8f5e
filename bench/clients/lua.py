"""Sends coordinators.lua in one EVAL, for whose length the server answers nobody else."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import redis

STALE_AFTER_S = 600


def main(url: str) -> None:
    """`python -m bench.clients.lua URL`."""
    script = Path(__file__).with_name("coordinators.lua").read_text()
    began = time.perf_counter()
    with redis.Redis.from_url(url, socket_timeout=None) as client:
        client.eval(script, 0, str(STALE_AFTER_S))
    print(json.dumps({"sweep_s": time.perf_counter() - began}))


if __name__ == "__main__":
    main(*sys.argv[1:])
