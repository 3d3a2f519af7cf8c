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

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

GRID = 128  # side of the key's pattern; what follows is in its pixels unless it says otherwise
_BLOCK, _LENGTH = 8, 16  # distance between basis functions, and their length
_BLOCKS = (GRID - _LENGTH) // _BLOCK + 1
# Row and column frequencies: 12 to 24 periods an image. Lower ones are where images are strongest, higher ones do
# not stay when an image of 128 px is halved and then compressed.
_BANDS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1))
_MIRROR = np.array([(-1) ** column for _, column in _BANDS])[:, None, None]  # odd functions change their sign

PSNR = 38.5  # dB from the unmarked image, before rounding
# How far beyond zero a coefficient is moved, in grey levels: a share of what is around it, within limits.
_MARGIN, _LEAST, _MOST = 0.35, 5.0, 12.0
_LIMIT = 0.1  # of the mean size of a band's coefficients; those beyond it count no more than this
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)

THRESHOLD = 5.0  # an image without the mark reaches it with a probability below 1e-5

_STEP = 1.04  # ratio of neighbouring scales
_ANGLES = (0.0, -1.7, 1.7, -3.4, 3.4)  # degrees
_LARGEST = 1.4  # of an image's longer side: the pattern of one that was cropped to 70 %
_ALONE = 0.7  # of its shorter side: down to this it is one image, in a border perhaps, and may be turned
_SMALLEST, _ACROSS = 64.0, 16  # side in pixels of the smallest image in a sheet, and how many are beside each other
_WRITTEN = (128, 176, 256, 512)  # sides of images in sheets as they are written, which are searched more closely
_WINDOW = 384  # what is searched at once
_WINDOWS, _WRITTEN_WINDOWS = 2, 24  # at most, at one scale
_ROOM = 40  # beside an image, for what of the pattern lies outside
_TRIED = 6  # best places, which are then refined
_REFINED = 81  # variants of each: three scales, angles, rows and columns
_PART = 6.5  # agreement of a further part, once one has been found: by chance below 1e-9 a place
_LEAST_COVER = 0.3  # of the pattern has to lie within the image

Array = NDArray[np.float32]


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
    grey = _on_grid(image)
    found = _coefficients(grey) * _signs()
    around = cv2.GaussianBlur(np.abs(found).mean(axis=0), (3, 3), 0.7)
    lacking = (np.clip(_MARGIN * around, _LEAST, _MOST) - found).clip(0)
    # Every coefficient counts the same, so the error goes to those that need least.
    permitted = (255 * GRID) ** 2 / 10 ** (PSNR / 10)
    order = np.sort(lacking.ravel())
    affordable = int(np.searchsorted(np.cumsum(order**2), permitted))
    if affordable < order.size:
        lacking[lacking >= order[affordable]] = 0
    pattern = _pattern(lacking * _signs()).astype(np.float32)
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
    whole = _agreement(_coefficients(_on_grid(image)))
    if _orders(whole, 1) > THRESHOLD:
        part = Part(width / 2, height / 2, float(max(height, width)), 0.0, whole)
        return Detection(_orders(whole, 1), (part,), 1.0)
    pyramid = _Pyramid(image @ _LUMINANCE)
    scans = _scans(height, width)
    best = _search(pyramid, scans)
    surely = _orders(best.score, sum(scan.comparisons for scan in scans)) if best else 0.0
    if best is None or surely <= THRESHOLD:
        return Detection(max(surely, _orders(whole, 1)), (), 0.0)
    parts = _parts(pyramid, best)
    return Detection(surely, parts, _share(height, width, parts))


