"""Writes docs/reference.md out of the code: `python -m tools.reference > docs/reference.md`.

Nothing is said here that the code does not say: flags are the parser's, settings the schema's,
fields the report's, and codes are looked up where they are made. So a name that is new appears by
itself, and tests/test_reference.py fails until the file is written again.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

import cleanup_job
from cleanup_job import arguments, config, errors, manual, metrics, report, restore_report
from cleanup_job.config_schema import json_schema
from cleanup_job.model import Problem

PACKAGE = Path(cleanup_job.__file__).parent

PAGE = Path(__file__).parent.parent / "docs" / "reference.md"

HEAD = """\
# Reference

Generated from the code by `python -m tools.reference > docs/reference.md`; do not edit it.
What to do with all this is in the [guide](guide.md), and what to do when something went wrong in
[what if](what-if.md).
"""

OTHER_VARIABLES = {
    "url": "`REDIS_URL`; or `REDIS_HOST`, `REDIS_PORT`, `REDIS_DB`, and `REDIS_PASSWORD`"
}
"""Settings whose variable is not made of their name."""


def page() -> str:
    """The whole document."""
    parts = [
        HEAD,
        *_commands(arguments.make_parser()),
        "## Exit codes\n",
        _table(("code", "meaning"), exit_codes(manual.EXIT_CODES)),
        *_settings(),
        *_errors(),
        *_reports(),
        *_codes(),
        *_metrics(),
    ]
    return "\n".join(map(_wrapped, parts)).rstrip() + "\n"


def _wrapped(part: str) -> str:
    """Prose in lines as everywhere; headings and tables as they are."""
    if part.startswith(("#", "|", "```")):
        return part
    return "\n".join(textwrap.fill(line, 100) for line in part.split("\n"))


# -- commands -------------------------------------------------------------------------------------


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield "## Commands\n"
    commands = commands_of(parser)
    summaries = {
        name: " ".join((command.description or "").partition("\n\n")[0].split())
        for name, command in commands.items()
    }
    yield _table(
        ("command", "does"),
        [(f"[`{name}`](#cleanup-job-{name})", text) for name, text in summaries.items()],
    )
    yield "`cleanup-job COMMAND --help` has examples too, `cleanup-job --version` the version.\n"
    for name, command in commands.items():
        yield f"### cleanup-job {name}\n"
        for part in (command.description or "").split("\n\n"):
            yield " ".join(part.split()) + "\n"
        yield from _examples(command.epilog or "")
        rows = [*flags_of(command)]
        if rows:
            yield _table(("argument", "meaning"), rows)
        else:
            yield "It has no arguments.\n"


def _examples(epilog: str) -> Iterator[str]:
    """Those of the help, as they are there."""
    text = epilog.partition("examples:\n")[2].partition("\n\n")[0].rstrip()
    if text:
        yield f"```text\n{textwrap.dedent(text)}\n```\n"


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands by name, in the order of the help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def flags_of(command: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Each argument with what the help says of it."""
    for action in command._actions:
        if action.dest == "help":
            continue
        words = [*action.option_strings] or [str(action.metavar or action.dest)]
        if action.option_strings and action.nargs != 0:
            words[-1] += f" {_placeholder(action)}"
        text = str(action.help or "")
        if action.required and action.option_strings:
            text += " (required)"
        yield ", ".join(f"`{word}`" for word in words), text


def _placeholder(action: argparse.Action) -> str:
    if action.metavar is not None:
        return str(action.metavar)
    if action.choices:
        return "|".join(map(str, action.choices))
    return action.dest.upper()


def exit_codes(epilog: str) -> list[tuple[str, str]]:
    """The codes and their meaning, out of the help's text."""
    rows: list[tuple[str, str]] = []
    for line in epilog.partition("exit codes:\n")[2].splitlines():
        if found := re.match(r"  (\d\S*) +(.*)", line):
            rows.append((f"`{found[1]}`", found[2]))
        elif rows and line.strip():
            rows[-1] = (rows[-1][0], f"{rows[-1][1]} {line.strip()}")
    return rows


# -- metrics ---------------------------------------------------------------------------------------


