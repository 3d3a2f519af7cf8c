"""What the studio's page is like as a whole: its columns, and images that are shown whole."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'facecrafter[dev]'")
from playwright.sync_api import Page, expect

from tests.browser.conftest import add_photo

SECONDS = 60
expect.set_options(timeout=SECONDS * 1000)
Box = dict[str, float]


BOXES = """(elements) => elements.map((element) => element.getBoundingClientRect().toJSON())
  .filter((box) => box.width > 0 && box.height > 0)"""


def boxes_of(page: Page, selector: str) -> list[Box]:
    """The boxes of what is shown, all of one moment: what is still loaded may move what lies below it."""
    return page.locator(selector).evaluate_all(BOXES)


def check_apart(boxes: list[Box]) -> None:
    """Fail where two boxes overlap."""
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            apart_x = one["x"] + one["width"] <= other["x"] + 1 or other["x"] + other["width"] <= one["x"] + 1
            apart_y = one["y"] + one["height"] <= other["y"] + 1 or other["y"] + other["height"] <= one["y"] + 1
            assert apart_x or apart_y, (one, other)


@pytest.mark.parametrize(("width", "columns"), [(390, 1), (800, 2), (1600, 3)])
def test_the_page_has_its_columns_and_nothing_overlaps(opened: Callable[..., Page], width: int, columns: int) -> None:
    page = opened(width=width, height=1000)
    boxes = boxes_of(page, "main .card")
    assert len({round(box["x"]) for box in boxes}) == columns
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    check_apart(boxes)
    shot = Image.open(io.BytesIO(page.screenshot()))
    assert shot.size == (width, 1000)
    # The ball and the pad are drawn: their pixels are not all alike.
    for name in ("ball", "pad"):
        drawn = Image.open(io.BytesIO(page.locator(f"#{name}").screenshot()))
        assert len(drawn.convert("L").getcolors() or ()) > 10


@pytest.mark.parametrize("width", [390, 1600])
def test_a_strip_and_its_loop_are_shown_whole(
    opened: Callable[..., Page], portrait: Path, width: int, check_accessibility: Callable[[Page], None]
) -> None:
    page = opened(width=width, height=1000)
    add_photo(page, portrait)
    page.locator("#sweep-count").fill("3")
    page.locator("#sweep").click()
    expect(page.locator("#status")).to_have_text(re.compile(r"Made in \d"))
    expect(page.locator("#figures figure")).to_have_count(2)
    for image in page.locator("#figures img").all():
        image.evaluate("image => image.decode()")
    page.evaluate("() => window.scrollTo(0, document.body.scrollHeight)")
    check_apart(boxes_of(page, "main .card"))
    (stage,) = boxes_of(page, "#stage")
    for box in (*boxes_of(page, "#figures figure"), boxes_of(page, "#figures img")[1]):
        assert stage["x"] <= box["x"] and box["x"] + box["width"] <= stage["x"] + stage["width"]
    strip = page.locator("#figures .strip")
    strip.focus()  # it is wider than its place, and scrolls
    strip.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('#figures .strip').scrollLeft > 0")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    check_accessibility(page)


@pytest.mark.parametrize("less", [False, True])
def test_a_loop_moves_only_while_its_button_is_pressed(opened: Callable[..., Page], less: bool) -> None:
    page = opened(reduced_motion="reduce" if less else "no-preference")
    one = {"name": "0.png", "kind": "image", "url": "/static/studio/examples/ada.png", "seed": 0}
    loop = {"name": "sweep.gif", "kind": "loop", "url": "/static/studio/examples/ben.png"}
    page.evaluate(SHOW, {"request": {}, "notes": [], "files": [one, loop]})
    image, button = page.locator("#figures img"), page.get_by_role("button", name="Play the loop")
    expect(page.get_by_role("link", name="Download GIF")).to_have_attribute("download", "facecrafter-sweep.gif")
    for _ in range(2):
        expect(button).to_have_attribute("aria-pressed", str(not less).lower())
        expect(image).to_have_attribute("src", one["url"] if less else loop["url"])
        button.click()
        less = not less


SHOW = "async (job) => (await import('/static/studio/js/result.js')).showJob(job)"


def test_what_was_read_is_named_in_words(opened: Callable[..., Page]) -> None:
    page = opened()
    page.locator("#linked").uncheck()
    expect(page.locator("label[for=expression-mouthSmileLeft]")).to_contain_text("Corner of the mouth up, left")
    got = {
        "pose": {"yaw": -0.2, "pitch": -0.6, "roll": 0},
        "expression": {"mouthSmileLeft": 0.25},
        "identity": 0.5,
        "identity_by": "sface",
    }
    file = {"name": "0.png", "kind": "image", "url": "/static/studio/examples/ada.png", "seed": 0, "got": got}
    page.evaluate(SHOW, {"request": {"pose": {}, "expression": {"mouthSmileLeft": 0.5}}, "notes": [], "files": [file]})
    expect(page.locator("#bars .words > span:first-child")).to_have_text(
        ["Yaw", "Pitch", "Roll", "Corner of the mouth up, left", "Likeness to the photo (sface)"]
    )
    expect(page.locator("#bars .number")).to_have_text(
        ["asked 0°, got 0°", "asked 0°, got -1°", "asked 0°, got 0°", "asked 0.50, got 0.25", "0.50"]
    )
