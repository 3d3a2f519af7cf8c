"""What choices say: selection rates with intervals, tests of differences, bias by position, agreement.

Answers of one participant are alike, and so are answers about one set. Variances are therefore of two ways of
clustering (Cameron, Gelbach and Miller, 2011): that of a bootstrap over participants, plus that over sets, less that
over single answers, which both contain. Resampling both at once and taking percentiles (the pigeonhole bootstrap, Owen,
2007) counts the noise of single answers three times, and its intervals are far too wide in designs as sparse as the
paper's; :mod:`facecrafter.study.simulate` measures the coverage of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from facecrafter.evaluation.bootstrap import DRAWS, LEVEL
from facecrafter.evaluation.record import Interval
from facecrafter.study.answers import Choices

Array = NDArray[np.float64]


# --- rates ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Means:
    """A mean a method with its sampling covariance.

    Attributes:
        values: ``(M,)``; NaN for a method that was never shown.
        shown: ``(M,)``, in how many answers.
        parts: covariances ``(3, M, M)`` of resampling participants, sets and answers.
        freedom: degrees of freedom of what participants and sets vary by: the fewer of both, less 1.
    """

    values: Array
    shown: Array
    parts: Array
    freedom: int

    def variance(self, contrast: Array) -> float:
        """Of a weighted sum of the means: of two ways, and no less than if answers were independent."""
        by_participants, by_sets, by_answers = (float(contrast @ part @ contrast) for part in self.parts)
        return max(by_participants + by_sets - by_answers, by_answers)

    def quantile(self, contrast: Array) -> float:
        """Of the Student distribution, for the two-sided interval of a weighted sum of the means at :data:`LEVEL`.

        Its degrees of freedom are Satterthwaite's (1946): the part of the variance that answers would have if they were
        independent has one for each answer, and only what is beyond it has as few as :attr:`freedom`.
        """
        by_answers = float(contrast @ self.parts[2] @ contrast)
        variance = self.variance(contrast)
        if not variance > 0:
            return _quantile(self.freedom)
        beyond, answers = variance - by_answers, max(float(self.shown.max()) - 1, 1)
        return _quantile(variance**2 / (by_answers**2 / answers + beyond**2 / self.freedom))


def _quantile(freedom: float) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def rates(choices: Choices, draws: int = DRAWS, seed: int = 0) -> Means:
    """The selection rate a method: of the answers in which it was shown, the share that chose it, or placed it first.

    Args:
        choices: answers to one question.
        draws: how often participants, sets and answers are each resampled.
        seed: of the resampling.
    """
    return _means(choices, _chosen(choices), draws, seed)


def mean_ranks(choices: Choices, draws: int = DRAWS, seed: int = 0) -> Means:
    """The mean rank a method, 1 for the best; see :func:`rates`."""
    return _means(choices, _ranks(choices), draws, seed)


def _ranks(choices: Choices) -> Array:
    """The rank of each method in each answer ``(N, M)``, 1 for the best."""
    ranks = np.zeros((len(choices), choices.methods))
    np.put_along_axis(ranks, choices.orders, np.arange(1.0, choices.orders.shape[1] + 1)[None], 1)
    return ranks


def _chosen(choices: Choices) -> Array:
    """1 for the method that was chosen, or placed first, in each answer ``(N, M)``, 0 for the others."""
    return np.eye(choices.methods)[choices.orders[:, 0]]


def _means(choices: Choices, values: Array, draws: int, seed: int) -> Means:
    shown = np.zeros_like(values)
    np.put_along_axis(shown, choices.layouts, 1.0, 1)
    totals = shown.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(totals > 0, values.sum(0) / totals, np.nan)
    rng = np.random.default_rng(seed)
    clusters = (choices.participants, choices.sets, np.arange(len(choices)))
    parts = np.array([_covariance(values, shown, cluster, draws, rng) for cluster in clusters])
    freedom = min(len(np.unique(choices.participants)), len(np.unique(choices.sets))) - 1
    return Means(means, totals, parts, max(freedom, 1))


def _covariance(
    values: Array, shown: Array, clusters: NDArray[np.int64], draws: int, rng: np.random.Generator
) -> Array:
    """The bootstrap covariance ``(M, M)`` of the means when clusters are resampled; zeros for fewer than two."""
    _, groups = np.unique(clusters, return_inverse=True)
    count = int(groups.max(initial=-1)) + 1
    if count < 2:
        return np.zeros((values.shape[1], values.shape[1]))
    sums, seen = np.zeros((count, values.shape[1])), np.zeros((count, values.shape[1]))
    np.add.at(sums, groups, values)
    np.add.at(seen, groups, shown)
    copies = rng.multinomial(count, np.full(count, 1 / count), draws).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (copies @ sums) / (copies @ seen)
        # A draw in which a method was not shown says nothing of it.
        drawn = np.where(np.isfinite(drawn), drawn, sums.sum(0) / seen.sum(0))
    return np.atleast_2d(np.cov(np.nan_to_num(drawn).T)) * count / (count - 1)


def rate_interval(means: Means, method: int) -> Interval:
    """A selection rate with its interval: Wilson's (1927), with as many answers as would have this variance if they
    were independent, and Student's quantile. It stays within 0 and 1, and is of use for a rate of 0."""
    rate, shown = float(means.values[method]), float(means.shown[method])
    if not np.isfinite(rate):
        return Interval()
    if shown > 1:
        alone = np.eye(len(means.values))[method]
        variance, quantile = means.variance(alone), means.quantile(alone)
        answers = min(rate * (1 - rate) / variance, shown) if variance > 0 and 0 < rate < 1 else shown
        centre = (rate + quantile**2 / (2 * answers)) / (1 + quantile**2 / answers)
        half = quantile * np.sqrt(rate * (1 - rate) / answers + quantile**2 / (4 * answers**2))
        half /= 1 + quantile**2 / answers
        return Interval(rate, max(0.0, centre - half), min(1.0, centre + half))
    return Interval(rate)