def _metrics() -> Iterator[str]:
    yield "## Metrics\n"
    yield (
        "What `run --prom FILE` writes. Each has the label `target`; all are gauges of the last "
        "run, but for the time of the last success. A run without a report has only the first "
        "ones.\n"
    )
    some = report.Report(
        status="complete",
        dry_run=False,
        run_id="",
        started_at="",
        duration_s=0.0,
        target=report.Target("valkey", "9", "standalone", [], 0),
    )
    of_any = metrics._of_any_run("complete", 0, 0.0, 0.0, 0.0, dry_run=False)
    rows = [
        (f"`{family.name}`", ", ".join(f"`{label}`" for label in family.labels), family.text)
        for family in (*of_any, *metrics._of_report(some))
    ]
    yield _table(("metric", "labels", "meaning"), rows)


# -- settings -------------------------------------------------------------------------------------


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    yield (
        "A flag wins over the environment, the environment over the file (`-c FILE`), the file "
        "over the default. `cleanup-job check FILE` shows what is in effect, `cleanup-job schema` "
        "prints the JSON Schema for editors.\n"
    )
    flags = flags_by_dest(commands_of(arguments.make_parser())["run"])
    variables = {".".join(path): name for name, path in config.SCALARS.items()}
    rows = []
    for place, setting in settings():
        name = variables.get(place)
        variable = OTHER_VARIABLES.get(name or "") or (
            f"`{config.ENV_PREFIX}{name.upper()}`" if name else ""
        )
        rows.append(
            (
                f"`{place}`",
                describe_type(setting),
                f"`{json.dumps(setting['default'])}`" if "default" in setting else "",
                setting.get("description", ""),
                variable,
                flags.get(name or "", ""),
            )
        )
    yield _table(("setting", "value", "default", "meaning", "environment", "flag of `run`"), rows)


def flags_by_dest(command: argparse.ArgumentParser) -> dict[str, str]:
    """The flags by the name of the setting that they set."""
    found: dict[str, str] = {}
    for action in command._actions:
        if action.option_strings:
            flag = f"`{action.option_strings[-1]}`"
            found[action.dest] = f"{found[action.dest]}, {flag}" if action.dest in found else flag
    return found


