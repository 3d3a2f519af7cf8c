"""The numbers of both tables: a score an image, and a column's value over them.

A score is NaN for an image in which no face was found. Such images are left out of every mean; the table counts and
lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from facecrafter.evaluation import bootstrap, frechet
from facecrafter.evaluation.emotion_records import ClassAgreement
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.result import Column

Array = NDArray[np.float64]


# --- a score an image ------------------------------------------------------------------------------------------------


def distances(measured: Array, wanted: Array) -> Array:
    """The root mean square over numbers: ``(P, K)`` and ``(P, K)`` to ``(P,)``."""
    return np.asarray(np.sqrt(np.square(measured - wanted).mean(1)))


def lengths(measured: Array, wanted: Array) -> Array:
    """The l2 norm of the difference over numbers: ``(P, K)`` and ``(P, K)`` to ``(P,)``, sqrt(K) times
    :func:`distances`."""
    return np.asarray(np.linalg.norm(measured - wanted, axis=1))


def auc(positive: Array, negative: Array) -> float:
    """The chance that a score of the first kind is above one of the second, ties counting half."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, "left")
    upto = np.searchsorted(order, positive, "right")
    return float(((below + upto) / 2).mean() / len(negative))


def same_class(measured: Array, wanted: Array) -> Array:
    """1 where the likeliest of eight classes is the same, else 0: probabilities ``(P, 8)`` twice to ``(P,)``."""
    known = np.isfinite(measured).all(1) & np.isfinite(wanted).all(1)
    agree = np.nan_to_num(measured).argmax(1) == np.nan_to_num(wanted).argmax(1)
    return np.where(known, agree, np.nan)


def class_agreement(
    agree: NDArray[np.bool_], wanted: NDArray[np.int64], people: Sequence[str], classes: Sequence[str]
) -> dict[str, ClassAgreement]:
    """The share of agreement for each wanted class that there is, since most photos are neutral or happy.

    Args:
        agree: ``(P,)``, whether an image was read as wanted.
        wanted: ``(P,)``, the place of the class.
        people: whose image it is, P names; the interval is a bootstrap over them.
        classes: names.
    """
    whose = np.asarray(people, dtype=str)
    return {
        classes[label]: ClassAgreement(
            faces=int((wanted == label).sum()),
            agreement=bootstrap.mean(agree[wanted == label], whose[wanted == label].tolist()),
        )
        for label in np.unique(wanted).tolist()
    }


def cosines(one: Array, other: Array) -> Array:
    """Cosines of unit vectors, row by row: ``(P, D)`` twice to ``(P,)``."""
    return np.asarray((one * other).sum(1))


def order(outputs: Array, people: Array, place: NDArray[np.int64]) -> Array:
    """How surely an image is recognised as its own person: ``(P,)`` in [0, 1], whose mean is the AUC.

    An image's score is the share of all comparisons of images with other people that its own comparison lies above,
    ties counting half. The mean is the chance that an image's likeness to its own person is greater than some
    image's to some other person: the area under the curve of the judge as a verifier.

    Args:
        outputs: ``(P, D)`` unit embeddings of the images.
        people: ``(I, D)`` unit embeddings of the people.
        place: ``(P,)``, which person an image is of.
    """
    likeness = outputs @ people.T
    own = likeness[np.arange(len(place)), place]
    others = likeness[place[:, None] != np.arange(len(people))]
    others = np.sort(others[np.isfinite(others)])
    below = np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")
    return np.where(np.isfinite(own), below / (2 * max(1, len(others))), np.nan)


def spread(rows: Array) -> float:
    """The l2 norm of the K standard deviations over a person's images ``(n, K)``, each variance divided by n - 1
    (ddof 1), so that its expectation does not depend on n; NaN for fewer than two images."""
    return float(np.linalg.norm(rows.std(0, ddof=1))) if len(rows) > 1 else float("nan")


# --- a value a column -------------------------------------------------------------------------------------------------


def value(column: Column, scores: Array) -> float:
    """The column's value over images' scores ``(P,)``, less those that are NaN; NaN where none is left."""
    there = scores[np.isfinite(scores)]
    if len(there) == 0:
        return float("nan")
    return float(there.mean() if column.way == "mean" else np.sqrt(np.square(there).mean()))


def values(columns: Sequence[Column], scores: Mapping[str, Array], people: Sequence[str]) -> dict[str, Interval]:
    """The columns that have scores ``(P,)``, each with its 95 % interval over the people that the images are of."""
    made = {}
    for column in columns:
        if column.key in scores:
            there = np.isfinite(scores[column.key])
            ours = [person for person, one in zip(people, there, strict=True) if one]
            of = bootstrap.mean if column.way == "mean" else bootstrap.rmse
            made[column.key] = of(scores[column.key][there], ours)
    return made


def frechet_distance(features: Array, people: Sequence[str], real: frechet.Gaussian, draws: int) -> Interval:
    """The Frechet distance of images to real ones, with a 95 % interval.

    A resampling holds some people twice and others not at all, which alone makes the distance larger. So the interval
    has the width of the resamplings' and the distance itself in its middle.

    Args:
        features: ``(P, F)``.
        people: whose images they are, P.
        real: of real images.
        draws: resamplings of the people; 0 for no interval.
    """

    def over(rows: NDArray[np.int64]) -> float:
        return frechet.distance(frechet.statistics(features[rows]), real)

    drawn = bootstrap.statistic(over, people, draws)
    if drawn.value is None or drawn.low is None or drawn.high is None:
        return drawn
    half = (drawn.high - drawn.low) / 2
    return Interval(drawn.value, max(0.0, drawn.value - half), drawn.value + half)
