"""What happened in a run, in a sentence; and what to do next (pure).

The words are those of a report that somebody reads who was not there, and may have to act on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cleanup_job import figures
from cleanup_job.markup import Html, element, foreign, listed, text, together
from cleanup_job.report import Report

_BADGES = {
    "complete": ("good", "✓ complete"),
    "partial": ("warn", "! partial"),
    "refused": ("warn", "⊘ refused"),
    "failed": ("bad", "✕ failed"),
}

_ENDS = {
    "told": "a signal, or whoever started it",
    "stop_file": "the stop file",
    "time_budget": "its time budget",
    "lease_lost": "the loss of its lease",
}


class Badge(NamedTuple):
    """A word for the state of the run. `tone` is good, warn, bad or plain."""

    tone: str
    words: Html


def badges(report: Report) -> list[Badge]:
    """How it ended; the words say all, colours only repeat it."""
    tone, words = _BADGES.get(report.status, ("warn", report.status))
    found = [Badge(tone, text(words))]
    if report.dry_run:
        found.append(Badge("plain", text("dry run")))
    if report.stopped_by is not None:
        found.append(Badge("warn", together("stopped by ", _end(report.stopped_by))))
    return found


def _end(code: str) -> Html:
    return text(_ENDS[code]) if code in _ENDS else foreign(code)


def what_happened(report: Report) -> Html:
    """The run in a sentence."""
    keys = report.keys
    if report.status == "failed":
        return text("The counts of this run do not add up, so they are not to be trusted.")
    if report.status == "refused":
        return together(
            "A safety limit refused the run: ",
            figures.several(keys.planned, "key"),
            " would be deleted, and none was.",
        )
    if report.dry_run:
        return together(_would_go(report), " Nothing was deleted.")
    if report.status == "partial" and not keys.planned:
        return text("Nothing was deleted, and the run did not finish all of its work.")
    if report.status == "partial":
        return together(
            figures.count(keys.deleted),
            " of ",
            figures.several(keys.planned, "planned key"),
            _were(keys.deleted),
            "deleted; the run did not finish all of its work.",
        )
    if keys.planned:
        return _gone(report)
    return _nothing(report)


def _would_go(report: Report) -> Html:
    found, keys = report.coordinators, report.keys
    if not keys.planned:
        return _nothing(report)
    return together(
        figures.several(keys.planned, "key"),
        " of ",
        figures.several(found.stale, "stale coordinator"),
        " (and of orphans, where these are purged)" if _purges_orphans(report) else None,
        " would be deleted.",
    )


def _gone(report: Report) -> Html:
    found = report.coordinators
    dead = found.purged + found.orphans_purged
    return together(
        figures.several(report.keys.deleted, "key"),
        " of ",
        figures.several(dead, "dead coordinator"),
        _were(report.keys.deleted),
        "deleted.",
        together(" ", figures.several(found.live, "live one"), " lost nothing.")
        if found.live
        else None,
    )


def _were(number: int) -> str:
    return " was " if number == 1 else " were "


def _nothing(report: Report) -> Html:
    found = report.coordinators
    if not found.checked and not found.orphaned:
        return text("No coordinator was found: neither a heartbeat, nor a key that names one.")
    if not found.checked:
        return together(
            "No heartbeat was found, but keys of ",
            figures.several(found.orphaned, "orphaned coordinator"),
            "; there was nothing to delete.",
        )
    return together(
        "There was nothing to delete: none of ",
        figures.several(found.checked, "coordinator"),
        " had a stale heartbeat that could be purged." if found.stale else " was stale.",
    )


def what_next(report: Report) -> Html:
    """What its reader should do now."""
    if report.status == "failed":
        return text(
            "Please report this as a bug, with the JSON of this report. Run again with --dry-run "
            "to see what is left."
        )
    if report.status == "refused":
        return text(
            "The error below says why, and what to give if all is right after all. If it is not, "
            "look for the cause first."
        )
    if report.status == "partial":
        return listed(_after_partial(report), " ")
    hints = [*_hints(report)]
    return listed(hints, " ") if hints else text("There is nothing left to do.")


def _after_partial(report: Report) -> Iterator[Html]:
    yield text("Run again: the next run finds and finishes what is left.")
    if report.uncovered:
        yield text("Part of the keyspace was not covered; see the cluster, below.")
    if report.errors:
        yield text("The errors below say what stood in the way.")


def _hints(report: Report) -> Iterator[Html]:
    found = report.coordinators
    if report.dry_run and report.keys.planned:
        yield text(
            "To delete exactly that, execute the plan file."
            if report.plan
            else "To delete it, run again without --dry-run."
        )
    if not found.checked and not found.orphaned:
        yield together(
            "If that is a surprise, check the address, the database and the pattern of ",
            element("code", "keys.heartbeat"),
            ".",
        )
    if found.orphaned and not _purges_orphans(report):
        yield together(
            figures.several(found.orphaned, "orphaned coordinator"),
            " without any heartbeat left keys behind; --orphans purge deletes them.",
        )
    unclear = found.unreadable + found.future
    if unclear:
        yield together(
            figures.several(unclear, "heartbeat"),
            " could not be judged and kept all keys; the reasons are below.",
        )
    if report.journal is not None:
        yield text("What was deleted can be put back from the journal.")


def _purges_orphans(report: Report) -> bool:
    return report.config.get("orphans") == "purge" or report.coordinators.orphans_purged > 0
