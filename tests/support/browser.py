"""Chromium for tests of pages: where it is, and how it is started so that it asks nothing of the internet."""

from __future__ import annotations

import os
import shutil

import pytest

BROWSER_ENV = "BUSLAB_BROWSER"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def find_browser() -> str:
    """Return the path of a Chromium; without one skip the test, or fail it where one is required."""
    path = os.environ.get(BROWSER_ENV) or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = f"no Chromium here: install one, or name it in {BROWSER_ENV}"
        if os.environ.get("BUSLAB_REQUIRE_BROWSER") == "1":
            pytest.fail(f"BUSLAB_REQUIRE_BROWSER=1, but {reason}", pytrace=False)
        pytest.skip(reason)
    return path
