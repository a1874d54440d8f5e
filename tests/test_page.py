"""The page: what others have named stays text, its size has a limit, and it says what happened."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cleanup_job import charts, figures
from cleanup_job.markup import MOST_CHARACTERS, Html, element, text
from cleanup_job.model import Problem
from cleanup_job.page import POLICY, to_html
from cleanup_job.report import (
    AgeBand,
    Coordinators,
    Example,
    FamilyKeys,
    Keys,
    Moment,
    NodeUse,
    PlanUse,
    Report,
    Stop,
    to_json,
)
from tests.browser.cases import CASES, HOSTILE, dry_run, failover, hostile, million, report, seed

REPO = Path(__file__).parent.parent

ANY_TEXT = st.text(st.characters(), max_size=40) | st.sampled_from(HOSTILE)


class Structure(HTMLParser):
    """Tags with their attributes in order, and what is between them."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[object] = []
        self.words: list[str] = []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(tag)

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", data))

    def handle_decl(self, decl: str) -> None:
        self.tags.append(("declaration", decl))

    def handle_pi(self, data: str) -> None:
        self.tags.append(("instruction", data))

    def unknown_decl(self, data: str) -> None:
        self.tags.append(("unknown", data))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def words_of(shown: Report) -> str:
    return Structure(to_html(shown)).text


def renamed(value: Any, rename: Callable[[], str]) -> Any:
    """The same with another text in place of each, keys of dictionaries too."""
    if isinstance(value, str):
        return rename()
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return type(value)(**{name: renamed(field, rename) for name, field in fields.items()})
    if isinstance(value, dict):
        # They must stay different from each other.
        return {f"{n} {rename()}": renamed(v, rename) for n, v in enumerate(value.values())}
    if isinstance(value, list | tuple):
        return type(value)(renamed(item, rename) for item in value)
    return value


class TestText:
    @settings(max_examples=25)
    @given(st.lists(ANY_TEXT, min_size=1, max_size=30), st.sampled_from([failover, dry_run]))
    @example([*HOSTILE], failover)
    def test_whatever_a_report_says_no_tag_is_written_that_is_not_ours(
        self, texts: list[str], case: Callable[[], Report]
    ) -> None:
        again = iter(range(10**9))
        odd = renamed(case(), lambda: texts[next(again) % len(texts)])
        plain = renamed(case(), lambda: "x")
        assert Structure(to_html(odd)).tags == Structure(to_html(plain)).tags

    def test_hostile_ids_are_there_to_be_read(self) -> None:
        page = words_of(hostile())
        for name in HOSTILE:
            if name.isprintable() and len(name) <= MOST_CHARACTERS:
                assert name in page
        assert r"\x00\x07\x1b[31mred\x1b[0m\r\n\t\x7f\x85\u2028" in page
        assert r"\u202egnp.exe\u2066\u200f\u2069" in page
        assert r"\ud800 half a pair" in page
        assert "z… (10,000 characters)" in page

    @given(ANY_TEXT)
    def test_text_comes_back_as_it_was_or_escaped(self, value: str) -> None:
        shown = unescape(text(value))
        assert shown.isprintable()
        assert not set("<>\"'") & set(text(value))
        if value.isprintable() and len(value) <= MOST_CHARACTERS:
            assert shown == value

    @given(ANY_TEXT)
    def test_an_attribute_holds_what_it_is_given(self, value: str) -> None:
        ((tag, attributes), _) = Structure(element("p", "", title=value).encode()).tags
        assert (tag, attributes) == ("p", [("title", unescape(text(value)))])

    def test_what_was_put_together_as_a_string_is_text_again(self) -> None:
        bold = element("b", "x")
        assert element("p", bold) == "<p><b>x</b></p>"
        assert element("p", f"{bold}") == "<p>&lt;b&gt;x&lt;/b&gt;</p>"
        assert isinstance(bold, Html)


