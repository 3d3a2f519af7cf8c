"""Records docs/studio.gif, the studio in use with scikit-image's astronaut. `make studio-picture` runs it."""

from __future__ import annotations

import io
import re
import sys
import tempfile
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from skimage.data import astronaut

from facecrafter.pipelines.generate import FaceCrafter
from facecrafter.studio.app import studio_app
from facecrafter.studio.studio import Studio
from facecrafter.web.binding import Binding
from facecrafter.web.server import Server, guarded

CHROMIUM = "/usr/bin/chromium"
SIZE, SHOWN = (1440, 900), (1008, 630)
SHORT, LONG = 450, 1600  # milliseconds that a frame is shown
COLOURS = 224


class Film:
    """Frames of a page, and how long each is shown."""

    def __init__(self, page: Page) -> None:
        self.page, self.frames, self.times = page, list[Image.Image](), list[int]()

    def take(self, milliseconds: int) -> None:
        """Take a frame."""
        shot = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        self.frames.append(shot.resize(SHOWN, Image.Resampling.LANCZOS))
        self.times.append(milliseconds)

    def save(self, path: Path) -> None:
        """Write the frames with one palette, so that what does not move costs nothing."""
        every = Image.new("RGB", (SHOWN[0], SHOWN[1] * len(self.frames)))
        for number, frame in enumerate(self.frames):
            every.paste(frame, (0, number * SHOWN[1]))
        palette = every.quantize(COLOURS, dither=Image.Dither.NONE)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=self.times, loop=0, optimize=True)


def act(page: Page, film: Film, photo: Path) -> None:
    """Put a photo in, turn the head, choose an emotion, open the mouth."""
    made, preview = page.locator("#status"), page.locator("#result-kind")
    page.locator("#seed").fill("3")
    page.locator("#seed").press("Tab")
    film.take(LONG)
    page.locator("#person-file").set_input_files(photo)
    expect(page.locator("#people img")).to_be_visible()
    page.locator("#consent").check()
    expect(made).to_have_text(re.compile("Made in"))
    film.take(LONG)
    ball = page.locator("#ball").bounding_box()
    assert ball is not None
    x, y = ball["x"] + ball["width"] / 2, ball["y"] + ball["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in (15, 30, 45):
        page.mouse.move(x + step, y)
        film.take(SHORT)
    page.mouse.up()
    expect(preview).to_have_text("preview")
    film.take(SHORT)
    expect(made).to_have_text(re.compile("Made in"))
    film.take(LONG)
    for name in ("sad", "happy"):
        page.get_by_role("button", name=name, exact=True).click()
        expect(preview).to_have_text("preview")
        film.take(SHORT)
        expect(made).to_have_text(re.compile("Made in"))
        film.take(LONG)


def main(out: Path) -> None:
    """Record it into a file."""
    expect.set_options(timeout=120_000)
    studio = Studio(FaceCrafter.from_pretrained("mini", device="cpu"))
    app, ready = guarded(studio_app(studio), Binding()), threading.Event()
    with app.binding.listen() as listening, tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(app, ready.set)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        ready.wait()
        photo = Path(folder) / "astronaut.png"
        Image.fromarray(astronaut()).save(photo)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        page.goto(app.binding.url(listening.getsockname()[1]))
        expect(page.locator("#examples img").first).to_be_visible()
        film = Film(page)
        act(page, film, photo)
        film.save(out)
        browser.close()
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
