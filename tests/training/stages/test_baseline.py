"""The baseline stage for a few steps: the baseline learns and nothing else, on the landmark stage's own draws."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from facecrafter.baselines import TRAINED, baseline_class, head, load
from facecrafter.baselines.base import FILE
from facecrafter.data import shards
from facecrafter.data.shards import Prepared
from facecrafter.faces import landmarks, symmetry
from facecrafter.faces.face import Face
from facecrafter.models import checkpoint, scales
from facecrafter.models.deep_autoencoder import DeepAutoencoder
from facecrafter.models.scales import Scale
from facecrafter.request import Portrait, Request, images_of
from facecrafter.training import run_folder, trainer
from facecrafter.training.config import RunConfig
from facecrafter.training.stages import parse
from facecrafter.training.stages.baseline import BaselineStage
from facecrafter.training.stages.control import ControlStage
from facecrafter.training.stages.prepared import reading_once

CPU = torch.device("cpu")
EASY = {"landmark_turn": 1.0, "landmark_expression": 0.0}


@pytest.fixture
def faces(prepared: Prepared, face: Face) -> Prepared:
    """The made-up samples with a real face's landmarks, turned in eight ways."""
    turns = [landmarks.turn(face.points, float(yaw), size=128) for yaw in np.linspace(-30, 30, len(prepared))]
    return dataclasses.replace(prepared, points=np.stack(turns))


