"""Several environments in one file: what all have in common at its top, the rest by profile.

    stale_after: 600
    profiles:
      staging: {redis: {url: redis://staging.example}}
      prod: {redis: {url: rediss://prod.example}, max_purge: 1000}

A profile's settings win over those at the top. Mappings are merged setting by setting, but for
those whose names are free (`keys.owned`, `redis.address_map`): a profile that has one has it as a
whole, or a family could never be left out.

Nothing is guessed: of a file with profiles one must be chosen.
"""

from __future__ import annotations

import difflib
from typing import Any

from cleanup_job.document import Document, Place, dotted
from cleanup_job.errors import ConfigError

PROFILES = "profiles"

WHOLE = (("keys", "owned"), ("redis", "address_map"))
"""Mappings that are replaced, not merged."""

Path = tuple[str | int, ...]


def names_of(document: Document) -> list[str]:
    """The profiles of a file; none if it has none.

    Raises:
        ConfigError: if what it calls so are none.
    """
    if PROFILES not in document.settings:
        return []
    profiles = document.settings[PROFILES]
    if not isinstance(profiles, dict) or not profiles:
        raise _misplaced(document, (PROFILES,), "must be a mapping of names to settings")
    for name, settings in profiles.items():
        if not isinstance(settings, dict):
            raise _misplaced(document, (PROFILES, name), "must be a mapping of settings")
        if PROFILES in settings:
            path = (PROFILES, name, PROFILES)
            raise _misplaced(document, path, "a profile has no profiles of its own")
    return [*profiles]


def _misplaced(document: Document, path: Path, text: str) -> ConfigError:
    mark = document.places[dotted(path)].name
    return ConfigError(f"{document.source}:{mark.line}:{mark.column}: {dotted(path)}: {text}")


def only(document: Document, chosen: str | None) -> Document:
    """What the file says for one profile.

    Raises:
        ConfigError: if it has profiles and none is chosen, or not this one, or no profiles at all.
    """
    names = names_of(document)
    if chosen is None and not names:
        return document
    if chosen is None:
        raise ConfigError(
            f"{document.source}: has profiles, so choose one of them with --profile or "
            f"CLEANUP_JOB_PROFILE: {', '.join(names)}"
        )
    if not names:
        raise ConfigError(f"{document.source}: has no profiles, so leave out --profile {chosen}")
    if chosen not in names:
        near = difflib.get_close_matches(chosen, names, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"{document.source}: has no profile {chosen!r}; {guess}(there are: {', '.join(names)})"
        )
    return merged(document, chosen)


def common(document: Document) -> Document:
    """What the file says at its top, without its profiles."""
    settings = {name: value for name, value in document.settings.items() if name != PROFILES}
    places = {place: at for place, at in document.places.items() if at.path[0] != PROFILES}
    return document._replace(
        settings=settings,
        places=places,
        variables=frozenset(document.variables & places.keys()),
        troubles=tuple(one for one in document.troubles if one.path[:1] != (PROFILES,)),
    )


def merged(document: Document, name: str) -> Document:
    """What the file says at its top and in this profile, each setting where it stands.

    What is wrong in other profiles, such as a variable that only they need, does not matter here.
    """
    top, inside = common(document), (PROFILES, name)
    replaced: set[Path] = set()
    settings = _merge(top.settings, document.settings[PROFILES][name], (), replaced)
    places = {
        place: at
        for place, at in top.places.items()
        if not any(at.path[:length] in replaced for length in range(1, len(at.path) + 1))
    }
    variables = top.variables & places.keys()
    for place, at in document.places.items():
        if at.path[:2] == inside and len(at.path) > len(inside):
            path = at.path[len(inside) :]
            places[dotted(path)] = Place(path, at.name, at.value)
            variables |= {dotted(path)} if place in document.variables else set()
    ours = tuple(
        one._replace(path=one.path[len(inside) :])
        for one in document.troubles
        if one.path[:2] == inside
    )
    return document._replace(
        settings=settings,
        places=places,
        variables=frozenset(variables),
        troubles=top.troubles + ours,
    )


def _merge(
    below: dict[str, Any], above: dict[str, Any], path: Path, replaced: set[Path]
) -> dict[str, Any]:
    """Both, of which `above` wins; the paths of what it took the place of go to `replaced`."""
    both = dict(below)
    for name, value in above.items():
        inner = (*path, name)
        under = below.get(name)
        if isinstance(under, dict) and isinstance(value, dict) and inner not in WHOLE:
            both[name] = _merge(under, value, inner, replaced)
        else:
            replaced.add(inner)
            both[name] = value
    return both
