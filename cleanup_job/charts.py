"""The run over time, and the slots of a cluster, as SVG (pure).

Places are per cent across and pixels down, so that a drawing fills any width, and neither its text
nor its lines are stretched. What a drawing shows is also said in words: in its description, or in
a table beside it. However much there is to draw, the number of shapes has a limit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from cleanup_job import figures
from cleanup_job.markup import Html, element, together
from cleanup_job.report import Moment, NodeUse, Stop

MOST_MOMENTS = 240
"""Shown in a drawing: more would be less than three pixels wide each."""

PHASES = ("survey", "judge", "purge")

SLOTS = 16_384
ROWS = 16
ROW_SLOTS = SLOTS // ROWS

_HEIGHT = 120
_ABOVE, _BELOW = 18, 20
_ROW_HEIGHT = 15
_LEAST_LABELLED = 192
"""Slots in a row that are wide enough for a number, on a phone too."""

_TINTS = 4
_NOBODY, _MISSING = 0, "missing"

_LONGEST_S = 1e9
"""What is longer than thirty years is no run."""

_SHORTEST_S = 1e-6
"""A moment without a length has no throughput that could be drawn."""


class Timeline(NamedTuple):
    """What is drawn of a run.

    Attributes:
        moments: in order, at most `MOST_MOMENTS`.
        pauses: when nothing was done, as from and to, in seconds.
        end_s: where the time axis ends.
    """

    moments: list[Moment]
    pauses: list[tuple[float, float]]
    end_s: float


def timeline(moments: Sequence[Moment], stops: Sequence[Stop], duration_s: float) -> Timeline:
    """A run, made ready to be drawn; too many moments are taken together."""
    ends_s = [moment.at_s + moment.seconds for moment in moments]
    ends_s += [stop.at_s + stop.seconds for stop in stops]
    end_s = min(_LONGEST_S, max(0.001, duration_s, *ends_s))
    return Timeline(_condensed(moments), _merged(stops, end_s), end_s)


def _condensed(moments: Sequence[Moment]) -> list[Moment]:
    if len(moments) <= MOST_MOMENTS:
        return [*moments]
    size = math.ceil(len(moments) / MOST_MOMENTS)
    return [_joined(moments[at : at + size]) for at in range(0, len(moments), size)]


def _joined(moments: Sequence[Moment]) -> Moment:
    """Several as one. Of times the longest remain: what was slow is not to be averaged away."""
    first, last = moments[0], moments[-1]
    return Moment(
        at_s=first.at_s,
        seconds=last.at_s + last.seconds - first.at_s,
        phase=first.phase,
        keys=sum(moment.keys for moment in moments),
        commands=sum(moment.commands for moment in moments),
        p50_ms=max(moment.p50_ms for moment in moments),
        p99_ms=max(moment.p99_ms for moment in moments),
        max_ms=max(moment.max_ms for moment in moments),
    )


def _merged(stops: Sequence[Stop], end_s: float) -> list[tuple[float, float]]:
    """Pauses that lie closer together than can be seen are drawn as one."""
    apart_s = end_s / MOST_MOMENTS
    merged: list[tuple[float, float]] = []
    for stop in sorted(stops, key=lambda stop: stop.at_s):
        ends_s = stop.at_s + stop.seconds
        if merged and stop.at_s - merged[-1][1] < apart_s:
            merged[-1] = merged[-1][0], max(merged[-1][1], ends_s)
        else:
            merged.append((stop.at_s, ends_s))
    return merged


def throughput(line: Timeline) -> Html:
    """Keys per second over the run: walked in the survey, deleted in the purge."""
    rates = [moment.keys / max(moment.seconds, _SHORTEST_S) for moment in line.moments]
    top = _round_up(max(rates, default=0))
    bars = (
        _block(line, moment, _y(rate / top), _y(0), _look_of(moment.phase))
        for moment, rate in zip(line.moments, rates, strict=True)
        if rate
    )
    ticks = [(_y(part), f"{figures.compact(top * part)}/s") for part in (0, 0.5, 1)]
    return _drawing("throughput", "Keys per second over the run", _said(line), line, bars, ticks)


def latency(line: Timeline) -> Html:
    """How long commands took over the run, on a logarithmic scale."""
    timed = [moment for moment in line.moments if moment.commands > 0 and moment.max_ms > 0]
    low, high = _decades(timed)

    def y(milliseconds: float) -> float:
        exponent = math.log10(max(milliseconds, 10**low))
        return _y((exponent - low) / (high - low))

    shapes = itertools.chain.from_iterable(_spread(line, moment, y) for moment in timed)
    ticks = [(y(10**power), f"{10.0**power:g} ms") for power in range(low, high + 1)]
    worst = max((moment.max_ms for moment in timed), default=0)
    words = f"Logarithmic scale. The longest command took {worst:.2f} ms."
    return _drawing("latency", "Time of commands over the run", words, line, shapes, ticks)


def _spread(line: Timeline, moment: Moment, y: Callable[[float], float]) -> Iterator[Html]:
    """A moment's p50 to p99 as a block, and its longest command as a mark above it."""
    yield _block(line, moment, y(moment.p99_ms), y(moment.p50_ms) + 1.5, "spread")
    yield _block(line, moment, y(moment.max_ms) - 1, y(moment.max_ms) + 1, "longest")


