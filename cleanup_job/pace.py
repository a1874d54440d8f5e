"""How large the next command may be, and how many may be in flight (pure).

A command's size, SCAN's COUNT or the keys of a script call, follows the time that the last ones
took towards `max_block_ms`: so a server that is slow, or busy with others, gets smaller commands
by itself, and everybody else waits no longer for ours.

The time is seen from here (see `Wire.receive`): from the last reply to this one, less the
connection's latency. Only replies that had to be waited for count. One that was there already says
nothing of the server, since this process was busy; and then it is the server that waits.

In flight are two commands where the server is near: it works on one while we read the reply of the
other. A server that is far away idles unless it also has what it can do in the time that is spent
on the way. `depth_of` is the one rule for that. It grows with the way and with nothing else: what
is beyond it makes nothing quicker, and waits at the server, where everybody else waits behind it.
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


LAST_TIMES = 15
"""Of what came last the median counts. A mean would have less in flight where work stands still now
and then, and that is where more is needed: what was in flight is done in one go afterwards."""

LEAST_SLACK, MOST_SLACK = 0.5, 2.0
"""By how much more or less may be in flight than the shortest way and the median say: less where
some take much longer than most, more on a way whose length varies."""

QUEUE = 4
"""Commands that may wait at the server or at our side before that is a queue."""


def depth_of(latency_s: float, each_s: float, least: int, most: int) -> int:
    """How many to have in flight, so that neither side waits for the way.

    Args:
        latency_s: how long a request and its reply are on the way.
        each_s: how long the slower side takes for one.
        least: as many as a server needs that is near.
        most: never more than so many, even on the longest way.
    """
    if latency_s <= 0:
        return least
    if latency_s >= each_s * (most - least):
        return most
    return least + int(latency_s / each_s)


class Depth:
    """How many requests of one kind, or keys, may be in flight at the moment.

    It grows towards what `depth_of` says by one in the time that one takes. All at once would be
    a flood: a server that gets fifty pages to read in one piece answers nobody else meanwhile.

    The way is taken to be as long as it was at its shortest. One that is longer now and then needs
    more, and shows by this: of all that came within a way's time, the quickest waited for nothing.
    Then *slack* is added little by little. When even that one waited, there is a queue, and slack
    is taken away.

    Attributes:
        each_s: how long one usually takes; at first a guess that is rather too long.
        most: as for `depth_of`; it may be changed.
    """

    def __init__(self, least: int, most: int, each_s: float, per_command: int = 1) -> None:
        self.least = least
        self.most = most
        self.each_s = each_s
        self._times_s = deque([each_s], maxlen=LAST_TIMES)
        self._per_command = per_command
        self._slack = 1.0
        self._queued_s = float("inf")
        self._look_at_s = 0.0
        self._level = float(least)
        self._seen_at_s: float | None = None

    def took(self, count: int, seconds: float) -> None:
        """So many came, this long after the ones before them or after they could have come."""
        self._times_s.append(seconds / max(1, count))
        self.each_s = sorted(self._times_s)[len(self._times_s) // 2]

    def queued(self, seconds: float, latency_s: float, now_s: float) -> None:
        """A reply came so much later than a way's time after its request."""
        self._queued_s = min(self._queued_s, seconds)
        if now_s < self._look_at_s:
            return
        if self._look_at_s and self._queued_s < QUEUE * self._per_command * self.each_s:
            self._slack = min(MOST_SLACK, self._slack * 1.1)
        else:
            self._slack = max(LEAST_SLACK, self._slack / 1.2)
        self._queued_s = float("inf")
        self._look_at_s = now_s + latency_s

    def wanted(self, latency_s: float) -> int:
        """How many it is to be."""
        way_s = latency_s * self._slack
        return depth_of(way_s, self.each_s, self.least, max(self.least, self.most))

    def now(self, latency_s: float, now_s: float) -> int:
        """How many may be in flight now. From one call to the next it grows by `least` at most."""
        wanted = self.wanted(latency_s)
        if self._seen_at_s is not None and self._level < wanted:
            grown = (now_s - self._seen_at_s) / self.each_s if self.each_s else self.least
            self._level += max(0.0, min(grown, self.least))
        self._level = min(self._level, wanted)
        self._seen_at_s = now_s
        return int(self._level)

    def restart(self) -> None:
        """Nothing is in flight any more: it grows anew."""
        self._level = float(self.least)
        self._seen_at_s = None
