"""The journal: a file of all that is about to be deleted, so that it can be put back.

It is a row of records, each with a marker, its length, the number of its keys, and a checksum; then
a compressed MessagePack value. The first record tells of the run (`Opening`), the last repeats that
with totals (`Closing`), and those between them hold keys with their dumps (`Entry`).

Invariants:
- A record is written whole or taken back, by one process at a time, and never changed.
- A reader needs no record but the one that it reads. It finds the next whole one behind whatever
  is damaged, and says which bytes it could not read.
- While the run goes on the file is called `FILE.partial`. It never takes the place of another.

Not promised: a journal is no backup. A key that is written between its dump and its deletion comes
back as it was dumped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from cleanup_job.errors import CleanupJobError, ConfigError
from cleanup_job.keyspace import parse
from cleanup_job.model import HEARTBEAT, Schema, Written

FORMAT = 1
"""Rises with each change that an older reader would misread."""

MARKER = b"\x9bundo\r\n\x00"
"""Begins each record. A transfer as text would change it, and so be noticed."""

LEVEL = 1
"""Of zlib. Names and dumps of keys shrink to a fifth with it, in a third of the time that level 6
takes for little more."""

CHUNK = 1 << 20
"""How much is read at once where a length or a marker is looked for."""

_HEAD = struct.Struct("<8sIII")
"""Marker, length of what follows, keys in it, CRC-32 of these two numbers and what follows."""

_NUMBERS = struct.Struct("<II")


class JournalError(CleanupJobError):
    """The journal can't be written. What it does not hold is not deleted."""

    exit_code = 3

    def __init__(self, message: str, code: str = "journal") -> None:
        super().__init__(message, code)


class Node(msgspec.Struct, frozen=True):
    """A server whose keys are in the journal."""

    address: str
    run_id: str


class Opening(msgspec.Struct, frozen=True, tag="opening", array_like=True):
    """Which run wrote the journal, on which servers.

    Attributes:
        patterns: of each family, the heartbeat's last: they tell whose a key is.
    """

    format: int
    run_id: str
    started_at: str
    product: str
    version: str
    mode: str
    db: int
    nodes: list[Node]
    patterns: dict[str, str]

    def schema(self) -> Schema:
        """The families as the run knew them."""
        owned = tuple(
            (name, parse(text)) for name, text in self.patterns.items() if name != HEARTBEAT
        )
        return Schema(parse(self.patterns[HEARTBEAT]), owned)


class Entry(msgspec.Struct, frozen=True, tag="keys", array_like=True):
    """Keys of one batch, with all that it takes to put them back.

    Attributes:
        guard_ids: the ids that were watched when they were deleted; one of them owns each key.
        of_orphans: none of these ids had a heartbeat.
        slot: of all keys; None if they lie in several. On a standalone server it means nothing.
        slots: of each key, where they lie in several.
        counts: how many keys each family has; they follow each other in this order.
        keys: their names.
        expiries_ms: in step with them, Unix time in ms; 0 for none.
        dumps: in step with them, what DUMP answered.
    """

    guard_ids: Sequence[bytes]
    of_orphans: bool
    slot: int | None
    slots: Sequence[int]
    counts: dict[str, int]
    keys: Sequence[bytes]
    expiries_ms: Sequence[int]
    dumps: Sequence[bytes]

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return sum(map(len, self.keys)) + sum(map(len, self.dumps))

    def families(self) -> Iterator[str]:
        """In step with the keys, the family of each."""
        for name, count in self.counts.items():
            for _ in range(count):
                yield name


class Closing(msgspec.Struct, frozen=True, tag="closing", array_like=True):
    """The run came to its end. Repeats the opening, which may be damaged."""

    records: int
    keys: int
    bytes: int
    opening: Opening


Record = Opening | Entry | Closing

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


# -- writing ---------------------------------------------------------------------------------


