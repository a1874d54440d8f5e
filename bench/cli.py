"""What the bench's commands share: values of options, exit codes, how a signal ends them."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

EXIT_GOOD = 0
EXIT_BAD = 1
EXIT_USAGE = 2


def supervised(name: str, work: Callable[[], int]) -> int:
    """Its exit code; 2 if something that it needs is not installed."""
    # So that SIGTERM ends all of its processes too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # A shell's background job inherits that SIGINT is ignored, and Python leaves that as it is.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return work()
    except FileNotFoundError as error:
        say(f"{name}: {error}")
        return EXIT_USAGE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def count(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.replace("_", "").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return int(text)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.replace("_", "").isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def sizes(text: str) -> list[int]:
    """Whole numbers above 0, with commas between them."""
    return [positive(word) for word in text.split(",")]


def amount(text: str) -> float:
    """A finite number above 0: of seconds, or per second."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def share(text: str) -> float:
    """0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return number


def niceness(text: str) -> int:
    """0 to 19."""
    if not text.isdigit() or int(text) > 19:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 19")
    return int(text)


def workers(text: str) -> str:
    """As `cleanup-job run --workers` takes it."""
    return text if text == "auto" else str(positive(text))


def say(text: str) -> None:
    """A line of progress, beside what is the result."""
    print(text, file=sys.stderr, flush=True)
