"""A headless Chromium for tests: the one of this machine, driven by playwright; `make browser` gets one where it can."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "google-chrome-stable")
_INSTALL_TIMEOUT_S = 240.0


def missing_browser() -> str | None:
    """Return why no browser can be started here, None where one can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed: pip install -c constraints.txt -e '.[dev]'"
    return None if find_browser() else "there is no Chromium here: make browser"


@cache
def find_browser() -> str | None:
    """Return the path of a Chromium: one on the path, or the one that playwright has downloaded."""
    on_path = next((path for path in map(shutil.which, _NAMES) if path), None)
    if on_path is not None:
        return on_path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        path = driver.chromium.executable_path
    return path if Path(path).exists() else None


@contextmanager
def open_browser() -> Iterator[Any]:
    """Give a browser of playwright's, closed at the end. Raises ImportError where there is none."""
    reason = missing_browser()
    if reason is not None:
        raise ImportError(reason)
    from playwright.sync_api import sync_playwright

    path = find_browser()
    with sync_playwright() as driver:
        # The sandbox needs rights that containers do not give; these pages are our own.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


def install_browser() -> str | None:
    """Get a Chromium, by Debian's packages as root, else by playwright's own download; return why there is none."""
    if missing_browser() is None:
        return None
    attempts = []
    if os.geteuid() == 0 and shutil.which("apt-get"):
        attempts.append(["apt-get", "update", "--quiet"])
        # The headless one alone is smaller; not every release has it.
        for package in ("chromium-headless-shell", "chromium"):
            attempts.append(["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", package])
    attempts.append([sys.executable, "-m", "playwright", "install", "--no-shell", "chromium"])
    for command in attempts:
        print("+", *command, flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            subprocess.run(command, timeout=_INSTALL_TIMEOUT_S, env=environment, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            print(f"given up after {_INSTALL_TIMEOUT_S:g} s", flush=True)
        find_browser.cache_clear()
        if missing_browser() is None:
            return None
    return "No Chromium could be had here: install one yourself; until then the report's test in a browser is skipped."


if __name__ == "__main__":
    problem = install_browser()
    print(problem or f"Chromium: {find_browser()}")
    sys.exit(problem is not None)