def frame(record: Record) -> bytes:
    """A record as it stands in the file."""
    packed = zlib.compress(_encoder.encode(record), LEVEL)
    keys = len(record.keys) if isinstance(record, Entry) else 0
    checksum = zlib.crc32(packed, zlib.crc32(_NUMBERS.pack(len(packed), keys)))
    return _HEAD.pack(MARKER, len(packed), keys, checksum) + packed


def append(file: int, records: bytes) -> None:
    """Put whole records behind all others, and wait until they are on the disk.

    Other processes may do the same at the same time. What can't be written as a whole is taken
    back.

    Args:
        file: a descriptor, opened to append.
        records: what `frame` made, joined.

    Raises:
        OSError: nothing was added, or nobody can tell whether it is on the disk.
    """
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        began_at = os.lseek(file, 0, os.SEEK_END)
        try:
            _write_all(file, records)
        except OSError:
            os.ftruncate(file, began_at)
            raise
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
    _sync(file)


_sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def cannot_write(path: str | Path, error: OSError) -> JournalError:
    """What to say of keys that were not deleted because of it."""
    return JournalError(
        f"the journal {path} can't be written ({error.strerror or error}), and what it does not "
        "hold is not deleted; make room, or name a file elsewhere, and run again"
    )


def choose(name: str, stamp: str) -> Path:
    """Where a journal is to be, found out before the run.

    Args:
        name: a file, or a folder in which one is called by the stamp.
        stamp: tells this run from others.

    Raises:
        ConfigError: if it can't be there, or another one is.
    """
    path = Path(name)
    if path.is_dir():
        path /= f"cleanup-job-{stamp}.journal"
    for taken in (path, partial(path)):
        if taken.exists() or taken.is_symlink():
            raise ConfigError(
                f"--journal: {taken} exists already, and a journal is never overwritten; name "
                "another file, or a folder in which each run has its own"
            )
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"--journal: {path} can't be written; name a file in a folder that can be"
        )
    return path


def partial(path: Path) -> Path:
    """What it is called until the run has ended."""
    return path.with_name(f"{path.name}.partial")


