"""The watermark searched at every place of an image, at a bounded number of scales and small angles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from facecrafter.pipelines.watermark_key import (
    _BANDS,
    _BLOCK,
    _BLOCKS,
    _LENGTH,
    GRID,
    THRESHOLD,
    Array,
    agreement_with,
    basis_functions,
    coefficients_of,
    key_signs,
    orders_of_magnitude,
    votes_of,
)

_STEP = 1.04  # ratio of neighbouring scales
_ANGLES = (0.0, -1.7, 1.7, -3.4, 3.4)  # degrees
_LARGEST = 1.4  # of an image's longer side: the pattern of one that was cropped to 70 %
_ALONE = 0.7  # of its shorter side: down to this it is one image, in a border perhaps, and may be turned
_SMALLEST, _ACROSS = 64.0, 16  # side in pixels of the smallest image in a sheet, and how many are beside each other
WRITTEN_SIDES = (128, 176, 256, 512)  # sides of images in sheets as they are written, which are searched more closely
_WINDOW = 384  # what is searched at once
_WINDOWS, _WRITTEN_WINDOWS = 2, 24  # at most, at one scale
_ROOM = 40  # beside an image, for what of the pattern lies outside
_TRIED = 6  # best places, which are then refined
_REFINED = 81  # variants of each: three scales, angles, rows and columns
_PART = 6.5  # agreement of a further part, once one has been found: by chance below 1e-9 a place
_LEAST_COVER = 0.3  # of the pattern has to lie within the image


@dataclass(frozen=True)
class Part:
    """Where a marked image lies.

    Attributes:
        x, y: its centre in pixels.
        side: its width and height in pixels.
        angle: how far it is turned, in degrees.
        score: agreement with the key; without the mark below exp(-score^2 / 2).
    """

    x: float
    y: float
    side: float
    angle: float
    score: float


@dataclass(frozen=True)
class _Scan:
    """One scale that is searched.

    Attributes:
        side: of the pattern, in the image's pixels.
        angles: in degrees.
        centres: of the windows, ``(x, y)`` in the image's pixels.
        window: side of the windows on the key's grid.
    """

    side: float
    angles: tuple[float, ...]
    centres: tuple[tuple[float, float], ...]
    window: int

    @property
    def comparisons(self) -> int:
        """How many places it compares, and refines at most."""
        return len(self.angles) * len(self.centres) * self.window**2 * _REFINED


def scans_of(height: int, width: int) -> list[_Scan]:
    """Every scale that is searched in an image: those at which it is mostly one image, then those of sheets."""
    sides = [_LARGEST * max(height, width)]
    smallest = min(max(_SMALLEST, max(height, width) / _ACROSS), height, width)
    while sides[-1] / _STEP >= smallest:
        sides.append(sides[-1] / _STEP)
    alone = [side for side in sides if side > _ALONE * min(height, width)]
    turned = [_Scan(side, _ANGLES, *_windows(height, width, side, _WINDOWS)) for side in alone]
    written = [side for side in WRITTEN_SIDES if side <= alone[-1]]
    sheets = [_Scan(side, (0.0,), *_windows(height, width, side, _WRITTEN_WINDOWS)) for side in written]
    smaller = [_Scan(side, (0.0,), *_windows(height, width, side, _WINDOWS)) for side in sides[len(alone) :]]
    return turned + sheets + smaller


def _windows(height: int, width: int, side: float, most: int) -> tuple[tuple[tuple[float, float], ...], int]:
    """Centres and side of windows that cover an image or, where that takes more than ``most``, lie evenly in it."""
    grids = [length * GRID / side for length in (height, width)]
    if max(grids) + _ROOM <= _WINDOW:
        window = 32 * int(np.ceil(max(max(grids) + _ROOM, GRID) / 32))
        return ((width / 2, height / 2),), window
    counts = [max(1, int(np.ceil((grid - GRID) / (_WINDOW - GRID)))) for grid in grids]
    while counts[0] * counts[1] > most:
        counts[int(counts[1] >= counts[0])] -= 1
    rows, columns = (
        [(index + 0.5) * length / count for index in range(count)]
        for length, count in zip((height, width), counts, strict=True)
    )
    return tuple((x, y) for y in rows for x in columns), _WINDOW


def search(pyramid: Pyramid, scans: list[_Scan]) -> Part | None:
    """The best place, refined; the search ends with the first that is good enough."""
    comparisons = sum(scan.comparisons for scan in scans)
    tried: list[Part] = []
    for scan in scans:
        found = [
            _best(pyramid, Part(x, y, scan.side, angle, 0), scan.window)
            for angle in scan.angles
            for x, y in scan.centres
        ]
        best = _refined(pyramid, max(found, key=lambda part: part.score))
        if orders_of_magnitude(best.score, comparisons) > THRESHOLD:
            return best
        tried += found
    tried.sort(key=lambda part: -part.score)
    return max((_refined(pyramid, part) for part in tried[:_TRIED]), key=lambda part: part.score, default=None)


def _best(pyramid: Pyramid, window: Part, side: int) -> Part:
    """Where in a window the image agrees most with the key."""
    agreements = _agreements(pyramid, window, side)
    row, column = np.unravel_index(int(agreements.argmax()), agreements.shape)
    return _part(pyramid, window, side, int(row), int(column), float(agreements[row, column]))


def _part(pyramid: Pyramid, window: Part, side: int, row: int, column: int, score: float) -> Part:
    """The part whose pattern begins at a row and a column of a window, in which rows and columns go round."""
    across, down = (first + GRID / 2 - side / 2 for first in (column, row))
    x, y = _turned(_around(across, side), _around(down, side), window.angle)
    scale = window.side / GRID
    return Part(window.x + x * scale, window.y + y * scale, window.side, window.angle, score)


def _around(offset: float, side: int) -> float:
    """An offset from a window's centre, which goes round where it is beyond the window."""
    return offset - side if offset > side / 2 else offset


