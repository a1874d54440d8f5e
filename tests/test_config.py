"""Configuration: every bad input has its place and what is allowed; no secret is shown."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.config import (
    URL_FORMS,
    Config,
    Redis,
    TlsSettings,
    check_file,
    effective_yaml,
    load,
    parse_url,
    validated,
    without_password,
)
from cleanup_job.config_schema import json_schema
from cleanup_job.errors import ConfigError
from cleanup_job.model import Access, Endpoint, Tls
from tests.certificates import Authority

CONFIGS = Path(__file__).parent.parent / "configs"

SECONDS = " (allowed: a whole number of seconds, at least 1)"
PATTERN = " (allowed: a pattern with {id})"
COUNT = "(allowed: a whole number from 1 to 256, or auto)"
MILLISECONDS = "(allowed: a whole number of milliseconds from 1 to 1000)"
LIMIT = "(allowed: a whole number of 0 or more, or null)"
BOOL = "(allowed: true, false)"
ONCE = 'needs {id} exactly once, as a whole segment between colons (or as "*{id}*"'
PLAIN = "; write it in quotes if it is text, else as a plain number, true or false"
QUOTES = "; a pattern with { or * in it needs quotes"
TOP = f"(allowed: {', '.join(Config.__struct_fields__)})"
REDIS = "url, url_file, password_file, tls, sentinel_password, sentinel_password_file, address_map"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that messages name `my.yaml`, and no more of a path than was given."""
    monkeypatch.chdir(tmp_path)


def error_of(text: str | bytes) -> str:
    """The message, without line and column, which `error_at` has."""
    return re.sub(r"^my\.yaml:\d+:\d+: ", "my.yaml: ", error_at(text))


def error_at(text: str | bytes) -> str:
    Path("my.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load("my.yaml")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestBadFields:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "stale_afer: 600",
                "stale_afer: no such setting; did you mean stale_after?",
            ),
            ("zzz: 600", f"zzz: no such setting; {TOP}"),
            (
                "redis: {urll: x}",
                f"redis.urll: no such setting; did you mean url? (allowed: {REDIS})",
            ),
            (
                "redis: {tls: {ca_fil: x}}",
                "redis.tls.ca_fil: no such setting; did you mean ca_file? "
                "(allowed: ca_file, cert_file, key_file, server_name)",
            ),
            (
                "keys: {owner: {}}",
                "keys.owner: no such setting; did you mean owned? "
                "(allowed: heartbeat, timestamp, owned)",
            ),
            (
                "keys: {timestamp: {units: s}}",
                "keys.timestamp.units: no such setting; did you mean unit? (allowed: fields, unit)",
            ),
            ("1: 2", "a name must be text; write it in quotes"),
            (
                'keys: {owned: {1: "x:{id}"}}',
                "a name must be text; write it in quotes",
            ),
        ],
    )
    def test_unknown_field(self, text: str, message: str) -> None:
        assert error_of(text) == f"my.yaml: {message}"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("memory_limit: lots", "memory_limit: 'lots' is no size; write it as 500MB, 2GB or"),
            ("engine: dask\nmemory_limit: 1GB", "memory_limit: with engine dask names are in the"),
            ("dask: {scheduler: host}", "dask.scheduler: 'host' is no address; write tcp://host"),
            ("dask: {scheduler: tls://h:1}", "dask.scheduler: a tls:// address needs dask.ca_file"),
            ("dask: {ca_file: x}", "dask.ca_file: only a tls:// scheduler has use for"),
        ],
    )
    def test_what_makes_no_sense_of_engines_and_memory(self, text: str, message: str) -> None:
        assert f": {message}" in error_of(text)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('stale_after: "600"', "stale_after: Expected `int`, got `str`" + SECONDS),
            ("stale_after: 1e3", "stale_after: Expected `int`, got `str`" + SECONDS),
            ("stale_after: 1.5", "stale_after: Expected `int`, got `float`" + SECONDS),
            ("stale_after: true", "stale_after: Expected `int`, got `bool`" + SECONDS),
            ("stale_after:", "stale_after: Expected `int`, got `null`" + SECONDS),
            ("orphan_grace: [1]", "orphan_grace: Expected `int`, got `array`" + SECONDS),
            (
                "orphans: maybe",
                "orphans: Invalid enum value 'maybe' (allowed: ignore, report, purge)",
            ),
            (
                "workers: many",
                "workers: Invalid enum value 'many' "
                "(allowed: a whole number from 1 to 256, or auto)",
            ),
            (
                'workers: "4"',
                "workers: Invalid enum value '4' (allowed: a whole number from 1 to 256, or auto)",
            ),
            ("engine: gpu", "engine: Invalid enum value 'gpu' (allowed: serial, processes, dask)"),
            (
                "memory_limit: [1]",
                "memory_limit: Expected `int | str | null`, got `array` "
                "(allowed: a size such as 500MB or 2GiB, a number of bytes, or null)",
            ),
            (
                "redis: localhost",
                f"redis: Expected `object`, got `str` (allowed: a mapping with {REDIS})",
            ),
            (
                "redis: {url: 6379}",
                f"redis.url: Expected `str`, got `int` (allowed: {URL_FORMS})",
            ),
            (
                "redis: {password_file: 1}",
                "redis.password_file: Expected `str | null`, got `int` (allowed: a path, or null)",
            ),
            (
                "redis: {sentinel_password: 1234}",
                "redis.sentinel_password: Expected `str | null`, got `int` "
                "(allowed: text in quotes, or null)",
            ),
            (
                "redis: {tls: true}",
                "redis.tls: Expected `object | null`, got `bool` (allowed: a mapping with "
                "ca_file, cert_file, key_file, server_name, or null)",
            ),
            (
                "redis: {tls: {ca_file: 1}}",
                "redis.tls.ca_file: Expected `str | null`, got `int` (allowed: a path, or null)",
            ),
            (
                "redis: {address_map: {a:1: 2}}",
                'redis.address_map.a:1: Expected `str`, got `int` (allowed: "host:port")',
            ),
            (
                "redis: {address_map: a}",
                "redis.address_map: Expected `object`, got `str` "
                '(allowed: a mapping of "host:port" to "host:port")',
            ),
            ("per_node: 0", "per_node: Expected `int` >= 1 " + COUNT),
            ("per_node: many", "per_node: Invalid enum value 'many' " + COUNT),
            ("max_block_ms: 0", "max_block_ms: Expected `int` >= 1 " + MILLISECONDS),
            ("max_block_ms: 1001", "max_block_ms: Expected `int` <= 1000 " + MILLISECONDS),
            ("max_block_ms: 0.5", "max_block_ms: Expected `int`, got `float` " + MILLISECONDS),
            ('allow_partial: "true"', "allow_partial: Expected `bool`, got `str` " + BOOL),
            (
                "max_stale_fraction: 1.5",
                "max_stale_fraction: Expected `float` <= 1.0 "
                "(allowed: a number from 0 to 1, or null)",
            ),
            ("max_purge: -1", "max_purge: Expected `int` >= 0 " + LIMIT),
            ("max_purge: few", "max_purge: Expected `int | null`, got `str` " + LIMIT),
            ("lock: 1", "lock: Expected `bool`, got `int` " + BOOL),
            (
                "max_attempts: 0",
                "max_attempts: Expected `int` >= 1 (allowed: a whole number from 1 to 10)",
            ),
            (
                'pause_file: ""',
                "pause_file: Expected `str` of length >= 1 (allowed: a path, or null)",
            ),
            (
                "keys:",
                "keys: Expected `object`, got `null` "
                "(allowed: a mapping with heartbeat, timestamp, owned)",
            ),
            (
                "keys: {owned: [a]}",
                "keys.owned: Expected `object`, got `array` "
                "(allowed: a mapping of families to patterns)",
            ),
            (
                "keys: {owned: {a: 3}}",
                "keys.owned.a: Expected `str`, got `int`" + PATTERN,
            ),
            (
                'keys: {owned: {a: ""}}',
                "keys.owned.a: Expected `str` of length >= 1" + PATTERN,
            ),
            (
                "keys: {timestamp: {unit: us}}",
                "keys.timestamp.unit: Invalid enum value 'us' (allowed: ms, s)",
            ),
            (
                "keys: {timestamp: {fields: timestamp}}",
                "keys.timestamp.fields: Expected `array`, got `str` (allowed: a list of names)",
            ),
            (
                "keys: {timestamp: {fields: []}}",
                "keys.timestamp.fields: Expected `array` of length >= 1 (allowed: a list of names)",
            ),
            (
                "keys: {timestamp: {fields: [1]}}",
                "keys.timestamp.fields[0]: Expected `str`, got `int` (allowed: a list of names)",
            ),
            (
                "keys: {timestamp: {fields: [t, t]}}",
                "keys.timestamp.fields: 't' stands twice",
            ),
            (
                'keys: {timestamp: {fields: ["a\\"b"]}}',
                "keys.timestamp.fields: 'a\"b' is no name; it must have a character, and no quote, "
                "backslash or control character",
            ),
        ],
    )
    def test_wrong_type(self, text: str, message: str) -> None:
        assert error_of(text) == f"my.yaml: {message}"

    @pytest.mark.parametrize("name", ["stale_after", "orphan_grace"])
    @pytest.mark.parametrize("value", ["0", "-1", "-600"])
    def test_ages_are_positive(self, name: str, value: str) -> None:
        assert error_of(f"{name}: {value}") == f"my.yaml: {name}: Expected `int` >= 1{SECONDS}"

    @pytest.mark.parametrize(("value", "bound"), [("0", ">= 1"), ("257", "<= 256")])
    def test_workers_are_bounded(self, value: str, bound: str) -> None:
        assert error_of(f"workers: {value}") == (
            f"my.yaml: workers: Expected `int` {bound} "
            "(allowed: a whole number from 1 to 256, or auto)"
        )


