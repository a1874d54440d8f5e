"""How large a load test is."""

from __future__ import annotations

from dataclasses import dataclass

from bench.load.foreground import KEYS
from cleanup_job import demo

SWEEPS_PER_PIPE = 5


@dataclass(frozen=True)
class Plan:
    """How much, how often, how long."""

    coordinators: int = 50_000
    cycles: int = 20
    cycle_s: float = 10.0
    rate: float = 800.0
    clients: int = 4
    workers: str = "auto"
    nice: int = 0
    """Of all but the server, the foreground and the bench: those who write, sweep and burn."""
    sample_s: float = 0.1
    timeout_s: float = 120.0

    @property
    def pipes(self) -> int:
        """How many cycles with the blind pipe come between those with a sweep."""
        return max(1, self.cycles // SWEEPS_PER_PIPE)

    @property
    def arrivals_s(self) -> float:
        """Over how long a cycle's arrivals are spread."""
        return self.cycle_s * 0.3

    @property
    def alone_least_s(self) -> float:
        """The quiet at a cycle's end, also if the cycle takes longer than planned."""
        return self.cycle_s * 0.15

    @property
    def stale_keys(self) -> int:
        """The keys that arrive in a cycle, without the live ones'."""
        return self.coordinators * demo.KEYS_PER_COORDINATOR

    @property
    def foreground_keys(self) -> int:
        """Those of all clients."""
        return self.clients * KEYS


QUICK = Plan(coordinators=2_000, cycles=3, cycle_s=3.0)
"""To see that all of it works."""
