"""Photo to aligned face: finding the face, cutting it out on the FFHQ template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.errors import ConfigError, NoFaceError
from facecrafter.faces.photo import load_photo as load_photo  # its public name is here
from facecrafter.faces.photo import to_rgb as to_rgb

Choice = Literal["largest", "centre"]
# Which of several faces: by a rule, by its number from 1, the largest, on, or by a point in it in pixels of the photo.
Pick = Choice | int | tuple[float, float]

# How many faces a photo may have; MediaPipe wants a number.
MOST_FACES = 100

# Recognisers and the emotion estimator see the face at this size, in training, in use and in evaluation.
ALIGNED_SIZE = 256
CV2_SIDE = 2**15 - 2  # pixels of a side that OpenCV can take an image out of

# Landmark numbers of MediaPipe's 478-point mesh. "Right" and "left" are the person's own.
RIGHT_EYE_CORNERS = (33, 133)  # outer, inner
LEFT_EYE_CORNERS = (263, 362)
RIGHT_EYE = (33, 133, 159, 145)
LEFT_EYE = (263, 362, 386, 374)
MOUTH_CORNERS = (61, 291)
NOSE_TIP = 1
NOSE_BASE = 2


@dataclass(frozen=True)
class Detection:
    """One face in a photo, before alignment.

    Attributes:
        points: ``(478, 3)`` float32, x and y in pixels of the photo, z on the same scale (smaller is nearer).
        blendshapes: ``(52,)`` float32 in [0, 1], in MediaPipe's order; see :data:`BLENDSHAPES`.
        pose: ``(4, 4)`` float32, canonical head to camera (x right, y up, z to the viewer), centimetres.
    """

    points: NDArray[np.float32]
    blendshapes: NDArray[np.float32]
    pose: NDArray[np.float32]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the points, in pixels of the photo."""
        low, high = self.points[:, :2].min(0), self.points[:, :2].max(0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    @property
    def area(self) -> float:
        """Of the box, in square pixels of the photo."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)

    @property
    def middle(self) -> tuple[int, int]:
        """Of the box, x and y in whole pixels of the photo."""
        left, top, right, bottom = self.box
        return round((left + right) / 2), round((top + bottom) / 2)


@dataclass(frozen=True)
class Face:
    """One aligned face.

    Attributes:
        image: ``(S, S, 3)`` uint8 RGB, on the FFHQ template.
        points: ``(478, 3)`` float32 landmarks in pixels of ``image``, z on the same scale.
        blendshapes: ``(52,)`` float32 in [0, 1].
        pose: ``(4, 4)`` float32, as in :class:`Detection` (of the photo, before alignment turned it upright).
        box: the face's place in the photo: left, top, right, bottom in pixels.
        others: how many further faces the photo had.
    """

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    blendshapes: NDArray[np.float32]
    pose: NDArray[np.float32]
    box: tuple[float, float, float, float]
    others: int = 0

    @property
    def angles(self) -> tuple[float, float, float]:
        """Yaw, pitch and roll in degrees; see :func:`head_angles`."""
        return head_angles(self.pose)

    def resized(self, size: int) -> Face:
        """The same face at ``size`` pixels a side."""
        scale = size / len(self.image)
        if scale == 1:
            return self
        image = np.asarray(Image.fromarray(self.image).resize((size, size), Image.Resampling.LANCZOS))
        return Face(image, (self.points * scale).astype(np.float32), self.blendshapes, self.pose, self.box, self.others)


def head_angles(pose: NDArray[np.float32]) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees of a 4x4 head pose.

    Yaw is positive when the face is turned to the image's right, pitch when it is raised, roll when the head is turned
    counter-clockwise in the image.
    """
    turn = pose[:3, :3] / np.linalg.norm(pose[:3, :3], axis=0, keepdims=True)
    forward = turn[:, 2]
    yaw = np.arctan2(forward[0], forward[2])
    pitch = np.arctan2(forward[1], np.hypot(forward[0], forward[2]))
    roll = np.arctan2(turn[1, 0], turn[1, 1])
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


def ffhq_frame(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The FFHQ crop of a face: its frame as a ``(2, 3)`` matrix from the unit square to pixels of the photo.

    The rule is FFHQ's own (Karras et al., 2019, data preparation): twice the distance of the eyes or 1.8 times that
    from eyes to mouth, whichever is larger, around a centre a tenth of the way down. Eye centres are the mean of four
    mesh points instead of dlib's six.
    """
    flat = points[:, :2].astype(np.float64)
    right, left = flat[list(RIGHT_EYE)].mean(0), flat[list(LEFT_EYE)].mean(0)
    mouth = flat[list(MOUTH_CORNERS)].mean(0)
    eyes, eye_to_eye = (right + left) / 2, left - right
    eye_to_mouth = mouth - eyes
    across = eye_to_eye - np.array([-eye_to_mouth[1], eye_to_mouth[0]])
    across /= max(np.hypot(*across), 1e-9)
    across *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
    down = np.array([-across[1], across[0]])
    centre = eyes + eye_to_mouth * 0.1
    return np.stack([2 * across, 2 * down, centre - across - down], axis=1)


def align(photo: NDArray[np.uint8], detection: Detection, size: int, others: int = 0) -> Face:
    """Cut a detected face out of its photo on the FFHQ template, ``size`` pixels a side.

    Places beyond the photo's border repeat its edge. A crop larger than ``size`` is cut at a multiple of it and
    reduced, so that nothing aliases.
    """
    import cv2

    frame = ffhq_frame(detection.points)
    side = float(np.hypot(*frame[:, 0]))
    working = size * max(2, int(np.ceil(side / size))) if side < 16 * size else size * 16
    to_photo = frame @ np.diag([1 / working, 1 / working, 1.0])
    # cv2 addresses pixel centres by whole numbers, this frame by halves.
    to_photo[:, 2] += (to_photo[:, 0] + to_photo[:, 1]) / 2 - 0.5
    if max(photo.shape[:2]) > CV2_SIDE:
        photo, corner = _around(photo, frame)
        to_photo[:, 2] -= corner
    way = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(photo, to_photo, (working, working), flags=way, borderMode=cv2.BORDER_REPLICATE)
    image = np.asarray(Image.fromarray(cut).resize((size, size), Image.Resampling.LANCZOS))
    inverse = np.linalg.inv(frame[:, :2])
    points = np.empty_like(detection.points)
    points[:, :2] = (detection.points[:, :2] - frame[:, 2]) @ inverse.T * size
    points[:, 2] = detection.points[:, 2] * (size / side)
    return Face(image, points.astype(np.float32), detection.blendshapes, detection.pose, detection.box, others)


def _around(photo: NDArray[np.uint8], frame: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The part of a photo that a frame lies in, with what interpolation needs around it, and x and y of its corner."""
    ends = (frame @ np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]])).T
    most = np.array(photo.shape[1::-1]) - 1
    low = np.clip(np.floor(ends.min(0)) - 8, 0, most).astype(np.int64)
    high = np.clip(np.ceil(ends.max(0)) + 8, low, most).astype(np.int64) + 1
    return photo[low[1] : high[1], low[0] : high[0]], low


