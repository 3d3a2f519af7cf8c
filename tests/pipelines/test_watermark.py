"""The mark cannot be seen, stays through what images go through, and is not found where it is not."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from facecrafter.faces.face import Face
from facecrafter.faces.photo import load_photo
from facecrafter.pipelines import demo, former_watermark, watermark, watermark_key, watermark_search
from facecrafter.pipelines.images import contact_sheet, described
from facecrafter.request import Portrait, Request

Pixels = NDArray[np.uint8]


def resized(image: Pixels, size: int, way: Image.Resampling = Image.Resampling.BICUBIC) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((size, size), way))


def jpeg(image: Pixels, quality: int = 85) -> Pixels:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content))


def turned(image: Pixels, angle: float) -> Pixels:
    return np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BICUBIC))


def bordered(image: Pixels, pixels: int = 20) -> Pixels:
    return np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), constant_values=240)


def cropped(image: Pixels, share: float, top: float, left: float) -> Pixels:
    side = round(len(image) * share)
    first, second = (round(start * (len(image) - side)) for start in (top, left))
    return image[first : first + side, second : second + side]


def real_images(face: Face) -> dict[str, Pixels]:
    names = ("astronaut", "camera", "coffee", "page", "brick", "text")
    photos = {name: getattr(skimage.data, name)() for name in names}
    rgb = {name: np.stack([photo] * 3, -1) if photo.ndim == 2 else photo for name, photo in photos.items()}
    return {"face": face.image, **rgb}


@pytest.fixture(scope="module")
def images(face: Face) -> list[Pixels]:
    return [resized(image, 128) for image in real_images(face).values()]


@pytest.fixture(scope="module")
def faces(face: Face) -> list[Pixels]:
    """What generated images are like: a face, and one behind a soft lens."""
    soft = Image.fromarray(face.image).resize((48, 48), Image.Resampling.LANCZOS)
    return [resized(face.image, 128), np.asarray(soft.resize((128, 128), Image.Resampling.BICUBIC))]


def psnr(one: Pixels, other: Pixels) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.parametrize("size", [128, 256, 512])
def test_the_mark_is_invisible(face: Face, size: int) -> None:
    for image in real_images(face).values():
        square = resized(image, size)
        assert psnr(square, watermark.mark(square)) >= 38.3


TREATMENTS: dict[str, Callable[[Pixels], Pixels]] = {
    "none": lambda image: image,
    "JPEG 85": jpeg,
    "JPEG 50": lambda image: jpeg(image, 50),
    "half": lambda image: resized(image, len(image) // 2),
    "larger and back, bilinear": lambda image: resized(resized(image, 256, Image.Resampling.BILINEAR), 128),
    "larger, then JPEG 85": lambda image: jpeg(resized(image, 256)),
    "brighter": lambda image: (image.astype(float) * 0.8 + 20).astype(np.uint8),
    "grey": lambda image: np.asarray(Image.fromarray(image).convert("L").convert("RGB")),
    "mirror": lambda image: image[:, ::-1],
    "squeezed": lambda image: np.asarray(Image.fromarray(image).resize((100, 140))),
}


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_the_mark_stays(images: list[Pixels], treatment: str) -> None:
    for image in images:
        found = watermark.detect(TREATMENTS[treatment](watermark.mark(image)))
        assert found.marked and len(found.parts) == 1 and found.share > 0.9


MOVED: dict[str, Callable[[Pixels], Pixels]] = {
    "crop to 80 %, a corner": lambda image: cropped(image, 0.8, 0, 1),
    "crop to 80 %, off the middle": lambda image: cropped(image, 0.8, 0.6, 0.3),
    "border": bordered,
    "border, then JPEG 75": lambda image: jpeg(bordered(image), 75),
    "turned by 3 degrees": lambda image: turned(image, 3),
    "turned by -2 degrees, mirrored": lambda image: turned(image, -2)[:, ::-1],
}


@pytest.mark.parametrize("size", [128, 256, 512])
@pytest.mark.parametrize("treatment", MOVED)
def test_the_mark_is_found_elsewhere(faces: list[Pixels], treatment: str, size: int) -> None:
    for image in faces:
        assert watermark.is_marked(MOVED[treatment](watermark.mark(resized(image, size))))


@pytest.mark.parametrize("size", [128, 256])
def test_the_mark_stays_when_a_image_is_halved_and_compressed(faces: list[Pixels], size: int) -> None:
    for image in faces:
        assert watermark.is_marked(jpeg(resized(watermark.mark(resized(image, size)), size // 2), 75))


@pytest.mark.parametrize("shape", [(512, 512), (128, 300), (700, 500), (9, 5), (1, 1)])
def test_images_of_any_shape_are_marked(face: Face, shape: tuple[int, int]) -> None:
    image = np.asarray(Image.fromarray(face.image).resize(shape[::-1]))
    marked = watermark.mark(image)
    assert marked.shape == image.shape and marked.dtype == np.uint8
    if min(shape) > 64:
        assert watermark.is_marked(jpeg(marked))


@pytest.mark.parametrize(("angle", "side"), [(0, 200), (2, 240), (0, 96)])
def test_it_says_where_the_marked_image_is(faces: list[Pixels], angle: float, side: int) -> None:
    large = Image.new("RGB", (300, 300), (90, 120, 60))
    # Turned with its corners kept, the image is a square inside a larger image.
    marked = Image.fromarray(watermark.mark(faces[0])).resize((side, side), Image.Resampling.BICUBIC)
    turned = marked.convert("RGBA").rotate(angle, Image.Resampling.BICUBIC, expand=True)
    place = 20, 300 - turned.height - 10
    large.paste(turned, place, turned)
    found = watermark.detect(np.asarray(large))
    (part,) = found.parts
    assert found.marked and part.score > 8
    assert (part.x, part.y) == pytest.approx([place[0] + turned.width / 2, place[1] + turned.height / 2], abs=3)
    assert part.side == pytest.approx(side, rel=0.03)
    assert abs(part.angle) == pytest.approx(angle, abs=1)
    assert found.share == pytest.approx(side**2 / 300**2, rel=0.08)


def sheet_of(images: list[Pixels]) -> Pixels:
    return np.asarray(contact_sheet([described(Image.fromarray(image), {}) for image in images]))


@pytest.mark.parametrize("marked", [1, 3, 6])
def test_a_sheet_has_the_images_that_are_marked(face: Face, marked: int) -> None:
    views = [resized(face.image[top : top + 200, left : left + 200], 128) for top in (0, 50) for left in (0, 20, 50)]
    shown = [watermark.mark(view) for view in views[:marked]] + views[marked:]
    found = watermark.detect(sheet_of(shown))
    assert found.marked and len(found.parts) == marked
    centres = {(68 + 132 * (index % 3), 68 + 132 * (index // 3)) for index in range(marked)}
    assert {(round(part.x), round(part.y)) for part in found.parts} == centres
    assert found.share == pytest.approx(marked * 128**2 / (400 * 268), rel=0.03)
    assert watermark.detect(jpeg(sheet_of(shown), 75)).marked


def test_a_sheet_with_labels_and_its_thumbnail_are_marked(faces: list[Pixels]) -> None:
    images = [Image.fromarray(watermark.mark(faces[index % 2])) for index in range(demo.IMAGES)]
    nobody = Request(Portrait())
    rows = {name: [demo.Tile(name, nobody)] * demo.COLUMNS for name in "abcd"}
    poster = demo.compose(skimage.data.astronaut(), rows, images)
    assert demo.TILE in watermark_search.WRITTEN_SIDES
    for shown in (poster, poster.resize((poster.width // 2, poster.height // 2), Image.Resampling.BICUBIC)):
        found = watermark.detect(np.asarray(shown))
        assert found.marked and len(found.parts) == demo.IMAGES
        assert 0.45 < found.share < 0.55


def test_real_images_are_not_marked(images: list[Pixels], face: Face) -> None:
    originals = [real_images(face)[name] for name in ("face", "coffee")]
    scores = [watermark.score(image) for image in [*images, *originals, sheet_of(images)]]
    assert max(scores) < watermark.THRESHOLD - 1


def test_photos_of_people_are_not_marked_and_can_be(lfw: Path) -> None:
    photos = [load_photo(path) for path in sorted(lfw.glob("*/*.jpg"))[:24]]
    assert max(watermark.score(photo) for photo in photos) < watermark.THRESHOLD - 1
    assert all(watermark.is_marked(jpeg(watermark.mark(photo))) for photo in photos)


def agreement(image: Pixels) -> float:
    return watermark_key.agreement_with(watermark_key.coefficients_of(watermark_key.on_grid(image)))


def test_noise_agrees_as_the_bound_says() -> None:
    """White noise, coloured noise and gratings: deviation 1, and nowhere near what a mark gives."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(400):
        coarse = rng.integers(0, 256, (128 // (1 + index % 4), 128, 3), np.uint8)
        found.append(agreement(np.asarray(Image.fromarray(coarse).resize((128, 128)))))
    assert 0.8 < np.std(found) < 1.2
    assert max(found) < 4.5
    x = np.arange(128)
    for period in range(2, 40):
        wave = (127 + 120 * np.sin(2 * np.pi * x / period)).astype(np.uint8)
        grating = np.stack([np.broadcast_to(wave, (128, 128))] * 3, -1)
        assert agreement(grating) < 4.5
        assert agreement(grating.transpose(1, 0, 2)) < 4.5


def test_the_search_compares_as_the_single_comparison_does(faces: list[Pixels]) -> None:
    """In noise every place has deviation 1; where a marked image begins, the agreement is that of the image."""
    noise = np.random.default_rng(1).integers(0, 256, (256, 256)).astype(np.float32)
    window = watermark_search.Part(128, 128, 128, 0, 0)
    agreements = watermark_search._agreements(watermark_search.Pyramid(noise), window, 256)
    assert 0.9 < agreements.std() < 1.1 and agreements.max() < 6
    noise[40:168, 60:188] = watermark.mark(faces[0]) @ watermark_key.LUMINANCE
    agreements = watermark_search._agreements(watermark_search.Pyramid(noise), window, 256)
    assert np.unravel_index(agreements.argmax(), agreements.shape) == (40, 60)
    assert agreements.max() == pytest.approx(agreement(watermark.mark(faces[0])), rel=0.2)


def test_the_score_counts_every_comparison() -> None:
    assert watermark_key.orders_of_magnitude(6, 1) == pytest.approx(-np.log10(2 * np.exp(-18)))
    assert watermark_key.orders_of_magnitude(9, 10**9) == pytest.approx(-np.log10(2e9 * np.exp(-40.5)))
    assert watermark_key.orders_of_magnitude(-9, 1) == 0 and watermark_key.orders_of_magnitude(1, 1) == 0
    scans = watermark_search.scans_of(250, 250)
    assert len(scans) < 100 and sum(scan.comparisons for scan in scans) < 5e9


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_image_is_not_marked(level: int) -> None:
    blank = np.full((128, 128, 3), level, np.uint8)
    assert not watermark.is_marked(blank)
    assert watermark.is_marked(watermark.mark(blank))


def test_the_pattern_is_its_own_mirror_image() -> None:
    pattern = watermark_key.pattern_of(watermark_key.key_signs())
    beside = np.r_[:56, 72:128]  # odd functions in the middle cannot be
    np.testing.assert_allclose(pattern[:, beside], pattern[:, ::-1][:, beside], atol=1e-12)
    assert np.abs(pattern - pattern[::-1]).max() > 1


def test_the_transform_is_orthonormal() -> None:
    rows = watermark_key._placed().reshape(-1, watermark_key.GRID)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-12)


def test_the_key_stays_what_it_is() -> None:
    """Images made by an earlier version must still be recognised."""
    marked = watermark.mark(np.full((128, 128, 3), 128, np.uint8))
    assert marked[40, 40:52, 0].tolist() == [129, 129, 129, 128, 127, 126, 125, 126, 127, 127, 128, 129]


def formerly_marked(image: Pixels) -> Pixels:
    """What earlier versions did: signs in cosine coefficients of blocks, 3.5 grey levels each."""
    key = np.frombuffer(hashlib.shake_256(b"facecrafter watermark 1").digest(16 * 16 * 12 // 8), np.uint8)
    cosines = np.cos(np.pi / 16 * np.outer(np.arange(8), 2 * np.arange(8) + 1)) / 2
    cosines[0] /= np.sqrt(2)
    blocks = np.zeros((16, 16, 8, 8))
    rows, columns = zip(*former_watermark._PLACES, strict=True)
    blocks[:, :, rows, columns] = 3.5 * (np.unpackbits(key).reshape(16, 16, 12) * 2.0 - 1)
    pattern = (cosines.T @ blocks @ cosines).transpose(0, 2, 1, 3).reshape(128, 128)
    return (image + pattern[:, :, None]).round().clip(0, 255).astype(np.uint8)


def test_the_former_mark_is_still_read(images: list[Pixels]) -> None:
    for image in images:
        assert former_watermark.score(jpeg(formerly_marked(image))) > former_watermark.THRESHOLD
        assert former_watermark.score(image) < 4
        assert former_watermark.score(watermark.mark(image)) < former_watermark.THRESHOLD
    assert former_watermark.score(np.full((128, 128, 3), 128, np.uint8)) == 0
