"""A plan as a file, to be read by people, and executed later (knows no Redis and no clock).

JSON Lines: a header, a line for each coordinator in the order of ids, and an end with counts and
the SHA-256 of all that is before it. Names of keys are bytes: text where they are UTF-8, else
`{"base64": …}`. A file that begins as gzip does is read as such, whatever it is called.

Invariants:
- A file is taken as a whole, or refused as a whole: one that was cut or changed anywhere is not
  guessed at. The checksum is against accidents, not against somebody who makes a new one.
- It is read twice, coordinator by coordinator, so that memory does not grow with it: once to check
  it before any server is contacted, once to compare it with what is there by now. The second time
  it must have the checksum of the first.
- What a plan says gives no right to delete. It only takes away from what a run without it would.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal

import msgspec

from cleanup_job.config import Config, Keys
from cleanup_job.errors import ConfigError, RefusedError
from cleanup_job.model import HEARTBEAT, Kind, Planned, Server, Target
from cleanup_job.whole_file import replacing

if TYPE_CHECKING:
    from gzip import GzipFile

    _File = IO[bytes] | GzipFile

FORMAT = "cleanup-job plan"

VERSION = 1

COMPRESSION = 3
"""Of gzip. 100,000 coordinators: 22 MB become 1.9 MB, and 6 saves another 4 %."""

LONGEST_HEADER = 1_000_000
"""Bytes. What has no line end until then is no plan, and need not be read to its end."""

NOT_WRITTEN, UNFINISHED = "plan_not_written", "plan_unfinished"
"""Codes of a report's warnings: there was no place for it; the dry run was stopped before."""

_GZIP = b"\x1f\x8b"

_NAMES = 'text where it is UTF-8, else {"base64": "..."}'