@pytest.fixture(autouse=True)
def small(faces: Prepared, small_scale: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scale:
    """The mini scale is the small one and samples in one step; the prepared folder is in memory; a base is there."""
    scale = dataclasses.replace(small_scale, solving={**small_scale.solving, "steps": 1})
    monkeypatch.setitem(scales.SCALES, "mini", scale)
    monkeypatch.setattr(shards, "load", lambda folder, recogniser: faces)
    torch.manual_seed(5)
    unet = scales.build_unet(scale)
    parts = scales.build_encoder(scale), scales.build_autoencoder(scale), scales.build_controls(scale, unet)
    checkpoint.save_model(checkpoint.FaceModel(scale, unet, *parts), tmp_path / "start")
    return scale


def config_of(baseline: str, folder: Path, **settings: Any) -> RunConfig:
    values: dict[str, Any] = {
        "stage": "baseline",
        "baseline": baseline,
        "data": folder / "data",
        "run": folder / "run",
        "start": folder / "start",
        "steps": 2,
        "batch_size": 4,
        "warmup": 0,
        "schedule": "constant",
        "precision": "no",
        "log_every": 1,
        "pairs": EASY,
        "mixture": {"identity" if baseline == "ip_adapter" else "landmark": 1.0},
    }
    return parse(Path("run.yaml"), {**values, **settings})


@pytest.mark.parametrize("kind", TRAINED)
def test_a_baseline_learns_and_nothing_else_does(
    kind: str, faces: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[BaselineStage] = []
    save = BaselineStage.save
    monkeypatch.setattr(BaselineStage, "save", lambda self, folder: (seen.append(self), save(self, folder)))
    config = config_of(kind, tmp_path, steps=3, ema=0.0)  # behind a zero layer gradients come one step later
    folder = trainer.train(config, progress=False)
    assert [path.name for path in folder.iterdir()] == [FILE]
    base = checkpoint.load_model(tmp_path / "start")
    torch.manual_seed(config.seed)
    before, after = baseline_class(kind).beside(base).state_dict(), load_file(folder / FILE)
    assert before.keys() == after.keys()
    assert {name for name in before if torch.equal(before[name], after[name])} == set()
    (stage,) = seen
    assert stage.model.controls is None
    for name in ("unet", "encoder", "autoencoder"):
        trained, given = stage.model.modules[name].state_dict(), base.modules[name].state_dict()
        assert all(torch.equal(trained[key], given[key]) for key in given)
    learned = torch.load(config.run / run_folder.CHECKPOINT, weights_only=True)["parameters"]
    assert len(learned) == len(list(stage.baseline.parameters()))  # the optimiser holds nothing else
    records = [json.loads(line) for line in (config.run / "log.jsonl").read_text().splitlines()]
    assert all(0 < record["loss"] < 100 for record in records)
    with Image.open(config.run / "samples" / "0000003.png") as image:
        assert image.size == (7 * 128, (3 if kind == "ip_adapter" else 4) * 128)
    method = load(kind, folder, tmp_path / "start")
    portrait = Portrait.of(faces, 0)
    assert images_of(method, [Request(portrait, {"landmark": Portrait.of(faces, 4)}, 1)]).shape == (1, 128, 128, 3)


@pytest.mark.parametrize("kind", ["controlnet", "expression_adapter"])
def test_two_steps_and_two_more_are_four_to_the_bit(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    whole, halves = (config_of(kind, tmp_path, run=tmp_path / name, steps=4, save_every=2) for name in "ab")
    trainer.train(whole, progress=False)
    real = BaselineStage.batch

    def batch(self: BaselineStage, step: int, *arguments: Any) -> dict[str, Tensor]:
        if step == 2:
            raise Killed
        return real(self, step, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(BaselineStage, "batch", batch)
        trainer.train(halves, progress=False)
    trainer.train(halves, resume=True, progress=False)
    expected, got = (load_file(config.run / "model" / FILE) for config in (whole, halves))
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


@pytest.mark.parametrize("kind", TRAINED)
def test_draws_are_the_landmark_stages_and_conditions_are_of_their_images(
    kind: str, faces: Prepared, tmp_path: Path
) -> None:
    config = config_of(kind, tmp_path, batch_size=8)
    stage = config.build(CPU)
    settings = config.model_dump(exclude={"stage", "baseline", "mixture"})
    ours = parse(Path("run.yaml"), {**settings, "stage": "landmark", "mixture": {"landmark": 1.0}}).build(CPU)
    assert isinstance(ours, ControlStage)
    data, twins = stage.data, 0
    assert data is not None and data.latents is not None
    for step in range(3):
        batch, drawn = stage.batch(step, 0, 1, CPU), ours.batch(step, 0, 1, CPU)
        for name in ("latents", "noise", "timesteps", "identity"):
            assert torch.equal(batch[name], drawn[name])
        assert batch["given"].all()
        assert batch["dropped"].all() == (kind == "ip_adapter")
        for latent, condition, identity in zip(batch["latents"], batch["condition"], batch["identity"], strict=True):
            (index,) = [i for i in range(len(data)) if torch.equal(data.latents[i].float(), latent)]
            row, twin = data.rows[index % data.count], index >= data.count
            twins += twin
            read: dict[str, Any] = {
                "controlnet": lambda row=row: landmarks.draw(faces.points[row], 128, 128).transpose(2, 0, 1) / 255,
                "caphuman": lambda row=row: head.draw(faces.points[row], 128, 128),
                "expression_adapter": lambda row=row: faces.blendshapes[row],
                "ip_adapter": lambda identity=identity: identity.numpy(),
            }
            expected = read[kind]()
            if twin:
                turn = {
                    "controlnet": lambda image: image[..., ::-1],
                    "caphuman": head.mirrored,
                    "expression_adapter": symmetry.blendshapes,
                }
                expected = turn.get(kind, lambda same: same)(expected)
            np.testing.assert_allclose(condition, expected, atol=1e-6)
    assert 4 < twins < 20


def test_baselines_that_follow_each_other_each_read_their_own_condition(tmp_path: Path) -> None:
    with reading_once():
        stages = {kind: config_of(kind, tmp_path).build(CPU) for kind in TRAINED}
        again = config_of("caphuman", tmp_path).build(CPU)
        shapes = {kind: tuple(stage.batch(0, 0, 1, CPU)["condition"].shape[1:]) for kind, stage in stages.items()}
    assert shapes == {
        "controlnet": (3, 128, 128),
        "caphuman": (5, 128, 128),
        "ip_adapter": (128,),
        "expression_adapter": (52,),
    }
    assert again.data is stages["caphuman"].data
    assert stages["ip_adapter"].data is stages["controlnet"].data  # it reads nothing of its own


@pytest.mark.parametrize("kind", ["controlnet", "caphuman"])
def test_a_base_of_another_size_is_trained_on_conditions_of_that_size(
    kind: str, faces: Prepared, small: Scale, tmp_path: Path
) -> None:
    blocks = (0, 1, 1)
    autoencoder = DeepAutoencoder(64, 8, (8, 8, 8), blocks, blocks)
    scale = scales.fitting(small, autoencoder)
    base = checkpoint.FaceModel(scale, scales.build_unet(scale), scales.build_encoder(scale), autoencoder)
    checkpoint.save_model(base, tmp_path / "start")
    config = config_of(kind, tmp_path, steps=1)
    stage = config.build(CPU)
    assert isinstance(stage, BaselineStage)
    condition, read = stage.batch(0, 0, 1, CPU)["condition"], stage.baseline.read(Portrait.of(faces, 0), 64)
    assert condition.shape == (4, *read.shape)
    np.testing.assert_allclose(stage.data.conditions("landmark", torch.tensor([0]))[0], read, atol=0.02)
    folder = trainer.train(config, progress=False)
    request = Request(Portrait.of(faces, 0), {"landmark": Portrait.of(faces, 4)}, 1)
    assert images_of(load(kind, folder, tmp_path / "start"), [request]).shape == (1, 64, 64, 3)


def test_samples_without_the_condition_are_the_bases(tmp_path: Path) -> None:
    mixture = {"none": 0.25, "identity": 0.25, "landmark": 0.5}
    stage = config_of("controlnet", tmp_path, mixture=mixture, batch_size=16).build(CPU)
    batch = stage.batch(0, 0, 1, CPU)
    assert 0 < batch["given"].sum() < 16
    assert len(batch["condition"]) == batch["given"].sum()
    assert 0 < batch["dropped"].sum() < 16
    assert not (batch["dropped"] & batch["given"]).any()
    loss = stage.objective(**batch)
    empty = {**batch, "given": torch.zeros(16, dtype=torch.bool), "condition": torch.zeros(0)}
    assert torch.equal(stage.objective(**empty), loss)  # a fresh baseline changes nothing
    stage.objective.requires_grad_(False)
    trainer._unfreeze(stage)
    assert not stage.objective(**empty).requires_grad


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    gradients = []
    for checkpointed in (False, True):
        stage = config_of("caphuman", tmp_path, gradient_checkpointing=checkpointed).build(CPU)
        stage.objective.requires_grad_(False).train()
        learning = trainer._unfreeze(stage)
        stage.objective(**stage.batch(0, 0, 1, CPU)).backward()
        gradients.append(torch.cat([one.grad.flatten() for one in learning if one.grad is not None]))
    assert gradients[0].abs().max() > 1e-6
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)
