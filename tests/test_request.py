"""A request's digest and default seed follow from its content: not from names, places or what changes no image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facecrafter.errors import ConfigError, PhotoError
from facecrafter.faces.emotion import Emotion
from facecrafter.faces.face import Pick
from facecrafter.faces.photo_file import PhotoFile, check_faces, photos_in, photos_of
from facecrafter.pipelines.settings import FilledSettings
from facecrafter.request import Portrait, Request, batches, portrait_of

SETTINGS = FilledSettings(1.5, 1.2, 2.5, steps=8, scheduler="ddim", speed="refresh")
ANN, BOB, CID = (PhotoFile(Path(f"{name}.jpg"), name * 64) for name in "abc")
HAPPY = Emotion.from_words({"happy": 1.0})


def photo(*files: PhotoFile, face: Pick | None = None) -> Portrait:
    return Portrait(photos=files, face=face)


BASE = Request(photo(ANN), {"landmark": photo(BOB), "emotion": photo(CID)}, 3, SETTINGS)


def given(**conditions: Portrait | None) -> dict[str, Any]:
    """The base's conditions with some replaced, or left out."""
    every = {**BASE.conditions, **conditions}
    return {"conditions": {name: one for name, one in every.items() if one is not None}}


OTHERS: dict[str, dict[str, Any]] = {
    "another person": {"identity": photo(BOB)},
    "one photo more": {"identity": photo(ANN, BOB)},
    "another pose": given(landmark=photo(CID)),
    "no pose": given(landmark=None),
    "a pose of points": given(landmark=Portrait(points=np.ones((478, 2), np.float32))),
    "another emotion": given(emotion=photo(BOB)),
    "no emotion": given(emotion=None),
    "a control of its own": given(gaze=photo(BOB)),
    "a face of the photo": {"identity": photo(ANN, face=2)},
    "a face at a point": {"identity": photo(ANN, face=(3.0, 4.0))},
    "a face of the target": given(landmark=photo(BOB, face=2), emotion=None),
    "an emotion in words": given(emotion=portrait_of(HAPPY)),
    "another emotion in words": given(emotion=portrait_of(Emotion.from_words({"happy": 0.9}))),
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
    ("picks", "words"),
    [
        ((1, 2, None, 0), "not for an identity of 2 photos; crop the photos instead"),
        ((None, 1, 1, 2), "not for a target of 2 photos; crop the photos instead"),
        ((None, 1, 1, 0), "not for a target without a photo"),
        ((0, 1, None, 0), "a face's number must be at least 1, which is the largest, not 0"),
    ],
)
def test_a_face_is_picked_in_one_photo(picks: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_faces(*picks)


def test_a_person_is_read_from_files_and_folders(tmp_path: Path, notes: Callable[[], list[str]]) -> None:
    folder = tmp_path / "ann"
    (folder / "friends").mkdir(parents=True)
    for name in ("2.jpg", "1.png", "notes.txt", "friends/3.jpg"):
        (folder / name).write_bytes(name.encode())
    single = tmp_path / "single"
    single.write_bytes(b"any name")
    assert photos_in(folder) == [folder / "1.png", folder / "2.jpg"] and photos_in(single) == [single]
    pixels = np.zeros((2, 2, 3), np.uint8)
    *read, last = photos_of([single, tmp_path / "none.jpg", folder, pixels])
    assert last is pixels
    assert [photo.path for photo in read if isinstance(photo, PhotoFile)] == [
        single,
        folder / "1.png",
        folder / "2.jpg",
    ]
    assert notes() == [f"there is no file {tmp_path / 'none.jpg'}; it is left out"]
    with pytest.raises(PhotoError, match="there is no file"):
        photos_of([tmp_path / "none.jpg", tmp_path / "nobody.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError, match="empty is a folder without photos in it"):
        photos_of([tmp_path / "empty"])
    with pytest.raises(ConfigError, match="a person needs at least one photo"):
        photos_of([])


def test_whatever_changes_an_image_changes_the_digest() -> None:
    digests = [BASE.digest, *(replace(BASE, **change).digest for change in (OTHERS | SAMPLED_OTHERWISE).values())]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 64 for digest in digests)


@pytest.mark.parametrize(
    "change",
    [
        {"identity": photo(replace(ANN, path=Path("elsewhere/x.png")))},
        {"identity": replace(BASE.identity, embedding=np.ones(8, np.float32))},
        {"described": {"identity": "Ann"}},
        {"settings": replace(SETTINGS, batch_size=1)},
    ],
)
def test_what_changes_no_image_does_not_change_the_digest(change: dict[str, Any]) -> None:
    assert replace(BASE, **change).digest == BASE.digest
    assert replace(BASE, **change) == BASE and len({replace(BASE, **change), BASE}) == 1


def test_the_same_emotion_is_the_same_request_in_any_words() -> None:
    def asked(emotion: Emotion) -> Request:
        return replace(BASE, **given(emotion=portrait_of(emotion)))

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


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_is_of_63_bits(seed: int) -> None:
    with pytest.raises(ConfigError, match="between 0 and"):
        replace(BASE, seed=seed)


def test_a_request_by_what_was_read_is_known_by_that() -> None:
    """A stored value: images made today are found again by later versions."""
    person = Portrait(image=np.full((2, 2, 3), 7, np.uint8), embedding=np.ones(4, np.float32))
    target = Portrait(points=np.ones((3, 3), np.float32), emotion=np.zeros(10, np.float32))
    request = Request(person, {"emotion": target, "landmark": target}, 5)
    assert request.digest[:32] == "a64c6ea508f9ea03f0cbd66d6fb3bd05"


def test_batches_are_of_one_kind_each() -> None:
    requests = [Request(Portrait(), {"landmark": Portrait()} if number % 3 else {}) for number in range(8)]
    made = list(batches(requests, 2, lambda one: len(one.conditions)))
    assert made == [[0, 3], [6], [1, 2], [4, 5], [7]]


def test_a_photo_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"face")
    found = PhotoFile.read(path)
    assert found.sha256 == hashlib.sha256(b"face").hexdigest()
    os.utime(path, (0, 0))
    found.check_unchanged()
    path.write_bytes(b"Face")
    with pytest.raises(PhotoError, match=r"a\.jpg has changed since the run began"):
        found.check_unchanged()


@pytest.mark.parametrize(
    ("name", "words"),
    [("none.jpg", "there is no file"), (".", "is a folder"), ("a\0b.jpg", "cannot be read")],
)
def test_a_photo_that_is_none_is_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(PhotoError, match=words):
        PhotoFile.read(tmp_path / name)
