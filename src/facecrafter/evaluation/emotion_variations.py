"""How much a reading of emotion moves when the same face comes in another image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.data import shards
from facecrafter.errors import NoFaceError
from facecrafter.estimators.emotion import FRAME, MIDDLE, SIZE, PixelEmotion, tight_crop
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces.face import Face, square_crop

Pixels = NDArray[np.uint8]


def in_a_photo(image: Pixels) -> Pixels:
    """The image at 1.4 times its size, in the lower right of one of twice that, whose rest repeats its edge."""
    large = np.asarray(Image.fromarray(image).resize((round(image.shape[1] * 1.4), round(image.shape[0] * 1.4))))
    height, width = large.shape[:2]
    return np.pad(large, ((height * 2 // 3, height // 3), (width * 3 // 4, width // 4), (0, 0)), mode="edge")


def lit(image: Pixels, factor: float) -> Pixels:
    """Every value times a factor, cut off at white."""
    return np.clip(image * factor, 0, 255).round().astype(np.uint8)


def grey(image: Pixels) -> Pixels:
    """Without colours."""
    return np.asarray(np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2), np.uint8)


def equalised(image: Pixels) -> Pixels:
    """With an even histogram of its luma, its colours kept."""
    parts = np.array(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb))
    parts[:, :, 0] = cv2.equalizeHist(np.ascontiguousarray(parts[:, :, 0]))
    return np.asarray(cv2.cvtColor(parts, cv2.COLOR_YCrCb2RGB), np.uint8)


# What is done to an image before the face in it is looked for again.
VARIATIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "in a photo": in_a_photo,
    "brighter": lambda image: lit(image, 1.4),
    "darker": lambda image: lit(image, 0.5),
    "grey": grey,
    "equalised": equalised,
}


def tight_colour_crop(face: Face, times: int = 4) -> Pixels:
    """What :func:`facecrafter.estimators.emotion.tight_crop` frames, in colour and ``times`` its size."""
    low, high = face.points[:, :2].min(0).astype(np.float64), face.points[:, :2].max(0).astype(np.float64)
    side = float((high - low).mean()) / FRAME
    return square_crop(face.image, (low + high) / 2 - (0, (MIDDLE - 0.5) * side), side, times * SIZE)


def vary(estimator: PixelEmotion, folder: Path, files: Sequence[str], count: int) -> dict[str, dict[str, Any]]:
    """Read up to ``count`` of a prepared folder's images as they are, and again in every variation.

    Args:
        estimator: the reader.
        folder: that ``data prepare`` wrote.
        files: which of its images may be taken; those taken lie evenly among them.
        count: how many.

    Returns:
        For each variation the share of the faces that were found again (``found``) and, over those, the mean total
        variation distance to the first reading and the share of the same class: of pixels and blendshapes together
        (``distance``, ``same``) and of pixels alone (``pixels_distance``, ``pixels_same``). A ``crop`` is read by its
        pixels alone.

    Raises:
        DataError: the folder cannot be read.
        NoFaceError: no face is found in any of its images.
    """
    prepared = shards.load(folder)
    wanted = set(files)
    rows = [row for row, file in enumerate(prepared.files) if file in wanted]
    with FaceFinder() as finder:
        taken = [prepared.images[row] for row in rows[:: max(1, len(rows) // count)][:count]]
        faces = [(image, face) for image in taken if (face := _found(finder, image)) is not None]
        if not faces:
            raise NoFaceError(f"no face is found in any image of {folder}; prepare it again")
        images, first = [image for image, _ in faces], [face for _, face in faces]
        moved = {
            name: _compared(estimator, first, [_found(finder, change(image)) for image in images])
            for name, change in VARIATIONS.items()
        }
    pixels = estimator.probabilities([tight_crop(face.image, face.points) for face in first])
    crops = [one.probabilities for one in estimator.estimate_crops([tight_colour_crop(face) for face in first])]
    return {"crop": {"found": 1.0, **_moved([pixels, np.array(crops)], "pixels_")}, **moved}


def _found(finder: FaceFinder, image: Pixels) -> Face | None:
    try:
        return finder.find(image)
    except NoFaceError:
        return None


def _compared(estimator: PixelEmotion, first: list[Face], again: list[Face | None]) -> dict[str, Any]:
    """How far readings of faces lie from the first ones; of those that were found again."""
    pairs = [(one, other) for one, other in zip(first, again, strict=True) if other is not None]
    crops = [[tight_crop(face.image, face.points) for face in side] for side in zip(*pairs, strict=True)]
    shapes = [np.array([face.blendshapes for face in side]) for side in zip(*pairs, strict=True)]
    if not pairs:
        return {"found": 0.0}
    both = [estimator.probabilities(own, shape) for own, shape in zip(crops, shapes, strict=True)]
    pixels = [estimator.probabilities(own) for own in crops]
    return {"found": len(pairs) / len(first), **_moved(both), **_moved(pixels, "pixels_")}


def _moved(readings: list[NDArray[np.float64]], prefix: str = "") -> dict[str, float]:
    """Mean total variation distance of two lists of distributions ``(N, 8)``, and how many have the same most probable
    class."""
    one, other = readings
    return {
        f"{prefix}distance": float(np.abs(one - other).sum(1).mean() / 2),
        f"{prefix}same": float((one.argmax(1) == other.argmax(1)).mean()),
    }
