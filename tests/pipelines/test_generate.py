"""A photo in, images out: every way to say a condition, and what is wrong with the ways that cannot be."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facecrafter import FaceCrafter, __version__, studio
from facecrafter.errors import CheckpointError, ConfigError, NoFaceError, PhotoError, WeightsError
from facecrafter.faces.emotion import EMOTIONS, Emotion, describe, emotion_of
from facecrafter.faces.face import Face
from facecrafter.faces.landmarks import turn
from facecrafter.faces.photo_file import HeldPhoto, PhotoFile
from facecrafter.models import scales
from facecrafter.models.checkpoint import FaceModel
from facecrafter.pipelines import watermark
from facecrafter.pipelines.reading import listed, poor
from facecrafter.pipelines.settings import Settings, ineffective
from facecrafter.request import Portrait, Request, portrait_of


@pytest.fixture(scope="module")
def crafter(small_model: FaceModel) -> FaceCrafter:
    return FaceCrafter(small_model)


def pixels(images: list[Image.Image]) -> NDArray[np.int16]:
    return np.stack([np.asarray(image) for image in images]).astype(np.int16)


def test_images_are_marked_and_say_how_they_were_made(crafter: FaceCrafter, portrait: Path) -> None:
    images = crafter.generate(portrait, portrait, emotion="happy:0.8,surprise:0.2", n=2, seed=7, steps=2)
    assert [image.size for image in images] == [(128, 128)] * 2
    assert all(watermark.is_marked(np.asarray(image)) for image in images)
    asked = crafter.request(portrait, portrait, emotion="happy:0.8,surprise:0.2", seed=8, settings=Settings(steps=2))
    info = images[1].info
    assert info["Software"] == f"FaceCrafter {__version__}"
    assert "artificial intelligence" in info["Description"]
    assert info["facecrafter"] == {
        "model": "mini",
        "scale": "mini",
        "identity": "astronaut.png",
        "landmarks": "astronaut.png",
        "emotion": "happy 0.80, surprise 0.20; valence +0.73, arousal +0.54",
        **scales.MINI.sampling,
        "steps": 2,
        "speed": "refresh",
        "precision": "float32",
        "seed": 8,
        "key": crafter.key(asked),
    }
    json.dumps(info["facecrafter"])


def test_the_same_seed_gives_the_same_image_alone_or_in_a_batch(crafter: FaceCrafter, portrait: Path) -> None:
    four = pixels(crafter.generate(portrait, n=4, seed=3, steps=2))
    alone = pixels(crafter.generate(portrait, n=1, seed=5, steps=2))
    in_twos = pixels(crafter.generate(portrait, n=4, seed=3, steps=2, batch_size=2))
    assert np.abs(four[2] - alone[0]).max() <= 1  # the last bit is the batched kernels'
    assert np.abs(four - in_twos).max() <= 1
    assert np.abs(four[0] - four[1]).max() > 5


@pytest.mark.parametrize(
    "kind",
    [str, Path, lambda path: np.asarray(Image.open(path)), Image.open, lambda path: [path], lambda path: (path, path)],
)
def test_a_photo_may_come_in_any_form(crafter: FaceCrafter, portrait: Path, kind: Callable[[Path], Any]) -> None:
    expected = crafter.conditions(portrait)
    found = crafter.conditions(kind(portrait)).identity.embedding
    np.testing.assert_allclose(found, expected.identity.embedding, atol=1e-6)


def test_an_embedding_is_an_identity_of_any_length(crafter: FaceCrafter, portrait: Path) -> None:
    person = crafter.person(portrait)
    assert person.shape == (128,) and person.dtype == np.float32
    asked = crafter.conditions(person * 3)
    np.testing.assert_allclose(asked.identity.embedding, person, atol=1e-6)
    assert asked.described == {"identity": "an embedding", "pose and expression": "left to the model"}


def test_several_photos_are_averaged_into_one_person(crafter: FaceCrafter, lfw: Path) -> None:
    photos = sorted((lfw / "Adrien_Brody").glob("*.jpg"))
    one_by_one = np.stack([crafter.person(photo) for photo in photos])
    person = crafter.person(*photos)
    np.testing.assert_allclose(person, one_by_one.mean(0) / np.linalg.norm(one_by_one.mean(0)), atol=1e-5)
    assert np.linalg.norm(person) == pytest.approx(1, abs=1e-5)
    stranger = crafter.person(lfw / "Al_Sharpton" / "Al_Sharpton_0001.jpg")
    assert (one_by_one @ person).min() > 0.95 > 0.9 > stranger @ person


def test_of_several_photos_a_bad_one_is_left_out_and_named(
    crafter: FaceCrafter, portrait: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "words.jpg").write_text("hello")
    Image.new("RGB", (320, 240), "grey").save(tmp_path / "blank.png")
    with caplog.at_level("WARNING", "facecrafter"):
        asked = crafter.conditions([tmp_path / "words.jpg", portrait, tmp_path / "blank.png"])
    np.testing.assert_array_equal(asked.identity.embedding, crafter.person(portrait))
    assert asked.described["identity"] == portrait.name
    assert ["words.jpg" in caplog.messages[0], "blank.png" in caplog.messages[1]] == [True, True]
    assert all(message.endswith("; it is left out") for message in caplog.messages)


def test_target_gives_landmarks_and_emotion_and_each_can_be_replaced(crafter: FaceCrafter, portrait: Path) -> None:
    face = crafter.face(portrait)
    turned = turn(face.points, yaw=30)
    happy = crafter.conditions(portrait, portrait).conditions["emotion"].emotion.tolist()
    assert EMOTIONS[int(np.argmax(happy[2:]))] == "happy"
    sad = Emotion.from_words({"sad": 1.0})
    for asked, points, emotion in (
        ({"target": portrait}, face.points, happy),
        ({"target": portrait, "emotion": {"sad": 1.0}}, face.points, [sad.valence, sad.arousal, *sad.probabilities]),
        ({"target": portrait, "landmarks_from": turned}, turned, happy),
        ({"landmarks_from": portrait, "emotion_from": portrait}, face.points, happy),
    ):
        given = crafter.conditions(portrait, **asked).conditions
        assert given["landmark"].points is points and given["emotion"].emotion.tolist() == emotion
    assert crafter.conditions(portrait, landmarks_from=turned).described["landmarks"] == "landmarks"
    assert crafter.conditions(portrait).conditions == {}


@pytest.mark.parametrize(
    "asked",
    [
        {"target": True},
        {"landmarks_from": True},
        {"emotion_from": True},
        {"emotion": "sad"},
        {"valence": -0.9, "arousal": 0.9},
    ],
)
def test_every_condition_reaches_the_image(crafter: FaceCrafter, portrait: Path, asked: dict[str, Any]) -> None:
    asked = {name: portrait if value is True else value for name, value in asked.items()}
    free = pixels(crafter.generate(portrait, n=1, steps=2, free=True))
    conditioned = pixels(crafter.generate(portrait, n=1, steps=2, landmark_scale=20, emotion_scale=20, **asked))
    off = pixels(crafter.generate(portrait, n=1, steps=2, landmark_scale=0, emotion_scale=0, **asked))
    assert np.abs(conditioned - free).max() > 3
    assert np.abs(off - free).max() <= 1


def test_render_mixes_conditions_of_different_kinds(crafter: FaceCrafter, portrait: Path) -> None:
    person, shape = crafter.person(portrait), Portrait(points=crafter.face(portrait).points)
    happy = portrait_of(Emotion.from_words({"happy": 1.0}))
    settings = Settings(steps=2).filled(crafter.model.scale)
    given: list[dict[str, Portrait]] = [{}, {"landmark": shape}, {}, {"landmark": shape, "emotion": happy}]
    asked = [Request(Portrait(embedding=person), one, seed, settings) for seed, one in enumerate(given)]
    amounts: list[float] = []
    made = dict(crafter.render(asked, amounts.append))
    assert sorted(made) == [0, 1, 2, 3]
    assert sum(amounts) == pytest.approx(4)
    assert made[2].info["facecrafter"]["seed"] == 2
    alone = pixels(crafter.generate(person, n=1, seed=2, steps=2, free=True))[0]
    assert np.abs(np.asarray(made[2]).astype(int) - alone).max() <= 1


def test_a_photo_read_before_is_not_read_again_until_it_changes(
    small_model: FaceModel, astronaut: NDArray[np.uint8], tmp_path: Path
) -> None:
    crafter = FaceCrafter(small_model)
    path = tmp_path / "a.png"
    Image.fromarray(astronaut).save(path)
    first = crafter.face(path)
    assert crafter.face(str(path)) is first
    Image.fromarray(np.ascontiguousarray(astronaut[:, ::-1])).save(path)
    assert crafter.face(path) is not first


def test_photos_are_told_apart_by_their_content(
    small_model: FaceModel, astronaut: NDArray[np.uint8], tmp_path: Path
) -> None:
    """Not by where and when: an unpacked archive's photos are all of one time, and copies keep it."""
    crafter, place = FaceCrafter(small_model), tmp_path / "a.png"
    found = []
    for photo in (astronaut, np.ascontiguousarray(astronaut[:, ::-1])):
        Image.fromarray(photo).save(place)
        os.utime(place, ns=(10**18, 10**18))
        found.append(crafter.conditions(place, place))
    assert not np.array_equal(found[0].identity.embedding, found[1].identity.embedding)
    assert not np.array_equal(found[0].conditions["landmark"].points, found[1].conditions["landmark"].points)


