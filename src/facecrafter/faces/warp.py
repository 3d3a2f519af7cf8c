"""A photo whose face is moved: its pixels follow its landmarks, and the rest of the image stays where it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BORDER = 9  # places along each side of the image that do not move
MESH = 468  # the first of the 478 points; the others are irises
Points = NDArray[np.floating]


@dataclass(frozen=True)
class Warped:
    """A photo with a face that is moved.

    Attributes:
        image: ``(S, S, 3)`` uint8 RGB.
        folded: share of the image in triangles that are turned over: what is seen there is torn.
    """

    image: NDArray[np.uint8]
    folded: float


def warped(image: NDArray[np.uint8], points: Points, wanted: Points, mean: Points) -> Warped:
    """A photo with its landmarks moved to where they are wanted, linearly within triangles between them.

    A mouth that is shut has no inside to show, and light stays as it was; a head that is turned keeps its hair. Points
    that a turn hides do not count.

    Args:
        image: ``(S, S, 3)`` uint8 RGB.
        points: its landmarks, ``(478, 3)`` in pixels.
        wanted: where they go, ``(478, 3)``.
        mean: the mean face ``(478, 3)``, frontal, see :func:`facecrafter.faces.canonical.mean_face`.
    """
    import cv2
    from scipy.interpolate import LinearNDInterpolator
    from scipy.spatial import Delaunay

    side = len(image)
    seen, border = facing(wanted, mean), _border(side)
    before = np.concatenate([np.asarray(points, np.float64)[seen, :2], border])
    after = np.concatenate([np.asarray(wanted, np.float64)[seen, :2], border])
    triangles = Delaunay(after)
    rows, columns = np.mgrid[:side, :side] + 0.5
    places = LinearNDInterpolator(triangles, before)(columns, rows)
    # Pixels beyond the outermost points, half a pixel wide, stay.
    places = np.where(np.isfinite(places), places, np.stack([columns, rows], axis=2)).astype(np.float32) - 0.5
    made = cv2.remap(image, places[..., 0], places[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    over = _areas(after[triangles.simplices]), _areas(before[triangles.simplices])
    torn = np.abs(over[0])[over[0] * over[1] < 0].sum() / side**2
    return Warped(np.asarray(made, np.uint8), float(torn))


def facing(points: Points, mean: Points) -> NDArray[np.bool_]:
    """Which points of a face ``(478, 3)`` are on a side that faces the viewer, ``(478,)``: some triangle at them does.
    Irises always are.

    Args:
        points: x to the right, y down, z away from the viewer, on one scale.
        mean: the mean face, frontal, whose triangles are taken.
    """
    from scipy.spatial import Delaunay

    corners = Delaunay(np.asarray(mean, np.float64)[:MESH, :2]).simplices
    same = _areas(np.asarray(points, np.float64)[corners, :2]) * _areas(np.asarray(mean, np.float64)[corners, :2]) > 0
    found = np.zeros(len(points), np.bool_)
    found[corners[same]] = True
    found[MESH:] = True
    return found


def _areas(triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The signed areas of triangles ``(N, 3, 2)``."""
    (ax, ay), (bx, by) = (np.moveaxis(triangles[:, corner] - triangles[:, 0], 1, 0) for corner in (1, 2))
    return np.asarray((ax * by - ay * bx) / 2)


def _border(side: int) -> NDArray[np.float64]:
    """Places along the four sides of an image, ``(4 * BORDER - 4, 2)``."""
    along = np.linspace(0, side, BORDER)
    first, last = np.zeros(BORDER), np.full(BORDER, float(side))
    sides = [np.stack(pair, axis=1) for pair in ((along, first), (along, last), (first, along), (last, along))]
    return np.unique(np.concatenate(sides), axis=0)
