"""Burns CPU and does nothing else: `python -m bench.load.burner SECONDS SHARE [SHARE…]`.

One process per share (0 to 1), each as busy as its share says. It shows what a foreground client
loses to a busy machine alone, without anybody at the server. On stdout when it began and ended.
"""

from __future__ import annotations

import json
import os
import sys
import time

SLICE_S = 0.0005
"""It decides so often whether to burn or to sleep: about as long as a sweep's request takes."""


def burn(seconds: float, share: float) -> None:
    """Be busy for so large a share of the seconds."""
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    while (elapsed_s := time.monotonic() - began_s) < seconds:
        if time.process_time() - cpu_began_s < share * elapsed_s:
            _spin(SLICE_S)
        else:
            time.sleep(SLICE_S)


def shares_of(busy: float) -> list[float]:
    """So many processors' worth as shares of 1 or less."""
    whole = int(busy)
    rest = round(busy - whole, 3)
    return [1.0] * whole + ([rest] if rest > 0 else [])


def main(argv: list[str]) -> int:
    """Exit code 0."""
    seconds, *shares = map(float, argv)
    began_s = time.monotonic()
    children = [_fork(seconds, share) for share in shares[1:]]
    burn(seconds, shares[0] if shares else 0.0)
    for pid in children:
        os.waitpid(pid, 0)
    print(json.dumps({"began_s": began_s, "ended_s": time.monotonic()}))
    return 0


def _fork(seconds: float, share: float) -> int:
    """The pid of a child in our process group, which ends with its seconds."""
    if pid := os.fork():
        return pid
    try:
        burn(seconds, share)
    finally:
        os._exit(0)


def _spin(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
