"""Plans of a few made-up people."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facecrafter.config import check
from facecrafter.datasets.config import PlanConfig
from facecrafter.datasets.plan import Plan, write_plan

sys.path.insert(0, str(Path(__file__).parent))  # for fake_maker, in worker processes too

Planned = Callable[..., Plan]


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    """Five people far from each other."""
    vectors = np.random.default_rng(0).normal(size=(5, 128)).astype(np.float32)
    np.save(tmp_path / "people.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return tmp_path / "people.npy"


@pytest.fixture
def arc2face(tmp_path: Path) -> dict[str, Any]:
    """What makes a config one of five people for Arc2Face; of its files only the recogniser's is there, and empty."""
    vectors = np.random.default_rng(0).normal(size=(5, 512)).astype(np.float32)
    np.save(tmp_path / "wide.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "arcface.onnx").touch()
    people = [{"embeddings": str(tmp_path / "wide.npy")}]
    return {"model": "arc2face", "weights": str(tmp_path / "weights"), "identities": people, "apart": 0.3}


@pytest.fixture
def configured(embeddings: Path) -> Callable[..., PlanConfig]:
    """A config of these people, 2 x 2 cells, changed by what is given."""

    def made(**changes: Any) -> PlanConfig:
        content: dict[str, Any] = {
            "identities": [{"embeddings": str(embeddings)}],
            "cells": {"yaw": [-20, 20], "emotion": ["neutral", "happy"]},
            "a_person": 2,
            "shard_size": 7,
        }
        return check(Path("plan.yaml"), {**content, **changes}, PlanConfig)

    return made


@pytest.fixture
def planned(configured: Callable[..., PlanConfig], tmp_path: Path) -> Planned:
    """The same as a plan that was written."""

    def made(name: str = "plan", **changes: Any) -> Plan:
        return Plan(write_plan(configured(**changes), tmp_path / f"{name}.parquet").path)

    return made