def settings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each setting by its place in the file, as the JSON Schema has it."""
    schema = json.loads(json_schema())
    yield from _properties(schema, _resolve(schema, schema), "")


def _properties(
    schema: dict[str, Any], node: dict[str, Any], above: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, setting in node.get("properties", {}).items():
        place = f"{above}{name}"
        inner = next(
            (
                _resolve(schema, choice)
                for choice in (setting, *setting.get("anyOf", ()))
                if "$ref" in choice
            ),
            None,
        )
        if inner is None or "properties" not in inner:
            yield place, setting if inner is None else {**inner, **setting}
        else:
            yield from _properties(schema, inner, f"{place}.")


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def describe_type(setting: dict[str, Any]) -> str:
    """What a setting may hold, in words."""
    if "anyOf" in setting:
        words = [describe_type(one) for one in setting["anyOf"] if not _is_variable(one)]
        return " or ".join(dict.fromkeys(words))
    if "enum" in setting:
        return ", ".join(f"`{one}`" for one in setting["enum"])
    if "const" in setting:
        return f"`{setting['const']}`"
    kind = setting.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _bounds(setting)
    plain = {
        "boolean": "`true`, `false`",
        "string": "text",
        "array": "a list",
        "object": "a mapping",
        "null": "`null`",
    }
    return plain.get(str(kind), "")


def _is_variable(choice: dict[str, Any]) -> bool:
    """True for what stands in the place of any value: `${VAR}`."""
    return "$" in choice.get("pattern", "").rstrip("$")


def _bounds(setting: dict[str, Any]) -> str:
    least, most = setting.get("minimum"), setting.get("maximum")
    if least is None and most is None:
        return ""
    if most is None:
        return f", {least} or more"
    return f" up to {most}" if least is None else f" from {least} to {most}"


# -- errors ---------------------------------------------------------------------------------------


def _errors() -> Iterator[str]:
    yield "## Errors of the library\n"
    yield (
        "What `cleanup_job.run` raises. All of them are a `CleanupJobError` and have a `code` and "
        "an `exit_code`, with which the command ends; any other exception is a bug.\n"
    )
    rows = [
        (f"`{kind.__name__}`", f"`{kind.exit_code}`", _summary(kind))
        for kind in _family(errors.CleanupJobError)
    ]
    yield _table(("class in `cleanup_job.errors`", "exit code", "meaning"), rows)


def _family(base: type[errors.CleanupJobError]) -> Iterator[type[errors.CleanupJobError]]:
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base:
            assert name == kind.__name__, "each error has one name"
            yield kind


# -- reports --------------------------------------------------------------------------------------


def _reports() -> Iterator[str]:
    yield "## The report\n"
    yield (
        "What `run --json FILE` writes and `cleanup_job.run` returns. Fields may be added within a "
        "`schema_version`; none goes and none changes its meaning.\n"
    )
    yield from _structs([report.Report])
    yield "## The report of a restore\n"
    yield "What `restore --json FILE` writes.\n"
    yield from _structs([restore_report.RestoreReport], known=[*_reachable(report.Report)])


def _structs(roots: Sequence[type], known: Sequence[type] = ()) -> Iterator[str]:
    for root in roots:
        for kind in _reachable(root):
            if kind not in known:
                yield from _struct(kind)


def _struct(kind: type) -> Iterator[str]:
    text, meanings = documented(kind)
    yield f"### {kind.__name__}\n"
    yield text + "\n"
    hints = typing.get_type_hints(kind)
    rows = [
        (f"`{name}`", type_name(hints[name]), meanings.get(name, ""))
        for name in kind.__struct_fields__  # type: ignore[attr-defined]
    ]
    yield _table(("field", "type", "meaning"), rows)


def _reachable(root: type) -> dict[type, None]:
    """A struct and all that its fields hold, each once, in the order of the fields."""
    found: dict[type, None] = {}
    _reach(root, found)
    return found


def _reach(hint: Any, found: dict[type, None]) -> None:
    if inspect.isclass(hint) and issubclass(hint, msgspec.Struct):
        if hint not in found:
            found[hint] = None
            hints = typing.get_type_hints(hint)
            for name in hint.__struct_fields__:
                _reach(hints[name], found)
        return
    for part in typing.get_args(hint):
        _reach(part, found)


def type_name(hint: Any) -> str:
    """The type as JSON has it, with a link to what it is made of."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(part) for part in parts)
    if origin is list or (origin is tuple and parts[1:] == (Ellipsis,)):
        return f"list of {type_name(parts[0])}"
    if origin is tuple:
        return "[" + ", ".join(type_name(part) for part in parts) + "]"
    if origin is dict:
        return f"name → {type_name(parts[1])}"
    if inspect.isclass(hint) and issubclass(hint, msgspec.Struct):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    names = {str: "text", int: "integer", float: "number", bool: "true, false", Any: "any"}
    return "null" if hint is type(None) else names.get(hint, str(hint))


def documented(kind: type) -> tuple[str, dict[str, str]]:
    """What a docstring says of a class, and of each attribute."""
    text, _, listed = (inspect.getdoc(kind) or "").partition("\n\nAttributes:\n")
    meanings: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc("\n" + listed).splitlines():
        if found := re.match(r"(\w+): (.*)", line):
            name = found[1]
            meanings[name] = found[2]
        elif name and line.strip():
            meanings[name] += f" {line.strip()}"
    return _flowing(text), meanings


# -- codes ----------------------------------------------------------------------------------------


def _codes() -> Iterator[str]:
    yield "## Codes\n"
    yield (
        "`code` of the report's `warnings` and `errors`, and of errors that end a run. `…` stands "
        "for what differs; where no text is shown, the servers' or the system's follows.\n"
    )
    rows = [(f"`{code}`", "<br>".join(sorted(texts))) for code, texts in sorted(codes().items())]
    yield _table(("code", "message"), rows)


