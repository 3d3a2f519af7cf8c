"""A real browser for tests of pages: Debian's Chromium, steered by Playwright, and axe for accessibility."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from facecrafter.models.checkpoint import FaceModel
    from facecrafter.pipelines.generate import FaceCrafter
    from facecrafter.web.guard import Guard

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
# Chromium's own services; without a network they only delay it.
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
SECONDS = 30
HERE = Path(__file__).parent
WAITED = ["TimeoutError", "Locator expected", "Page expected"]  # what Playwright says of a wait in vain


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser on a machine under load now and then loses an event. A test that waits in vain is run once more, and
    the summary names it; any other failure counts at once."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=WAITED))


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


class Gate:
    """Lets images be made; a test that closes it holds the worker before its first step."""

    def __init__(self, crafter: FaceCrafter) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.open.set()
        render = crafter.render

        def gated(requests: Any, progress: Any = None) -> Any:
            self.reached.set()
            while not self.open.wait(0.02):
                progress(0)  # it may be cancelled here
            return render(requests, progress)

        crafter.render = gated  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def crafter(small_model: FaceModel) -> FaceCrafter:
    """The small random model."""
    from facecrafter.pipelines.generate import FaceCrafter

    return FaceCrafter(small_model, "small")


@pytest.fixture(scope="module")
def gate(crafter: FaceCrafter) -> Gate:
    return Gate(crafter)


@pytest.fixture(scope="module")
def url(crafter: FaceCrafter, gate: Gate, serving: Callable[[Guard], Any]) -> Iterator[str]:
    """A studio of the small random model, which keeps nothing."""
    from facecrafter.studio.app import studio_app
    from facecrafter.studio.studio import Options, Studio
    from facecrafter.web.binding import Binding
    from facecrafter.web.server import guarded

    studio = Studio(crafter, Options(waiting=4, model={"model": "small"}))
    with serving(guarded(studio_app(studio), Binding(), rate=None)) as address:
        yield address


@pytest.fixture
def opened(new_page: Callable[..., Page], url: str) -> Callable[..., Page]:
    """Opens the studio."""
    from playwright.sync_api import expect

    def open_page(**options: Any) -> Page:
        page = new_page(**options)
        page.goto(url)
        expect(page.locator("#pose-yaw")).to_be_visible()
        return page

    return open_page


def add_photo(page: Page, portrait: Path, auto: bool = False, consent: bool = True) -> None:
    """Put a photo in, and say that the person agreed."""
    from playwright.sync_api import expect

    expect(page.locator("#pose-yaw")).to_be_visible()  # the page is ready: it has asked for its controls
    page.locator("#auto").set_checked(auto)
    page.locator("#variants-count").select_option("1")
    page.locator("#person-file").set_input_files(portrait)
    expect(page.locator("#people li")).to_have_count(1)
    if consent:
        page.locator("#consent").check()
        expect(page.locator("#make")).to_be_enabled()
