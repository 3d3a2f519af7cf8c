"""Labelled faces: FER2013's layout in a folder or a tar, photos by a CSV, and one sentence for what is neither."""

from __future__ import annotations

import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facecrafter.data import shards
from facecrafter.data.fer2013 import (
    TEST_SHARE,
    EmotionFaces,
    class_of,
    clear_majority,
    read_ferplus,
    read_photos,
    readable,
)
from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import DataError
from facecrafter.faces.emotion import EMOTIONS

HEADER = "file,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
# Each with what its crop is filled with, its votes in the header's order, and what is to become of it.
ROWS = {
    "train/0.png": (10, "9,0,0,0,0,0,0,1,0,0"),
    "train/1.png": (20, "0,4,4,0,0,0,0,2,0,0"),
    "train/2.png": (30, "1,1,1,1,0,0,0,0,6,0"),  # unreadable
    "train/3.png": (40, "0,0,0,0,0,0,0,3,0,7"),  # no face
    "train/4.png": (50, "0,0,0,3,0,0,0,0,3,4"),  # no face
    "train/5.png": (60, "1,1,1,1,1,1,1,1,1,1"),  # outliers alone
    "train/6.png": (99, "0,10,0,0,0,0,0,0,0,0"),  # in validation too
    "validation/7.png": (99, "0,9,0,0,0,0,0,0,1,0"),
    "validation/8.png": (80, "0,0,0,5,1,1,3,0,0,0"),
}
KEPT = ["train/0.png", "train/1.png", "validation/7.png", "validation/8.png"]


def write_votes(path: Path, rows: dict[str, str], header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *(f"{name},{votes}" for name, votes in rows.items())]) + "\n")
    return path


@pytest.fixture
def fer(tmp_path: Path) -> Path:
    """Nine crops in FER2013's layout; each is as bright as :data:`ROWS` says."""
    root = tmp_path / "fer"
    for name, (value, _) in ROWS.items():
        pixels = np.full((48, 48), value, np.uint8)
        pixels[:5] = 255
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / name)
    (root / "train" / "notes.txt").write_text("no image")
    Image.fromarray(pixels).save(root / "train" / "without-votes.png")
    return root


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    return write_votes(tmp_path / "votes.csv", {name: row[1] for name, row in ROWS.items()})


def test_ferplus_from_a_folder_and_from_a_tar(fer: Path, votes: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "fer.tar.xz", "w:xz") as archive:
        archive.add(fer, "fer2013")
    for faces in (read_ferplus(fer, votes), read_ferplus(tmp_path / "fer.tar.xz", votes)):
        assert faces.files == KEPT
        assert faces.crops[:, 40, 20].tolist() == [10, 20, 99, 80]
        assert [EMOTIONS[label] for label in faces.labels] == ["neutral", "happy", "happy", "sad"]
        assert faces.test.tolist() == [False, False, True, True]
        assert faces.clear.tolist() == [True, False, True, False]  # 4 of 10, and 5 of 10, are no more than half
        assert faces.held_out.tolist() == [False, False, False, True]  # the third is in training too
        assert faces.part(test=True).files == KEPT[2:]
        assert faces.part(test=True).clear.tolist() == [True, False]


def test_votes_are_shares_without_outliers(fer: Path, votes: Path) -> None:
    shares = read_ferplus(fer, votes).shares
    wanted = [
        {"neutral": 1.0},
        {"happy": 0.4, "surprise": 0.4, "contempt": 0.2},
        {"happy": 1.0},
        {"sad": 5 / 8, "fear": 3 / 8},
    ]
    for row, told in zip(shares, wanted, strict=True):
        np.testing.assert_allclose(row, [told.get(name, 0.0) for name in EMOTIONS], atol=1e-6)


@pytest.mark.parametrize(
    ("votes", "others", "kept", "clear"),
    [
        ([6, 4, 0, 0, 0, 0, 0, 0], [0, 0], True, True),
        ([5, 5, 0, 0, 0, 0, 0, 0], [0, 0], True, False),
        ([3, 1, 1, 0, 0, 0, 0, 0], [3, 2], False, True),  # as many say that they do not know
        ([3, 2, 0, 0, 0, 0, 0, 0], [2, 3], False, True),
        ([4, 1, 1, 1, 0, 0, 0, 0], [3, 0], True, True),
        ([1, 1, 1, 1, 1, 1, 1, 1], [1, 1], False, False),
        ([2, 1, 1, 1, 0, 0, 0, 0], [1, 1], True, False),
    ],
)
def test_readable_and_clear(votes: list[int], others: list[int], kept: bool, clear: bool) -> None:
    assert readable(np.array([votes]), np.array([others])).tolist() == [kept]
    assert clear_majority(np.array([votes])).tolist() == [clear]