def _agreements(pyramid: Pyramid, window: Part, side: int) -> Array:
    """How a window agrees with the key where the pattern begins at each of its places, ``(side, side)``.

    What :func:`agreement_with` says, but for mirrored places, whose correlation is left out.
    """
    grey, inside = pyramid.cut(window, side)
    functions, signs, places = _spectra(side)
    responses = fft.irfft2(fft.rfft2(grey - grey.mean()) * functions, (side, side))
    votes = votes_of(responses) * inside
    sums = fft.irfft2((fft.rfft2(votes) * signs).sum(axis=0), (side, side))
    squares = fft.irfft2(fft.rfft2((votes**2).sum(axis=0)) * places, (side, side))
    least = _LEAST_COVER * len(_BANDS) * _BLOCKS**2
    return np.asarray(sums / np.sqrt(squares.clip(least)), np.float32)


@lru_cache(maxsize=16)
def _spectra(side: int) -> tuple[NDArray[np.complex64], NDArray[np.complex64], NDArray[np.complex64]]:
    """Conjugate spectra of the basis functions and of the key, a band each, and of the key's places."""
    functions = np.zeros((len(_BANDS), side, side), np.float32)
    signs = np.zeros_like(functions)
    places = np.zeros((side, side), np.float32)
    own = basis_functions()
    for index, (row, column) in enumerate(_BANDS):
        functions[index, :_LENGTH, :_LENGTH] = np.outer(own[row], own[column])
    reach = slice(0, _BLOCKS * _BLOCK, _BLOCK)
    signs[:, reach, reach] = key_signs()
    places[reach, reach] = 1
    return fft.rfft2(functions).conj(), fft.rfft2(signs).conj(), fft.rfft2(places).conj()


