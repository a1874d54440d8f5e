"""How much memory a sweep needs, and how much of the ids fits into what it may have (pure).

All names that belong to coordinators are held at once, unless there is a limit that they would not
keep. Then they stay in files, and are judged in *waves*: ranges of ids, each as large as fits.

The constants were measured (docs/scale.md), and are on the safe side.
"""

from __future__ import annotations

import re

from cleanup_job.errors import ConfigError

PROCESS_BYTES = 60_000_000
"""What a process of ours has before it holds any name: Python, its modules, buffers."""

NAME_BYTES = 330
"""What a name of a key costs from its findings to the plan, in the process that judges it."""

LEAST_NAMES = 50_000
"""A wave of fewer names is not worth its task. It is as many as a partition has."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}

_SIZE = re.compile(r"([0-9]{1,18})\s*([KMG]I?)?B?", re.IGNORECASE | re.ASCII)


def bytes_of(text: str | int) -> int:
    """A size as people write it: 500MB, 2GB, 512MiB, or a number of bytes.

    Raises:
        ConfigError: if it is none.
    """
    found = _SIZE.fullmatch(str(text).strip())
    if found is None:
        raise ConfigError(f"memory_limit: {text!r} is no size; write it as 500MB, 2GB or 512MiB")
    return int(found[1]) * _UNITS[(found[2] or "").upper()]


def fits(limit: int, keys: int, workers: int) -> bool:
    """True if so many keys can be held at once, should all of them belong to coordinators."""
    return _processes(workers) * PROCESS_BYTES + keys * NAME_BYTES <= limit


def names_at_once(limit: int, workers: int) -> int:
    """How many names each worker may judge at once.

    Raises:
        ConfigError: if so many workers are too many for the limit.
    """
    names = (limit - _processes(workers) * PROCESS_BYTES) // (workers * NAME_BYTES)
    if names < LEAST_NAMES:
        least = _processes(workers) * PROCESS_BYTES + workers * LEAST_NAMES * NAME_BYTES
        raise ConfigError(
            f"memory_limit: {limit:,} bytes are too few for {workers} workers, which need "
            f"{-(-least // 10**6):,}MB; allow more, or set fewer workers"
        )
    return names


def _processes(workers: int) -> int:
    """The job works itself if nobody else does."""
    return 1 if workers == 1 else 1 + workers
