"""How sure a number of a table is: percentile bootstrap over people (Efron, 1979).

Images of one person are alike, so people are resampled, each with all of their images; resampling images would
give intervals that are too narrow. Rows without a value (no face found) are left out by the caller, who counts them.

A draw may miss everybody whom a part of a number is of, say all who have a face in one of the classes of a mean over
classes. It has no value, NaN, and is left out: the interval is that of the draws that have one. Where more than half
of the draws have none there is no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from facecrafter.evaluation.record import Interval

Array = NDArray[np.float64]

DRAWS = 1000
LEVEL = 0.95


def mean(values: NDArray[np.generic], people: Sequence[str], draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean over rows.

    Args:
        values: ``(P,)``; truth values give a share.
        people: whose row it is, P of them.
        draws: how often the people are resampled.
        seed: of the resampling; one seed and the same people give the same draws for every number.
    """
    return _interval(*_means(np.asarray(values, np.float64), people, draws, seed))


def rmse(errors: NDArray[np.generic], people: Sequence[str], draws: int = DRAWS, seed: int = 0) -> Interval:
    """The root of the mean square of errors ``(P,)`` or ``(P, K)``, over rows and columns; see :func:`mean`."""
    squares = np.square(np.asarray(errors, np.float64))
    value, drawn = _means(squares.mean(1) if squares.ndim == 2 else squares, people, draws, seed)
    return _interval(np.sqrt(value), np.sqrt(drawn))


def of_means(
    rows: Array, people: Sequence[str], function: Callable[[Array], Array], draws: int = DRAWS, seed: int = 0
) -> Interval:
    """A number by a function of the means over rows ``(P, K)``: of ``(K,)``, or of ``(D, K)`` to ``(D,)``; see
    :func:`mean`."""
    value, drawn = _means(rows, people, draws, seed)
    return _interval(float(function(value)), function(drawn))


def statistic(
    function: Callable[[NDArray[np.int64]], float],
    people: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
    parts: Sequence[NDArray[np.bool_]] = (),
) -> Interval:
    """Any number, by a function of the rows ``(Q,)`` that it is to be worked out on, some of them repeated.

    The function is called once for all rows and once a draw, and returns NaN for rows that have no value; see
    :func:`mean`.

    Args:
        function: of rows, to the number.
        people, draws, seed: see :func:`mean`.
        parts: rows ``(Q,)`` that the number cannot do without: where some are of fewer than two people it has no
            interval, since draws that have a value would all have the same.
    """
    groups = _groups(people)
    if any(len(np.unique(groups[part])) < 2 for part in parts):
        return Interval(float(function(np.arange(len(groups)))))
    rows = np.argsort(groups, kind="stable")
    copies = _copies(groups, draws, seed)
    drawn = [function(np.repeat(rows, line[groups[rows]])) for line in copies]
    return _interval(float(function(np.arange(len(groups)))), np.array(drawn, np.float64))


def _means(values: Array, people: Sequence[str], draws: int, seed: int) -> tuple[Array, Array]:
    """The mean over all rows ``(P,)`` or ``(P, K)``, and over those of each draw."""
    if len(values) == 0:
        return np.full(values.shape[1:], np.nan), np.zeros(0)
    groups = _groups(people)
    counts = np.bincount(groups)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, groups, values)
    copies = _copies(groups, draws, seed)
    rows = (copies @ counts).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(values.mean(0)), (copies @ sums) / rows


def _groups(people: Sequence[str]) -> NDArray[np.int64]:
    """The number of each row's person, counted in the order of their names."""
    return np.asarray(np.unique(np.asarray(people, dtype=str), return_inverse=True)[1], np.int64)


def _copies(groups: NDArray[np.int64], draws: int, seed: int) -> NDArray[np.int64]:
    """How often each of G people is drawn in each of the draws: ``(draws, G)``, or ``(0, G)`` for fewer than two."""
    count = int(groups.max(initial=-1)) + 1
    if count < 2:
        return np.zeros((0, count), np.int64)
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)


def _interval(value: float | Array, drawn: Array) -> Interval:
    drawn, draws = drawn[~np.isnan(drawn)], len(drawn)
    if np.isnan(value) or len(drawn) == 0 or 2 * len(drawn) < draws:
        return Interval(float(value), None, None)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))