@pytest.mark.parametrize("others", [0, 1])
def test_a_photo_that_changed_for_a_while_is_read_again(
    small_model: FaceModel, astronaut: NDArray[np.uint8], tmp_path: Path, others: int
) -> None:
    crafter, place = FaceCrafter(small_model), tmp_path / "a.png"
    Image.fromarray(astronaut).save(place)
    before = place.read_bytes()
    for number in range(others):
        Image.fromarray(np.ascontiguousarray(astronaut[8 * number + 8 :])).save(tmp_path / f"b{number}.png")
    photos = sorted(tmp_path.glob("*.png"), reverse=True)
    request = crafter.request(photos)
    for wrong in (np.ascontiguousarray(astronaut[:, ::-1]), np.zeros_like(astronaut)):
        Image.fromarray(wrong).save(place)
        with pytest.raises(PhotoError, match=r"a\.png has changed since"):
            crafter.read(request)
    place.write_bytes(before)
    wanted = FaceCrafter(small_model).person(*photos)
    np.testing.assert_array_equal(crafter.read(request).identity.embedding, wanted)


def test_two_photos_of_one_name_are_two(crafter: FaceCrafter, portrait: Path) -> None:
    content = portrait.read_bytes()
    photos = [HeldPhoto.of(content + bytes(extra), "image.png") for extra in range(2)]
    with pytest.raises(ConfigError, match="not for a target of 2 photos"):
        crafter.request(portrait, landmarks_from=photos[0], emotion_from=photos[1], target_face=1)
    crafter.request(portrait, landmarks_from=photos[0], emotion_from=photos[0], target_face=1)