def _decades(timed: Sequence[Moment]) -> tuple[int, int]:
    """The powers of ten, in milliseconds, between which all times lie."""
    least = min((moment.p50_ms for moment in timed if moment.p50_ms > 0), default=0.1)
    most = max((moment.max_ms for moment in timed), default=1.0)
    low = min(8, max(-3, math.floor(math.log10(least))))
    return low, max(low + 1, min(9, math.ceil(math.log10(most))))


def _drawing(
    name: str,
    title: str,
    words: str,
    line: Timeline,
    shapes: Iterable[Html],
    ticks: Iterable[tuple[float, str]],
) -> Html:
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", words, id=f"{name}-desc"),
        *(_grid_line(y, label) for y, label in ticks),
        *(_pause(line, from_s, to_s) for from_s, to_s in line.pauses),
        *shapes,
        *_phase_names(line),
        *_seconds_axis(line.end_s),
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_="plot",
        height=_ABOVE + _HEIGHT + _BELOW,
    )


def _said(line: Timeline) -> str:
    """A drawing of the run in words."""
    parts = []
    for phase in PHASES:
        of_phase = [moment for moment in line.moments if moment.phase == phase]
        keys = sum(moment.keys for moment in of_phase)
        worked_s = sum(moment.seconds for moment in of_phase)
        if keys and worked_s > 0:
            parts.append(f"{phase}: {keys:,} keys, {figures.compact(keys / worked_s)} per second.")
    if line.pauses:
        paused_s = sum(to_s - from_s for from_s, to_s in line.pauses)
        parts.append(f"The run paused for {figures.plain_seconds(paused_s)}.")
    return " ".join(parts)


def _look_of(phase: str) -> str:
    return phase if phase in PHASES else "other"


def _block(line: Timeline, moment: Moment, top: float, bottom: float, look: str) -> Html:
    x, width = _across(line, moment.at_s, moment.at_s + moment.seconds)
    return element(
        "rect",
        x=f"{x:.2f}%",
        width=f"{width:.2f}%",
        y=f"{top:.1f}",
        height=f"{max(1.0, bottom - top):.1f}",
        class_=look,
    )


def _across(line: Timeline, from_s: float, to_s: float) -> tuple[float, float]:
    """Place and width in per cent; never too thin to be seen."""
    x = min(99.8, max(0.0, 100 * from_s / line.end_s))
    return x, min(100 - x, max(0.2, 100 * (to_s - from_s) / line.end_s))


def _y(part: float) -> float:
    """Where a part of the height is, from 0 at the bottom to 1."""
    return _ABOVE + _HEIGHT * (1 - min(1.0, max(0.0, part)))


def _grid_line(y: float, label: str) -> Html:
    where = f"{y:.1f}"
    return together(
        element("line", x1="0", x2="100%", y1=where, y2=where, class_="grid"),
        element("text", label, x="-8", y=where, dy="0.32em", text_anchor="end"),
    )


def _pause(line: Timeline, from_s: float, to_s: float) -> Html:
    x, width = _across(line, from_s, to_s)
    place = {"x": f"{x:.2f}%", "width": f"{width:.2f}%"}
    return element("rect", **place, y=_ABOVE, height=_HEIGHT, class_="paused")


def _phase_names(line: Timeline) -> Iterator[Html]:
    """Where each phase begins, named where there is room for it."""
    for phase, group in itertools.groupby(line.moments, lambda moment: moment.phase):
        of_phase = [*group]
        from_s, to_s = of_phase[0].at_s, of_phase[-1].at_s + of_phase[-1].seconds
        x, width = _across(line, from_s, to_s)
        place = f"{x:.2f}%"
        if phase not in PHASES or width < 4:
            continue
        yield element("line", x1=place, x2=place, y1=2, y2=_ABOVE + _HEIGHT, class_="edge")
        if width >= 15:
            yield element("text", phase, x=place, y=11, dx=5, class_="phase")


def _seconds_axis(end_s: float) -> Iterator[Html]:
    step = _step(end_s / 4)
    y = _ABOVE + _HEIGHT + 15
    for number in range(int(end_s / step) + 1):
        at_s = number * step
        x = 100 * at_s / end_s
        anchor = "start" if not number else "end" if x > 95 else "middle"
        label = figures.plain_span(at_s) if step >= 60 else f"{at_s:.6g} s"
        yield element("text", label, x=f"{x:.2f}%", y=y, text_anchor=anchor)


