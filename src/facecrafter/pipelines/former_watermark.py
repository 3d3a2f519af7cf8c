"""Reads the watermark of earlier versions, in whole images; new ones get :mod:`facecrafter.pipelines.watermark`'s."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_GRID, _BLOCK = 128, 8
# Cosine coefficients (row, column) of an 8x8 block, of which each has a fixed sign (Cox et al., 1997).
_PLACES = ((2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0), (3, 1), (2, 2), (1, 3), (0, 4), (4, 0))
THRESHOLD = 7.8  # an image without the mark reaches it with a probability below 2e-8
_LIMIT = 6.0  # coefficients beyond this belong to the image, and count no more than this


def score(image: NDArray[np.uint8]) -> float:
    """How surely an image ``(H, W, 3)`` uint8 RGB carries the former mark: minus the decimal logarithm of the bound
    on the probability of such an agreement without it (Hoeffding), at least 0."""
    grey = Image.fromarray((image @ np.array([0.299, 0.587, 0.114])).astype(np.float32))
    values = np.asarray(grey.resize((_GRID, _GRID), Image.Resampling.LANCZOS), np.float64)
    count = _GRID // _BLOCK
    cosines = np.cos(np.pi / 16 * np.outer(np.arange(_BLOCK), 2 * np.arange(_BLOCK) + 1)) / 2
    cosines[0] /= np.sqrt(2)
    blocks = values.reshape(count, _BLOCK, count, _BLOCK).transpose(0, 2, 1, 3)
    rows, columns = zip(*_PLACES, strict=True)
    found = (cosines @ blocks @ cosines.T)[:, :, rows, columns].clip(-_LIMIT, _LIMIT)
    key = np.frombuffer(hashlib.shake_256(b"facecrafter watermark 1").digest(found.size // 8), np.uint8)
    signs = np.unpackbits(key).reshape(found.shape).astype(np.float64) * 2 - 1
    length = float(np.linalg.norm(found))
    agreement = float((found * signs).sum()) / length if length > 1e-3 else 0.0
    return agreement**2 / 2 / float(np.log(10)) if agreement > 0 else 0.0
