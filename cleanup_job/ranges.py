"""The space of ids cut into ranges, each of which can be judged by itself (pure).

Where findings are too many for one process, or lie on several machines, nobody can see all of them
at once. So they are cut by id. A range holds the heartbeats of its ids, and the keys that are
*at home* in it:

- where a key can name one id only, it is at home with that;
- else with what follows its pattern's prefix, which begins with its leading candidate.

Invariants:
- Each name is at home in exactly one range, whoever found it: so what two partitions both found
  meets, and counts once.
- What a key at home here can name lies in this range, or is *foreign*. Of a foreign id it is not
  known here whether it lives: that has to be asked (`survey.look_up`).

An orphan has no heartbeat that could say where it is at home. A bound may lie between its keys: it
*straddles* that, and what becomes of it has to be asked of both sides.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain

import msgspec
from msgspec import structs

from cleanup_job.keyspace import Pattern, widths_of
from cleanup_job.model import Findings, Ref, Sample, Schema, Shelved, StaleRun

SAMPLE_EVERY = 512
"""Of so many names one is told to the job, to find bounds by: 2 kB of 1 MB."""

LEAST_SAMPLED = 32
"""Of few names more are told, or ranges would differ by much."""

_BEHIND = b";"
"""The byte behind a colon: all that begins with an id and a colon comes before the id and this."""


class IdRange(msgspec.Struct, frozen=True):
    """The ids from `first` up to, not including, `end`, as bytes compare; None: to the last."""

    first: bytes = b""
    end: bytes | None = None

    def holds(self, name: bytes) -> bool:
        """True if it is one of these."""
        return name >= self.first and (self.end is None or name < self.end)


def bounds_of(samples: Iterable[Sequence[bytes]], ranges: int) -> list[bytes]:
    """Where to cut, so that so many ranges are about equally large, by a sample of all names.

    There may be fewer, where names are few or much alike.
    """
    sample = sorted(chain.from_iterable(samples))
    if not sample:
        return []
    cuts = (sample[len(sample) * number // ranges] for number in range(1, ranges))
    return [bound for bound in dict.fromkeys(cuts) if bound]


def ranges_between(bounds: Sequence[bytes]) -> list[IdRange]:
    """The ranges that these bounds make."""
    return [IdRange(first, end) for first, end in zip([b"", *bounds], [*bounds, None], strict=True)]


def shelved(found: Findings, schema: Schema, ref: Ref) -> Shelved:
    """What the job has to know of findings that are kept elsewhere."""
    names = [found.live, *(run.ids for run in found.stale)]
    sample = _sample(names)
    for (_, pattern), runs in zip(schema.owned, found.owned, strict=True):
        start = len(pattern.prefix)
        sample += [key[start:] for key in _sample(runs)]
    owned = [run for runs in found.owned for run in runs]
    widths = (widths_of(some) for some in (*names, [one.coordinator_id for one in found.kept]))
    return Shelved(
        ref,
        names=len(found.kept) + sum(map(len, chain(names, owned))),
        size=sum(sum(map(len, run)) for run in chain(names, owned)),
        sample=sample,
        widths=frozenset().union(*widths),
    )


def _sample(runs: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Each so-and-so-manyth name, counted through all runs.

    Each run is in order and most are short, so that its first name is no sample of it.
    """
    every = min(SAMPLE_EVERY, max(1, sum(map(len, runs)) // LEAST_SAMPLED))
    sample: list[bytes] = []
    first = every // 2
    for run in runs:
        sample += run[first::every]
        first = (first - len(run)) % every
    return sample


def pieces(
    found: Findings, schema: Schema, widths: frozenset[int], bounds: Sequence[bytes]
) -> list[Findings]:
    """The findings cut into what is at home in each range.

    Args:
        found: those of one partition.
        schema: the families.
        widths: the numbers of segments of all ids that there are.
        bounds: of the ranges.
    """
    live = _cut([sorted(found.live)], bounds)
    stale = _cut_stale(found.stale, bounds)
    owned = [
        _cut_family(runs, pattern, widths, bounds)
        for (_, pattern), runs in zip(schema.owned, found.owned, strict=True)
    ]
    kept: list[list[Sample]] = [[] for _ in stale]
    for sample in found.kept:
        kept[bisect_right(bounds, sample.coordinator_id)].append(sample)
    return [
        structs.replace(
            found,
            live=[*chain.from_iterable(live[place])],
            kept=kept[place],
            stale=stale[place],
            owned=[family[place] for family in owned],
            timings={},
        )
        for place in range(len(bounds) + 1)
    ]


def foreign_names(
    parts: Sequence[Findings], schema: Schema, widths: frozenset[int], own: IdRange
) -> list[bytes]:
    """All ids of other ranges that keys of this one can name."""
    foreign: set[bytes] = set()
    for family, (_, pattern) in enumerate(schema.owned):
        if _is_single(pattern, widths):
            continue
        read = pattern.reader(widths)
        for key in chain.from_iterable(run for part in parts for run in part.owned[family]):
            foreign.update(name for name in read(key) if name and not own.holds(name))
    return sorted(foreign)


def straddling(orphans: Iterable[bytes], own: IdRange) -> set[bytes]:
    """Those orphans of which another range may have keys too: few, since they lie at a bound."""
    return {
        name
        for name in orphans
        if not own.holds(name) or (own.end is not None and own.end <= name + _BEHIND)
    }


def _is_single(pattern: Pattern, widths: Collection[int]) -> bool:
    """True if each key of this family can name one id only."""
    return pattern.only_ids([], widths) is not None


def _cut_family(
    runs: Iterable[list[bytes]],
    pattern: Pattern,
    widths: frozenset[int],
    bounds: Sequence[bytes],
) -> list[list[list[bytes]]]:
    """Runs of keys by the range that they are at home in."""
    if pattern.is_exact or not _is_single(pattern, widths):
        return _cut(runs, [pattern.prefix + bound for bound in bounds])
    ranges: list[list[list[bytes]]] = [[] for _ in range(len(bounds) + 1)]
    for run in runs:
        # In the order of keys, which is not quite that of ids, most of a range follow each other.
        homes = [bisect_right(bounds, name) for name in pattern.only_ids(run, widths) or ()]
        for home in {*homes}:
            ranges[home].append([key for key, at in zip(run, homes, strict=True) if at == home])
    return ranges


def _cut(runs: Iterable[list[bytes]], bounds: Sequence[bytes]) -> list[list[list[bytes]]]:
    """Ascending runs, each cut at the bounds."""
    ranges: list[list[list[bytes]]] = [[] for _ in range(len(bounds) + 1)]
    for run in runs:
        for place, (first, end) in enumerate(_places(run, bounds)):
            if first < end:
                ranges[place].append(run[first:end])
    return ranges


def _cut_stale(runs: Iterable[StaleRun], bounds: Sequence[bytes]) -> list[list[StaleRun]]:
    """The same for stale coordinators."""
    ranges: list[list[StaleRun]] = [[] for _ in range(len(bounds) + 1)]
    for run in runs:
        for place, (first, end) in enumerate(_places(run.ids, bounds)):
            if first < end:
                ranges[place].append(run.part(first, end))
    return ranges


def _places(run: Sequence[bytes], bounds: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Where in an ascending run each range begins and ends."""
    first = 0
    for bound in bounds:
        end = bisect_left(run, bound, first)
        yield first, end
        first = end
    yield first, len(run)