def _refined(pyramid: Pyramid, part: Part) -> Part:
    """The best of :data:`_REFINED` variants of a part: half a step of scale and angle, then of row and column."""
    ratio, turn = _STEP**0.5, (_ANGLES[2] - _ANGLES[0]) / 2
    scaled = [
        replace(part, side=part.side * ratio**power, angle=part.angle + turn * times)
        for power in (-1, 0, 1)
        for times in (-1, 0, 1)
    ]
    best = max((_scored(pyramid, one) for one in scaled), key=lambda one: one.score)
    step = best.side / GRID / 2
    moved = [replace(best, x=best.x + step * x, y=best.y + step * y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    return max((_scored(pyramid, one) for one in moved), key=lambda one: one.score)


def _scored(pyramid: Pyramid, part: Part) -> Part:
    """A part with its agreement with the key."""
    grey, inside = pyramid.cut(part, GRID)
    begins = slice(0, _BLOCKS * _BLOCK, _BLOCK)
    return replace(part, score=agreement_with(coefficients_of(grey), inside[begins, begins]))


def _turned(x: float, y: float, degrees: float) -> tuple[float, float]:
    """A direction turned by an angle."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return float(cosine * x - sine * y), float(sine * x + cosine * y)


class Pyramid:
    """Luminance ``(H, W)``, halved again and again, to cut parts from at any scale."""

    def __init__(self, grey: Array) -> None:
        self.height, self.width = grey.shape
        self._levels = [grey]

    def cut(self, part: Part, side: int) -> tuple[Array, NDArray[np.uint8]]:
        """A square of ``side`` pixels about a part's centre, scaled so that the part would measure :data:`GRID`.

        Returns:
            It, ``(side, side)``, and 1 where a basis function that begins there lies within the image.
        """
        level = max(0, int(np.floor(np.log2(part.side / GRID))))
        while len(self._levels) <= level:
            last = self._levels[-1]
            half = (max(1, last.shape[1] // 2), max(1, last.shape[0] // 2))
            self._levels.append(np.asarray(cv2.resize(last, half, interpolation=cv2.INTER_AREA), np.float32))
        grey = self._levels[level]
        across, down = grey.shape[1] / self.width, grey.shape[0] / self.height
        scale = part.side / GRID
        right, below = (np.array(_turned(*way, part.angle)) * scale for way in ((1, 0), (0, 1)))
        first = np.array([part.x, part.y]) + (right + below) * (0.5 - side / 2)
        # OpenCV counts from the middle of the first pixel.
        matrix = np.stack([right, below, first], axis=1) * [[across], [down]] - [[0, 0, 0.5]]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        values = cv2.warpAffine(grey, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT)
        within = cv2.warpAffine(np.ones(grey.shape, np.uint8), matrix, (side, side), flags=flags)
        begins = cv2.erode(within, np.ones((_LENGTH, _LENGTH), np.uint8), anchor=(0, 0))
        return np.asarray(values, np.float32), np.asarray(begins, np.uint8)


def all_parts(pyramid: Pyramid, first: Part) -> tuple[Part, ...]:
    """Every marked image of the scale and the angle of the first that was found, itself included."""
    better = _refined(pyramid, first)
    while better.score > first.score:  # the search ended with a good place, and there may be a better one beside it
        first, better = better, _refined(pyramid, better)
    parts = [first]
    step = (_WINDOW - GRID) * first.side / GRID
    for y in np.arange(step / 2, pyramid.height + step / 2, step):
        for x in np.arange(step / 2, pyramid.width + step / 2, step):
            window = Part(float(x), float(y), first.side, first.angle, 0)
            # Windows overlap by the pattern's side, so that none of it need go round.
            agreements = _agreements(pyramid, window, _WINDOW)[: _WINDOW - GRID + 1, : _WINDOW - GRID + 1]
            while agreements.max() > _PART:
                row, column = (int(one) for one in np.unravel_index(int(agreements.argmax()), agreements.shape))
                part = _part(pyramid, window, _WINDOW, row, column, float(agreements[row, column]))
                if all(max(abs(part.x - one.x), abs(part.y - one.y)) > first.side / 2 for one in parts):
                    parts.append(part)
                near = GRID // 2
                agreements[max(row - near, 0) : row + near, max(column - near, 0) : column + near] = 0
    return tuple(parts)


def covered_share(height: int, width: int, parts: tuple[Part, ...]) -> float:
    """Of an image's area that parts cover."""
    covered = np.zeros((height, width), np.uint8)
    for part in parts:
        corners = [_turned(x, y, part.angle) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        outline = np.array(corners) * (part.side - 1) / 2 + [part.x - 0.5, part.y - 0.5]  # of the outermost pixels
        cv2.fillConvexPoly(covered, outline.round().astype(np.int32), 1)
    return float(covered.mean())
