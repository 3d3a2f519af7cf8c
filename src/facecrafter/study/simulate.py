"""Studies with answers by known preferences: what a design would find, and whether intervals keep their promise.

A participant's choice is by random utility: the method's log-worth, plus what this participant and this set add to it,
plus Gumbel noise, which alone would be Plackett-Luce. No simulated answer is anybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from facecrafter.evaluation.record import Interval
from facecrafter.study import statistics, worth
from facecrafter.study.answers import Choices
from facecrafter.study.config import Design
from facecrafter.study.design import Dealt, deal
from facecrafter.study.statistics import Array

ALPHA = 0.05
POWER = 0.8
# How far participants and sets differ in their preferences, standard deviations of log-worths. With 0.5 an average
# participant's odds between two methods vary by a factor of 2 either way. The paper gives no figure.
SPREAD = 0.5
DRAWS = 400  # resamplings of a simulated study: their noise is small beside that of the study
TRUTH_DRAWS = 200_000


@dataclass(frozen=True)
class Plan:
    """A study of one question to be.

    Attributes:
        participants, sets, sets_a_participant, methods, design: as in the config.
        by_participant, by_set: standard deviations of log-worths.
    """

    participants: int = 21
    sets: int = 30
    sets_a_participant: int = 5
    methods: int = 5
    design: Design = "choose"
    by_participant: float = SPREAD
    by_set: float = SPREAD


def answered(plan: Plan, logs: Array, rng: np.random.Generator) -> Choices:
    """The answers of one simulated study.

    Args:
        plan: the study.
        logs: log-worths ``(M,)``.
        rng: of the dealing and the answers.
    """
    participants, sets, layouts = [], [], []
    dealt = Dealt()
    for person in range(plan.participants):
        for number, layout in deal(plan.design, plan.methods, plan.sets, plan.sets_a_participant, dealt, rng):
            participants.append(person)
            sets.append(number)
            layouts.append(layout)
    who, what, shown = np.array(participants), np.array(sets), np.array(layouts)
    utility = _utilities(plan, logs, who, what, rng)
    order = np.argsort(-np.take_along_axis(utility, shown, 1), axis=1, kind="stable")
    ranked = np.take_along_axis(shown, order, 1)
    return Choices(plan.methods, who, what, shown, ranked if plan.design == "ranking" else ranked[:, :1])


def _utilities(
    plan: Plan, logs: Array, who: NDArray[np.int64], what: NDArray[np.int64], rng: np.random.Generator
) -> Array:
    by_participant = rng.normal(0, plan.by_participant, (plan.participants, plan.methods))
    by_set = rng.normal(0, plan.by_set, (plan.sets, plan.methods))
    return np.asarray(logs + by_participant[who] + by_set[what] + rng.gumbel(size=(len(who), plan.methods)))


def true_rates(plan: Plan, logs: Array, seed: int = 0) -> Array:
    """The selection rates ``(M,)`` over all participants and sets that there could be, by Monte Carlo."""
    rng = np.random.default_rng(seed)
    spread = np.hypot(plan.by_participant, plan.by_set)
    utility = logs + rng.normal(0, 1, (TRUTH_DRAWS, plan.methods)) * spread
    chances = np.exp(utility - utility.max(1, keepdims=True))
    if plan.design == "pairs":
        ahead = chances[:, :, None] / (chances[:, :, None] + chances[:, None, :])
        return np.asarray((ahead.mean(0).sum(1) - 0.5) / (plan.methods - 1))
    return np.asarray((chances / chances.sum(1, keepdims=True)).mean(0))


def true_means(plan: Plan, logs: Array, seed: int = 0) -> Array:
    """What a report's tests are about, by Monte Carlo: mean ranks ``(M,)`` of a ranking, else :func:`true_rates`.

    A method's rank is 1 and how many others are ahead of it.
    """
    if plan.design != "ranking":
        return true_rates(plan, logs, seed)
    return plan.methods - (plan.methods - 1) * true_rates(replace(plan, design="pairs"), logs, seed)


def _means(choices: Choices, seed: int) -> statistics.Means:
    return (statistics.mean_ranks if choices.is_ranking else statistics.rates)(choices, DRAWS, seed)


def _pairs(means: statistics.Means, plan: Plan) -> list[statistics.Pair]:
    return statistics.pairs(means, plan.methods - 1 if plan.design == "ranking" else 1)


def logs_of(difference: float, plan: Plan) -> Array:
    """Log-worths with which the first method's selection rate is higher by ``difference`` than that of each other, who
    are alike.

    Args:
        difference: from 0, below 1; in a ranking, of being placed first.
        plan: the study.
    """
    from scipy.optimize import brentq

    def gap(advantage: float) -> float:
        rates = true_rates(plan, np.array([advantage, *[0.0] * (plan.methods - 1)]))
        return float(rates[0] - rates[1:].mean() - difference)

    advantage = 0.0 if difference == 0 else brentq(gap, 0.0, 12.0, xtol=1e-3)
    return np.array([advantage, *[0.0] * (plan.methods - 1)])


# --- planning ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What is found of a difference.

    Attributes:
        difference: of selection rates, between the best method and each other; in a ranking, of being placed first.
        any_difference: share of studies in which the test of any difference finds one.
        best: share of comparisons of the best with another one that find it better, after Holm's correction.
    """

    difference: float
    any_difference: float
    best: float


