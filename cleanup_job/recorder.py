"""A worker's end of the journal: records in groups, one wait for the disk for each group.

A thread of its own packs, writes and waits, so that the server and Python go on meanwhile; nearly
all of that is done without Python's lock. While it waits for the disk records pile up, and all of
them are the next group: so the slower a disk is, the larger are the groups.

Invariants:
- `then` is called once for each record, by whoever calls `settle`: with None when the record is on
  the disk, else with the reason why it may not be.
- After one failure nothing more is written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

from cleanup_job.journal import Entry, JournalError, append, cannot_write, frame

GROUP_BYTES = 4 << 20
"""Of dumps in a group at most. Writing more at once is no quicker, and those who wait for the first
of them would wait for the last."""

Done = Callable[[JournalError | None], None]


class _Item(NamedTuple):
    entry: Entry
    size: int
    then: Done


class Recorder:
    """Appends to a journal that exists.

    Attributes:
        backlog: bytes of names and dumps that are not known to be on the disk.
    """

    def __init__(self, path: str) -> None:
        self.backlog = 0
        self._path = path
        self._waiting = 0
        self._todo: SimpleQueue[_Item | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[list[_Item], JournalError | None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, entry: Entry, then: Done) -> None:
        """Have it written."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
            self._thread.start()
        item = _Item(entry, entry.size, then)
        self.backlog += item.size
        self._waiting += 1
        self._todo.put(item)

    def settle(self, *, wait: bool) -> None:
        """Tell those whose records were written.

        Args:
            wait: for the next group, if there is one under way.
        """
        while self._waiting and (wait or not self._done.empty()):
            group, error = self._done.get()
            wait = False
            self._waiting -= len(group)
            self.backlog -= sum(item.size for item in group)
            for item in group:
                item.then(error)

    def close(self, *, wait: bool = True) -> None:
        """End the thread when it is through; `wait` for that."""
        if self._thread is not None:
            self._todo.put(None)
            if wait:
                self._thread.join()

    # -- in the thread -------------------------------------------------------------------------

    def _work(self) -> None:
        error: JournalError | None = None
        file: int | None = None
        ended = False
        while not ended:
            group, ended = self._next_group()
            try:
                if error is None and group:
                    if file is None:
                        file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
                    append(file, b"".join(frame(item.entry) for item in group))
            except OSError as problem:
                error = cannot_write(self._path, problem)
            except Exception as problem:  # noqa: BLE001 - whoever waits would wait for ever
                error = JournalError(f"the journal {self._path} can't be written ({problem!r})")
            if group:
                self._done.put((group, error))
        if file is not None:
            os.close(file)

    def _next_group(self) -> tuple[list[_Item], bool]:
        """All that wait, at least one; and whether there will be no more."""
        group: list[_Item] = []
        size = 0
        while not group or (size < GROUP_BYTES and not self._todo.empty()):
            item = self._todo.get()
            if item is None:
                return group, True
            group.append(item)
            size += item.size
        return group, False
