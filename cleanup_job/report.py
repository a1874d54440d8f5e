"""Outcomes to a report, and the report to text and JSON.

The identity `planned = deleted + gone + spared + failed + unknown` is computed here from the
workers' counts, per family and in total, and checked against the plan. If it does not hold, the
status is `failed`, whatever else went well: a report that does not add up is not to be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import msgspec

from cleanup_job.errors import ConfigError
from cleanup_job.model import (
    OUTCOMES,
    Counts,
    Findings,
    Outcome,
    Problem,
    Sample,
    Server,
    Written,
    printable,
)
from cleanup_job.timings import Timings, replies

SCHEMA_VERSION = 1


class Target(msgspec.Struct, frozen=True):
    """The server that was swept.

    Attributes:
        product: redis or valkey.
        mode: standalone or cluster.
        nodes: addresses; of a cluster, those of its primaries.
        db: the database; 0 in a cluster.
    """

    product: str
    version: str
    mode: str
    nodes: list[str]
    db: int


class Coordinators(msgspec.Struct, frozen=True):
    """What was found (checked = live + stale + unreadable + future), and what became of it.

    Attributes:
        checked: coordinators that have a heartbeat.
        live: whose heartbeat is not older than stale_after.
        stale: whose heartbeat is.
        unreadable: whose heartbeat can't be understood; they are kept.
        future: whose heartbeat lies in the future; they are kept.
        orphaned: ids that own keys and have no heartbeat at all.
        purged: stale ones of which all that was planned is gone.
        revived: stale when judged, fresh when their turn came; they were spared.
        orphans_purged: orphaned ones of which all that was planned is gone.
    """

    checked: int = 0
    live: int = 0
    stale: int = 0
    unreadable: int = 0
    future: int = 0
    orphaned: int = 0
    purged: int = 0
    revived: int = 0
    orphans_purged: int = 0


class FamilyKeys(msgspec.Struct, frozen=True):
    """Keys of one family; planned = deleted + gone + spared + failed + unknown.

    Attributes:
        matched: keys of the family that were found, of the living too.
        planned: keys of coordinators that are to go; in a dry run, what would be deleted.
        deleted: the server says that it deleted them for us.
        gone: no longer there when their turn came.
        spared: kept, because their coordinator lived after all.
        failed: still there, because of an error, or since the run was ended.
        unknown: not there, and nobody can tell whether it was us: the reply never came.
    """

    matched: int = 0
    planned: int = 0
    deleted: int = 0
    gone: int = 0
    spared: int = 0
    failed: int = 0
    unknown: int = 0

    @property
    def adds_up(self) -> bool:
        """True if every planned key ended in exactly one outcome."""
        outcomes = self.deleted + self.gone + self.spared + self.failed + self.unknown
        return self.planned == outcomes


class Keys(msgspec.Struct, frozen=True):
    """Keys in total and by family, which says what each count means.

    Attributes:
        scanned: keys that the walked databases held.
        by_family: the same by the names of the families; heartbeat is one of them.
    """

    scanned: int = 0
    matched: int = 0
    planned: int = 0
    deleted: int = 0
    gone: int = 0
    spared: int = 0
    failed: int = 0
    unknown: int = 0
    by_family: dict[str, FamilyKeys] = {}


class Phases(msgspec.Struct, frozen=True):
    """Seconds per phase."""

    survey_s: float = 0.0
    judge_s: float = 0.0
    purge_s: float = 0.0


class CommandTimes(msgspec.Struct, frozen=True):
    """How often a command was called, and how long it took, in milliseconds."""

    calls: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class PhaseCost(msgspec.Struct, frozen=True):
    """What a phase cost.

    `server_cpu_s` is None where it is not known, since a server was gone or the phase did not come
    to its end; and for the judge, whose few questions are counted with the purge.
    """

    wall_s: float
    client_cpu_s: float
    server_cpu_s: float | None
    commands: dict[str, CommandTimes] = {}


class ClientUse(msgspec.Struct, frozen=True):
    """CPU that the job and its workers used, from first to last."""

    cpu_s: float = 0.0


class ServerUse(msgspec.Struct, frozen=True):
    """What the run cost the server. Its CPU includes other clients' work meanwhile."""

    cpu_s: float = 0.0
    used_memory_before: int = 0
    used_memory_after: int = 0


class NodeUse(msgspec.Struct, frozen=True):
    """One primary before and after the run.

    Attributes:
        slots: how many it serves; 0 if it stands alone.
        ranges: first and last of each run of them.
    """

    address: str
    version: str
    slots: int
    keys_before: int
    keys_after: int
    cpu_s: float
    used_memory_before: int
    used_memory_after: int
    ranges: list[tuple[int, int]] = []


class Loss(msgspec.Struct, frozen=True):
    """A coordinator that came back when so many of its keys were deleted already."""

    id: str
    keys: int


