"""The bootstrap against a plain loop, and whether its intervals cover as often as they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from facecrafter.evaluation import bootstrap
from facecrafter.evaluation.bootstrap import Interval

RNG = np.random.default_rng(0)
PEOPLE = [f"person {number}" for number in RNG.integers(0, 12, 60)]
VALUES = RNG.normal(size=60) + np.array([len(set(PEOPLE[:index])) for index in range(60)]) / 4
ERRORS = RNG.normal(size=(60, 3))
HITS = VALUES > 1


def loop(rows_to_number: Callable[[list[int]], float], draws: int = 200, seed: int = 3) -> Interval:
    """Person by person: how often each is drawn, then all of their rows so often."""
    names = sorted(set(PEOPLE))
    numbers = []
    for line in np.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), draws):
        rows = []
        for name, times in zip(names, line, strict=True):
            rows += [row for row in range(60) if PEOPLE[row] == name] * int(times)
        numbers.append(rows_to_number(rows))
    low, high = np.quantile(numbers, [0.025, 0.975])
    return Interval(rows_to_number(list(range(60))), float(low), float(high))


def same(one: Interval, other: Interval) -> None:
    assert None not in (one.low, one.high)
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-12)
    assert one.low < one.value < one.high


def test_a_mean_is_the_loops() -> None:
    same(bootstrap.mean(VALUES, PEOPLE, 200, 3), loop(lambda rows: float(np.mean([VALUES[row] for row in rows]))))


def test_a_share_is_the_mean_of_hits() -> None:
    same(bootstrap.mean(HITS, PEOPLE, 200, 3), loop(lambda rows: sum(bool(HITS[row]) for row in rows) / len(rows)))


def test_an_rmse_is_over_rows_and_columns() -> None:
    def reference(rows: list[int]) -> float:
        return float(np.sqrt(np.mean([ERRORS[row, column] ** 2 for row in rows for column in range(3)])))

    same(bootstrap.rmse(ERRORS, PEOPLE, 200, 3), loop(reference))
    flat = bootstrap.rmse(ERRORS[:, 0], PEOPLE, 200, 3)
    assert flat == bootstrap.rmse(ERRORS[:, :1], PEOPLE, 200, 3) != bootstrap.rmse(ERRORS, PEOPLE, 200, 3)


def test_any_number_is_the_loops() -> None:
    def correlation(rows: list[int]) -> float:
        return float(np.corrcoef(ERRORS[rows, 0], VALUES[rows])[0, 1])

    same(bootstrap.statistic(lambda rows: correlation(rows.tolist()), PEOPLE, 200, 3), loop(correlation))


def test_the_ways_agree() -> None:
    by_rows = bootstrap.statistic(lambda rows: float(VALUES[rows].mean()), PEOPLE, 100)
    same(by_rows, bootstrap.mean(VALUES, PEOPLE, 100))


def test_the_seed_and_the_rows_alone_decide() -> None:
    found = bootstrap.mean(VALUES, PEOPLE)
    assert bootstrap.mean(VALUES, PEOPLE) == found
    assert bootstrap.mean(VALUES, PEOPLE, seed=1) != found
    order = np.random.default_rng(1).permutation(60)
    same(bootstrap.mean(VALUES[order], [PEOPLE[row] for row in order]), found)


def test_more_images_of_the_same_people_say_nothing_new() -> None:
    found = bootstrap.mean(VALUES, PEOPLE)
    same(bootstrap.mean(np.tile(VALUES, 10), PEOPLE * 10), found)
    alone = bootstrap.mean(np.tile(VALUES, 10), [str(row) for row in range(600)])
    assert alone.high - alone.low < 0.5 * (found.high - found.low)


@pytest.mark.parametrize("people", [["Ann"], ["Ann", "Ann", "Ann"]])
def test_one_person_has_no_interval(people: list[str]) -> None:
    values = np.arange(len(people), dtype=float) + 2
    expected = Interval(float(values.mean()), None, None)
    assert bootstrap.mean(values, people) == expected
    assert bootstrap.statistic(lambda rows: float(values[rows].mean()), people) == expected
    assert bootstrap.rmse(np.full(len(people), -2.0), people) == Interval(2.0, None, None)


def test_nobody_has_no_number() -> None:
    for found in (bootstrap.mean(np.zeros(0), []), bootstrap.rmse(np.zeros((0,)), [])):
        assert found == Interval(None, None, None)


def test_draws_without_a_value_are_left_out() -> None:
    """Of four people only Ann has what the number needs: 31.6 % of the draws miss her."""
    people = ["Ann", "Bob", "Cid", "Dan"]

    def other_people(rows: NDArray[np.int64]) -> float:
        return float((rows != 0).sum()) if 0 in rows else float("nan")

    drawn = np.random.default_rng(0).multinomial(4, [1 / 4] * 4, 1000)
    others = 4 - drawn[drawn[:, 0] > 0, 0]
    low, high = np.quantile(others, [0.025, 0.975])
    assert bootstrap.statistic(other_people, people) == Interval(3.0, float(low), float(high))


def test_where_most_draws_have_no_value_there_is_no_interval() -> None:
    people = ["Ann", "Bob", "Cid", "Dan"]

    def of_three(rows: NDArray[np.int64]) -> float:
        return 1.0 if len(set(rows.tolist()) & {0, 1, 2}) == 3 else float("nan")

    assert bootstrap.statistic(of_three, people) == Interval(1.0, None, None)


def test_a_number_that_is_none_has_no_interval() -> None:
    values = np.array([1.0, 2.0, 3.0, np.nan])
    assert bootstrap.mean(values, ["Ann", "Bob", "Cid", "Dan"]) == Interval(None, None, None)


def test_values_for_other_people_are_refused() -> None:
    with pytest.raises(ValueError):
        bootstrap.mean(np.zeros(3), ["Ann", "Bob"])


def test_intervals_cover_as_often_as_they_say() -> None:
    """300 studies of 100 people with five images each, alike within a person: the true mean is in about 95 %."""
    rng = np.random.default_rng(0)
    people = [str(person) for person in range(100) for _ in range(5)]
    images = [str(row) for row in range(500)]
    covered = {"people": 0, "pictures": 0}
    for _ in range(300):
        values = 3 + np.repeat(rng.normal(size=100), 5) + 0.5 * rng.normal(size=500)
        for name, units in (("people", people), ("pictures", images)):
            found = bootstrap.mean(values, units, 400)
            covered[name] += found.low <= 3 <= found.high
    assert 0.92 <= covered["people"] / 300 <= 0.98
    assert covered["pictures"] / 300 < 0.75
