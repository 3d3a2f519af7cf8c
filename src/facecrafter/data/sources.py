"""Several prepared folders as one set, and prepared images at another size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import DataError

ROWS = 10_000  # compared at once


class Stacked:
    """Images of several sets as one array ``(N, S, S, 3)`` uint8, of which rows are read where they lie: some sets are
    mapped from files that are larger than memory."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self.ends[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """One row ``(S, S, 3)`` by its number, or some ``(B, S, S, 3)`` by an array of numbers or a slice."""
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        numbers = np.arange(len(self))[rows]
        made = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        owners = np.searchsorted(self.ends, numbers, side="right")
        for owner, part in enumerate(self.parts):
            own = owners == owner
            if own.any():
                made[own] = part[numbers[own] - (self.ends[owner] - len(part))]
        return made


def joined(parts: Sequence[Prepared], shares: Sequence[float]) -> Prepared:
    """Prepared folders end to end as one.

    Args:
        parts: their contents, with images of one size and identities of one recogniser.
        shares: of each in a batch; they sum to 1.

    Raises:
        DataError: their emotions are by different estimators, and an emotion would mean two things.
    """
    if len(parts) == 1:
        return parts[0]
    estimators = sorted({part.estimator or "none" for part in parts})
    if len(estimators) > 1:
        raise DataError(
            f"the folders' emotions are by different estimators ({', '.join(estimators)}); make them alike with: "
            "facecrafter data prepare FOLDER --only emotion (a set of 'dataset make' keeps its own, or is made again)"
        )

    def one_after_another(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    digests = None if any(part.digests is None for part in parts) else one_after_another("digests")
    return Prepared(
        images=Stacked([part.images for part in parts]),  # type: ignore[arg-type]
        points=one_after_another("points"),
        blendshapes=one_after_another("blendshapes"),
        angles=one_after_another("angles"),
        identity=one_after_another("identity"),
        emotion=one_after_another("emotion"),
        masks=one_after_another("masks"),
        persons=[person for part in parts for person in part.persons],
        files=[file for part in parts for file in part.files],
        digests=digests,
        estimator=parts[0].estimator,
        sources=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        shares=tuple(shares),
    )


def near_held_out(prepared: Prepared) -> NDArray[np.bool_]:
    """Whose people of the later sources are as like a held-out person of the first as two photos of one person are:
    ``(N,)``. A generator that was made from photos may give back people who are in them.

    How like two photos of one person are is the median over held-out people (dlib, Labeled Faces in the Wild: a cosine
    of 0.953). All images of a person are left out where one is so near. Nobody is where no held-out person has two
    photos.
    """
    near = np.zeros(len(prepared), np.bool_)
    if prepared.sources is None:
        return near
    first, persons = prepared.sources == 0, np.array(prepared.persons)
    out = first & held_out(prepared.persons)
    alike = likeness(prepared.identity[out], persons[out])
    if alike is None:
        return near
    later = np.flatnonzero(~first)
    for start in range(0, len(later), ROWS):
        rows = later[start : start + ROWS]
        near[rows] = (prepared.identity[rows] @ prepared.identity[out].T).max(1) >= alike
    return np.isin(persons, np.unique(persons[near])) & ~first


def likeness(embeddings: NDArray[np.float32], persons: NDArray[np.str_]) -> float | None:
    """The median over people of the mean cosine of two photos; None where nobody has two.

    Args:
        embeddings: of unit length ``(N, D)``.
        persons: whose, ``(N,)``.
    """
    means = []
    for person in np.unique(persons):
        own = embeddings[persons == person]
        if len(own) > 1:
            means.append(float((own @ own.T)[np.triu_indices(len(own), 1)].mean()))
    return float(np.median(means)) if means else None


def resized(prepared: Prepared, size: int) -> Prepared:
    """The same photos at a smaller size, with the landmarks where they belong.

    Args:
        prepared: images of at least ``size`` pixels a side.
        size: the side wanted, in pixels.
    """
    stored = prepared.images.shape[1]
    if stored == size:
        return prepared
    return replace(prepared, images=shrunk(prepared.images, size), points=prepared.points * np.float32(size / stored))


def shrunk(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Images ``(N, S, S, 3)`` at a size of at most S, each pixel the mean of what it stands for."""
    if images.shape[1] == size:
        return images
    made = np.empty((len(images), size, size, 3), np.uint8)
    for row in range(len(made)):
        made[row] = np.asarray(Image.fromarray(images[row]).resize((size, size), Image.Resampling.BOX))
    return made


def thinned(prepared: Prepared, keep: NDArray[np.bool_], most: int) -> NDArray[np.bool_]:
    """At most so many of the samples that are kept: all photos of some people, drawn at random and always the same, so
    that people keep their pairs, and sources about their proportions.

    Args:
        prepared: the content.
        keep: ``(N,)`` bool.
        most: samples to keep.

    Returns:
        ``(N,)`` bool.
    """
    rows = np.flatnonzero(keep)
    if len(rows) <= most:
        return keep
    _, people, counts = np.unique([prepared.persons[row] for row in rows], return_inverse=True, return_counts=True)
    taken, total = np.zeros(len(counts), np.bool_), 0
    for person in np.random.default_rng(0).permutation(len(counts)):
        if total + counts[person] <= most:
            taken[person], total = True, total + counts[person]
    chosen = np.zeros(len(prepared), np.bool_)
    chosen[rows[taken[people]] if total else rows[:most]] = True
    return chosen
