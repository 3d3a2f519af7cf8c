"""The key of the watermark: its basis functions, its signs, and how far an image agrees with them."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 128  # side of the key's pattern; what follows is in its pixels unless it says otherwise
_BLOCK, _LENGTH = 8, 16  # distance between basis functions, and their length
_BLOCKS = (GRID - _LENGTH) // _BLOCK + 1
# Row and column frequencies: 12 to 24 periods an image. Lower ones are where images are strongest, higher ones do
# not stay when an image of 128 px is halved and then compressed.
_BANDS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1))
_MIRROR = np.array([(-1) ** column for _, column in _BANDS])[:, None, None]  # odd functions change their sign
_LIMIT = 0.1  # of the mean size of a band's coefficients; those beyond it count no more than this
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
THRESHOLD = 5.0  # an image without the mark reaches it with a probability below 1e-5
Array = NDArray[np.float32]


@lru_cache(maxsize=1)
def key_signs() -> NDArray[np.float64]:
    """The key: a fixed sign for every coefficient used, ``(bands, 15, 15)``, the same for the mirror image."""
    shape = (len(_BANDS), _BLOCKS, _BLOCKS)
    # Bits of a hash, because numpy's random streams may change between versions and the key must not.
    key = np.frombuffer(hashlib.shake_256(b"facecrafter watermark 2").digest(-(-int(np.prod(shape)) // 8)), np.uint8)
    signs = np.unpackbits(key)[: int(np.prod(shape))].reshape(shape).astype(np.float64) * 2 - 1
    middle = _BLOCKS // 2
    signs[:, :, middle + 1 :] = (signs * _MIRROR)[:, :, middle - 1 :: -1]
    return signs


@lru_cache(maxsize=1)
def basis_functions() -> NDArray[np.float64]:
    """Malvar's lapped orthogonal transform of 8 values: a basis function a row, ``(8, 16)``, even and odd in turn."""
    cosines = np.cos(np.pi / 16 * np.outer(np.arange(8), 2 * np.arange(8) + 1)) / 2
    cosines[0] /= np.sqrt(2)
    half = (cosines[0::2] - cosines[1::2]) / 2
    turns = np.eye(4)
    for index, angle in enumerate((0.13, 0.16, 0.13)):
        turn = np.eye(4)
        cosine, sine = np.cos(angle * np.pi), np.sin(angle * np.pi)
        turn[index : index + 2, index : index + 2] = [[cosine, sine], [-sine, cosine]]
        turns = turns @ turn
    functions = np.zeros((8, 16))
    functions[0::2] = np.hstack([half, half[:, ::-1]])
    functions[1::2] = turns.T @ np.hstack([half, -half[:, ::-1]])
    return functions


@lru_cache(maxsize=1)
def _placed() -> NDArray[np.float64]:
    """The basis functions of each frequency at their 15 places, orthonormal rows of ``(8, 15, 128)``."""
    placed = np.zeros((8, _BLOCKS, GRID))
    for block in range(_BLOCKS):
        placed[:, block, _BLOCK * block : _BLOCK * block + _LENGTH] = basis_functions()
    return placed


def pattern_of(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """The image ``(128, 128)`` that has these coefficients ``(bands, 15, 15)``."""
    placed = _placed()
    parts = (placed[row].T @ part @ placed[column] for (row, column), part in zip(_BANDS, coefficients, strict=True))
    return np.sum(list(parts), axis=0)


def coefficients_of(grey: Array) -> NDArray[np.float64]:
    """The coefficients used of ``(128, 128)`` luminance, ``(bands, 15, 15)``."""
    placed = _placed()
    return np.stack([placed[row] @ grey @ placed[column].T for row, column in _BANDS])


def on_grid(image: NDArray[np.uint8]) -> Array:
    """The luminance of an image on the key's grid, ``(128, 128)``."""
    grey = image @ LUMINANCE
    if grey.shape == (GRID, GRID):
        return np.asarray(grey, np.float32)
    return np.asarray(Image.fromarray(grey).resize((GRID, GRID), Image.Resampling.LANCZOS))


def agreement_with(coefficients: NDArray[np.float64], inside: NDArray[np.uint8] | None = None) -> float:
    """A sum of random signs with variance 1 where there is no mark.

    Coefficients of mirrored places share their sign, so each pair is added up first.

    Args:
        coefficients: ``(bands, 15, 15)``.
        inside: which of the places ``(15, 15)`` count; all if None.
    """
    votes = votes_of(coefficients)
    if inside is not None:
        votes = votes * inside
    middle = _BLOCKS // 2
    pairs = votes + _MIRROR * votes[:, :, ::-1]
    pairs[:, :, middle] = votes[:, :, middle]
    pairs = pairs[:, :, : middle + 1]
    length = float(np.linalg.norm(pairs))
    return float((pairs * key_signs()[:, :, : middle + 1]).sum()) / length if length > 1e-6 else 0.0


def votes_of(responses: NDArray[np.floating]) -> NDArray[np.floating]:
    """Coefficients ``(bands, ...)`` in [-1, 1]: nearly their signs, but nothing where there is nothing."""
    limits = _LIMIT * np.abs(responses).mean(axis=(1, 2), keepdims=True) + 0.3
    return np.clip(responses / limits, -1, 1)


def orders_of_magnitude(agreement: float, comparisons: int) -> float:
    """The score: minus the decimal logarithm of the probability's bound; see
    :func:`facecrafter.pipelines.watermark.detect`."""
    return max(float(agreement**2 / 2 - np.log(2 * comparisons)) / float(np.log(10)), 0.0) if agreement > 0 else 0.0
