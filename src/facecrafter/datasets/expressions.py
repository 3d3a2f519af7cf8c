"""Does a made set help a reader of expressions? Trained on photos, on as many made images, and on both.

It is the network of :mod:`facecrafter.datasets.experiment`, trained from nothing for as many steps each, and reads
which of eight emotions a face crop shows. Labels of photos are human ones, those of a set are what was asked for. It is
tested on FER+'s validation part (Barsoum et al., 2016), of which no arm has an image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facecrafter.data import shards
from facecrafter.data.fer2013 import EmotionFaces
from facecrafter.datasets.cells import FREE
from facecrafter.datasets.experiment import ARMS, SIDE, Images, fitted, shown, store, stored, tensor
from facecrafter.errors import DataError
from facecrafter.estimators.emotion import tight_crop
from facecrafter.evaluation import bootstrap
from facecrafter.evaluation.record import Interval, Record
from facecrafter.faces.emotion import EMOTIONS, emotion_of

if TYPE_CHECKING:
    from torch import Tensor, nn


class Readers(Record):
    """The result.

    Attributes:
        images: of each of the first two arms.
        classes: images of each emotion by arm.
        tested: images of the test.
        accuracy: share of the test's images that are read as people read them, by arm; intervals over images.
        recall: the same share within each emotion, averaged over the emotions: chance is 1 / 8.
        differences: of the recall, from training on photos, paired.
    """

    images: int
    classes: dict[str, dict[str, int]]
    tested: int
    accuracy: dict[str, Interval]
    recall: dict[str, Interval]
    differences: dict[str, Interval]


def made_faces(folder: Path) -> EmotionFaces:
    """The images of a set that were asked for with an emotion in words, as face crops with the likeliest class.

    Raises:
        DataError: it is no data set, or has no such image.
    """
    import pyarrow.parquet as pq

    prepared = shards.load(folder)
    try:
        words = pq.read_table(folder / shards.INDEX, columns=["asked_emotion"])["asked_emotion"].to_pylist()
    except shards.DAMAGE:
        raise DataError(f"{folder} is a prepared folder and no data set of 'dataset make'") from None
    labels = {word: _class_of(word) for word in set(words)}
    rows = [row for row, word in enumerate(words) if labels[word] is not None]
    if not rows:
        raise DataError(f"{folder} has no image with an emotion in words; a reader of expressions needs some")
    return EmotionFaces(
        np.stack([tight_crop(prepared.images[row], prepared.points[row]) for row in rows]),
        np.array([labels[words[row]] for row in rows], np.int64),
        np.zeros(len(rows), np.bool_),
        [prepared.files[row] for row in rows],
    )


def _class_of(word: str) -> int | None:
    """The class of an emotion as the cells name it; None where it is free or a point."""
    if word == FREE or word.startswith("valence "):
        return None
    emotion = emotion_of(word)
    return None if emotion is None else EMOTIONS.index(emotion.label)


def compare_readers(
    photos: EmotionFaces, made: EmotionFaces, test: EmotionFaces, out: Path, steps: int = 1500, seed: int = 0
) -> Readers:
    """Train and compare. What an arm that is done reads is kept in the folder, and a stopped run goes on after it.

    Args:
        photos: with human labels, without people who are held out.
        made: of a set.
        test: of the test.
        out: the folder of the result.
        steps: of the training of each arm.
        seed: of the draws and of the training.
    """
    sources = {"photos": photos, "made": made}
    count = min(len(photos.labels), len(made.labels))
    rng = np.random.default_rng(seed)
    drawn = {name: rng.permutation(len(faces.labels))[:count] for name, faces in sources.items()}
    classes: dict[str, dict[str, int]] = {}
    read: dict[str, NDArray[np.int64]] = {}
    for arm in ARMS:
        parts = [(faces, drawn[name]) for name, faces in sources.items() if arm in (name, "both")]
        small = as_images(np.concatenate([faces.crops[rows] for faces, rows in parts]))
        labels = np.concatenate([faces.labels[rows] for faces, rows in parts])
        classes[arm] = {name: int(many) for name, many in zip(EMOTIONS, _counts(labels), strict=True) if many}
        key = hashlib.sha256(np.ascontiguousarray(small).tobytes() + labels.tobytes() + test.crops.tobytes())
        key.update(json.dumps([steps, seed]).encode())
        path = out / f"expressions-{arm}-{key.hexdigest()[:12]}.npy"
        before = stored(path)
        if before is None:
            before = _read(*fitted(small, labels, len(EMOTIONS), steps, seed, f"expressions, {arm}"), test.crops)
            store(path, before)
        read[arm] = before
    return Readers(
        images=count,
        classes=classes,
        tested=len(test.labels),
        accuracy={arm: bootstrap.mean(read[arm] == test.labels, test.files) for arm in ARMS},
        recall={arm: _recall(read[arm], test) for arm in ARMS},
        differences={arm: _recall(read[arm], test, read["photos"]) for arm in ARMS[1:]},
    )


def as_images(crops: NDArray[np.uint8]) -> Images:
    """Grey crops ``(N, 48, 48)`` as the network reads images, ``(N, 64, 64, 3)``."""
    import cv2

    large = np.stack([cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for crop in crops])
    return np.repeat(large[..., None], 3, axis=3).astype(np.uint8)


def _counts(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(labels, minlength=len(EMOTIONS))


def _read(model: nn.Module, centres: Tensor, crops: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The class of every crop, ``(T,)``."""
    import torch
    from torch.nn import functional as F

    with torch.inference_mode():
        vectors = [model(tensor(as_images(part))) for part in np.array_split(crops, -(-len(crops) // 256))]
        cosines = F.normalize(torch.cat(vectors), dim=1) @ F.normalize(centres, dim=1).T
    return np.asarray(cosines.argmax(1).numpy(), np.int64)


def mean_recall(right: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    """The share of right readings within each class that there is, averaged over these."""
    counts = _counts(labels)
    found = np.bincount(labels, right, len(EMOTIONS))
    return float((found[counts > 0] / counts[counts > 0]).mean())


def _recall(read: NDArray[np.int64], test: EmotionFaces, against: NDArray[np.int64] | None = None) -> Interval:
    def of(rows: NDArray[np.int64]) -> float:
        labels = test.labels[rows]
        own = mean_recall(read[rows] == labels, labels)
        return own if against is None else own - mean_recall(against[rows] == labels, labels)

    return bootstrap.statistic(of, test.files)


def reader_lines(found: Readers) -> Iterator[str]:
    """The result in words."""
    yield f"expressions: {found.tested} images of FER+'s validation part, mean recall of the emotions"
    for arm in ARMS:
        line = f"{arm}: {shown(found.recall[arm])}, accuracy {shown(found.accuracy[arm])}"
        if arm in found.differences:
            line += f", recall from photos {shown(found.differences[arm], '+')}"
        yield f"{line} ({', '.join(f'{many} {name}' for name, many in found.classes[arm].items())})"
