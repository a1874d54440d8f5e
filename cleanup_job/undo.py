"""The composer of `cleanup-job restore`: read a journal, find the servers, put back, report."""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from cleanup_job import report as reports
from cleanup_job import topology
from cleanup_job.config import Config
from cleanup_job.errors import ConfigError
from cleanup_job.journal import Entry, Journal
from cleanup_job.lease import Lease, held, without_lease
from cleanup_job.model import HEARTBEAT, Problem, Schema, Target, printable
from cleanup_job.observer import Observer
from cleanup_job.pulse import Rests, unlimited
from cleanup_job.restore import Key, preflight, select
from cleanup_job.restore import restore as put_back
from cleanup_job.restore_report import (
    AllRestoredKeys,
    JournalRead,
    RestoreReport,
    count,
)
from cleanup_job.text import product_name


class _Pulse(Rests):
    def __init__(self, observer: Observer, lease: Lease | None) -> None:
        super().__init__(unlimited, self.stopping)
        self.advance = observer.advanced
        self._observer = observer
        self._lease = lease

    def stopping(self) -> bool:
        if self._observer.stopping():
            return True
        return self._lease is not None and self._lease.keep(deleting=True) is not None


def restore(
    config: Config,
    path: str,
    *,
    only: bytes | None = None,
    dry_run: bool = False,
    observer: Observer | None = None,
) -> RestoreReport:
    """Put back what is in a journal and not on the servers.

    Args:
        config: tells the servers.
        path: the journal.
        only: of this coordinator alone.
        dry_run: only tell what would be put back; sends no command that writes.
        observer: is told of progress, and may stop it.

    Raises:
        ConfigError: it is no journal, or knows no such coordinator.
        LockedError: a run, or another restore, is at the same keys.
        ServerUnavailableError: the servers are out of reach; nothing was put back.
        ServerRefusedError: they will not let us; nothing was put back.
    """
    observer = observer or Observer()
    started_at, began = datetime.now(UTC), perf_counter()
    journal = Journal(Path(path))
    schema = journal.opening.schema() if journal.opening else None
    recorded = _recorded(journal, schema, only)
    access = config.access()
    target = topology.discover(access)
    observer.found(target)
    if schema is not None and recorded.total():
        preflight(target, schema, dry_run=dry_run)
    lease = None
    if schema is not None and config.lock and not dry_run:
        # No sweep is to find what is half put back.
        lease = Lease(target.routes, schema, secrets.token_hex(4))
    with held(lease, target.uncovered):
        observer.began("restore", recorded.total())
        outcome = put_back(
            target.routes,
            _parts(journal, schema, only),
            _Pulse(observer, lease),
            dry_run=dry_run,
        )
        observer.ended()
    keys = count(recorded, outcome.counts)
    errors = [*outcome.problems, *_damage(journal)]
    if lease is not None and lease.lost is not None:
        errors.append(lease.lost)
    if outcome.not_attempted:
        message = "recorded keys were not looked at, since the restore was stopped: run it again"
        errors.append(Problem("not_attempted", message, outcome.not_attempted))
    return RestoreReport(
        status=_status(keys, errors),
        dry_run=dry_run,
        only=None if only is None else printable(only),
        started_at=started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        duration_s=round(perf_counter() - began, 4),
        journal=JournalRead(
            path=path,
            bytes=journal.size,
            ended=journal.closing is not None,
            damage=[(span.first, span.end) for span in journal.damage],
            run_id=journal.opening.run_id if journal.opening else None,
            started_at=journal.opening.started_at if journal.opening else None,
        ),
        target=reports.Target(
            product=target.servers[0].product,
            version=", ".join(sorted({server.version for server in target.servers})),
            mode=target.mode,
            nodes=[server.address for server in target.servers],
            db=access.endpoint.db,
        ),
        keys=keys,
        commands=reports.summarize_timings(outcome.timings),
        warnings=[
            *without_lease(lease),
            *_warnings(journal, target, access.endpoint.db),
            *_will_go(keys),
        ],
        errors=errors,
    )