class TestBadPatterns:
    @pytest.mark.parametrize(
        ("owned", "message"),
        [
            ("blocking:x", f"pattern 'blocking:x' {ONCE}"),
            ("blocking:{id}:{id}", f"pattern 'blocking:{{id}}:{{id}}' {ONCE}"),
            ("blocking:x{id}", f"pattern 'blocking:x{{id}}' {ONCE}"),
            (
                "blocking:x*:{id}",
                "pattern 'blocking:x*:{id}': segment 'x*' mixes text with '*' or braces; "
                "'*' stands alone between colons",
            ),
            (
                "*:{id}",
                "pattern '*:{id}' would match every key; add a literal segment, such as a prefix",
            ),
            ("{id}", "pattern '{id}' would match every key; add a literal segment, such as a pref"),
        ],
    )
    def test_owned(self, owned: str, message: str) -> None:
        error = error_of(f'keys: {{owned: {{a: "{owned}"}}}}')
        assert error.startswith(f"my.yaml: keys.owned.a: {message}")

    def test_heartbeat_without_id(self) -> None:
        error = error_of('keys: {heartbeat: "blocking:heartbeat"}')
        assert error.startswith(f"my.yaml: keys.heartbeat: pattern 'blocking:heartbeat' {ONCE}")

    def test_heartbeat_with_a_wildcard(self) -> None:
        assert error_of('keys: {heartbeat: "b:{id}:*"}') == (
            "my.yaml: keys.heartbeat: pattern 'b:{id}:*' must not have '*', since the key is made "
            "from the id"
        )

    @pytest.mark.parametrize("name", ["heartbeat", '""'])
    def test_family_names(self, name: str) -> None:
        assert error_of(f'keys: {{owned: {{{name}: "x:{{id}}"}}}}').endswith(
            ": a family needs a name other than 'heartbeat'"
        )

    @pytest.mark.parametrize(
        ("one", "other"), [("x:{id}", "x:{id}:*"), ("x:{id}", "x:{id}"), ("x:*:{id}", "x:y:*{id}*")]
    )
    def test_two_families_that_can_match_the_same_key(self, one: str, other: str) -> None:
        assert error_of(f'keys: {{owned: {{a: "{one}", b: "{other}"}}}}') == (
            f"my.yaml: keys.owned.b: pattern {other!r} can match the same key as keys.owned.a "
            f"({one!r}); make them differ in a literal segment"
        )

    def test_a_family_that_can_match_heartbeats(self) -> None:
        assert error_of('keys: {owned: {a: "blocking:*{id}*"}}') == (
            "my.yaml: keys.owned.a: pattern 'blocking:*{id}*' can match the same key as "
            "keys.heartbeat ('blocking:heartbeat:{id}'); make them differ in a literal segment"
        )


