"""What a person is asked for, how far an edit goes, and what is read off an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from facecrafter.data.synthesis import directions, people
from facecrafter.data.synthesis.people import EXPRESSIONS, Edit, Made, Maker, edits, likelihood
from facecrafter.data.synthesis.readings import MEASURES, Reader, Reading
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.face import Face


@pytest.fixture(scope="module")
def reading(astronaut: NDArray[np.uint8]) -> Reading:
    with Reader() as reader:
        found = reader.read(astronaut)
    assert found is not None
    return found


def test_a_reading_is_of_the_face(reading: Reading, face: Face) -> None:
    assert reading.face.image.shape == (256, 256, 3)
    assert np.linalg.norm(reading.sface) == pytest.approx(1, abs=1e-5)
    assert reading.face.angles == pytest.approx(face.angles, abs=0.1)
    assert EMOTIONS[int(np.argmax(reading.emotion.probabilities))] == reading.emotion.label
    values = {name: measure(reading) for name, measure in MEASURES.items()}
    assert np.isfinite(list(values.values())).all()
    assert values["yaw"] == reading.face.angles[0]
    assert 0 <= values["smile"] <= 1
    assert 0 <= values["lightness"] <= 100
    # A lead is over the mean of the others, so all of them sum to 0.
    assert sum(values[name] for name in EMOTIONS) == pytest.approx(0, abs=1e-4)


def test_an_image_without_a_face_has_no_reading() -> None:
    with Reader() as reader:
        assert reader.read(np.full((128, 128, 3), 90, np.uint8)) is None


def test_glasses_are_an_edge_on_the_bridge_of_the_nose(reading: Reading) -> None:
    image = reading.face.image.copy()
    x, y = reading.face.points[[168, 6, 122, 351], :2].mean(0).round().astype(int)
    image[y - 1 : y + 2, x - 30 : x + 30] = 0
    with_frame = dataclasses.replace(reading, face=dataclasses.replace(reading.face, image=image))
    assert MEASURES["glasses"](with_frame) > MEASURES["glasses"](reading) + 0.5


def test_everyone_is_asked_for_every_emotion_and_two_poses() -> None:
    asked = edits(np.random.default_rng(0))
    assert [edit.emotion for edit in asked[:8]] == list(EMOTIONS)
    assert [edit.name for edit in asked[8:]] == ["turned", "turned", "pulled"]
    one, other = asked[8].pose[0], asked[9].pose[0]
    assert one * other < 0
    assert all(15 <= abs(yaw) <= 45 for yaw in (one, other))
    again = edits(np.random.default_rng(0))
    assert again == asked
    assert edits(np.random.default_rng(1)) != asked


def answering(reading: Reading, answer: Callable[[float], tuple[float, float, float]]) -> tuple[Maker, list[float]]:
    """A maker whose images have the likelihood, the SFace and the age that a function gives for a strength."""
    maker, tried = Maker.__new__(Maker), []

    def made(style: object, edit: Edit, strength: float, plain: Reading) -> Made:
        tried.append(strength)
        share, sface, age = answer(strength)
        scores = np.log(np.full(8, (1 - share) / 7))
        scores[EMOTIONS.index("anger")] = np.log(share)
        return Made(edit, strength, dataclasses.replace(reading, scores=scores), sface, 0.95, age)

    maker.made = made  # type: ignore[method-assign]
    return maker, tried


ANGER = Edit("anger", EXPRESSIONS["anger"], 1.0, (0.0, 0.0), "anger", 0.6)


@pytest.mark.parametrize(
    ("answer", "strengths", "kept"),
    [
        (lambda s: (0.7, 0.8, 30), [1.0], 1.0),  # enough at once
        (lambda s: (0.4 * s, 0.8, 30), [1.0, 1.35, 1.8225], 1.8225),  # grows while the person is known
        (lambda s: (0.4 * s, 1.5 - s, 30), [1.0, 1.35, 1.175], 1.0),  # back to half of the way, which is lost too
        (lambda s: (0.1, 0.2, 30), [1.0, 0.7, 0.49], None),  # the person is never known
        (lambda s: (0.7, 0.8, 12), [1.0, 0.7, 0.49], None),  # a child
    ],
)
def test_an_edit_goes_until_it_is_enough_or_the_person_is_lost(
    reading: Reading, answer: Callable[[float], tuple[float, float, float]], strengths: list[float], kept: float | None
) -> None:
    maker, tried = answering(reading, answer)
    made = maker.edited(np.zeros(512), ANGER, reading)
    assert tried == pytest.approx(strengths)
    assert (made and made.strength) == (kept if kept is None else pytest.approx(kept))


def test_likelihood_is_among_eight_that_are_as_common(reading: Reading) -> None:
    scores = np.zeros(8)
    made = Made(ANGER, 1.0, dataclasses.replace(reading, scores=scores), 1.0, 1.0, 30.0)
    assert likelihood(made) == pytest.approx(1 / 8)


def test_who_is_refused(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker.__new__(Maker)
    maker.directions = directions.load()
    assert maker.refusal(None) == "no face found"
    monkeypatch.setattr(people, "FRONTAL", (90.0, 90.0))
    monkeypatch.setattr(people, "LEAST_AGE", 200.0)
    assert maker.refusal(reading) == "apparent age below 200"
    monkeypatch.setattr(people, "LEAST_AGE", 0.0)
    assert maker.refusal(reading) == ""
    monkeypatch.setattr(people, "FRONTAL", (0.0, 0.0))
    assert maker.refusal(reading) == "not near-frontal"


def test_the_face_of_a_grown_woman_is_no_child(reading: Reading) -> None:
    assert 20 < directions.load().apparent_age(reading) < 60