def _recorded(journal: Journal, schema: Schema | None, only: bytes | None) -> Counter[str]:
    """How many keys of each family are to be put back.

    Raises:
        ConfigError: if there is no such coordinator.
    """
    if only is not None and schema is None:
        raise ConfigError(
            f"--only: {journal.path} is damaged where it tells whose its keys are; restore all of "
            "it, or nothing"
        )
    recorded: Counter[str] = Counter()
    for entry in journal.entries():
        if only is None:
            recorded.update(entry.counts)
        else:
            recorded.update(key.family for key in select(entry, schema, only))
    if only is not None and not recorded:
        raise ConfigError(_unknown(journal, only))
    return recorded


def _unknown(journal: Journal, only: bytes) -> str:
    """What to say of an id that owns no key of the journal."""
    ids = sorted({name for entry in journal.entries() for name in entry.guard_ids})
    place = bisect_left(ids, only)
    near = ", ".join(map(printable, ids[max(0, place - 1) : place + 1]))
    return (
        f"--only: {journal.path} has no key of {printable(only)!r}; it names {len(ids):,} other "
        f"ids, next to it {near or 'none'}"
    )


def _parts(
    journal: Journal, schema: Schema | None, only: bytes | None
) -> Iterator[Iterator[Sequence[Key]]]:
    """The owned keys of all records, then the heartbeats: see `restore`."""
    for heartbeats in (False, True):
        yield (
            [key for key in select(entry, schema, only) if (key.family == HEARTBEAT) is heartbeats]
            for entry in journal.entries()
            if _has(entry, heartbeats)
        )


def _has(entry: Entry, heartbeats: bool) -> bool:
    count_of = entry.counts.get(HEARTBEAT, 0)
    return bool(count_of if heartbeats else len(entry.keys) - count_of)


def _status(keys: AllRestoredKeys, errors: Sequence[Problem]) -> str:
    if not all(family.adds_up for family in (keys, *keys.by_family.values())):
        return "failed"
    return "partial" if errors or keys.failed or keys.unknown else "complete"


def _damage(journal: Journal) -> Iterator[Problem]:
    """What the journal does not give any more."""
    where = tuple(str(span) for span in journal.damage[:3])
    if journal.damage:
        message = "parts of the journal are damaged; all records that are whole were read"
        yield Problem("damaged", message, len(journal.damage), where)
    if journal.closing is None:
        message = (
            "the journal has no end: its run was killed, still writes it, or it was cut off; all "
            "records that are whole were read"
        )
        yield Problem("cut_off", message, 1)


def _warnings(journal: Journal, target: Target, db: int) -> Iterator[Problem]:
    """Where the journal seems to be another server's."""
    opening = journal.opening
    if opening is None:
        return
    here = target.servers[0]
    if opening.product != here.product:
        message = (
            f"the journal was written on {product_name(opening.product)} "
            f"{opening.version}, whose dumps this server may not be able to read"
        )
        yield Problem("other_product", message, 1, (here.address,))
    known = {node.address for node in opening.nodes} | {node.run_id for node in opening.nodes}
    if not any(server.address in known or server.run_id in known for server in target.servers):
        message = f"the journal was written on another server, {opening.nodes[0].address}"
        yield Problem("other_server", message, 1, (here.address,))
    if opening.db != db:
        message = f"the journal was written on database {opening.db}, and this is database {db}"
        yield Problem("other_database", message, 1)


def _will_go(keys: AllRestoredKeys) -> Iterator[Problem]:
    """What the next run is going to do with it."""
    heartbeats = keys.by_family.get(HEARTBEAT)
    if heartbeats is not None and heartbeats.restored:
        message = (
            "these heartbeats are as stale as they were, and the next run deletes them again: stop "
            "its timer, or raise stale_after, first"
        )
        yield Problem("still_stale", message, heartbeats.restored)
