"""A YAML file to what it says, and where it says it; nothing else.

YAML has values that are not what they look like: `no` is false, `10:00` is 600, `0755` is 493,
and of two equal keys the last wins in silence. A configuration that decides what is deleted must
not guess, so each of these is a trouble with its line and column. All of them are collected; only
what is no YAML at all is an error at once.

`${NAME}` in a value stands for a variable of the environment. It is put in when YAML has been
read, so that no value can turn into something else than a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cleanup_job.document import Document, Mark, Place, Trouble, discreet, dotted
from cleanup_job.errors import ConfigError
from cleanup_job.keyspace import QUOTE_HINT
from cleanup_job.model import is_text

MOST_BYTES = 250_000
"""A configuration has a few thousand; much more takes long to parse, for nothing."""

MOST_NODES = 20_000
"""More than any configuration has; fewer than aliases of aliases can make of a few lines."""


def read_yaml(path: str, variables: Mapping[str, str] | None = None) -> Document:
    """The mapping that a YAML file holds.

    Args:
        path: the file.
        variables: what `${NAME}` stands for.

    Raises:
        ConfigError: if it can't be read, is empty, or is no YAML.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(f"{path}: is larger than any configuration ({MOST_BYTES:,} bytes)")
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text in UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    reader = _Reader(variables or {})
    document = _parse(path, text, reader)
    if document is None:
        raise ConfigError(f"{path}: is empty; leave out -c to run with the defaults")
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must be a mapping of settings, such as 'stale_after: 600'")
    return Document(
        path, document, reader.places, frozenset(reader.of_variables), tuple(reader.troubles)
    )


def _parse(path: str, text: str, reader: _Reader) -> Any:
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            return None if node is None else reader.read(loader, node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        line = [*text.split("\n"), ""][mark.line] if mark else ""
        problem = str(error.problem or error.context)
        if _MAY_BE_SECRET.search(line) and ("alias" in problem or "tag" in problem):
            raise ConfigError(f"{place}: {discreet(problem)}; write it in quotes") from None
        hint = QUOTE_HINT if "{" in line or "*" in line else ""
        raise ConfigError(f"{place}: {problem}{hint}") from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"{path}: has the character {error.character:#x}, which is not allowed in YAML"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    except _TooLargeError as error:
        raise ConfigError(
            f"{path}: has more than {MOST_NODES:,} settings, or aliases that make as many of them"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply") from error


class _TooLargeError(Exception):
    pass


_MAY_BE_SECRET = re.compile("password|url", re.IGNORECASE)
"""What is next to these words is not quoted in an error."""

_MAPPING, _SEQUENCE, _TEXT = (f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str"))

_PLAIN = {
    "tag:yaml.org,2002:bool": re.compile(r"true|false"),
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    "tag:yaml.org,2002:float": re.compile(r"[-+]?(0|[1-9][0-9]*)\.[0-9]+"),
}
"""How a plain scalar of each type may be written: as everybody reads it."""

_DATE = "tag:yaml.org,2002:timestamp"

_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")


class _Reader:
    """Nodes to values, with all that is wrong on the way."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.places: dict[str, Place] = {}
        self.of_variables: set[str] = set()
        self.troubles: list[Trouble] = []
        self._variables = variables
        self._nodes = 0

    def read(
        self, loader: yaml.SafeLoader, node: yaml.Node, path: tuple[str | int, ...] = ()
    ) -> Any:
        """The value of a node."""
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise _TooLargeError
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(loader, node, path)
        if node.tag == _SEQUENCE:
            return [self._item(loader, item, (*path, i)) for i, item in enumerate(node.value)]
        if node.tag == _MAPPING and isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, path)
        return loader.construct_object(node, deep=True)

    def _item(self, loader: yaml.SafeLoader, node: yaml.Node, path: tuple[str | int, ...]) -> Any:
        mark = _mark(node)
        self.places[dotted(path)] = Place(path, mark, mark)
        return self.read(loader, node, path)

    def _mapping(
        self, loader: yaml.SafeLoader, node: yaml.MappingNode, path: tuple[str | int, ...]
    ) -> dict[str, Any]:
        own = {id(key) for key, _ in node.value}
        loader.flatten_mapping(node)
        settings: dict[str, Any] = {}
        seen: set[str] = set()
        for key, value in node.value:
            before = len(self.troubles)
            name = (
                self._scalar(loader, key, path, is_name=True)
                if isinstance(key, yaml.ScalarNode)
                else None
            )
            if not isinstance(name, str):
                if len(self.troubles) == before:
                    self._add(key, path, "a name must be text; write it in quotes")
                continue
            if len(self.troubles) > before:
                continue
            # What is merged in with << may be named again.
            if name in seen and id(key) in own:
                self._add(key, (*path, name), f"{name!r} stands twice; remove one of the two")
            if id(key) in own:
                seen.add(name)
            inner = (*path, name)
            self.places[dotted(inner)] = Place(inner, _mark(key), _mark(value))
            settings[name] = self.read(loader, value, inner)
        return settings

    def _scalar(
        self,
        loader: yaml.SafeLoader,
        node: yaml.ScalarNode,
        path: tuple[str | int, ...],
        *,
        is_name: bool = False,
    ) -> Any:
        if node.tag == _TEXT:
            return self._text(node, path, is_name=is_name)
        kind = node.tag.rpartition(":")[2]
        try:
            value = loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except (ValueError, LookupError, AttributeError):
            shown = "***" if _is_secret(path) else repr(node.value[:40])
            self._add(node, path, f"{shown} can't be read as {kind}")
            return node.value
        allowed = _PLAIN.get(node.tag)
        if node.tag == _DATE or (allowed is not None and not allowed.fullmatch(node.value)):
            read_as = "a date" if allowed is None else str(value).lower()
            reads = (
                "reads it as something else"
                if _is_secret(path)
                else (f"reads {node.value} as {read_as}")
            )
            self._add(
                node,
                path,
                f"YAML {reads}; write it in quotes if it is text, else as "
                "a plain number, true or false",
            )
            return node.value
        return value

    def _text(self, node: yaml.ScalarNode, path: tuple[str | int, ...], *, is_name: bool) -> str:
        text: str = node.value
        if not is_name and "$" in text:
            text = _VARIABLE.sub(lambda match: self._variable(match, node, path), text)
        if not is_text(text):
            self._add(
                node, path, "half of a surrogate pair is no character; a key can't be made of it"
            )
        return text

    def _variable(
        self, match: re.Match[str], node: yaml.ScalarNode, path: tuple[str | int, ...]
    ) -> str:
        if match[0] == "$$":
            return "$"
        name, default = match["name"], match["default"]
        if name is None:
            self._add(
                node,
                path,
                "${ begins a variable, written ${NAME} or ${NAME:-default}; for the characters "
                "themselves write $${",
            )
            return ""
        self.of_variables.add(dotted(path))
        value = self._variables.get(name) or default
        if value is None:
            self._add(
                node,
                path,
                f"the environment has no {name}, or an empty one; set it, or write "
                f"${{{name}:-default}}",
            )
            return ""
        return value

    def _add(self, node: yaml.Node, path: tuple[str | int, ...], text: str) -> None:
        self.troubles.append(Trouble(text, _mark(node), path))


def _is_secret(path: tuple[str | int, ...]) -> bool:
    return any(isinstance(part, str) and _MAY_BE_SECRET.search(part) for part in path)


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)
