"""Patterns, segments, owners, and the one glob that covers every family (pure).

A key is cut at `:` into segments, which may be empty. A pattern is a sequence of
segments, one of which is the id:

    blocking:signal:{id}            the id is one or more whole segments
    blocking:ack:{id}:*             `*` is one or more whole segments
    blocking:idempotency:*{id}*     the id stands anywhere, with zero or more
                                    segments on either side
    blocking:signal:{{id}}          the id in braces, a cluster's hash tag: all
                                    keys of a coordinator lie in one slot

Because an id may itself hold `:`, one key can be read as naming several ids: its
*candidates*. Everything here is bytes; nothing is decoded, so any byte may occur
in an id.

Invariants:
- Ids match by whole segments, never by substring.
- An empty id is never a candidate: it owns nothing.
- `Pattern.candidates` is the one definition of ownership. The quick forms that
  `Pattern.reader` hands out give the same answer for the widths asked for, which
  a property test holds them to.
- The covering glob may let too much through (`Pattern.select` then drops it),
  never too little.
"""

from __future__ import annotations

import binascii
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

SEPARATOR = b":"

SLOTS = 16_384
"""Hash slots of a cluster."""

_IDS = ("{id}", "*{id}*", "{{id}}", "*{{id}}*")
_ANY = "*"

_Token = bytes | None
"""One segment of a pattern: its literal bytes, or None for "one or more segments"."""

Reader = Callable[[bytes], Collection[bytes]]
"""Gives the candidates of a key."""


QUOTE_HINT = "; a pattern with { or * in it needs quotes"
"""For errors of YAML, to which both mean something else."""