# --- the key ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _signs() -> NDArray[np.float64]:
    """The key: a fixed sign for every coefficient used, ``(bands, 15, 15)``, the same for the mirror image."""
    shape = (len(_BANDS), _BLOCKS, _BLOCKS)
    # Bits of a hash, because numpy's random streams may change between versions and the key must not.
    key = np.frombuffer(hashlib.shake_256(b"facecrafter watermark 2").digest(-(-int(np.prod(shape)) // 8)), np.uint8)
    signs = np.unpackbits(key)[: int(np.prod(shape))].reshape(shape).astype(np.float64) * 2 - 1
    middle = _BLOCKS // 2
    signs[:, :, middle + 1 :] = (signs * _MIRROR)[:, :, middle - 1 :: -1]
    return signs


@lru_cache(maxsize=1)
def _functions() -> NDArray[np.float64]:
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
        placed[:, block, _BLOCK * block : _BLOCK * block + _LENGTH] = _functions()
    return placed


def _pattern(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """The image ``(128, 128)`` that has these coefficients ``(bands, 15, 15)``."""
    placed = _placed()
    parts = (placed[row].T @ part @ placed[column] for (row, column), part in zip(_BANDS, coefficients, strict=True))
    return np.sum(list(parts), axis=0)


def _coefficients(grey: Array) -> NDArray[np.float64]:
    """The coefficients used of ``(128, 128)`` luminance, ``(bands, 15, 15)``."""
    placed = _placed()
    return np.stack([placed[row] @ grey @ placed[column].T for row, column in _BANDS])


def _on_grid(image: NDArray[np.uint8]) -> Array:
    """The luminance of an image on the key's grid, ``(128, 128)``."""
    grey = image @ _LUMINANCE
    if grey.shape == (GRID, GRID):
        return np.asarray(grey, np.float32)
    return np.asarray(Image.fromarray(grey).resize((GRID, GRID), Image.Resampling.LANCZOS))


# --- comparison -------------------------------------------------------------------------------------------------------


def _agreement(coefficients: NDArray[np.float64], inside: NDArray[np.uint8] | None = None) -> float:
    """A sum of random signs with variance 1 where there is no mark.

    Coefficients of mirrored places share their sign, so each pair is added up first.

    Args:
        coefficients: ``(bands, 15, 15)``.
        inside: which of the places ``(15, 15)`` count; all if None.
    """
    votes = _votes(coefficients)
    if inside is not None:
        votes = votes * inside
    middle = _BLOCKS // 2
    pairs = votes + _MIRROR * votes[:, :, ::-1]
    pairs[:, :, middle] = votes[:, :, middle]
    pairs = pairs[:, :, : middle + 1]
    length = float(np.linalg.norm(pairs))
    return float((pairs * _signs()[:, :, : middle + 1]).sum()) / length if length > 1e-6 else 0.0


def _votes(responses: NDArray[np.floating]) -> NDArray[np.floating]:
    """Coefficients ``(bands, ...)`` in [-1, 1]: nearly their signs, but nothing where there is nothing."""
    limits = _LIMIT * np.abs(responses).mean(axis=(1, 2), keepdims=True) + 0.3
    return np.clip(responses / limits, -1, 1)


def _orders(agreement: float, comparisons: int) -> float:
    """The score: minus the decimal logarithm of the probability's bound; see :func:`detect`."""
    return max(float(agreement**2 / 2 - np.log(2 * comparisons)) / float(np.log(10)), 0.0) if agreement > 0 else 0.0


# --- search -----------------------------------------------------------------------------------------------------------


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


def _scans(height: int, width: int) -> list[_Scan]:
    """Every scale that is searched in an image: those at which it is mostly one image, then those of sheets."""
    sides = [_LARGEST * max(height, width)]
    smallest = min(max(_SMALLEST, max(height, width) / _ACROSS), height, width)
    while sides[-1] / _STEP >= smallest:
        sides.append(sides[-1] / _STEP)
    alone = [side for side in sides if side > _ALONE * min(height, width)]
    turned = [_Scan(side, _ANGLES, *_windows(height, width, side, _WINDOWS)) for side in alone]
    written = [side for side in _WRITTEN if side <= alone[-1]]
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


def _search(pyramid: _Pyramid, scans: list[_Scan]) -> Part | None:
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
        if _orders(best.score, comparisons) > THRESHOLD:
            return best
        tried += found
    tried.sort(key=lambda part: -part.score)
    return max((_refined(pyramid, part) for part in tried[:_TRIED]), key=lambda part: part.score, default=None)


def _best(pyramid: _Pyramid, window: Part, side: int) -> Part:
    """Where in a window the image agrees most with the key."""
    agreements = _agreements(pyramid, window, side)
    row, column = np.unravel_index(int(agreements.argmax()), agreements.shape)
    return _part(pyramid, window, side, int(row), int(column), float(agreements[row, column]))


def _part(pyramid: _Pyramid, window: Part, side: int, row: int, column: int, score: float) -> Part:
    """The part whose pattern begins at a row and a column of a window, in which rows and columns go round."""
    across, down = (first + GRID / 2 - side / 2 for first in (column, row))
    x, y = _turned(_around(across, side), _around(down, side), window.angle)
    scale = window.side / GRID
    return Part(window.x + x * scale, window.y + y * scale, window.side, window.angle, score)


def _around(offset: float, side: int) -> float:
    """An offset from a window's centre, which goes round where it is beyond the window."""
    return offset - side if offset > side / 2 else offset


def _agreements(pyramid: _Pyramid, window: Part, side: int) -> Array:
    """How a window agrees with the key where the pattern begins at each of its places, ``(side, side)``.

    What :func:`_agreement` says, but for mirrored places, whose correlation is left out.
    """
    grey, inside = pyramid.cut(window, side)
    functions, signs, places = _spectra(side)
    responses = fft.irfft2(fft.rfft2(grey - grey.mean()) * functions, (side, side))
    votes = _votes(responses) * inside
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
    own = _functions()
    for index, (row, column) in enumerate(_BANDS):
        functions[index, :_LENGTH, :_LENGTH] = np.outer(own[row], own[column])
    reach = slice(0, _BLOCKS * _BLOCK, _BLOCK)
    signs[:, reach, reach] = _signs()
    places[reach, reach] = 1
    return fft.rfft2(functions).conj(), fft.rfft2(signs).conj(), fft.rfft2(places).conj()


def _refined(pyramid: _Pyramid, part: Part) -> Part:
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


def _scored(pyramid: _Pyramid, part: Part) -> Part:
    """A part with its agreement with the key."""
    grey, inside = pyramid.cut(part, GRID)
    begins = slice(0, _BLOCKS * _BLOCK, _BLOCK)
    return replace(part, score=_agreement(_coefficients(grey), inside[begins, begins]))


def _turned(x: float, y: float, degrees: float) -> tuple[float, float]:
    """A direction turned by an angle."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return float(cosine * x - sine * y), float(sine * x + cosine * y)


class _Pyramid:
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


def _parts(pyramid: _Pyramid, first: Part) -> tuple[Part, ...]:
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


def _share(height: int, width: int, parts: tuple[Part, ...]) -> float:
    """Of an image's area that parts cover."""
    covered = np.zeros((height, width), np.uint8)
    for part in parts:
        corners = [_turned(x, y, part.angle) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        outline = np.array(corners) * (part.side - 1) / 2 + [part.x - 0.5, part.y - 0.5]  # of the outermost pixels
        cv2.fillConvexPoly(covered, outline.round().astype(np.int32), 1)
    return float(covered.mean())
