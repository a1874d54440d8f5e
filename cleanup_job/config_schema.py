"""The JSON Schema of the configuration file, for editors and for `cleanup-job schema`."""

from __future__ import annotations

from typing import Any

import msgspec

from cleanup_job.profiles import PROFILES
from cleanup_job.settings import Config

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"

VARIABLE = {"type": "string", "pattern": r"^\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}$"}
"""What may stand in place of a number or a word: a variable of the environment."""

EXAMPLES = {
    "url": [
        "redis://db.example:6379/0",
        "rediss://user@db.example",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://a.example,b.example/service/0",
        "${REDIS_URL}",
    ]
}


def json_schema() -> bytes:
    """The schema, as text."""
    schema = msgspec.json.schema(Config)
    definitions = schema["$defs"]
    for definition in definitions.values():
        for name, setting in definition.get("properties", {}).items():
            _allow_variables(setting)
            if name in EXAMPLES:
                setting["examples"] = EXAMPLES[name]
    definitions["Profile"] = definitions["Config"]
    definitions["Config"] = _with_profiles(definitions["Config"])
    whole = {"$schema": SCHEMA_ID, "title": "cleanup-job configuration", **schema}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def _with_profiles(config: dict[str, Any]) -> dict[str, Any]:
    profiles = {
        "description": "settings by environment, which win over those at the top; --profile "
        "chooses one",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"$ref": "#/$defs/Profile"},
    }
    return {**config, "properties": {**config["properties"], PROFILES: profiles}}


def _allow_variables(setting: dict[str, Any]) -> None:
    """Let a variable stand where neither text nor a mapping is wanted."""
    kinds = [one.get("type") for one in setting.get("anyOf", [setting])]
    if "$ref" in setting or {"string", "object", "array"} & {*kinds}:
        return
    if any("$ref" in one for one in setting.get("anyOf", [])):
        return
    own = ("type", "enum", "minimum", "maximum")
    alternatives = setting.pop("anyOf", None)
    if alternatives is None:
        alternatives = [{name: setting.pop(name) for name in own if name in setting}]
    setting["anyOf"] = [*alternatives, VARIABLE]