def mean_interval(means: Means, method: int, least: float, most: float) -> Interval:
    """A mean with its interval, within the values that there are; with none where nothing is known of its variance.

    It has the careful degrees of freedom: Wilson's interval of a rate is wider than its variance says, this is not.
    """
    alone = np.eye(len(means.values))[method]
    if not means.variance(alone) > 0:
        return Interval(float(means.values[method]))
    half = _quantile(means.freedom) * float(np.sqrt(means.variance(alone)))
    return _within(float(means.values[method]), half, least, most)


def _within(value: float, half: float, least: float, most: float) -> Interval:
    """An interval about a value, cut at the ends of its range: few participants give a wide one."""
    return Interval(value, max(least, value - half), min(most, value + half))


# --- tests ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Test:
    """A test of no difference at all: its name, statistic, degrees of freedom and p-value."""

    name: str
    statistic: float
    freedom: tuple[int, ...]
    p: float


@dataclass(frozen=True)
class Pair:
    """One method's mean less another's.

    Attributes:
        first, second: the methods.
        difference: with its 95 % interval, which is not corrected.
        p: of no difference, corrected by Holm (1979) over all pairs of the question.
    """

    first: int
    second: int
    difference: Interval
    p: float


def usual(choices: Choices) -> Test | None:
    """The test that most papers report: Friedman's of a ranking, Cochran's Q of a choice among all, None of pairs."""
    if choices.is_ranking:
        return friedman(_ranks(choices))
    return cochran(_chosen(choices)) if choices.layouts.shape[1] == choices.methods else None


def cochran(chosen: Array) -> Test:
    """Cochran's Q (1950) over truth values ``(N, M)``, each row of one answer. Answers count as independent.

    Where every row chooses exactly one, it is Pearson's chi-square of equal choice times (M - 1) / (M - 1): the same.
    """
    _, methods = chosen.shape
    columns, lines = chosen.sum(0), chosen.sum(1)
    below = methods * lines.sum() - np.square(lines).sum()
    above = (methods - 1) * (methods * np.square(columns).sum() - columns.sum() ** 2)
    statistic = float(above / below) if below else 0.0
    return Test("Cochran's Q", statistic, (methods - 1,), float(stats.chi2.sf(statistic, methods - 1)))


def friedman(ranks: Array) -> Test:
    """Friedman's test (1937) over ranks ``(N, M)``, each row of one answer. Answers count as independent."""
    if len(ranks) < 2 or ranks.shape[1] < 3:
        return Test("Friedman", float("nan"), (ranks.shape[1] - 1,), float("nan"))
    found = stats.friedmanchisquare(*ranks.T)
    return Test("Friedman", float(found.statistic), (ranks.shape[1] - 1,), float(found.pvalue))


def wald(means: Means) -> Test:
    """A test of equal means by their covariance of two ways, with Hotelling's correction for few participants or sets:
    the one that holds where answers of one participant or set are alike."""
    known = np.isfinite(means.values)
    values, count = means.values[known], int(known.sum())
    name, freedom = "Wald, by participants and sets", (count - 1, means.freedom - count + 2)
    if count < 2 or freedom[1] < 1:
        return Test(name, float("nan"), freedom, float("nan"))
    contrasts = np.eye(count)[1:] - np.eye(count)[:1]
    by_participants, by_sets, by_answers = (
        contrasts @ part[np.ix_(known, known)] @ contrasts.T for part in means.parts
    )
    covariance = _at_least(by_participants + by_sets - by_answers, by_answers)
    differences = contrasts @ values
    squared = float(differences @ np.linalg.pinv(covariance) @ differences)
    statistic = squared * freedom[1] / (means.freedom * freedom[0])
    return Test(name, statistic, freedom, float(stats.f.sf(statistic, *freedom)))


