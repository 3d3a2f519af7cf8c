"""Stages that learn from several folders: each has its share of every batch, with pairs and without."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facecrafter.data import shards
from facecrafter.data.shards import Prepared
from facecrafter.models import checkpoint, scales
from facecrafter.models.scales import Scale
from facecrafter.training.stages import parse

CPU = torch.device("cpu")
EASY = {"landmark_turn": 1.0, "landmark_expression": 0.0, "emotion_turn": 80.0}


@pytest.fixture(autouse=True)
def folders(prepared: Prepared, small_scale: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of photos and one of made people, as large, in memory; small networks to start from."""

    def load(folder: Path, recogniser: str) -> Prepared:
        people = [f"made-{person}" for person in prepared.persons]
        return prepared if folder.name == "photos" else dataclasses.replace(prepared, persons=people)

    monkeypatch.setattr(shards, "load", load)
    monkeypatch.setitem(scales.SCALES, "mini", small_scale)
    torch.manual_seed(5)
    unet = scales.build_unet(small_scale)
    parts = (scales.build_encoder(small_scale), scales.build_autoencoder(small_scale))
    model = checkpoint.FaceModel(small_scale, unet, *parts, scales.build_controls(small_scale, unet))
    checkpoint.save_model(model, tmp_path / "start")


def built(stage: str, folder: Path, share: float, **settings: Any) -> Any:
    values: dict[str, Any] = {
        "stage": stage,
        "data": folder / "photos",
        "beside": [{"data": folder / "people", "share": share}],
        "run": folder / "run",
        "start": folder / "start",
        "steps": 2,
        "batch_size": 8,
        "precision": "no",
        "held_out": False,
    }
    return parse(Path("run.yaml"), {**values, **settings}).build(CPU)


@pytest.mark.parametrize("pairs", [None, EASY])
@pytest.mark.parametrize(("stage", "groups"), [("landmark", 8), ("emotion", 8), ("joint", 4)])
def test_each_folder_has_its_share_of_every_batch(
    stage: str, groups: int, pairs: dict[str, float] | None, tmp_path: Path
) -> None:
    own: dict[str, Any] = {"joint": {"groups": groups}} if stage == "joint" else {"mixture": {stage: 1.0}}
    made = built(stage, tmp_path, 0.25, pairs=pairs, **own)
    sources = torch.from_numpy(made.data.prepared.sources)
    for step in range(10):
        drawn = made._draw(made.data, 0, step)
        if pairs:
            drawn, identities = made._paired(made.data.pairs, step, drawn)
            assert torch.equal(sources[identities], sources[drawn.indices % made.data.count])
        found = np.bincount(sources[drawn.indices % made.data.count], minlength=2)
        assert found.tolist() == [6, 2]


def test_the_expression_network_reads_each_folders_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(Path("run.yaml"), {
        "stage": "expression", "data": tmp_path / "photos", "beside": [{"data": tmp_path / "people", "share": 0.25}],
        "run": tmp_path / "run", "steps": 2, "batch_size": 8, "expression": {},
    })  # fmt: skip
    made: Any = config.build(CPU)
    images, read = made.data.images, []
    monkeypatch.setattr(made.data, "images", lambda chosen: read.append(chosen) or images(chosen))
    for step in range(4):
        made.batch(step, 0, 1, CPU)
        assert torch.isin(read[-1] % made.data.count, made.data.by_source[1]).sum() == 2
