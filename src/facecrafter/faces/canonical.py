"""A face without its pose: landmarks turned, scaled and moved to where the mean face is frontal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facecrafter.faces.face import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS
from facecrafter.faces.symmetry import LANDMARKS

# Points that an expression moves little, and how much each counts: MediaPipe's own choice for the head's pose, from the
# geometry metadata inside its face landmarker (procrustes_landmark_basis), so that poses agree with what it reads.
# fmt: off
STABLE = {
    4: 0.0709, 6: 0.0321, 10: 0.0084, 33: 0.0587, 54: 0.0077, 67: 0.0091, 117: 0.0098, 119: 0.0146, 121: 0.0186,
    127: 0.0052, 129: 0.1206, 132: 0.0056, 133: 0.0533, 136: 0.0669, 143: 0.0148, 147: 0.0143, 198: 0.0255, 205: 0.0473,
    263: 0.0587, 284: 0.0077, 297: 0.0091, 346: 0.0098, 348: 0.0146, 350: 0.0186, 356: 0.0052, 358: 0.1206, 361: 0.0056,
    362: 0.0533, 365: 0.0669, 372: 0.0148, 376: 0.0143, 420: 0.0255, 425: 0.0473,
}
# fmt: on
_NUMBERS = list(STABLE)
_SHARES = np.array(list(STABLE.values())) / sum(STABLE.values())
# Rounds of averaging after which the mean face no longer changes.
ROUNDS = 4

Points = NDArray[np.floating]


@dataclass(frozen=True)
class Straightened:
    """Faces without their poses.

    Attributes:
        points: ``(B, 478, 3)`` in units of the mean face, whose outer corners of the eyes are 1 apart; x to the image's
            right, y down, z away from the viewer.
        yaw, pitch: ``(B,)`` degrees that were taken out, with the signs of
            :func:`facecrafter.faces.face.head_angles`. They are those of the points as a rigid body.
    """

    points: NDArray[np.float64]
    yaw: NDArray[np.float64]
    pitch: NDArray[np.float64]


def straightened(points: Points, mean: Points) -> Straightened:
    """Take the pose out of faces: the similarity that brings the stable points nearest to the mean face's.

    Args:
        points: ``(B, 478, 3)``, all three coordinates on one scale.
        mean: ``(478, 3)``, the mean face.
    """
    given = np.asarray(points, np.float64)
    wanted, found = mean[_NUMBERS], given[:, _NUMBERS]
    middle, middles = _SHARES @ wanted, np.einsum("n,bni->bi", _SHARES, found)
    wanted, found = wanted - middle, found - middles[:, None]
    left, sizes, right = np.linalg.svd(np.einsum("bni,n,nj->bij", found, _SHARES, wanted))
    signs = np.ones((len(given), 3))
    signs[:, 2] = np.sign(np.linalg.det(left @ right))  # a turn, not a mirror
    turns = (left * signs[:, None]) @ right
    scales = (sizes * signs).sum(1) / float(_SHARES @ (wanted**2).sum(1))
    flat = np.einsum("bji,bnj->bni", turns, given - middles[:, None]) / scales[:, None, None] + middle
    forward = -turns[:, :, 2]
    yaw = np.degrees(np.arctan2(forward[:, 0], -forward[:, 2]))
    pitch = np.degrees(np.arctan2(-forward[:, 1], np.hypot(forward[:, 0], forward[:, 2])))
    return Straightened(flat, yaw, pitch)


def turned(points: Points, yaw: float, pitch: float) -> NDArray[np.float64]:
    """Straightened points ``(478, 3)`` of a head that is turned: the opposite of :func:`straightened`.

    Args:
        points: as there.
        yaw: degrees to the image's right.
        pitch: degrees up.
    """
    across, up = np.radians(yaw), np.radians(pitch)
    about_y = np.array([[np.cos(across), 0, -np.sin(across)], [0, 1, 0], [np.sin(across), 0, np.cos(across)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(up), np.sin(up)], [0, -np.sin(up), np.cos(up)]])
    return np.asarray(points @ (about_y @ about_x).T, np.float64)


def mirrored(points: Points) -> NDArray[np.float64]:
    """Straightened faces ``(..., 478, 3)`` in a mirror."""
    return np.asarray(points[..., list(LANDMARKS), :] * [-1.0, 1.0, 1.0], np.float64)


def mean_face(points: Points) -> NDArray[np.float64]:
    """The mean of faces ``(B, 478, 3)`` without their poses: symmetric, its outer corners of the eyes 1 apart and
    their middle at the origin, ``(478, 3)``. The faces should be about frontal."""
    mean = _normal(np.asarray(points, np.float64).mean(0))
    for _ in range(ROUNDS):
        mean = _normal(straightened(points, mean).points.mean(0))
    return mean


def _normal(face: Points) -> NDArray[np.float64]:
    """A face ``(478, 3)`` that is about frontal, made symmetric, of unit width at unit place."""
    corners = [RIGHT_EYE_CORNERS[0], LEFT_EYE_CORNERS[0]]
    centred = face - face[corners].mean(0)
    symmetric = (centred + mirrored(centred)) / 2
    return np.asarray(symmetric / np.linalg.norm(symmetric[corners[0]] - symmetric[corners[1]]), np.float64)
