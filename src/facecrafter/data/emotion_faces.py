"""Faces with a human label of what they express, from the sets that the emotion network learns from."""

from __future__ import annotations

import csv
import hashlib
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from facecrafter.data import shards
from facecrafter.errors import DataError, PhotoError
from facecrafter.files import whole
from facecrafter.perception.emotion import EMOTIONS, NAMES
from facecrafter.perception.emotion_net import SIZE, grey_crop, tight_crop
from facecrafter.perception.photo import SUFFIXES, decode_photo

# One person in so many is kept out of training, to test on. A multiple of the share that other stages keep out, so
# that the people whom those test on are among them.
TEST_SHARE = shards.HELD_OUT_SHARE // 4

CACHE = "cache/emotion-faces-{}.npz"  # of a prepared folder


@dataclass(frozen=True)
class EmotionFaces:
    """Labelled faces.

    Attributes:
        crops: ``(N, 48, 48)`` uint8 grey, framed as FER2013's.
        labels: ``(N,)`` int64, indices of :data:`EMOTIONS`.
        test: ``(N,)`` bool, which are kept out of training.
        files: which picture each is.
        blendshapes: ``(N, 52)`` float32, or None where landmarks were not looked for.
    """

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test: NDArray[np.bool_]
    files: list[str]
    blendshapes: NDArray[np.float32] | None = None

    def part(self, test: bool) -> EmotionFaces:
        """Those to train on, or those to test on."""
        chosen = np.flatnonzero(self.test == test)
        shapes = None if self.blendshapes is None else self.blendshapes[chosen]
        files = [self.files[index] for index in chosen]
        return EmotionFaces(self.crops[chosen], self.labels[chosen], self.test[chosen], files, shapes)


def class_of(name: str) -> int | None:
    """The index of a class by whatever name a set gives it; None for one that there is not."""
    named = NAMES.get(name.strip().lower())
    return EMOTIONS.index(named) if named else None


def read_fer2013(source: Path) -> EmotionFaces:
    """FER2013 as ``train/CLASS/*.jpg`` and ``validation/CLASS/*.jpg``, in a folder or a tar; the latter is the test.

    Raises:
        DataError: there is no such file, it is damaged, or no such pictures are in it.
    """
    crops, labels, test, files = [], [], [], []
    for name, content in _pictures(source):
        part, kind = PurePosixPath(name).parts[-3:-1]
        label = class_of(kind)
        if label is None or part not in ("train", "validation"):
            continue
        crops.append(_decoded(name, content, source))
        labels.append(label)
        test.append(part == "validation")
        files.append("/".join(PurePosixPath(name).parts[-3:]))
    if not any(test) or all(test):
        raise DataError(f"{source} is not FER2013: it needs train/CLASS/*.jpg and validation/CLASS/*.jpg")
    order = sorted(range(len(files)), key=files.__getitem__)
    return EmotionFaces(
        np.stack([crops[index] for index in order]),
        np.array([labels[index] for index in order]),
        np.array([test[index] for index in order]),
        [files[index] for index in order],
    )


def read_photos(folder: Path, labels: Path) -> EmotionFaces:
    """Colour photos of a prepared folder with labels from a CSV of ``image,emotion``; ``image`` is a file's name.

    One person in :data:`TEST_SHARE` is for the test, whole people, by name. What was read is kept in the folder's
    cache, as long as its index and the labels stay as they are; beside these two it is all that training needs.

    Raises:
        DataError: the CSV cannot be read or has other columns, or names none of the photos.
    """
    told = _labels(labels)
    try:
        read = hashlib.sha256((folder / shards.INDEX).read_bytes() + labels.read_bytes()).hexdigest()[:16]
    except OSError:
        read = ""  # the loader below says what is wrong with the folder
    cache = folder / CACHE.format(read)
    if read and (kept := _unpacked(cache)) is not None:
        return kept
    prepared = shards.load(folder, recogniser=None)
    chosen = [index for index, file in enumerate(prepared.files) if PurePosixPath(file).name in told]
    if not chosen:
        raise DataError(f"{labels} names none of the photos in {folder}")
    faces = EmotionFaces(
        np.stack([tight_crop(prepared.images[index], prepared.points[index]) for index in chosen]),
        np.array([told[PurePosixPath(prepared.files[index]).name] for index in chosen]),
        shards.held_out([prepared.persons[index] for index in chosen], TEST_SHARE),
        [prepared.files[index] for index in chosen],
        prepared.blendshapes[chosen],
    )
    with suppress(OSError):  # a folder that cannot be written is read anew each time
        cache.parent.mkdir(exist_ok=True)
        with whole(cache) as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **{**vars(faces), "files": np.array(faces.files)})
    return faces


def _unpacked(cache: Path) -> EmotionFaces | None:
    """Faces out of the cache; None where there are none, or only a part."""
    try:
        with np.load(cache) as arrays:
            values = {name: arrays[name] for name in EmotionFaces.__annotations__}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return EmotionFaces(**{**values, "files": values["files"].tolist()})


def _labels(path: Path) -> dict[str, int]:
    """File names to classes."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or not {"image", "emotion"} <= set(rows.fieldnames):
                raise DataError(f"{path} is not a list of labels: it needs the columns image and emotion")
            found = {row["image"]: class_of(row["emotion"] or "") for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the labels {path} cannot be read: {error}") from None
    return {name: label for name, label in found.items() if label is not None}


def _pictures(source: Path) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the pictures of a folder or a tar that lie two folders deep."""
    if source.is_dir():
        for path in source.glob("**/*/*/*"):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield path.as_posix(), _content(path)
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                file = archive.extractfile(member) if name.suffix.lower() in SUFFIXES else None
                if file is not None and len(name.parts) > 2:
                    if member.size > shards.MOST_BYTES:  # a sparse member takes no room in its tar
                        raise tarfile.TarError(f"{member.name} is larger than any picture of the set")
                    yield member.name, file.read()
    except shards.DAMAGE as error:
        raise DataError(f"{source} cannot be read as a tar: {error}; give FER2013 as a tar or a folder") from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); change its permissions, or leave it out") from None


def _decoded(name: str, content: bytes, source: Path) -> NDArray[np.uint8]:
    try:
        rgb = decode_photo(content, f"{name} in {source}")
    except PhotoError as error:
        raise DataError(f"{error}, or get the set again") from None
    try:
        return grey_crop(rgb)
    except PhotoError:  # FER2013 has a few that are all black; they stay in the figures
        return np.zeros((SIZE, SIZE), np.uint8)
