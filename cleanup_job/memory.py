"""How much memory a sweep needs, and how much of the ids fits into what it may have (pure).

All names that belong to coordinators are held at once, unless there is a limit that they would not
keep. Then they stay in files, and are judged in *waves*: ranges of ids, each as large as fits.

The constants were measured (docs/scale.md), and are on the safe side.

Not promised: that one partition fits, where names are thousands of bytes long, or where a server is
walked in one piece since its cursors have no order that is known.
"""

from __future__ import annotations

import re

from cleanup_job.errors import ConfigError

PROCESS_BYTES = 60_000_000
"""What a process of ours has before it holds any name: Python, its modules, buffers."""

NAME_BYTES = 230
"""What a name of a key costs from its findings to the plan, in the process that judges it."""

BYTE_BYTES = 3
"""What each of its bytes costs: it is there as it was found, as it was packed, and in the plan."""

USUAL_NAME = 33
"""Bytes of a name, as long as nobody has seen them."""

LEAST_BYTES = 16_000_000
"""A wave of less is not worth its task. It is about what a partition has."""

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
    return _processes(workers) * PROCESS_BYTES + needed(keys, keys * USUAL_NAME) <= limit


def needed(names: int, size: int) -> int:
    """What it takes to judge so many names of so many bytes together."""
    return names * NAME_BYTES + size * BYTE_BYTES


def share_of(limit: int, workers: int) -> int:
    """How many bytes each worker has for what it judges.

    Raises:
        ConfigError: if so many workers are too many for the limit.
    """
    share = (limit - _processes(workers) * PROCESS_BYTES) // workers
    if share < LEAST_BYTES:
        least = _processes(workers) * PROCESS_BYTES + workers * LEAST_BYTES
        raise ConfigError(
            f"memory_limit: {limit:,} bytes are too few for {workers} workers, which need "
            f"{-(-least // 10**6):,}MB; allow more, or set fewer workers"
        )
    return share


def _processes(workers: int) -> int:
    """The job works itself if nobody else does."""
    return 1 if workers == 1 else 1 + workers
