"""Scores of classes to probabilities that can be trusted: priors and temperatures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.faces.emotion import EMOTIONS

# Balanced accuracy is over the classes of which a set has this many faces, for training and test together.
ENOUGH = 50


RARE = 1e-3  # the share of a class that a set does not have


@dataclass(frozen=True)
class Scores:
    """What a reader says of some faces.

    Attributes:
        scores: ``(N, 8)`` log-likelihoods up to a constant.
        labels: ``(N,)`` people's own labels.
        log_prior: ``(8,)``, how common the classes are where the faces come from.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    log_prior: NDArray[np.float64]

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """``(N, 8)`` under the prior."""
        logits = self.scores / temperature + self.log_prior
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(odds / odds.sum(1, keepdims=True))


def log_prior(labels: NDArray[np.int64], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Logarithms of how common the classes are, ``(8,)``, among samples of some weights; see :func:`log_shares`."""
    return log_shares(np.bincount(labels, weights, len(EMOTIONS)))


def log_shares(amounts: NDArray[Any]) -> NDArray[np.float64]:
    """Logarithms of the classes' shares ``(8,)`` of all amounts ``(8,)``. A class that a set does not have is not
    impossible there: it has the share :data:`RARE`."""
    shares = np.maximum(amounts / amounts.sum(), RARE)
    return np.asarray(np.log(shares / shares.sum()))


def fit_temperature(scores: Scores) -> float:
    """By what to divide the scores so that the labels are most likely; between 0.1 and 10."""
    candidates = np.geomspace(0.1, 10, 201)
    rows = np.arange(len(scores.labels))
    losses = [-np.log(scores.probabilities(one)[rows, scores.labels] + 1e-12).mean() for one in candidates]
    return float(candidates[int(np.argmin(losses))])
