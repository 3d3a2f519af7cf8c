"""How far methods are from the first of them, over the pairs that both made a face for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facecrafter.evaluation.report.result import Column, Row, Sheet

DRAWS = 2000
SEED = 0

Floats = NDArray[np.float64]
# How a column can come from its images: what is summed over them, and what is made of the sum over their number.
WAYS: dict[str, tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]] = {
    "mean": (lambda cells: cells, lambda means: means),
    "root mean square": (np.square, np.sqrt),
}


@dataclass(frozen=True)
class Difference:
    """A method's metric less the first method's, over ``pairs`` images of ``people`` identities.

    ``low`` and ``high`` are the 95 % bootstrap interval over identities; None where there is one identity alone.
    """

    label: str
    against: str
    column: Column
    value: float
    low: float | None
    high: float | None
    pairs: int
    people: int

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "not told apart"
        if self.column.better is None:
            return "higher" if self.value > 0 else "lower"
        return "better" if (self.value > 0) == (self.column.better == "higher") else "worse"


def paired(sheet: Sheet) -> tuple[list[Difference], list[Column]]:
    """Differences of every method from the first one that has scores, and the columns that cannot be paired.

    A column is paired where its value in the table is the mean, or the root mean square, of its pictures' scores, which
    is found out by making it again. A Fréchet distance, say, is neither.
    """
    first = next((row for row in sheet.rows if any(score.values for score in (row.scores or {}).values())), None)
    if first is None or len(sheet.rows) < 2:
        return [], []
    others = [row for row in sheet.rows if row is not first]
    differences: list[Difference] = []
    left: list[Column] = []
    for column in sheet.columns:
        way = way_of(sheet, column.key)
        if way is None:
            left.append(column)
            continue
        found = [difference(first, other, column, way) for other in others]
        differences.extend(one for one in found if one is not None)
    return differences, left


def way_of(sheet: Sheet, key: str) -> str | None:
    """How the column comes from its images, one of :data:`WAYS`; None where it does not."""
    known = []
    for row in sheet.rows:
        cells = [score.values[key] for score in (row.scores or {}).values() if key in score.values]
        told = row.value(key).value
        if cells and told is not None:
            known.append((np.array(cells), told))
    for name, (before, after) in WAYS.items():
        if known and all(np.isclose(after(before(cells).mean()), told, 1e-3, 1e-4) for cells, told in known):
            return name
    return None


def difference(first: Row, other: Row, column: Column, way: str) -> Difference | None:
    """One method less another in one column; None where they share no pair."""
    before, after = WAYS[way]
    ours, theirs, key = first.scores or {}, other.scores or {}, column.key
    shared = [one for one in ours if one in theirs and key in ours[one].values and key in theirs[one].values]
    if not shared:
        return None
    people, place = np.unique([identity for identity, _, _ in shared], return_inverse=True)
    cells = np.array([[ours[one].values[key], theirs[one].values[key]] for one in shared])
    sums = np.zeros((len(people), 3))  # of the first, of the other, and the number of pairs
    np.add.at(sums, place, np.column_stack([before(cells), np.ones(len(shared))]))

    def apart(totals: Floats) -> Floats:
        values = after(totals[..., :2] / totals[..., 2:])
        return np.asarray(values[..., 1] - values[..., 0])

    low = high = None
    if len(people) > 1:
        drawn = np.random.default_rng(SEED).multinomial(len(people), np.full(len(people), 1 / len(people)), DRAWS)
        low, high = (float(end) for end in np.percentile(apart(drawn @ sums), [2.5, 97.5]))
    value = float(apart(sums.sum(0)))
    return Difference(other.label, first.label, column, value, low, high, len(shared), len(people))
