"""Screenshots of the page, to be looked at.

python -m tests.browser.shots FOLDER [CASE or REPORT.json ...]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from cleanup_job.page import to_html
from cleanup_job.report import Report, from_json
from tests.browser.cases import CASES
from tests.browser.chromium import chromium

WAYS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1100, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1100, "height": 900}},
    "phone": {
        "color_scheme": "light",
        "viewport": {"width": 360, "height": 740},
        "device_scale_factor": 2,
    },
    "phone-dark": {
        "color_scheme": "dark",
        "viewport": {"width": 360, "height": 740},
        "device_scale_factor": 2,
    },
}

TALLEST = 8_000
"""Pixels of the page; Chromium's limit is twice that, on a phone's screen."""


def shoot(browser: Browser, case: str, page_file: Path, folder: Path) -> None:
    """The page as a screen and as paper show it."""
    for way, settings in WAYS.items():
        with browser.new_context(**settings) as context:
            page = context.new_page()
            began = time.perf_counter()
            page.goto(page_file.as_uri())
            opened_s = time.perf_counter() - began
            size = page_file.stat().st_size
            sys.stdout.write(f"{case} {way}: {size:,} bytes, opened in {opened_s:.2f} s\n")
            take(page, folder / f"{case}-{way}.png")
            if way == "dark":
                page.pdf(path=folder / f"{case}.pdf", format="A4")
                page.emulate_media(media="print")
                page.set_viewport_size({"width": 690, "height": 1000})  # A4 between its margins
                take(page, folder / f"{case}-print.png")


def take(page: Page, path: Path) -> None:
    """The whole page, or as much of it as makes a picture that can be looked at."""
    width = page.viewport_size["width"]
    height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
    clip = {"x": 0, "y": 0, "width": width, "height": height}
    page.screenshot(path=path, full_page=True, clip=clip)


def report_of(case: str) -> Report:
    """One that is made up here, or one that a run has written."""
    if case in CASES:
        return CASES[case]()
    return from_json(Path(case).read_bytes(), case)


def main(folder: Path, cases: list[str]) -> None:
    """Every case in every way."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for case in cases:
            page_file = folder / f"{Path(case).stem}.html"
            page_file.write_bytes(to_html(report_of(case)))
            shoot(browser, page_file.stem, page_file, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or [*CASES])
