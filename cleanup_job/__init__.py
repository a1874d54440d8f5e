"""Find dead coordinators on a Redis or Valkey server and delete what is theirs.

As a library it does what the command does, and nothing else: it prints nothing, ends no process,
touches no signal handler, and what goes wrong is a `CleanupJobError`. Here `url` is the address of
a server, such as redis://db.example:6379/0:

>>> from cleanup_job import Config, Redis, run
>>> config = Config(redis=Redis(url), engine="serial", stale_after=900)
>>> report = run(config, dry_run=True)
>>> report.status, report.keys.deleted
('complete', 0)

A file, the environment and single settings go through `load`, which checks all of them:

>>> from cleanup_job import load
>>> load(flags={"url": url, "orphans": "purge"}).orphans
'purge'
>>> load(flags={"orphans": "burn"})
Traceback (most recent call last):
cleanup_job.errors.ConfigError: --orphans: ...

`Callbacks` tells of progress and ends a run early; for more than that derive from `Observer`:

>>> import threading
>>> from cleanup_job import Callbacks
>>> cancelled, phases = threading.Event(), []
>>> watching = Callbacks(progress=lambda phase, done, total: phases.append(phase),
...                      stop=cancelled.is_set)
>>> run(config, observer=watching).status
'complete'
>>> phases[0]
'survey'

docs/guide.md has the rest, and examples/embed_in_scheduler.py a whole service.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Callbacks",
    "CleanupJobError",
    "Config",
    "Observer",
    "Redis",
    "Report",
    "__version__",
    "load",
    "run",
]

if TYPE_CHECKING:
    from cleanup_job.callbacks import Callbacks
    from cleanup_job.config import Config, Redis, load
    from cleanup_job.errors import CleanupJobError
    from cleanup_job.job import run
    from cleanup_job.observer import Observer
    from cleanup_job.report import Report

_HOMES = {
    "Callbacks": "callbacks",
    "CleanupJobError": "errors",
    "Config": "config",
    "Observer": "observer",
    "Redis": "config",
    "Report": "report",
    "load": "config",
    "run": "job",
}
"""Where each name is from."""


def __getattr__(name: str) -> Any:
    # Imported on first use: `cleanup-job --help` need not pay for redis (150 ms and more).
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
