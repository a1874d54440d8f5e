"""What a run cost: time and CPU by phase, on the servers and here, and the pauses that it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from cleanup_job import report as reports
from cleanup_job.clock import Clock
from cleanup_job.model import (
    Server,
    Target,
)
from cleanup_job.sweep import Sweep
from cleanup_job.timings import Timings


class Seen(msgspec.Struct, frozen=True):
    """The servers as they were before the survey, behind it, and in the end if they answered."""

    first: Target
    surveyed: Target
    last: Target | None

    def nodes(self) -> list[reports.NodeUse]:
        """Those that were surveyed, with what they did from first to last."""
        known = {server.run_id: server for server in self.first.servers}
        before = [known.get(server.run_id, server) for server in self.surveyed.servers]
        return reports.nodes_of(before, self.last.servers if self.last else ())

    def server_cpu_s(self) -> dict[str, float | None]:
        """By phase. The judge asks little, and only of orphans: that is counted with the purge."""
        now = self.last.servers if self.last else ()
        return {
            "survey": _cpu_s_between(self.first.servers, self.surveyed.servers),
            "judge": None,
            "purge": _cpu_s_between(self.surveyed.servers, now),
        }


def _cpu_s_between(before: Sequence[Server], after: Sequence[Server]) -> float | None:
    """None if one of the servers is not there any more, or if nobody looked again."""
    known = {server.run_id for server in after}
    if before is after or any(server.run_id not in known for server in before):
        return None
    return reports.sum_up(reports.nodes_of(before, after)).cpu_s


def costs_of(
    clock: Clock, seen: Seen, timings: Mapping[str, Timings]
) -> dict[str, reports.PhaseCost]:
    """Time, CPU and commands of each phase."""
    server_cpu_s = seen.server_cpu_s()
    return {
        name: reports.PhaseCost(
            wall_s=wall_s,
            client_cpu_s=clock.cpu_s[name],
            server_cpu_s=server_cpu_s[name],
            commands=reports.summarize_timings(timings[name]),
        )
        for name, wall_s in clock.wall_s.items()
    }


def pauses_of(sweep: Sweep, clock: Clock) -> list[reports.Pause]:
    """By reason: what the throttle held up, and what workers rested."""
    ledger = sweep.gauge.throttle.ledger
    waited_s = clock.pool.waited_s if clock.pool else 0.0
    code = "max_keys_per_second"
    ledger.rested(code, f"{code}: rests between batches", waited_s)
    return [
        reports.Pause(code, entry.message, entry.pauses, round(entry.seconds, 3))
        for code, entry in ledger.entries.items()
    ]
