"""The Frechet distance between two sets of images, as Gaussians of a network's features.

Dowson & Landau (1982); with the features of Inception-v3 it is the FID of Heusel et al. (2017). Distances over
different networks, or over other numbers of images, are not comparable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import DataError
from facecrafter.evaluation.record import Interval

Array = NDArray[np.float64]
Halves = Sequence[set[str]]

SPLITS = 10  # ways to divide people in two halves
LEAST = 4  # people


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution.

    Attributes:
        mean: ``(F,)`` float64.
        covariance: ``(F, F)`` float64, symmetric.
        count: of how many images.
    """

    mean: Array
    covariance: Array
    count: int


def statistics(features: NDArray[np.floating]) -> Gaussian:
    """Mean and covariance (divided by N - 1) of features ``(N, F)``.

    Raises:
        DataError: fewer than two rows, or a value that is not a finite number.
    """
    rows = np.asarray(features, np.float64)
    if len(rows) < 2:
        raise DataError(f"a Frechet distance needs two images or more on either side, not {len(rows)}")
    if not np.isfinite(rows).all():
        raise DataError("a Frechet distance needs features that are finite numbers; one of the images gave others")
    mean = rows.mean(0)
    centred = rows - mean
    return Gaussian(mean, centred.T @ centred / (len(rows) - 1), len(rows))


def distance(one: Gaussian, other: Gaussian) -> float:
    """``|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2))``, at least 0.

    The trace of the root is the sum of the roots of the eigenvalues of ``C1^(1/2) C2 C1^(1/2)``, which are the singular
    values of ``C1^(1/2) C2^(1/2)``: no root of a number near zero is taken, so it is exact also where there are fewer
    images than features and both covariances are singular.

    Raises:
        DataError: the two have other numbers of features.
    """
    if one.mean.shape != other.mean.shape:
        raise DataError(f"features of {len(one.mean)} and of {len(other.mean)} numbers cannot be compared")
    moved = np.square(one.mean - other.mean).sum()
    overlap = np.linalg.svd(_root(one.covariance).T @ _root(other.covariance), compute_uv=False).sum()
    spread = np.trace(one.covariance) + np.trace(other.covariance) - 2 * overlap
    return max(0.0, float(moved + spread))


def halves(people: Sequence[str], seed: int) -> Iterator[set[str]]:
    """One half of the people, several times.

    Raises:
        DataError: there are too few.
    """
    names = np.unique(people)
    if len(names) < LEAST:
        raise DataError(f"{len(names)} people are held out, and two halves need at least {LEAST}; prepare more photos")
    source = np.random.default_rng(seed)
    for _ in range(SPLITS):
        yield {str(name) for name in names[source.permutation(len(names))[: len(names) // 2]]}


def distances(
    made: Array, people: Sequence[str], photos: Array, persons: Sequence[str], splits: Halves, seed: int = 0
) -> Array:
    """How far one half's photos and images of the same people are from the other half's photos.

    Args:
        made: features of images ``(P, F)``.
        people: whom they show.
        photos: features of photos ``(N, F)``, of these people and others.
        persons: whose they are.
        splits: of the persons, see :func:`halves`.
        seed: of what is left out where there are more images than photos or fewer, so that both are as many.

    Returns:
        ``(K, 2)``, the photos' distance and the images', by each split that has two of each.
    """
    source = np.random.default_rng([seed, 1])
    found = []
    for half in splits:
        inside = np.isin(persons, list(half))
        own, theirs = photos[inside], made[np.isin(people, list(half))]
        count = min(len(own), len(theirs))
        own, theirs = (rows[np.sort(source.permutation(len(rows))[:count])] for rows in (own, theirs))
        if min(count, (~inside).sum()) >= 2:
            others = statistics(photos[~inside])
            found.append([distance(statistics(own), others), distance(statistics(theirs), others)])
    return np.array(found, np.float64).reshape(-1, 2)


def ratio(apart: Array) -> Interval:
    """How many times as far images are from photos as photos are from photos, by :func:`distances`; 1 cannot be
    distinguished from photos. The mean over the splits, with the lowest and the highest; None where there is none."""
    ratios = apart[apart[:, 0] > 0]
    if not len(ratios):
        return Interval()
    ratios = ratios[:, 1] / ratios[:, 0]
    return Interval(float(ratios.mean()), float(ratios.min()), float(ratios.max()))


def _root(covariance: Array) -> Array:
    """A factor ``(F, R)`` whose product with its transpose is the covariance of rank R; rounding is left out."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    kept = values > len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))
