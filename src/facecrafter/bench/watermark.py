"""What the watermark costs and what it survives, measured on generated images, on photos, and on sheets."""

from __future__ import annotations

import io
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.errors import DataError, FaceCrafterError
from facecrafter.pipelines import watermark

PHOTOS = (".jpg", ".jpeg", ".png")
# Real images that come with scikit-image's package.
EXAMPLES = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "moon",
    "page",
    "rocket",
    "text",
)
SHEETS = 5  # of each kind
EMOTIONS = ("happy", "sad", "surprise", "anger", "fear", "neutral")

Pixels = NDArray[np.uint8]
Treatment = Callable[[Pixels, np.random.Generator], Pixels]


@dataclass(frozen=True)
class Survival:
    """How often the mark was found.

    Attributes:
        carriers: in what it was.
        treatment: what was done with it.
        marked: how many images there were.
        found: in how many the mark was found.
        shown: how many marked images there were in sheets; 0 for single images.
        placed: how many of these were found.
    """

    carriers: str
    treatment: str
    marked: int
    found: int
    shown: int = 0
    placed: int = 0


@dataclass(frozen=True)
class Cost:
    """What the mark does to images: PSNR in dB from the unmarked ones."""

    carriers: str
    images: int
    psnr_mean: float
    psnr_min: float


@dataclass(frozen=True)
class Alarms:
    """Images without the mark.

    Attributes:
        images: which.
        searched: how many.
        alarms: in how many the mark was found.
        highest: the highest score; :data:`facecrafter.pipelines.watermark.THRESHOLD` would be an alarm.
        seconds: an image, the median, on one thread.
        slowest: seconds of the slowest.
    """

    images: str
    searched: int
    alarms: int
    highest: float
    seconds: float
    slowest: float


@dataclass(frozen=True)
class Watermarking:
    """The whole result."""

    costs: list[Cost]
    survival: list[Survival]
    alarms: list[Alarms]


# --- what images go through -----------------------------------------------------------------------------------------


def _encoded(image: Pixels, form: str, quality: int) -> Pixels:
    content = io.BytesIO()
    Image.fromarray(image).save(content, form, quality=quality)
    return np.asarray(Image.open(content).convert("RGB"))


def _resized(image: Pixels, scale: float) -> Pixels:
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _cropped(image: Pixels, rng: np.random.Generator, share: float) -> Pixels:
    """A square anywhere in a square image."""
    side = round(len(image) * share)
    top, left = rng.integers(0, len(image) - side + 1, 2)
    return image[top : top + side, left : left + side]


def _turned(image: Pixels, rng: np.random.Generator, degrees: float) -> Pixels:
    """Turned either way; what comes in at the corners is black."""
    angle = degrees * float(rng.choice([-1, 1]))
    return np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BICUBIC))


def _bordered(image: Pixels, level: int = 240) -> Pixels:
    return np.pad(image, ((20, 20), (20, 20), (0, 0)), constant_values=level)


def _noisy(image: Pixels, rng: np.random.Generator) -> Pixels:
    return (image + rng.normal(0, 10, image.shape)).round().clip(0, 255).astype(np.uint8)


TREATMENTS: dict[str, Treatment] = {
    "none": lambda image, rng: image,
    "JPEG 75": lambda image, rng: _encoded(image, "JPEG", 75),
    "JPEG 50": lambda image, rng: _encoded(image, "JPEG", 50),
    "WebP 50": lambda image, rng: _encoded(image, "WEBP", 50),
    "resize 200 %": lambda image, rng: _resized(image, 2),
    "resize 50 %": lambda image, rng: _resized(image, 0.5),
    "resize 50 %, JPEG 75": lambda image, rng: _encoded(_resized(image, 0.5), "JPEG", 75),
    "noise of 10 levels": _noisy,
    "brightness x 0.8 + 20": lambda image, rng: (image * 0.8 + 20).round().astype(np.uint8),
    "grey": lambda image, rng: np.asarray(Image.fromarray(image).convert("L").convert("RGB")),
    "mirror": lambda image, rng: image[:, ::-1],
    "crop to 80 %": lambda image, rng: _cropped(image, rng, 0.8),
    "crop to 80 %, JPEG 75": lambda image, rng: _encoded(_cropped(image, rng, 0.8), "JPEG", 75),
    "border of 20 px": lambda image, rng: _bordered(image),
    "border of 20 px, JPEG 75": lambda image, rng: _encoded(_bordered(image), "JPEG", 75),
    "rotation by 1 degree": lambda image, rng: _turned(image, rng, 1),
    "rotation by 3 degrees": lambda image, rng: _turned(image, rng, 3),
    "rotation by 3 degrees, JPEG 75": lambda image, rng: _encoded(_turned(image, rng, 3), "JPEG", 75),
    # beyond what is promised
    "crop to 60 %": lambda image, rng: _cropped(image, rng, 0.6),
    "rotation by 6 degrees": lambda image, rng: _turned(image, rng, 6),
    "resize 25 %": lambda image, rng: _resized(image, 0.25),
    "JPEG 20": lambda image, rng: _encoded(image, "JPEG", 20),
}
SHEET_TREATMENTS = ("none", "JPEG 75", "resize 50 %")


