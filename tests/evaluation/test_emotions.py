"""The figures of the emotion estimator, each written out."""

from __future__ import annotations

import numpy as np
import pytest

from facecrafter.evaluation.emotions import (
    Scores,
    calibration_error,
    confusion,
    figures,
    fit_temperature,
    log_prior,
)

RANDOM = np.random.default_rng(0)


def said(scores: np.ndarray, labels: np.ndarray) -> Scores:  # type: ignore[type-arg]
    return Scores(scores, labels, log_prior(labels))


def test_the_prior_is_how_common_classes_are_and_none_is_impossible() -> None:
    shares = np.exp(log_prior(np.array([0, 0, 0, 1])))
    assert shares[0] / shares[1] == pytest.approx(3)
    assert shares[7] == pytest.approx(0.001, rel=0.01)
    weighted = np.exp(log_prior(np.array([0, 0, 0, 1]), np.array([1, 1, 1, 3.0])))
    assert weighted[0] == pytest.approx(weighted[1])


def test_probabilities_are_likelihood_times_prior() -> None:
    one = said(RANDOM.normal(size=(4, 8)), np.array([0, 1, 1, 2]))
    for row in range(4):
        odds = np.exp(one.scores[row] / 2) * np.exp(one.log_prior)
        np.testing.assert_allclose(one.probabilities(2.0)[row], odds / odds.sum())


def test_the_temperature_makes_sharp_scores_honest() -> None:
    truth = RANDOM.normal(size=(4000, 8))
    odds = np.exp(truth)
    labels = np.array([RANDOM.choice(8, p=row / row.sum()) for row in odds])
    flat = np.zeros(8)
    assert fit_temperature(Scores(truth, labels, flat)) == pytest.approx(1, abs=0.1)
    assert fit_temperature(Scores(3 * truth, labels, flat)) == pytest.approx(3, rel=0.1)
    honest = calibration_error(Scores(truth, labels, flat).probabilities(), labels)
    assert honest < 0.03 < 0.2 < calibration_error(Scores(3 * truth, labels, flat).probabilities(), labels)


def test_calibration_error_by_hand() -> None:
    shares = np.full((4, 8), 0.0)
    shares[:, 0] = [0.9, 0.91, 0.5, 0.52]
    shares[:, 1] = 1 - shares[:, 0]
    labels = np.array([0, 1, 0, 0])
    # Bins of a fifteenth: 0.9 and 0.91 lie in one, 0.5 and 0.52 in another.
    expected = 0.5 * abs(0.905 - 0.5) + 0.5 * abs(0.51 - 1.0)
    assert calibration_error(shares, labels) == pytest.approx(expected)


def test_the_confusion_matrix_has_people_in_rows() -> None:
    matrix = confusion(np.array([1, 1, 2]), np.array([0, 0, 2]))
    assert (matrix[0, 1], matrix[2, 2], matrix.sum()) == (2, 1, 3)


def test_balanced_accuracy_counts_classes_alike_and_knows_no_other() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    scores = np.zeros((100, 8))
    scores[:, 0] = 0.5
    scores[:, 7] = 3.0  # of which there are too few to count
    scores[95:, 1] = 1.0  # half of the rare class, which its prior then hides
    got = figures(said(scores, labels), [0, 1])
    assert got["accuracy"] == pytest.approx(0.9)
    assert got["balanced_accuracy"] == pytest.approx(0.75)
    assert got["balanced_accuracy_own_prior"] == pytest.approx(0.5)
    assert got["recall"] == {"neutral": 1.0, "happy": 0.5}
    assert np.sum(got["confusion"]) == 100
