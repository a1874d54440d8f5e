"""What a configuration file says, where it says it, and what is wrong with it (pure)."""

from __future__ import annotations

import re
from typing import Any, NamedTuple


class Mark(NamedTuple):
    """A place in a file, as editors count: from 1."""

    line: int
    column: int


class Place(NamedTuple):
    """Where a setting stands: the path to it, its name in the file, and its value."""

    path: tuple[str | int, ...]
    name: Mark
    value: Mark


class Trouble(NamedTuple):
    """Something that is wrong; where, and in which setting, if that is known."""

    text: str
    mark: Mark | None = None
    path: tuple[str | int, ...] = ()


class Document(NamedTuple):
    """What a file says.

    Attributes:
        source: its name.
        settings: the mapping.
        places: where each setting stands, by its dotted name.
        variables: the dotted names of those that a variable of the environment is part of.
        troubles: what is not what it looks like.
    """

    source: str
    settings: dict[str, Any]
    places: dict[str, Place]
    variables: frozenset[str]
    troubles: tuple[Trouble, ...]


_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


def discreet(text: str) -> str:
    """A message with *** in place of all that it quotes, where that may be a secret."""
    return _QUOTED.sub("***", text)


def dotted(path: tuple[str | int, ...]) -> str:
    """The name of a setting as people write it: `keys.timestamp.fields[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
