"""How durations, sizes and counts are written for people (pure).

One rule each. A duration has three digits up to a minute, and the two largest units beyond: 103 ms,
1.62 s, 11 min 40 s, 3 h 5 min, 12 d 3 h. A size is in decimal units with one digit behind the
point.
"""

from __future__ import annotations

_SIZES = ("kB", "MB", "GB", "TB", "PB")


def duration(seconds: float) -> str:
    """Seconds as people say them; also an age, which is negative in the future."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 0.9995:
        return f"{_three_digits(seconds * 1000)} ms"
    if seconds < 59.95:
        return f"{_three_digits(seconds)} s"
    if round(seconds) < 3_600:
        return _two_units(round(seconds), 60, "min", "s")
    if round(seconds / 60) < 24 * 60:
        return _two_units(round(seconds / 60), 60, "h", "min")
    return _two_units(round(seconds / 3_600), 24, "d", "h")


def size(count: int) -> str:
    """Bytes as people say them."""
    if abs(count) < 1_000:
        return f"{count} B"
    power = 1
    while power < len(_SIZES) and abs(count) / 1_000**power >= 999.95:
        power += 1
    return f"{count / 1_000**power:,.1f} {_SIZES[power - 1]}"


def counted(count: int, thing: str) -> str:
    """So many of them, with a plural where there is not one: `counted(2, "key")`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _three_digits(number: float) -> str:
    if number < 0.005:
        return "0"
    if number < 9.995:
        return f"{number:.2f}"
    return f"{number:.1f}" if number < 99.95 else f"{number:.0f}"


def _two_units(count: int, ratio: int, larger: str, smaller: str) -> str:
    whole, rest = divmod(count, ratio)
    return f"{whole:,} {larger}" + (f" {rest} {smaller}" if rest else "")