@pytest.fixture(scope="module")
def crowd(astronaut: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The astronaut twice: at full size on the left, at three quarters in the middle of the image."""
    small = np.asarray(Image.fromarray(astronaut[:256, 96:352]).resize((192, 192)))
    image = np.full((512, 1024, 3), 255, np.uint8)
    image[:, :400] = astronaut[:, 50:450]
    image[160:352, 416:608] = small
    return image


@pytest.mark.parametrize(
    ("pick", "number", "why"),
    [
        ("largest", 1, ", the largest,"),
        ("centre", 2, ", the nearest to the centre,"),
        (1, 1, ""),
        (2, 2, ""),
        ((512, 260), 2, ""),
        ((174.5, 124), 1, ""),
    ],
)
def test_of_several_faces_the_chosen_one_is_used_and_that_is_said(
    small_model: FaceModel,
    crowd: NDArray[np.uint8],
    tmp_path: Path,
    notes: Callable[[], list[str]],
    pick: Any,
    number: int,
    why: str,
) -> None:
    path = tmp_path / "crowd.png"
    Image.fromarray(crowd).save(path)
    crafter = FaceCrafter(small_model, choose=pick) if isinstance(pick, str) else FaceCrafter(small_model)
    faces = [crafter.face(photo, None if isinstance(pick, str) else pick) for photo in (path, crowd, path)]
    left, top, right, bottom = faces[0].box
    middle = round((left + right) / 2), round((top + bottom) / 2)
    assert [face.others for face in faces] == [1, 1, 1]
    assert abs(middle[0] - (174, 502)[number - 1]) < 15
    said = [f"{name} shows 2 faces; number {number}{why} at {middle} is used" for name in (path, "the image")]
    hint = "; --face or --face-at picks another, in a target --target-face or --target-face-at"
    assert notes() == [line + hint * isinstance(pick, str) for line in said]


def test_faces_of_equal_size_are_named(
    small_model: FaceModel, astronaut: NDArray[np.uint8], notes: Callable[[], list[str]]
) -> None:
    FaceCrafter(small_model).face(np.concatenate([astronaut, astronaut], 1))
    (said,) = notes()
    assert re.fullmatch(
        r"the image shows 2 faces; number 1, the largest, at \(\d+, 12\d\) is used, and number 2 at \(\d+, 12\d\) is "
        "about as large; --face or --face-at picks another, in a target --target-face or --target-face-at",
        said,
    )


NOBODY: dict[str, tuple[Any, type[Exception], str]] = {
    "number": (
        3,
        NoFaceError,
        r"there is no face 3 in the image, which shows 1 at \(\d+, \d+\), 2 at \(5\d\d, \d+\)",
    ),
    "point": ((900, 30.5), NoFaceError, r"there is no face at \(900, 30.5\) in the image, which shows 1 at \("),
    "zero": (0, ConfigError, "a face's number must be at least 1, which is the largest, not 0"),
    "half": (1.5, ConfigError, "at least 1, which is the largest, not 1.5"),
    "three": ((1, 2, 3), ConfigError, r"a point of two numbers, x and y in pixels, not at \(1, 2, 3\)"),
    "nowhere": ((float("nan"), 2), ConfigError, "a point of two numbers"),
    "word": ("smallest", ConfigError, "choose 'smallest' is not one of largest, centre"),
}


@pytest.mark.parametrize("case", NOBODY)
def test_a_face_that_is_not_there_is_not_picked(crafter: FaceCrafter, crowd: NDArray[np.uint8], case: str) -> None:
    pick, kind, words = NOBODY[case]
    with pytest.raises(kind, match=words):
        crafter.face(crowd, pick)


def test_faces_are_picked_for_identity_and_target(
    crafter: FaceCrafter, crowd: NDArray[np.uint8], portrait: Path, tmp_path: Path
) -> None:
    path = tmp_path / "crowd.png"
    Image.fromarray(crowd).save(path)
    plain = crafter.conditions(path, str(path))
    other = crafter.conditions(path, str(path), face=2, target_face=(512, 260))
    np.testing.assert_array_equal(plain.identity.embedding, crafter.person(path))
    np.testing.assert_array_equal(other.identity.embedding, crafter.person(path, face=2))
    assert not np.array_equal(plain.identity.embedding, other.identity.embedding)
    first, second = plain.conditions["landmark"].points, other.conditions["landmark"].points
    assert first is crafter.face(path).points and second is crafter.face(path, (512, 260)).points
    np.testing.assert_array_equal(second, crafter.face(path, 2).points)
    one_way = crafter.conditions(portrait, emotion_from=path, target_face=2)
    moods = [one.conditions["emotion"].emotion.tolist() for one in (one_way, other, plain)]
    assert moods[0] == moods[1] != moods[2]
    for arguments, words in (
        ({"identity": [path, portrait], "face": 1}, "not for an identity of 2 photos; crop the photos instead"),
        ({"identity": plain.identity.embedding, "face": 1}, "not for an identity without a photo"),
        ({"identity": path, "target_face": 1}, "not for a target without a photo"),
        (
            {"identity": path, "landmarks_from": path, "emotion_from": portrait, "target_face": 1},
            "a face is picked in one photo, and not for a target of 2 photos",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            crafter.conditions(**arguments)  # type: ignore[arg-type]


def test_requests_of_other_faces_have_other_keys(crafter: FaceCrafter, portrait: Path) -> None:
    photo = PhotoFile.read(portrait)
    picks: tuple[dict[str, Any], ...] = ({}, {"face": 1}, {"face": 2}, {"face": (3.0, 4.0)}, {"target_face": 2})
    requests = [crafter.request([photo], photo, **pick) for pick in picks]
    assert len({crafter.key(request) for request in requests}) == len(picks)
    first, second = (crafter.read(request).identity.embedding for request in requests[:2])
    np.testing.assert_array_equal(first, second)
    with pytest.raises(NoFaceError, match=r"no face 2 in .*astronaut\.png, which shows 1 at \(22\d, 12\d\)"):
        crafter.read(requests[4])
    with pytest.raises(ConfigError, match="not for an identity of 2 photos"):
        crafter.request([photo, photo], face=1)


def test_a_folder_is_one_person_and_its_bad_files_are_left_out(
    small_model: FaceModel, lfw: Path, tmp_path: Path, notes: Callable[[], list[str]]
) -> None:
    photos = sorted((lfw / "Adrien_Brody").glob("*.jpg"))
    for photo in photos:
        shutil.copy(photo, tmp_path)
    Image.new("RGB", (80, 60)).save(tmp_path / "blank.png")
    (tmp_path / "words.jpg").write_text("hello")
    (tmp_path / "somebody else").mkdir()
    shutil.copy(lfw / "Al_Sharpton" / "Al_Sharpton_0001.jpg", tmp_path / "somebody else")
    crafter = FaceCrafter(small_model)
    asked = crafter.conditions(str(tmp_path))
    np.testing.assert_array_equal(asked.identity.embedding, crafter.person(*photos))
    assert asked.described["identity"] == ", ".join(photo.name for photo in photos)
    left_out = [line for line in notes() if line.endswith("; it is left out")]
    assert [line.partition(" (")[0].partition(" is not")[0] for line in left_out] == [
        f"no face found in {tmp_path / 'blank.png'}",
        str(tmp_path / "words.jpg"),
    ]
    empty = tmp_path / "nobody"
    empty.mkdir()
    with pytest.raises(PhotoError, match="nobody is a folder without photos in it; give a photo, or a folder of one"):
        crafter.person(empty)


def test_notes_on_what_was_read_before_are_given_to_the_next_user(
    small_model: FaceModel,
    crowd: NDArray[np.uint8],
    tmp_path: Path,
    notes: Callable[[], list[str]],
) -> None:
    Image.fromarray(crowd).save(tmp_path / "crowd.png")
    (tmp_path / "words.jpg").write_text("hello")
    shutil.copy(Path(studio.__file__).parent / "static" / "examples" / "ben.png", tmp_path)
    crafter = FaceCrafter(small_model)
    crafter.person(tmp_path)
    first = notes()
    for part in ("crowd.png shows 2 faces", "words.jpg is not", "look like 2 people"):
        assert any(part in line for line in first)
    crafter.person(tmp_path)
    assert notes() == []
    crafter.forget_notes()
    crafter.person(tmp_path)
    assert notes() == first
    content = (tmp_path / "crowd.png").read_bytes()
    for name in ("ann.png", "bob.png"):  # of each user's own name
        crafter.face(HeldPhoto.of(content, name))
        assert [line.partition(" shows")[0] for line in notes()] == [name]


def test_two_people_are_not_averaged_silently(
    small_model: FaceModel, lfw: Path, notes: Callable[[], list[str]]
) -> None:
    brody = sorted((lfw / "Adrien_Brody").glob("*.jpg"))
    sharpton = lfw / "Al_Sharpton" / "Al_Sharpton_0001.jpg"
    crafter = FaceCrafter(small_model)
    crafter.person(*brody)
    assert not [line for line in notes() if "people" in line]
    crafter.person(*brody, sharpton)
    (said,) = (line for line in notes() if "people" in line)
    assert re.fullmatch(
        r"the photos of the identity look like 2 people: Al_Sharpton_0001\.jpg and Adrien_Brody_0001\.jpg, "
        r"Adrien_Brody_0002\.jpg, Adrien_Brody_0003\.jpg are 0\.[78]\d alike to the recogniser, photos of one person "
        r"0\.90 or more; their average is nobody",
        said,
    )


def test_a_poor_photo_of_a_person_is_named(
    small_model: FaceModel, astronaut: NDArray[np.uint8], notes: Callable[[], list[str]]
) -> None:
    crafter = FaceCrafter(small_model)
    small = np.asarray(Image.fromarray(astronaut).resize((256, 256)))
    crafter.conditions(astronaut, small)
    assert notes() == []
    crafter.person(small)
    (said,) = notes()
    assert re.fullmatch(r"the image is a poor photo of a person: the face is 5\d px large \(less than 60\)", said)


@pytest.mark.parametrize(
    ("yaw", "side", "reasons"),
    [
        (44, 61, []),
        (-44, 61, []),
        (46, 61, ["the head is turned 46 degrees to the side (more than 45)"]),
        (
            -60,
            50,
            ["the head is turned 60 degrees to the side (more than 45)", "the face is 50 px large (less than 60)"],
        ),
    ],
)
def test_what_makes_a_photo_poor(face: Face, yaw: float, side: float, reasons: list[str]) -> None:
    turn = np.radians(yaw)
    pose = np.eye(4, dtype=np.float32)
    pose[0, 0] = pose[2, 2] = np.cos(turn)
    pose[0, 2], pose[2, 0] = np.sin(turn), -np.sin(turn)
    assert poor(dataclasses.replace(face, pose=pose, box=(10.0, 10.0, 10 + side / 2, 10 + side))) == reasons


def test_many_names_are_cut_short() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(number) for number in range(7)]) == "0, 1, 2, 3, 4 and 2 more"


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no photo": ({"identity": []}, ConfigError, "at least one photo"),
    "no file": ({"identity": "nobody.jpg"}, PhotoError, "nobody.jpg"),
    "no face": ({"identity": np.zeros((64, 64, 3), np.uint8)}, NoFaceError, "no face found in the image"),
    "grey array": ({"identity": np.zeros((64, 64), np.uint8)}, PhotoError, r"\(64, 64\)"),
    "float array": ({"identity": np.zeros((64, 64, 3))}, PhotoError, "float64"),
    "zero embedding": ({"identity": np.zeros(128, np.float32)}, ConfigError, "no direction"),
    "endless embedding": ({"identity": np.full(128, np.inf, np.float32)}, ConfigError, "no direction"),
    "short embedding": ({"identity": np.ones(64, np.float32)}, ConfigError, "64"),
    "unknown emotion": ({"emotion": "jolly"}, ConfigError, "unknown emotion 'jolly'; did you mean 'joy'?"),
    "an emotion like none": ({"emotion": "qqq"}, ConfigError, "unknown emotion 'qqq'; there are neutral, happy"),
    "an emotion by number": ({"emotion": 5}, ConfigError, "an emotion is 'sad:0.7'.*not of the type int"),
    "a share of a number": ({"emotion": {1: 0.5}}, ConfigError, "unknown emotion '1'"),
    "valence in words": ({"valence": "0.5", "arousal": 0.0}, ConfigError, "valence is '0.5', not a number"),
    "endless valence": ({"valence": float("inf"), "arousal": 0.0}, ConfigError, "valence inf is outside"),
    "half an image": ({"n": 2.5}, ConfigError, "the number of images must be a whole number of at least 1, not 2.5"),
    "half a seed": ({"seed": 0.5}, ConfigError, "a seed must be a whole number from 0"),
    "the best of a half": ({"best_of": 2.5, "pose": {"yaw": 5}}, ConfigError, "1 to 16 images, not of 2.5"),
    "free and a pose": ({"free": True, "pose": {"yaw": 5}}, ConfigError, "free has no effect where a pose"),
    "landmarks of nothing": ({"landmarks_from": np.zeros((478, 3), np.float32)}, ConfigError, "are no face's"),
    "endless landmarks": ({"landmarks_from": np.full((478, 3), np.inf, np.float32)}, ConfigError, "are no face's"),
    "share of no number": ({"emotion": "happy:much"}, ConfigError, "'much'"),
    "share of nothing": ({"emotion": "happy:"}, ConfigError, "''"),
    "share of nan": ({"emotion": "happy:nan"}, ConfigError, "nan"),
    "too much": ({"emotion": "happy:0.8,sad:0.5"}, ConfigError, "1.3"),
    "twice": ({"emotion": "happy:0.2,happy:0.3"}, ConfigError, "twice"),
    "empty words": ({"emotion": ""}, ConfigError, "unknown emotion ''"),
    "valence of 3": ({"valence": 3.0, "arousal": 0.0}, ConfigError, r"valence 3 is outside \[-1, 1\]"),
    "arousal alone": ({"arousal": 0.5}, ConfigError, "valence is missing"),
    "words and numbers": ({"emotion": "sad", "valence": 0.0, "arousal": 0.0}, ConfigError, "one way"),
    "words and photo": ({"emotion": "sad", "emotion_from": "a.jpg"}, ConfigError, "one way"),
    "scheduler": ({"scheduler": "magic"}, ConfigError, "magic"),
    "no steps": ({"steps": 0}, ConfigError, "steps"),
    "speed": ({"speed": "light"}, ConfigError, "unknown speed 'light'; there are exact, interval"),
    "steps and a half": ({"steps": 2.5}, ConfigError, "the steps must be a whole number, not 2.5"),
    "a batch of text": ({"batch_size": "8"}, ConfigError, "the batch size must be a whole number, not '8'"),
    "no batch": ({"batch_size": 0}, ConfigError, "batch size"),
    "nothing of two": ({"emotion": "happy:0,sad:0"}, ConfigError, "no share above 0; give one, or ask for neutral"),
    "no words": ({"emotion": {}}, ConfigError, "no share above 0"),
    "a word for a share": (
        {"emotion": {"happy": "much"}},
        ConfigError,
        r"the share of 'happy' is 'much', not a number",
    ),
    "two words of one class": ({"emotion": {"joy": 0.5, "happy": 0.5}}, ConfigError, "'happy' is named twice in joy"),
    "neutral of nothing": ({"emotion": "neutral:0,sad:0.5"}, ConfigError, "sum to 0.5; where neutral is among them"),
    "scale of nan": (
        {"identity_scale": float("nan")},
        ConfigError,
        "the identity scale must be from -20 to 20, not nan",
    ),
    "scale of 1000": ({"landmark_scale": 1000}, ConfigError, "the landmark scale must be from -20 to 20, not 1000"),
    "scale below": ({"emotion_scale": -20.5}, ConfigError, "the emotion scale must be from -20 to 20, not -20.5"),
    "scale in words": ({"emotion_scale": "3"}, ConfigError, "the emotion scale must be from -20 to 20, not 3"),
    "negative seed": ({"seed": -1}, ConfigError, "a seed must be between 0 and 2.63 - 1, not -1"),
    "seeds beyond the last one": ({"seed": 2**63 - 1, "n": 2}, ConfigError, f"not {2**63}"),
    "no images": ({"n": 0}, ConfigError, "the number of images must be a whole number of at least 1, not 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused_in_one_sentence(crafter: FaceCrafter, portrait: Path, case: str) -> None:
    arguments, kind, words = WRONG[case]
    with pytest.raises(kind, match=words) as caught:
        crafter.generate(**{"identity": portrait, "steps": 2, "n": 1, **arguments})
    assert "\n" not in str(caught.value)


def test_what_has_no_effect_is_said_once_a_crafter(
    small_model: FaceModel, portrait: Path, notes: Callable[[], list[str]]
) -> None:
    crafter = FaceCrafter(small_model)
    for landmarks_from in (portrait, None, None):
        crafter.request(portrait, landmarks_from=landmarks_from, settings=Settings(steps=3, landmark_scale=3.0))
    assert notes() == ["the landmark scale 3 has no effect where no landmarks are asked for"]
    crafter.request(portrait, landmarks_from=portrait, settings=Settings(steps=3, landmark_scale=0.0, emotion_scale=0))
    crafter.request(portrait, settings=Settings(steps=3))
    assert notes() == []


def test_scales_that_the_distilled_network_does_not_know() -> None:
    knows = "the distilled network knows"
    for settings, expected in (
        (Settings(speed="distilled"), []),
        (Settings(speed="distilled", identity_scale=2.25, landmark_scale=0.0, emotion_scale=1.0), []),
        (Settings(speed="exact", identity_scale=5), []),
        (Settings(speed="distilled", identity_scale=5), [f"{knows} identity scales from 0.75 to 2.25; what 5 gives"]),
        (Settings(speed="distilled", emotion_scale=4), [f"{knows} emotion scales from 0.7 to 2.1; what 4 gives"]),
    ):
        said = ineffective(settings, ("landmark", "emotion"), scales.MINI)
        assert [text.partition(" is a guess")[0] for text in said] == expected


def test_bfloat16_where_it_is_slow_or_cannot_be(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, notes: Callable[[], list[str]]
) -> None:
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False}, raising=False)
    FaceCrafter.from_pretrained(model_folder, device="cpu", bfloat16=True)
    assert notes() == ["the device 'cpu' has no instructions for bfloat16; it may take longer than float32 there"]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    FaceCrafter.from_pretrained(model_folder, device="cpu", bfloat16=True)
    assert notes() == []

    def refuse(*_: object, **__: object) -> None:
        raise TypeError("no bfloat16")

    monkeypatch.setattr(torch, "ones", refuse)
    with pytest.raises(ConfigError, match="the device 'cpu' does not compute in bfloat16; leave bfloat16 out"):
        FaceCrafter.from_pretrained(model_folder, device="cpu", bfloat16=True)


def test_controls_are_asked_for_only_of_a_model_that_has_them(small_model: FaceModel, portrait: Path) -> None:
    base = FaceModel(small_model.scale, small_model.unet, small_model.encoder, small_model.autoencoder)
    crafter = FaceCrafter(base)
    assert len(crafter.generate(portrait, n=1, steps=1)) == 1
    with pytest.raises(ConfigError, match="no controls"):
        crafter.generate(portrait, portrait, n=1, steps=1)
    with pytest.raises(ConfigError, match="no controls"):  # before anything is made: a row of a table is wrong alone
        crafter.request(portrait, emotion="sad")


def test_from_pretrained_reads_a_folder(model_folder: Path, crafter: FaceCrafter, portrait: Path) -> None:
    loaded = FaceCrafter.from_pretrained(model_folder, device="cpu")
    assert loaded.name == "small"
    images = [pixels(one.generate(portrait, portrait, n=1, steps=2)) for one in (loaded, crafter)]
    assert np.abs(images[0] - images[1]).max() <= 1


def test_bfloat16_and_speed_are_told_and_change_a_image_little(
    model_folder: Path, crafter: FaceCrafter, portrait: Path
) -> None:
    half = FaceCrafter.from_pretrained(model_folder, device="cpu", bfloat16=True)
    made = half.generate(portrait, portrait, n=1, steps=3, speed="refresh")
    assert made[0].info["facecrafter"]["precision"] == "bfloat16"
    assert made[0].info["facecrafter"]["speed"] == "refresh"
    exact = crafter.generate(portrait, portrait, n=1, steps=3, speed="refresh")
    assert 0 < np.abs(pixels(made) - pixels(exact)).mean() < 3


@pytest.fixture
def learned(small_model: FaceModel) -> Iterator[Callable[[str | None], FaceModel]]:
    """The small model as one that learned emotions from a named estimator."""
    assert small_model.controls is not None

    def say(name: str | None) -> FaceModel:
        small_model.controls.register_to_config(emotion_estimator=name)
        return small_model

    yield say
    say(None)


class EmoNetStub:
    """Reads every face as sad."""

    name = "emonet_8"

    def __init__(self, path: Path) -> None:
        self.path = path

    def estimate(self, faces: list[Any]) -> list[Emotion]:
        return [Emotion.from_words({"sad": 1.0}) for _ in faces]


def test_a_photos_emotion_is_read_as_the_model_learned_it(
    learned: Callable[[str | None], FaceModel], portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facecrafter.estimators.emonet.EmoNetEstimator", EmoNetStub)
    read = {}
    for name, emonet in (("emonet_8", "emonet_8.pth"), (None, "emonet_8.pth"), (None, None), ("pixels", None)):
        crafter = FaceCrafter(learned(name), emonet=None if emonet is None else Path(emonet))
        asked = crafter.conditions(portrait, emotion_from=portrait)
        read[name, emonet] = EMOTIONS[int(asked.conditions["emotion"].emotion[2:].argmax())]
    assert read == {
        ("emonet_8", "emonet_8.pth"): "sad",
        (None, "emonet_8.pth"): "sad",
        (None, None): "happy",
        ("pixels", None): "happy",
    }


def test_a_model_that_learned_from_emonet_asks_for_it_only_where_a_photo_gives_the_emotion(
    learned: Callable[[str | None], FaceModel], portrait: Path
) -> None:
    crafter = FaceCrafter(learned("emonet_8"))
    assert "emotion" in crafter.conditions(portrait, landmarks_from=portrait, emotion="happy").conditions
    with pytest.raises(ConfigError, match=r"learned emotions from emonet_8, .* --emonet emonet_8\.pth"):
        crafter.conditions(portrait, emotion_from=portrait)


def test_emonet_is_refused_by_a_model_that_learned_otherwise(
    learned: Callable[[str | None], FaceModel], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="the project's own estimator; leave --emonet out"):
        FaceCrafter(learned("pixels"), emonet=tmp_path / "emonet_8.pth")
    with pytest.raises(WeightsError, match=r"no EmoNet file .*emonet_8\.pth"):
        FaceCrafter(learned("emonet_8"), emonet=tmp_path / "emonet_8.pth")


def test_an_image_is_another_where_another_estimator_read_its_emotion(
    learned: Callable[[str | None], FaceModel], portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facecrafter.estimators.emonet.EmoNetEstimator", EmoNetStub)
    photo = PhotoFile.read(portrait)
    plain, other = FaceCrafter(learned(None)), FaceCrafter(learned(None), emonet=Path("emonet_8.pth"))
    by_photo, by_words = plain.request([photo], emotion_from=photo), plain.request([photo], emotion="sad")
    assert plain.key(by_photo) != other.key(by_photo)
    assert plain.key(by_words) == other.key(by_words)


def test_from_pretrained_refuses_what_is_not_there(tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no model folder nowhere"):
        FaceCrafter.from_pretrained("nowhere")
    with pytest.raises(ConfigError, match="no device 'cuda:77'"):
        FaceCrafter.from_pretrained(model_folder, device="cuda:77")
    with pytest.raises(ConfigError, match="the device 'meta' computes nothing"):
        FaceCrafter.from_pretrained(model_folder, device="meta")
    with pytest.raises(ConfigError, match="choose 'smallest' is not one of largest, centre"):
        FaceCrafter.from_pretrained(model_folder, device="cpu", choose="smallest")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no device 'toaster'"):
        FaceCrafter.from_pretrained(model_folder, device="toaster")
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        FaceCrafter.from_pretrained(model_folder, controls=tmp_path / "none.safetensors")


def test_the_large_scale_needs_the_recognisers_file(small_model: FaceModel, portrait: Path, tmp_path: Path) -> None:
    import dataclasses

    scale = dataclasses.replace(small_model.scale, recogniser="arcface")
    crafter = FaceCrafter(dataclasses.replace(small_model, scale=scale), arcface=tmp_path / "arcface.onnx")
    with pytest.raises(WeightsError, match=r"arcface\.onnx"):
        crafter.person(portrait)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"emotion": "happy"}, Emotion.from_words({"happy": 1.0})),
        ({"emotion": "angry"}, Emotion.from_words({"anger": 1.0})),
        ({"emotion": "Joy:0.7, surprised:0.3"}, Emotion.from_words({"happy": 0.7, "surprise": 0.3})),
        ({"emotion": {"Afraid": 0.5, "sadness": 0.5}}, Emotion.from_words({"fear": 0.5, "sad": 0.5})),
        ({"emotion": "neutral:0.25,happy:0.75"}, Emotion.from_words({"happy": 0.75})),
        ({"emotion": " happy : 0.8 , surprise:.2"}, Emotion.from_words({"happy": 0.8, "surprise": 0.2})),
        ({"emotion": {"fear": 0.5}}, Emotion.from_words({"fear": 0.5, "neutral": 0.5})),
        ({"emotion": Emotion.from_words({"sad": 1})}, Emotion.from_words({"sad": 1.0})),
        ({"valence": 0.6, "arousal": 0.4}, Emotion.from_valence_arousal(0.6, 0.4)),
        ({"valence": 0.0, "arousal": 0.0}, Emotion.from_valence_arousal(0, 0)),
    ],
)
def test_emotion_of(given: dict[str, Any], expected: Emotion | None) -> None:
    assert emotion_of(**given) == expected


def test_describe_names_what_matters() -> None:
    assert describe(Emotion.from_words({"happy": 0.97, "sad": 0.03})).startswith("happy 0.97; valence +0.7")