def test_the_same_image_twice_in_the_votes(fer: Path, votes: Path) -> None:
    told = votes.read_text()
    votes.write_text(told + "train/0.png," + ROWS["train/0.png"][1] + "\n")
    assert read_ferplus(fer, votes).files == KEPT
    votes.write_text(told + "train/0.png,0,0,0,0,10,0,0,0,0,0\n")
    with pytest.raises(DataError, match=r"two rows for train/0\.png"):
        read_ferplus(fer, votes)


def test_faces_without_votes_are_all_for_their_label() -> None:
    faces = EmotionFaces(np.zeros((2, 48, 48), np.uint8), np.array([3, 0]), np.array([True, False]), ["a", "b"])
    assert faces.shares.tolist() == np.eye(8)[[3, 0]].tolist()
    assert faces.clear.all()
    assert faces.only(np.array([False, True])).files == ["b"]


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
    np.testing.assert_array_equal(faces.held_out, held_out(prepared.persons[:2]))
    (tmp_path / "none.csv").write_text("image,emotion\nanother.jpg,fear\n")
    with pytest.raises(DataError, match="names none of the photos"):
        read_photos(tmp_path, tmp_path / "none.csv")


def test_a_label_is_of_one_photo(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ["Ann/1.jpg", "Ann/2.jpg", "Bob/1.jpg", *prepared.files[3:]]
    monkeypatch.setattr(shards, "load", lambda folder, recogniser: replace(prepared, files=files))
    labels = tmp_path / "labels.csv"
    labels.write_text("image,emotion\n2.jpg,happy\n2.jpg,happiness\n")
    assert read_photos(tmp_path, labels).files == ["Ann/2.jpg"]
    labels.write_text("image,emotion\n2.jpg,happy\n2.jpg,sad\n")
    with pytest.raises(DataError, match=r"labels\.csv has two rows for 2\.jpg, with other labels; leave one"):
        read_photos(tmp_path, labels)
    labels.write_text("image,emotion\n1.jpg,happy\n")
    with pytest.raises(DataError, match=r"whether it means Ann/1\.jpg or Bob/1\.jpg, which have one name"):
        read_photos(tmp_path, labels)


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


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("photo,mood", "train/0.png,happy", "needs the columns"),
        (HEADER.replace(",contempt", ""), "train/0.png,1,1,1,1,1,1,1,1,1", "needs the columns"),
        (HEADER.replace(",NF", ""), "train/0.png,1,1,1,1,1,1,1,1,1", "needs the columns"),
        ("", "", "needs the columns"),
        (HEADER, "train/0.png,9,0,0,0,0,0,0,one,0,0", "line 2 of .* whole numbers"),
        (HEADER, "train/0.png,9,0,0,0,0,0,0,-1,0,0", "line 2 of .* whole numbers"),
        (HEADER, "train/0.png,9,0.5,0,0,0,0,0,0,0,0", "line 2 of .* whole numbers"),
        (HEADER, "train/0.png,9", "line 2 of .* whole numbers"),
        (HEADER, "test/0.png,9,0,0,0,0,0,0,0,0,0", "no row whose file"),
        (HEADER, "train/none.png,9,0,0,0,0,0,0,0,0,0", r"lacks 1 of the 1 images .* train/none\.png"),
        (HEADER, "train/0.png,9,0,0,0,0,0,0,0,0,0", "both train/ and validation/"),
    ],
)
def test_votes_that_are_none_are_refused(fer: Path, tmp_path: Path, header: str, row: str, said: str) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(f"{header}\n{row}\n")
    with pytest.raises(DataError, match=said) as error:
        read_ferplus(fer, path)
    assert "wrong.csv" in str(error.value)


def test_what_is_no_labelled_set_is_refused(fer: Path, votes: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.tar").write_text("no tar")
    (tmp_path / "columns.csv").write_text("photo,mood\na.jpg,happy\n")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    for source in ("empty", "words.tar", "none.tar"):
        with pytest.raises(DataError, match=source):
            read_ferplus(tmp_path / source, votes)
    for wrong in ("none.csv", "bytes.csv"):
        with pytest.raises(DataError, match=wrong):
            read_ferplus(fer, tmp_path / wrong)
    (fer / "train" / "1.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"1\.png in .*get the set again"):
        read_ferplus(fer, votes)
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
    (tmp_path / shards.INDEX).write_bytes(b"two")  # prepared again
    read_photos(tmp_path, labels)
    labels.write_text("image,emotion\n" + f"{Path(prepared.files[0]).name},sad\n")
    assert read_photos(tmp_path, labels).labels.tolist() == [EMOTIONS.index("sad")]
    assert len(reads) == 3
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    read_photos(tmp_path, labels)
    assert len(reads) == 4
    for file in (tmp_path / "cache").iterdir():
        content = bytearray(file.read_bytes())
        start = 30 + sum(struct.unpack("<HH", content[26:30]))  # of what is compressed, after the first file's header
        content[start : start + 40] = b"\xff" * 40
        file.write_bytes(content)
    read_photos(tmp_path, labels)
    assert len(reads) == 5