def _at_least(covariance: Array, least: Array) -> Array:
    """A covariance whose variance along each of its own axes is no less than that of another."""
    variances, axes = np.linalg.eigh(covariance)
    return np.asarray((axes * np.maximum(variances, np.einsum("ij,ik,kj->j", axes, least, axes))) @ axes.T)


def pairs(means: Means, largest: float = np.inf) -> list[Pair]:
    """All differences between two methods, in order, with Holm's correction.

    Intervals and p-values have as many degrees of freedom as :attr:`Means.freedom`, the careful choice: with those of
    :meth:`Means.quantile` there are more false alarms than 5 % where people differ much.

    Args:
        means: of the methods.
        largest: difference that there can be; intervals end there. 1 of rates, and M - 1 of mean ranks.
    """
    count = len(means.values)
    both = [(i, j) for i in range(count) for j in range(i + 1, count)]
    found: list[tuple[Interval, float]] = []
    for i, j in both:
        contrast = np.eye(count)[i] - np.eye(count)[j]
        value = float(means.values[i] - means.values[j])
        error = np.sqrt(means.variance(contrast))
        if not np.isfinite(value) or not error > 0:
            found.append((Interval(value), float("nan")))
            continue
        interval = _within(value, _quantile(means.freedom) * float(error), -largest, largest)
        found.append((interval, float(2 * stats.t.sf(abs(value) / error, means.freedom))))
    corrected = holm([p for _, p in found])
    return [Pair(i, j, one, p) for (i, j), (one, _), p in zip(both, found, corrected, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected by Holm (1979); NaN stays NaN and is not counted."""
    known = [index for index, p in enumerate(p_values) if np.isfinite(p)]
    corrected, most = [float("nan")] * len(p_values), 0.0
    for rank, index in enumerate(sorted(known, key=lambda one: p_values[one])):
        most = max(most, min(1.0, p_values[index] * (len(known) - rank)))
        corrected[index] = most
    return corrected


# --- position and agreement -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Positions:
    """How often each position was chosen, from left to right, and the chi-square test of equal choice."""

    counts: tuple[int, ...]
    statistic: float
    p: float


def positions(choices: Choices) -> Positions:
    """Whether people choose by position."""
    places = np.argmax(choices.layouts == choices.orders[:, :1], 1) if len(choices) else np.zeros(0, np.int64)
    counts = np.bincount(places, minlength=choices.layouts.shape[1])
    if not len(choices):
        return Positions(tuple(map(int, counts)), float("nan"), float("nan"))
    found = stats.chisquare(counts)
    return Positions(tuple(map(int, counts)), float(found.statistic), float(found.pvalue))


def agreement(choices: Choices) -> tuple[float | None, int]:
    """Krippendorff's alpha (nominal, 2011) of the choices about one set with the same options: 1 is full agreement, 0
    that of chance; None where nobody chose between the same.

    Returns:
        Alpha, and how many answers it is over.
    """
    units: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for number, layout, order in zip(choices.sets, choices.layouts, choices.orders, strict=True):
        units.setdefault((int(number), tuple(sorted(layout.tolist()))), []).append(int(order[0]))
    table = np.zeros((choices.methods, choices.methods))
    for chosen in units.values():
        if len(chosen) > 1:
            counts = np.bincount(chosen, minlength=choices.methods)
            table += (np.outer(counts, counts) - np.diag(counts)) / (len(chosen) - 1)
    totals = table.sum(0)
    total = totals.sum()
    expected = total**2 - np.square(totals).sum()
    if total < 2 or expected == 0:
        return None, int(total)
    observed = total - np.trace(table)
    return float(1 - (total - 1) * observed / expected), int(total)


def concordance(choices: Choices) -> float | None:
    """Of rankings: the mean of Kendall's tau between any two participants who ranked the same set; None without any."""
    ranks = _ranks(choices)
    found = []
    for number in np.unique(choices.sets):
        same = ranks[choices.sets == number]
        signs = np.sign(same[:, :, None] - same[:, None, :]).reshape(len(same), -1)
        products = signs @ signs.T / (choices.methods * (choices.methods - 1))
        found.append(products[np.triu_indices(len(same), 1)])
    joined = np.concatenate(found) if found else np.zeros(0)
    return float(joined.mean()) if len(joined) else None
