"""A rig from several prepared folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facecrafter.data import rig as data_rig
from facecrafter.data import sources
from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import DataError
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.face import BLENDSHAPES
from facecrafter.faces.rig import load

PHOTOS = 4  # a person
FEAR, JAW = EMOTIONS.index("fear"), BLENDSHAPES.index("jawOpen")


def made_up(prefix: str, size: int, opened: float, emotion: int, yaw: float) -> Prepared:
    """Twelve people of training and two held out, half of whose photos are neutral, and half with the jaw open."""
    names = [name for name in (f"{prefix} {number}" for number in range(400)) if not held_out([name])[0]][:12]
    names += [name for name in (f"{prefix} {number}" for number in range(400)) if held_out([name])[0]][:2]
    rng, rig = np.random.default_rng(len(prefix)), load()
    count = PHOTOS * len(names)
    scores = np.zeros((count, 52), np.float32)
    scores[::2, JAW] = opened
    shares = np.zeros((count, 10), np.float32)
    shares[::2, 2 + emotion], shares[1::2, 2] = 1, 1
    angles = np.zeros((count, 3), np.float32)
    angles[2::4, 0], angles[3::4, 1] = yaw, 5
    points = [
        rig.posed(rig.mean + rig.moved(one), *pose[:2], size=size) for one, pose in zip(scores, angles, strict=True)
    ]
    identity = rng.normal(size=(len(names), 8)).astype(np.float32)
    return Prepared(
        images=np.zeros((count, size, size, 3), np.uint8),
        points=np.array(points, np.float32),
        blendshapes=scores,
        angles=angles,
        identity=np.repeat(identity / np.linalg.norm(identity, axis=1, keepdims=True), PHOTOS, axis=0),
        emotion=shares,
        masks=np.zeros((count, 64, 64), np.uint8),
        persons=[name for name in names for _ in range(PHOTOS)],
        files=[f"{number}.jpg" for number in range(count)],
        estimator="pixels",
    )


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> dict[str, Prepared]:
    """Photos of happy people, and larger ones of people who are afraid and turn their heads."""
    known = {"photos": made_up("real", 16, 0.1, 1, 10.0), "made": made_up("generated", 32, 0.6, FEAR, 18.0)}
    monkeypatch.setattr(data_rig, "load", lambda folder, recogniser: known[folder.name])
    monkeypatch.setattr(data_rig, "read_meta", lambda folder: {"recognisers": {"dlib": {}}})
    return known


def test_a_folder_beside_brings_the_expressions_that_the_first_lacks(folders: dict[str, Prepared]) -> None:
    alone, both = data_rig.fit_rig(Path("photos")), data_rig.fit_rig(Path("photos"), [Path("made")])
    assert alone.emotions[FEAR, JAW] == 0
    assert both.emotions[FEAR, JAW] == pytest.approx(0.6, abs=1e-3)
    assert both.emotions[1, JAW] == pytest.approx(alone.emotions[1, JAW], abs=1e-6)
    assert (alone.about["people"], both.about["people"]) == (12, 24)  # nobody who is held out
    assert both.about["data"] == (
        "photos, a folder of 56 prepared photos and made, a folder of 56 prepared photos, less held-out people"
    )
    folders["made"] = made_up("generated", 16, 0.6, FEAR, 18.0)
    smaller = data_rig.fit_rig(Path("photos"), [Path("made")])
    np.testing.assert_allclose(both.offsets, smaller.offsets, atol=1e-4)  # whatever the images' size


def test_what_identity_alone_draws_is_of_the_first_folder(folders: dict[str, Prepared]) -> None:
    rig = data_rig.fit_rig(Path("photos"), [Path("made")])
    assert len(rig.usual) == 12 * PHOTOS
    assert rig.usual[:, 2 + JAW].max() == pytest.approx(0.1)
    assert np.abs(rig.usual[:, 0]).max() == pytest.approx(10)


def test_people_who_are_like_a_held_out_person_are_left_out(folders: dict[str, Prepared]) -> None:
    photos, made = folders["photos"], folders["made"]
    made.identity[:PHOTOS] = photos.identity[-1]
    assert data_rig.fit_rig(Path("photos"), [Path("made")]).about["people"] == 23


@pytest.mark.parametrize(
    ("photos", "made", "read"),
    [
        (["sface", "dlib"], ["dlib"], "dlib"),
        (["sface", "dlib"], ["dlib", "sface"], "sface"),
        (["arcface"], ["dlib", "sface"], None),
    ],
)
def test_people_are_compared_by_one_recogniser(
    folders: dict[str, Prepared], monkeypatch: pytest.MonkeyPatch, photos: list[str], made: list[str], read: str | None
) -> None:
    names, asked = {"photos": photos, "made": made}, []
    monkeypatch.setattr(data_rig, "read_meta", lambda one: {"recognisers": dict.fromkeys(names[one.name])})
    monkeypatch.setattr(data_rig, "load", lambda folder, recogniser: asked.append(recogniser) or folders[folder.name])
    if read is None:
        with pytest.raises(DataError, match=r"no recogniser in common \(photos has arcface, made has dlib and sface\)"):
            data_rig.fit_rig(Path("photos"), [Path("made")])
    else:
        data_rig.fit_rig(Path("photos"), [Path("made")])
        assert asked == [read, read]


def test_images_are_not_made_smaller_to_fit_a_rig(
    folders: dict[str, Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shrunk(*_: object) -> None:
        raise AssertionError("the landmarks are all that is fitted")

    monkeypatch.setattr(sources, "shrunk", shrunk)
    data_rig.fit_rig(Path("photos"), [Path("made")])