class TestYamlTraps:
    @pytest.mark.parametrize(
        ("written", "read"),
        [
            ("10:00", "600"),
            ("12:30:45", "45045"),
            ("0755", "493"),
            ("0x10", "16"),
            ("0b11", "3"),
            ("1_000", "1000"),
            ("1.", "1.0"),
            (".5", "0.5"),
            (".inf", "inf"),
            (".nan", "nan"),
            ("no", "false"),
            ("on", "true"),
            ("Yes", "true"),
            ("TRUE", "true"),
            ("2025-01-01", "a date"),
        ],
    )
    def test_values_that_are_not_what_they_look_like(self, written: str, read: str) -> None:
        assert error_at(f"# a comment\nstale_after: {written}\n") == (
            f"my.yaml:2:14: YAML reads {written} as {read}{PLAIN}"
        )

    def test_they_are_found_in_names_too(self) -> None:
        assert error_at('keys:\n  owned:\n    no: "x:{id}"\n') == (
            f"my.yaml:3:5: YAML reads no as false{PLAIN}"
        )

    @pytest.mark.parametrize("tag", ["int", "bool", "float", "timestamp"])
    def test_a_tag_that_does_not_fit(self, tag: str) -> None:
        assert error_at(f"stale_after: !!{tag} foo") == (
            f"my.yaml:1:14: 'foo' can't be read as {tag}"
        )

    def test_a_number_beyond_all_measure(self) -> None:
        assert error_at("stale_after: " + "9" * 5000) == (
            f"my.yaml:1:14: '{'9' * 40}' can't be read as int"
        )

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("stale_after: 600\norphans: report\nstale_after: 700\n", "3:1: 'stale_after'"),
            ('keys:\n  owned:\n    a: "x:{id}"\n    "a": "y:{id}"\n', "4:5: 'a'"),
            ("redis: {url: a, url: b}", "1:17: 'url'"),
        ],
    )
    def test_duplicate_keys(self, text: str, place: str) -> None:
        assert error_at(text) == f"my.yaml:{place} stands twice; remove one of the two"

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("*{id}*", "my.yaml:2:15: expected alphabetic or numeric character, but found '{'"),
            ("*", "my.yaml:2:15: expected alphabetic or numeric character, but found '\\n'"),
            ("{id}:x", "my.yaml:2:18: expected <block end>, but found '<scalar>'"),
            ("x:{id}: y", "my.yaml:2:20: mapping values are not allowed here"),
        ],
    )
    def test_unquoted_pattern(self, pattern: str, message: str) -> None:
        assert error_at(f"keys:\n  heartbeat: {pattern}\n") == message + QUOTES

    def test_unquoted_braces_that_are_a_mapping(self) -> None:
        assert error_at("keys:\n  heartbeat: {id}\n") == (
            "my.yaml:2:14: keys.heartbeat: Expected `str`, got `object`" + QUOTES + PATTERN
        )
        assert error_at("keys:\n  owned:\n    a: {id}\n") == (
            "my.yaml:3:8: keys.owned.a: Expected `str`, got `object`" + QUOTES + PATTERN
        )

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: b: c", "my.yaml:1:5: mapping values are not allowed here"),
            ("a: [\n", "my.yaml:2:1: expected the node content, but found '<stream end>'"),
            ("\ta: 1\n", "my.yaml:1:1: found character '\\t' that cannot start any token"),
            ("a: 1\n---\nb: 2\n", "my.yaml:2:1: but found another document"),
            ("? [a]\n: 2\n", "my.yaml:1:3: a name must be text"),
            ("a: !!python/name:os.system\n", "my.yaml:1:4: could not determine a constructor for"),
            ("a: *b\n", "my.yaml:1:4: found undefined alias 'b'"),
        ],
    )
    def test_syntax(self, text: str, message: str) -> None:
        assert error_at(text).startswith(message)

    @pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null\n"])
    def test_empty(self, text: str) -> None:
        assert error_at(text) == ("my.yaml: is empty; leave out -c to run with the defaults")

    @pytest.mark.parametrize("text", ["- a\n", "hello\n", "600\n"])
    def test_no_mapping(self, text: str) -> None:
        assert error_at(text) == (
            "my.yaml: must be a mapping of settings, such as 'stale_after: 600'"
        )

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"a: \xff", "is no text in UTF-8 (byte 3)"),
            (b"a: \x00", "has the character 0x0, which is not allowed in YAML"),
            (b"a: " + b"[" * 5000, "is nested too deeply"),
        ],
    )
    def test_no_yaml_at_all(self, content: bytes, message: str) -> None:
        assert error_at(content) == f"my.yaml: {message}"

    def test_missing_file(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load("none.yaml")
        assert str(caught.value) == "none.yaml: cannot be read: No such file or directory"

    def test_a_folder(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(".")
        assert str(caught.value) == ".: cannot be read: Is a directory"

    @given(st.text(st.sampled_from(" \n:{}[]*&!|>-#\"'%@`?,abc01\t~"), max_size=40))
    def test_whatever_is_written_is_a_configuration_or_one_line(self, text: str) -> None:
        Path("my.yaml").write_text(text)
        message = "my.yaml:"
        try:
            load("my.yaml")
        except ConfigError as error:
            message = str(error)
        assert "\n" not in message
        assert message.startswith("my.yaml:")


GOOD_URLS: dict[str, Endpoint] = {
    "redis://h": Endpoint("h"),
    "REDIS://h/": Endpoint("h"),
    "redis://h:1": Endpoint("h", 1),
    "redis://h:65535/15": Endpoint("h", 65535, db=15),
    "redis://h?db=3": Endpoint("h", db=3),
    "redis://h/?db=3": Endpoint("h", db=3),
    "redis://[::1]:7000/2": Endpoint("::1", 7000, db=2),
    "redis://[fe80::1]": Endpoint("fe80::1"),
    "redis://u@h": Endpoint("h", username="u"),
    "redis://u:p@h": Endpoint("h", username="u", password="p"),
    "redis://:p@h": Endpoint("h", password="p"),
    "redis://:@h": Endpoint("h"),
    "redis://u%40v:p%2F%23%3F%3A%25@h": Endpoint("h", username="u@v", password="p/#?:%"),
    "redis://:a:b@c@h": Endpoint("h", password="a:b@c"),
    "unix:///run/redis.sock": Endpoint(unix_path="/run/redis.sock"),
    "unix:///run/redis.sock?db=4": Endpoint(unix_path="/run/redis.sock", db=4),
    "unix:///run/with%20space@x": Endpoint(unix_path="/run/with space@x"),
    "unix://u:p@/run/s": Endpoint(unix_path="/run/s", username="u", password="p"),
    "rediss://h": Endpoint("h"),
    "Rediss://u:p@[::1]/3": Endpoint("::1", db=3, username="u", password="p"),
    "redis://[fe80::1%25eth0]:7000": Endpoint("fe80::1%eth0", 7000),
}

GOOD_SENTINEL_URLS: dict[str, Access] = {
    "redis+sentinel://h/s": Access(Endpoint(), (Endpoint("h", 26379),), "s"),
    "Redis+Sentinel://h/s/": Access(Endpoint(), (Endpoint("h", 26379),), "s"),
    "rediss+sentinel://h:1,i:2,j/s/3": Access(
        Endpoint(db=3), (Endpoint("h", 1), Endpoint("i", 2), Endpoint("j", 26379)), "s"
    ),
    "redis+sentinel://h/s?db=3": Access(Endpoint(db=3), (Endpoint("h", 26379),), "s"),
    "redis+sentinel://u:p,%2C@h,i/s%20t": Access(
        Endpoint(username="u", password="p,,"),
        (Endpoint("h", 26379), Endpoint("i", 26379)),
        "s t",
    ),
    "redis+sentinel://:p@h,[::1],[::2]:7/s": Access(
        Endpoint(password="p"),
        (Endpoint("h", 26379), Endpoint("::1", 26379), Endpoint("::2", 7)),
        "s",
    ),
}

START = "it must start with redis:// or rediss:// (TLS), unix:// or redis+sentinel:// or "

BAD_URLS = {
    "": START,
    "h:6379": START,
    "redis:/h": START,
    "http://h": START,
    "tls://h": START,
    "rediss+unix://h": START,
    "sentinel://h/s": START,
    "rediss://": "it names no host",
    "redis://a:1,b:2": "its port is no number from 1 to 65535",
    "redis://a,b": "its host is no name and no address; a list of Sentinels is written ",
    "redis+sentinel://": "it names no host",
    "redis+sentinel:///s": "it names no host",
    "redis+sentinel://h": "it names no service; write it as /service after the hosts",
    "redis+sentinel://h/?db=1": "it names no service; write it as /service after the hosts",
    "redis+sentinel://h,/s": "it names no host",
    "redis+sentinel://h:x,i/s": "its port is no number from 1 to 65535",
    "redis+sentinel://h,i:0/s": "its port is no number from 1 to 65535",
    "redis+sentinel://h,[::1/s": "the brackets of its IPv6 address do not fit",
    "redis+sentinel://[::1,h/s": "the brackets of its IPv6 address do not fit",
    "redis+sentinel://h/s/x": "its database 'x' is no number",
    "redis+sentinel://h/s/1/2": "its database '1/2' is no number",
    "redis+sentinel://h/s/1?db=2": "it names a database twice, as /db and as ?db=N",
    "redis+sentinel://h/s?x=1": "the only option it can have is ?db=N",
    "redis+sentinel://h/s#x": "write / # ? in a user name or password as %2F %23 %3F",
    "redis://": "it names no host",
    "redis:///0": "it names no host",
    "redis://:6379": "it names no host",
    "redis://u:p@": "it names no host",
    "redis://h h": "its host is no name and no address",
    "redis://a..b": "its host is no name and no address",
    "redis://[::1": "the brackets of its IPv6 address do not fit",
    "redis://h:port": "its port is no number from 1 to 65535",
    "redis://h:0": "its port is no number from 1 to 65535",
    "redis://h:65536": "its port is no number from 1 to 65535",
    "redis://h/x": "its database 'x' is no number",
    "redis://h/-1": "its database '-1' is no number",
    "redis://h/²": "its database '²' is no number",
    "redis://h/0/1": "its database '0/1' is no number",
    "redis://h?db=": "its database '' is no number",
    "redis://h/1?db=2": "it names a database twice, as /db and as ?db=N",
    "redis://h?db=1&db=2": "the only option it can have is ?db=N",
    "redis://h?ssl=true": "the only option it can have is ?db=N",
    "redis://h/0#x": "write / # ? in a user name or password as %2F %23 %3F",
    "unix://": "a socket is written unix:///path/to/socket",
    "unix:///": "a socket is written unix:///path/to/socket",
    "unix://run/s": "a socket is written unix:///path/to/socket",
    "unix:///run/s?db=x": "its database 'x' is no number",
}

SCHEMES = ["redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://"]

HUSH = "hush"

URLS_WITH_A_MISPLACED_PASSWORD = [
    f"redis://u:{HUSH}@h:port",
    f"redis://u:{HUSH}@h/x",
    f"redis://u:x/{HUSH}@h",
    f"redis://u:x#{HUSH}@h",
    f"redis://u:x?{HUSH}@h",
    f"redis://u:{HUSH}/x@h",
    f"redis://u:{HUSH}#x@h",
    f"redis://u:{HUSH}?x@h",
    f"redis://u:12/{HUSH}@h",
    f"redis://u:12?{HUSH}@h",
    f"redis://u:12#{HUSH}@h",
    f"redis://u/v:{HUSH}@h",
    f"redis://h?password={HUSH}",
    f"redis://h/0?username=u&Password={HUSH}",
    f"redis:/u:{HUSH}@h",
    f"redis:u:{HUSH}@h",
    f"u:{HUSH}@h",
    f"u:x://{HUSH}@h",
    f"http://u:{HUSH}@h",
    f"redisx://:{HUSH}@h",
    f"rediss://:{HUSH}@h:port",
    f"redis+sentinel://u:{HUSH}@h:port/s",
    f"redis+sentinel://u:{HUSH}@h",
    f"redis+sentinel://u:{HUSH}/x@h/s",
    f"redis+sentinel://u:x/{HUSH}@h/s",
    f"redis+sentinel://u:x,{HUSH}@h,i:port/s",
    f"redis+sentinel://h/s?password={HUSH}",
    f"unix://u:{HUSH}@h/run/s",
]


class TestUrl:
    @pytest.mark.parametrize(("url", "endpoint"), GOOD_URLS.items(), ids=GOOD_URLS)
    def test_good(self, url: str, endpoint: Endpoint) -> None:
        assert parse_url(url) == Access(endpoint)

    @pytest.mark.parametrize(("url", "access"), GOOD_SENTINEL_URLS.items(), ids=GOOD_SENTINEL_URLS)
    def test_good_with_sentinels(self, url: str, access: Access) -> None:
        assert parse_url(url) == access

    @pytest.mark.parametrize(("url", "message"), BAD_URLS.items(), ids=BAD_URLS)
    def test_bad(self, url: str, message: str) -> None:
        error = error_of(f"redis: {{url: {json.dumps(url)}}}")
        assert error.startswith(f"my.yaml: redis.url: {without_password(url)!r}: {message}")

    @pytest.mark.parametrize("url", URLS_WITH_A_MISPLACED_PASSWORD)
    def test_a_bad_one_does_not_show_its_password(self, url: str) -> None:
        with pytest.raises(ConfigError) as caught:
            validated(Config(redis=Redis(url)))
        assert HUSH not in str(caught.value)
        assert HUSH not in repr(Config(redis=Redis(url)))

    @given(st.text(), st.text(), st.sampled_from([*SCHEMES, "redis:/", "", "a://"]))
    def test_whatever_is_written_is_an_endpoint_or_an_error(
        self, login: str, place: str, scheme: str
    ) -> None:
        with contextlib.suppress(ConfigError):
            parse_url(f"{scheme}{login}{HUSH}{place}")
        with contextlib.suppress(ConfigError):
            parse_url(f"{scheme}{login}:{HUSH}@{place}")


class TestSecrets:
    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=3).filter(str.strip))
    def test_any_password_arrives_and_is_not_shown(self, password: str) -> None:
        secret = f"<{password}>"
        config = load(environ={"REDIS_PASSWORD": secret, "REDIS_URL": "redis://user@h:1/2"})
        endpoint = config.endpoint()
        assert endpoint == Endpoint("h", 1, db=2, username="user", password=secret)
        for shown in (repr(config), effective_yaml(config), repr(endpoint), endpoint.address):
            assert secret not in shown
            assert "%3C" not in shown
        assert "redis://user:***@h:1/2" in effective_yaml(config)

    @pytest.mark.parametrize("written", [HUSH, "%68%75%73%68", f"{HUSH}:x", f"a@{HUSH}"])
    def test_a_password_in_the_file_is_not_shown(self, written: str) -> None:
        Path("my.yaml").write_text(f"redis:\n  url: redis://u:{written}@h:1/2\n")
        config = load("my.yaml")
        assert HUSH in str(config.endpoint().password)
        for shown in (repr(config), effective_yaml(config), repr(config.endpoint())):
            assert written not in shown
            assert HUSH not in shown
        assert yaml.safe_load(effective_yaml(config))["redis"]["url"] == "redis://u:***@h:1/2"

    def test_another_error_of_the_file_does_not_show_it(self) -> None:
        text = f"redis: {{url: 'redis://:{HUSH}@h'}}\nstale_after: -1\n"
        assert HUSH not in error_of(text)
        assert HUSH not in error_of(f"redis: {{url: 'redis://:{HUSH}@h', x: 1}}\n")

    def test_a_url_without_password_is_shown_as_it_is(self) -> None:
        for url in ("redis://h:1/2", "redis://u@h", "unix:///run/a@b?db=3", "redis://[::1]:1/0"):
            assert without_password(url) == url