# --- measuring --------------------------------------------------------------------------------------------------------


def watermarking(
    source: Path,
    photos: int = 1500,
    marked: int = 300,
    sizes: Sequence[int] = (256, 512),
    workers: int = 1,
    progress: Callable[[str], object] = print,
) -> Watermarking:
    """Mark images, treat them and search them for the mark; search photos for it as they are.

    Args:
        source: a folder of photos of people, or of folders of photos; every so-manieth is taken.
        photos: how many are searched as they are, at most.
        marked: how many images the mini model generates from them; a third as many photos are marked at each size.
        sizes: of the marked photos, in pixels.
        workers: processes.
        progress: called with a line as each part begins.

    Raises:
        DataError: there are too few photos.
        FaceCrafterError: the model is missing.
    """
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in PHOTOS)
    if len(found) < SHEETS:
        raise DataError(
            f"there are {len(found)} photos in {source}; name a folder of at least {SHEETS} JPEG or PNG files"
        )
    chosen = found[:: max(1, len(found) // photos)][:photos]
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started from here on
    costs: list[Cost] = []
    survival: list[Survival] = []
    # A process that is forked from one with threads may wait for ever, so each starts from nothing.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        run = partial(pool.map, chunksize=4)
        progress("images without the mark")
        alarms = [_alarms("photos", run(_searched, map(str, chosen)))]
        alarms.append(_alarms("scikit-image's images", run(_searched, EXAMPLES)))
        progress(f"{marked} generated images")
        made = generated(chosen, marked)
        side = len(made[0])
        carriers = {f"generated, {side} px": made}
        for size in sizes:
            carriers[f"photos, {size} px"] = [_square(path, size) for path in chosen[: max(1, marked // 3)]]
        for name, images in carriers.items():
            ours = [watermark.mark(image) for image in images]
            costs.append(_cost(name, images, ours))
            for treatment in TREATMENTS:
                progress(f"{name}: {treatment}")
                results = list(run(_survives, ours, [treatment] * len(ours), range(len(ours))))
                survival.append(Survival(name, treatment, len(results), sum(results)))
        ours = [watermark.mark(image) for image in made]
        for name, sheets in _sheets(ours, [_square(path, side) for path in chosen]):
            for treatment in SHEET_TREATMENTS:
                progress(f"{name}: {treatment}")
                counts = list(run(_counted, [sheet for sheet, _ in sheets], [treatment] * len(sheets)))
                shown = sum(count for _, count in sheets)
                found_in = sum(count > 0 for count in counts)
                survival.append(Survival(name, treatment, len(sheets), found_in, shown, sum(counts)))
    return Watermarking(costs, survival, alarms)


def generated(photos: Sequence[Path], count: int) -> list[Pixels]:
    """Images of people in photos by the mini model, without the mark: by identity alone, with somebody else's pose,
    and with an emotion, in turn. Photos that show no face are passed over."""
    from facecrafter.pipelines.generate import FaceCrafter
    from facecrafter.pipelines.settings import Settings
    from facecrafter.request import Request, images_of

    crafter = FaceCrafter.from_pretrained("mini")
    requests: list[Request] = []
    for index, path in enumerate(photos):
        kind = len(requests) % 3
        try:
            requests.append(
                crafter.conditions(
                    path,
                    target=photos[index - 1] if kind == 1 else None,
                    emotion=EMOTIONS[len(requests) % len(EMOTIONS)] if kind == 2 else None,
                    seed=len(requests),
                    settings=Settings(speed="refresh"),
                )
            )
        except FaceCrafterError:
            continue
        if len(requests) == count:
            break
    return list(images_of(crafter.generator, requests))


def _square(path: Path, size: int) -> Pixels:
    """The middle of a photo, ``(size, size, 3)``."""
    from facecrafter.faces.photo import load_photo

    photo = Image.fromarray(load_photo(path))
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(photo.resize((size, size), Image.Resampling.LANCZOS, box))


def _cost(name: str, before: Sequence[Pixels], after: Sequence[Pixels]) -> Cost:
    errors = [float(np.mean((one.astype(float) - other) ** 2)) for one, other in zip(before, after, strict=True)]
    decibels = [float(10 * np.log10(255**2 / error)) for error in errors]
    return Cost(name, len(decibels), statistics.mean(decibels), min(decibels))


def _survives(image: Pixels, treatment: str, seed: int) -> bool:
    return watermark.is_marked(TREATMENTS[treatment](image, np.random.default_rng(seed)))


def _counted(sheet: Pixels, treatment: str) -> int:
    return len(watermark.detect(TREATMENTS[treatment](sheet, np.random.default_rng(0))).parts)


def _searched(name: str) -> tuple[float, float]:
    """Score and seconds of a photo, or of one of scikit-image's images."""
    import cv2
    import skimage.data

    from facecrafter.faces.photo import load_photo

    cv2.setNumThreads(1)
    image = getattr(skimage.data, name)() if name in EXAMPLES else load_photo(name)
    image = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image
    start = time.process_time()
    score = watermark.score(image)
    return score, time.process_time() - start


def _alarms(name: str, results: Iterator[tuple[float, float]]) -> Alarms:
    scores, seconds = zip(*results, strict=True)
    alarms = sum(score > watermark.THRESHOLD for score in scores)
    return Alarms(name, len(scores), alarms, max(scores), statistics.median(seconds), max(seconds))


def _sheets(marked: Sequence[Pixels], photos: Sequence[Pixels]) -> Iterator[tuple[str, list[tuple[Pixels, int]]]]:
    """Sheets as they are written, and one that is mostly photos; each with the number of marked images in it."""
    from skimage.data import astronaut

    from facecrafter.pipelines import demo
    from facecrafter.pipelines.images import contact_sheet, described
    from facecrafter.request import Portrait, Request

    def sheet(images: Sequence[Pixels]) -> Pixels:
        return np.asarray(contact_sheet([described(Image.fromarray(image), {}) for image in images]))

    def some(images: Sequence[Pixels], count: int, number: int) -> list[Pixels]:
        return [images[(number * count + index) % len(images)] for index in range(count)]

    for count in (4, 16, 100):
        yield f"contact sheet of {count}", [(sheet(some(marked, count, number)), count) for number in range(SHEETS)]
    nobody = Request(Portrait())
    rows = {name: [demo.Tile(name, nobody)] * demo.COLUMNS for name in ("one", "two", "three", "four")}
    posters = []
    for number in range(SHEETS):
        images = [Image.fromarray(image) for image in some(marked, demo.IMAGES, number)]
        posters.append((np.asarray(demo.compose(astronaut(), rows, images)), demo.IMAGES))
    yield "the demo's labelled sheet", posters
    mixed = [some(photos, 29, number) + some(marked, 1, number) for number in range(SHEETS)]
    yield "1 generated image among 29 photos", [(sheet(images), 1) for images in mixed]


# --- printing ---------------------------------------------------------------------------------------------------------


def table(result: Watermarking) -> str:
    """The result in Markdown: cost, survival of single images, sheets, false alarms."""
    single = [one for one in result.survival if not one.shown]
    carriers = list(dict.fromkeys(one.carriers for one in single))
    treatments = list(dict.fromkeys(one.treatment for one in single))
    found = {(one.carriers, one.treatment): f"{one.found} of {one.marked}" for one in single}
    costs = {one.carriers: f"{one.psnr_mean:.1f} ({one.psnr_min:.1f})" for one in result.costs}
    rows = [["PSNR in dB, mean (lowest)", *(costs[name] for name in carriers)]]
    rows += [[treatment, *(found[name, treatment] for name in carriers)] for treatment in treatments]
    sheets = [one for one in result.survival if one.shown]
    sheet_rows = [
        [one.carriers, one.treatment, f"{one.found} of {one.marked}", f"{one.placed} of {one.shown}"] for one in sheets
    ]
    alarm_rows = [
        [
            one.images,
            str(one.searched),
            str(one.alarms),
            f"{one.highest:.1f}",
            f"{one.seconds:.1f}",
            f"{one.slowest:.1f}",
        ]
        for one in result.alarms
    ]
    return "\n\n".join(
        [
            _grid(["Found after", *carriers], rows),
            _grid(["Sheets", "then", "found marked", "marked images placed"], sheet_rows),
            _grid(["Without the mark", "searched", "alarms", "highest score", "seconds", "slowest"], alarm_rows),
        ]
    )


def _grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read(stored: dict[str, list[dict[str, object]]]) -> Watermarking:
    """A result as it was before it was written as JSON."""
    return Watermarking(
        [Cost(**one) for one in stored["costs"]],  # type: ignore[arg-type]
        [Survival(**one) for one in stored["survival"]],  # type: ignore[arg-type]
        [Alarms(**one) for one in stored["alarms"]],  # type: ignore[arg-type]
    )
