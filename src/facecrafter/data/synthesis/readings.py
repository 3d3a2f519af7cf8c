"""What is read off an image of a generated person: the same face, labels and embeddings that `data prepare` stores, and
a few measures that keep an edit from changing anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from facecrafter.errors import NoFaceError
from facecrafter.estimators import identity
from facecrafter.estimators.emotion import PixelEmotion, tight_crop
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces.emotion import EMOTIONS, Emotion
from facecrafter.faces.face import ALIGNED_SIZE, BLENDSHAPES, LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS, Face
from facecrafter.faces.skin import SKIN_POINTS

Array = NDArray[np.float64]

CHIN_POINTS = (199, 200, 175, 208, 428, 171, 396)  # mesh points where a beard darkens the skin
BRIDGE_POINTS = (168, 6, 122, 351)  # of the nose, where a frame of glasses crosses it
PATCH = 0.03  # half the side of the patch around a point, as a share of the image's side
BRIDGE = 0.11  # half the height of the patch on the bridge of the nose, as a share of the distance of the outer corners


@dataclass(frozen=True)
class Reading:
    """One face and what is read off it.

    Attributes:
        face: at 256 px.
        emotion: by the project's own estimator.
        scores: of the eight emotions ``(8,)``: log-likelihoods up to a constant, which know no prior.
        sface: embedding by the judge of whether an edit is still the same person, ``(128,)``.
        dlib: embedding that conditions the model, ``(128,)``.
    """

    face: Face
    emotion: Emotion
    scores: Array
    sface: NDArray[np.float32]
    dlib: NDArray[np.float32]


class Reader:
    """Reads faces off generated images. Use it as a context manager, or call :meth:`close`.

    Raises:
        WeightsError: the file of an estimator is missing or another one.
    """

    def __init__(self) -> None:
        self._finder = FaceFinder(max_faces=2)
        self._sface, self._dlib = identity.sface(), identity.DlibRecogniser()
        self.estimator = PixelEmotion()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the landmarker. Closing twice is fine."""
        self._finder.close()

    def read(self, image: NDArray[np.uint8]) -> Reading | None:
        """The reading of an image ``(S, S, 3)`` uint8 RGB; None where it shows no face."""
        try:
            face = self._finder.find(image, ALIGNED_SIZE)
            scores, emotion = self._emotion(face)
        except NoFaceError:
            return None
        return Reading(face, emotion, scores, self._sface.embed([face])[0], self._dlib.embed([face])[0])

    def _emotion(self, face: Face) -> tuple[Array, Emotion]:
        network, crop = self.estimator.network, tight_crop(face.image, face.points)
        with torch.inference_mode():
            scores = network.joint_scores(self.estimator.scores(crop[None]), face.blendshapes[None])
            shares = network.probabilities(scores, joint=True)[0].double().numpy()
        return scores[0].double().numpy(), Emotion.from_probabilities(shares / shares.sum())


def blendshapes(*names: str) -> Callable[[Reading], float]:
    """A measure: the mean of some blendshapes, in [0, 1]."""
    places = [BLENDSHAPES.index(name) for name in names]
    return lambda reading: float(reading.face.blendshapes[places].mean())


def gaze(left: Sequence[str], right: Sequence[str]) -> Callable[[Reading], float]:
    """A measure: what some blendshapes have more than others, in [-1, 1]."""
    first, second = blendshapes(*left), blendshapes(*right)
    return lambda reading: first(reading) - second(reading)


def lead(emotion: str) -> Callable[[Reading], float]:
    """A measure: how far an emotion's score is above the mean of the others'."""
    place = EMOTIONS.index(emotion)
    return lambda reading: float(reading.scores[place] - np.delete(reading.scores, place).mean())


def lightness(reading: Reading) -> float:
    """Median L* of CIELAB of the skin, 0 to 100."""
    return float(_colour(reading.face, SKIN_POINTS)[0])


