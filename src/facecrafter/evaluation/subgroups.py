"""Whom a method serves how well: every metric apart by the emotion asked, by yaw, and by skin tone.

Skin tone (:mod:`facecrafter.faces.skin`) is measured in the identity's photo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from facecrafter.evaluation.metrics import value
from facecrafter.evaluation.result import Column, Group

Array = NDArray[np.float64]

# From which absolute yaw on, in degrees.
YAWS = {"0 to 15": 0.0, "15 to 30": 15.0, "30 and more": 30.0}


def yaw_band(degrees: float) -> str:
    """The band of a yaw, to either side."""
    return next(name for name, least in reversed(YAWS.items()) if abs(degrees) >= least)


def split(
    columns: Sequence[Column], scores: Mapping[str, Array], labels: Sequence[str], names: Sequence[str]
) -> dict[str, Group]:
    """The columns over the images of each label.

    A Frechet distance is not among them: over few images it depends on how many they are.

    Args:
        columns: of the table; those without scores are left out.
        scores: ``(P,)`` a column.
        labels: P.
        names: the labels in the order that a table has them; those that no image has are left out.

    Returns:
        By label; failures are images in which no face was found.
    """
    groups: dict[str, Group] = {}
    for name in names:
        here = np.array([label == name for label in labels])
        if here.any():
            ours = {column.key: value(column, scores[column.key][here]) for column in columns if column.key in scores}
            found = np.any([np.isfinite(scores[key][here]) for key in ours], axis=0)
            groups[name] = Group(count=int(here.sum()), failures=int((~found).sum()), values=ours)
    return groups