class _Bytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A name that is no text. msgspec writes bytes as base64."""

    base64: bytes


_Name = str | _Bytes


class PlannedTarget(msgspec.Struct, frozen=True):
    """For which servers a plan is: `run_ids` in step with `nodes`."""

    product: str
    version: str
    mode: str
    nodes: list[str]
    run_ids: list[str]
    db: int

    @classmethod
    def of(cls, target: Target, db: int) -> PlannedTarget:
        """These servers. Those without slots have no part in it."""
        servers = _with_slots(target)
        return cls(
            product=servers[0].product,
            version=", ".join(sorted({server.version for server in servers})),
            mode=target.mode,
            nodes=[server.address for server in servers],
            run_ids=[server.run_id for server in servers],
            db=db,
        )


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line.

    Attributes:
        created_at: by the server's clock, before the survey; RFC 3339, and in milliseconds.
        run_id: of the dry run.
        names: how names are written, for people.
        keys: how many by family, heartbeats too.
    """

    format: str = FORMAT
    version: int = VERSION
    created_at: str
    created_at_ms: int
    run_id: str
    target: PlannedTarget
    patterns: Keys
    stale_after: int
    orphans: str
    orphan_grace: int
    coordinators: int
    keys: dict[str, int]
    names: str = _NAMES


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One coordinator. Its heartbeat goes without saying, if it is stale."""

    id: _Name
    verdict: Literal["stale", "orphaned"]
    age_s: float | None
    keys: dict[str, list[_Name]]


class _End(msgspec.Struct, frozen=True, tag_field="end", tag=FORMAT, forbid_unknown_fields=True):
    """The last line."""

    coordinators: int
    keys: dict[str, int]
    sha256: str


class _Format(msgspec.Struct, frozen=True):
    """What any version of a header has."""

    format: str
    version: int


_encode = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(_Line).decode
_END_BEGINS = b'{"end":'


def header_for(
    config: Config,
    target: PlannedTarget,
    run_id: str,
    created_at_ms: int,
    coordinators: int,
    keys: Mapping[str, int],
) -> Header:
    """The header of a plan that is made now, by these settings."""
    return Header(
        created_at=_rfc3339(created_at_ms),
        created_at_ms=created_at_ms,
        run_id=run_id,
        target=target,
        patterns=config.keys,
        stale_after=config.stale_after,
        orphans=config.orphans,
        orphan_grace=config.orphan_grace,
        coordinators=coordinators,
        keys=dict(keys),
    )


def _rfc3339(at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- writing ---------------------------------------------------------------------------------


def require_writable(path: Path) -> None:
    """Find out before a run that its plan can't be written, or would replace something else.

    Raises:
        ConfigError: in both cases.
    """
    if str(path) == "-" or (path.exists() and not path.is_file()):
        raise ConfigError(f"--plan: {path} is no file; name one, such as plan.jsonl")
    try:
        if path.is_file() and path.stat().st_size:
            _read_header(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    except _NoPlanError as error:
        raise ConfigError(
            f"--plan: {path} is there, and is no plan of cleanup-job's; name another file"
        ) from error
    if not os.access(path.resolve().parent, os.W_OK):
        raise ConfigError(f"--plan: {path} can't be written; name a file in a folder that can be")


def write(path: Path, header: Header, coordinators: Iterable[Planned]) -> None:
    """Write a plan; under this name it is whole, or what was there before.

    Args:
        path: gzipped if it ends in .gz.
        header: the first line.
        coordinators: ascending by id. They are written as they come, and not kept.

    Raises:
        ConfigError: if it can't be written.
    """
    try:
        with replacing(path) as file, _compressing(path, file) as out:
            _write_lines(out, header, coordinators)
    except OSError as error:
        raise _unwritable(path, error) from error


def _write_lines(out: _File, header: Header, coordinators: Iterable[Planned]) -> None:
    digest = hashlib.sha256()
    count = 0
    keys: Counter[str] = Counter(dict.fromkeys(header.keys, 0))

    def put(line: bytes) -> None:
        digest.update(line)
        out.write(line)

    put(_encode(header) + b"\n")
    for planned in coordinators:
        count += 1
        _count(keys, planned)
        put(_encode(_line_of(planned)) + b"\n")
    out.write(_encode(_End(count, dict(keys), digest.hexdigest())) + b"\n")


def _count(keys: Counter[str], planned: Planned) -> None:
    if planned.kind is Kind.STALE:
        keys[HEARTBEAT] += 1
    for family, names in planned.keys.items():
        keys[family] += len(names)


def _line_of(planned: Planned) -> _Line:
    return _Line(
        id=_name(planned.coordinator_id),
        verdict="stale" if planned.kind is Kind.STALE else "orphaned",
        age_s=None if planned.age_ms is None else planned.age_ms / 1000,
        keys={family: [*map(_name, names)] for family, names in planned.keys.items() if names},
    )


def _name(name: bytes) -> _Name:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return _Bytes(name)


@contextmanager
def _compressing(path: Path, file: BinaryIO) -> Iterator[_File]:
    if path.suffix != ".gz":
        yield file
        return
    import gzip  # only who compresses waits for its import

    with gzip.GzipFile(path.stem, "wb", COMPRESSION, file, mtime=0) as out:
        yield out


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--plan: {path} can't be written ({error.strerror or error})")


# -- reading ---------------------------------------------------------------------------------


class _NoPlanError(ConfigError):
    """This file was never a plan."""


@dataclass(frozen=True)
class PlanFile:
    """A plan that was read and found whole.

    Attributes:
        sha256: of all of it but its end.
    """

    path: Path
    header: Header
    sha256: str

    def coordinators(self) -> Iterator[Planned]:
        """All coordinators of the plan, ascending by id, out of the file.

        Raises:
            ConfigError: if it can't be read any more.
            RefusedError: in the end, if it is another one by now.
        """
        reader = _Reader(self.path)
        yield from reader.coordinators()
        if reader.sha256 != self.sha256:
            raise RefusedError(
                f"--plan: {self.path} was replaced meanwhile; nothing was deleted; run again",
                "plan_changed",
            )

    @property
    def keys(self) -> int:
        """How many keys it has."""
        return sum(self.header.keys.values())


def read(path: Path) -> PlanFile:
    """Read a plan and make sure that it is whole.

    Raises:
        ConfigError: if it can't be read, is something else, or was cut or changed.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"--plan: {path} is no file")
    reader = _Reader(path)
    for _ in reader.coordinators():
        pass
    assert reader.header is not None, "else it would have raised"
    return PlanFile(path, reader.header, reader.sha256)


