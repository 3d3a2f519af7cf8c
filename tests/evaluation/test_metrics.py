"""Each number of the tables against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facecrafter.evaluation import bootstrap, frechet, metrics
from facecrafter.evaluation.heldout import auc
from facecrafter.evaluation.result import Column, Interval

RANDOM = np.random.default_rng(0)
MEAN = Column("m", "M", "A mean.", "higher", "mean")
RMS = Column("r", "R", "A root.", "lower", "rms", "rad")


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_distances() -> None:
    measured, wanted = RANDOM.normal(size=(5, 4)), RANDOM.normal(size=(5, 4))
    measured[2] = np.nan
    made, norms = metrics.distances(measured, wanted), metrics.lengths(measured, wanted)
    for row in (0, 1, 3, 4):
        total = sum((measured[row, k] - wanted[row, k]) ** 2 for k in range(4))
        assert made[row] == pytest.approx(math.sqrt(total / 4))
        assert norms[row] == pytest.approx(math.sqrt(total))
    assert math.isnan(made[2]) and math.isnan(norms[2])


def test_same_class() -> None:
    shares = np.eye(8)[[0, 3, 7, 2]]
    wanted = np.eye(8)[[0, 4, 7, 2]]
    shares[3] = np.nan
    assert metrics.same_class(shares, wanted)[:3].tolist() == [1, 0, 1]
    assert math.isnan(metrics.same_class(shares, wanted)[3])


def test_cosines() -> None:
    a, b = unit(RANDOM.normal(size=(4, 3))), unit(RANDOM.normal(size=(4, 3)))
    assert metrics.cosines(a, b) == pytest.approx(
        [sum(x * y for x, y in zip(p, q, strict=True)) for p, q in zip(a, b, strict=True)]
    )


def test_order_is_the_auc_a_image_at_a_time() -> None:
    people, place = unit(RANDOM.normal(size=(4, 6))), np.array([0, 1, 1, 2, 3, 3, 0])
    outputs = unit(people[place] + RANDOM.normal(0, 0.6, (7, 6)))
    own = [outputs[row] @ people[place[row]] for row in range(7)]
    others = [outputs[row] @ people[who] for row in range(7) for who in range(4) if who != place[row]]
    wanted = [np.mean([(one > other) + 0.5 * (one == other) for other in others]) for one in own]
    made = metrics.order(outputs, people, place)
    assert made == pytest.approx(wanted)
    assert made.mean() == pytest.approx(auc(np.array(own), np.array(others)))


def test_order_leaves_out_images_without_a_face() -> None:
    people, place = unit(RANDOM.normal(size=(3, 6))), np.array([0, 1, 2, 0])
    outputs = unit(RANDOM.normal(size=(4, 6)))
    whole = metrics.order(outputs[:3], people, place[:3])
    outputs[3] = np.nan
    made = metrics.order(outputs, people, place)
    assert made[:3] == pytest.approx(whole) and math.isnan(made[3])


def test_images_that_are_their_person_are_told_surely_and_ties_count_half() -> None:
    people = np.eye(3)
    assert metrics.order(people, people, np.arange(3)).tolist() == [1, 1, 1]
    assert metrics.order(np.full((3, 3), 0.5), people, np.arange(3)).tolist() == [0.5] * 3


def test_spread() -> None:
    rows = RANDOM.normal(size=(6, 3))
    total = 0.0
    for k in range(3):
        middle = sum(rows[:, k]) / 6
        total += sum((value - middle) ** 2 for value in rows[:, k]) / 5
    assert metrics.spread(rows) == pytest.approx(math.sqrt(total))
    assert metrics.spread(rows[[0, 0, 0]]) == 0
    assert math.isnan(metrics.spread(rows[:1]))


def test_a_column_is_its_way_over_the_images_with_a_face() -> None:
    scores = np.array([1.0, 2.0, np.nan, 4.0])
    assert metrics.value(MEAN, scores) == pytest.approx(7 / 3)
    assert metrics.value(RMS, scores) == pytest.approx(math.sqrt(21 / 3))
    assert math.isnan(metrics.value(MEAN, scores[2:3]))


def test_values_have_the_bootstraps_intervals() -> None:
    scores, people = RANDOM.normal(size=12), [f"p{number % 4}" for number in range(12)]
    scores[3] = np.nan
    there = np.isfinite(scores)
    ours = [person for person, one in zip(people, there, strict=True) if one]
    made = metrics.values((MEAN, RMS), {"m": scores, "r": scores}, people)
    assert made["m"] == bootstrap.mean(scores[there], ours)
    assert made["r"] == bootstrap.rmse(scores[there], ours)
    assert metrics.values((MEAN, RMS), {"m": scores * np.nan}, people)["m"] == Interval()


def test_the_frechet_distance_lies_in_its_interval() -> None:
    real = frechet.statistics(RANDOM.normal(size=(200, 4)))
    rows, people = RANDOM.normal(0.2, 1, (60, 4)), [str(number // 6) for number in range(60)]
    exact = frechet.distance(frechet.statistics(rows), real)
    made = metrics.frechet_distance(rows, people, real, 40)
    assert made.value == exact
    assert made.low is not None and made.high is not None
    assert 0 <= made.low < exact < made.high
    drawn = bootstrap.statistic(lambda which: frechet.distance(frechet.statistics(rows[which]), real), people, 40)
    assert made.high - made.value == pytest.approx((drawn.high - drawn.low) / 2)
    alone = metrics.frechet_distance(rows, people, real, 0)
    assert (alone.value, alone.low, alone.high) == (exact, None, None)
