"""Bands of yaw, and metrics apart by bands."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facecrafter.evaluation import subgroups
from facecrafter.evaluation.result import Column, Group


@pytest.mark.parametrize(("yaw", "band"), [(0, "0 to 15"), (-14.9, "0 to 15"), (15, "15 to 30"), (-31, "30 and more")])
def test_bands_of_yaw(yaw: float, band: str) -> None:
    assert subgroups.yaw_band(yaw) == band


def test_metrics_apart() -> None:
    columns = (
        Column("a", "A", "", "lower", "mean"),
        Column("b", "B", "", "lower", "rms"),
        Column("frechet", "F", "", "lower", None),
    )
    scores = {"a": np.array([1.0, 2, np.nan, 4]), "b": np.array([3.0, 4, np.nan, 1])}
    made = subgroups.split(columns, scores, ["x", "x", "y", "z"], ("z", "y", "x", "w"))
    assert list(made) == ["z", "y", "x"]
    assert (made["x"].count, made["x"].failures) == (2, 0)
    assert made["x"].values == {"a": 1.5, "b": pytest.approx(math.sqrt(12.5))}
    assert made["y"] == Group(count=1, failures=1, values={"a": None, "b": None})
