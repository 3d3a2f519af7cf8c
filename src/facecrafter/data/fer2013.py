"""Faces with a human label of what they express, from the sets that the emotion network learns from."""

from __future__ import annotations

import csv
import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from facecrafter.data import shards
from facecrafter.errors import DataError, PhotoError, reason_of
from facecrafter.estimators.emotion import SIZE, grey_crop, tight_crop
from facecrafter.faces.emotion import EMOTIONS, NAMES
from facecrafter.faces.photo import SUFFIXES, decode_photo
from facecrafter.io import whole

# One person in so many is held out of training, to test on. A multiple of the share that other stages keep out, so
# that the people whom those test on are among them.
TEST_SHARE = shards.HELD_OUT_SHARE // 4

CACHE = "cache/emotion-faces-{}.npz"  # of a prepared folder

# What FER+'s voters could choose beside the eight classes: they cannot say, and it is no face.
UNKNOWN, NO_FACE = "unknown", "NF"
# A class that got so many votes or fewer got them by mistake (Barsoum et al., 2016).
OUTLIER = 1


@dataclass(frozen=True)
class EmotionFaces:
    """Labelled faces.

    Attributes:
        crops: ``(N, 48, 48)`` uint8 grey, framed as FER2013's.
        labels: ``(N,)`` int64, indices of :data:`EMOTIONS`; of votes, the class with the most.
        test: ``(N,)`` bool, which are held out of training.
        files: which image each is.
        blendshapes: ``(N, 52)`` float32, or None where landmarks were not looked for.
        shares: ``(N, 8)`` float32 summing to 1, the votes for each class; all for the label if not given.
        clear: ``(N,)`` bool, where people agree on the label (:func:`clear_majority`); everywhere if not given.
        held_out: ``(N,)`` bool: of people who are held out of every stage of training, or test images that the set
            does not have for training too; nowhere if not given.
    """

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test: NDArray[np.bool_]
    files: list[str]
    blendshapes: NDArray[np.float32] | None = None
    shares: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, len(EMOTIONS)), np.float32))
    clear: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    held_out: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __post_init__(self) -> None:
        if not len(self.shares):
            object.__setattr__(self, "shares", np.eye(len(EMOTIONS), dtype=np.float32)[self.labels])
        if not len(self.clear):
            object.__setattr__(self, "clear", np.ones(len(self.labels), np.bool_))
        if not len(self.held_out):
            object.__setattr__(self, "held_out", np.zeros(len(self.labels), np.bool_))

    def part(self, test: bool) -> EmotionFaces:
        """Those to train on, or those to test on."""
        return self.only(self.test == test)

    def only(self, which: NDArray[np.bool_]) -> EmotionFaces:
        """Those that are true in ``(N,)``."""
        chosen = np.flatnonzero(which)
        return EmotionFaces(
            self.crops[chosen],
            self.labels[chosen],
            self.test[chosen],
            [self.files[index] for index in chosen],
            None if self.blendshapes is None else self.blendshapes[chosen],
            self.shares[chosen],
            self.clear[chosen],
            self.held_out[chosen],
        )


def class_of(name: str) -> int | None:
    """The index of a class by whatever name a set gives it; None for one that there is not."""
    named = NAMES.get(name.strip().lower())
    return EMOTIONS.index(named) if named else None


