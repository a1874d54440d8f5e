"""Several environments in one file, variables in it, and a URL in a file of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cleanup_job.config import Config, Redis, check_file, effective_yaml, load, validated
from cleanup_job.errors import ConfigError

HUSH = "hu" + "sh"

FILE = """\
stale_after: 700
redis: {url: "redis://top", address_map: {"a:1": "b:1"}}
keys: {owned: {one: "one:{id}", two: "two:{id}"}}
profiles:
  staging:
    orphans: purge
    keys: {owned: {three: "three:{id}"}, timestamp: {unit: s}}
  prod:
    stale_after: 900
    redis:
      url: "${PROD_URL}"
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str) -> str:
    Path("my.yaml").write_text(text)
    return "my.yaml"


def error_of(text: str, **how: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(write(text), **how)  # type: ignore[arg-type]
    return str(caught.value)


class TestProfiles:
    def test_a_profile_wins_setting_by_setting(self) -> None:
        config = load(write(FILE), profile="staging")
        assert (config.stale_after, config.orphans) == (700, "purge")
        assert config.keys.timestamp.unit == "s"
        assert config.redis.url == "redis://top"

    def test_families_are_those_of_the_profile_alone(self) -> None:
        assert [*load(write(FILE), profile="staging").keys.owned] == ["three"]

    def test_other_mappings_are_merged(self) -> None:
        config = load(write(FILE), environ={"PROD_URL": "redis://prod"}, profile="prod")
        assert config.redis == Redis("redis://prod", address_map={"a:1": "b:1"})
        assert [*config.keys.owned] == ["one", "two"]

    def test_the_environment_may_choose_and_a_flag_wins(self) -> None:
        environ = {"CLEANUP_JOB_PROFILE": "prod", "PROD_URL": "redis://prod"}
        assert load(write(FILE), environ=environ).stale_after == 900
        assert load(write(FILE), environ=environ, profile="staging").stale_after == 700

    def test_a_variable_that_only_another_one_needs_may_be_missing(self) -> None:
        load(write(FILE), profile="staging")
        assert error_of(FILE, profile="prod") == (
            "my.yaml:11:12: the environment has no PROD_URL, or an empty one; set it, or write "
            "${PROD_URL:-default}"
        )

    @pytest.mark.parametrize(
        ("text", "profile", "message"),
        [
            (
                FILE,
                None,
                "my.yaml: has profiles, so choose one of them with --profile or "
                "CLEANUP_JOB_PROFILE: staging, prod",
            ),
            (
                FILE,
                "stagin",
                "my.yaml: has no profile 'stagin'; did you mean staging? (there are: staging, "
                "prod)",
            ),
            ("nice: 1", "prod", "my.yaml: has no profiles, so leave out --profile prod"),
            ("profiles: {}", None, "my.yaml:1:1: profiles: must be a mapping of names to settings"),
            (
                "profiles: {a: 1}",
                "a",
                "my.yaml:1:12: profiles.a: must be a mapping of settings",
            ),
        ],
    )
    def test_nothing_is_guessed(self, text: str, profile: str | None, message: str) -> None:
        assert error_of(text, profile=profile) == message

    def test_there_must_be_a_file(self) -> None:
        with pytest.raises(ConfigError, match="there is no file with profiles; give -c FILE"):
            load(profile="prod")

    def test_check_sees_all_of_them(self) -> None:
        checked = check_file(write(FILE), None, {"PROD_URL": "redis://prod"})
        assert [*checked] == ["staging", "prod"]
        assert checked["prod"] == load(
            "my.yaml", environ={"PROD_URL": "redis://prod"}, profile="prod"
        )
        text = FILE.replace("stale_after: 900", "stale_after: soon").replace("purge", "purg")
        with pytest.raises(ConfigError) as caught:
            check_file(write(text), None, {"PROD_URL": "redis://prod"})
        assert str(caught.value).splitlines()[0] == "2 things are wrong:"

    def test_what_is_wrong_at_the_top_is_told_once(self) -> None:
        with pytest.raises(ConfigError) as caught:
            check_file(write(FILE.replace("700", "soon")), None, {"PROD_URL": "redis://prod"})
        assert str(caught.value).startswith("my.yaml:1:14: stale_after: ")


class TestVariables:
    def load(self, text: str, **environ: str) -> Config:
        return load(write(text), environ=environ)

    def test_within_a_text(self) -> None:
        config = self.load('redis: {url: "redis://${HOST}:${PORT:-6380}/1"}', HOST="h")
        assert config.redis.url == "redis://h:6380/1"

    @pytest.mark.parametrize("quote", ["", '"'])
    def test_in_place_of_a_number_or_a_word(self, quote: str) -> None:
        text = "\n".join(
            f"{name}: {quote}${{{name}}}{quote}"
            for name in ("stale_after", "workers", "orphans", "lock", "nice", "max_purge")
        )
        config = self.load(
            text, stale_after="5", workers="auto", orphans="purge", lock="false", nice="0.5",
            max_purge="null",
        )  # fmt: skip
        assert (config.stale_after, config.workers, config.orphans) == (5, "auto", "purge")
        assert (config.lock, config.nice, config.max_purge) == (False, 0.5, None)

    def test_a_password_of_digits_stays_text(self) -> None:
        text = 'redis: {url: "redis+sentinel://a/b", sentinel_password: "${P}"}'
        assert self.load(text, P="0123").redis.sentinel_password == "0123"

    def test_its_value_is_never_yaml(self) -> None:
        config = self.load('pause_file: "${F}"', F="a: {b: [*c\n# d")
        assert config.pause_file == "a: {b: [*c\n# d"

    def test_a_value_that_looks_like_one_is_none(self) -> None:
        assert self.load('pause_file: "${F}"', F="${G}").pause_file == "${G}"

    def test_a_dollar_by_itself_and_two(self) -> None:
        assert self.load('pause_file: "$a$$b$${C}"').pause_file == "$a$b${C}"

    def test_a_wrong_value_is_not_shown(self) -> None:
        message = error_of("stale_after: ${S}", environ={"S": HUSH})
        assert message.startswith("my.yaml:1:14: stale_after: Expected `int`")
        assert HUSH not in message

    @pytest.mark.parametrize("environ", [{}, {"A": ""}])
    def test_unset_and_empty_are_errors(self, environ: dict[str, str]) -> None:
        message = error_of('pause_file: "${A}"', environ=environ)
        assert message.startswith("my.yaml:1:13: the environment has no A, or an empty one")

    def test_the_effective_configuration_has_values_and_can_be_read_again(self) -> None:
        config = self.load('pause_file: "${F}"', F="$$ ${X} $")
        assert load(write(effective_yaml(config))) == config


class TestUrlFile:
    def test_holds_the_url_and_its_login(self) -> None:
        Path("url").write_text(f"rediss://me:{HUSH}@db.example:7000/2\n")
        config = load(write("redis: {url_file: url}"))
        endpoint = config.endpoint()
        assert (endpoint.host, endpoint.port, endpoint.db) == ("db.example", 7000, 2)
        assert endpoint.password == HUSH
        assert endpoint.tls is not None
        assert HUSH not in effective_yaml(config) + repr(config)

    def test_a_url_of_the_environment_or_a_flag_wins(self) -> None:
        Path("url").write_text("redis://file")
        write("redis: {url_file: url}")
        assert load("my.yaml", environ={"REDIS_URL": "redis://env"}).endpoint().host == "env"
        assert load("my.yaml", flags={"url": "redis://flag"}).endpoint().host == "flag"

    def test_a_password_of_the_environment_goes_with_it(self) -> None:
        Path("url").write_text("redis://me@file")
        endpoint = load(
            write("redis: {url_file: url}"), environ={"REDIS_PASSWORD": HUSH}
        ).endpoint()
        assert (endpoint.username, endpoint.password) == ("me", HUSH)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (f"http://me:{HUSH}@h", "redis.url_file: 'http://me:***@h': it must start with"),
            ("", "redis.url_file: 'url' must hold the URL in one line, and only that"),
            (f"redis://:{HUSH}@h\nx", "redis.url_file: 'url' must hold the URL in one line"),
        ],
    )
    def test_what_is_none(self, content: str, message: str) -> None:
        Path("url").write_text(content)
        error = error_of("redis: {url_file: url}")
        assert error.startswith(f"my.yaml:1:19: {message}")
        assert HUSH not in error


