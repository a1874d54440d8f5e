"""The page in a browser: nothing runs, nothing leaves, all can be read on any screen and paper."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route

from cleanup_job.page import to_html
from tests.browser.cases import CASES, HOSTILE, hostile

PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}


@contextmanager
def opened(browser: Browser, file: Path, **settings: Any) -> Iterator[Page]:
    """A page that must neither ask for anything else, nor say or do anything."""
    heard: list[str] = []
    with browser.new_context(**settings) as context:

        def answer(route: Route) -> None:
            if route.request.url == file.as_uri():
                route.continue_()
            else:
                heard.append(f"request {route.request.url}")
                route.abort()

        context.route("**/*", answer)
        page = context.new_page()
        page.on("console", lambda message: heard.append(f"console {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error {error}"))
        page.on(
            "dialog", lambda dialog: (heard.append(f"dialog {dialog.message}"), dialog.dismiss())
        )
        page.on("popup", lambda popup: heard.append(f"popup {popup.url}"))
        page.goto(file.as_uri())
        yield page
        assert page.url == file.as_uri()
        assert heard == []


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    reports = {name: make() for name, make in CASES.items()}
    reports["few"] = hostile(HOSTILE[::3])  # axe takes its time for each element
    pages = {name: folder / f"{name}.html" for name in reports}
    for name, file in pages.items():
        file.write_bytes(to_html(reports[name]))
    return pages


@pytest.mark.parametrize("name", [*CASES])
def test_on_a_phone_nothing_runs_nothing_leaves_and_nothing_sticks_out(
    browser: Browser, files: dict[str, Path], name: str
) -> None:
    with opened(browser, files[name], viewport=PHONE) as page:
        assert_only_text(page)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]


def test_that_ids_are_text_does_not_hang_on_the_policy(
    browser: Browser, files: dict[str, Path]
) -> None:
    with opened(browser, files["hostile"], bypass_csp=True) as page:
        assert_only_text(page)


def assert_only_text(page: Page) -> None:
    """Nothing but what we have written became elements."""
    assert page.locator("script, iframe, img, link, a, form, [style], [onload]").count() == 0
    assert page.locator("style").count() == page.locator("head > style").count() == 1
    assert page.locator("html > body > main").count() == page.locator("main").count() == 1
    assert "ran" not in page.title().split()


@pytest.mark.parametrize("name", ["failover", "few", "dry_run"])
def test_axe_finds_nothing(browser: Browser, files: dict[str, Path], name: str) -> None:
    with opened(browser, files[name], color_scheme="light", bypass_csp=True) as page:
        in_light = Axe().run(page)
        assert in_light.violations_count == 0, in_light.generate_report()
        grounds = [ground_of(page)]
        # Colours are all that is different in the dark.
        page.emulate_media(color_scheme="dark")
        in_dark = Axe().run(page, options={"runOnly": ["color-contrast"]})
        assert in_dark.violations_count == 0, in_dark.generate_report()
        assert [*grounds, ground_of(page)] == ["rgb(251, 251, 250)", "rgb(19, 23, 27)"]


def ground_of(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_wide_tables_scroll_within_themselves_and_can_be_reached_by_keyboard(
    browser: Browser, files: dict[str, Path]
) -> None:
    with opened(browser, files["failover"], viewport=PHONE) as page:
        wide = "e => e.scrollWidth > e.clientWidth"
        tables = page.locator(".scroll")
        names = [
            table.get_attribute("aria-label") for table in tables.all() if table.evaluate(wide)
        ]
        assert "Keys by family and outcome" in names
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.className, s.outlineStyle, parseFloat(s.outlineWidth)] }"
        )
        assert focused == ["scroll", "solid", 2]


def test_on_paper_it_is_black_on_white_and_no_row_is_cut(
    browser: Browser, files: dict[str, Path]
) -> None:
    with opened(browser, files["failover"], color_scheme="dark") as page:
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 690, "height": 1000})
        style = page.evaluate(
            "() => { const of = (s, p) => getComputedStyle(document.querySelector(s))[p]; return ["
            " of('body', 'color'), of('body', 'backgroundColor'), of('tr', 'breakInside'),"
            " of('figure', 'breakInside'), of('.scroll', 'overflowX')] }"
        )
        assert style == ["rgb(0, 0, 0)", "rgb(255, 255, 255)", "avoid", "avoid", "visible"]
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 690
        assert page.pdf(format="A4").startswith(b"%PDF-")


def test_a_report_of_a_million_is_light(
    browser: Browser, files: dict[str, Path], record_property: pytest.RecordProperty
) -> None:
    size = files["million"].stat().st_size
    assert size < 2_000_000
    began = time.perf_counter()
    with opened(browser, files["million"], viewport=DESK) as page:
        page.screenshot()
    note = f"{size:,} bytes, opened and drawn in {time.perf_counter() - began:.2f} s"
    record_property("million", note)
