"""Labelled faces: FER2013's layout in a folder or a tar, photos by a CSV, and one sentence for what is neither."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facecrafter.data import shards
from facecrafter.data.emotion_faces import TEST_SHARE, class_of, read_fer2013, read_photos
from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import DataError
from facecrafter.perception.emotion import EMOTIONS


@pytest.fixture
def fer(tmp_path: Path) -> Path:
    """Nine crops in FER2013's layout; each is as bright as its class's number says."""
    root = tmp_path / "fer"
    for part, count in (("train", 2), ("validation", 1)):
        for number, name in enumerate(("angry", "happy", "neutral")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.full((48, 48), 40 * number + 10, np.uint8)
                pixels[:5] = 255
                Image.fromarray(pixels).save(folder / f"{index}.png")
    (root / "train" / "happy" / "notes.txt").write_text("no picture")
    return root


def test_fer2013_from_a_folder_and_from_a_tar(fer: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "fer.tar.gz", "w:gz") as archive:
        archive.add(fer, "fer2013")
    folder, archived = read_fer2013(fer), read_fer2013(tmp_path / "fer.tar.gz")
    np.testing.assert_array_equal(folder.crops, archived.crops)
    assert folder.files == archived.files == sorted(folder.files)
    assert folder.files[0] == "train/angry/0.png"
    assert [EMOTIONS[label] for label in folder.labels] == [
        "anger", "anger", "happy", "happy", "neutral", "neutral", "anger", "happy", "neutral"
    ]  # fmt: skip
    assert folder.crops[:, 40, 20].tolist() == [10, 10, 50, 50, 90, 90, 10, 50, 90]
    assert folder.test.tolist() == [False] * 6 + [True] * 3
    assert folder.part(test=True).files == folder.files[6:]


def test_photos_by_the_name_of_their_file(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "load", lambda folder, recogniser: prepared)
    names = [Path(file).name for file in prepared.files]
    rows = [f"{names[1]},happiness", f"{names[0]},contempt", "another.jpg,fear", f"{names[2]},bored"]
    (tmp_path / "labels.csv").write_text("image,emotion\n" + "\n".join(rows) + "\n")
    faces = read_photos(tmp_path, tmp_path / "labels.csv")
    assert faces.files == prepared.files[:2]
    assert faces.labels.tolist() == [7, 1]
    assert faces.crops.shape == (2, 48, 48)
    np.testing.assert_array_equal(faces.blendshapes, prepared.blendshapes[:2])
    (tmp_path / "none.csv").write_text("image,emotion\nanother.jpg,fear\n")
    with pytest.raises(DataError, match="names none of the photos"):
        read_photos(tmp_path, tmp_path / "none.csv")


def test_whom_other_stages_keep_out_is_kept_out_here() -> None:
    people = [f"Person_{number}" for number in range(2000)]
    own, others = held_out(people, TEST_SHARE), held_out(people)
    assert own[others].all()
    assert 0.17 < own.mean() < 0.23


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("Happiness", 1),
        ("angry", 6),
        ("sadness ", 2),
        ("neutral", 0),
        ("disgusted", 5),
        ("joy", 1),
        ("bored", None),
        ("", None),
    ],
)
def test_classes_by_any_name(name: str, index: int | None) -> None:
    assert class_of(name) == index


def test_what_is_no_labelled_set_is_refused(fer: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.tar").write_text("no tar")
    (tmp_path / "columns.csv").write_text("photo,mood\na.jpg,happy\n")
    for source in ("empty", "words.tar", "none.tar"):
        with pytest.raises(DataError, match=source):
            read_fer2013(tmp_path / source)
    (fer / "train" / "happy" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"cut\.jpg.*damaged"):
        read_fer2013(fer)
    for labels in ("columns.csv", "none.csv"):
        with pytest.raises(DataError, match=labels):
            read_photos.__globals__["_labels"](tmp_path / labels)


def test_photos_are_cut_once(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    monkeypatch.setattr(shards, "load", lambda folder, recogniser: reads.append(folder) or prepared)
    labels = tmp_path / "labels.csv"
    labels.write_text("image,emotion\n" + "".join(f"{Path(file).name},happy\n" for file in prepared.files[:3]))
    (tmp_path / shards.INDEX).write_bytes(b"one")
    first, second = read_photos(tmp_path, labels), read_photos(tmp_path, labels)
    assert len(reads) == 1
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(second, name))
    assert isinstance(second.files, list)
    (tmp_path / shards.INDEX).write_bytes(b"two")  # prepared anew
    read_photos(tmp_path, labels)
    labels.write_text("image,emotion\n" + f"{Path(prepared.files[0]).name},sad\n")
    assert read_photos(tmp_path, labels).labels.tolist() == [EMOTIONS.index("sad")]
    assert len(reads) == 3
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    read_photos(tmp_path, labels)
    assert len(reads) == 4
