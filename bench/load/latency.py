"""Percentiles of latencies. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.load.phases import Operation

CURVE = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0)
"""The shares for which a plot has points."""


def nearest_rank(ordered: Sequence[int], share: float) -> int:
    """The least value that so large a share of all does not exceed: always one that was seen.

    Raises:
        ValueError: there are no values, or the share is not between 0 and 1.
    """
    if not ordered or not 0 <= share <= 1:
        raise ValueError(f"no rank {share} among {len(ordered)} values")
    # 0.99 * 100 is a little more than 99 in binary, which must not become rank 100.
    rank = math.ceil(round(share * len(ordered), 6))
    return ordered[max(rank, 1) - 1]


def summary(operations: Sequence[Operation]) -> dict[str, Any]:
    """Figures of one state, in ms; each None where there were no operations."""
    latencies = sorted(operation.latency_ns for operation in operations)
    late = sorted(operation.late_ns for operation in operations)
    trips = sorted(operation.latency_ns - operation.late_ns for operation in operations)
    return {
        "operations": len(operations),
        "p50_ms": _ms(latencies, 0.5),
        "p99_ms": _ms(latencies, 0.99),
        "p999_ms": _ms(latencies, 0.999),
        "max_ms": _ms(latencies, 1.0),
        "late_p99_ms": _ms(late, 0.99),
        "round_trip_p99_ms": _ms(trips, 0.99),
        "curve": [[share, _ms(latencies, share)] for share in CURVE] if latencies else [],
    }


def ratio(figure: float | None, unit: float | None) -> float | None:
    """How many times the unit; None where either is missing."""
    return None if figure is None or not unit else figure / unit


def _ms(ordered: Sequence[int], share: float) -> float | None:
    return nearest_rank(ordered, share) / 1e6 if ordered else None
