"""What was asked of an image, what its landmarks have of it, and what it shows; and the closest of several images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.errors import ConfigError, NoFaceError
from facecrafter.estimators.blendshapes import network
from facecrafter.estimators.identity import Recogniser, recogniser
from facecrafter.faces.asked import ANGLES, CLEARLY
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.face import BLENDSHAPES, Face
from facecrafter.faces.rig import load
from facecrafter.request import Portrait, Progress, Request

if TYPE_CHECKING:
    from facecrafter.pipelines.generate import FaceCrafter

# What an error of 1 is, in degrees: that of a blendshape or of a probability is 1 as it is.
DEGREES = 45.0
MOST = 16  # images of which one is kept
# Whoever gives the condition does not judge it.
JUDGES = {"sface": "dlib"}
OTHERWISE = "sface"


@dataclass(frozen=True)
class Row:
    """One thing that was asked for.

    Attributes:
        kind: ``pose`` in degrees, ``expression`` in [0, 1], or ``emotion``, a probability.
        name: of the angle, the blendshape or the emotion.
        asked: what the image should show.
        rig: what its landmarks show; None where they have no depth, and of an emotion.
        got: what it shows; None where no face was found in it.
    """

    kind: str
    name: str
    asked: float
    rig: float | None
    got: float | None

    @property
    def error(self) -> float:
        """How far the image is from what was asked, from 0 on."""
        away = math.inf if self.got is None else abs(self.got - self.asked)
        return away / DEGREES if self.kind == "pose" else away


@dataclass(frozen=True)
class Report:
    """What became of a request.

    Attributes:
        found: whether the image shows a face.
        rows: what was asked for; none where pose, expression and emotion were left to the model.
        identity: cosine to the person's photos, the mean over them; None where no face was found.
        judge: the recogniser that compared them.
    """

    found: bool
    rows: tuple[Row, ...]
    identity: float | None
    judge: str

    @property
    def distance(self) -> float:
        """How far the image is from what was asked: mean errors of pose, expression and emotion, added up; infinite
        where it shows no face."""
        if not self.found:
            return math.inf
        kinds = {row.kind for row in self.rows}
        return math.fsum(float(np.mean([row.error for row in self.rows if row.kind == kind])) for kind in kinds)

    def data(self) -> dict[str, Any]:
        """The same for JSON, numbers to four decimals."""
        rows = {
            row.name: {"asked": _short(row.asked), "rig": _short(row.rig), "got": _short(row.got)} for row in self.rows
        }
        distance = _short(self.distance) if self.found else None
        return {"controls": rows, "identity": _short(self.identity), "identity by": self.judge, "distance": distance}


class Measurer:
    """Measures images of a model.

    Args:
        crafter: the model, which reads faces too.
    """

    def __init__(self, crafter: FaceCrafter) -> None:
        self._crafter = crafter
        self._people: dict[str, NDArray[np.float32]] = {}

    @cached_property
    def _judge(self) -> Recogniser:
        return recogniser(JUDGES.get(self._crafter.recogniser_name, OTHERWISE))

    def report(self, request: Request, image: NDArray[np.uint8]) -> Report:
        """What an image ``(S, S, 3)`` uint8 RGB shows of its request, whose photos have been read.

        Raises:
            PhotoError, NoFaceError: a photo of the person is gone, where it was not read before.
        """
        face = self.face(image)
        identity = None if face is None else self.likeness(request.identity, face)
        return Report(face is not None, tuple(self._rows(request, face)), identity, self.judge_of(request.identity))

    def face(self, image: NDArray[np.uint8]) -> Face | None:
        """The face of an image ``(S, S, 3)`` uint8 RGB, as it is measured; None where it shows none."""
        try:
            return self._crafter.face(image, "centre")
        except NoFaceError:
            return None

    def judge_of(self, person: Portrait) -> str:
        """The recogniser that compares with a person."""
        return self._judge.name if person.photos else self._crafter.recogniser_name

    def likeness(self, person: Portrait, face: Face) -> float:
        """Cosine of a face to a person's photos, the mean over them; to the embedding where there are none, by what it
        comes from.

        Raises:
            PhotoError, NoFaceError: a photo is gone, where it was not read before.
        """
        if not person.photos:
            return float(self._crafter.embedding(face) @ person.embedding)
        key = f"{person.content('identity')} {person.face}"
        if key not in self._people:
            self._people = {key: self._judge.embed(self._crafter.faces_of(person))}
        return float((self._people[key] @ self._judge.embed([face])[0]).mean())

    def _rows(self, request: Request, face: Face | None) -> list[Row]:
        shape, mood = request.conditions.get("landmark"), request.conditions.get("emotion")
        rows = [] if shape is None else _shape_rows(shape, face)
        asked = shape.asked.emotion if shape is not None and shape.asked is not None else None
        shares = asked.probabilities if asked else () if mood is None else mood.emotion[2:].tolist()
        if len(shares):
            number = int(np.argmax(shares))
            got = None if face is None else float(self._crafter.emotion_of(face).probabilities[number])
            rows.append(Row("emotion", EMOTIONS[number], float(shares[number]), None, got))
        return rows


def _shape_rows(shape: Portrait, face: Face | None) -> list[Row]:
    """Pose and blendshapes: those that were named, or else those that should be clearly there."""
    angles, scores = _of_landmarks(shape)
    pose = shape.angles if shape.angles.size else angles
    wanted = shape.blendshapes if shape.blendshapes.size else scores
    rows = []
    if pose is not None:
        turned = shape.asked is not None and shape.asked.pose is not None and bool(shape.asked.pose.roll)
        for number, name in enumerate(list(ANGLES)[: 3 if turned else 2]):
            rig = None if angles is None or number > 1 else float(angles[number])
            rows.append(Row("pose", name, float(pose[number]), rig, None if face is None else face.angles[number]))
    if wanted is None:
        return rows
    named = shape.asked.expression if shape.asked is not None and not shape.asked.drawn else ()
    clear = (np.flatnonzero(wanted[1:] >= CLEARLY) + 1).tolist()
    numbers = [BLENDSHAPES.index(name) for name in named] or clear
    for place in numbers:
        rig = None if scores is None else float(scores[place])
        got = None if face is None else float(face.blendshapes[place])
        rows.append(Row("expression", BLENDSHAPES[place], float(wanted[place]), rig, got))
    return rows


def _of_landmarks(shape: Portrait) -> tuple[NDArray[np.floating] | None, NDArray[np.floating] | None]:
    """Yaw and pitch ``(2,)`` in degrees and blendshapes ``(52,)`` of landmarks; None where they have no depth."""
    if shape.points.shape[-1] != 3:
        return None, None
    found = load().straightened([shape.points])
    return np.array([found.yaw[0], found.pitch[0]]), network().scores(found.points)[0]


def candidates(request: Request, best_of: int) -> list[Request]:
    """The requests of which one image is kept: it, and the same with seeds that follow from its own.

    Raises:
        ConfigError: it is not from 1 to 16 images, or nothing was asked that an image could be close to.
    """
    if not isinstance(best_of, int) or not 1 <= best_of <= MOST:
        raise ConfigError(f"the best is of 1 to {MOST} images, not of {best_of!r}")
    if best_of > 1 and not request.conditions:
        raise ConfigError("the closest of several images needs something to be close to; ask for a pose or an emotion")
    others = [hashlib.sha256(f"{request.seed} {number}".encode()).hexdigest()[:8] for number in range(1, best_of)]
    return [request, *(replace(request, seed=int(seed, 16)) for seed in others)]


def best_key(key: str, best_of: int) -> str:
    """The key of the image that is kept of several, by that of the first."""
    return key if best_of == 1 else hashlib.sha256(f"{key} best of {best_of}".encode()).hexdigest()[:16]


def closest(reports: Sequence[Report]) -> int:
    """Which of several images is closest to what was asked, of those that are no less like the person than the first.

    The first is the image without a choice, so that choosing never costs identity.
    """
    least = -math.inf if reports[0].identity is None else reports[0].identity
    able = [number for number, one in enumerate(reports) if one.identity is not None and one.identity >= least]
    return min(able, key=lambda number: reports[number].distance, default=0)


def rendered(
    crafter: FaceCrafter, requests: Sequence[Request], best_of: int = 1, progress: Progress | None = None
) -> Iterator[tuple[int, Image.Image]]:
    """Images as :meth:`FaceCrafter.render` makes them, each the closest of several to its request.

    Args:
        crafter: the model.
        requests: whose photos have been read.
        best_of: how many; see :func:`candidates` and :func:`closest`.
        progress: called with the number of requests' worth of work done.

    Yields:
        The number of a request and its image, as soon as its last candidate is made.

    Raises:
        ConfigError: as :func:`candidates`, or a setting cannot be used.
    """
    every = [other for one in requests for other in candidates(one, best_of)]
    share = progress and (lambda amount: progress(amount / best_of))
    made: dict[int, Image.Image] = {}
    for number, image in crafter.render(every, share):
        index, made[number] = number // best_of, image
        own = range(index * best_of, (index + 1) * best_of)
        if not all(one in made for one in own):
            continue
        images = [made.pop(one) for one in own]
        if best_of > 1:
            reports = []
            for one in images:
                if progress:
                    progress(0)  # where a caller may stop
                reports.append(crafter.measurer.report(requests[index], np.asarray(one)))
            images = [images[closest(reports)]]
            images[0].info["facecrafter"] |= {"best of": best_of, "seed of the first": requests[index].seed}
        yield index, images[0]


def _short(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
