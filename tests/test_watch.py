"""The first check that has a reason ends the run, and stays the reason."""

from __future__ import annotations

from pathlib import Path

from cleanup_job.job import Observer
from cleanup_job.model import Problem
from cleanup_job.watch import RunWatch, stop_file, time_budget, told_to


def test_who_is_first_is_the_reason_and_stays_it(tmp_path: Path) -> None:
    file = tmp_path / "stop"
    elapsed_s = [0.0]
    checks = [stop_file(str(file)), time_budget(10, lambda: elapsed_s[0])]
    watch = RunWatch(Observer(), checks, None)
    assert not watch.stopping()
    elapsed_s[0] = 10.0
    assert watch.stopping()
    file.touch()
    elapsed_s[0] = 0.0
    assert watch.stopping()
    assert watch.ended_by == Problem("time_budget", "the time budget of 10 s ended", 1)
    assert watch.allowance is None


def test_whoever_watches_may_say_why() -> None:
    class Told(Observer):
        told: bool | str = False

        def stopping(self) -> bool | str:
            return self.told

    observer = Told()
    check = told_to(observer)
    assert check() is None
    observer.told = True
    assert check() == Problem("told", "told to stop", 1)
    observer.told = "SIGTERM"
    assert check() == Problem("told", "stopped by SIGTERM", 1)


def test_a_stop_file_may_be_anything(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, link):
        assert stop_file(str(path))() is not None
    assert stop_file(str(tmp_path / "no"))() is None
