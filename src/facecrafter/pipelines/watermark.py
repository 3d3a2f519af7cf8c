"""An invisible mark in generated images, found again after resizing, cropping, turning, mirroring and in sheets.

The mark is a fixed pattern of random signs, one for each of 1,575 basis functions of a lapped orthogonal transform
(Malvar, 1992) on a grid of 128 x 128, whatever the image's size. The image's own coefficients are moved until as
many of them as the permitted error allows have the sign that the key says; those that are far from it are left as they
are (informed embedding; Miller, Doerr and Cox, 2004). The pattern is its own mirror image, but for the odd functions in
its middle.

Reading it needs no original. An image is compared with the key as a whole, and then at every place, at a bounded
number of scales and small angles, so that an image inside a larger one is found as well. It says only that this
software made the image; it carries nothing about whom it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.pipelines.watermark_key import (
    GRID,
    LUMINANCE,
    THRESHOLD,
    agreement_with,
    coefficients_of,
    key_signs,
    on_grid,
    orders_of_magnitude,
    pattern_of,
)
from facecrafter.pipelines.watermark_search import Part, Pyramid, all_parts, covered_share, scans_of, search

PSNR = 38.5  # dB from the unmarked image, before rounding
# How far beyond zero a coefficient is moved, in grey levels: a share of what is around it, within limits.
_MARGIN, _LEAST, _MOST = 0.35, 5.0, 12.0


@dataclass(frozen=True)
class Detection:
    """What an image says of the mark.

    Attributes:
        score: orders of magnitude by which the agreement with the key is unlikely without the mark, all comparisons
            that were made taken together; at least 0.
        parts: the marked images in it. One where it is a single image, several in a sheet.
        share: of its area that they cover.
    """

    score: float
    parts: tuple[Part, ...]
    share: float

    @property
    def marked(self) -> bool:
        """Whether it carries the mark."""
        return self.score > THRESHOLD


def mark(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image ``(H, W, 3)`` uint8 RGB with the mark in it, about :data:`PSNR` from it, or more where it is plain."""
    grey = on_grid(image)
    found = coefficients_of(grey) * key_signs()
    around = cv2.GaussianBlur(np.abs(found).mean(axis=0), (3, 3), 0.7)
    lacking = (np.clip(_MARGIN * around, _LEAST, _MOST) - found).clip(0)
    # Every coefficient counts the same, so the error goes to those that need least.
    permitted = (255 * GRID) ** 2 / 10 ** (PSNR / 10)
    order = np.sort(lacking.ravel())
    affordable = int(np.searchsorted(np.cumsum(order**2), permitted))
    if affordable < order.size:
        lacking[lacking >= order[affordable]] = 0
    pattern = pattern_of(lacking * key_signs()).astype(np.float32)
    height, width = image.shape[:2]
    if (height, width) != (GRID, GRID):
        pattern = np.asarray(Image.fromarray(pattern).resize((width, height), Image.Resampling.BICUBIC))
    return np.asarray((image + pattern[:, :, None]).round().clip(0, 255), np.uint8)


def score(image: NDArray[np.uint8]) -> float:
    """How surely an image ``(H, W, 3)`` uint8 RGB carries the mark; see :class:`Detection`."""
    return detect(image).score


def is_marked(image: NDArray[np.uint8]) -> bool:
    """Whether an image ``(H, W, 3)`` uint8 RGB carries the mark."""
    return detect(image).marked


def detect(image: NDArray[np.uint8]) -> Detection:
    """Search an image for the mark: ``(H, W, 3)`` uint8 RGB.

    The agreement with the key at one place is a sum of independent random signs with variance 1, so by Hoeffding's
    inequality it exceeds t with a probability below exp(-t^2 / 2), whatever the image, and the best of N comparisons
    does so with at most N times that. Half of the permitted probability belongs to the image as a whole, which is
    one comparison, and half to the search.
    """
    height, width = image.shape[:2]
    whole = agreement_with(coefficients_of(on_grid(image)))
    if orders_of_magnitude(whole, 1) > THRESHOLD:
        part = Part(width / 2, height / 2, float(max(height, width)), 0.0, whole)
        return Detection(orders_of_magnitude(whole, 1), (part,), 1.0)
    pyramid = Pyramid(image @ LUMINANCE)
    scans = scans_of(height, width)
    best = search(pyramid, scans)
    surely = orders_of_magnitude(best.score, sum(scan.comparisons for scan in scans)) if best else 0.0
    if best is None or surely <= THRESHOLD:
        return Detection(max(surely, orders_of_magnitude(whole, 1)), (), 0.0)
    parts = all_parts(pyramid, best)
    return Detection(surely, parts, covered_share(height, width, parts))
