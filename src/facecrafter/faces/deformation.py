"""A face's own landmarks with another expression, by moving mesh points: simple, and nobody else's face is needed.

Lengths are measured in the distance between the outer corners of the eyes. Every function takes ``(478, 3)`` points and
returns new ones; :func:`facecrafter.faces.landmarks.turn` with no angles puts them back on the FFHQ template.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from facecrafter.faces.face import LEFT_EYE_CORNERS, MOUTH_CORNERS, RIGHT_EYE_CORNERS
from facecrafter.faces.landmarks import connections

Points = NDArray[np.float32]

# The lips' inner edges and the lids' edges, above and below, in pairs.
_UPPER_LIP, _LOWER_LIP = (191, 80, 81, 82, 13, 312, 311, 310, 415), (95, 88, 178, 87, 14, 317, 402, 318, 324)
_UPPER_LIDS = (246, 161, 160, 159, 158, 157, 173, 466, 388, 387, 386, 385, 384, 398)
_LOWER_LIDS = (7, 163, 144, 145, 153, 154, 155, 249, 390, 373, 374, 380, 381, 382)


def open_mouth(points: Points, amount: float = 0.22) -> Points:
    """The jaw dropped by ``amount``."""
    unit = _unit(points)
    x, y = points[:, 0], points[:, 1]
    corners = points[list(MOUTH_CORNERS)]
    edge = np.stack([corners[0], *(points[list(_UPPER_LIP)] + points[list(_LOWER_LIP)]) / 2, corners[1]])
    edge = edge[np.argsort(edge[:, 0])]
    below = y - np.interp(x, edge[:, 0], edge[:, 1])
    across = x - corners[:, 0].mean()
    half = abs(float(corners[1, 0] - corners[0, 0])) / 2
    # The lower lip hangs between its corners; the chin goes all the way; the cheeks follow a little.
    lip = (below > 0) * (1 - (across / half) ** 2).clip(0)
    jaw = (below / (0.5 * unit)).clip(0, 1) * np.exp(-0.5 * (across / (0.6 * unit)) ** 2)
    return _moved(points, np.maximum(lip, jaw)[:, None] * (0, amount * unit, 0))


def smile(points: Points, amount: float = 0.12) -> Points:
    """The corners of the mouth drawn apart and up by ``amount``; a negative one draws them down and together."""
    unit = _unit(points)
    moved = points
    for corner, side in zip(MOUTH_CORNERS, (-1, 1), strict=True):
        near = _nearness(points, [corner], 0.16 * unit)
        moved = _moved(moved, near[:, None] * (side * 0.5 * amount * unit, -amount * unit, 0))
    return moved


def purse_lips(points: Points, amount: float = 0.4) -> Points:
    """The lips closed, and narrower by the share ``amount``."""
    shut = points.copy()
    shut[list(_UPPER_LIP)] = shut[list(_LOWER_LIP)] = (points[list(_UPPER_LIP)] + points[list(_LOWER_LIP)]) / 2
    near = _nearness(points, np.unique(connections()["lips"]), 0.08 * _unit(points))
    middle = points[list(MOUTH_CORNERS), 0].mean()
    shut[:, 0] -= amount * near * (points[:, 0] - middle)
    return shut


def raise_brows(points: Points, amount: float = 0.12) -> Points:
    """The brows up by ``amount``; a negative one lowers them."""
    unit = _unit(points)
    near = _nearness(points, np.unique(connections()["brows"]), 0.06 * unit)
    return _moved(points, near[:, None] * (0, -amount * unit, 0))


def close_eyes(points: Points) -> Points:
    """The upper lids down on the lower ones."""
    shut = points.copy()
    shut[list(_UPPER_LIDS)] = points[list(_LOWER_LIDS)]
    return shut


EXPRESSIONS: dict[str, Callable[[Points], Points]] = {
    "mouth open": open_mouth,
    "smile": smile,
    "mouth down": lambda points: smile(purse_lips(points, 0.0), -0.1),
    "lips pursed": purse_lips,
    "brows raised": raise_brows,
    "eyes closed": close_eyes,
}


def _unit(points: Points) -> float:
    """The distance between the outer corners of the eyes."""
    return float(np.linalg.norm(points[LEFT_EYE_CORNERS[0]] - points[RIGHT_EYE_CORNERS[0]]))


def _nearness(points: Points, centres: NDArray[np.int32] | list[int], radius: float) -> NDArray[np.float64]:
    """1 at the centres, falling off around the nearest of them as a Gaussian, ``(478,)``."""
    squares = ((points[:, None, :2] - points[None, centres, :2]) ** 2).sum(-1).min(1)
    return np.asarray(np.exp(-squares / (2 * radius**2)), np.float64)


def _moved(points: Points, by: NDArray[np.float64]) -> Points:
    return (points + by).astype(np.float32)
