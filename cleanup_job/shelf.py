"""Values that stay where they were made: what a stage leaves there, and where others find it.

Findings and plans of very many names are not for the job's process to hold, or to pass on. A stage
that works *with the shelf* is given the values that its task refers to, tells the job something
small, and leaves values behind. The job only gets to know where they are (`model.Ref`).

This shelf is a folder with one file for each process that writes. A value is written once, as a
whole, and read as often as it is needed. `distributed` has another one, the memory of workers.

Not promised: that nothing is left of the folder if all processes are killed at once. It has names
of keys and values of heartbeats, and is readable for its owner only.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from cleanup_job import memory
from cleanup_job.errors import ShelfError
from cleanup_job.model import Pulse, Ref, Watch
from cleanup_job.pool import Pool, run_again


class Left(NamedTuple):
    """What a stage tells the job, and what it leaves on the shelf.

    Attributes:
        told: called when the values were taken.
        values: may be made one by one, so that not all of them need memory at once.
    """

    told: Callable[[], Any]
    values: Iterable[Any] = ()


def just(told: Any) -> Left:
    """Only something for the job."""
    return Left(lambda: told)


ShelfStage = Callable[[Any, Iterator[Any], Pulse], Left]
"""A function of one picklable task, and of the values that go with it."""


class Work(msgspec.Struct, frozen=True):
    """A task, and where the values are that it needs."""

    task: Any
    refs: tuple[Ref, ...] = ()

    @property
    def node(self) -> str:
        """Which server has the work of it: see `pool`."""
        node: str = self.task.node
        return node


class Done(NamedTuple):
    """What became of a work; `refs`: where the values are that it left, in their order."""

    told: Any
    refs: tuple[Ref, ...] = ()


class Shelf(Protocol):
    """Where values stay, and who works with them."""

    def ranges_for(self, names: int, size: int) -> int:
        """In how many ranges so many names of so many bytes are to be judged."""

    def has(self, refs: Iterable[Ref]) -> bool:
        """True if these values are still there."""

    def together(self, refs: Sequence[Ref]) -> list[tuple[Ref, ...]]:
        """These in groups that one task should have together, for it can, and at little cost."""

    def drop(self, refs: Iterable[Ref]) -> None:
        """Nobody needs these any more."""

    def secure(self, refs: Iterable[Ref]) -> None:
        """See to it that these are not lost with one worker."""

    def map_works(
        self,
        stage: ShelfStage,
        works: Iterable[Work],
        watch: Watch,
        *,
        per_node: int | None = None,
    ) -> Iterator[tuple[Work, Any]]:
        """Each work with its `Done`. In place of that, None and `UNTRIED` are as for `Pool.map`.

        Args:
            stage: what to do.
            works: with what.
            watch: is told of progress.
            per_node: see `pool.Pool.map`.

        Raises:
            CleanupJobError: what the stage raised.
        """


def map_works(
    shelf: Shelf,
    pool: Pool,
    stage: ShelfStage,
    works: Iterable[Work],
    watch: Watch,
    again: Callable[[Work, int], Work | None],
    *,
    per_node: int | None = None,
) -> Iterator[tuple[Work, Any]]:
    """As `Shelf.map_works`, but what was lost runs again, as with `pool.map_again`."""
    return run_again(
        pool,
        lambda some, most: shelf.map_works(stage, some, watch, per_node=most),
        works,
        again,
        per_node=per_node,
    )


class FileShelf:
    """A shelf for the processes of one machine."""

    def __init__(self, folder: Path, pool: Pool, most_bytes: int) -> None:
        self._folder = folder
        self._pool = pool
        self._most_bytes = most_bytes

    def ranges_for(self, names: int, size: int) -> int:
        """As `Shelf.ranges_for`."""
        return max(1, -(-memory.needed(names, size) // self._most_bytes))

    def has(self, refs: Iterable[Ref]) -> bool:
        """As `Shelf.has`."""
        return all(Path(ref.place).exists() for ref in refs)

    def together(self, refs: Sequence[Ref]) -> list[tuple[Ref, ...]]:
        """As `Shelf.together`: one by one, so that few are in memory."""
        return [(ref,) for ref in refs]

    def drop(self, refs: Iterable[Ref]) -> None:
        """As `Shelf.drop`. A file also has what others need."""

    def secure(self, refs: Iterable[Ref]) -> None:
        """As `Shelf.secure`. A file outlives whoever wrote it."""

    def map_works(
        self,
        stage: ShelfStage,
        works: Iterable[Work],
        watch: Watch,
        *,
        per_node: int | None = None,
    ) -> Iterator[tuple[Work, Any]]:
        """As `Shelf.map_works`."""
        run = _OnFiles(stage, str(self._folder))
        for work, done in self._pool.map(run, works, watch, per_node=per_node):
            yield work, Done(*done) if isinstance(done, tuple) else done


@contextmanager
def file_shelf(pool: Pool, most_bytes: int) -> Iterator[FileShelf]:
    """A shelf for as long as a run takes.

    Args:
        pool: whose workers use it.
        most_bytes: of memory that each worker has for what it judges.

    Raises:
        ShelfError: if its folder can't be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="cleanup-job-"))
    except OSError as error:
        raise _no_room(tempfile.gettempdir(), error) from error
    try:
        yield FileShelf(folder, pool, most_bytes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _OnFiles:
    """A stage of tasks and values, as one of a task alone."""

    def __init__(self, stage: ShelfStage, folder: str) -> None:
        self._stage = stage
        self._folder = folder

    def __call__(self, work: Work, pulse: Pulse) -> tuple[Any, tuple[Ref, ...]]:
        left = self._stage(work.task, map(load, work.refs), pulse)
        refs = tuple(map(self._save, left.values))
        return left.told(), refs

    def _save(self, value: Any) -> Ref:
        path = Path(self._folder) / str(os.getpid())
        packed = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        try:
            with path.open("ab") as file:
                first = file.tell()
                file.write(packed)
        except OSError as error:
            raise _no_room(self._folder, error) from error
        return Ref(str(path), first, len(packed))


def load(ref: Ref) -> Any:
    """A value that is kept in a file.

    Raises:
        ShelfError: if it can't be read.
    """
    try:
        with Path(ref.place).open("rb") as file:
            file.seek(ref.first)
            return pickle.loads(file.read(ref.length))  # noqa: S301 - nobody else can write there
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise ShelfError(f"{ref.place} can't be read ({error}): does somebody clean up?") from error


def _no_room(folder: str, error: OSError) -> ShelfError:
    return ShelfError(
        f"{folder} can't take what was found ({error.strerror or error}), which memory_limit keeps "
        "out of memory; make room, set TMPDIR to a folder that has some, or allow more memory"
    )