def redness(reading: Reading) -> float:
    """Median a* of CIELAB of the skin."""
    return float(_colour(reading.face, SKIN_POINTS)[1])


def beard(reading: Reading) -> float:
    """How much darker the chin is than the rest of the skin, in L*: a proxy for a beard."""
    return lightness(reading) - float(_colour(reading.face, CHIN_POINTS)[0])


def glasses(reading: Reading) -> float:
    """The logarithm of the strongest horizontal edge on the bridge of the nose: a proxy for glasses."""
    import cv2

    image, points = reading.face.image, reading.face.points
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1)
    half = BRIDGE * float(np.linalg.norm(points[RIGHT_EYE_CORNERS[0], :2] - points[LEFT_EYE_CORNERS[0], :2]))
    x, y = points[list(BRIDGE_POINTS), :2].mean(0)
    rows, columns = _span(y, 1.3 * half, len(image)), _span(x, 0.5 * half, len(image))
    return float(np.log1p(np.abs(np.diff(grey[rows, columns], axis=0)).max(0).mean()))


def _colour(face: Face, numbers: Sequence[int]) -> NDArray[np.float32]:
    """The median CIELAB colour ``(3,)`` of patches around some points."""
    import cv2

    side = len(face.image)
    colours = cv2.cvtColor(face.image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    patches = [
        colours[_span(y, PATCH * side, side), _span(x, PATCH * side, side)].reshape(-1, 3)
        for x, y in face.points[list(numbers), :2]
    ]
    return np.asarray(np.median(np.concatenate(patches), axis=0), np.float32)


def _span(middle: float, half: float, side: int) -> slice:
    """Pixels around a place, at least three and inside the image."""
    half = max(1, round(half))
    place = int(np.clip(middle, half, side - half - 1))
    return slice(place - half, place + half + 1)


# What directions are fitted to, by name.
MEASURES: dict[str, Callable[[Reading], float]] = {
    "yaw": lambda reading: reading.face.angles[0],
    "pitch": lambda reading: reading.face.angles[1],
    "smile": blendshapes("mouthSmileLeft", "mouthSmileRight"),
    "jawOpen": blendshapes("jawOpen"),
    "browDown": blendshapes("browDownLeft", "browDownRight"),
    "browInnerUp": blendshapes("browInnerUp"),
    "browOuterUp": blendshapes("browOuterUpLeft", "browOuterUpRight"),
    "eyeBlink": blendshapes("eyeBlinkLeft", "eyeBlinkRight"),
    "eyeWide": blendshapes("eyeWideLeft", "eyeWideRight"),
    "squint": blendshapes("eyeSquintLeft", "eyeSquintRight"),
    "mouthFrown": blendshapes("mouthFrownLeft", "mouthFrownRight"),
    "mouthPress": blendshapes("mouthPressLeft", "mouthPressRight"),
    "mouthPucker": blendshapes("mouthPucker"),
    "upperLipUp": blendshapes("mouthUpperUpLeft", "mouthUpperUpRight"),
    "lowerLipDown": blendshapes("mouthLowerDownLeft", "mouthLowerDownRight"),
    "mouthStretch": blendshapes("mouthStretchLeft", "mouthStretchRight"),
    "mouthShrug": blendshapes("mouthShrugLower", "mouthShrugUpper"),
    "noseSneer": blendshapes("noseSneerLeft", "noseSneerRight"),
    "oneSidedSmile": gaze(["mouthSmileLeft", "mouthDimpleLeft"], ["mouthSmileRight", "mouthDimpleRight"]),
    "gazeRight": gaze(["eyeLookInLeft", "eyeLookOutRight"], ["eyeLookOutLeft", "eyeLookInRight"]),
    "gazeUp": gaze(["eyeLookUpLeft", "eyeLookUpRight"], ["eyeLookDownLeft", "eyeLookDownRight"]),
    "lightness": lightness,
    "redness": redness,
    "beard": beard,
    "glasses": glasses,
    **{emotion: lead(emotion) for emotion in EMOTIONS},
}
