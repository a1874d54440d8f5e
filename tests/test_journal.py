"""The journal's file: what is whole is read, whatever happened to the rest."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cleanup_job import journal as journals
from cleanup_job.errors import ConfigError
from cleanup_job.journal import (
    FORMAT,
    MARKER,
    Closing,
    Entry,
    Journal,
    JournalError,
    Node,
    Opening,
    append,
    begin,
    choose,
    finish,
    frame,
    partial,
)
from cleanup_job.model import HEARTBEAT
from cleanup_job.recorder import Recorder

OPENING = Opening(
    format=FORMAT,
    run_id="0a1b2c3d",
    started_at="2026-01-02T03:04:05.678Z",
    product="valkey",
    version="9.1.2",
    mode="standalone",
    db=0,
    nodes=[Node("127.0.0.1:6379", "f" * 40)],
    patterns={"signal": "blocking:signal:{id}", HEARTBEAT: "blocking:heartbeat:{id}"},
)


def entry(number: int, size: int = 40) -> Entry:
    """A record of one coordinator."""
    name = b"c%d" % number
    return Entry(
        guard_ids=[name],
        of_orphans=False,
        slot=0,
        slots=[],
        counts={"signal": 1, HEARTBEAT: 1},
        keys=[b"blocking:signal:" + name, b"blocking:heartbeat:" + name],
        expiries_ms=[0, 1_700_000_000_000 + number],
        dumps=[b"\x00\xff" * size, MARKER + b"%d" % number],
    )


ENTRIES = [entry(number) for number in range(6)]
FRAMES = [frame(OPENING), *map(frame, ENTRIES), frame(Closing(6, 12, 0, OPENING))]
WHOLE = b"".join(FRAMES)
ENDS = [sum(map(len, FRAMES[: count + 1])) for count in range(len(FRAMES))]


def write(folder: Path, data: bytes) -> Path:
    path = folder / "j"
    path.write_bytes(data)
    return path


def entries_of(journal: Journal) -> list[Entry]:
    return [*journal.entries()][::-1]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "j"
    begin(path, OPENING)
    file = os.open(partial(path), os.O_WRONLY | os.O_APPEND)
    append(file, b"".join(map(frame, ENTRIES)))
    os.close(file)
    written = finish(path, OPENING)
    assert not partial(path).exists()
    assert (written.records, written.keys, written.bytes) == (6, 12, path.stat().st_size)
    journal = Journal(path)
    assert entries_of(journal) == ENTRIES
    assert (journal.opening, journal.damage) == (OPENING, [])
    assert journal.closing is not None
    assert (journal.closing.records, journal.closing.keys) == (6, 12)
    assert path.stat().st_mode & 0o777 == 0o600, "values are nobody else's business"


def test_the_schema_comes_back() -> None:
    schema = OPENING.schema()
    assert schema.family_names == ("signal", HEARTBEAT)
    assert schema.heartbeat.text == "blocking:heartbeat:{id}"


def test_a_record_knows_the_family_of_each_key() -> None:
    assert [*ENTRIES[0].families()] == ["signal", HEARTBEAT]


def test_cut_at_every_byte(tmp_path: Path) -> None:
    """All that was whole is read, and the rest is named."""
    for cut in range(len(WHOLE)):
        journal = Journal(write(tmp_path, WHOLE[:cut]))
        whole = sum(end <= cut for end in ENDS)
        assert entries_of(journal) == ENTRIES[: max(0, whole - 1)]
        assert journal.closing is None
        last = ENDS[whole - 1] if whole else 0
        assert [(span.first, span.end) for span in journal.damage] == (
            [(last, cut)] if last < cut else []
        )


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
@example(0, 1)
@settings(max_examples=150)
def test_a_flipped_byte_costs_one_record(
    tmp_path_factory: pytest.TempPathFactory, at: int, flip: int
) -> None:
    data = bytearray(WHOLE)
    data[at] ^= flip
    journal = Journal(write(tmp_path_factory.getbasetemp(), bytes(data)))
    broken = next(place for place, end in enumerate(ENDS) if at < end)
    assert [(span.first, span.end) for span in journal.damage] == [
        (ENDS[broken] - len(FRAMES[broken]), ENDS[broken])
    ]
    assert entries_of(journal) == [e for place, e in enumerate(ENTRIES, 1) if place != broken]
    assert journal.opening == OPENING, "the last record has it too"
    assert (journal.closing is None) == (broken == len(FRAMES) - 1)


@given(st.lists(st.binary(max_size=60), min_size=len(FRAMES) + 1, max_size=len(FRAMES) + 1))
@settings(max_examples=50)
def test_rubbish_between_records_is_named(
    tmp_path_factory: pytest.TempPathFactory, rubbish: list[bytes]
) -> None:
    parts = [part for pair in zip(rubbish, [*FRAMES, b""], strict=True) for part in pair]
    journal = Journal(write(tmp_path_factory.getbasetemp(), b"".join(parts)))
    assert entries_of(journal) == ENTRIES
    assert sum(span.end - span.first for span in journal.damage) == sum(map(len, rubbish))


def test_a_marker_across_the_border_of_two_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "CHUNK", 16)
    for length in range(1, 40):
        journal = Journal(write(tmp_path, FRAMES[0] + b"x" * length + FRAMES[1]))
        assert entries_of(journal) == ENTRIES[:1]


@pytest.mark.parametrize("data", [b"# a text\n", b"REDIS0011" * 20, b"\x00" * 100])
def test_another_file_is_no_journal(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ConfigError, match="is no journal of cleanup-job"):
        Journal(write(tmp_path, data))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        Journal(tmp_path / "none")
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        Journal(tmp_path)


def test_a_newer_format_is_not_guessed_at(tmp_path: Path) -> None:
    newer = msgspec.structs.replace(OPENING, format=FORMAT + 1)
    with pytest.raises(ConfigError, match="install a newer cleanup-job"):
        Journal(write(tmp_path, frame(newer)))


class TestChoose:
    def test_a_file(self, tmp_path: Path) -> None:
        assert choose(str(tmp_path / "j"), "stamp") == tmp_path / "j"

    def test_a_folder_gives_each_run_its_own(self, tmp_path: Path) -> None:
        assert choose(str(tmp_path), "stamp") == tmp_path / "cleanup-job-stamp.journal"

    @pytest.mark.parametrize("name", ["j", "j.partial"])
    def test_nothing_is_overwritten(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("precious")
        with pytest.raises(ConfigError, match=f"{name} exists already"):
            choose(str(tmp_path / "j"), "stamp")

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="can't be written; name a file in a folder"):
            choose(str(tmp_path / "none" / "j"), "stamp")


def test_a_journal_never_takes_the_name_of_another(tmp_path: Path) -> None:
    path = tmp_path / "j"
    begin(path, OPENING)
    path.write_text("precious")
    with pytest.raises(JournalError, match="is whole, but"):
        finish(path, OPENING)
    assert path.read_text() == "precious"
    assert Journal(partial(path)).closing is not None


def test_two_runs_can_not_begin_the_same(tmp_path: Path) -> None:
    begin(tmp_path / "j", OPENING)
    with pytest.raises(ConfigError, match="File exists"):
        begin(tmp_path / "j", OPENING)


@contextmanager
def no_larger_than(size: int) -> Iterator[None]:
    """No file of this process grows beyond it, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "j"
    begin(path, OPENING)
    size = partial(path).stat().st_size
    file = os.open(partial(path), os.O_WRONLY | os.O_APPEND)
    with no_larger_than(size + 50), pytest.raises(OSError, match="File too large"):
        append(file, FRAMES[1])
    assert partial(path).stat().st_size == size
    append(file, FRAMES[2])
    os.close(file)
    assert entries_of(Journal(partial(path))) == [ENTRIES[1]]