class TestPrecedence:
    def test_defaults(self) -> None:
        assert load() == Config() == load(environ={}, flags={})

    def test_flag_over_environment_over_file_over_default(self) -> None:
        Path("my.yaml").write_text("stale_after: 1\norphan_grace: 1\nworkers: 1\n")
        config = load(
            "my.yaml",
            environ={"CLEANUP_JOB_ORPHAN_GRACE": "2", "CLEANUP_JOB_WORKERS": "2"},
            flags={"workers": "3", "orphans": None},
        )
        assert (config.engine, config.orphans) == ("processes", "report")
        assert (config.stale_after, config.orphan_grace, config.workers) == (1, 2, 3)

    def test_url_alike(self) -> None:
        Path("my.yaml").write_text("redis: {url: 'redis://file'}\n")
        environ = {"REDIS_URL": "redis://environment"}
        flags = {"url": "redis://flag"}
        assert load("my.yaml").redis.url == "redis://file"
        assert load("my.yaml", environ=environ).redis.url == "redis://environment"
        assert load("my.yaml", environ=environ, flags=flags).redis.url == "redis://flag"

    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("STALE_AFTER", "5", 5),
            ("ORPHANS", "purge", "purge"),
            ("ORPHAN_GRACE", "7", 7),
            ("WORKERS", "auto", "auto"),
            ("WORKERS", "3", 3),
            ("ENGINE", "serial", "serial"),
            ("PER_NODE", "auto", "auto"),
            ("PER_NODE", "3", 3),
            ("MAX_BLOCK_MS", "5", 5),
            ("ALLOW_PARTIAL", "true", True),
            ("ALLOW_PARTIAL", "false", False),
            ("LOCK", "false", False),
            ("EXPECT_ALL_DEAD", "true", True),
            ("MAX_PURGE", "0", 0),
            ("MAX_STALE_FRACTION", "0.95", 0.95),
            ("NICE", "1", 1),
            ("MAX_LATENCY_MS", "2.5", 2.5),
            ("STOP_FILE", "17", "17"),
        ],
    )
    def test_every_setting_by_environment(self, name: str, text: str, value: Any) -> None:
        config = load(environ={f"CLEANUP_JOB_{name}": text, "CLEANUP_JOB_CONFIG": "x", "HOME": "y"})
        assert getattr(config, name.lower()) == value

    def test_a_bad_variable_is_named(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environ={"CLEANUP_JOB_STALE_AFTER": "ten"})
        assert str(caught.value) == (
            "CLEANUP_JOB_STALE_AFTER: stale_after: Expected `int`, got `str`" + SECONDS
        )

    def test_an_unknown_variable_is_an_error(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environ={"CLEANUP_JOB_WORKER": "2"})
        assert str(caught.value) == (
            "CLEANUP_JOB_WORKER: no such setting; did you mean CLEANUP_JOB_WORKERS?"
        )
        with pytest.raises(ConfigError, match=r"CLEANUP_JOB_XYZ: .* \(allowed: CLEANUP_JOB_URL, "):
            load(environ={"CLEANUP_JOB_XYZ": "2"})

    @pytest.mark.parametrize("text", ["-1", "0", "x", "", "9" * 5000, "1.5"])
    def test_a_bad_flag_is_named(self, text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load(flags={"stale_after": text})
        assert str(caught.value).startswith("--stale-after: stale_after: Expected `int`")

    def test_a_bad_file_is_not_excused_by_a_flag(self) -> None:
        Path("my.yaml").write_text("stale_after: -1\n")
        with pytest.raises(ConfigError):
            load("my.yaml", flags={"stale_after": "600"})


class TestRedisVariables:
    @pytest.mark.parametrize(
        ("environ", "endpoint"),
        [
            ({"REDIS_HOST": "h"}, Endpoint("h")),
            ({"REDIS_PORT": "7"}, Endpoint(port=7)),
            ({"REDIS_DB": "3"}, Endpoint(db=3)),
            ({"REDIS_HOST": "h", "REDIS_PORT": "7", "REDIS_DB": "3"}, Endpoint("h", 7, db=3)),
            ({"REDIS_HOST": "::1"}, Endpoint("::1")),
            ({"REDIS_HOST": "", "REDIS_PORT": "", "REDIS_DB": ""}, Endpoint()),
            ({"REDIS_PASSWORD": "p"}, Endpoint(password="p")),
            ({"REDIS_HOST": "h", "REDIS_PASSWORD": "p"}, Endpoint("h", password="p")),
            ({"REDIS_URL": "redis://a", "REDIS_HOST": "b"}, Endpoint("a")),
            ({"REDIS_URL": "redis://:own@a", "REDIS_PASSWORD": "p"}, Endpoint("a", password="own")),
            (
                {"REDIS_URL": "redis://[::1]:7/3", "REDIS_PASSWORD": "p"},
                Endpoint("::1", 7, db=3, password="p"),
            ),
            (
                {"REDIS_URL": "unix:///run/s?db=3", "REDIS_PASSWORD": "p"},
                Endpoint(unix_path="/run/s", db=3, password="p"),
            ),
        ],
    )
    def test_endpoint(self, environ: dict[str, str], endpoint: Endpoint) -> None:
        assert load(environ=environ).endpoint() == endpoint

    @pytest.mark.parametrize("name", ["REDIS_PORT", "REDIS_DB"])
    @pytest.mark.parametrize("text", ["x", "-1", "²", " 1"])
    def test_no_number(self, name: str, text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environ={name: text})
        assert str(caught.value) == f"{name}: {text!r} is no number"

    def test_a_port_out_of_range(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environ={"REDIS_PORT": "70000"})
        assert str(caught.value).startswith(
            "REDIS_HOST, REDIS_PORT, REDIS_DB: redis.url: 'redis://127.0.0.1:70000/0': its port "
        )

    def test_a_bad_url_names_the_variable(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environ={"REDIS_URL": f"http://:{HUSH}@h"})
        assert str(caught.value) == (
            f"REDIS_URL: redis.url: 'http://:***@h': {START}rediss+sentinel://"
        )

    def test_a_password_that_is_no_text(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environ={"REDIS_PASSWORD": "\udcff"})
        assert str(caught.value) == "REDIS_PASSWORD: is no text in UTF-8"


class TestPasswordFile:
    def test_its_only_line_is_the_password(self) -> None:
        Path("my.yaml").write_text("redis: {url: 'redis://u@h', password_file: pw}\n")
        for text in (HUSH, f"{HUSH}\n", f"{HUSH}\r\n"):
            Path("pw").write_bytes(text.encode())
            assert load("my.yaml").endpoint() == Endpoint("h", username="u", password=HUSH)
        Path("pw").write_text(" p w \n")
        assert load("my.yaml").endpoint().password == " p w "

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "cannot be read: No such file or directory"),
            (b"", "must hold the password in one line, and only that"),
            (b"\n", "must hold the password in one line, and only that"),
            (b"# the password\nhush\n", "must hold the password in one line, and only that"),
            (b"hush\xff\n", "is no text in UTF-8"),
        ],
    )
    @pytest.mark.parametrize("name", ["password_file", "sentinel_password_file"])
    def test_bad(self, name: str, content: bytes | None, message: str) -> None:
        if content is not None:
            Path("pw").write_bytes(content)
        error = error_of(f"redis: {{url: 'redis+sentinel://h/s', {name}: pw}}")
        assert error == f"my.yaml: redis.{name}: 'pw' {message}"

    def test_it_counts_last(self) -> None:
        Path("pw").write_text("file")
        Path("my.yaml").write_text("redis: {password_file: pw}\n")
        assert load("my.yaml").endpoint().password == "file"
        environ = {"REDIS_PASSWORD": "env"}
        assert load("my.yaml", environ=environ).endpoint().password == "env"
        environ["REDIS_URL"] = "redis://:url@h"
        assert load("my.yaml", environ=environ).endpoint().password == "url"
        flags = {"url": "redis://:flag@h"}
        assert load("my.yaml", environ=environ, flags=flags).endpoint().password == "flag"

    def test_by_environment(self) -> None:
        Path("pw").write_text("file")
        environ = {"CLEANUP_JOB_PASSWORD_FILE": "pw", "REDIS_HOST": "h"}
        assert load(environ=environ).endpoint() == Endpoint("h", password="file")

    def test_what_it_holds_is_not_shown(self) -> None:
        Path("pw").write_text(HUSH)
        Path("my.yaml").write_text("redis: {password_file: pw}\n")
        config = load("my.yaml")
        assert HUSH not in effective_yaml(config) + repr(config) + repr(config.access())


