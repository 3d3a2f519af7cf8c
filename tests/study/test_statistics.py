"""Statistics against worked examples, other implementations, and data whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from facecrafter.evaluation.record import Interval
from facecrafter.study import simulate, statistics, worth
from facecrafter.study.answers import Choices
from facecrafter.study.simulate import Plan
from facecrafter.study.statistics import Means


def chosen(
    winners: list[int], methods: int, participants: list[int] | None = None, sets: list[int] | None = None
) -> Choices:
    """Choices among all methods, which stand in the order of their numbers."""
    count = len(winners)
    return Choices(
        methods,
        np.array(participants if participants is not None else range(count)),
        np.array(sets if sets is not None else range(count)),
        np.tile(np.arange(methods), (count, 1)),
        np.array(winners)[:, None],
    )


def test_selection_rates_are_shares() -> None:
    means = statistics.rates(chosen([0, 0, 1, 2, 0, 1], 3))
    assert means.values == pytest.approx([3 / 6, 2 / 6, 1 / 6])
    interval = statistics.rate_interval(means, 0)
    assert interval.value == 0.5 and interval.low is not None and interval.high is not None
    assert 0 < interval.low < 0.5 < interval.high < 1


def test_a_rate_of_pairs_is_over_those_that_showed_the_method() -> None:
    answers = Choices(3, np.arange(3), np.arange(3), np.array([[0, 1], [1, 2], [2, 0]]), np.array([[0], [1], [0]]))
    means = statistics.rates(answers)
    assert means.values == pytest.approx([1.0, 0.5, 0.0]) and means.shown.tolist() == [2, 2, 2]


def test_independent_answers_have_the_binomials_variance() -> None:
    winners = [0] * 60 + [1] * 140
    means = statistics.rates(chosen(winners, 2), draws=20_000)
    assert means.variance(np.array([1.0, 0.0])) == pytest.approx(0.3 * 0.7 / 200, rel=0.05)


def test_answers_of_one_participant_count_as_alike() -> None:
    # 20 participants who always choose the same: as many answers as participants, whatever they are asked.
    winners = [person % 2 for person in range(20) for _ in range(10)]
    people = [person for person in range(20) for _ in range(10)]
    means = statistics.rates(chosen(winners, 2, people, list(range(200))), draws=20_000)
    assert means.variance(np.array([1.0, 0.0])) == pytest.approx(0.25 / 19, rel=0.06)
    by_sets = statistics.rates(chosen(winners, 2, list(range(200)), people), draws=20_000)
    assert by_sets.variance(np.array([1.0, 0.0])) == pytest.approx(0.25 / 19, rel=0.06)


@pytest.mark.parametrize("winners", [[0] * 10, [0]])
def test_intervals_of_one_sided_answers_stay_in_range(winners: list[int]) -> None:
    means = statistics.rates(chosen(winners, 2))
    for method in (0, 1):
        one = statistics.rate_interval(means, method)
        assert one.value == 1 - method
        if len(winners) > 1:
            assert one.low is not None and one.high is not None and 0 <= one.low < one.high <= 1


def test_a_method_that_was_never_shown_has_no_rate() -> None:
    answers = Choices(3, np.arange(4), np.arange(4), np.array([[0, 1]] * 4), np.array([[0], [1], [0], [0]]))
    means = statistics.rates(answers)
    assert statistics.rate_interval(means, 2).value is None
    assert np.isnan(statistics.pairs(means)[-1].p)


def test_mean_ranks() -> None:
    layouts = np.array([[0, 1, 2], [2, 1, 0]])
    answers = Choices(3, np.arange(2), np.arange(2), layouts, np.array([[0, 1, 2], [0, 2, 1]]))
    assert statistics.mean_ranks(answers).values == pytest.approx([1.0, 2.5, 2.5])


def test_cochrans_q_of_a_worked_example() -> None:
    # By hand, from Q = (k-1)(k sum C^2 - T^2) / (kT - sum R^2): columns 6, 4, 2 of eight rows.
    table = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]], float)
    found = statistics.cochran(table)
    assert found.statistic == pytest.approx(2 * (3 * (36 + 16 + 4) - 144) / (3 * 12 - (4 * 4 + 9 + 1)))
    assert found.p == pytest.approx(stats.chi2.sf(found.statistic, 2))


def test_cochrans_q_of_one_choice_a_row_is_pearsons_chi_square() -> None:
    table = np.eye(4)[[0] * 12 + [1] * 7 + [2] * 9 + [3] * 2]
    found, pearson = statistics.cochran(table), stats.chisquare([12, 7, 9, 2])
    assert (found.statistic, found.p) == pytest.approx((pearson.statistic, pearson.pvalue))


def test_friedman_is_scipys() -> None:
    ranks = np.argsort(np.random.default_rng(0).random((12, 4)), 1) + 1.0
    assert statistics.friedman(ranks).p == pytest.approx(stats.friedmanchisquare(*ranks.T).pvalue)
    assert np.isnan(statistics.friedman(ranks[:, :2]).p)


def test_holm_of_a_worked_example() -> None:
    # Sorted .005 .01 .03 .04, times 4 3 2 1, and none below the one before.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    corrected = statistics.holm([0.02, float("nan"), 0.9])
    assert corrected[0] == pytest.approx(0.04) and np.isnan(corrected[1]) and corrected[2] == pytest.approx(0.9)
    assert statistics.holm([0.6, 0.9]) == [1.0, 1.0]


def test_a_clear_difference_is_found_and_none_is_not() -> None:
    rng = np.random.default_rng(3)
    clear = statistics.rates(chosen(rng.choice(3, 150, p=[0.7, 0.2, 0.1]).tolist(), 3))
    assert statistics.wald(clear).p < 0.001
    first = statistics.pairs(clear)[0]
    assert (first.first, first.second) == (0, 1) and first.p < 0.001
    assert first.difference.low is not None and first.difference.low > 0
    even = statistics.rates(chosen([0, 1, 2] * 50, 3))
    assert statistics.wald(even).p > 0.9


def test_the_wald_test_of_independent_answers_is_nearly_pearsons() -> None:
    winners = [0] * 130 + [1] * 100 + [2] * 110
    found = statistics.wald(statistics.rates(chosen(winners, 3), draws=20_000))
    assert found.p == pytest.approx(stats.chisquare([130, 100, 110]).pvalue, abs=0.02)


def test_positions() -> None:
    layouts = np.array([[2, 0, 1]] * 6 + [[0, 1, 2]] * 6)
    answers = Choices(3, np.arange(12), np.arange(12), layouts, np.array([[2]] * 6 + [[0]] * 6))
    found = statistics.positions(answers)
    assert found.counts == (12, 0, 0) and found.p == pytest.approx(stats.chisquare([12, 0, 0]).pvalue)


def test_krippendorffs_alpha_of_his_own_example() -> None:
    # "Computing Krippendorff's Alpha-Reliability" (2011), example C: four observers, 12 units, alpha 0.743.
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    cells = [(unit, value) for row in observers for unit, value in enumerate(row) if value is not None]
    answers = chosen([value - 1 for _, value in cells], 5, None, [unit for unit, _ in cells])
    alpha, over = statistics.agreement(answers)
    assert alpha == pytest.approx(0.743, abs=5e-4) and over == 40


def test_agreement_without_anything_in_common_is_unknown() -> None:
    assert statistics.agreement(chosen([0, 1], 2))[0] is None
    assert statistics.agreement(chosen([0, 0], 2, None, [1, 1]))[0] is None


def test_concordance_is_the_mean_of_kendalls_tau() -> None:
    orders = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 1, 0], [0, 1, 2, 3]])
    layouts = np.tile(np.arange(4), (4, 1))
    answers = Choices(4, np.arange(4), np.array([7, 7, 7, 8]), layouts, orders)
    ranks = np.argsort(orders[:3], 1)
    taus = [stats.kendalltau(ranks[i], ranks[j]).statistic for i, j in ((0, 1), (0, 2), (1, 2))]
    assert statistics.concordance(answers) == pytest.approx(np.mean(taus))


# --- worths -----------------------------------------------------------------------------------------------------------


def test_worths_of_choices_among_all_are_rates() -> None:
    found = worth.fit(chosen([0] * 500 + [1] * 300 + [2] * 200, 3))
    assert [one.value for one in found.worths] == pytest.approx([0.5, 0.3, 0.2], abs=0.001)


def test_bradley_terrys_worths_of_two() -> None:
    layouts = np.array([[0, 1]] * 400)
    answers = Choices(2, np.arange(400), np.arange(400), layouts, np.array([[0]] * 300 + [[1]] * 100))
    one = worth.fit(answers).worths[0]
    assert one.value == pytest.approx(0.75, abs=0.001)
    # The log-odds' standard error is 1 / sqrt(n p (1 - p)).
    assert one.low is not None and one.high is not None
    odds = np.log(0.75 / 0.25) + np.array([-1, 1]) * 1.966 / np.sqrt(400 * 0.75 * 0.25)
    assert (one.low, one.high) == pytest.approx(tuple(1 / (1 + np.exp(-odds))), abs=0.004)


def test_a_method_that_is_never_chosen_has_a_small_worth_and_no_infinity() -> None:
    found = worth.fit(chosen([0, 1] * 50, 3)).worths[2]
    assert found.value is not None and 0 < found.value < 0.02
    assert found.low is not None and found.high is not None and found.high < 0.2


def test_a_worth_of_which_too_little_is_known_has_no_interval() -> None:
    single = Choices(3, np.arange(1), np.arange(1), np.array([[0, 1]]), np.array([[0]]))
    first, second, never = worth.fit(single).worths
    assert never == Interval()
    assert first.value is not None and second.value is not None and first.value > 0.5
    assert first.value + second.value == pytest.approx(1)
    assert (first.low, first.high, second.low, second.high) == (None,) * 4
    rare = Choices(3, np.arange(9), np.arange(9), np.array([[0, 1]] * 8 + [[0, 2]]), np.array([[0], [1]] * 4 + [[0]]))
    found = worth.fit(rare).worths
    assert found[0].low is not None and found[2].value is not None and found[2].low is None


def test_a_mean_rank_that_nobody_disputes_has_no_interval() -> None:
    orders = np.array([[0, 1, 2], [0, 2, 1], [0, 1, 2]])
    answers = Choices(3, np.arange(3), np.arange(3), np.tile(np.arange(3), (3, 1)), orders)
    means = statistics.mean_ranks(answers)
    assert statistics.mean_interval(means, 0, 1, 3) == Interval(1.0)
    assert statistics.mean_interval(means, 1, 1, 3).low is not None


@pytest.mark.parametrize("design", ["choose", "ranking", "pairs"])
def test_worths_are_recovered_in_every_design(design: Any) -> None:
    plan = Plan(120, 30, 10, 4, design, 0, 0)
    logs = np.log([0.4, 0.3, 0.2, 0.1])
    found = worth.fit(simulate.answered(plan, logs, np.random.default_rng(5)))
    assert [one.value for one in found.worths] == pytest.approx(np.exp(logs), abs=0.04)
    assert all(one.low <= value <= one.high for one, value in zip(found.worths, np.exp(logs), strict=True))


# --- simulation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", ["choose", "pairs"])
def test_true_rates_are_those_of_large_studies(design: Any) -> None:
    plan = Plan(400, 60, 20, 3, design, 0.5, 0.0)
    logs = np.array([1.0, 0.0, 0.0])
    rates = statistics.rates(simulate.answered(plan, logs, np.random.default_rng(1)), draws=2).values
    assert rates == pytest.approx(simulate.true_rates(plan, logs), abs=0.02)


def test_true_mean_ranks_are_those_of_large_studies() -> None:
    plan = Plan(400, 60, 20, 3, "ranking", 0.5, 0.0)
    logs = np.array([1.0, 0.0, -1.0])
    ranks = statistics.mean_ranks(simulate.answered(plan, logs, np.random.default_rng(1)), draws=2).values
    assert ranks == pytest.approx(simulate.true_means(plan, logs), abs=0.03)


def test_a_ranking_is_planned_by_what_its_report_tests() -> None:
    plan = Plan(design="ranking")
    found = simulate.power(plan, [0.0, 0.2], studies=40)
    by_first_places = simulate.power(replace(plan, design="choose"), [0.2], studies=40)
    assert found[0].best <= 0.1 and found[1].best > by_first_places[0].best + 0.1  # whole orders tell more
    alike = simulate.coverage(plan, np.zeros(5), studies=40)
    assert alike.means > 0.85 and set(alike.false_alarms) == {
        "Wald, by participants and sets",
        "any pair, Holm",
        "Friedman",
    }
    assert simulate.coverage(plan, np.log([0.4, 0.25, 0.2, 0.1, 0.05]), studies=40).means > 0.85


def test_logs_of_a_difference() -> None:
    plan = Plan()
    rates = simulate.true_rates(plan, simulate.logs_of(0.2, plan))
    assert rates[0] - rates[1:].mean() == pytest.approx(0.2, abs=0.005)
    assert not simulate.logs_of(0, plan).any()


def test_power_grows_and_false_alarms_are_few() -> None:
    found = simulate.power(Plan(), [0.0, 0.2, 0.5], studies=20)
    assert found[0].any_difference <= 0.2 and found[0].best <= 0.1
    assert found[0].best < found[1].best < found[2].best and found[2].any_difference == 1
    assert 0.0 < (simulate.smallest_found(found) or 0) < 0.5
    assert simulate.power(Plan(), [0.2], studies=20) == found[1:2]
    assert simulate.smallest_found(found[:1]) is None


def test_intervals_hold_what_they_should() -> None:
    found = simulate.coverage(Plan(), np.log([0.4, 0.25, 0.2, 0.1, 0.05]), studies=60)
    assert 0.9 <= found.means <= 1.0 and found.worths is None and found.false_alarms == {}
    even = simulate.coverage(Plan(by_participant=0, by_set=0), np.zeros(5), studies=30)
    assert even.worths is not None and even.worths > 0.85 and set(even.false_alarms) >= {"Cochran's Q"}


def test_means_without_clusters_have_no_variance() -> None:
    means = Means(np.array([0.5]), np.array([1.0]), np.zeros((3, 1, 1)), 1)
    assert statistics.rate_interval(means, 0).low is None
    assert means.quantile(np.ones(1)) == pytest.approx(12.706, abs=1e-3)


@pytest.mark.parametrize(
    ("by_participants", "by_sets", "freedom"),
    [
        (0.01, 0.01, 100.0),  # participants and sets are alike: every answer counts
        (0.02, 0.005, 0.015**2 / (0.01**2 / 100 + 0.005**2 / 20)),
        (1e6, 0.01, 20.0),  # participants are all there is
    ],
)
def test_degrees_of_freedom_are_between_those_of_answers_and_of_clusters(
    by_participants: float, by_sets: float, freedom: float
) -> None:
    parts = np.array([by_participants, by_sets, 0.01]).reshape(3, 1, 1)
    means = Means(np.array([0.5]), np.array([101.0]), parts, 20)
    assert means.quantile(np.ones(1)) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-5)