def square_crop(image: NDArray[np.uint8], middle: NDArray[np.float64], side: float, size: int) -> NDArray[np.uint8]:
    """A square out of an image, resampled; where it reaches beyond, the image's edge is repeated.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)`` uint8.
        middle: x and y of its middle in pixels; the middle of the first pixel is at 0.5.
        side: of the square in pixels.
        size: of the result in pixels.
    """
    import cv2

    scale = size / side
    # cv2 addresses pixel centres by whole numbers.
    shift = size / 2 - 0.5 - scale * (middle - 0.5)
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    crop = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, np.uint8)


def check_pick(choose: Pick) -> None:
    """Refuse what is no way to pick a face.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(choose, str):
        if choose not in get_args(Choice):
            raise ConfigError(f"choose '{choose}' is not one of {', '.join(get_args(Choice))}")
    elif isinstance(choose, tuple):
        if len(choose) != 2 or not np.isfinite(choose).all():
            raise ConfigError(f"a face is at a point of two numbers, x and y in pixels, not at {choose}")
    elif not isinstance(choose, int) or choose < 1:
        raise ConfigError(f"a face's number must be at least 1, which is the largest, not {choose}")


def picked(faces: Sequence[Detection], choose: Pick, photo: NDArray[np.uint8], name: object = "the image") -> int:
    """The index of the face that is meant.

    Args:
        faces: of one photo, the largest first; at least one.
        choose: which of them.
        photo: the photo, ``(H, W, 3)``.
        name: what to call it in an error.

    Raises:
        NoFaceError: there is no face of that number, or at that point.
        ConfigError: ``choose`` cannot be used.
    """
    check_pick(choose)
    if choose == "largest":
        return 0
    if isinstance(choose, str):
        centre = np.array([photo.shape[1] / 2, photo.shape[0] / 2])
        return int(np.argmin([np.linalg.norm(face.points[:, :2].mean(0) - centre) for face in faces]))
    places = ", ".join(f"{number} at {face.middle}" for number, face in enumerate(faces[:_NAMED_FACES], 1))
    more = ", and more" if len(faces) > _NAMED_FACES else ""
    if isinstance(choose, int):
        if choose > len(faces):
            raise NoFaceError(f"there is no face {choose} in {name}, which shows {places}{more}")
        return choose - 1
    x, y = choose
    around = [index for index, face in enumerate(faces) if _inside(face, x, y)]
    if not around:
        raise NoFaceError(f"there is no face at ({x:g}, {y:g}) in {name}, which shows {places}{more}")
    return min(around, key=lambda index: float(np.hypot(*np.subtract(faces[index].middle, choose))))


_NAMED_FACES = 10  # in an error


def _inside(face: Detection, x: float, y: float) -> bool:
    left, top, right, bottom = face.box
    return left <= x <= right and top <= y <= bottom


BLENDSHAPES = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthSmileLeft", "mouthSmileRight",
    "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight",
)  # fmt: skip
