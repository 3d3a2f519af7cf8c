"""What every run has in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from facecrafter.training.config import start_folder
from facecrafter.training.stages import parse
from facecrafter.weights import ASSETS


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_the_learning_rate_warms_up_and_then_follows_its_schedule(kind: str) -> None:
    config = parse(
        Path("run.yaml"),
        {"stage": "base", "data": "d", "run": "r", "start": "s", "steps": 100, "warmup": 10, "schedule": kind},
    )
    factors = [config.rate_factor(step) for step in range(100)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:10] == sorted(factors[:10])
    assert factors[0] == pytest.approx(0.1, abs=0.001)
    if kind == "constant":
        assert factors[10:] == [1.0] * 90
    else:
        assert factors[10:] == sorted(factors[10:], reverse=True)
        assert factors[50] == pytest.approx(0.51)
        assert 0.02 <= factors[99] < 0.021


def test_a_start_is_a_folder_or_the_shipped_weights() -> None:
    assert start_folder(Path("mini")) == ASSETS / "mini"
    assert start_folder(Path("runs/mini")) == Path("runs/mini")
