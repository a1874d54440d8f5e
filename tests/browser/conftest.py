"""One browser for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.chromium import CHROMIUM, chromium
from tests.servers import in_ci


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A skip where it is missing, but not in CI."""
    if not CHROMIUM.exists():
        if in_ci():
            pytest.fail(f"{CHROMIUM} is not installed, and CI must test with it")
        pytest.skip(f"{CHROMIUM} is not installed")
    with chromium() as running:
        yield running
