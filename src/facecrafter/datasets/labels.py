"""What made images show: faces, and what the networks read off them, an image's labels from that image alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facecrafter.estimators.emotion_estimator import estimator
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.estimators.identity import recogniser
from facecrafter.faces.emotion import Emotion
from facecrafter.faces.face import ALIGNED_SIZE, Detection, Face, align

# Faces in one call of a network, always exactly so many. The last digits of what a network reads off a face depend on
# how many faces it is given, and on nothing else about them: so labels do not depend on who else is in the batch. Eight
# are a tenth faster than four where a batch is full, and slower at the end of a shard, where few images are left.
TOGETHER = 4


@dataclass(frozen=True)
class Reading:
    """A face that was found in an image.

    Attributes:
        stored: the whole image with the landmarks in its pixels.
        angles: yaw, pitch and roll in degrees.
        embeddings: by the recogniser's name.
        emotion: what it expresses.
    """

    stored: Face
    angles: tuple[float, float, float]
    embeddings: Mapping[str, NDArray[np.float32]]
    emotion: Emotion


class Labeller:
    """Reads made images.

    Args:
        recognisers: the names of those whose embeddings are read.
        arcface: the path of ``arcface.onnx``, where that is one of them.

    Attributes:
        finder, recognisers, estimator: the networks.

    Raises:
        WeightsError: a network's file is missing or another one.
    """

    def __init__(self, recognisers: Sequence[str], arcface: Path | None = None) -> None:
        self.finder = FaceFinder()
        self.recognisers = {name: recogniser(name, arcface, TOGETHER) for name in recognisers}
        self.estimator = estimator()

    def close(self) -> None:
        """Free the landmark network."""
        self.finder.close()

    def read(self, images: Sequence[NDArray[np.uint8]]) -> list[Reading | None]:
        """What is read off images ``(H, W, 3)`` uint8 RGB; None where one shows no face."""
        found = [self._found(image) for image in images]
        aligned = [one[0] for one in found if one is not None]
        embeddings = {name: iter(network.embed(aligned)) for name, network in self.recognisers.items()}
        emotions = iter(self._emotions(aligned))
        readings: list[Reading | None] = []
        for one in found:
            if one is None:
                readings.append(None)
                continue
            face, stored = one
            own = {name: next(rows) for name, rows in embeddings.items()}
            readings.append(Reading(stored, face.angles, own, next(emotions)))
        return readings

    def _found(self, image: NDArray[np.uint8]) -> tuple[Face, Face] | None:
        """The face nearest to an image's middle: aligned, and in the whole image."""
        faces = self.finder.find_all(image)
        if not faces:
            return None
        nearest, others = min(faces, key=lambda face: _off_centre(face, image)), len(faces) - 1
        stored = Face(image, nearest.points, nearest.blendshapes, nearest.pose, nearest.box, others)
        return align(image, nearest, ALIGNED_SIZE, others), stored

    def _emotions(self, faces: Sequence[Face]) -> list[Emotion]:
        """The emotions of faces, by :data:`TOGETHER` of them; the last one fills up where there are fewer."""
        emotions: list[Emotion] = []
        for first in range(0, len(faces), TOGETHER):
            some = faces[first : first + TOGETHER]
            filled = [*some, *[some[-1]] * (TOGETHER - len(some))]
            emotions += self.estimator.estimate(filled)[: len(some)]
        return emotions


def _off_centre(face: Detection, image: NDArray[np.uint8]) -> float:
    return float(np.linalg.norm(face.points[:, :2].mean(0) - np.array(image.shape[1::-1]) / 2))
