"""The mark cannot be seen, stays through what pictures go through, and is not found where it is not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from facecrafter.perception.face import Face, load_photo
from facecrafter.sampling import watermark

Picture = NDArray[np.uint8]


def resized(picture: Picture, size: int, way: Image.Resampling = Image.Resampling.BICUBIC) -> Picture:
    return np.asarray(Image.fromarray(picture).resize((size, size), way))


def jpeg(picture: Picture, quality: int = 85) -> Picture:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content))


def real_pictures(face: Face) -> dict[str, Picture]:
    names = ("astronaut", "camera", "coffee", "page", "brick", "text")
    photos = {name: getattr(skimage.data, name)() for name in names}
    rgb = {name: np.stack([photo] * 3, -1) if photo.ndim == 2 else photo for name, photo in photos.items()}
    return {"face": face.image, **rgb}


@pytest.fixture(scope="module")
def pictures(face: Face) -> list[Picture]:
    return [resized(picture, 128) for picture in real_pictures(face).values()]


def psnr(one: Picture, other: Picture) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def test_the_mark_is_invisible(pictures: list[Picture]) -> None:
    for picture in pictures:
        assert psnr(picture, watermark.mark(picture)) >= 42


TREATMENTS: dict[str, Callable[[Picture], Picture]] = {
    "none": lambda picture: picture,
    "JPEG 85": jpeg,
    "JPEG 75": lambda picture: jpeg(picture, 75),
    "larger and back, bicubic": lambda picture: resized(resized(picture, 256), 128),
    "larger and back, bilinear": lambda picture: resized(resized(picture, 256, Image.Resampling.BILINEAR), 128),
    "larger, then JPEG 85": lambda picture: jpeg(resized(picture, 256)),
    "brighter": lambda picture: (picture.astype(float) * 0.8 + 20).astype(np.uint8),
    "grey": lambda picture: np.asarray(Image.fromarray(picture).convert("L").convert("RGB")),
}


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_the_mark_stays(pictures: list[Picture], treatment: str) -> None:
    for picture in pictures:
        assert watermark.is_marked(TREATMENTS[treatment](watermark.mark(picture)))


@pytest.mark.parametrize("shape", [(512, 512), (128, 300), (700, 500)])
def test_pictures_of_any_size_are_marked(face: Face, shape: tuple[int, int]) -> None:
    picture = np.asarray(Image.fromarray(face.image).resize(shape[::-1]))
    marked = watermark.mark(picture)
    assert marked.shape == picture.shape and marked.dtype == np.uint8
    assert psnr(picture, marked) > 42
    assert watermark.is_marked(jpeg(marked))


def test_real_pictures_are_not_marked(pictures: list[Picture], face: Face) -> None:
    originals = list(real_pictures(face).values())
    scores = [watermark.score(picture) for picture in [*pictures, *originals, *map(jpeg, pictures)]]
    assert max(np.abs(scores)) < watermark.THRESHOLD - 1


def test_photos_of_people_are_not_marked_and_can_be(lfw: Path) -> None:
    photos = [load_photo(path) for path in sorted(lfw.glob("*/*.jpg"))]
    assert max(watermark.score(photo) for photo in photos) < 5
    assert all(watermark.is_marked(jpeg(watermark.mark(photo))) for photo in photos)


def test_noise_scores_as_the_bound_says() -> None:
    """White noise, coloured noise and gratings: scores have deviation 1 and come nowhere near the threshold."""
    rng = np.random.default_rng(0)
    scores = []
    for index in range(400):
        coarse = rng.integers(0, 256, (128 // (1 + index % 4), 128, 3), np.uint8)
        scores.append(watermark.score(np.asarray(Image.fromarray(coarse).resize((128, 128)))))
    assert 0.8 < np.std(scores) < 1.2
    assert max(scores) < 5
    x = np.arange(128)
    for period in range(2, 40):
        wave = (127 + 120 * np.sin(2 * np.pi * x / period)).astype(np.uint8)
        grating = np.stack([np.broadcast_to(wave, (128, 128))] * 3, -1)
        assert watermark.score(grating) < 5


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_picture_is_not_marked(level: int) -> None:
    blank = np.full((128, 128, 3), level, np.uint8)
    assert not watermark.is_marked(blank)
    assert watermark.is_marked(watermark.mark(blank))


def test_the_key_stays_what_it_is() -> None:
    """Pictures made by an earlier version must still be recognised."""
    marked = watermark.mark(np.full((128, 128, 3), 128, np.uint8))
    assert marked[0, :8, 0].tolist() == [129, 129, 130, 129, 127, 126, 127, 130]
