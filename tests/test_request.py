"""A request's digest and default seed follow from its content: not from names, places or what changes no image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from facecrafter.errors import ConfigError, PhotoError
from facecrafter.faces.emotion import Emotion
from facecrafter.pipelines.generate import FilledSettings
from facecrafter.request import PhotoFile, Request, photos_in, read_person

SETTINGS = FilledSettings(1.5, 1.2, 2.5, steps=8, scheduler="ddim", speed="refresh")
ANN, BOB, CID = (PhotoFile(Path(f"{name}.jpg"), name * 64) for name in "abc")
HAPPY = Emotion.from_words({"happy": 1.0})
BASE = Request((ANN,), SETTINGS, seed=3, landmarks_from=BOB, emotion_from=CID)

OTHERS: dict[str, dict[str, Any]] = {
    "another person": {"identity": (BOB,)},
    "one photo more": {"identity": (ANN, BOB)},
    "another pose": {"landmarks_from": CID},
    "no pose": {"landmarks_from": None},
    "another mood": {"emotion_from": BOB},
    "no mood": {"emotion_from": None},
    "a face of the photo": {"face": 2},
    "a face at a point": {"face": (3.0, 4.0)},
    "a face of the target": {"emotion_from": None, "target_face": 2},
    "a mood in words": {"emotion_from": None, "emotion": HAPPY},
    "another mood in words": {"emotion_from": None, "emotion": Emotion.from_words({"happy": 0.9})},
}
SAMPLED_OTHERWISE: dict[str, dict[str, Any]] = {
    "seed": {"seed": 4},
    **{
        name: {"settings": replace(SETTINGS, **{name: value})}
        for name, value in {
            "identity_scale": 2.0,
            "landmark_scale": 0.0,
            "emotion_scale": 2.0,
            "steps": 9,
            "scheduler": "dpm",
            "speed": "exact",
        }.items()
    },
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"face": 1, "identity": (ANN, BOB)}, "not for an identity of 2 photos; crop the photos instead"),
        ({"target_face": 1}, "not for a target of 2 photos; crop the photos instead"),
        ({"target_face": 1, "landmarks_from": None, "emotion_from": None}, "not for a target without a photo"),
        ({"face": 0}, "a face's number must be at least 1, which is the largest, not 0"),
    ],
)
def test_a_face_is_picked_in_one_photo(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(BASE, **change)


def test_a_person_is_read_from_files_and_folders(tmp_path: Path, notes: Callable[[], list[str]]) -> None:
    folder = tmp_path / "ann"
    (folder / "friends").mkdir(parents=True)
    for name in ("2.jpg", "1.png", "notes.txt", "friends/3.jpg"):
        (folder / name).write_bytes(name.encode())
    single = tmp_path / "single"
    single.write_bytes(b"any name")
    assert photos_in(folder) == [folder / "1.png", folder / "2.jpg"] and photos_in(single) == [single]
    read = read_person([single, tmp_path / "none.jpg", folder])
    assert [photo.path for photo in read] == [single, folder / "1.png", folder / "2.jpg"]
    assert notes() == [f"there is no file {tmp_path / 'none.jpg'}; it is left out"]
    with pytest.raises(PhotoError, match="there is no file"):
        read_person([tmp_path / "none.jpg", tmp_path / "nobody.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError, match="empty is a folder without photos in it"):
        read_person([tmp_path / "empty"])


def test_whatever_changes_an_image_changes_the_digest() -> None:
    digests = [BASE.digest, *(replace(BASE, **change).digest for change in (OTHERS | SAMPLED_OTHERWISE).values())]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 64 for digest in digests)


@pytest.mark.parametrize(
    "change",
    [
        {"identity": (replace(ANN, path=Path("elsewhere/x.png")),)},
        {"settings": replace(SETTINGS, batch_size=1)},
    ],
)
def test_what_changes_no_image_does_not_change_the_digest(change: dict[str, Any]) -> None:
    assert replace(BASE, **change).digest == BASE.digest


def test_the_same_emotion_is_the_same_request_in_any_words() -> None:
    def asked(emotion: Emotion) -> Request:
        return replace(BASE, emotion_from=None, emotion=emotion)

    shares = HAPPY.probabilities
    assert asked(Emotion(HAPPY.valence + 1e-9, HAPPY.arousal, shares)).digest == asked(HAPPY).digest
    assert asked(Emotion(-0.0, 0.0, shares)).digest == asked(Emotion(0.0, -0.0, shares)).digest


def test_a_default_seed_follows_from_identity_and_conditions_alone() -> None:
    seeds = [BASE.own_seed(0), *(replace(BASE, **change).own_seed(0) for change in OTHERS.values())]
    seeds += [BASE.own_seed(0, 1), BASE.own_seed(1), BASE.own_seed(1, 1)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**32 for seed in seeds)
    assert {replace(BASE, **change).own_seed(0) for change in SAMPLED_OTHERWISE.values()} == {BASE.own_seed(0)}
    # A stored value: folders made today are found again by later versions.
    assert BASE.own_seed(0) == 1665693237


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"identity": ()}, "at least one photo"),
        ({"emotion": HAPPY}, "give it one way"),
        ({"seed": -1}, "between 0 and"),
        ({"seed": 2**63}, "between 0 and"),
    ],
)
def test_what_cannot_be_asked_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(BASE, **change)


def test_a_photo_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"face")
    photo = PhotoFile.read(path)
    assert photo.sha256 == hashlib.sha256(b"face").hexdigest()
    os.utime(path, (0, 0))
    photo.check_unchanged()
    path.write_bytes(b"Face")
    with pytest.raises(PhotoError, match=r"a\.jpg has changed since the run began"):
        photo.check_unchanged()


@pytest.mark.parametrize(
    ("name", "words"),
    [("none.jpg", "there is no file"), (".", "is a folder"), ("a\0b.jpg", "cannot be read")],
)
def test_a_photo_that_is_none_is_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(PhotoError, match=words):
        PhotoFile.read(tmp_path / name)
