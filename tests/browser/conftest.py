"""A real browser on real pages. `make test-browser` runs these tests; Debian's package `chromium` has the browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.support.api_server import Service, served
from tests.support.browser import PATIENCE, OpenPage

INSTALL = "Install it: apt-get update && apt-get install -y --no-install-recommends chromium"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, f"There is no Chromium. {INSTALL}"
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        # Without its own sandbox, as root needs it: it only ever sees the service's own pages.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages. The test fails if one complains on its console."""
    opener = OpenPage(browser)
    yield opener
    for context in opener.contexts:
        context.close()
    assert not opener.complaints


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An API behind a real socket; the test plays its worker."""
    home: Path = tmp_path_factory.mktemp("pages")
    with served(home) as found:
        yield found
