"""Emotions read by a network that had no part in training or labels: face-api's.

The judge of emotion is the estimator that labelled the training photos, so that what it reads says that a condition was
followed, in its own reading. This network knows nothing of either.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facecrafter import weights
from facecrafter.evaluation import bootstrap, words
from facecrafter.evaluation.emotion_records import IndependentResult, TargetsRead, WordScores
from facecrafter.evaluation.judges import INDEPENDENT, DetectedFace, Judge, independent_emotion, packaged
from facecrafter.evaluation.measurements import by_judge
from facecrafter.evaluation.metrics import class_agreement
from facecrafter.evaluation.pairs import Pairs
from facecrafter.evaluation.session import Session
from facecrafter.faces.emotion import EMOTIONS

Array = NDArray[np.float64]

FILES = ("face_expression", "face_expression_manifest")

log = logging.getLogger(__name__)


def open_judge() -> Judge[DetectedFace] | None:
    """The network; None, with a note, where its weights are not installed.

    Raises:
        WeightsError: its weights are others than the published ones.
    """
    if all(weights.find(name) for name in FILES):
        return independent_emotion()
    log.warning("%s", _missing())
    return None


def _missing() -> str:
    return (
        "no independent network reads the emotions, for its weights are not installed; "
        f"`facecrafter weights fetch {FILES[0]}` brings them"
    )


def read(
    session: Session,
    judge: Judge[DetectedFace] | None,
    pairs: Pairs,
    driven: Mapping[str, Sequence[Path]],
    people: Sequence[str],
    worded: Mapping[str, Sequence[Path]],
) -> IndependentResult:
    """What the network reads in the images of an evaluation.

    Args:
        session: whose cache keeps what was read.
        judge: of :func:`open_judge`.
        pairs: P pairs of a person and a target's photo.
        driven: by setting, P images for them.
        people: Q names.
        worded: by setting, 8 Q images: of each person, asked for each emotion in words.
    """
    digest = weights.entry(FILES[0]).sha256
    if judge is None:
        return IndependentResult(network=packaged(INDEPENDENT, FILES[0]), sha256=digest, missing=_missing())

    def measured(images: Sequence[Path] | NDArray[np.uint8]) -> Array:
        return by_judge(judge, images, session.config.cache_folder, session.progress)

    prepared = session.prepared
    photos = measured(prepared.images[pairs.target])
    whose = [prepared.persons[row] for row in pairs.identity]
    return IndependentResult(
        network=judge.name,
        sha256=digest,
        words={name: word_scores(measured(images), people) for name, images in worded.items()},
        targets={name: as_targets(measured(images), photos, whose) for name, images in driven.items()},
    )


def word_scores(probabilities: Array, people: Sequence[str]) -> WordScores:
    """The emotions that the network knows, asked in words; images asked for another are left out.

    Args:
        probabilities: ``(8 Q, 7)``: of Q people asked for each of the eight emotions in turn; a row is NaN where no
            face was found.
        people: Q names.
    """
    known = classes()
    asked = probabilities.reshape(len(people), len(EMOTIONS), len(known))
    return words.scores(asked[:, [EMOTIONS.index(name) for name in known]], people, known)


def as_targets(probabilities: Array, photos: Array, people: Sequence[str]) -> TargetsRead:
    """How often the network reads in an image the class that it reads in the target's photo.

    Args:
        probabilities: ``(P, 7)`` of images; a row is NaN where no face was found.
        photos: ``(P, 7)`` of their targets.
        people: whose images they are.
    """
    rows = np.flatnonzero(np.isfinite(probabilities).all(1) & np.isfinite(photos).all(1))
    wanted = photos[rows].argmax(1)
    agree = probabilities[rows].argmax(1) == wanted
    whose = [people[row] for row in rows.tolist()]
    return TargetsRead(
        faces=len(rows),
        agreement=bootstrap.mean(agree, whose),
        by_class=class_agreement(agree, wanted, whose, classes()),
    )


def classes() -> tuple[str, ...]:
    """The emotions that the network knows, in its order."""
    from facecrafter.estimators.face_api import CLASSES

    return CLASSES
