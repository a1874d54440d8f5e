"""A file is replaced as a whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from cleanup_job.whole_file import replacing


def test_the_old_one_is_there_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(2)])
def test_whatever_happens_nothing_lies_beside_it(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "f")
    with replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert link.read_text() == "new"
    with replacing(Path("/dev/null")) as file:
        file.write(b"new")
    assert Path("/dev/null").is_char_device()