def test_one_made_by_hand_is_checked_too() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Config(redis=Redis("http://h"), stale_after=5, keys=Config().keys), "mine")
    assert str(caught.value).startswith("mine: redis.url: 'http://h': it must start with")
    with pytest.raises(ConfigError, match="stale_after: Expected `int`, got `str`"):
        validated(Config(stale_after="600"))  # type: ignore[arg-type]


def test_environment_and_file_are_told_together() -> None:
    message = error_of(
        "stale_after: soon",
        environ={"CLEANUP_JOB_WORKERS": "many", "CLEANUP_JOB_NISE": "1", "REDIS_PORT": "x"},
        flags={"engine": "fast"},
    )
    lines = message.splitlines()
    assert lines[0] == "5 things are wrong:"
    starts = ["my.yaml:1:14: stale_after: ", "REDIS_PORT: ", "CLEANUP_JOB_NISE: no such setting"]
    for start in (*starts, "CLEANUP_JOB_WORKERS: workers: ", "--engine: engine: "):
        assert sum(line.strip().startswith(start) for line in lines) == 1, (start, lines)


class TestNoSecretIsShown:
    """Whatever is wrong with it, and wherever it stands."""

    @pytest.mark.parametrize(
        "text",
        [
            f"redis: {{sentinel_password: *{HUSH}}}",
            f"redis: {{sentinel_password: !{HUSH} x}}",
            f"redis: {{redis://u:{HUSH}@h: x}}",
            f'"redis://u:{HUSH}@h": x',
            f"redis:\n  url: redis://u:{HUSH}@h: x",
            f"redis: {{url: [redis://u:{HUSH}@h]}}",
            f"redis: {{url: 'http://u:{HUSH}@h'}}",
        ],
    )
    def test_in_a_file(self, text: str) -> None:
        assert HUSH not in error_of(text)

    @pytest.mark.parametrize("secret", ["0755", "10:00", "2025-01-01"])
    def test_a_password_that_yaml_reads_as_something_else(self, secret: str) -> None:
        message = error_of(f"redis:\n  sentinel_password: {secret}\n")
        assert message.startswith("my.yaml:2:22: YAML reads it as something else; write it in")
        assert secret not in message

    @pytest.mark.parametrize(
        "text",
        [
            "orphans: ${V}",
            "stale_after: ${V}",
            'redis: {url: "${V}"}',
            'redis: {url: "redis://h/${V}"}',
            'redis: {url_file: "${V}"}',
            'redis: {password_file: "${V}"}',
            'redis: {url: "rediss://h", tls: {ca_file: "${V}"}}',
            'redis: {url: "rediss://h", tls: {server_name: "${V} x"}}',
            'redis: {address_map: {"a:1": "${V}"}}',
            'keys: {heartbeat: "${V}"}',
            'keys: {owned: {a: "x:${V}"}}',
            'keys: {timestamp: {fields: ["${V}", "${V}"]}}',
        ],
    )
    @pytest.mark.parametrize("secret", [HUSH, f"it's {HUSH}", f'"{HUSH}"'])
    def test_of_a_variable(self, text: str, secret: str) -> None:
        assert HUSH not in error_of(text, environ={"V": secret})


def test_a_url_that_only_profiles_have_is_not_missed_at_the_top() -> None:
    text = "redis: {tls: {server_name: n}}\nprofiles: {a: {redis: {url: rediss://h}}}"
    assert [*check_file(write(text), None, {})] == ["a"]


def test_a_bad_value_hides_no_other() -> None:
    message = error_of(
        'redis: {url: "http://h", urll: x, address_map: {"a": "b:1"}}\n'
        'keys: {heartbeat: "x", owned: {a: "y", b: 3}}\n'
    )
    assert message.splitlines()[0] == "6 things are wrong:"


def test_a_file_beyond_all_measure_is_refused_at_once() -> None:
    assert error_of("a: [" + "x, " * 400_000 + "]") == (
        "my.yaml: is larger than any configuration (250,000 bytes)"
    )