class TestSentinelSettings:
    URL = "redis+sentinel://u:p@a,b:1/s/2"

    def test_the_sentinels_have_their_own_password(self) -> None:
        config = Config(redis=Redis(self.URL, sentinel_password="q"))
        assert config.access() == Access(
            Endpoint(db=2, username="u", password="p"),
            (Endpoint("a", 26379, password="q"), Endpoint("b", 1, password="q")),
            "s",
        )

    def test_of_a_file_or_the_environment(self) -> None:
        Path("pw").write_text("file\n")
        text = f"redis: {{url: '{self.URL}', sentinel_password_file: pw}}\n"
        Path("my.yaml").write_text(text)
        assert load("my.yaml").access().sentinels[0].password == "file"
        environ = {"CLEANUP_JOB_SENTINEL_PASSWORD": "0123"}
        assert load("my.yaml", environ=environ).access().sentinels[0].password == "0123"

    def test_redis_password_is_for_the_server(self) -> None:
        url = self.URL.replace(":p@", "@")
        access = load(environ={"REDIS_URL": url, "REDIS_PASSWORD": "a,b/@:"}).access()
        assert access.endpoint == Endpoint(db=2, username="u", password="a,b/@:")
        assert [sentinel.host for sentinel in access.sentinels] == ["a", "b"]
        assert access.sentinels[0].password is None

    def test_it_is_not_shown(self) -> None:
        text = f"redis: {{url: '{self.URL}', sentinel_password: {HUSH}}}\n"
        Path("my.yaml").write_text(text)
        config = load("my.yaml")
        for shown in (repr(config), repr(config.access()), str(config.redis.__rich_repr__())):
            assert HUSH not in shown
        stated = yaml.safe_load(effective_yaml(config))["redis"]
        assert stated["sentinel_password"] == "***"
        assert stated["url"] == "redis+sentinel://u:***@a,b:1/s/2"
        assert HUSH not in effective_yaml(config)

    def test_no_text(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environ={"CLEANUP_JOB_SENTINEL_PASSWORD": "\udcff", "REDIS_URL": self.URL})
        assert str(caught.value) == "the settings: redis.sentinel_password: is no text in UTF-8"

    def test_a_login_of_the_url_that_is_no_text(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environ={"REDIS_URL": "redis://:\udcff@h"})
        assert str(caught.value) == (
            "REDIS_URL: redis.url: 'redis://:***@h': its login is no text in UTF-8"
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


class TestTls:
    def test_without_a_section_a_rediss_url_has_the_defaults(self) -> None:
        assert load(environ={"REDIS_URL": "rediss://h"}).endpoint() == Endpoint("h", tls=Tls())

    def test_all_settings_serve_servers_and_sentinels(self, authority: Authority) -> None:
        pair = authority.issue("me")
        Path("my.yaml").write_text(
            "redis:\n  url: rediss+sentinel://a/s\n  tls:\n"
            f"    ca_file: {authority.file}\n    cert_file: {pair.cert}\n"
            f"    key_file: {pair.key}\n    server_name: db.example\n"
        )
        access = load("my.yaml").access()
        expected = Tls(str(authority.file), str(pair.cert), str(pair.key), "db.example")
        assert access.endpoint.tls == access.sentinels[0].tls == expected

    def test_by_environment_and_flag(self, authority: Authority) -> None:
        pair = authority.issue("me")
        environ = {
            "REDIS_URL": "rediss://h",
            "CLEANUP_JOB_CA_FILE": "none.pem",
            "CLEANUP_JOB_CERT_FILE": str(pair.cert),
            "CLEANUP_JOB_KEY_FILE": str(pair.key),
            "CLEANUP_JOB_SERVER_NAME": "1.example",
        }
        with pytest.raises(ConfigError) as caught:
            load(environ=environ)
        assert str(caught.value) == (
            "CLEANUP_JOB_CA_FILE: redis.tls.ca_file: 'none.pem' cannot be read: No such file or "
            "directory"
        )
        del environ["CLEANUP_JOB_CA_FILE"]
        config = load(environ=environ, flags={"ca_file": str(authority.file)})
        expected = Tls(str(authority.file), str(pair.cert), str(pair.key), "1.example")
        assert config.endpoint().tls == expected

    @pytest.mark.parametrize("tls", ["{}", "{server_name: h}"])
    @pytest.mark.parametrize(
        ("url", "remedy"),
        [
            ("redis://u:hush@h", "rediss://"),
            ("unix:///run/s", "rediss://"),
            ("redis+sentinel://h/s", "rediss+sentinel://"),
        ],
    )
    def test_no_silent_downgrade(self, tls: str, url: str, remedy: str) -> None:
        assert error_of(f"redis: {{url: '{url}', tls: {tls}}}") == (
            f"my.yaml: redis.tls: {without_password(url)!r} does not use TLS; write it with "
            f"{remedy}, or leave out the settings of TLS"
        )

    def test_no_silent_downgrade_by_environment(self) -> None:
        Path("my.yaml").write_text("redis: {url: 'rediss://a', tls: {server_name: h}}\n")
        with pytest.raises(ConfigError, match="'redis://b' does not use TLS"):
            load("my.yaml", environ={"REDIS_URL": "redis://b"})

    @pytest.mark.parametrize("redis", ["url: 'rediss://a'", "tls: {server_name: h}"])
    def test_redis_host_says_nothing_of_tls(self, redis: str) -> None:
        Path("my.yaml").write_text(f"redis: {{{redis}}}\n")
        config = load("my.yaml", environ={"REDIS_HOST": "b"})
        assert config.redis.url == "rediss://b:6379/0"
        assert config.endpoint().tls is not None

    @pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file"])
    def test_a_missing_file(self, name: str) -> None:
        assert error_of(f"redis: {{url: 'rediss://h', tls: {{{name}: none.pem}}}}") == (
            f"my.yaml: redis.tls.{name}: 'none.pem' cannot be read: No such file or directory"
        )

    def test_a_folder(self) -> None:
        assert error_of("redis: {url: 'rediss://h', tls: {ca_file: .}}") == (
            "my.yaml: redis.tls.ca_file: '.' cannot be read: Is a directory"
        )

    @pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff\x00"])
    def test_files_that_hold_something_else(self, authority: Authority, content: bytes) -> None:
        Path("odd.pem").write_bytes(content)
        assert error_of("redis: {url: 'rediss://h', tls: {ca_file: odd.pem}}") == (
            "my.yaml: redis.tls.ca_file: 'odd.pem' holds no certificate in PEM form"
        )
        pair = authority.issue("me")
        for cert, key in (("odd.pem", pair.key), (pair.cert, "odd.pem")):
            text = f"redis: {{url: 'rediss://h', tls: {{cert_file: {cert}, key_file: {key}}}}}"
            assert error_of(text) == (
                f"my.yaml: redis.tls.cert_file, key_file: '{cert}' and '{key}' hold no "
                "certificate with its key in PEM form"
            )

    def test_the_key_of_another(self, authority: Authority) -> None:
        cert, key = authority.issue("me").cert, authority.issue("me").key
        text = f"redis: {{url: 'rediss://h', tls: {{cert_file: {cert}, key_file: {key}}}}}"
        assert error_of(text).endswith("hold no certificate with its key in PEM form")

    def test_a_certificate_without_its_key(self, authority: Authority) -> None:
        cert = authority.issue("me").cert
        error = error_of(f"redis: {{url: 'rediss://h', tls: {{cert_file: {cert}}}}}")
        assert error.endswith("and 'the same file' hold no certificate with its key in PEM form")

    def test_a_certificate_and_its_key_in_one_file(self, authority: Authority) -> None:
        pair = authority.issue("me")
        Path("both.pem").write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
        config = Config(redis=Redis("rediss://h", tls=TlsSettings(cert_file="both.pem")))
        assert validated(config) is config

    def test_a_key_without_its_certificate(self, authority: Authority) -> None:
        key = authority.issue("me").key
        assert error_of(f"redis: {{url: 'rediss://h', tls: {{key_file: {key}}}}}") == (
            "my.yaml: redis.tls.key_file: needs a cert_file beside it"
        )

    def test_an_encrypted_key_is_not_asked_for_at_the_terminal(self, authority: Authority) -> None:
        pair = authority.issue("me", passphrase=b"open")
        text = f"{{cert_file: {pair.cert}, key_file: {pair.key}}}"
        assert error_of(f"redis: {{url: 'rediss://h', tls: {text}}}") == (
            "my.yaml: redis.tls.key_file: the key is encrypted; give one without a passphrase"
        )

    @pytest.mark.parametrize("name", ["", ".a", "a b", "a:1", "a/b", "https://a"])
    def test_no_name(self, name: str) -> None:
        text = f"redis: {{url: 'rediss://h', tls: {{server_name: {json.dumps(name)}}}}}"
        assert error_of(text) == f"my.yaml: redis.tls.server_name: {name!r} is no host name"


class TestAddressMap:
    def test_good(self) -> None:
        pairs = {
            "10.0.0.1:6379": "127.0.0.1:7000",
            "[2001:db8::1]:6379": "[::1]:7001",
            "node-3.internal:6379": "localhost:7002",
        }
        access = Config(redis=Redis("rediss://h", address_map=pairs)).access()
        assert access.announced("10.0.0.1", 6379) == Endpoint("127.0.0.1", 7000, tls=Tls())
        assert access.announced("2001:db8::1", 6379) == Endpoint("::1", 7001, tls=Tls())
        assert access.announced("node-3.internal", 6379).address == "localhost:7002"
        assert access.announced("10.0.0.2", 6379).address == "10.0.0.2:6379"

    @pytest.mark.parametrize(
        "text",
        [
            "a",
            "a:",
            ":1",
            "a:x",
            "a:0",
            "a:65536",
            "::1:7000",
            "[::1]",
            "[x]:1",
            "a b:1",
            "redis://a:1",
            "u@a:1",
            "",
        ],
    )
    def test_bad(self, text: str) -> None:
        for pair in ({text: "a:1"}, {"a:1": text}):
            assert error_of(f"redis: {{address_map: {json.dumps(pair)}}}") == (
                f"my.yaml: redis.address_map: {text!r} is no address; write host:port, or "
                "[address]:port for IPv6"
            )


class TestShippedFiles:
    def test_the_schema_is_the_commands_output(self) -> None:
        assert (CONFIGS / "cleanup-job.schema.json").read_bytes() == json_schema()

    def test_the_schema_is_one(self) -> None:
        jsonschema.Draft202012Validator.check_schema(json.loads(json_schema()))

    def test_blocking_states_the_defaults(self) -> None:
        assert load(str(CONFIGS / "blocking.yaml")) == Config()
        stated = yaml.safe_load((CONFIGS / "blocking.yaml").read_text())
        assert stated == yaml.safe_load(effective_yaml(Config()))

    @pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
    def test_each_is_good_and_names_its_schema(self, path: Path) -> None:
        check_file(str(path), None, {})
        text = path.read_text()
        jsonschema.validate(yaml.safe_load(text), json.loads(json_schema()))
        modeline, _, schema = text.splitlines()[0].partition("$schema=")
        assert modeline == "# yaml-language-server: "
        assert (path.parent / schema).is_file()

    def test_incident_purges_orphans_with_more_patience_and_workers(self) -> None:
        config = load(str(CONFIGS / "incident.yaml"))
        assert config.orphans == "purge"
        assert config.orphan_grace > Config().orphan_grace
        assert config.stale_after > Config().stale_after
        assert config.workers == 4

    def test_cluster_speaks_tls_and_spares_its_nodes(self) -> None:
        config = load(str(CONFIGS / "cluster.yaml"))
        assert config.endpoint().tls is not None
        assert config.endpoint().db == 0
        assert isinstance(config.per_node, int)
        assert not config.allow_partial

    def test_what_cluster_has_commented_out_is_good_too(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        pair = authority.issue("me")
        Path("password").write_text(HUSH)
        text = re.sub(
            r"^( +)# (\w+(_file|_map):|  \")",
            r"\1\2",
            (CONFIGS / "cluster.yaml").read_text(),
            flags=re.M,
        )
        for path, own in (
            ("/run/secrets/redis-password", "password"),
            ("/etc/ssl/redis/ca.pem", str(authority.file)),
            ("/etc/ssl/redis/sweeper.pem", str(pair.cert)),
            ("/etc/ssl/redis/sweeper.key", str(pair.key)),
        ):
            assert text.count(path) == 1
            text = text.replace(path, own)
        Path("my.yaml").write_text(text)
        access = load("my.yaml").access()
        assert access.endpoint.password == HUSH
        assert access.endpoint.tls is not None
        assert access.endpoint.tls.key_file == str(pair.key)
        assert len(access.address_map) == 3

    def test_the_effective_configuration_is_itself_one(self) -> None:
        Path("my.yaml").write_text(effective_yaml(Config(stale_after=5)))
        assert load("my.yaml") == Config(stale_after=5)
