"""How far methods are from the first of them, over the pairs that both made a face for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from facecrafter.evaluation import bootstrap
from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.result import Column, Difference, Verdict, Way
from facecrafter.evaluation.result_folder import Scores

DRAWS = 2000

Floats = NDArray[np.float64]
# What is summed over a column's images, and what is made of the sum over their number.
WAYS: dict[Way, tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]] = {
    "mean": (lambda cells: cells, lambda means: means),
    "rms": (np.square, np.sqrt),
}


def paired(methods: Mapping[str, Scores | None], columns: Sequence[Column]) -> list[Difference]:
    """Differences of every method from the first one that has scores, in the columns that come from images.

    Args:
        methods: each one's scores by its name, None where there are none.
        columns: of the table; those without a ``way``, a Frechet distance say, have no difference.
    """
    first = next((name for name, scores in methods.items() if any(one.values for one in (scores or {}).values())), None)
    others = [name for name in methods if name != first]
    made = (
        _difference((first, methods[first] or {}), (other, methods[other] or {}), column, column.way)
        for column in columns
        for other in others
        if first is not None and column.way is not None
    )
    return [difference for difference in made if difference is not None]


def _difference(first: tuple[str, Scores], other: tuple[str, Scores], column: Column, way: Way) -> Difference | None:
    """One method less another in one column; None where they share no pair."""
    (against, ours), (method, theirs), key = first, other, column.key
    shared = [one for one in ours if one in theirs and key in ours[one].values and key in theirs[one].values]
    if not shared:
        return None
    before, after = WAYS[way]
    cells = before(np.array([[ours[one].values[key], theirs[one].values[key]] for one in shared]))

    def apart(means: Floats) -> Floats:
        values = after(means)
        return np.asarray(values[..., 1] - values[..., 0])

    people = [identity for identity, _, _ in shared]
    found = bootstrap.of_means(cells, people, apart, DRAWS)
    return Difference(
        method=method,
        against=against,
        metric=key,
        value=found.value,
        low=found.low,
        high=found.high,
        pairs=len(shared),
        identities=len(set(people)),
        verdict=_verdict(found, column),
    )


def _verdict(found: Interval, column: Column) -> Verdict:
    if found.value is None or found.low is None or found.high is None or found.low <= 0 <= found.high:
        return "not distinguished"
    if column.better is None:
        return "higher" if found.value > 0 else "lower"
    return "better" if (found.value > 0) == (column.better == "higher") else "worse"