class TestSelfContained:
    @pytest.mark.parametrize("name", [*CASES])
    def test_nothing_is_loaded_and_its_size_has_a_limit(self, name: str) -> None:
        page = to_html(CASES[name]())
        assert len(page) < 500_000
        tags = [tag for tag in Structure(page).tags if isinstance(tag, tuple)]
        used = {tag for tag, _ in tags}
        assert not used & {
            "script",
            "link",
            "img",
            "iframe",
            "object",
            "embed",
            "a",
            "form",
            "base",
        }
        attributes = {name for _, given in tags if isinstance(given, list) for name, _ in given}
        assert not {one for one in attributes if one.startswith("on")} | (
            attributes & {"src", "href", "style"}
        )

    def test_its_policy_forbids_the_rest(self) -> None:
        page = to_html(seed())
        assert POLICY.startswith("default-src 'none'; style-src 'unsafe-inline'")
        assert ("meta", [("http-equiv", "Content-Security-Policy"), ("content", POLICY)]) in (
            Structure(page).tags
        )
        style = page.partition(b"<style>")[2].partition(b"</style>")[0]
        assert b"@import" not in style
        assert style.count(b"url(") == style.count(b"url(#")

    def test_what_is_too_much_is_counted(self) -> None:
        page = words_of(million())
        assert page.count("and 1950 more") == 7  # six verdicts, and losses
        assert "and 150 more" in page
        assert "1,440 partitions, 23 in each row" in page
        assert "26 others" in page

    def test_as_many_of_everything_as_a_file_can_hold(self) -> None:
        many = range(4_000)
        large = report(
            status="partial",
            keys=Keys(matched=1, by_family={f"f{n}": FamilyKeys(matched=n) for n in many}),
            ages=[AgeBand(n, n + 1, 5) for n in many],
            timeline=[Moment(n, 1, "purge" if n % 2 else "survey", 9, 1, 1, 2, 3) for n in many],
            stops=[Stop("x", n, 0.5) for n in many],
            samples=[Example("x" * 10_000, f"v{n}", "y" * 10_000) for n in many],
            nodes=[
                NodeUse(f"n{n}", "9", 1, 9, 5, 0.1, 9, 9, [(n, n + 1)] * 20) for n in many[:800]
            ],
            uncovered=[(n * 2, n * 2) for n in many],
            errors=[Problem("c", "m", 1, ("s",) * 1_000) for _ in many],
            config={f"c{n}": {f"d{m}": [1] * 1_000 for m in range(3)} for n in many},
        )
        assert len(to_html(large)) < 2_000_000


class TestWhatHappened:
    @pytest.mark.parametrize(
        ("name", "happened", "next_step"),
        [
            ("seed", "40000 keys of 10000 dead coordinators were deleted. 10 live ones lost "
             "nothing.", "There is nothing left to do."),
            ("failover", "109952 of 120000 planned keys were deleted; the run did not finish all "
             "of its work.", "Run again: the next run finds and finishes what is left."),
            ("refused", "A safety limit refused the run: 8560 keys would be deleted, and none "
             "was.", "The error below says why"),
            ("empty", "No coordinator was found: neither a heartbeat, nor a key that names one.",
             "If that is a surprise, check the address, the database and the pattern of "
             "keys.heartbeat."),
            ("dry_run", "3400 keys of 850 stale coordinators would be deleted. Nothing was "
             "deleted.", "To delete exactly that, execute the plan file."),
            ("stopped", "stopped by its time budget", "Run again"),
        ],
    )  # fmt: skip
    def test_is_said_in_a_sentence_with_what_to_do_next(
        self, name: str, happened: str, next_step: str
    ) -> None:
        page = words_of(CASES[name]())
        assert happened in page
        assert next_step in page

    def test_counts_that_do_not_add_up_are_a_bug_to_report(self) -> None:
        page = words_of(report(status="failed"))
        assert "✕ failed" in page
        assert "Please report this as a bug" in page

    def test_nobody_was_stale(self) -> None:
        live = report(coordinators=Coordinators(checked=7, live=7))
        assert "none of 7 coordinators was stale." in words_of(live)

    def test_one_is_not_many(self) -> None:
        keys = Keys(matched=1, planned=1, deleted=1)
        one = report(keys=keys, coordinators=Coordinators(checked=2, live=1, stale=1, purged=1))
        assert "1 key of 1 dead coordinator was deleted. 1 live one lost" in words_of(one)

    def test_how_to_undo_it_and_how_to_execute_a_plan(self) -> None:
        assert "cleanup-job restore /var/lib/cleanup-job/5f0c2a91.journal" in words_of(failover())
        odd = PlanUse("my plan;rm", "now", 1, 2, 3)
        assert "cleanup-job run --plan 'my plan;rm'" in words_of(report(dry_run=True, plan=odd))

    def test_orphans_that_were_only_reported(self) -> None:
        found = report(coordinators=Coordinators(orphaned=3))
        assert "--orphans purge deletes them" in words_of(found)

    def test_an_old_report_has_fewer_sections(self) -> None:
        page = words_of(report(config={}))
        for heading in ("Over the run", "Configuration", "Samples", "What it cost", "Cluster"):
            assert heading not in page