class TestRecorder:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        begin(tmp_path / "j", OPENING)
        return partial(tmp_path / "j")

    def settled(self, recorder: Recorder, entries: list[Entry]) -> list[JournalError | None]:
        told: list[JournalError | None] = []
        for one in entries:
            recorder.add(one, told.append)
        while len(told) < len(entries):
            recorder.settle(wait=True)
        assert recorder.backlog == 0
        return told

    def test_each_is_told_when_it_is_on_the_disk(self, path: Path) -> None:
        recorder = Recorder(str(path))
        recorder.settle(wait=True)  # of nothing: does not wait
        assert self.settled(recorder, ENTRIES) == [None] * 6
        assert entries_of(Journal(path)) == ENTRIES
        recorder.close()
        assert threading.active_count() == 1

    def test_after_a_failure_nothing_more_is_written(self, path: Path) -> None:
        recorder = Recorder(str(path))
        with no_larger_than(path.stat().st_size + 10):
            told = self.settled(recorder, ENTRIES[:1])
        assert "File too large" in str(told[0])
        assert "what it does not hold is not deleted" in str(told[0])
        assert self.settled(recorder, ENTRIES[1:]) == told * 5
        assert entries_of(Journal(path)) == []
        recorder.close()

    def test_a_file_that_went_away(self, path: Path) -> None:
        path.unlink()
        recorder = Recorder(str(path))
        told = self.settled(recorder, ENTRIES[:1])
        assert "No such file" in str(told[0])
        recorder.close()

    def test_several_workers_share_a_file(self, path: Path) -> None:
        recorders = [Recorder(str(path)) for _ in range(4)]
        told: list[JournalError | None] = []
        many = [entry(number) for number in range(200)]
        for number, one in enumerate(many):
            recorders[number % 4].add(one, told.append)
        for recorder in recorders:
            recorder.close()
            recorder.settle(wait=False)
        assert told == [None] * 200
        journal = Journal(path)
        assert journal.damage == []
        assert sorted(e.guard_ids for e in entries_of(journal)) == sorted(e.guard_ids for e in many)