def begin(path: Path, opening: Opening) -> None:
    """Make the file, which nobody else has.

    Raises:
        ConfigError: if it can't be made.
    """
    try:
        file = os.open(partial(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            append(file, frame(opening))
            _sync_folder(path)
        except OSError:
            partial(path).unlink()
            raise
        finally:
            os.close(file)
    except OSError as error:
        raise ConfigError(
            f"--journal: {partial(path)} can't be written ({error.strerror}); nothing was deleted"
        ) from error


def finish(path: Path, opening: Opening) -> Written:
    """Close the journal: totals, and its own name.

    Raises:
        JournalError: if one of that can't be done. All records are there, under either name.
    """
    try:
        file = os.open(partial(path), os.O_RDWR | os.O_APPEND)
        try:
            written = _totals(path, file)
            append(file, frame(Closing(written.records, written.keys, written.bytes, opening)))
            size = os.fstat(file).st_size
        finally:
            os.close(file)
        settle(path)
    except OSError as error:
        raise JournalError(
            f"the journal of this run is whole, but its end can't be written, or its name given to "
            f"it ({error.strerror}); it is {path} or {partial(path)}"
        ) from error
    return msgspec.structs.replace(written, bytes=size)


def settle(path: Path) -> None:
    """Give it its name, without taking that of another file.

    Raises:
        OSError: if that can't be done.
    """
    try:
        os.link(partial(path), path)
        partial(path).unlink()
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        partial(path).rename(path)
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    """A name is on the disk when its folder is; not all file systems can do that."""
    with contextlib.suppress(OSError):
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _totals(path: Path, file: int) -> Written:
    """What workers have written, some of whom may be gone: so the file is what tells."""
    records = keys = 0
    with os.fdopen(os.dup(file), "rb") as reader:
        for span in _spans(reader, os.fstat(file).st_size):
            records += bool(span.keys)
            keys += span.keys
    return Written(str(path), records, keys, os.fstat(file).st_size)


# -- reading ---------------------------------------------------------------------------------


class Span(NamedTuple):
    """Bytes of the file: a whole record, or what is none."""

    first: int
    end: int
    is_whole: bool
    keys: int = 0

    def __str__(self) -> str:
        return f"bytes {self.first:,} to {self.end:,}"


class Journal:
    """A journal as it was found.

    Attributes:
        opening: None if it is damaged wherever it stands.
        closing: None if the file was cut off, or is still being written.
        damage: what could not be read.
    """

    def __init__(self, path: Path) -> None:
        """Look at every record.

        Raises:
            ConfigError: if the file can't be read, is none of ours, or of a newer version.
        """
        self.path = path
        self.opening: Opening | None = None
        self.closing: Closing | None = None
        self.damage: list[Span] = []
        self._entries: list[Span] = []
        try:
            with path.open("rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                for span in _spans(file, self.size):
                    self._take(span, _read(file, span) if span.is_whole else None)
                file.seek(0)
                start = file.read(len(MARKER))
        except OSError as error:
            raise ConfigError(f"{path} can't be read: {error.strerror}") from error
        if not (self._entries or self.opening or MARKER.startswith(start)):
            raise ConfigError(f"{path} is no journal of cleanup-job")

    def _take(self, span: Span, record: Record | None) -> None:
        if isinstance(record, Entry):
            self._entries.append(span)
        elif isinstance(record, Closing):
            self.closing = record
            self.opening = self.opening or record.opening
        elif isinstance(record, Opening):
            self.opening = record
        elif self.damage and self.damage[-1].end == span.first:
            self.damage[-1] = Span(self.damage[-1].first, span.end, is_whole=False)
        else:
            self.damage.append(span)
        if self.opening is not None and self.opening.format > FORMAT:
            raise ConfigError(
                f"{self.path} is of format {self.opening.format}, and this version reads up to "
                f"{FORMAT}; install a newer cleanup-job"
            )

    def entries(self) -> Iterator[Entry]:
        """All that is whole, the last first."""
        with self.path.open("rb") as file:
            for span in reversed(self._entries):
                record = _read(file, span)
                if isinstance(record, Entry):
                    yield record


def _spans(file: BinaryIO, size: int) -> Iterator[Span]:
    """The file from its beginning to its end: whole records, and what lies between them."""
    at = 0
    while at < size:
        span = _record_at(file, at, size)
        if span is None:
            found = _find_record(file, at + 1, size)
            span = Span(at, found.first if found else size, is_whole=False)
        yield span
        at = span.end


def _find_record(file: BinaryIO, at: int, size: int) -> Span | None:
    """The first whole record from there on."""
    while (at := _find_marker(file, at, size)) < size:
        span = _record_at(file, at, size)
        if span is not None:
            return span
        at += 1
    return None


def _find_marker(file: BinaryIO, at: int, size: int) -> int:
    """Where the next marker is; `size` if there is none."""
    while at < size:
        file.seek(at)
        chunk = file.read(CHUNK)
        place = chunk.find(MARKER)
        if place >= 0:
            return at + place
        # The next marker may lie across the border.
        at += max(1, len(chunk) - len(MARKER) + 1)
    return size


def _record_at(file: BinaryIO, at: int, size: int) -> Span | None:
    file.seek(at)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    marker, length, keys, checksum = _HEAD.unpack(head)
    end = at + _HEAD.size + length
    if marker != MARKER or end > size or checksum != _checksum(file, length, keys):
        return None
    return Span(at, end, is_whole=True, keys=keys)


def _checksum(file: BinaryIO, length: int, keys: int) -> int:
    checksum = zlib.crc32(_NUMBERS.pack(length, keys))
    while length > 0 and (chunk := file.read(min(length, CHUNK))):
        checksum = zlib.crc32(chunk, checksum)
        length -= len(chunk)
    return checksum


def _read(file: BinaryIO, span: Span) -> Record | None:
    """The record; None if it can't be understood although its checksum is right."""
    file.seek(span.first + _HEAD.size)
    try:
        record: Record = _decoder.decode(
            zlib.decompress(file.read(span.end - span.first - _HEAD.size))
        )
    except (zlib.error, msgspec.DecodeError):
        return None
    return record
