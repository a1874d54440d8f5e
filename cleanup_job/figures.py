"""Numbers as people read them, always with their unit (pure).

Thousands are set apart by space that is no character: what is copied is `1000000`, which any
program reads.
"""

from __future__ import annotations

from cleanup_job.markup import Html, element, together

_SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_LONGEST_S = 1e15
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_TIMES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: int) -> Html:
    """A whole number, of things that are named beside it."""
    return _number(_grouped(number))


def several(number: int, one: str, many: str | None = None) -> Html:
    """A number with what it counts: `1 key`, `2 keys`."""
    return together(count(number), f" {one if number == 1 else many or one + 's'}")


def seconds(seconds: float) -> Html:
    """A time that the run took."""
    return _number(plain_seconds(seconds))


def plain_seconds(seconds: float) -> str:
    """The same, without markup."""
    if abs(seconds) < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if abs(seconds) < 120:
        return f"{seconds:.2f} s" if abs(seconds) < 10 else f"{seconds:.1f} s"
    return plain_span(seconds)


def milliseconds(milliseconds: float) -> Html:
    """What one command took."""
    if abs(milliseconds) >= 10_000:
        return seconds(milliseconds / 1000)
    digits = 3 if 0 < abs(milliseconds) < 0.1 else 2 if abs(milliseconds) < 100 else 0
    return _number(f"{milliseconds:.{digits}f} ms")


def span(seconds: float) -> Html:
    """An age, in its two largest units."""
    return _number(plain_span(seconds))


def plain_span(seconds: float) -> str:
    """The same, without markup: `11 min 40 s`."""
    rest = round(min(abs(seconds), _LONGEST_S))
    parts: list[str] = []
    for length, unit in _SPANS:
        number, rest = divmod(rest, length)
        if number:
            parts.append(f"{number:,} {unit}")
        elif parts:
            break
    return ("−" if seconds < 0 else "") + (" ".join(parts[:2]) or "0 s")


def size(size: int) -> Html:
    """Bytes."""
    for unit, name in _SIZES:
        if abs(size) >= unit:
            return _number(f"{size / unit:.1f} {name}")
    return _number(f"{size} B")


def percent(part: float, whole: float) -> Html:
    """A share. What is more than nothing is never shown as 0 %."""
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 0.1:
        return _number("< 0.1 %")
    if 99.9 < share < 100:
        return _number("> 99.9 %")
    return _number(f"{share:.0f} %" if share in (0, 100) else f"{share:.1f} %")


def rate(number: float, seconds: float, what: str) -> Html:
    """How many in a second: `12.3 k keys/s`."""
    return _number(f"{compact(number / seconds if seconds > 0 else 0.0)} {what}/s")


def compact(number: float) -> str:
    """A number where there is little room: `12.3 k`."""
    for unit, name in _TIMES:
        if abs(number) >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.3g}"


def _number(shown: str | Html) -> Html:
    return element("span", shown, class_="n")


def _grouped(number: int) -> Html:
    first, *groups = f"{number:,}".split(",")
    return together(first, *(element("span", group) for group in groups))
