"""A bare walk: every key is passed once, those that match are replied, and nothing is done.

What it costs the server is what any sweep pays for the keys around its own.
"""

from __future__ import annotations

import json
import sys
import time

from bench.clients.floor import KEYS_PER_CALL, WALKS, Line


class Walk:
    """SCAN with two walks in flight, which meet where cursors turn odd."""

    def __init__(self, line: Line, glob: str) -> None:
        self._line = line
        self._glob = glob
        self.keys = 0

    def run(self) -> None:
        """To the end."""
        for start in range(WALKS):
            self._scan(start, start)
        self._line.settle()

    def _scan(self, start: int, cursor: int) -> None:
        def take(reply: tuple[bytes, list[bytes]]) -> None:
            after = int(reply[0])
            if after and after % WALKS == start:
                self._scan(start, after)
            self.keys += len(reply[1])

        command = ("SCAN", cursor, "MATCH", self._glob, "COUNT", KEYS_PER_CALL)
        self._line.ask(command, take)


def main(url: str, glob: str) -> None:
    """`python -m bench.clients.walk URL GLOB`."""
    line = Line(url)
    began = time.perf_counter()
    walk = Walk(line, glob)
    walk.run()
    print(json.dumps({"sweep_s": time.perf_counter() - began, "keys": walk.keys}))


if __name__ == "__main__":
    main(*sys.argv[1:])