def without_outliers(votes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Votes of any shape without those for a choice that :data:`OUTLIER` people or fewer made."""
    return np.where(votes > OUTLIER, votes, 0)


def readable(votes: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images people could read, ``(N,)``: a class has more votes than "unknown" and than "no face", outliers
    left out (Barsoum et al., 2016).

    Args:
        votes: ``(N, 8)``, for the classes.
        others: ``(N, 2)``, for "unknown" and "no face".
    """
    return np.asarray(without_outliers(votes).max(1) > without_outliers(others).max(1))


def clear_majority(votes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where one class has more than half of the votes ``(N, 8)`` for the eight classes, outliers included: ``(N,)``."""
    return np.asarray(2 * votes.max(1) > votes.sum(1))


def read_ferplus(images: Path, votes: Path) -> EmotionFaces:
    """FER2013's images with FER+'s votes (Barsoum et al., 2016): those that people could read (:func:`readable`).

    The part called ``validation`` is the test; what is in it too, to the pixel, is left out of training.

    Args:
        images: folder or tar that holds ``train/NAME.png`` and ``validation/NAME.png``.
        votes: CSV of ``file`` (``train/NAME.png``), the eight classes, ``unknown`` and ``NF``: how many people chose
            each.

    Raises:
        DataError: one of the two cannot be read or is something else, or images that the votes name are missing.
    """
    by_file = _votes(votes)
    crops = {}
    for name, content in _images(images):
        place = "/".join(PurePosixPath(name).parts[-2:])
        if place in by_file:
            crops[place] = _decoded(name, content, images)
    missing = sorted(by_file.keys() - crops.keys())
    if missing:
        raise DataError(
            f"{images} lacks {len(missing)} of the {len(by_file)} images that {votes} names, {missing[0]} for one; "
            "give FER2013 as a tar or a folder of train/NAME.png and validation/NAME.png"
        )
    files = sorted(by_file)
    counts = np.array([by_file[file] for file in files])
    classes, kept = counts[:, : len(EMOTIONS)], readable(counts[:, : len(EMOTIONS)], counts[:, len(EMOTIONS) :])
    test = np.array([file.startswith("validation/") for file in files])
    in_both = np.array(_in_both([crops[file].tobytes() for file in files], test.tolist()))
    kept &= test | ~in_both
    if not (kept & test).any() or not (kept & ~test).any():
        raise DataError(f"{votes} needs images of both train/ and validation/ that people could read")
    agreed = without_outliers(classes)
    faces = EmotionFaces(
        np.stack([crops[file] for file in files]),
        agreed.argmax(1),
        test,
        files,
        shares=(agreed / np.maximum(agreed.sum(1, keepdims=True), 1)).astype(np.float32),
        clear=clear_majority(classes),
        held_out=test & ~in_both,
    )
    return faces.only(kept)


def _in_both(contents: list[bytes], test: list[bool]) -> list[bool]:
    """Which contents occur both among those to train on and among those to test on."""
    parts = [{one for one, tested in zip(contents, test, strict=True) if tested == part} for part in (False, True)]
    return [one in parts[0] and one in parts[1] for one in contents]


def _votes(path: Path) -> dict[str, list[int]]:
    """Images (``part/NAME``) of training and validation to ten counts: :data:`EMOTIONS`, unknown, no face."""
    found: dict[str, list[int]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            columns = _vote_columns(path, rows.fieldnames)
            for row in rows:
                name = row["file"]
                if PurePosixPath(name).parts[:-1] not in (("train",), ("validation",)):
                    continue  # FER+ has a third part, for a last test
                counts = _counts([row[column] for column in columns], f"line {rows.line_num} of {path}")
                if found.setdefault(name, counts) != counts:  # FER2013 has a few images twice
                    raise DataError(f"{path} has two rows for {name}, with other votes; leave one")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the votes {path} cannot be read: {error}") from None
    if not found:
        raise DataError(f"{path} has no row whose file is train/NAME or validation/NAME")
    return found


def _vote_columns(path: Path, names: Sequence[str] | None) -> list[str]:
    """What the columns of the eight classes, of unknown and of no face are called."""
    named = {class_of(name): name for name in names or []}
    classes = [named.get(index) for index in range(len(EMOTIONS))]
    columns = [name for name in classes if name is not None]
    if len(columns) < len(EMOTIONS) or not {"file", UNKNOWN, NO_FACE} <= set(names or []):
        raise DataError(
            f"{path} is not a list of votes: it needs the columns file, the eight emotions, {UNKNOWN} and {NO_FACE}"
        )
    return [*columns, UNKNOWN, NO_FACE]


def _counts(texts: list[str | None], where: str) -> list[int]:
    """Ten whole numbers from 0 up."""
    try:
        counts = [int(text or "") for text in texts]
    except ValueError:
        counts = []
    if not counts or min(counts) < 0:
        raise DataError(f"{where} holds votes that are not whole numbers from 0 up: {','.join(map(str, texts))}")
    return counts


def read_photos(folder: Path, labels: Path) -> EmotionFaces:
    """Colour photos of a prepared folder with labels from a CSV of ``image,emotion``; ``image`` is a file's name, which
    no other photo of the folder has.

    One person in :data:`TEST_SHARE` is for the test, whole people, by name. What was read is kept in the folder's
    cache, as long as its index and the labels stay as they are; beside these two it is all that training needs.

    Raises:
        DataError: the CSV cannot be read or has other columns, has two labels for one name, names none of the photos,
            or a name that several of them have.
    """
    by_file = _labels(labels)
    try:
        read = hashlib.sha256((folder / shards.INDEX).read_bytes() + labels.read_bytes()).hexdigest()[:16]
    except OSError:
        read = ""  # the loader below says what is wrong with the folder
    cache = folder / CACHE.format(read)
    if read and (kept := _unpacked(cache)) is not None:
        _check_names(labels, kept.files)
        return kept
    prepared = shards.load(folder, recogniser=None)
    chosen = [index for index, file in enumerate(prepared.files) if PurePosixPath(file).name in by_file]
    if not chosen:
        raise DataError(f"{labels} names none of the photos in {folder}")
    _check_names(labels, [prepared.files[index] for index in chosen])
    faces = EmotionFaces(
        np.stack([tight_crop(prepared.images[index], prepared.points[index]) for index in chosen]),
        np.array([by_file[PurePosixPath(prepared.files[index]).name] for index in chosen]),
        shards.held_out([prepared.persons[index] for index in chosen], TEST_SHARE),
        [prepared.files[index] for index in chosen],
        prepared.blendshapes[chosen],
        held_out=shards.held_out([prepared.persons[index] for index in chosen]),
    )
    with suppress(OSError):  # a folder that cannot be written is read again each time
        cache.parent.mkdir(exist_ok=True)
        with whole(cache) as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **{**vars(faces), "files": np.array(faces.files)})
    return faces


def _check_names(labels: Path, files: list[str]) -> None:
    """Refuse photos of which two have one name, so that a label could be of either."""
    named: dict[str, str] = {}
    for file in files:
        other = named.setdefault(PurePosixPath(file).name, file)
        if other != file:
            raise DataError(
                f"{labels} cannot say whether it means {other} or {file}, which have one name; leave its label out, or "
                "prepare photos with names of their own"
            )


def _unpacked(cache: Path) -> EmotionFaces | None:
    """Faces out of the cache; None where there are none, or only a part."""
    try:
        with np.load(cache) as arrays:
            values = {name: arrays[name] for name in EmotionFaces.__annotations__}
    except shards.DAMAGE:
        return None
    return EmotionFaces(**{**values, "files": values["files"].tolist()})


def _labels(path: Path) -> dict[str, int]:
    """File names to classes."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or not {"image", "emotion"} <= set(rows.fieldnames):
                raise DataError(f"{path} is not a list of labels: it needs the columns image and emotion")
            found: dict[str, int | None] = {}
            for row in rows:
                label = class_of(row["emotion"] or "")
                if found.setdefault(row["image"], label) != label:
                    raise DataError(f"{path} has two rows for {row['image']}, with other labels; leave one")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the labels {path} cannot be read: {reason_of(error)}") from None
    return {name: label for name, label in found.items() if label is not None}


def _images(source: Path) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the images of a folder or a tar that lie in folders of it."""
    if source.is_dir():
        for path in sorted(source.glob("**/*/*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield path.as_posix(), _content(path)
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                file = archive.extractfile(member) if name.suffix.lower() in SUFFIXES else None
                if file is not None and len(name.parts) > 1:
                    if member.size > shards.MOST_BYTES:  # a sparse member takes no room in its tar
                        raise tarfile.TarError(f"{member.name} is larger than any image of the set")
                    yield member.name, file.read()
    except shards.DAMAGE as error:
        raise DataError(
            f"{source} cannot be read as a tar: {reason_of(error)}; give FER2013 as a tar or a folder"
        ) from None


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
