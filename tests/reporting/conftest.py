"""One chromium for all tests of pages that a process runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import Browser, find_chromium


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser of this test process."""
    with Browser(find_chromium()) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser; what a test opened is closed behind it."""
    yield chromium
    chromium.close_pages()
