"""Find dead coordinators on a Redis or Valkey server and delete what is theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Config", "Report", "__version__", "run"]

if TYPE_CHECKING:
    from cleanup_job.config import Config
    from cleanup_job.job import run
    from cleanup_job.report import Report


def __getattr__(name: str) -> Any:
    # Imported on first use: `cleanup-job --help` need not pay for redis (150 ms and more).
    if name == "run":
        from cleanup_job.job import run

        return run
    if name == "Config":
        from cleanup_job.config import Config

        return Config
    if name == "Report":
        from cleanup_job.report import Report

        return Report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
