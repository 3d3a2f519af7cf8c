"""Preparation beside the time of its estimators."""

from __future__ import annotations

from pathlib import Path

import pytest

from facecrafter.bench import prepare as bench
from facecrafter.errors import DataError


def test_rates_are_beside_what_the_estimators_take(lfw: Path) -> None:
    cost = bench.preparing(lfw, 6, [1])
    assert cost.photos == 6
    assert set(cost.estimators) == {"reading", "finding", "emotion", "mask", "identity"}
    assert all(seconds > 0 for seconds in cost.estimators.values())
    assert cost.shares[1] == pytest.approx(cost.rates[1] * sum(cost.estimators.values()))
    assert 0 < cost.shares[1] < 1.5
    told = bench.lines(cost)
    assert "ms a photo" in told[0] and told[1].startswith("1 process: ")


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no photos"):
        bench.preparing(tmp_path)
