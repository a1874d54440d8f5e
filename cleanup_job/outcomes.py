"""What the outcomes of all tasks say together (pure).

A coordinator whose keys lie in several batches has a part in several outcomes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from cleanup_job.model import Outcome


def all_spared(outcomes: Iterable[Outcome]) -> set[bytes]:
    """See `Outcome.spared`."""
    return _all(outcome.spared for outcome in outcomes)


def all_unsettled(outcomes: Iterable[Outcome]) -> set[bytes]:
    """See `Outcome.unsettled`."""
    return _all(outcome.unsettled for outcome in outcomes)


def all_orphans_purged(outcomes: Sequence[Outcome]) -> set[bytes]:
    """Orphans of which keys went, and none was kept."""
    kept = _all(outcome.spared | outcome.unsettled for outcome in outcomes)
    return _all(outcome.orphans_purged for outcome in outcomes) - kept


def all_not_attempted(outcomes: Iterable[Outcome]) -> int:
    """Keys that were left because the run ended."""
    return sum(outcome.not_attempted for outcome in outcomes)


def is_hopeless(outcomes: Iterable[Outcome]) -> bool:
    """True if a server that is needed is gone, and waiting did not help."""
    return any(outcome.hopeless for outcome in outcomes)


def all_revived(outcomes: Sequence[Outcome]) -> set[bytes]:
    """Those that came back before they were purged; one that did so later began anew."""
    return _without_purged(_all(outcome.revived for outcome in outcomes), outcomes)


def losses_of(outcomes: Sequence[Outcome]) -> dict[bytes, int]:
    """Keys that coordinators had lost when they came back, by id: see `purge`.

    One whose new heartbeat can't be read, or lies in the future, is not called revived. It lost
    its keys all the same.
    """
    back = _without_purged(_all(outcome.rewritten for outcome in outcomes), outcomes)
    if not back:
        return {}
    begun: Counter[bytes] = Counter()
    for outcome in outcomes:
        begun.update(outcome.begun_of(back))
    return {name: begun[name] for name in sorted(back) if begun[name]}


def is_unrecorded(outcomes: Iterable[Outcome]) -> bool:
    """True if the journal could not be written, so that nothing more may be deleted."""
    problems = chain.from_iterable(outcome.problems for outcome in outcomes)
    return any(problem.code == "journal" for problem in problems)


def _without_purged(ids: set[bytes], outcomes: Iterable[Outcome]) -> set[bytes]:
    return ids.difference(*(outcome.purged for outcome in outcomes)) if ids else ids


def _all(parts: Iterable[frozenset[bytes]]) -> set[bytes]:
    return set[bytes]().union(*parts)
