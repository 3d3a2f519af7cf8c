"""What an emotion in words acts through: by which way it is read as asked most, each way compared with the module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from facecrafter.evaluation import bootstrap
from facecrafter.evaluation.record import Interval, Number, Record, Text
from facecrafter.faces.emotion import EMOTIONS

WAYS = ("module", "landmarks", "both")
WORDS = EMOTIONS[1:]

Array = NDArray[np.float64]


class WaysRead(Record):
    """Emotions in words as one network reads them, by what they act through; images without a face are left out.

    Attributes:
        network: its name, with the first digits of its digest.
        shares: read as asked, with 95 % bootstrap intervals over people, over the resamplings with a face by that way;
            a way that only one person has a face by has no interval.
        more: that share less the module's alone, over the same people.
        by_class: the share of each emotion that the network knows.
    """

    network: Text
    shares: dict[str, Interval]
    more: dict[str, Interval]
    by_class: dict[str, dict[str, Number]]


def read(
    network: str,
    classes: Sequence[str],
    probabilities: Array,
    ways: Sequence[str],
    words: Sequence[str],
    people: Sequence[str],
) -> WaysRead:
    """What a network reads in N images of people who are asked for an emotion in words.

    Args:
        network: its name.
        classes: K emotions that it knows; images asked for another one are left out.
        probabilities: ``(N, K)``; a row is NaN where no face was found.
        ways: what the emotion of each image acts through.
        words: what is asked of each.
        people: whose image it is.
    """
    asked, acting = np.array(words), np.array(ways)
    counted = np.isfinite(probabilities).all(1) & np.isin(asked, classes)
    read_as = np.array(classes)[np.nan_to_num(probabilities, nan=-1.0).argmax(1)]
    right, whose = (read_as == asked)[counted], [people[row] for row in np.flatnonzero(counted).tolist()]
    asked, acting = asked[counted], acting[counted]

    def share(way: str, rows: NDArray[np.int64]) -> float:
        chosen = rows[acting[rows] == way]
        return float(right[chosen].mean()) if len(chosen) else float("nan")

    def more(way: str, rows: NDArray[np.int64]) -> float:
        return share(way, rows) - share(WAYS[0], rows)

    def interval(function: Callable[[NDArray[np.int64]], float], *of: str) -> Interval:
        return bootstrap.statistic(function, whose, parts=[acting == way for way in of])

    def by(way: str) -> dict[str, Number]:
        own = {word: right[(acting == way) & (asked == word)] for word in classes if word in WORDS}
        return {word: float(found.mean()) if len(found) else None for word, found in own.items()}

    return WaysRead(
        network=network,
        shares={way: interval(partial(share, way), way) for way in WAYS},
        more={way: interval(partial(more, way), way, WAYS[0]) for way in WAYS[1:]},
        by_class={way: by(way) for way in WAYS},
    )


def as_markdown(found: Sequence[WaysRead], identity: Mapping[str, Interval]) -> list[str]:
    """The lines of a table: a row an emotion by the first network, and the means of all networks."""
    lines = [f"| read as asked | {' | '.join(WAYS)} |", "| --- | ---: | ---: | ---: |"]

    def row(name: str, cells: Sequence[str]) -> None:
        lines.append(f"| {name} | {' | '.join(cells)} |")

    for word in found[0].by_class[WAYS[0]]:
        shares = [found[0].by_class[way][word] for way in WAYS]
        row(word, ["none" if share is None else f"{share:.0%}" for share in shares])
    for one in found:
        row(f"all {len(one.by_class[WAYS[0]])}, by {one.network}", [_cell(one.shares[way], ".0%") for way in WAYS])
        row("less the module's", ["", *[_cell(one.more[way], "+.0%") for way in WAYS[1:]]])
    row("cosine to the photo", [_cell(identity[way], ".2f") for way in WAYS])
    return lines


def _cell(found: Interval, form: str) -> str:
    value, low, high = ("none" if one is None else format(one, form) for one in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"