class PlanUse(msgspec.Struct, frozen=True):
    """The plan file that was written, or executed.

    Attributes:
        created_at: by the server's clock.
        coordinators: stale and orphaned ones in it, with so many `keys`, heartbeats too.
        due: how many of them go by now; all, in the dry run that wrote it.
        gone_or_alive: how many are not any more what they were.
        changed: how many have keys that are not in it, and were left as a whole.
    """

    file: str
    created_at: str
    coordinators: int
    keys: int
    due: int
    gone_or_alive: int = 0
    changed: int = 0


class Pause(msgspec.Struct, frozen=True):
    """What held the run up: how often, and for how long.

    Attributes:
        code: the setting.
        message: as it was said last.
        pauses: how often it began; 0 for rests, which are short and many.
        seconds: in all; of rests, as their share of the time.
    """

    code: str
    message: str
    pauses: int
    seconds: float


class PartitionWalk(msgspec.Struct, frozen=True):
    """One partition: `scanned` is what its SCAN calls returned."""

    node: str
    range: str
    scanned: int
    seconds: float
    attempts: int


class Example(msgspec.Struct, frozen=True):
    """One coordinator with its verdict and the reason for it."""

    id: str
    verdict: str
    reason: str
    age_s: float | None = None


class AgeBand(msgspec.Struct, frozen=True):
    """So many stale heartbeats are at least `from_s` old, and less than `to_s`; None: no end."""

    from_s: float
    to_s: float | None
    coordinators: int


class Moment(msgspec.Struct, frozen=True):
    """A stretch of the run: what was done in it, and how long commands took.

    Attributes:
        at_s: when it began, since the run began; `seconds` is its length.
        phase: survey, judge or purge.
        keys: that were walked in it, or deleted.
        commands: that were answered in it. With none, their times are 0.
    """

    at_s: float
    seconds: float
    phase: str
    keys: int
    commands: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


class Stop(msgspec.Struct, frozen=True):
    """One pause of the throttle: why, since when, and for how long."""

    code: str
    at_s: float
    seconds: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found and did. `to_json` gives the documented format.

    Attributes:
        schema_version: of this format.
        status: complete; partial (something failed, is unknown or was not covered); refused (by a
            limit, nothing was deleted); failed (the counts do not add up, which is a bug).
        dry_run: nothing was to be deleted.
        run_id: also in the log, and in the lease on the server.
        started_at: RFC 3339, UTC, by this machine's clock.
        duration_s: from first to last, in seconds.
        commands: of all phases together, the busiest first.
        costs: by phase: survey, judge, purge.
        nodes: each primary.
        workers: processes that did the work; 1 is the job itself.
        plan: the plan file, if there was one.
        throttle: what held the run up, by reason.
        stopped_by: why it ended before its time (told, stop_file, time_budget, lease_lost); null
            if it did not.
        journal: the file that can undo the run, if it wrote one.
        losses: coordinators that came back when some of their keys were deleted.
        partitions: the shares in which the keyspace was walked.
        samples: a few coordinators of each verdict.
        ages: how old the stale heartbeats were.
        timeline: the course of the run.
        stops: each pause, in its time.
        uncovered: slots of a cluster that were not covered, first and last of each range.
        config: the settings in effect, without secrets.
        warnings: what was odd, and did no harm.
        errors: what makes the run partial, or refused it.
    """

    schema_version: int = SCHEMA_VERSION
    status: str
    dry_run: bool
    run_id: str
    started_at: str
    duration_s: float
    target: Target
    coordinators: Coordinators = Coordinators()
    keys: Keys = Keys()
    phases: Phases = Phases()
    commands: dict[str, CommandTimes] = {}
    costs: dict[str, PhaseCost] = {}
    server: ServerUse = ServerUse()
    client: ClientUse = ClientUse()
    nodes: list[NodeUse] = []
    workers: int = 1
    plan: PlanUse | None = None
    throttle: list[Pause] = []
    stopped_by: str | None = None
    journal: Written | None = None
    losses: list[Loss] = []
    partitions: list[PartitionWalk] = []
    samples: list[Example] = []
    ages: list[AgeBand] = []
    timeline: list[Moment] = []
    stops: list[Stop] = []
    uncovered: list[tuple[int, int]] = []
    config: dict[str, Any] = {}
    warnings: list[Problem] = []
    errors: list[Problem] = []


def to_json(report: msgspec.Struct) -> bytes:
    """The report as JSON, for machines."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def from_json(content: bytes, source: str) -> Report:
    """A report that `to_json` has written, now or in an earlier version.

    Args:
        content: the file.
        source: its name, for errors.

    Raises:
        ConfigError: it is no such report, or of a version that we do not know.
    """
    remedy = "give it what cleanup-job run --json has written"
    try:
        version = msgspec.json.decode(content, type=_Versioned).schema_version
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"{source}: is a report of version {version}, and this is a cleanup-job for "
                f"version {SCHEMA_VERSION}; use the one that wrote it, or a newer one"
            )
        return msgspec.json.decode(content, type=Report)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: is no report of a run: {error}; {remedy}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: is no JSON: {error}; {remedy}") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: is nested too deeply; {remedy}") from error


class _Versioned(msgspec.Struct):
    schema_version: int


