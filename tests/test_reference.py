"""docs/reference.md is what the code says."""

from __future__ import annotations

from cleanup_job import manual
from cleanup_job.arguments import make_parser
from cleanup_job.config import SCALARS
from cleanup_job.errors import CleanupJobError
from cleanup_job.report import Report
from tools import reference


def test_the_page_is_what_the_generator_makes() -> None:
    written = reference.PAGE.read_text("utf-8")
    assert written == reference.page(), "run: python -m tools.reference > docs/reference.md"


def test_it_has_every_command_and_every_flag() -> None:
    page = reference.page()
    for name, command in reference.commands_of(make_parser()).items():
        section = page.partition(f"### cleanup-job {name}\n")[2].partition("\n##")[0]
        assert section, name
        for action in command._actions:
            for flag in action.option_strings:
                assert flag in ("-h", "--help") or f"`{flag}" in section, (name, flag)


def test_it_has_every_setting_of_environment_and_flags() -> None:
    places = [place for place, _ in reference.settings()]
    assert len(places) == len({*places})
    assert {".".join(path) for path in SCALARS.values()} <= {*places}
    assert "keys.timestamp.unit" in places


def test_every_exit_code_is_explained() -> None:
    explained = {row[0].strip("`") for row in reference.exit_codes(manual.EXIT_CODES)}
    assert {"0", "1", "2", "3", "4", "75"} <= explained
    for kind in reference._family(CleanupJobError):
        assert str(kind.exit_code) in explained


def test_every_field_of_a_report_is_there() -> None:
    page = reference.page()
    for kind in reference._reachable(Report):
        section = page.partition(f"### {kind.__name__}\n")[2].partition("\n##")[0]
        for field in kind.__struct_fields__:
            assert f"| `{field}` |" in section, (kind, field)


def test_codes_are_found_with_their_messages() -> None:
    codes = reference.codes()
    assert {"max_purge", "all_dead", "unreadable", "orphans_reported", "locked"} <= {*codes}
    [message] = codes["spared"]
    assert message.startswith("coordinators changed after they were judged")
