"""Fixtures of the tests that drive a real browser against a real server (conftest.py makes them known).

The `open_page` fixture watches every test: an error in the console (a refused policy is one), an exception in
a script, or a request to anywhere but the server fails it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig

__all__ = ["FLAGS", "NEEDS_BROWSER", "OpenPage", "browser", "open_page", "overflow", "trouble", "url"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Tests often run as root in a container, where Chromium's sandbox cannot start; the rest keeps it from
# calling home.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What a module of such tests has as its `pytestmark`.
NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome in PATH"),
]
OpenPage = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    # Plotly is five megabytes, and the machine may be busy.
    sync_api.expect.set_options(timeout=15_000)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the test's own."""
    with BackgroundServer(ServerConfig(tmp_path / "store", port=0)) as server:
        yield server.url


@pytest.fixture
def trouble() -> list[str]:
    """What went wrong in the browser; a test that provokes something clears it."""
    return []


@pytest.fixture
def open_page(browser: Any, url: str, trouble: list[str]) -> Iterator[OpenPage]:
    """Return a function that opens a path of the server in a fresh browser profile."""
    contexts = []

    def open_it(path: str, **options: Any) -> Any:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "timezone_id": "Asia/Tokyo", **options}
        )
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda line: is_trouble(line) and trouble.append(line.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith((url, "data:", "blob:")) or trouble.append(request.url)
        )
        page.goto(url + path)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert trouble == [], trouble


def is_trouble(line: Any) -> bool:
    """Say whether a line of the browser's console is more than its advice on drawing without a graphics card."""
    return line.type in ("error", "warning") and not any(
        words in line.text for words in ("GL Driver Message", "willReadFrequently")
    )


def overflow(page: Any) -> int:
    """Return by how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