class _Reader:
    """One pass over a file.

    Attributes:
        header: when the first line was read.
        sha256: of all of it but its end, when the end was read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: Header | None = None
        self.sha256 = ""
        self._number = 1
        self._count = 0
        self._keys: Counter[str] = Counter()
        self._last_id: bytes | None = None

    def coordinators(self) -> Iterator[Planned]:
        try:
            with _opened(self.path) as file:
                yield from self._read(file)
        except (EOFError, zlib.error) as error:
            raise self._damaged("cut off, or not as it was compressed") from error
        except OSError as error:
            if error.errno is None:  # it is gzip that complains
                raise self._damaged("not as it was compressed") from error
            raise ConfigError(
                f"--plan: {self.path} can't be read ({error.strerror or error})"
            ) from error

    def _read(self, file: _File) -> Iterator[Planned]:
        line = file.readline(LONGEST_HEADER)
        self.header = _parse_header(self.path, line)
        self._keys.update(dict.fromkeys(self.header.keys, 0))
        digest = hashlib.sha256(line)
        for line in file:
            self._number += 1
            if line.startswith(_END_BEGINS):
                self._end(line, file, digest.hexdigest())
                return
            digest.update(line)
            yield self._planned(line)
        self._number += 1
        raise self._damaged("its end is missing")

    def _planned(self, line: bytes) -> Planned:
        try:
            parsed = _decode_line(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._damaged("no line of a plan") from error
        planned = _planned_of(parsed)
        if self._last_id is not None and planned.coordinator_id <= self._last_id:
            raise self._damaged("not in the order of ids")
        self._last_id = planned.coordinator_id
        self._count += 1
        _count(self._keys, planned)
        return planned

    def _end(self, line: bytes, file: _File, sha256: str) -> None:
        """Compare the end with what it should be, to the byte: it has no checksum of its own."""
        assert self.header is not None, "that line was the first"
        due = _End(self._count, dict(self._keys), sha256)
        if line != _encode(due) + b"\n":
            raise self._damaged("the checksum does not fit to what is before it")
        if (self._count, dict(self._keys)) != (self.header.coordinators, self.header.keys):
            raise self._damaged("the counts are not those of the header")
        if file.read(1):
            self._number += 1
            raise self._damaged("there is something behind its end")
        self.sha256 = sha256

    def _damaged(self, what: str) -> ConfigError:
        return ConfigError(
            f"--plan: {self.path}:{self._number}: {what}; the plan is damaged or was edited, and "
            "is not used: make a new one"
        )


def _planned_of(line: _Line) -> Planned:
    return Planned(
        _bytes(line.id),
        Kind(line.verdict),
        {family: [*map(_bytes, names)] for family, names in line.keys.items()},
        None if line.age_s is None else round(line.age_s * 1000),
    )


def _bytes(name: _Name) -> bytes:
    return name.encode() if isinstance(name, str) else name.base64


@contextmanager
def _opened(path: Path) -> Iterator[_File]:
    with path.open("rb") as file:
        is_compressed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        if not is_compressed:
            yield file
            return
        import gzip

        with gzip.GzipFile(fileobj=file) as unpacked:
            yield unpacked


def _read_header(path: Path) -> None:
    """Make sure that a file begins as a plan does.

    Raises:
        _NoPlanError: if not.
        OSError: if it can't be read.
    """
    try:
        with _opened(path) as file:
            line = file.readline(LONGEST_HEADER)
    except (EOFError, zlib.error) as error:
        raise _no_plan(path) from error
    except OSError as error:
        if error.errno is None:
            raise _no_plan(path) from error
        raise
    _parse_format(path, line)


def _parse_header(path: Path, line: bytes) -> Header:
    found = _parse_format(path, line)
    if found.version != VERSION:
        raise ConfigError(
            f"--plan: {path}:1: is a plan of version {found.version}, and this cleanup-job knows "
            f"version {VERSION}; make a new one"
        )
    try:
        return msgspec.json.decode(line, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--plan: {path}:1: the header is damaged ({error}); make a new plan"
        ) from error


def _parse_format(path: Path, line: bytes) -> _Format:
    try:
        found = msgspec.json.decode(line, type=_Format)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _no_plan(path) from error
    if found.format != FORMAT:
        raise _no_plan(path)
    return found


def _no_plan(path: Path) -> _NoPlanError:
    return _NoPlanError(
        f"--plan: {path}:1: is no plan; --dry-run --plan FILE makes one",
    )


# -- refusing --------------------------------------------------------------------------------


def require_settings(plan: PlanFile, config: Config, db: int) -> None:
    """Refuse a plan that was made by other settings. That takes no server.

    Thresholds may be higher than planned, which only spares more.

    Raises:
        RefusedError: with the setting that differs.
    """
    header = plan.header
    if header.target.db != db:
        raise _refused(plan, f"is for database {header.target.db}, and this is {db}", "plan_target")
    planned, now = _flat(header.patterns), _flat(config.keys)
    for name in {**planned, **now}:
        if planned.get(name) != now.get(name):
            raise _refused(
                plan,
                f"was made with {name} = {_shown(planned.get(name))}, which is now "
                f"{_shown(now.get(name))}",
                "plan_settings",
            )
    thresholds = [("stale_after", header.stale_after, config.stale_after)]
    if header.orphans == config.orphans == "purge":
        thresholds.append(("orphan_grace", header.orphan_grace, config.orphan_grace))
    for name, then_s, now_s in thresholds:
        if now_s < then_s:
            what = f"was made with {name} = {then_s}, which is now smaller: {now_s}"
            raise _refused(plan, what, "plan_settings")


def _flat(keys: Keys) -> dict[str, Any]:
    return {
        "keys.heartbeat": keys.heartbeat,
        "keys.timestamp.fields": list(keys.timestamp.fields),
        "keys.timestamp.unit": keys.timestamp.unit,
        **{f"keys.owned.{name}": pattern for name, pattern in keys.owned.items()},
    }


def _shown(value: object) -> str:
    return "not set" if value is None else msgspec.json.encode(value).decode()


def require_target(plan: PlanFile, target: Target) -> None:
    """Refuse a plan for other servers, and for the same ones if they restarted or failed over.

    Raises:
        RefusedError: with the servers that differ.
    """
    planned = dict(zip(plan.header.target.run_ids, plan.header.target.nodes, strict=False))
    now = {server.run_id: server.address for server in _with_slots(target)}
    same = (planned.keys() & now.keys()) - {""}
    missing = [_with_run_id(run_id, planned[run_id]) for run_id in planned if run_id not in same]
    new = [_with_run_id(run_id, now[run_id]) for run_id in now if run_id not in same]
    if not missing and not new:
        return
    what = f"is for {', '.join(missing)}" if missing else "does not know all servers"
    if new:
        what += f", and here is {', '.join(new)}"
    raise _refused(plan, f"{what}: another server, or one that restarted or failed over since",
                   "plan_target")  # fmt: skip


def _with_slots(target: Target) -> list[Server]:
    return [server for server in target.servers if server.slots]


def _with_run_id(run_id: str, address: str) -> str:
    return f"{address} (run_id {run_id[:8] or 'unknown'})"


def require_young(plan: PlanFile, now_ms: int, config: Config) -> None:
    """Refuse a plan that is too old, or of a time that is yet to come, by the server's clock.

    Raises:
        RefusedError: with its age.
    """
    age_s = (now_ms - plan.header.created_at_ms) / 1000
    if age_s > config.max_plan_age:
        raise RefusedError(
            f"--plan: {plan.path} is {age_s:,.0f} s old, more than max_plan_age "
            f"({config.max_plan_age:,} s); nothing was deleted; make a new plan, or raise "
            "--max-plan-age",
            "plan_old",
        )
    if age_s < -config.clock_tolerance:
        raise _refused(
            plan, f"was made {-age_s:,.0f} s in the future by the server's clock", "plan_future"
        )


def _refused(plan: PlanFile, what: str, code: str) -> RefusedError:
    return RefusedError(
        f"--plan: {plan.path} {what}; nothing was deleted; make a new plan with --dry-run", code
    )
