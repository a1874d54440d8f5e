"""Files that a reader sees whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, which takes the place of the old one when all of it is on the disk.

    If anything fails, the old one is left as it was and nothing lies beside it. A link stays a
    link, and what is no file (/dev/null, a pipe) is written to, not replaced.

    Raises:
        OSError: if it can't be written; also what `with` raises inside.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as special:
            yield special
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a disk may only now find out that it is full
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
