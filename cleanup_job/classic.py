"""The summary lines of the shell script before us, for the scripts that read them (pure).

The numbers are plain and true. `Cleanup errors` is 0 only if the run is complete: nothing failed,
nothing is unknown and the report has no error. Of a run that could not even look there are no
lines: zeros would be a lie, and the exit code says what happened.
"""

from __future__ import annotations

from cleanup_job.report import Report


def classic_lines(report: Report) -> list[str]:
    """The lines, in the order of the script."""
    keys, found = report.keys, report.coordinators
    errors = keys.failed + keys.unknown + len(report.errors)
    if report.status != "complete":
        errors = max(errors, 1)  # one that was ended in the survey has no error of its own
    milliseconds = round(report.duration_s * 1000)
    per_second = round(found.checked / report.duration_s) if report.duration_s else 0
    lines = [
        f"Total coordinators checked: {found.checked}",
        f"Stale coordinators found: {found.stale}",
        f"Keys deleted: {keys.deleted}",
        f"Cleanup errors: {errors}",
        f"Execution time: {milliseconds}ms",
        f"Performance: {per_second} coordinators/sec",
    ]
    if report.dry_run:
        lines.insert(3, f"Keys that would be deleted: {keys.planned}")
    return lines
