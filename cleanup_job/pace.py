"""How large the next command may be (pure).

A command's size, SCAN's COUNT or the keys of a script call, follows the time that the last ones
took towards `max_block_ms`: so a server that is slow, or busy with others, gets smaller commands
by itself, and everybody else waits no longer for ours.

The time is seen from here (see `Wire.receive`): from the last reply to this one, less the
connection's latency. Only replies that had to be waited for count. One that was there already says
nothing of the server, since this process was busy; and then it is the server that waits.
"""

from __future__ import annotations

from collections import deque

SMALLEST = 10
"""A command of fewer keys would mostly be overhead, and hardly end sooner."""

LARGEST_MS = 2.0
"""What the largest command takes at most on a server that is not busy."""

LOOKS_BACK = 4
"""Commands of which the quickest counts. Whatever lies between us and the server only ever adds to
what its work takes: one command that was held up counts for nothing, and four slow ones in a row
are the new normal. On a way that takes now 1 ms and now 20 a mean would be all jitter, and have a
server walked ten keys at a time that could do a thousand."""

MOST_GROWTH = 1.5
"""From one command to the next. Shrinking has no such limit, since others wait meanwhile."""


class Pace:
    """The size of the next command of one kind, from `SMALLEST` to `most` keys.

    The first ones are as large as they may be: they are few, and one answer tells how large the
    next should be. Where a command may take less than `LARGEST_MS`, they are smaller by as much.
    """

    def __init__(self, most: int, max_block_ms: float) -> None:
        self.most = most
        self.max_block_ms = max_block_ms
        self.size = max(min(SMALLEST, most), int(most * min(1.0, max_block_ms / LARGEST_MS)))
        self._key_ms: deque[float] = deque(maxlen=LOOKS_BACK)

    def took(self, keys: int, seconds: float | None) -> None:
        """A command of so many keys took the server so long, if anybody can tell."""
        if seconds is None:
            return
        self._key_ms.append(seconds * 1000 / max(1, keys))
        key_ms = min(self._key_ms)
        fits = self.max_block_ms / key_ms if key_ms else self.most
        self.size = int(max(SMALLEST, min(fits, self.size * MOST_GROWTH, self.most)))
