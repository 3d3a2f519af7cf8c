"""Pose and expression by numbers, from a photo to what the model reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facecrafter import FaceCrafter, Pose
from facecrafter.errors import ConfigError, NoFaceError
from facecrafter.estimators.blendshapes import network
from facecrafter.faces.asked import Asked, asked_of, drawn
from facecrafter.faces.face import BLENDSHAPES, Face
from facecrafter.faces.gain import Gain
from facecrafter.faces.rig import load
from facecrafter.models.checkpoint import FaceModel
from facecrafter.pipelines.moving import moved, seeded

JAW = BLENDSHAPES.index("jawOpen")


@pytest.fixture(scope="module")
def crafter(small_model: FaceModel) -> FaceCrafter:
    return FaceCrafter(small_model)


@pytest.mark.parametrize("value", [0.2, 0.5, 0.8])
def test_the_landmarks_have_the_expression_that_is_asked_for(face: Face, value: float) -> None:
    found = moved([face.points], Asked(expression={"jawOpen": value}), load())
    assert found.scores[JAW] == pytest.approx(value, abs=0.05)
    straight = load().straightened([found.points]).points
    assert network().scores(straight)[0, JAW] == pytest.approx(value, abs=0.07)


def test_the_landmarks_have_the_pose_that_is_asked_for(face: Face) -> None:
    found = load().straightened([moved([face.points], Asked(Pose(20, -5)), load()).points])
    assert (found.yaw[0], found.pitch[0]) == pytest.approx((20, -5), abs=0.5)


def test_numbers_start_from_the_neutral_face_or_the_photo(face: Face) -> None:
    rig = load()
    smile = BLENDSHAPES.index("mouthSmileLeft")
    own = network().scores(rig.straightened([face.points]).points)[0]
    assert own[smile] > 0.5
    assert moved([face.points], Asked(), rig).scores[smile] < 0.2
    kept = moved([face.points], Asked(expression={"jawOpen": 0.5}, start="keep"), rig)
    assert kept.scores[smile] > 0.5 and kept.scores[JAW] == pytest.approx(0.5, abs=0.1)
    more = moved([face.points], Asked(Pose(yaw=10), {"mouthSmileLeft": -0.4}, "relative"), rig)
    assert more.scores[smile] == pytest.approx(own[smile] - 0.4, abs=0.1)
    assert more.pose.yaw == pytest.approx(rig.straightened([face.points]).yaw[0] + 10, abs=0.1)


def test_a_request_by_numbers_is_known_by_them(crafter: FaceCrafter, portrait: Path) -> None:
    def digest(**given: Any) -> str:
        return crafter.request(portrait, asked=asked_of(**given)).digest

    given: list[dict[str, Any]] = [
        {},
        {"pose": Pose(10)},
        {"pose": Pose(11)},
        {"expression": "jawOpen=0.5"},
        {"expression": "jawOpen=0.6"},
        {"expression": "jawOpen=0.5", "keep_expression": True},
        {"expression": "jawOpen=0.5", "relative": True},
    ]
    assert len({digest(**one) for one in given}) == len(given)
    assert digest(expression={"jawOpen": 0.5}) == digest(expression="jawOpen=0.5")
    request = crafter.request(portrait, asked=asked_of(Pose(10)))
    assert crafter.read(request).digest == request.digest


def test_images_say_what_was_asked_and_what_the_landmarks_have(crafter: FaceCrafter, portrait: Path) -> None:
    (image,) = crafter.generate(portrait, pose=Pose(yaw=20), expression="jawOpen=0.6", emotion="sad:0.7", n=1, steps=2)
    made = image.info["facecrafter"]
    assert made["landmarks"] == "astronaut.png, by numbers"
    assert made["pose"] == made["pose asked"] == "yaw 20, pitch 0, roll 0"
    assert made["expression asked"] == "jawOpen 0.6"
    assert float(made["expression"].removeprefix("jawOpen ")) == pytest.approx(0.6, abs=0.05)
    assert made["emotion of the landmarks"].startswith("sad 0.70") and made["emotion"].startswith("sad 0.70")


def test_an_emotion_moves_landmarks_or_the_module_or_both(crafter: FaceCrafter, portrait: Path, face: Face) -> None:
    def given(**asked: Any) -> set[str]:
        return set(crafter.request(portrait, emotion="happy", **asked).conditions)

    assert given() == given(emotion_through="both") == {"landmark", "emotion"}
    assert given(emotion_through="landmarks") == {"landmark"}
    assert given(emotion_through="module") == {"emotion"}
    by_photo = crafter.conditions(portrait, portrait, emotion="sad").conditions
    assert by_photo["landmark"].asked is None and by_photo["landmark"].points is crafter.face(portrait).points


def test_without_a_photo_the_mean_face_is_moved(crafter: FaceCrafter, portrait: Path) -> None:
    read = crafter.conditions(crafter.person(portrait), asked=asked_of(Pose(20)))
    assert read.described["landmarks"] == "the mean face, by numbers"
    assert load().straightened([read.conditions["landmark"].points]).yaw[0] == pytest.approx(20, abs=0.5)
    with pytest.raises(ConfigError, match="an embedding has no expression or pose of its own"):
        crafter.request(crafter.person(portrait), asked=asked_of(keep_expression=True))


def test_what_will_not_be_followed_is_noted_or_refused(
    small_model: FaceModel, portrait: Path, notes: Callable[[], list[str]]
) -> None:
    crafter, puff = FaceCrafter(small_model), asked_of(expression="cheekPuff=0.5")
    crafter.request(portrait, asked=puff)
    assert [note for note in notes() if "cheekPuff" in note]
    with pytest.raises(ConfigError, match="cheekPuff"):
        crafter.request(portrait, asked=puff, strict=True)


def test_landmarks_without_depth_and_photos_without_faces_are_refused(crafter: FaceCrafter, face: Face) -> None:
    with pytest.raises(ConfigError, match="two coordinates cannot be turned"):
        crafter.request(np.ones(128, np.float32), landmarks_from=face.points[:, :2], asked=asked_of(Pose(10)))
    with pytest.raises(NoFaceError):
        crafter.conditions(np.zeros((64, 64, 3), np.uint8), asked=asked_of(Pose(10)))


def test_identity_alone_draws_a_pose_and_an_expression_by_the_seed(crafter: FaceCrafter, portrait: Path) -> None:
    first, second = crafter.generate(portrait, n=2, seed=3, steps=2)
    (again,) = crafter.generate(portrait, n=1, seed=4, steps=2)
    assert again.info == second.info
    np.testing.assert_allclose(np.asarray(again, np.int16), np.asarray(second, np.int16), atol=1)
    for seed, image in ((3, first), (4, second)):
        made, chosen = image.info["facecrafter"], drawn(seed, load())
        assert made["pose and expression"] == "drawn by the seed from photos of the training"
        assert made["pose"] == str(chosen.pose) and made["landmarks"] == "astronaut.png, by numbers"
        clear = [name for name, value in chosen.expression.items() if value >= 0.2]
        assert [part.split()[0] for part in made["expression"].split(", ")] == clear
    assert first.info["facecrafter"]["pose"] != second.info["facecrafter"]["pose"]


def test_identity_alone_is_left_to_the_model_where_that_is_asked_for(crafter: FaceCrafter, portrait: Path) -> None:
    (image,) = crafter.generate(portrait, n=1, steps=2, free=True)
    made = image.info["facecrafter"]
    assert made["pose and expression"] == "left to the model" and "landmarks" not in made
    # Tables and evaluations ask so, and their images are those of before.
    alone = crafter.request(portrait, seed=5)
    assert alone.conditions == {} and seeded(alone, 6).conditions == {}


def test_what_is_drawn_is_part_of_what_an_image_is(crafter: FaceCrafter, portrait: Path) -> None:
    first = crafter.request(portrait, seed=5, free=False)
    assert crafter.key(first) != crafter.key(crafter.request(portrait, seed=5))
    assert crafter.key(seeded(first, 6)) == crafter.key(crafter.request(portrait, seed=6, free=False))
    assert crafter.read(first).digest == first.digest
    with_words = crafter.request(portrait, emotion="happy", emotion_through="module", free=False)
    assert "landmark" not in with_words.conditions


def test_an_embedding_draws_on_the_mean_face(crafter: FaceCrafter, portrait: Path) -> None:
    request = crafter.request(crafter.person(portrait), seed=5, free=False)
    read = crafter.read(request)
    assert read.described["landmarks"] == "the mean face, by numbers"
    assert read.described["pose"] == str(drawn(5, load()).pose)
    points = [crafter.read(seeded(request, seed)).conditions["landmark"].points for seed in (5, 6)]
    assert np.abs(points[0] - points[1]).max() > 1
    np.testing.assert_array_equal(points[0], read.conditions["landmark"].points)


def test_a_person_is_read_once_for_all_seeds(
    small_model: FaceModel, astronaut: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crafter, found, embedded = FaceCrafter(small_model), [], []
    find, embed = crafter._finder.find_ordered, crafter._recogniser.embed
    monkeypatch.setattr(crafter._finder, "find_ordered", lambda *given: found.append(1) or find(*given))
    monkeypatch.setattr(crafter._recogniser, "embed", lambda faces: embedded.append(1) or embed(faces))
    crafter.generate(astronaut, n=3, steps=1)
    assert (len(found), len(embedded)) == (1, 1)


def test_straight_ahead_is_a_pose_too(small_model: FaceModel, portrait: Path) -> None:
    crafter = FaceCrafter(small_model, gain=Gain({"pitch": ((-20, -10), (0, 4), (20, 15))}))

    def pitch(**asked: Any) -> float:
        read = crafter.read(crafter.request(portrait, asked=asked_of(**asked)))
        return float(load().straightened([read.conditions["landmark"].points]).pitch[0])

    smile = {"expression": "mouthSmile=0.5"}
    assert pitch(**smile) == pytest.approx(pitch(pose=Pose(), **smile), abs=1e-3) == pytest.approx(-5.7, abs=1)


def test_a_gain_turns_the_landmarks_further_than_was_asked(small_model: FaceModel, portrait: Path) -> None:
    gain = Gain({"yaw": ((-40, -20), (0, 0), (40, 20))})
    crafter = FaceCrafter(small_model, gain=gain)
    request = crafter.request(portrait, asked=asked_of(Pose(yaw=10, pitch=5)))
    read = crafter.read(request)
    straight = load().straightened([read.conditions["landmark"].points])
    assert (straight.yaw[0], straight.pitch[0]) == pytest.approx((20, 5), abs=1)
    assert read.described["pose asked"] == "yaw 10, pitch 5, roll 0"
    assert read.described["pose"] == "yaw 20, pitch 5, roll 0"
    plain = FaceCrafter(small_model)
    assert plain.request(portrait, asked=asked_of(Pose(yaw=10, pitch=5))).digest != request.digest
    # A pose that nobody asked for is as it was.
    kept = asked_of(expression="mouthSmile=0.5", keep_expression=True)
    assert crafter.request(portrait, asked=kept).digest == plain.request(portrait, asked=kept).digest
    assert crafter.request(portrait, free=False).digest == plain.request(portrait, free=False).digest
