"""The report as one self-contained HTML file."""

from __future__ import annotations

from cleanup_job.report import Report


def to_html(report: Report) -> bytes:
    """The page."""
    raise NotImplementedError
