"""A real browser for tests of pages: Debian's Chromium, steered by Playwright, and axe for accessibility."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from facecrafter.web.guard import Guard

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
# Chromium's own services; without a network they only delay it.
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
SECONDS = 30


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of a process."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'facecrafter[dev]'")
    if not Path(CHROMIUM).is_file():
        pytest.skip("needs Debian's Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages, each a visitor's own. A script's error, or a request to anywhere but the server, fails the test."""
    wrong: list[str] = []
    contexts = []

    def new(width: int = 1280, height: int = 900, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(SECONDS * 1000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"an error of a script: {error}"))
        page.on("request", lambda request: wrong.append(request.url) if not _is_own(request.url) else None)
        return page

    yield new
    for context in contexts:
        context.close()
    assert not wrong, wrong


def _is_own(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:"))


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    """The page of one visitor, 1280 px wide."""
    return new_page()


@pytest.fixture(scope="session")
def check_accessibility() -> Callable[[Page], None]:
    """Runs axe on a page as it is, and fails where it finds something against WCAG 2.2 AA or good practice."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")

    def check(page: Page) -> None:
        found = axe.Axe().run(page).response["violations"]
        assert not found, [(one["id"], one["help"], [node["target"] for node in one["nodes"]]) for one in found]

    return check


@pytest.fixture(scope="session")
def serving() -> Callable[[Guard], Any]:
    """Serves an application while a ``with`` goes on; gives its address."""
    from facecrafter.web.server import serving

    return serving
