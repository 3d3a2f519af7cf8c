"""An invisible mark in generated pictures: spread-spectrum in the cosine coefficients of luminance (Cox et al., 1997).

The mark lives on a grid of 128 x 128 whatever the picture's size, so that it stays through resizing. It is blind:
reading it needs no original. It says only that this software made the picture; it carries nothing about whom it shows.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 128
# Coefficients (row, column) of an 8x8 block: coarse enough for JPEG and resizing to keep, fine enough not to be seen.
_PLACES = ((2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0), (3, 1), (2, 2), (1, 3), (0, 4), (4, 0))
_STRENGTH = 3.5  # grey levels a coefficient
_LIMIT = 6.0  # coefficients beyond this belong to the picture, and count no more than this
THRESHOLD = 6.0
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def mark(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture ``(H, W, 3)`` uint8 RGB with the mark in it, about 44 dB from the original."""
    height, width = picture.shape[:2]
    pattern = Image.fromarray(_pattern()).resize((width, height), Image.Resampling.BICUBIC)
    marked = picture.astype(np.float32) + np.asarray(pattern)[:, :, None]
    return np.asarray(marked.round().clip(0, 255), np.uint8)


def score(picture: NDArray[np.uint8]) -> float:
    """How surely a picture ``(H, W, 3)`` uint8 RGB carries the mark.

    Without the mark the score is a sum of independent random signs with variance 1, so by Hoeffding's inequality it
    exceeds t with a probability below exp(-t^2 / 2), whatever the picture: 1.5e-8 at :data:`THRESHOLD`.
    """
    grey = Image.fromarray((picture @ _LUMINANCE).astype(np.float32))
    if grey.size != (GRID, GRID):
        grey = grey.resize((GRID, GRID), Image.Resampling.LANCZOS)
    found = _coefficients(np.asarray(grey)).clip(-_LIMIT, _LIMIT)
    length = float(np.linalg.norm(found))
    return float((found * _signs()).sum()) / length if length > 0 else 0.0


def is_marked(picture: NDArray[np.uint8]) -> bool:
    """Whether a picture ``(H, W, 3)`` uint8 RGB carries the mark."""
    return score(picture) > THRESHOLD


@lru_cache(maxsize=1)
def _signs() -> NDArray[np.float64]:
    """The key: a fixed sign for every coefficient used, ``(16, 16, 12)``."""
    shape = (GRID // 8, GRID // 8, len(_PLACES))
    # Bits of a hash, because numpy's random streams may change between versions and the key must not.
    key = np.frombuffer(hashlib.shake_256(b"facecrafter watermark 1").digest(int(np.prod(shape)) // 8), np.uint8)
    return np.unpackbits(key).reshape(shape).astype(np.float64) * 2 - 1


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """The orthonormal cosine transform of 8 values, ``(8, 8)``."""
    rows: NDArray[np.float64] = np.cos(np.pi / 16 * np.outer(np.arange(8), 2 * np.arange(8) + 1)) / 2
    rows[0] /= np.sqrt(2)
    return rows


@lru_cache(maxsize=1)
def _pattern() -> NDArray[np.float32]:
    """What is added to the luminance, ``(128, 128)`` in grey levels."""
    blocks = np.zeros((*_signs().shape[:2], 8, 8))
    rows, columns = zip(*_PLACES, strict=True)
    blocks[:, :, rows, columns] = _STRENGTH * _signs()
    pixels = _cosines().T @ blocks @ _cosines()
    return np.asarray(pixels.transpose(0, 2, 1, 3).reshape(GRID, GRID), np.float32)


def _coefficients(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    """The coefficients used of every block of a ``(128, 128)`` picture, ``(16, 16, 12)``."""
    blocks = grey.astype(np.float64).reshape(GRID // 8, 8, GRID // 8, 8).transpose(0, 2, 1, 3)
    rows, columns = zip(*_PLACES, strict=True)
    return np.asarray((_cosines() @ blocks @ _cosines().T)[:, :, rows, columns])
