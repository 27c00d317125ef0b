"""A browser for the run, and a way to look at pages that lets nothing bad pass.

Chromium comes from the system (``apt-get install chromium``); ``.ci/run`` installs it and sets ``BROWSER=required``.
Without it, and without that, these tests are skipped and say so.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.looking import Looker

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    if CHROMIUM is None:
        if os.environ.get("BROWSER") == "required":
            pytest.fail("there is no chromium on this machine, and BROWSER=required")
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    # Playwright's loop runs in this thread; Django would take it for code that awaits.
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    try:
        with sync_playwright() as driver:
            # Inside a container there is often no other sandbox to be had, and nothing is opened but our own pages.
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            yield browser
            browser.close()
    finally:
        if before is None:
            del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def look(chromium: Browser) -> Iterator[Looker]:
    """Somebody who looks at pages; screenshots go to the folder ``SCREENSHOTS``, if it is named."""
    named = os.environ.get("SCREENSHOTS")
    looker = Looker(chromium, Path(named) if named else None)
    yield looker
    looker.close()