class PatternError(ValueError):
    """A pattern that has no clear meaning; the message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One parsed key pattern. Make it with `parse`."""

    text: str
    before: tuple[_Token, ...]
    after: tuple[_Token, ...]
    anywhere: bool
    tagged: bool = False

    @property
    def prefix(self) -> bytes:
        """The literal bytes that every matching key starts with."""
        tokens = self._tokens()
        literal = tokens[: tokens.index(None)]
        opening = b"{" if self.tagged and not self.anywhere and None not in self.before else b""
        return b"".join(token + SEPARATOR for token in literal if token is not None) + opening

    @property
    def is_exact(self) -> bool:
        """True if a key has one candidate only: all that follows the prefix."""
        return not (self.after or self.anywhere or self.tagged or None in self.before)

    @property
    def _is_leading(self) -> bool:
        """True for `prefix:{id}:*`."""
        plain = not (self.anywhere or self.tagged or None in self.before)
        return plain and self.after == (None,)

    @property
    def _is_tagged_exact(self) -> bool:
        """True for `prefix:{{id}}`."""
        return self.tagged and not (self.after or self.anywhere or None in self.before)

    @property
    def _is_tagged_leading(self) -> bool:
        """True for `prefix:{{id}}:*`."""
        plain = self.tagged and not (self.anywhere or None in self.before)
        return plain and self.after == (None,)

    @property
    def _is_anywhere(self) -> bool:
        """True for `prefix:*{id}*`."""
        return self.anywhere and not (self.tagged or self.after or None in self.before)

    @property
    def suffix(self) -> bytes:
        """The literal bytes behind the id; only for a pattern without `*`."""
        closing = b"}" if self.tagged else b""
        return closing + b"".join(SEPARATOR + token for token in self.after if token is not None)

    def key_for(self, coordinator_id: bytes) -> bytes:
        """The key of this id; only for a pattern without `*`."""
        return self.prefix + coordinator_id + self.suffix

    def keys_for(self, ids: Iterable[bytes]) -> list[bytes]:
        """The keys of these ids; only for a pattern without `*`."""
        prefix, suffix = self.prefix, self.suffix
        if not suffix:
            return [prefix + coordinator_id for coordinator_id in ids]
        return [prefix + coordinator_id + suffix for coordinator_id in ids]

    def example_for(self, coordinator_id: bytes) -> bytes:
        """Some key that names this id; each `*` is the id too."""
        shown = b"{%b}" % coordinator_id if self.tagged else coordinator_id
        before = [coordinator_id if token is None else token for token in self.before]
        after = [coordinator_id if token is None else token for token in self.after]
        return SEPARATOR.join([*before, shown, *after])

    def ids(self, keys: Sequence[bytes]) -> list[bytes]:
        """The ids, the empty one too, of those keys that match; for a pattern without `*`."""
        prefix, suffix = self.prefix, self.suffix
        start = len(prefix)
        if not suffix:
            return _tails([key for key in keys if key.startswith(prefix)], start)
        end, shortest = -len(suffix), start + len(suffix)
        return [
            key[start:end]
            for key in keys
            if key.startswith(prefix) and key.endswith(suffix) and len(key) >= shortest
        ]

    def select(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of `keys` that match this pattern, in order."""
        prefix = self.prefix
        if self.is_exact:
            shortest = len(prefix) + 1
            return [key for key in keys if key.startswith(prefix) and len(key) >= shortest]
        matches = _compiled(self).fullmatch
        return [key for key in keys if key.startswith(prefix) and matches(key)]

    def candidates(self, key: bytes, widths: Collection[int] | None = None) -> Iterator[bytes]:
        """All ids that `key` can be read as naming, leading first, then shortest.

        Args:
            key: the whole key.
            widths: numbers of segments to consider; None for all of them.
        """
        segments = key.split(SEPARATOR)
        total = len(segments)
        starts = _reachable(self.before, self.anywhere, segments)
        tails = _reachable(self.after[::-1], self.anywhere, segments[::-1])
        ends = {total - tail for tail in tails}
        in_order = sorted(ends)
        steps = None if widths is None else sorted(widths)
        for start in sorted(starts):
            # A key can have very many segments, the ids that exist have few.
            for end in in_order if steps is None else [start + step for step in steps]:
                if end > start and end in ends:
                    candidate = SEPARATOR.join(segments[start:end])
                    if self.tagged:
                        candidate = _untagged(candidate)
                    if candidate:
                        yield candidate

    def pick(self, ordered: list[bytes]) -> list[bytes]:
        """Those of sorted keys that match: as `select`, but all that it need not look at is free.

        Sorting a page is one call that costs less than looking at each key once for each family.
        """
        part = self.within(ordered)
        start = len(self.prefix)
        if self.is_exact or self._is_anywhere:
            # Only the prefix itself does not match. It comes first.
            return part[bisect_right(part, self.prefix) :]
        if self._is_leading:
            # A colon behind the first byte of the id: four times as quick as the expression.
            return [key for key in part if key.find(SEPARATOR, start + 1) > 0]
        matches = _compiled(self).fullmatch
        return [key for key in part if matches(key)]

    def within(self, ordered: list[bytes]) -> list[bytes]:
        """Those of sorted keys that begin with the prefix."""
        prefix = self.prefix
        if not prefix:
            return ordered
        # No prefix ends with 0xFF: it ends with a colon or a brace.
        behind = prefix[:-1] + bytes([prefix[-1] + 1])
        return ordered[bisect_left(ordered, prefix) : bisect_left(ordered, behind)]

    def only_ids(self, keys: Sequence[bytes], widths: Collection[int]) -> list[bytes] | None:
        """The one id of such a width that each key can name; None if there can be several.

        The keys have to match. An id may be empty where a key names none of such a width.
        """
        start = len(self.prefix)
        if self.is_exact:
            return _tails(keys, start)
        if self._is_leading and set(widths) == {1}:
            return [key[start : key.index(SEPARATOR, start)] for key in keys]
        if self._is_tagged_exact:
            return _between(keys, start)
        if self._is_tagged_leading and set(widths) == {1}:
            return _between([key[: key.index(SEPARATOR, start)] for key in keys], start)
        return None

    def reader(self, widths: Collection[int]) -> Reader:
        """A quick form of `candidates` for ids that have one of `widths` segments.

        The assignment of keys to owners calls it once per key of the survey, so the common
        shape gets by with one split. Where a key can only have one, see `only_ids`.
        """
        start = len(self.prefix)
        if self._is_anywhere and set(widths) == {1}:
            return lambda key: key[start:].split(SEPARATOR)
        return lambda key: list(self.candidates(key, widths))

    def _tokens(self) -> list[_Token]:
        return [*self.before, None, *self.after]


def parse(text: str) -> Pattern:
    """Parse one pattern of the configuration.

    Raises:
        PatternError: if the pattern has no or several `{id}`, or a segment that mixes
            literal text with `*` or braces.
    """
    segments = text.split(":")
    places = [i for i, segment in enumerate(segments) if segment in _IDS]
    if len(places) != 1 or text.count("{id}") != 1:
        raise PatternError(
            f"pattern {text!r} needs {{id}} exactly once, as a whole segment between colons "
            '(or as "*{id}*"; with hash tags "{{id}}")'
        )
    place = places[0]
    rest = segments[:place] + segments[place + 1 :]
    for segment in rest:
        if segment != _ANY and re.search(r"[*{}]", segment):
            raise PatternError(
                f"pattern {text!r}: segment {segment!r} mixes text with '*' or braces; "
                "'*' stands alone between colons"
            )
    if all(segment == _ANY for segment in rest):
        raise PatternError(
            f"pattern {text!r} would match every key; add a literal segment, such as a prefix"
        )
    tokens = [None if segment == _ANY else segment.encode() for segment in rest]
    return Pattern(
        text=text,
        before=tuple(tokens[:place]),
        after=tuple(tokens[place:]),
        anywhere=segments[place].startswith(_ANY),
        tagged="{{" in segments[place],
    )


def named_among(
    pattern: Pattern,
    key: bytes,
    ids: Container[bytes],
    widths: Collection[int],
    *,
    orphaned: bool = False,
) -> list[bytes]:
    """Those of `ids` that a key can be read as naming, its coordinator's first.

    A key of stale coordinators is that of the one with the longest id, an orphan's key that of the
    shortest leading one (see `judge`).

    Args:
        pattern: of the key's family.
        key: which matches it.
        ids: that come into question.
        widths: as many segments as they have.
        orphaned: none of them has a heartbeat.
    """
    names = list(dict.fromkeys(name for name in pattern.candidates(key, widths) if name in ids))
    if len(names) > 1 and not orphaned:
        longest = max(names, key=len)
        names.remove(longest)
        names.insert(0, longest)
    return names


def overlap(one: Pattern, other: Pattern) -> bool:
    """True if some key could match both patterns.

    Both are sequences of literals and "one or more segments"; `*{id}*` amounts to the
    latter too, since at least the id itself is there.
    """
    return _can_meet(tuple(one._tokens()), tuple(other._tokens()))


def covering_glob(patterns: Sequence[Pattern]) -> bytes:
    """One MATCH pattern that lets every key of every pattern through.

    The families' literal prefixes are merged byte by byte into character classes, up to
    the shortest prefix: `blocking:` and `coordinator:` give `[bc][lo]o[cr]…*`. One walk
    with it costs about as much as one with a plain prefix (shared facts §3).
    """
    prefixes = [pattern.prefix for pattern in patterns]
    columns = zip(*prefixes, strict=False)
    return b"".join(_glob_class(sorted(set(column))) for column in columns) + b"*"


def widths_of(ids: Collection[bytes]) -> frozenset[int]:
    """The numbers of segments that occur among `ids`."""
    if ids and SEPARATOR not in b"".join(ids):
        return frozenset({1})
    return frozenset({coordinator_id.count(SEPARATOR) + 1 for coordinator_id in ids})


def slot_of(key: bytes) -> int:
    """The hash slot of a key: of its first non-empty {tag} if it has one, else of all of it.

    Source: the Redis Cluster specification, "Hash tags". `crc_hqx` is its CRC16 (XMODEM) in C.
    """
    opening = key.find(b"{")
    if opening >= 0:
        closing = key.find(b"}", opening + 1)
        if closing > opening + 1:
            key = key[opening + 1 : closing]
    return binascii.crc_hqx(key, 0) & (SLOTS - 1)


def _tails(keys: Iterable[bytes], start: int) -> list[bytes]:
    """What follows behind `start`; in C, since it is done for every key."""
    return [*map(itemgetter(slice(start, None)), keys)]


def _between(keys: Iterable[bytes], start: int) -> list[bytes]:
    """What stands between `start` and a closing brace at the end; nothing where there is none."""
    return [key[start:-1] if key[-1:] == b"}" else b"" for key in keys]


def _untagged(candidate: bytes) -> bytes:
    """What stands between the braces, or nothing if they are not both there."""
    if candidate[:1] == b"{" and candidate[-1:] == b"}":
        return candidate[1:-1]
    return b""


def _reachable(tokens: Sequence[_Token], anywhere: bool, segments: Sequence[bytes]) -> set[int]:
    """How many leading segments `tokens` can consume exactly."""
    total = len(segments)
    places = {0}
    for token in tokens:
        if token is None:
            places = set(range(min(places) + 1, total + 1)) if places else set()
        else:
            places = {p + 1 for p in places if p < total and segments[p] == token}
    if anywhere and places:
        places = set(range(min(places), total + 1))
    return places


def _can_meet(one: tuple[_Token, ...], other: tuple[_Token, ...]) -> bool:
    """Whether two token sequences have a common key, by searching their states.

    A state (i, j) says how many tokens lie behind on each side; every step consumes one
    segment on both, and a wildcard that lies just behind may take yet another.
    """
    seen: set[tuple[int, int]] = set()
    todo = [(0, 0)]
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        i, j = state
        if i == len(one) and j == len(other):
            return True
        for next_i, segment_i in _steps(one, i):
            for next_j, segment_j in _steps(other, j):
                if segment_i is None or segment_j is None or segment_i == segment_j:
                    todo.append((next_i, next_j))
    return False


def _steps(tokens: tuple[_Token, ...], at: int) -> Iterator[tuple[int, _Token]]:
    if at < len(tokens):
        yield at + 1, tokens[at]
    if at > 0 and tokens[at - 1] is None:
        yield at, None


@lru_cache(maxsize=64)
def _compiled(pattern: Pattern) -> re.Pattern[bytes]:
    # A run of whole segments between two colons is any run of bytes, since segments may be
    # empty; only the id must not be.
    before = b"".join(_regex_segment(token) + SEPARATOR for token in pattern.before)
    after = b"".join(SEPARATOR + _regex_segment(token) for token in pattern.after)
    named = rb"\{.+\}" if pattern.tagged else b".+"
    if pattern.tagged and pattern.anywhere:
        named = rb"(?:.*:)?\{.+\}(?::.*)?"
    return re.compile(before + named + after, re.DOTALL)


def _regex_segment(token: _Token) -> bytes:
    return b".*" if token is None else re.escape(token)


def _glob_class(choices: Sequence[int]) -> bytes:
    escaped = [_glob_escape(choice) for choice in choices]
    return escaped[0] if len(escaped) == 1 else b"[" + b"".join(escaped) + b"]"


def _glob_escape(byte: int) -> bytes:
    # Inside and outside of a class, a backslash takes the next byte literally.
    char = bytes([byte])
    return char if char.isalnum() or char in b":_" or byte >= 0x80 else b"\\" + char