class TestFigures:
    @pytest.mark.parametrize(
        ("shown", "expected"),
        [
            (figures.count(1_234_567), "1234567"),
            (figures.count(-5), "-5"),
            (figures.seconds(0.0004), "0 ms"),
            (figures.seconds(0.142), "0.14 s"),
            (figures.seconds(45.25), "45.2 s"),
            (figures.seconds(1_871.4), "31 min 11 s"),
            (figures.milliseconds(0.314), "0.31 ms"),
            (figures.milliseconds(0.0042), "0.004 ms"),
            (figures.milliseconds(12_500), "12.5 s"),
            (figures.span(0), "0 s"),
            (figures.span(700.4), "11 min 40 s"),
            (figures.span(86_401), "1 d"),
            (figures.span(90_000), "1 d 1 h"),
            (figures.size(999), "999 B"),
            (figures.size(1_350_000), "1.4 MB"),
            (figures.percent(1, 3), "33.3 %"),
            (figures.percent(1, 100_000), "< 0.1 %"),
            (figures.percent(99_999, 100_000), "> 99.9 %"),
            (figures.percent(0, 0), "0 %"),
            (figures.rate(12_345, 1, "keys"), "12.3 k keys/s"),
            (figures.rate(5, 0, "keys"), "0 keys/s"),
        ],
    )
    def test_have_units_and_can_be_copied(self, shown: Html, expected: str) -> None:
        assert Structure(shown.encode()).text == expected


def rects(drawing: Html, look: str) -> list[dict[str, str]]:
    tags = [tag for tag in Structure(drawing.encode()).tags if isinstance(tag, tuple)]
    return [
        found
        for tag, attributes in tags
        if tag == "rect" and (found := dict(attributes)).get("class") == look
    ]


