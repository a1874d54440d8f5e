"""A YAML file to what it says, and nothing else.

YAML has values that are not what they look like: `no` is false, `10:00` is 600, `0755` is 493,
and of two equal keys the last wins in silence. A configuration that decides what is deleted must
not guess, so each of these is an error that names file, line and column.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from cleanup_job.errors import ConfigError
from cleanup_job.keyspace import QUOTE_HINT
from cleanup_job.model import is_text


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: if it can't be read, is empty, or is not what it looks like.
    """
    try:
        text = Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text in UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    document = _parse_yaml(path, text)
    if document is None:
        raise ConfigError(f"{path}: is empty; leave out -c to run with the defaults")
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must be a mapping of settings, such as 'stale_after: 600'")
    return document


def _parse_yaml(path: str, text: str) -> Any:
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        line = [*text.split("\n"), ""][mark.line] if mark else ""
        looks_like_a_pattern = "{" in line or "*" in line
        if isinstance(error, _NotWhatItLooksLikeError):
            looks_like_a_pattern = False
        hint = QUOTE_HINT if looks_like_a_pattern else ""
        raise ConfigError(f"{place}: {error.problem or error.context}{hint}") from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"{path}: has the character {error.character:#x}, which is not allowed in YAML"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply") from error


class _NotWhatItLooksLikeError(yaml.MarkedYAMLError):
    pass


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses what YAML 1.1 would quietly turn into something else."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise _NotWhatItLooksLikeError(
                    problem=f"{key.value!r} stands twice; remove one of the two",
                    problem_mark=key.start_mark,
                )
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_PLAIN = {
    "tag:yaml.org,2002:bool": re.compile(r"true|false"),
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    "tag:yaml.org,2002:float": re.compile(r"[-+]?(0|[1-9][0-9]*)\.[0-9]+"),
}
"""How a plain scalar of each type may be written: as everybody reads it."""


def _construct_plain(loader: _StrictLoader, node: yaml.ScalarNode) -> Any:
    kind = node.tag.rpartition(":")[2]
    try:
        value = getattr(yaml.SafeLoader, f"construct_yaml_{kind}")(loader, node)
    except (ValueError, LookupError, AttributeError) as error:
        raise _NotWhatItLooksLikeError(
            problem=f"{node.value[:40]!r} can't be read as {kind}", problem_mark=node.start_mark
        ) from error
    allowed = _PLAIN.get(node.tag)
    if allowed is None or not allowed.fullmatch(node.value):
        read_as = "a date" if allowed is None else str(value).lower()
        raise _NotWhatItLooksLikeError(
            problem=f"YAML reads {node.value} as {read_as}; write it in quotes if it is text, "
            "else as a plain number, true or false",
            problem_mark=node.start_mark,
        )
    return value


def _construct_text(loader: _StrictLoader, node: yaml.ScalarNode) -> Any:
    text = loader.construct_scalar(node)
    if not is_text(text):
        raise _NotWhatItLooksLikeError(
            problem="half of a surrogate pair is no character; a key can't be made of it",
            problem_mark=node.start_mark,
        )
    return text


_StrictLoader.add_constructor("tag:yaml.org,2002:str", _construct_text)

for _tag in (*_PLAIN, "tag:yaml.org,2002:timestamp"):
    _StrictLoader.add_constructor(_tag, _construct_plain)
