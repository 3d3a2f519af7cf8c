"""The Frechet distance against closed forms, another way to the root, and its published formula worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from facecrafter.errors import DataError
from facecrafter.evaluation.frechet import LEAST, Gaussian, distance, distances, halves, ratio, statistics


def gaussian(mean: list[float], covariance: object) -> Gaussian:
    return Gaussian(np.array(mean, np.float64), np.array(covariance, np.float64), 100)


def spread(seed: int, size: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(size, 2 * size))
    return factor @ factor.T / size


CASES = {
    "one dimension": (gaussian([1], [[4]]), gaussian([-2], [[9]]), 9 + (2 - 3) ** 2),
    "the same mean": (gaussian([5], [[0.25]]), gaussian([5], [[4]]), 1.5**2),
    "equal covariances": (gaussian([3, 4], [[2, 1], [1, 2]]), gaussian([0, 0], [[2, 1], [1, 2]]), 25),
    "points": (gaussian([3, 4], np.zeros((2, 2))), gaussian([0, 0], np.zeros((2, 2))), 25),
    "a point and a disc": (gaussian([0, 0], np.zeros((2, 2))), gaussian([0, 0], np.eye(2)), 2),
    "diagonals": (
        gaussian([0, 1, 0], np.diag([1, 4, 0])),
        gaussian([0, 0, 0], np.diag([9, 16, 25])),
        1 + (1 - 3) ** 2 + (2 - 4) ** 2 + 25,
    ),
    # The product has trace 10 and determinant 12, and of a 2 x 2 matrix the root's trace is sqrt(trace + 2 sqrt(det)).
    "that do not commute": (
        gaussian([3, 4], [[2, 1], [1, 2]]),
        gaussian([0, 0], [[1, 0], [0, 4]]),
        25 + 4 + 5 - 2 * np.sqrt(10 + 2 * np.sqrt(12)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_closed_forms(case: str) -> None:
    one, other, expected = CASES[case]
    assert distance(one, other) == pytest.approx(expected, abs=1e-9)
    assert distance(other, one) == pytest.approx(expected, abs=1e-9)
    assert distance(one, one) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_root_is_that_of_the_product(seed: int) -> None:
    one, other = gaussian([0] * 12, spread(seed, 12)), gaussian([1] * 12, spread(seed + 10, 12))
    root = sqrtm(one.covariance @ other.covariance)
    expected = 12 + np.trace(one.covariance + other.covariance - 2 * root.real)
    assert expected > 12.1
    assert distance(one, other) == pytest.approx(expected, rel=1e-9)


def test_fewer_images_than_features() -> None:
    """Then both covariances are singular; the root's trace is the singular values of the centred rows' product."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(10, 60)), rng.normal(0.3, 2, size=(14, 60))
    a, b = one - one.mean(0), other - other.mean(0)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum() / np.sqrt(9 * 13)
    moved = np.square(one.mean(0) - other.mean(0)).sum()
    expected = moved + np.square(a).sum() / 9 + np.square(b).sum() / 13 - 2 * overlap
    assert distance(statistics(one), statistics(other)) == pytest.approx(expected, rel=1e-10)
    assert distance(statistics(one), statistics(one[::-1])) < 1e-10


def test_turning_and_moving_both_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(50, 6)), rng.normal(size=(70, 6)) @ spread(2, 6)
    turn, shift = np.linalg.qr(rng.normal(size=(6, 6)))[0], rng.normal(size=6)
    expected = distance(statistics(one), statistics(other))
    moved = distance(statistics(one @ turn + shift), statistics(other @ turn + shift))
    assert moved == pytest.approx(expected, rel=1e-9)


def test_statistics_are_in_double_precision() -> None:
    features = (1000 + np.random.default_rng(0).normal(size=(40, 5))).astype(np.float32)
    found = statistics(features)
    np.testing.assert_allclose(found.mean, features.astype(np.float64).mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-10)
    assert found.count == 40


BAD = {
    "none": (np.zeros((0, 4)), "needs two images or more on either side, not 0"),
    "one": (np.zeros((1, 4)), "needs two images or more on either side, not 1"),
    "not a number": (np.array([[0.0, np.nan], [1, 2]]), "features that are finite numbers"),
    "infinite": (np.array([[0.0, np.inf], [1, 2]]), "features that are finite numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_features(case: str) -> None:
    features, words = BAD[case]
    with pytest.raises(DataError, match=words):
        statistics(features)


def test_other_numbers_of_features() -> None:
    with pytest.raises(DataError, match="features of 2 and of 3 numbers"):
        distance(gaussian([0, 0], np.eye(2)), gaussian([0, 0, 0], np.eye(3)))


def people_of(count: int, each: int) -> list[str]:
    return [f"person {number}" for number in range(count) for _ in range(each)]


def test_photos_cannot_be_distinguished_from_photos_and_what_is_moved_can() -> None:
    random, persons = np.random.default_rng(0), people_of(20, 30)
    photos = random.normal(size=(600, 3))
    like, unlike = random.normal(size=(300, 3)), random.normal([1, 0, 0], size=(300, 3))
    asked = people_of(10, 30)
    splits = list(halves(persons, 0))
    near, far = (ratio(distances(made, asked, photos, persons, splits)) for made in (like, unlike))
    assert near.value == pytest.approx(1, abs=0.8)
    assert far.low > near.high and far.value > 10 * near.value
    assert near.low <= near.value <= near.high


def test_the_ratio_is_its_formula_written_out() -> None:
    """As many images as photos, so that none is left out."""
    random, persons = np.random.default_rng(1), people_of(6, 8)
    photos, made = random.normal(size=(48, 4)), random.normal(size=(48, 4)) * 2
    found = []
    for half in halves(persons, 3):
        assert len(half) == 3
        inside = np.array([name in half for name in persons])
        others = statistics(photos[~inside])
        found.append(distance(statistics(made[inside]), others) / distance(statistics(photos[inside]), others))
    got = ratio(distances(made, persons, photos, persons, list(halves(persons, 3))))
    assert (got.value, got.low, got.high) == pytest.approx((np.mean(found), min(found), max(found)))


@pytest.mark.parametrize(("people", "asked"), [(3, 3), (12, 1)])
def test_over_too_few_people_there_is_no_ratio(people: int, asked: int) -> None:
    random = np.random.default_rng(0)
    made, photos = random.normal(size=(asked, 4)), random.normal(size=(2 * people, 4))
    persons = people_of(people, 2)
    splits = list(halves(persons, 0)) if people >= LEAST else []
    assert ratio(distances(made, people_of(asked, 1), photos, persons, splits)).value is None


def test_two_halves_need_four_people() -> None:
    with pytest.raises(DataError, match="3 people are held out"):
        next(halves(people_of(3, 2), 0))
