"""SCAN cursors as places on a line, so that a keyspace can be cut (pure).

A server walks its keys in an *order*, and a cursor says how far it got. `place_of` turns a cursor
into a number that only grows during a walk; a share of the keyspace is a range of such numbers.

Redis and Valkey promise cursors from 0 on only, each as it was returned. The two orders here are
what their sources do (shared facts §4):

- REVERSED (standalone; clusters up to Redis 7.2): cursors run in bit-reversed order, and one
  call from v to v' returns every key in [rev(v), rev(v')), whatever the table's size and even
  in the middle of a rehash.
- SLOTS (clusters from Redis 7.4 and Valkey 8.0 on): `cursor = bucket << 14 | slot`. Slots come
  in ascending order, and the buckets of one slot in bit-reversed order.

Invariants:
- A cut that is not on a bucket's border makes both sides return that bucket: duplicates, never
  gaps.
- The first share begins at 0 and the last ends at the line's end, so that keys in slots which a
  node does not own (yet) are walked too.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from cleanup_job.keyspace import SLOTS

_BITS = 64
_SPACE = 1 << _BITS
_SLOT_BITS = 14
_FINEST = 1 << 32
"""Cuts inside of a slot are multiples of this, so that their buckets fit into a cursor; no
slot has 2^32 buckets."""

_HEAVY = 4
"""A slot is cut if it weighs more than 1/4 of a share; else the cut moves to its border."""


class Order(StrEnum):
    """In which order a server walks its keys."""

    SEQUENCE = "sequence"
    REVERSED = "reversed"
    SLOTS = "slots"


Lane = tuple[int, int]
"""A share of the line: its first place, and the place where the next one begins."""


def end_of(order: Order) -> int:
    """The place behind the last one."""
    return SLOTS * _SPACE if order is Order.SLOTS else _SPACE


def place_of(order: Order, cursor: int) -> int:
    """How far a walk is that returned this cursor (which is not 0)."""
    if order is Order.SLOTS:
        return (cursor & (SLOTS - 1)) * _SPACE + reverse_bits(cursor >> _SLOT_BITS)
    return reverse_bits(cursor)


def cursor_at(order: Order, place: int) -> int:
    """The cursor to begin at for a share that starts at this place."""
    if order is Order.SLOTS:
        slot, within = divmod(place, _SPACE)
        return reverse_bits(within) << _SLOT_BITS | slot
    return reverse_bits(place)


def reverse_bits(number: int) -> int:
    """A number of 64 bits, back to front."""
    return int(f"{number:064b}"[::-1], 2)


def cut_evenly(parts: int) -> list[int]:
    """The borders of equal shares in reversed order: `parts` + 1 places."""
    return [-(-part * _SPACE // parts) for part in range(parts + 1)]


def cut_at(order: Order, place: int) -> int:
    """A place near this one where a share may begin."""
    return place // _FINEST * _FINEST if order is Order.SLOTS else place


def cut_by_weight(weights: Sequence[int], parts: int) -> list[int]:
    """The borders of shares in slot order that hold about equally many keys.

    Args:
        weights: keys per slot, all 16,384 of them.
        parts: how many shares.
    """
    total = sum(weights)
    borders = [0]
    slot = passed = 0
    for part in range(1, parts):
        wanted = total * part // parts
        while slot < SLOTS - 1 and passed + weights[slot] <= wanted:
            passed += weights[slot]
            slot += 1
        within = 0
        if weights[slot] * parts * _HEAVY > total:
            within = (wanted - passed) * _SPACE // weights[slot] // _FINEST * _FINEST
        borders.append(max(borders[-1], slot * _SPACE + within))
    return [*borders, end_of(Order.SLOTS)]


def describe(order: Order, lane: Lane) -> str:
    """A share in words, for the report."""
    if order is Order.SEQUENCE:
        return "all"
    start, end = lane
    if order is Order.REVERSED:
        return f"cursors {start / _SPACE:.1%} to {end / _SPACE:.1%}"
    return f"slots {_slot_text(start)} to {_slot_text(end - 1)}"


def slots_between(lane: Lane) -> tuple[int, int]:
    """The first and the last slot of a share in slot order."""
    start, end = lane
    return start // _SPACE, (end - 1) // _SPACE


def _slot_text(place: int) -> str:
    """The slot of a place, and how far inside of it the place lies."""
    slot, within = divmod(place, _SPACE)
    share = round(within / _SPACE, 2)
    return f"{slot} + {share:.0%}" if 0 < share < 1 else f"{slot}"