def _step(least_s: float) -> float:
    """The next round time: of seconds by tens, of more by what divides an hour or a day."""
    for step_s in (60, 120, 300, 600, 1_200, 3_600, 7_200, 14_400, 43_200, 86_400):
        if 30 < least_s <= step_s:
            return step_s
    return _round_up(least_s, (1, 2, 5, 10))


def _round_up(number: float, factors: Sequence[float] = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)) -> float:
    """The next round number, which is one of the factors times a power of ten."""
    if number <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(number))
    return next(power * factor for factor in factors if power * factor >= number * 0.999)


class _Stretch(NamedTuple):
    """Slots in a row that one primary serves; `owner` None: they were not covered."""

    owner: int | None
    first: int
    slots: int


def slot_map(nodes: Sequence[NodeUse], uncovered: Sequence[tuple[int, int]]) -> Html:
    """Which primary serves which slots: sixteen rows of 1,024, primaries by their number.

    What was not covered is marked, whoever serves it.
    """
    stretches = _stretches(nodes, uncovered)
    looks: dict[str, list[_Stretch]] = {}
    for stretch in stretches:
        looks.setdefault(_tint_of(stretch), []).append(stretch)
    missing = sum(stretch.slots for stretch in looks.get(_MISSING, []))
    words = f"{len(nodes):,} primaries, numbered as in their table. {missing:,} slots not covered."
    height = ROWS * _ROW_HEIGHT
    drawn = element(
        "svg",
        *(_path(group, look) for look, group in looks.items()),
        width="100%",
        height=height,
        viewBox=f"0 0 {ROW_SLOTS} {ROWS}",
        preserveAspectRatio="none",
    )
    return element(
        "svg",
        element("title", "Slots of the cluster", id="slots-title"),
        element("desc", words, id="slots-desc"),
        drawn,
        *_row_names(),
        *_owner_names(stretches),
        role="img",
        aria_labelledby="slots-title slots-desc",
        class_="plot map",
        height=height,
    )


def _stretches(nodes: Sequence[NodeUse], uncovered: Sequence[tuple[int, int]]) -> list[_Stretch]:
    """Each slot has one place, so that there are never more stretches than slots."""
    owners: list[int | None] = [_NOBODY] * SLOTS
    layers = [(number, node.ranges) for number, node in enumerate(nodes, 1)]
    for owner, ranges in (*layers, (None, uncovered)):
        for first, last in ranges:
            at, end = max(0, first), min(SLOTS - 1, last) + 1
            if at < end:
                owners[at:end] = [owner] * (end - at)
    stretches = []
    at = 0
    for owner, group in itertools.groupby(owners):
        slots = sum(1 for _ in group)
        if owner != _NOBODY:
            stretches.append(_Stretch(owner, at, slots))
        at += slots
    return stretches


def _tint_of(stretch: _Stretch) -> str:
    return _MISSING if stretch.owner is None else f"tint{stretch.owner % _TINTS}"


def _path(stretches: Iterable[_Stretch], look: str) -> Html:
    """All slots of one look in one shape: there may be thousands of stretches."""
    rows = itertools.chain.from_iterable(map(_by_rows, stretches))
    drawn = "".join(f"M{x} {y}h{slots}v.88h-{slots}z" for x, y, slots in rows)
    return element("path", d=Html(drawn), class_=look)


def _by_rows(stretch: _Stretch) -> Iterator[tuple[int, int, int]]:
    """Column, row and length of each row's part."""
    at, end = stretch.first, stretch.first + stretch.slots
    while at < end:
        row, column = divmod(at, ROW_SLOTS)
        slots = min(end - at, ROW_SLOTS - column)
        yield column, row, slots
        at += slots


def _owner_names(stretches: Iterable[_Stretch]) -> Iterator[Html]:
    """The number of a primary on each stretch that has room for it, in the middle."""
    for stretch in stretches:
        parts = [*_by_rows(stretch)]
        widest = max(slots for _, _, slots in parts)
        if widest >= _LEAST_LABELLED:
            wide = [part for part in parts if part[2] == widest]
            column, row, slots = wide[len(wide) // 2]
            x, y = 100 * (column + slots / 2) / ROW_SLOTS, (row + 0.44) * _ROW_HEIGHT
            missing = stretch.owner is None
            yield element(
                "text",
                "not covered" if missing else str(stretch.owner),
                x=f"{x:.1f}%",
                y=f"{y:.1f}",
                dy="0.35em",
                text_anchor="middle",
                class_="over" if missing else None,
            )


def _row_names() -> Iterator[Html]:
    for row in range(0, ROWS, 4):
        y = (row + 0.44) * _ROW_HEIGHT
        label = f"{row * ROW_SLOTS:,}"
        yield element("text", label, x="-8", y=f"{y:.1f}", dy="0.35em", text_anchor="end")
