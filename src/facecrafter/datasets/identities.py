"""Whose faces a data set shows: embeddings and neutral faces, at a distance from each other and from training people.

Of a prepared folder a person is the mean embedding of all of its images, and the neutral face of the first few.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.data import shards
from facecrafter.datasets.config import PlanConfig, SourceConfig
from facecrafter.errors import DataError
from facecrafter.estimators.blendshapes import network
from facecrafter.estimators.identity import DIMENSIONS, unit
from facecrafter.faces.rig import load

PHOTOS = 4  # of a person, whose neutral faces are averaged
BLOCK = 1024  # people that are compared at once
LANDMARKS = (478, 3)
# Where a person comes from.
REAL, NOBODY, EMBEDDINGS, MADE = "photos", "people who do not exist", "embeddings", "another data set"

Vectors = list[NDArray[np.float32]]


def people_path(plan: Path) -> Path:
    """The identities of a plan."""
    return plan.with_suffix(".people.parquet")


@dataclass(frozen=True)
class Person:
    """An identity.

    Attributes:
        embedding: ``(D,)`` float32 of unit length.
        neutral: ``(478, 3)`` float32, straightened as :class:`facecrafter.faces.rig.Rig` has faces.
        source: where it comes from: :data:`REAL`, :data:`NOBODY`, :data:`EMBEDDINGS` or :data:`MADE`.
    """

    embedding: NDArray[np.float32]
    neutral: NDArray[np.float32]
    source: str

    @cached_property
    def digest(self) -> str:
        """16 digits of a hash of what images of the person depend on: their name in the data set."""
        return hashlib.sha256(self.embedding.tobytes() + self.neutral.tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Chosen:
    """The people of a plan.

    Attributes:
        people: in the order of the sources.
        found: how many the sources have.
        near: how many were left out since they are too near to another one.
        resembling: how many were left out since they are too near to a training person.
    """

    people: list[Person]
    found: int
    near: int
    resembling: int


def choose(config: PlanConfig) -> Chosen:
    """The people of a plan: of the sources in order, whoever is far enough from those before and from training people.

    Raises:
        DataError: a source cannot be read, or has fewer people than are asked of it.
    """
    training = [means(folder, config.recogniser) for folder in config.away_from]
    kept = _Apart(config.least, np.concatenate(training) if training else None)
    people: list[Person] = []
    found = 0
    for source in config.identities:
        before = len(people)
        for person in _people(source, config.recogniser):
            if source.count is not None and len(people) - before == source.count:
                break
            found += 1
            if kept.take(person):
                people.append(person)
        _check_enough(source, len(people) - before, kept)
    return Chosen(people, found, kept.near, kept.resembling)


def _check_enough(source: SourceConfig, count: int, kept: _Apart) -> None:
    if count >= (source.count or 1):
        return
    place = source.prepared or source.embeddings
    raise DataError(
        f"{place} has only {count} people who are {kept.least:g} apart from each other and from training people "
        f"({kept.near} are too near to another one, {kept.resembling} to a training person); lower count or apart"
    )


class _Apart:
    """Who was taken so far, and whether another one is far enough from them."""

    def __init__(self, least: float, training: NDArray[np.float32] | None) -> None:
        self.least, self._training = least, training
        self._taken: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._count = self.near = self.resembling = 0
        self._digests: set[str] = set()

    def take(self, person: Person) -> bool:
        """Whether a person is far enough, who is then taken."""
        embedding, nearest = person.embedding, 1 - self.least
        if person.digest in self._digests:  # also where nobody has to be apart
            self.near += 1
            return False
        if self._training is not None and float((self._training @ embedding).max()) > nearest:
            self.resembling += 1
            return False
        if self._count and float((self._taken[: self._count] @ embedding).max()) > nearest:
            self.near += 1
            return False
        if self._count == len(self._taken):
            more = np.empty((max(BLOCK, len(self._taken)), len(embedding)), np.float32)
            self._taken = np.concatenate([self._taken, more]) if self._count else more
        self._taken[self._count] = embedding
        self._count += 1
        self._digests.add(person.digest)
        return True


def _people(source: SourceConfig, recogniser: str) -> Iterator[Person]:
    if source.embeddings is not None:
        yield from _of_array(source.embeddings, recogniser)
    elif source.prepared is not None:
        yield from _of_prepared(source.prepared, recogniser)


def _of_array(path: Path, recogniser: str) -> Iterator[Person]:
    """People of an array of embeddings, with the mean face.

    Raises:
        DataError: it is none, or not one by the recogniser.
    """
    width = DIMENSIONS[recogniser]
    try:
        embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
        fits = embeddings.ndim == 2 and embeddings.shape[1] > 0 and np.issubdtype(embeddings.dtype, np.floating)
    except FileNotFoundError:
        raise DataError(f"there is no file of embeddings {path}; write one with numpy.save") from None
    except shards.DAMAGE:
        fits = False
    if not fits:
        raise DataError(f"{path} is no array of embeddings; write one of (N, {width}) numbers with numpy.save")
    if embeddings.shape[1] != width:
        raise DataError(
            f"{path} has embeddings of {embeddings.shape[1]} numbers, and the model reads those of {recogniser}, which "
            f"have {width}; write one of (N, {width}) numbers"
        )
    neutral = np.asarray(load().mean, np.float32)
    for row in range(len(embeddings)):
        embedding = np.asarray(embeddings[row], np.float32)
        if not 0 < np.linalg.norm(embedding) < np.inf:
            raise DataError(f"row {row} of {path} has no direction: it is zero or not finite; leave it out")
        yield Person(unit(embedding), neutral, EMBEDDINGS)


def _of_prepared(folder: Path, recogniser: str) -> Iterator[Person]:
    """People of a prepared folder, in the order in which the last image of each comes.

    Raises:
        DataError: it is none, or has no embeddings by the recogniser.
    """
    meta = shards.read_meta(folder)
    source = _source(meta)
    rig, read = load(), network().scores
    for _, embeddings, points in _gathered(folder, recogniser):
        straight = rig.straightened(points)
        neutral = rig.neutral_face(straight.points, read(straight.points))
        yield Person(unit(np.mean(embeddings, 0)), neutral.astype(np.float32), source)


def _source(meta: Mapping[str, Any]) -> str:
    """Where the people of a prepared folder come from; those of a data set from where its own do."""
    if "synthesis" in meta:
        return NOBODY
    if "dataset" not in meta:
        return REAL
    own = [name for name in (REAL, NOBODY, EMBEDDINGS) if name in meta["dataset"].get("sources", {})]
    return own[0] if len(own) == 1 else MADE


def means(folder: Path, recogniser: str) -> NDArray[np.float32]:
    """The mean embedding of every person of a prepared folder, ``(N, D)`` of unit length."""
    return named_means(folder, recogniser)[1]


def named_means(folder: Path, recogniser: str) -> tuple[list[str], NDArray[np.float32]]:
    """The people of a prepared folder by name, and the mean embedding of each, ``(N, D)`` of unit length."""
    found = {person: np.mean(embeddings, 0) for person, embeddings, _ in _gathered(folder, recogniser)}
    return list(found), unit(np.stack(list(found.values())))


def _gathered(folder: Path, recogniser: str) -> Iterator[tuple[str, Vectors, Vectors]]:
    """Every person of a prepared folder: all embeddings, and the landmarks of the first :data:`PHOTOS` images.

    Raises:
        DataError: a shard is damaged, or the folder has no embeddings by the recogniser.
    """
    if recogniser not in shards.read_meta(folder)["recognisers"]:
        raise DataError(f"{folder} has no '{recogniser}' embeddings, which the model reads; prepare it again with them")
    index = shards.read_index(folder)
    whose = {
        (shard, key): person for shard, key, person in zip(index["shard"], index["key"], index["person"], strict=True)
    }
    left: dict[str, int] = {}
    for person in index["person"]:
        left[person] = left.get(person, 0) + 1
    open_people: dict[str, tuple[Vectors, Vectors]] = {}
    for number in sorted(set(index["shard"])):
        for key, embedding, points in _samples(shards.shard_path(folder, number), recogniser):
            person = whose.get((number, key))
            if person is None:
                continue
            embeddings, shapes = open_people.setdefault(person, ([], []))
            embeddings.append(embedding)
            if len(shapes) < PHOTOS:
                shapes.append(points)
            left[person] -= 1
            if not left[person]:
                yield person, *open_people.pop(person)
    if open_people:
        raise DataError(f"{folder} lacks images that its index lists; {shards.AGAIN}")


def _samples(path: Path, recogniser: str) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    try:
        for key, parts in shards.read_shard(path):
            with np.load(io.BytesIO(parts["npz"])) as arrays:
                embedding, points = arrays[f"identity_{recogniser}"], arrays["points"]
            fits = points.shape == LANDMARKS and embedding.shape == (DIMENSIONS[recogniser],)
            if not fits or not np.isfinite(embedding).all():
                raise ValueError("a sample has another shape")
            yield key, embedding, points
    except shards.DAMAGE:
        raise DataError(f"{path} is damaged or missing; delete it and {shards.AGAIN}") from None
