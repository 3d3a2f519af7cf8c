"""The Frechet distance between two sets of images, as Gaussians of a network's features.

Dowson & Landau (1982); with the features of Inception-v3 it is the FID of Heusel et al. (2017). Distances over
different networks, or over other numbers of images, are not comparable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import DataError

Array = NDArray[np.float64]


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


def _root(covariance: Array) -> Array:
    """A factor ``(F, R)`` whose product with its transpose is the covariance of rank R; rounding is left out."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    kept = values > len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))
