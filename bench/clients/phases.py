"""One sweep by the library, with what the job's own process spent on each phase.

Of a phase the report has the CPU of the job and its workers together. Here its observer notes what
this process alone had used when the phase began and ended, and how large it was by then. Config
comes as JSON in the first argument; report and notes go to stdout.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
from time import process_time
from typing import Any

import msgspec

import cleanup_job
from bench.measure import high_water_bytes
from cleanup_job.config import Config
from cleanup_job.job import Observer
from cleanup_job.report import to_json


class _Notes(Observer):
    """CPU of this process in each phase, and its peak up to the end of it."""

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, float]] = {}
        self._phase = ""
        self._before_s = 0.0

    def began(self, phase: str, keys: int) -> None:  # noqa: ARG002 - as the observer's
        self._phase, self._before_s = phase, process_time()

    def ended(self) -> None:
        self.phases[self._phase] = {
            "cpu_s": process_time() - self._before_s,
            "peak_bytes": high_water_bytes(os.getpid()),
        }


def main() -> int:
    """Exit code 0 if there is a report."""
    config = msgspec.json.decode(sys.argv[1], type=Config)
    notes = _Notes()
    gc.disable()  # as the command does
    before_s = process_time()
    report = cleanup_job.run(config, dry_run="--dry-run" in sys.argv, observer=notes)
    waited_for = resource.getrusage(resource.RUSAGE_CHILDREN)
    told: dict[str, Any] = {
        "report": json.loads(to_json(report)),
        "job": notes.phases,
        "job_cpu_s": process_time() - before_s,
        "workers_cpu_s": waited_for.ru_utime + waited_for.ru_stime,
        "job_peak_bytes": high_water_bytes(os.getpid()),
    }
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
