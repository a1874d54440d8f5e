"""Heartbeats to verdicts, and keys to owners (pure: no Redis, no clock).

Two steps:

- `judge_heartbeat` looks at one value and the server's time. Workers call it while they
  walk, so that the value is judged against the clock of the moment it was read at.
- `decide` is the reduce. It must wait for every partition: an id with `:` in it is only
  known once all ids are, and a key is an orphan only if no partition holds a heartbeat for
  any id that it could name.

Invariants:
- A key is given to a stale coordinator only if none of its candidates has a live, an
  unreadable or a future heartbeat.
- What cannot be understood counts as alive for its keys: kept, and reported.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec

from cleanup_job.keyspace import Pattern, slot_of, widths_of
from cleanup_job.model import Findings, Kind, Rule, Sample, Schema, unpack

EARLIEST_MS = 978_307_200_000
"""2001-01-01. No heartbeat is older: an earlier time is a time in another unit (seconds read
as ms lie in January 1970), and deleting on the strength of it would purge live fleets."""

LONG = 256
"""Values longer than this are compared by fingerprint, so that nobody has to carry them. The
script has the same number."""

MOST_NAMED = 200
"""A key that could name more ids than this is kept and reported: that many heartbeats would have
to be looked at to delete it."""

LATEST_MS = 2**62
"""Later times count as this one, so that no age leaves the range of 64 bits."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one heartbeat says: its kind, why, and its age where it has one."""

    kind: Kind
    reason: str
    age_ms: int | None = None


def judge_heartbeat(value: bytes, now_ms: int, rule: Rule) -> Judgement:
    """Judge one heartbeat's value.

    Every configured field that is present and not null must hold a usable time, a finite
    number; the latest counts. Exactly `stale_after` old is live.

    Args:
        value: the string value of the heartbeat key.
        now_ms: the server's clock, read after the value.
        rule: threshold, fields and unit.
    """
    try:
        beat = _decoder(rule.fields).decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Judgement(Kind.UNREADABLE, _why_undecodable(value))
    times = [getattr(beat, f"f{i}") for i in range(len(rule.fields))]
    times = [time for time in times if time is not None]
    if not times:
        return Judgement(Kind.UNREADABLE, f"has no {' or '.join(rule.fields)}")
    for time in times:
        problem = _why_unusable(time, rule.unit_ms)
        if problem:
            return Judgement(Kind.UNREADABLE, problem)
    age_ms = now_ms - int(min(max(times) * rule.unit_ms, LATEST_MS))
    if age_ms < 0:
        return Judgement(Kind.FUTURE, "its time lies in the future", age_ms)
    if age_ms > rule.stale_after_ms:
        # The decoder skips what it does not need, unread. Only here would that cost somebody.
        if not _is_text(value):
            return Judgement(Kind.UNREADABLE, "is no JSON: not UTF-8")
        return Judgement(Kind.STALE, "older than stale_after", age_ms)
    return Judgement(Kind.LIVE, "within stale_after", age_ms)


def fingerprint(value: bytes) -> bytes:
    """What a heartbeat's value is compared by: itself, or if it is long, its SHA-1 and length.

    A fingerprint begins with `#`, which no value that was ever judged stale does: those are
    JSON objects. `lua/purge.lua` makes the same.
    """
    if len(value) <= LONG:
        return value
    digest = hashlib.sha1(value, usedforsecurity=False).hexdigest()
    return b"#%b:%d" % (digest.encode(), len(value))


def length_of(print_: bytes) -> int:
    """How long the value of this fingerprint is."""
    return int(print_.rpartition(b":")[2]) if print_[:1] == b"#" else len(print_)


def is_as_judged(value: bytes, print_: bytes) -> bool:
    """True if the value is the one that the fingerprint was made of."""
    return fingerprint(value) == print_ and value[:1] != b"#"


@dataclass(frozen=True, slots=True)
class StaleHeartbeat:
    """A stale heartbeat as it was judged; `value` is its fingerprint."""

    value: bytes
    age_ms: int


OwnedKeys = dict[bytes, list[bytes]]
"""Keys by the id that they are counted under."""


@dataclass(slots=True)
class Verdicts:
    """Who is what, and which keys go with whom.

    Attributes:
        live: ids; `stale`: ids with the heartbeat as judged; `kept`: unreadable and future
            ones, with the reason.
        owned: per owned family, the keys of stale coordinators by owner.
        co_owners: for a key that names several stale coordinators, the others.
        orphans: per owned family, the keys without any heartbeat by shortest leading id.
        crowded: keys that name more stale coordinators than can be checked; they are kept.
        matched: distinct keys by family, heartbeats last.
    """

    live: set[bytes] = field(default_factory=set)
    stale: dict[bytes, StaleHeartbeat] = field(default_factory=dict)
    kept: dict[bytes, Sample] = field(default_factory=dict)
    owned: list[OwnedKeys] = field(default_factory=list)
    co_owners: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    orphans: list[OwnedKeys] = field(default_factory=list)
    crowded: list[bytes] = field(default_factory=list)
    matched: list[int] = field(default_factory=list)

    @property
    def checked(self) -> int:
        """Coordinators that have a heartbeat of any kind."""
        return len(self.live) + len(self.stale) + len(self.kept)

    def orphan_ids(self) -> set[bytes]:
        """The ids that orphaned keys are counted under."""
        return set().union(*self.orphans)

    def kept_as(self, kind: Kind) -> list[Sample]:
        """The kept coordinators of one kind."""
        return [sample for sample in self.kept.values() if sample.kind is kind]


