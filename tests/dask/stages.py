"""What the pool's tests have workers do. They look it up by name."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from cleanup_job.errors import ServerRefusedError
from cleanup_job.model import Pulse


class Task(NamedTuple):
    number: int
    node: str = "127.0.0.1:6379"


class Span(NamedTuple):
    node: str
    began_s: float
    ended_s: float
    pid: int


def square(task: Task, pulse: Pulse) -> int:
    pulse.advance(task.number)
    return task.number**2


def span(task: Task, pulse: Pulse) -> Span:
    began_s = time.monotonic()
    time.sleep(0.03)
    return Span(task.node, began_s, time.monotonic(), os.getpid())


def refuse(task: Task, pulse: Pulse) -> int:
    raise ServerRefusedError("no right", "no_permission")


def be_wrong(task: Task, pulse: Pulse) -> int:
    raise ZeroDivisionError("a bug")


def want_too_much(task: Task, pulse: Pulse) -> int:
    if task.number == 3:
        raise MemoryError
    return square(task, pulse)


def sleep(seconds: float) -> None:
    time.sleep(seconds)
