"""Which task comes next, so that no node has more than its share of them at work."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any


class Turns:
    """Tasks that wait: to be made, or for their node to have room."""

    def __init__(self, tasks: Iterable[Any], per_node: int | None) -> None:
        """Nothing has begun.

        Args:
            tasks: each is made when somebody is about to have room; with `per_node`, they have a
                `node`.
            per_node: no more than so many of the same node are under way at once.
        """
        self._upcoming = iter(tasks)
        self._waiting: deque[Any] = deque()
        self._per_node = per_node
        self._busy: Counter[str] = Counter()

    def __bool__(self) -> bool:
        if not self._waiting:
            self._waiting.extend(islice(self._upcoming, 1))
        return bool(self._waiting)

    def ready(self, most: int) -> list[Any]:
        """The tasks that may begin now, at most so many; they count as begun."""
        ready: list[Any] = []
        waiting: deque[Any] = deque()
        while len(ready) < most and self:
            task = self._waiting.popleft()
            if self._per_node is None:
                ready.append(task)
            elif self._busy[task.node] < self._per_node:
                self._busy[task.node] += 1
                ready.append(task)
            else:
                waiting.append(task)
        self._waiting = waiting + self._waiting
        return ready

    def rest(self) -> Iterator[Any]:
        """The tasks that never began."""
        return chain(self._waiting, self._upcoming)

    def finish(self, task: Any) -> None:
        """A task that was begun is through."""
        if self._per_node is not None:
            self._busy[task.node] -= 1

    def put_back(self, tasks: Sequence[Any]) -> None:
        """Tasks that were to begin, and did not: they come first again."""
        for task in tasks:
            self.finish(task)
        self._waiting.extendleft(reversed(tasks))