def decide(
    findings: Sequence[Findings], schema: Schema, uncovered: frozenset[int] = frozenset()
) -> Verdicts:
    """Give every coordinator its verdict and every owned key its owner.

    Args:
        findings: of all partitions.
        schema: the families.
        uncovered: slots that nobody looked into. Whose heartbeat would be there may be alive.
    """
    verdicts = Verdicts()
    for found in findings:
        _take_heartbeats(found, verdicts)
    alive = verdicts.live | verdicts.kept.keys()
    # A heartbeat may be seen twice, with another value each time. What spares wins.
    for coordinator_id in alive & verdicts.stale.keys():
        del verdicts.stale[coordinator_id]
    for coordinator_id in verdicts.live & verdicts.kept.keys():
        del verdicts.kept[coordinator_id]

    alive.discard(b"")
    widths = widths_of(alive) | widths_of(verdicts.stale)
    for place, (_, pattern) in enumerate(schema.owned):
        keys = dict.fromkeys(key for found in findings for key in unpack(found.owned[place]))
        verdicts.matched.append(len(keys))
        if uncovered:
            keys = dict.fromkeys(
                key for key in keys if not _may_be_alive(key, pattern, verdicts, schema, uncovered)
            )
        _assign(keys, pattern, widths, alive, verdicts)
    verdicts.matched.append(verdicts.checked)
    return verdicts


def _may_be_alive(
    key: bytes, pattern: Pattern, verdicts: Verdicts, schema: Schema, uncovered: frozenset[int]
) -> bool:
    """True if an id that the key could name may have a heartbeat that nobody saw."""
    return any(
        name not in verdicts.stale and slot_of(schema.heartbeat.key_for(name)) in uncovered
        for name in pattern.candidates(key)
    )


def _take_heartbeats(found: Findings, verdicts: Verdicts) -> None:
    verdicts.live.update(unpack(found.live))
    stale = map(StaleHeartbeat, unpack(found.stale_values), found.stale_ages_ms)
    verdicts.stale.update(zip(unpack(found.stale), stale, strict=True))
    verdicts.kept.update({sample.coordinator_id: sample for sample in found.kept})


def _assign(
    keys: Iterable[bytes],
    pattern: Pattern,
    widths: frozenset[int],
    alive: set[bytes],
    verdicts: Verdicts,
) -> None:
    owned: OwnedKeys = {}
    orphans: OwnedKeys = {}
    stale = verdicts.stale
    read = pattern.reader(widths)
    for key in keys:
        named = read(key)
        if not alive.isdisjoint(named):
            continue
        dead = [candidate for candidate in named if candidate in stale]
        if len(dead) > 1:
            # The longest is the owner; max() keeps the leading one of a tie.
            dead = list(dict.fromkeys(dead))
            if len(dead) > MOST_NAMED:
                verdicts.crowded.append(key)
                continue
            owner = max(dead, key=len)
            if len(dead) > 1:
                verdicts.co_owners[key] = tuple(other for other in dead if other != owner)
            owned.setdefault(owner, []).append(key)
        elif dead:
            owned.setdefault(dead[0], []).append(key)
        else:
            orphans.setdefault(next(pattern.candidates(key)), []).append(key)
    verdicts.owned.append(owned)
    verdicts.orphans.append(orphans)


def candidates_within(pattern: Pattern, key: bytes, limit: int) -> tuple[bytes, ...] | None:
    """All ids that the key could name, or None if there are more than `limit` readings."""
    named = tuple(islice(pattern.candidates(key), limit + 1))
    return None if len(named) > limit else named


@lru_cache(maxsize=8)
def _decoder(fields: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """A decoder that picks the time fields out of an object and skips the rest in C.

    The attributes are named f0, f1, … since a JSON field may have any name.
    """
    names = [f"f{i}" for i in range(len(fields))]
    beat = msgspec.defstruct(
        "Beat",
        [(name, Any, None) for name in names],
        rename=dict(zip(names, fields, strict=True)),
    )
    return msgspec.json.Decoder(beat)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _why_undecodable(value: bytes) -> str:
    try:
        decoded = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "is no JSON"
    return f"is JSON but no object: {_json_type(decoded)}"


def _json_type(decoded: object) -> str:
    if decoded is None:
        return "null"
    if isinstance(decoded, bool):
        return "a boolean"
    if isinstance(decoded, int | float):
        return "a number"
    return "a string" if isinstance(decoded, str) else "a list"


def _why_unusable(time: object, unit_ms: int) -> str | None:
    if isinstance(time, bool) or not isinstance(time, int | float):
        return f"its time is no number but {_time_type(time)}"
    if isinstance(time, float) and not math.isfinite(time):
        return "its time is no finite number"
    if time * unit_ms < EARLIEST_MS:
        return "its time lies before 2001: another unit, or no time"
    return None


def _time_type(time: object) -> str:
    return "an object" if isinstance(time, dict) else _json_type(time)
