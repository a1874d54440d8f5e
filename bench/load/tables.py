"""The result as text. Pure."""

from __future__ import annotations

from typing import Any

from bench.columns import aligned
from bench.load.latency import ratio
from bench.load.phases import TITLES, State

STATE_COLUMNS = (
    "state",
    "operations",
    "p50, ms",
    "p99, ms",
    "p99.9, ms",
    "max, ms",
    "p99 ÷ alone",
    "late p99, ms",
    "trip p99, ms",
    "server CPU",
)

CYCLE_COLUMNS = (
    "cycle",
    "by",
    "command, s",
    "sweep, s",
    "client CPU",
    "server CPU",
    "fg p99, ms",
    "slowest, ms",
    "full, MB",
    "rss, MB",
    "frag",
    "after, MB",
    "rss, MB",
    "frag",
    "keys left",
    "check",
)

LEGEND = """\
Latencies count from the time at which an operation was due. late: from then until the client sent
it; trip: from there until the client had read the reply. CPU in processors. full: memory when all
have arrived; after: when they are swept; frag: mem_fragmentation_ratio."""


def tables(result: dict[str, Any]) -> str:
    """All that is printed."""
    parts = (_heading(result), _states(result), _cycles(result), LEGEND, _findings(result))
    return "\n\n".join(parts) + "\n"


def _heading(result: dict[str, Any]) -> str:
    plan = result["plan"]
    return (
        f"== load test: {plan['cycles']} sweeps of {plan['coordinators']:,} dead coordinators, one "
        f"in {plan['cycle_s']:g} s;\n   foreground: {plan['clients']} clients, {plan['rate']:g} "
        f"op/s together, on {result['product']}"
    )


def _states(result: dict[str, Any]) -> str:
    foreground = result["foreground"]
    alone_ms = foreground[State.ALONE]["p99_ms"]
    rows = [
        (
            state,
            f"{figures['operations']:,}",
            *(_ms(figures[name]) for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")),
            _number(ratio(figures["p99_ms"], alone_ms), 2),
            _ms(figures["late_p99_ms"]),
            _ms(figures["round_trip_p99_ms"]),
            _number(figures["server_cpu_share"], 2),
        )
        for state, figures in foreground.items()
    ]
    legend = [f"{state:<8}  {title}" for state, title in TITLES.items()]
    return "\n".join([*aligned([STATE_COLUMNS, *rows]), "", *legend])


def _cycles(result: dict[str, Any]) -> str:
    return "\n".join(aligned([CYCLE_COLUMNS, *map(_cycle, result["cycles"])]))


def _cycle(cycle: dict[str, Any]) -> tuple[str, ...]:
    cleaning = cycle["cleaning"]
    return (
        str(cycle["number"]),
        cycle["state"],
        _number(cleaning["command_s"], 2),
        _number(cleaning["sweep_s"], 2),
        _number(cleaning["client_busy"], 2),
        _number(cleaning["server_busy"], 2),
        _ms(cycle["foreground"]["p99_ms"]),
        _ms(cycle["slowest"][0]["ms"] if cycle["slowest"] else None),
        *_memory(cycle["full"]),
        *_memory(cycle["swept"]),
        f"{cycle['keys_left']:,}",
        cycle["check"],
    )


def _memory(memory: dict[str, Any]) -> tuple[str, str, str]:
    return (
        _number(memory["used_bytes"] / 1e6, 1),
        _number(memory["rss_bytes"] / 1e6, 1),
        _number(memory["fragmentation"], 2),
    )


def _findings(result: dict[str, Any]) -> str:
    foreground = result["foreground"]
    busy = ratio(foreground[State.SWEEP]["p99_ms"], foreground[State.BURNERS]["p99_ms"])
    cycles = result["cycles"]
    bad = sum(not cycle["good"] for cycle in cycles)
    kept = f"BAD in {bad} of {len(cycles)} cycles" if bad else f"good after {len(cycles)} cycles"
    return "\n".join(
        [
            f"what is left on the server: {kept}",
            f"foreground p99, sweep ÷ burners: {_number(busy, 2)}",
            "longest commands, ms:",
            *(f"  {who}: {_log(log)}" for who, log in result["slowest_commands"].items()),
        ]
    )


def _log(longest_ms: dict[str, float]) -> str:
    slowest_first = sorted(longest_ms.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {ms:.2f}" for name, ms in slowest_first) or "–"


def _ms(value: float | None) -> str:
    return _number(value, 3)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