def count_keys(
    scanned: int, matched: dict[str, int], planned: dict[str, int], outcomes: Iterable[Outcome]
) -> Keys:
    """All counts by family, and their sums."""
    totals: Counts = {family: dict.fromkeys(OUTCOMES, 0) for family in matched}
    for outcome in outcomes:
        for family, counts in outcome.counts.items():
            for name, keys in counts.items():
                totals[family][name] += keys
    families = {
        family: FamilyKeys(
            matched=matched[family], planned=planned.get(family, 0), **totals[family]
        )
        for family in matched
    }
    sums = {
        name: sum(getattr(family, name) for family in families.values())
        for name in FamilyKeys.__struct_fields__
    }
    return Keys(scanned=scanned, by_family=families, **sums)


def imbalances(keys: Keys) -> list[Problem]:
    """The families whose counts do not add up to what was planned."""
    return [
        Problem("imbalance", f"the counts of {family} keys do not add up to the plan", 1)
        for family, counts in keys.by_family.items()
        if not counts.adds_up
    ]


def status_of(keys: Keys, errors: Sequence[Problem], *, covered: bool, dry_run: bool) -> str:
    """complete, partial or failed; see the module's note."""
    if not dry_run and any(not counts.adds_up for counts in keys.by_family.values()):
        return "failed"
    if errors or not covered or keys.failed or keys.unknown:
        return "partial"
    return "complete"


def summarize_timings(timings: Timings) -> dict[str, CommandTimes]:
    """Calls and percentiles by command, the busiest first."""
    took = {command: took_of(replies(stamped)) for command, stamped in timings.items() if stamped}
    ordered = sorted(took.items(), key=lambda item: -sum(seconds * n for seconds, n in item[1]))
    return {command: _command_times(seconds) for command, seconds in ordered}


def nodes_of(before: Iterable[Server], after: Iterable[Server]) -> list[NodeUse]:
    """The primaries as they were and are; those that are gone, with nothing afterwards."""
    now = {server.run_id: server for server in after}
    uses = []
    for server in before:
        later = now.get(server.run_id)
        uses.append(
            NodeUse(
                address=server.address,
                version=server.version,
                slots=len(server.slot_set()) if server.node_id else 0,
                ranges=[*server.slots] if server.node_id else [],
                keys_before=server.keys,
                keys_after=later.keys if later else 0,
                cpu_s=round(later.cpu_s - server.cpu_s, 4) if later else 0.0,
                used_memory_before=server.used_memory,
                used_memory_after=later.used_memory if later else 0,
            )
        )
    return uses


def sum_up(nodes: Sequence[NodeUse]) -> ServerUse:
    """What all primaries have used together."""
    return ServerUse(
        cpu_s=round(sum(node.cpu_s for node in nodes), 4),
        used_memory_before=sum(node.used_memory_before for node in nodes),
        used_memory_after=sum(node.used_memory_after for node in nodes),
    )


def walks(findings: Iterable[Findings]) -> list[PartitionWalk]:
    """The partitions as the report lists them."""
    return [
        PartitionWalk(
            node=found.partition.node,
            range=found.partition.range,
            scanned=found.scanned,
            seconds=round(found.seconds, 4),
            attempts=found.attempts,
        )
        for found in sorted(findings, key=_place_of)
    ]


def _place_of(found: Findings) -> tuple[str, int]:
    return found.partition.node, found.partition.lanes[0][0]


def example(sample: Sample) -> Example:
    """A sample as text."""
    age_s = None if sample.age_ms is None else sample.age_ms / 1000
    return Example(
        id=printable(sample.coordinator_id),
        verdict=sample.kind.value,
        reason=sample.reason,
        age_s=age_s,
    )


def merge_problems(problems: Iterable[Problem]) -> list[Problem]:
    """One problem per code and message, with all counts and the first samples."""
    merged: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        key = (problem.code, problem.message)
        before = merged.get(key)
        if before is not None:
            problem = Problem(
                *key, before.count + problem.count, (before.samples + problem.samples)[:3]
            )
        merged[key] = problem
    return list(merged.values())


Took = list[tuple[float, int]]
"""Seconds in order, each with the number of replies that took so long."""


def took_of(stamped: Iterable[tuple[float, float, int]]) -> Took:
    """What replies took, whenever that was."""
    return sorted((seconds, count) for _, seconds, count in stamped)


def _command_times(took: Took) -> CommandTimes:
    return CommandTimes(
        calls=calls_of(took),
        p50_ms=percentile_ms(took, 0.50),
        p99_ms=percentile_ms(took, 0.99),
        max_ms=round(took[-1][0] * 1000, 3),
    )


def calls_of(took: Took) -> int:
    """How many replies there were."""
    return sum(count for _, count in took)


def percentile_ms(took: Took, share: float) -> float:
    """The nearest-rank percentile, in milliseconds."""
    rank = max(1, math.ceil(share * calls_of(took)))
    up_to = accumulate(count for _, count in took)
    place = next(place for place, so_far in enumerate(up_to) if so_far >= rank)
    return round(took[place][0] * 1000, 3)
