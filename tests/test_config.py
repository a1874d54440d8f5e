"""Configuration: every bad input has its place and what is allowed; no secret is shown."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cleanup_job.config import (
    Config,
    Redis,
    effective_yaml,
    json_schema,
    load,
    parse_url,
    validated,
    without_password,
)
from cleanup_job.errors import ConfigError
from cleanup_job.model import Endpoint

CONFIGS = Path(__file__).parent.parent / "configs"

SECONDS = " (allowed: a whole number of seconds, at least 1)"
PATTERN = " (allowed: a pattern with {id})"
ONCE = 'needs {id} exactly once, as a whole segment between colons (or as "*{id}*"'
PLAIN = "; write it in quotes if it is text, else as a plain number, true or false"
QUOTES = "; a pattern with { or * in it needs quotes"
TOP = f"(allowed: {', '.join(Config.__struct_fields__)})"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that messages name `my.yaml`, and no more of a path than was given."""
    monkeypatch.chdir(tmp_path)


def error_of(text: str | bytes) -> str:
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
                f"stale_afer: no such setting; did you mean stale_after? {TOP}",
            ),
            ("zzz: 600", f"zzz: no such setting; {TOP}"),
            (
                "redis: {urll: x}",
                "redis.urll: no such setting; did you mean url? (allowed: url)",
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
            ("1: 2", "the file: a name must be text; write it in quotes"),
            (
                'keys: {owned: {1: "x:{id}"}}',
                "keys.owned: a name must be text; write it in quotes",
            ),
        ],
    )
    def test_unknown_field(self, text: str, message: str) -> None:
        assert error_of(text) == f"my.yaml: {message}"

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
            ("engine: dask", "engine: Invalid enum value 'dask' (allowed: serial, processes)"),
            (
                "redis: localhost",
                "redis: Expected `object`, got `str` (allowed: a mapping with url)",
            ),
            (
                "redis: {url: 6379}",
                "redis.url: Expected `str`, got `int` (allowed: "
                "redis://[user[:password]@]host[:port][/db] or unix:///path[?db=N])",
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
        assert error_of(f"# a comment\nstale_after: {written}\n") == (
            f"my.yaml:2:14: YAML reads {written} as {read}{PLAIN}"
        )

    def test_they_are_found_in_names_too(self) -> None:
        assert error_of('keys:\n  owned:\n    no: "x:{id}"\n') == (
            f"my.yaml:3:5: YAML reads no as false{PLAIN}"
        )

    @pytest.mark.parametrize("tag", ["int", "bool", "float", "timestamp"])
    def test_a_tag_that_does_not_fit(self, tag: str) -> None:
        assert error_of(f"stale_after: !!{tag} foo") == (
            f"my.yaml:1:14: 'foo' can't be read as {tag}"
        )

    def test_a_number_beyond_all_measure(self) -> None:
        assert error_of("stale_after: " + "9" * 5000) == (
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
        assert error_of(text) == f"my.yaml:{place} stands twice; remove one of the two"

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
        assert error_of(f"keys:\n  heartbeat: {pattern}\n") == message + QUOTES

    def test_unquoted_braces_that_are_a_mapping(self) -> None:
        assert error_of("keys:\n  heartbeat: {id}\n") == (
            "my.yaml: keys.heartbeat: Expected `str`, got `object`" + QUOTES + PATTERN
        )
        assert error_of("keys:\n  owned:\n    a: {id}\n") == (
            "my.yaml: keys.owned.a: Expected `str`, got `object`" + QUOTES + PATTERN
        )

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: b: c", "my.yaml:1:5: mapping values are not allowed here"),
            ("a: [\n", "my.yaml:2:1: expected the node content, but found '<stream end>'"),
            ("\ta: 1\n", "my.yaml:1:1: found character '\\t' that cannot start any token"),
            ("a: 1\n---\nb: 2\n", "my.yaml:2:1: but found another document"),
            ("? [a]\n: 2\n", "my.yaml:1:3: found unhashable key"),
            ("a: !!python/name:os.system\n", "my.yaml:1:4: could not determine a constructor for"),
            ("a: *b\n", "my.yaml:1:4: found undefined alias 'b'"),
        ],
    )
    def test_syntax(self, text: str, message: str) -> None:
        assert error_of(text).startswith(message)

    @pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null\n"])
    def test_empty(self, text: str) -> None:
        assert error_of(text) == ("my.yaml: is empty; leave out -c to run with the defaults")

    @pytest.mark.parametrize("text", ["- a\n", "hello\n", "600\n"])
    def test_no_mapping(self, text: str) -> None:
        assert error_of(text) == (
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
        assert error_of(content) == f"my.yaml: {message}"

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
}

BAD_URLS = {
    "": "it must start with redis:// or unix://",
    "h:6379": "it must start with redis:// or unix://",
    "redis:/h": "it must start with redis:// or unix://",
    "http://h": "it must start with redis:// or unix://",
    "rediss://h": "it must start with redis:// or unix://",
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
    f"rediss://:{HUSH}@h",
    f"unix://u:{HUSH}@h/run/s",
]


class TestUrl:
    @pytest.mark.parametrize(("url", "endpoint"), GOOD_URLS.items(), ids=GOOD_URLS)
    def test_good(self, url: str, endpoint: Endpoint) -> None:
        assert parse_url(url) == endpoint

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

    @given(st.text(), st.text(), st.sampled_from(["redis://", "unix://", "redis:/", "", "a://"]))
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
            "CLEANUP_JOB_WORKER: no such setting; did you mean CLEANUP_JOB_WORKERS? (allowed: "
            "CLEANUP_JOB_URL, CLEANUP_JOB_STALE_AFTER, CLEANUP_JOB_ORPHANS, "
            "CLEANUP_JOB_ORPHAN_GRACE, CLEANUP_JOB_WORKERS, CLEANUP_JOB_ENGINE)"
        )

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
            "REDIS_URL: redis.url: 'http://:***@h': it must start with redis:// or unix://"
        )

    def test_a_password_that_is_no_text(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environ={"REDIS_PASSWORD": "\udcff"})
        assert str(caught.value) == "REDIS_PASSWORD: is no text in UTF-8"


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
        load(str(path))
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

    def test_the_effective_configuration_is_itself_one(self) -> None:
        Path("my.yaml").write_text(effective_yaml(Config(stale_after=5)))
        assert load("my.yaml") == Config(stale_after=5)
