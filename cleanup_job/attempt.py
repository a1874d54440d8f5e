"""One batch on its way through the purge, and the call that deletes it.

A batch only ever shrinks: a guard that changed, or a key that was touched, takes out all that needs
it. What is left is the next call of `lua/purge.lua`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from itertools import repeat

from cleanup_job.keyspace import Pattern, named_among, widths_of
from cleanup_job.model import ABSENT, Batch, Schema
from cleanup_job.prints import Prints

SCRIPT = (files(__package__) / "lua" / "purge.lua").read_bytes()
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

_COMPARE = -1
"""In place of an idle time: the script is to compare values."""


class Attempt:
    """One batch on its way: what is still in it, and what is known of its guards.

    Attributes:
        guards: the heartbeats' keys, in step with the batch's ids.
        dropped: guards that changed; all keys that need one of them are out.
        asked: the keys of the next call by family, the heartbeats last.
        one_by_one: the script is to compare each heartbeat by itself: something changed, or
            something has to be told apart.
        prints: of orphans that were dumped, how they were then.
        is_recorded: the journal has all of it.
        is_compared: of a scattered batch, that its orphans did not change since.
    """

    def __init__(self, batch: Batch, schema: Schema) -> None:
        self.batch = batch
        self.schema = schema
        self.guards = schema.heartbeat.keys_for(batch.guard_ids)
        self.expected = list(batch.expected)
        self.dropped: set[int] = set()
        self.loads = 0
        self.idle_is_known = False
        self.one_by_one = len(self.guards) == 1 or any(
            value == ABSENT or value[:1] == b"#" for value in self.expected
        )
        self.guard_places: Sequence[int] = range(len(self.guards))
        self.asked: list[Sequence[bytes]] = [*batch.keys, self.guards[: batch.own_heartbeats]]
        self.prints = Prints()
        self.is_recorded = self.is_compared = False

    @property
    def is_empty(self) -> bool:
        """True if nothing is left to be asked for."""
        return not any(self.asked)

    def words(self) -> list[bytes | str]:
        """The call, as purge.lua documents it."""
        guards, expected = self.guards, self.expected
        if self.dropped:
            guards = [guards[place] for place in self.guard_places]
            expected = [expected[place] for place in self.guard_places]
        *owned, heartbeats = self.asked
        words: list[bytes | str] = ["EVALSHA", SHA, str(len(guards) + sum(map(len, owned)))]
        words += guards
        for family in owned:
            words += family
        prints = self.prints.by_key
        min_idle_s = _COMPARE if prints else self.batch.min_idle_s
        numbers = (len(guards), len(heartbeats), min_idle_s, len(owned))
        words += map(str, (*numbers, *map(len, owned)))
        words += expected if self.one_by_one else [b"\0".join(expected)]
        if prints:
            words += [prints[key] for family in owned for key in family]
        return words

    def finished_ids(self) -> Collection[bytes]:
        """The coordinators whose last keys go with this batch."""
        ids = self.batch.guard_ids
        if self.batch.is_of_orphans:
            return {ids[needs[0]] for needs in self.needs()} - self.spared_ids()
        own = ids[: self.batch.own_heartbeats]
        if not self.dropped:
            return own
        return [name for place, name in enumerate(own) if place not in self.dropped]

    def spared_ids(self) -> set[bytes]:
        """The ids that changed, and those that keep a key because of them."""
        if not self.dropped:
            return set()
        owners = {
            needs[0]
            for family in self._owned_needs
            for needs in family
            if not self.dropped.isdisjoint(needs)
        }
        return {self.batch.guard_ids[place] for place in self.dropped | owners}

    @property
    def size(self) -> int:
        """How many keys the next call has."""
        return sum(map(len, self.asked))

    def keys(self) -> list[bytes]:
        """All keys of the next call."""
        return [key for family in self.asked for key in family]

    def family_of_each(self, families: Sequence[str]) -> Iterator[str]:
        """In step with `keys`: to which family each belongs."""
        for name, asked in zip(families, self.asked, strict=True):
            yield from repeat(name, len(asked))

    def needs(self) -> list[tuple[int, ...]]:
        """In step with `keys`: the guards that each needs, first of them its coordinator's."""
        of_owned = [
            needs
            for family in self._owned_needs
            for needs in family
            if self.dropped.isdisjoint(needs)
        ]
        own = range(self.batch.own_heartbeats)
        return [*of_owned, *((place,) for place in own if place not in self.dropped)]

    @cached_property
    def _owned_needs(self) -> list[list[tuple[int, ...]]]:
        """In step with the batch's keys: the guards that each can be read as naming.

        The first of them is its coordinator's. A batch that goes through at once never needs to
        know.
        """
        places = {name: place for place, name in enumerate(self.batch.guard_ids)}
        widths = widths_of(places)
        return [
            self._needs_of(pattern, keys, places, widths)
            for (_, pattern), keys in zip(self.schema.owned, self.batch.keys, strict=True)
        ]

    def _needs_of(
        self,
        pattern: Pattern,
        keys: Sequence[bytes],
        places: Mapping[bytes, int],
        widths: Collection[int],
    ) -> list[tuple[int, ...]]:
        """The same for the keys of one family."""
        only = pattern.only_ids(keys, widths)
        if only is not None:
            return [(places[name],) if name in places else () for name in only]
        orphaned = self.batch.is_of_orphans
        named = (named_among(pattern, key, places, widths, orphaned=orphaned) for key in keys)
        return [tuple(places[name] for name in names) for names in named]

    def drop_touched(self, places: Iterable[int]) -> None:
        """An orphan of which one key was touched keeps all of them; `places` are of `keys`."""
        needs = self.needs()
        self.drop({needs[place][0] for place in places})

    def drop(self, places: Iterable[int]) -> None:
        """Take out all keys that need one of these guards."""
        self.dropped.update(places)
        self.one_by_one = True
        self.guard_places = [i for i in self.guard_places if i not in self.dropped]
        owned = [
            [key for key, needs in zip(keys, family, strict=True) if self.dropped.isdisjoint(needs)]
            for keys, family in zip(self.batch.keys, self._owned_needs, strict=True)
        ]
        own = range(self.batch.own_heartbeats)
        self.asked = [*owned, [self.guards[i] for i in own if i not in self.dropped]]

    def expire(self, places: Iterable[int]) -> None:
        """These heartbeats are gone: their coordinators are as dead as before."""
        for place in places:
            self.expected[place] = ABSENT
            self.one_by_one = True
