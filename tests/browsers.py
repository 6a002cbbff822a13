"""A headless Chromium for tests: the one of this machine, driven by playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing_browser() -> str | None:
    """Return why no browser can be started here, None where one can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed: pip install -c constraints.txt -e '.[dev]'"
    if not any(map(shutil.which, _NAMES)):
        return "there is no Chromium on the path: apt-get install chromium"
    return None


@contextmanager
def open_browser() -> Iterator[Any]:
    """Give a browser of playwright's, closed at the end. Raises ImportError where there is none."""
    reason = missing_browser()
    if reason is not None:
        raise ImportError(reason)
    from playwright.sync_api import sync_playwright

    path = next(path for path in map(shutil.which, _NAMES) if path)
    with sync_playwright() as driver:
        # The sandbox needs rights that containers do not give; these pages are our own.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()
