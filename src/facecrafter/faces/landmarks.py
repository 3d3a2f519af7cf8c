"""478 points to the landmark image that conditions pose and expression."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import ConfigError
from facecrafter.faces.face import ffhq_frame

Colour = tuple[int, int, int]


def is_landmarks(value: object) -> TypeGuard[NDArray[np.float32]]:
    """Whether an array is landmarks, ``(478, 2 or 3)``, and not an image."""
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[0] == 478


def check_landmarks(points: NDArray[np.floating]) -> None:
    """Refuse landmarks that cannot be drawn.

    Raises:
        ConfigError: a number is not finite, or all points are in one line.
    """
    if not np.isfinite(points).all() or not np.ptp(points[:, :2], axis=0).all():
        raise ConfigError("the landmarks are no face's; give 478 points, as crafter.face(photo).points has them")


@dataclass(frozen=True)
class DrawingStyle:
    """How the landmark image is drawn. The paper says only that MediaPipe makes it; this is our reading.

    Both eyes (and both brows, both irises) share a colour, so that mirroring an image mirrors its landmark image.

    Attributes:
        tessellation: colour of the mesh that covers the face, which carries the head's turn; None leaves it out.
        oval, brows, eyes, irises, nose, lips: colours of the contours, RGB 0-255.
        width: line width of the contours as a fraction of the image's side (at least one pixel).
        supersample: the image is drawn this many times larger and reduced, so thin lines keep their place.
    """

    tessellation: Colour | None = (72, 72, 72)
    oval: Colour = (224, 224, 224)
    brows: Colour = (255, 140, 0)
    eyes: Colour = (48, 220, 48)
    irises: Colour = (255, 255, 0)
    nose: Colour = (40, 120, 255)
    lips: Colour = (255, 48, 96)
    width: float = 1 / 80
    supersample: int = 2
    background: Colour = field(default=(0, 0, 0))


@lru_cache(maxsize=1)
def connections() -> dict[str, NDArray[np.int32]]:
    """MediaPipe's mesh edges by part, each ``(E, 2)`` landmark numbers."""
    from mediapipe.tasks.python.vision import FaceLandmarksConnections as Mesh

    parts = {
        "tessellation": (Mesh.FACE_LANDMARKS_TESSELATION,),
        "oval": (Mesh.FACE_LANDMARKS_FACE_OVAL,),
        "brows": (Mesh.FACE_LANDMARKS_LEFT_EYEBROW, Mesh.FACE_LANDMARKS_RIGHT_EYEBROW),
        "eyes": (Mesh.FACE_LANDMARKS_LEFT_EYE, Mesh.FACE_LANDMARKS_RIGHT_EYE),
        "irises": (Mesh.FACE_LANDMARKS_LEFT_IRIS, Mesh.FACE_LANDMARKS_RIGHT_IRIS),
        "nose": (Mesh.FACE_LANDMARKS_NOSE,),
        "lips": (Mesh.FACE_LANDMARKS_LIPS,),
    }
    edges = {
        part: np.array([(edge.start, edge.end) for group in groups for edge in group], np.int32)
        for part, groups in parts.items()
    }
    # MediaPipe lists every edge of the tessellation in both directions.
    edges["tessellation"] = np.unique(np.sort(edges["tessellation"], axis=1), axis=0)
    return edges


def draw(
    points: NDArray[np.float32], source_size: float, size: int, style: DrawingStyle = DrawingStyle()
) -> NDArray[np.uint8]:
    """The landmark image of a face: deterministic, the same drawing at any size.

    Args:
        points: ``(478, 2 or 3)`` landmarks in pixels of an aligned image; z is not used.
        source_size: side of that image.
        size: side of the landmark image.
        style: colours and widths.

    Returns:
        ``(size, size, 3)`` uint8 RGB.
    """
    import cv2

    large = size * style.supersample
    canvas = np.full((large, large, 3), style.background, np.uint8)
    # cv2 draws at whole pixels unless given how many binary digits of the coordinates are fractions.
    shift = 4
    fixed = np.round((points[:, :2] * (large / source_size) - 0.5) * 2**shift).astype(np.int32)
    thick = max(1, round(style.width * large))
    for part, edges in connections().items():
        colour = getattr(style, part)
        if colour is None:
            continue
        lines = list(fixed[edges])
        width = max(1, thick // 3) if part == "tessellation" else thick
        cv2.polylines(canvas, lines, False, colour, width, cv2.LINE_AA, shift)
    if large != size:
        canvas = np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    return canvas


def turn(points: NDArray[np.float32], yaw: float = 0.0, pitch: float = 0.0, size: float = 256) -> NDArray[np.float32]:
    """The landmarks of the same face with its head turned further, again on the FFHQ template.

    The points are turned as a rigid body, pitch after yaw, and viewed from far away (orthographically).

    Args:
        points: ``(478, 3)``, x to the right, y down, z away from the viewer, all on one scale.
        yaw: degrees to the image's right.
        pitch: degrees up.
        size: side in pixels of the aligned image that the result belongs to.

    Returns:
        ``(478, 3)`` in pixels of that image.
    """
    across, up = np.radians(yaw), np.radians(pitch)
    about_y = np.array([[np.cos(across), 0, -np.sin(across)], [0, 1, 0], [np.sin(across), 0, np.cos(across)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(up), np.sin(up)], [0, -np.sin(up), np.cos(up)]])
    turned = (points - points.mean(0)) @ (about_x @ about_y).T
    frame = ffhq_frame(turned)
    scale = size / float(np.hypot(*frame[:, 0]))
    turned[:, :2] = (turned[:, :2] - frame[:, 2]) @ np.linalg.inv(frame[:, :2]).T * size
    turned[:, 2] *= scale
    return np.asarray(turned, np.float32)