def power(
    plan: Plan,
    differences: Sequence[float],
    studies: int = 200,
    seed: int = 0,
    progress: Callable[[float], object] | None = None,
) -> list[Found]:
    """How often a design finds differences, by what its report tests: mean ranks of a ranking, else selection rates.

    Args:
        plan: the study.
        differences: of selection rates; 0 gives the rate of false alarms.
        studies: simulated for each.
        seed: one seed gives the same numbers.
        progress: called with 1 after each study.
    """
    found = []
    better = -1 if plan.design == "ranking" else 1  # fewer is better of ranks
    for difference in differences:
        logs = logs_of(difference, plan)
        any_, best = [], []
        for study in range(studies):
            choices = answered(plan, logs, np.random.default_rng([seed, study]))
            means = _means(choices, study)
            any_.append(statistics.wald(means).p < ALPHA)
            ahead = [one for one in _pairs(means, plan) if one.first == 0]
            best.append(np.mean([one.p < ALPHA and better * (one.difference.value or 0) > 0 for one in ahead]))
            if progress:
                progress(1)
        found.append(Found(difference, float(np.mean(any_)), float(np.mean(best))))
    return found


def smallest_found(found: Sequence[Found]) -> float | None:
    """The smallest difference between the best and another that :data:`POWER` of comparisons find, interpolated between
    those that were simulated; None where there is none."""
    for before, after in pairwise(found):
        if before.best < POWER <= after.best:
            share = (POWER - before.best) / (after.best - before.best)
            return before.difference + share * (after.difference - before.difference)
    return None


# --- coverage ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """How often 95 % intervals hold the true value, over all methods of all studies, and the rates of false alarms of
    the tests where all methods are alike.

    Attributes:
        studies: simulated.
        means: of what the report tests: mean ranks of a ranking, else selection rates.
        worths: of worths, against the true selection rates of a choice among all; None where participants or sets
            differ, for worths of the mixture are then no rates.
        false_alarms: by the test's name, at the level of 5 %; empty unless all are alike.
    """

    studies: int
    means: float
    worths: float | None
    false_alarms: dict[str, float]


def coverage(
    plan: Plan, logs: Array, studies: int = 500, seed: int = 0, progress: Callable[[float], object] | None = None
) -> Coverage:
    """Whether intervals and tests keep their promise.

    Args:
        plan: the study.
        logs: log-worths ``(M,)``.
        studies: simulated.
        seed: one seed gives the same numbers.
        progress: called with 1 after each study.
    """
    truth = true_means(plan, logs)
    worths = np.exp(logs) / np.exp(logs).sum()
    plain = plan.by_participant == plan.by_set == 0
    held: list[bool] = []
    worth_held: list[bool] = []
    alarms: dict[str, list[bool]] = {}
    for study in range(studies):
        choices = answered(plan, logs, np.random.default_rng([seed, study]))
        means = _means(choices, study)
        held += _held([_interval(means, plan, method) for method in range(plan.methods)], truth)
        if plain:
            worth_held += _held(worth.fit(choices).worths, worths)
        if not logs.any():
            for name, p in _tests(choices, means, plan).items():
                alarms.setdefault(name, []).append(p < ALPHA)
        if progress:
            progress(1)
    return Coverage(
        studies,
        float(np.mean(held)),
        float(np.mean(worth_held)) if worth_held else None,
        {name: float(np.mean(one)) for name, one in alarms.items()},
    )


def _held(intervals: Sequence[Interval], truth: Array) -> list[bool]:
    ends = [(one.low, one.high) for one in intervals]
    return [
        low is not None and high is not None and bool(low <= value <= high)
        for (low, high), value in zip(ends, truth, strict=True)
    ]


def _interval(means: statistics.Means, plan: Plan, method: int) -> Interval:
    if plan.design == "ranking":
        return statistics.mean_interval(means, method, 1, plan.methods)
    return statistics.rate_interval(means, method)


def _tests(choices: Choices, means: statistics.Means, plan: Plan) -> dict[str, float]:
    found = {"Wald, by participants and sets": statistics.wald(means).p}
    found["any pair, Holm"] = float(np.nanmin([one.p for one in _pairs(means, plan)]))
    if usual := statistics.usual(choices):
        found[usual.name] = usual.p
    return found
