"""What an independent network reads: each number against a case whose answer is known; and a missing network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from facecrafter.estimators import face_api
from facecrafter.estimators.face_api import CLASSES
from facecrafter.evaluation import independent, judges
from facecrafter.evaluation.judges import DetectedFace
from facecrafter.evaluation.record import Interval
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.face import Face

SURE, NEVER = Interval(1.0, 1.0, 1.0), Interval(0.0, 0.0, 0.0)
PEOPLE = ["Ann", "Bob", "Cid"]


def read_as(*classes: str) -> np.ndarray:
    """Images that are read so, in this order."""
    return np.eye(len(CLASSES))[[CLASSES.index(name) for name in classes]]


def test_the_seven_classes_are_of_the_eight() -> None:
    assert set(EMOTIONS) - set(CLASSES) == {"contempt"} and len(CLASSES) == len(set(CLASSES)) == 7


def test_obeyed_words_are_read_as_asked_and_contempt_does_not_count() -> None:
    each = read_as(*("neutral" if name == "contempt" else name for name in EMOTIONS))
    scores = independent.word_scores(np.tile(each, (3, 1)), PEOPLE)
    assert list(scores.classes) == list(CLASSES) and scores.images == 3 * 7
    assert scores.mean.read_as_asked == SURE and scores.mean.auc == SURE
    assert all(one.faces == 3 and one.read_as_asked == SURE for one in scores.classes.values())


def test_words_are_counted_class_by_class() -> None:
    """Every image is read as angry, but for one person's frightened one; one has no face."""
    read = np.tile(read_as(*["anger"] * len(EMOTIONS)), (3, 1))
    read[8 + EMOTIONS.index("fear")] = read_as("fear")[0]
    read[16 + EMOTIONS.index("sad")] = np.nan
    scores = independent.word_scores(read, PEOPLE)
    assert scores.classes["anger"].read_as_asked == SURE and scores.classes["happy"].read_as_asked == NEVER
    fear = scores.classes["fear"]
    assert fear.read_as_asked.value == pytest.approx(1 / 3) and (fear.read["anger"], fear.read["fear"]) == (2, 1)
    assert scores.classes["sad"].faces == 2 and scores.classes["sad"].read_as_asked.value == 0
    assert scores.face_found == pytest.approx(20 / 21)
    assert scores.mean.read_as_asked.value == pytest.approx((1 + 1 / 3) / 7)


def test_targets_are_compared_with_what_is_read_in_their_photos() -> None:
    photos = read_as("happy", "happy", "sad", "sad", "fear")
    images = read_as("happy", "sad", "sad", "sad", "fear")
    images[3] = photos[4] = np.nan  # no face in either
    found = independent.as_targets(images, photos, ["Ann", "Ann", "Bob", "Bob", "Cid"])
    assert found.faces == 3 and found.agreement.value == pytest.approx(2 / 3)
    assert found.agreement.low == 0.5 and found.agreement.high == 1  # by people: Ann has one of two, Bob one of one
    assert {name: (one.faces, one.agreement.value) for name, one in found.by_class.items()} == {
        "happy": (2, 0.5),
        "sad": (1, 1.0),
    }
    nobody = independent.as_targets(np.full((2, 7), np.nan), photos[:2], ["Ann", "Bob"])
    assert (nobody.faces, nobody.agreement, nobody.by_class) == (0, Interval(), {})


def test_without_its_weights_a_note_says_how_to_get_them(notes: Callable[[], list[str]]) -> None:
    assert independent.open_judge() is None
    (note,) = notes()
    assert "weights are not installed; `facecrafter weights fetch face_expression` brings them" in note


def test_the_judge_reads_faces_by_the_network(
    monkeypatch: pytest.MonkeyPatch, face: Face, notes: Callable[[], list[str]]
) -> None:
    network = face_api.FaceApi().eval()
    monkeypatch.setattr(face_api, "load", lambda: network)
    monkeypatch.setattr(independent.weights, "find", lambda name: name)
    judge = independent.open_judge()
    assert judge is not None and judge.name == "face-api (9a9840f2)" and judge.width == 7 and not notes()
    read = judge.read([DetectedFace(face.image, face.points, face)] * 2)
    expected = face_api.FaceApiReader(network).read([face.image], [face.points])
    np.testing.assert_allclose(read, np.repeat(expected, 2, axis=0), rtol=1e-5)
    assert "emotion" in judges.FACE_JUDGES and judge.name not in judges.FACE_JUDGES["emotion"]
