"""What the command writes: data to stdout, messages to stderr, and neither of them at any price.

A stream that is closed, full, or that nobody reads any more loses what it would have got. It does
not lose the run, nor its exit code.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import NamedTuple, TextIO

from cleanup_job.errors import ConfigError

_closed: set[str] = set()
"""Which of our streams the caller closed."""


class _Ear(NamedTuple):
    take: Callable[[str], None]
    instead: bool


_ears: list[_Ear] = []
"""The log, if there is one."""


def listen(take: Callable[[str], None], *, instead: bool) -> None:
    """Have all that is said.

    Args:
        take: is given each message.
        instead: the log is on stderr, in place of the messages.
    """
    _ears[:] = [_Ear(take, instead)]


def deafen() -> None:
    """End that."""
    _ears.clear()


def open_closed_streams() -> None:
    """A stream that the caller closed takes what is written to it, and drops it.

    Python has None in its place. It is opened first of all, since the next file or socket to be
    opened would get its number, and somebody's words would end in it.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            _closed.add(name)
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(null, "r" if name == "stdin" else "w"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A report must not fail, after the work is done, on a terminal that has no arrow.
            stream.reconfigure(errors="backslashreplace")


def flush_messages() -> None:
    """Lose what nobody can read any more, such as a bar for a terminal that is gone."""
    try:
        sys.stderr.flush()
    except OSError:
        drop(sys.stderr)


def drop(stream: TextIO) -> None:
    """Point a stream away, so that the interpreter's own flush at exit does not fail again.

    That would end the process with Python's code for it, 120, in place of ours.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def put(text: str | bytes) -> None:
    """Data to stdout; bytes go there as they are, whatever the terminal's encoding.

    Raises:
        ConfigError: if there is no room for it.
    """
    try:
        if isinstance(text, str):
            sys.stdout.write(text)
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop(sys.stdout)
        raise ConfigError(f"the output can't be written: {error.strerror}") from error


def put_report(text: str | bytes) -> None:
    """The report to stdout, or to stderr if that fails: what was done can be told only once.

    Raises:
        ConfigError: if there was no room for it on stdout.
        BrokenPipeError: if nobody reads stdout.
    """
    as_text = text.decode() if isinstance(text, bytes) else text
    try:
        if "stdout" in _closed:
            say(f"cleanup-job: stdout is closed; the report:\n{as_text}")
        else:
            put(text)
    except (BrokenPipeError, ConfigError):
        say(f"cleanup-job: stdout takes no more; the report:\n{as_text}")
        raise


def say(text: str, *, logged: bool = False) -> None:
    """A message for people.

    Args:
        text: what it says.
        logged: the log has it already, in words of its own.
    """
    for ear in _ears:
        if not logged:
            ear.take(text)
    if not any(ear.instead for ear in _ears):
        show(text)


def show(text: str) -> None:
    """Text to stderr. Where nobody listens any more it is lost, and nothing else is.

    It is also called by a signal's handler, anywhere in the middle of anything: an error raised
    there would be taken for one of what was interrupted.
    """
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        with contextlib.suppress(OSError):
            drop(sys.stderr)
    except RuntimeError:
        pass  # the handler came in the middle of another message