class TestCharts:
    MOMENTS = (
        Moment(0, 1, "survey", 1_000, 10, 0.2, 1, 10),
        Moment(1, 1, "judge", 0),
        Moment(2, 2, "purge", 500, 10, 0.3, 0.5, 0.7),
    )

    def test_moments_stand_where_and_as_high_as_they_were(self) -> None:
        line = charts.timeline(self.MOMENTS, [Stop("nice", 3, 0.5)], 4)
        drawing = charts.throughput(line)
        (survey,), (purge,) = rects(drawing, "survey"), rects(drawing, "purge")
        assert (survey["x"], survey["width"]) == ("0.00%", "25.00%")
        assert (purge["x"], purge["width"]) == ("50.00%", "50.00%")
        assert float(survey["height"]) == 4 * float(purge["height"])
        (pause,) = rects(drawing, "paused")
        assert (pause["x"], pause["width"]) == ("75.00%", "12.50%")
        said = Structure(drawing.encode()).text
        assert "survey: 1,000 keys, 1 k per second. purge: 500 keys, 250 per second." in said
        assert "The run paused for 0.50 s." in said

    def test_no_command_no_time(self) -> None:
        drawing = charts.latency(charts.timeline(self.MOMENTS, [], 4))
        assert len(rects(drawing, "spread")) == len(rects(drawing, "longest")) == 2
        assert "The longest command took 10.00 ms." in Structure(drawing.encode()).text

    @settings(max_examples=30)
    @given(
        st.lists(
            st.builds(
                Moment, *[st.floats(allow_nan=False, allow_infinity=False)] * 2,
                st.sampled_from(["survey", "purge", "x"]), st.integers(-(2**63), 2**63 - 1),
                st.integers(0, 9), *[st.floats(allow_nan=False, allow_infinity=False)] * 3,
            ),
            min_size=1, max_size=5,
        ),
        st.lists(st.builds(Stop, st.just("x"), st.floats(0, 1e300), st.floats(-1, 1e300))),
        st.floats(-1, 1e308),
    )  # fmt: skip
    def test_odd_numbers_stay_within_the_drawing(
        self, moments: list[Moment], stops: list[Stop], duration_s: float
    ) -> None:
        line = charts.timeline(moments, stops, duration_s)
        for drawing in (charts.throughput(line), charts.latency(line)):
            for look in ("survey", "purge", "other", "paused", "spread", "longest"):
                for rect in rects(drawing, look):
                    x, width = float(rect["x"][:-1]), float(rect["width"][:-1])
                    assert 0 <= x <= x + width <= 100.01
                    assert 0 <= float(rect["y"]) <= float(rect["y"]) + float(rect["height"]) < 150

    def test_each_slot_is_in_the_map_once(self) -> None:
        nodes = [
            NodeUse("a", "9", 0, 0, 0, 0, 0, 0, [(0, 9_000), (-5, 3), (50, 40)]),
            NodeUse("b", "9", 0, 0, 0, 0, 0, 0, [(8_000, 99_999)]),
        ]
        stretches = charts._stretches(nodes, [(16_000, 16_000)])
        assert [(one.owner, one.first, one.slots) for one in stretches] == [
            (1, 0, 8_000), (2, 8_000, 8_000), (None, 16_000, 1), (2, 16_001, 383),
        ]  # fmt: skip
        drawing = charts.slot_map(nodes, [(16_000, 16_000)])
        assert "2 primaries" in Structure(drawing.encode()).text
        assert "1 slots not covered" in Structure(drawing.encode()).text


def render(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "cleanup_job", "render", *words],
        input=stdin, capture_output=True, timeout=60, cwd=REPO, env={**os.environ},
    )  # fmt: skip
    assert b"Traceback" not in done.stderr
    return done


class TestRender:
    def test_a_file_and_a_stream(self, tmp_path: Path) -> None:
        old, page = tmp_path / "report.json", tmp_path / "report.html"
        old.write_bytes(to_json(failover()))
        done = render(str(old), "--html", str(page))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert page.read_bytes() == to_html(failover())
        assert [*tmp_path.iterdir()] in ([old, page], [page, old])
        assert render("-", "--html", "-", stdin=old.read_bytes()).stdout == page.read_bytes()

    def test_what_can_not_be_read_or_written(self, tmp_path: Path) -> None:
        old, link = tmp_path / "report.json", tmp_path / "link.html"
        content = to_json(seed())
        old.write_bytes(content)
        link.symlink_to(old)
        new = str(tmp_path / "new.html")
        for words, message in [
            (["nope.json", "--html", new], b"nope.json: can't be read (No such file or directory)"),
            ([str(tmp_path), "--html", new], b"can't be read (Is a directory)"),
            ([str(old), "--html", str(link)], b"link.html is the report itself; name another file"),
            ([str(old), "--html", str(tmp_path / "no" / "x")], b"can't be written; name a file"),
            (["-", "--html", new], b"stdin"),
        ]:
            done = render(*words)
            assert done.returncode == 2
            assert done.stdout == b""
            assert done.stderr.startswith(b"cleanup-job: ")
            assert done.stderr.count(b"\n") == 1
            assert message in done.stderr
        assert old.read_bytes() == content
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "report.json"]
