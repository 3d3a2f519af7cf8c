"""A photo whose face is moved: its pixels follow its landmarks, and the border of the image stays where it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from facecrafter.faces.rig import Reader, Rig, load

BORDER = 9  # places along each side of the image that do not move
MOST_GROWTH = 8.0  # a triangle whose area grows by more than this shows a smear
TORN = 0.002  # share of an image that may be torn where the head keeps its pose; more is plain to the eye
FLAT = 1e-3  # square pixels; a triangle of less is a line
SHIFT = 4  # bits after the point in the corners that OpenCV draws
Points = NDArray[np.floating]


@dataclass(frozen=True)
class Warped:
    """A photo with a face that is moved.

    Attributes:
        image: ``(S, S, 3)`` uint8 RGB.
        torn: share of the image in triangles that were turned over, that were hidden in the photo, or that are
            stretched to more than :data:`MOST_GROWTH` times their area: a mouth that was shut has no inside to show.
        shown: share of the image in the latter two alone. Those that a turn of the head hides are turned over.
    """

    image: NDArray[np.uint8]
    torn: float
    shown: float


def warped(image: NDArray[np.uint8], points: Points, wanted: Points) -> Warped:
    """A photo with its landmarks moved to where they are wanted, linearly within triangles between them.

    Light stays as it was, and a head that is turned keeps its hair. Where triangles come to lie over each other, the
    nearest is seen.

    Args:
        image: ``(S, S, 3)`` uint8 RGB.
        points: its landmarks, ``(478, 3)`` in pixels, x to the right, y down, z away from the viewer.
        wanted: where they go, ``(478, 3)``.
    """
    import cv2

    side, corners = len(image), _mesh()
    before, after = (np.concatenate([np.asarray(one, np.float64), _border(side)]) for one in (points, wanted))
    areas, grown = (_areas(one[corners, :2]) for one in (before, after))
    places = _places(before[corners, :2], after[corners], grown > FLAT, side)
    made = cv2.remap(image, places[..., 0], places[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    over, hidden = (areas > FLAT) & (grown <= FLAT), (areas < -FLAT) & (grown > FLAT)
    # What was a line, and is no more than a few pixels now, is no hole.
    unseen = hidden | (grown > MOST_GROWTH * np.maximum(np.abs(areas), 1.0))
    shares = np.abs(grown) / side**2
    return Warped(np.asarray(made, np.uint8), float(shares[over | unseen].sum()), float(shares[unseen].sum()))


def moved_points(
    points: Points, now: NDArray[np.floating], wanted: NDArray[np.floating], size: int, rig: Rig, read: Reader,
    yaw: float = 0.0, pitch: float = 0.0,
) -> NDArray[np.float32]:  # fmt: skip
    """Where the landmarks of an aligned photo go for other scores, and a head turned further: ``(478, 3)``.

    Args:
        points: ``(478, 3)`` in pixels.
        now: ``(52,)`` the photo's scores.
        wanted: ``(52,)`` those it is to have.
        size: side of the image in pixels.
        rig: what moves them.
        read: MediaPipe's network, see :func:`facecrafter.estimators.blendshapes.network`.
        yaw, pitch: degrees that the head is turned by.
    """
    straight = rig.straightened([points])
    face, own_yaw, own_pitch = straight.points[0], float(straight.yaw[0]), float(straight.pitch[0])
    scores = np.asarray(read(face[None])[0], np.float64)  # of the face without its pose, which differ a little
    changed = rig.expressed(face, (scores + wanted - now).clip(0, 1), scores, read)[0]
    before = rig.posed(face, own_yaw, own_pitch, size=size)
    after = rig.posed(changed, own_yaw + yaw, own_pitch + pitch, size=size)
    return np.asarray(points + (after - before), np.float32)


@cache
def _mesh() -> NDArray[np.int32]:
    """Triangles between the 478 points and the border, the same for all faces, ``(N, 3)``: on a face that looks
    straight ahead their areas are positive."""
    from scipy.spatial import Delaunay

    rig = load()
    plain = np.concatenate([rig.posed(rig.mean, size=1.0), _border(1)])[:, :2].astype(np.float64)
    corners = Delaunay(plain).simplices
    return np.where((_areas(plain[corners]) < 0)[:, None], corners[:, ::-1], corners)


def _places(
    before: NDArray[np.float64], after: NDArray[np.float64], shown: NDArray[np.bool_], side: int
) -> NDArray[np.float32]:
    """Where each pixel of the moved image is in the photo, ``(S, S, 2)`` as OpenCV counts.

    Args:
        before: corners of the triangles in the photo, ``(N, 3, 2)``.
        after: in the moved image, ``(N, 3, 3)``.
        shown: which triangles face the viewer there and are no lines, ``(N,)``.
        side: of the image in pixels.
    """
    import cv2

    owner = np.full((side, side), -1, np.int32)
    drawn = np.round((after[:, :, :2] - 0.5) * 2**SHIFT).astype(np.int32)
    order = np.argsort(-after[:, :, 2].mean(1))
    for number in order[shown[order]]:
        cv2.fillConvexPoly(owner, drawn[number], int(number), lineType=cv2.LINE_8, shift=SHIFT)
    # Of each triangle the affine map (3, 2) from its place (x, y, 1) in the moved image to that in the photo.
    homogeneous = np.concatenate([after[shown, :, :2], np.ones((int(shown.sum()), 3, 1))], axis=2)
    maps, ends = np.zeros((len(after) + 1, 3, 2)), np.zeros((len(after) + 1, 2, 2))
    maps[:-1][shown] = np.linalg.solve(homogeneous, before[shown])
    ends[:-1] = np.stack([before.min(1), before.max(1)], axis=1)
    maps[-1], ends[-1] = [[1, 0], [0, 1], [0, 0]], [[0, 0], [side, side]]  # what nothing covers, number -1, stays
    rows, columns = np.mgrid[:side, :side] + 0.5
    own, (first, last) = maps[owner], np.moveaxis(ends[owner], 2, 0)
    places = columns[..., None] * own[..., 0, :] + rows[..., None] * own[..., 1, :] + own[..., 2, :]
    # OpenCV draws the edges of a triangle too, whose pixels may lie beyond it, by a pixel at most.
    return np.asarray(np.clip(places, first - 1, last + 1) - 0.5, np.float32)


def _areas(triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The signed areas of triangles ``(N, 3, 2)``."""
    (ax, ay), (bx, by) = (np.moveaxis(triangles[:, corner] - triangles[:, 0], 1, 0) for corner in (1, 2))
    return np.asarray((ax * by - ay * bx) / 2)


def _border(side: int) -> NDArray[np.float64]:
    """Places along the four sides of an image, ``(4 * BORDER - 4, 3)``, behind every face."""
    along = np.linspace(0, side, BORDER)
    first, last = np.zeros(BORDER), np.full(BORDER, float(side))
    sides = [np.stack(pair, axis=1) for pair in ((along, first), (along, last), (first, along), (last, along))]
    flat = np.unique(np.concatenate(sides), axis=0)
    return np.concatenate([flat, np.full((len(flat), 1), 10.0 * side)], axis=1)
