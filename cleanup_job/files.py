"""The files that the command writes: if they can be, before the run; the report, behind it.

And a report that it reads again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cleanup_job.errors import ConfigError
from cleanup_job.whole_file import replacing


def require_writable(flag: str, path: Path) -> None:
    """Find out before the run that its report can't be written, not after it."""
    special = path.exists() and not path.is_file()
    if path.is_dir() or not os.access(path if special else path.resolve().parent, os.W_OK):
        raise ConfigError(f"{flag}: {path} can't be written; name a file in a folder that can be")


def require_different(arguments: argparse.Namespace) -> None:
    """Find out before the run that one of its files would replace another one.

    Raises:
        ConfigError: naming both.
    """
    names: dict[Path, str] = {}
    for name in ("config", "json", "html", "prom", "log_file", "cprofile", "journal", "plan"):
        given = getattr(arguments, name, None)
        if not given or given in ("-", os.devnull):
            continue
        path, flag = Path(given).resolve(), f"--{name.replace('_', '-')}"
        if path in names:
            raise ConfigError(f"{flag}: {given} is the file of {names[path]} too; name another one")
        names[path] = flag


def require_other_file(flag: str, path: str, source: str) -> None:
    """Do not write over what is read, whatever names lead to it."""
    written = Path(path)
    if source != "-" and written.exists() and Path(source).exists() and written.samefile(source):
        raise ConfigError(f"{flag}: {path} is the report itself; name another file")


def read_whole(path: str) -> bytes:
    """What is in a file, or in stdin if its name is `-`.

    Raises:
        ConfigError: if it can't be read.
    """
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be read ({error.strerror}); give what run --json has written, or - "
            "for stdin"
        ) from error


def require_file(path: Path) -> None:
    """The same for a profile, which is written in place, with others beside it."""
    there = path.exists()
    if str(path) == "-" or (there and not path.is_file()):
        raise ConfigError(f"--cprofile: {path} is no file; name one, such as sweep.prof")
    if not os.access(path.resolve().parent, os.W_OK) or (there and not os.access(path, os.W_OK)):
        raise ConfigError(
            f"--cprofile: {path} can't be written; name a file in a folder that can be"
        )


def write_whole(flag: str, path: str, content: bytes, failed: list[ConfigError]) -> bool:
    """Write one form of the report. If it can't be, say why in `failed` and go on with others."""
    try:
        with replacing(Path(path)) as file:
            file.write(content)
    except OSError as error:
        instead = "; the report is on stdout" if flag == "--json" else ""
        failed.append(ConfigError(f"{flag}: {path} can't be written ({error.strerror}){instead}"))
        return False
    return True
