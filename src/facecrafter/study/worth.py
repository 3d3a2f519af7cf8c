"""Worths of methods: Bradley-Terry (1952) of pairs, Plackett-Luce (1975) of choices and rankings.

A method with worth w is chosen among others with probability w over the sum of all that are shown; a ranking is such a
choice again and again among those that are left. Worths sum to 1. Where every choice is among all methods, the worth is
the selection rate, but for the prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from facecrafter.evaluation.record import Interval
from facecrafter.study.answers import Choices
from facecrafter.study.statistics import Array, Means

# Of the normal prior of a log-worth. Without one, a method that is never chosen has a log-worth of minus infinity; with
# it, -4 to -6. An answer has about 0.2 of such precision, so a hundred answers hardly notice.
PRECISION = 0.05


@dataclass(frozen=True)
class Worths:
    """Log-worths ``(M,)`` with mean 0 and their covariance, and each worth with its 95 % interval. A method that was
    never shown has no worth, and one of which too little is known to say how far it may be off has no interval."""

    logs: Means
    worths: list[Interval]


def fit(choices: Choices) -> Worths:
    """The worths that make the answers most likely, under a weak prior.

    Args:
        choices: answers to one question, in any design.

    Returns:
        Worths; their covariance is of two ways, by participants and sets, from the answers' scores.
    """
    shown, winners, answers = _stages(choices)
    logs = _most_likely(shown, winners, choices.methods)
    chances = _chances(logs, shown)
    information = np.diag(chances.sum(0)) - chances.T @ chances + PRECISION * np.eye(choices.methods)
    scores = np.zeros((len(choices), choices.methods))
    np.add.at(scores, answers, np.eye(choices.methods)[winners] - chances)
    inverse = np.linalg.inv(information)
    clusters = (choices.participants, choices.sets, np.arange(len(choices)))
    parts = np.array([inverse @ _meat(scores, cluster) @ inverse for cluster in clusters])
    counts = np.array([np.count_nonzero(choices.layouts == one) for one in range(choices.methods)], np.float64)
    freedom = min(len(np.unique(choices.participants)), len(np.unique(choices.sets))) - 1
    means = Means(logs, counts, parts, max(freedom, 1))
    return Worths(means, [_worth(means, method) for method in range(choices.methods)])


def _stages(choices: Choices) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Every choice: what was there ``(S, M)``, what was chosen ``(S,)``, and in which answer ``(S,)``. The last one
    left of a ranking is no choice."""
    there = np.zeros((len(choices), choices.methods), bool)
    np.put_along_axis(there, choices.layouts, True, 1)
    shown, winners, answers = [], [], []
    last = max(1, choices.orders.shape[1] - 1)
    for stage in range(last):
        shown.append(there.copy())
        winners.append(choices.orders[:, stage])
        answers.append(np.arange(len(choices)))
        np.put_along_axis(there, choices.orders[:, stage : stage + 1], False, 1)
    return np.concatenate(shown), np.concatenate(winners), np.concatenate(answers)


def _chances(logs: Array, shown: NDArray[np.bool_]) -> Array:
    """The chance of each method in each choice ``(S, M)``."""
    weights = np.where(shown, np.exp(logs - logs.max()), 0.0)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _most_likely(shown: NDArray[np.bool_], winners: NDArray[np.int64], methods: int) -> Array:
    # Equal choices are counted, so that the likelihood costs as much as there are different ones.
    kinds, places = np.unique(np.column_stack([shown, winners]), axis=0, return_inverse=True)
    counts = np.bincount(np.ravel(places), minlength=len(kinds)).astype(np.float64)
    there, won = kinds[:, :-1].astype(bool), kinds[:, -1]
    chosen = np.bincount(won, counts, methods)

    def loss(logs: Array) -> tuple[float, Array]:
        totals = np.where(there, np.exp(logs), 0.0).sum(1)
        value = counts @ np.log(totals) - chosen @ logs + PRECISION / 2 * logs @ logs
        gradient = counts @ _chances(logs, there) - chosen + PRECISION * logs
        return float(value), gradient

    found = optimize.minimize(loss, np.zeros(methods), jac=True, method="BFGS", options={"gtol": 1e-6})
    return np.asarray(found.x - found.x.mean())


def _meat(scores: Array, clusters: NDArray[np.int64]) -> Array:
    """The covariance of the sum of scores, whose clusters are independent."""
    _, groups = np.unique(clusters, return_inverse=True)
    count = int(groups.max(initial=-1)) + 1
    sums = np.zeros((count, scores.shape[1]))
    np.add.at(sums, groups, scores)
    return np.asarray(sums.T @ sums * (count / (count - 1) if count > 1 else 0.0))


def _worth(means: Means, method: int) -> Interval:
    """A worth and its interval, symmetrical in its log-odds, by the delta method. Worths of all that were shown sum to
    1."""
    if not means.shown[method]:
        return Interval()
    weights = np.where(means.shown > 0, np.exp(means.values), 0.0)
    worths = weights / weights.sum()
    worth = float(worths[method])
    slope = -worths / (1 - worth)
    slope[method] = 1.0
    if means.shown[method] < 2 or not means.variance(slope) > 0:
        return Interval(worth)
    half = means.quantile(slope) * np.sqrt(means.variance(slope))
    low, high = (1 / (1 + np.exp(-(np.log(worth / (1 - worth)) + way * half))) for way in (-1, 1))
    return Interval(worth, float(low), float(high))
