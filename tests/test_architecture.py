"""The shape of the house: imports point one way, and pure parts are pure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cleanup_job

PACKAGE = Path(cleanup_job.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

PURE = {
    "errors", "keyspace", "pace", "prints", "throttle", "cursors", "model", "acl", "judge", "plan",
    "brakes", "remains", "outcomes", "ages", "course", "tally",
    "ranges", "memory", "timings",
    "markup", "figures", "tables", "charts", "headline", "sections",
}  # fmt: skip
STAGES = {
    "topology", "survey", "plan", "plan_file", "rehearsal", "purge", "restore", "pool", "report",
    "watch",
}  # fmt: skip
COMPOSERS = {
    "observer", "ages", "course", "clock", "run_journal", "sweep", "costs", "walks", "waves",
    "planned", "verdicts", "reduce", "ranged", "shelf", "remarks", "account", "job", "undo",
    "restore_report",
}  # fmt: skip
"""The job, its parts, and the restore: what passes values from stage to stage."""

IMPURE_IMPORTS = {"redis", "time", "datetime", "socket", "os", "random", "multiprocessing"}

# fmt: off
LAYERS = [
    {"errors", "keyspace", "pace", "prints", "throttle", "timings", "whole_file", "style",
     "document", "markup"},
    {"layout", "manual", "measures", "memory"},
    {"cursors", "pulse", "figures", "arguments", "bugs", "turns"},
    {"model", "tables"},
    {"acl", "tls", "brakes", "journal", "streams", "urls", "ranges"},
    {"attempt", "judge", "outcomes", "remains", "wire", "yaml_file", "recorder", "settings",
     "profiles"},
    {"explain", "config_schema"},
    {"config"},
    {"routes", "embedded", "processes", "gauge"},
    {"lease", "dump"},
    STAGES,
    {"observer", "next_step", "metrics", "classic", "charts", "headline"},
    {"callbacks", "sections", "text"},
    {"log", "page", "restore_report"},
    {"ages", "course"},
    {"clock", "tally", "shelf"},
    {"remote"},
    {"dask_cluster"},
    {"dask_pool"},
    {"reduce"},
    {"run_journal"},
    {"sweep"},
    {"costs", "walks", "waves", "planned", "remarks"},
    {"ranged"},
    {"verdicts"},
    {"account"},
    {"job", "progress", "undo"},
    {"demo", "files", "stop_signals"},
    {"cli"},
    {"__main__", "__init__"},
]
# fmt: on
"""From the ground up; a module imports only from layers below its own."""


def imports_of(module: str) -> set[str]:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def internal_imports_of(module: str) -> set[str]:
    own = {name.split(".")[1] for name in imports_of(module) if name.startswith("cleanup_job.")}
    return own & set(MODULES)


def layer_of(module: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if module in layer)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_layer(module: str) -> None:
    assert sum(module in layer for layer in LAYERS) == 1


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    for imported in internal_imports_of(module):
        assert layer_of(imported) < layer_of(module), f"{module} imports {imported}"


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_know_no_redis_and_no_clock(module: str) -> None:
    roots = {name.partition(".")[0] for name in imports_of(module)}
    assert not roots & IMPURE_IMPORTS


# Plans and reports are also shown to people.
@pytest.mark.parametrize("module", sorted(STAGES - {"plan", "plan_file", "report"}))
def test_only_composers_know_the_stages(module: str) -> None:
    users = {other for other in MODULES if module in internal_imports_of(other)}
    assert users <= COMPOSERS


@pytest.mark.parametrize("module", [m for m in MODULES if m != "cli"])
def test_only_cli_exits(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    # os._exit ends a worker whose job is gone; nobody is left to be told.
    assert not {"sys.exit", "exit", "quit"} & set(calls)
