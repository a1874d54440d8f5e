"""What is said of an exception that is none of ours: it is a bug, and somebody should be told."""

from __future__ import annotations

import platform
import traceback

from cleanup_job import __version__


def describe_bug(bug: BaseException) -> str:
    """The traceback, with what was noted on the way, and a request to report it."""
    lines = "".join(traceback.format_exception(bug)).rstrip("\n")
    return (
        f"{lines}\n"
        "cleanup-job: this is a bug. Please report it with all of these lines; we put no secret\n"
        "into them, but look before you send them.\n"
        f"cleanup-job {__version__}, Python {platform.python_version()}, {platform.platform()}"
    )


def note_of(run_id: str, phase: str, *, dry_run: bool) -> str:
    """What the run had done when it met a bug.

    Args:
        run_id: nothing before the run began.
        phase: the last that began.
        dry_run: nothing is ever written.
    """
    where = f"run {run_id or '(not begun)'}, {f'phase {phase}' if phase else 'at the start'}"
    if phase == "restore":
        done = "nothing was put back"
        if not dry_run:
            done = "keys may have been put back; restore again, what exists is left as it is"
    elif phase == "purge" and not dry_run:
        done = "keys may have been deleted; the next run goes on where this one ended"
    else:
        done = "nothing was deleted"
    return f"{where}: {done}"