def codes() -> dict[str, set[str]]:
    """Each code with the messages that it comes with, as far as they can be read in the source."""
    found = {
        default: {_summary(kind)}
        for kind in _family(errors.CleanupJobError)
        if isinstance(default := inspect.signature(kind).parameters["code"].default, str)
    }
    for path in sorted(PACKAGE.glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        constants = _constants(tree)
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and (pair := _code_and_message(call)) is not None:
                code, message = pair
                said = _text_of(message, {**constants, **_texts_before(tree, call)})
                for name in _names_of(code, constants, tree, call):
                    found.setdefault(name, set()).update({said} if said else ())
    return found


def _names_of(
    code: ast.expr, constants: dict[str, ast.expr], tree: ast.Module, call: ast.Call
) -> Iterator[str]:
    """The code that an expression stands for; all of them in a loop over some."""
    if name := _text_of(code, constants):
        yield from re.findall(r"^[a-z_0-9]+$", name)
        return
    loops = [
        one
        for one in ast.walk(tree)
        if isinstance(one, ast.For) and one.lineno <= call.lineno <= (one.end_lineno or 0)
    ]
    for loop in loops:
        targets = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
        names = [target.id if isinstance(target, ast.Name) else "" for target in targets]
        if isinstance(code, ast.Name) and code.id in names and isinstance(loop.iter, ast.Tuple):
            for row in loop.iter.elts:
                cells = row.elts if isinstance(row, ast.Tuple) else [row]
                yield _text_of(cells[names.index(code.id)], constants)


def _code_and_message(call: ast.Call) -> tuple[ast.expr, ast.expr] | None:
    """What a call that makes a problem or an error says."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    name = call.func.id if isinstance(call.func, ast.Name) else function
    if len(call.args) < 2 or name in ("TypeError", "ValueError"):
        return None
    if name == Problem.__name__:
        return call.args[0], call.args[1]
    if name.endswith("Error"):
        return call.args[1], call.args[0]
    return None


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    return {
        statement.targets[0].id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and isinstance(statement.value, ast.Constant)
    } | _IMPORTED


def _texts_before(tree: ast.Module, call: ast.Call) -> dict[str, ast.expr]:
    """What each name was given last in the function, above the call."""
    function = next(
        (
            one
            for one in ast.walk(tree)
            if isinstance(one, ast.FunctionDef)
            and one.lineno <= call.lineno <= (one.end_lineno or 0)
        ),
        None,
    )
    above = [
        one
        for one in (ast.walk(function) if function else ())
        if isinstance(one, ast.Assign) and one.lineno <= call.lineno
    ]
    return {
        target.id: one.value
        for one in sorted(above, key=lambda one: one.lineno)
        for target in one.targets
        if isinstance(target, ast.Name)
    }


def _text_of(node: ast.expr | None, names: dict[str, ast.expr]) -> str:
    """The text that an expression makes, with … for what differs; nothing if all of it does."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        text = "".join(
            str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
        return "" if not re.search(r"\w{3}", text) else text
    if isinstance(node, ast.Name) and node.id in names:
        return _text_of(names[node.id], {})
    if isinstance(node, ast.Attribute) and node.attr in names:
        return _text_of(names[node.attr], {})
    return ""


def _shared_constants() -> dict[str, ast.expr]:
    """Codes that modules import from others: texts in capitals on a module's top level."""
    shared: dict[str, ast.expr] = {}
    for path in sorted(PACKAGE.glob("*.py")):
        for statement in ast.parse(path.read_text("utf-8")).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
                target = statement.targets[0]
                if isinstance(target, ast.Name) and target.id.isupper():
                    shared[target.id] = statement.value
    return shared


_IMPORTED = _shared_constants()


# -- Markdown -------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = "|" + "---|" * len(head)
    lines = ["| " + " | ".join(map(_cell, line)) + " |" for line in (head, *rows)]
    return "\n".join([lines[0], rule, *lines[1:], ""])


def _cell(text: str) -> str:
    return _flowing(text).replace("|", "\\|")


def _flowing(text: str) -> str:
    """One line, in which < and > of messages are no tags."""
    line = " ".join(text.split())
    return re.sub(r"<(?!br>)", "&lt;", line)


def _summary(kind: type) -> str:
    return (inspect.getdoc(kind) or "").replace("\n\n", " ")


if __name__ == "__main__":
    sys.stdout.write(page())
