"""The estimator's stage: its draws, its loss, two steps of it, and what it writes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from facecrafter.data.fer2013 import EmotionFaces
from facecrafter.errors import ConfigError
from facecrafter.estimators.emotion import EmotionNet, PixelEmotion
from facecrafter.training import trainer
from facecrafter.training.emotion import prior
from facecrafter.training.stages import emotion_estimator as module
from facecrafter.training.stages import parse
from facecrafter.training.stages.emotion_estimator import Estimator, EstimatorConfig, EstimatorObjective

ABOUT = {
    "fer2013": Path("fer"),
    "votes": Path("votes"),
    "labels": Path("labels"),
    "widths": (8, 16),
    "blocks": 1,
    "sides": (32, 40),
}


def faces(count: int, shapes: bool) -> EmotionFaces:
    """Made-up crops whose brightness grows downwards in one class and upwards in the other."""
    random = np.random.default_rng(count)
    labels = random.integers(0, 2, count)
    ramp = np.linspace(30, 220, 48)[:, None] * np.ones((1, 48))
    crops = np.stack([ramp if label else ramp[::-1] for label in labels]) + random.normal(0, 10, (count, 48, 48))
    outcome = np.zeros((count, 52), np.float32)
    outcome[:, 3] = 0.2 + 0.6 * labels
    return EmotionFaces(
        crops.clip(0, 255).astype(np.uint8), labels.astype(np.int64), np.arange(count) % 4 == 0,
        [f"{number}.jpg" for number in range(count)], outcome if shapes else None,
    )  # fmt: skip


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_ferplus", lambda images, votes: faces(120, shapes=False))
    monkeypatch.setattr(module, "read_photos", lambda folder, labels: faces(100, shapes=True))


def config_of(folder: Path, **settings: Any) -> EstimatorConfig:
    values: dict[str, Any] = {
        "stage": "estimator", "data": folder / "data", "run": folder / "run", "steps": 2, "batch_size": 16,
        "warmup": 0, "precision": "no", "log_every": 1, "ema": 0.0, "estimator": ABOUT,
    }  # fmt: skip
    return parse(Path("run.yaml"), {**values, **settings})  # type: ignore[return-value]


def test_two_steps_write_an_estimator(made_up: None, tmp_path: Path) -> None:
    folder = trainer.train(config_of(tmp_path), progress=False)
    file = folder / "emotion.safetensors"
    estimator = PixelEmotion(file)
    assert estimator.network.config["widths"] == [8, 16]
    assert float(estimator.network.prior.sum()) == pytest.approx(1, abs=1e-3)
    # The blendshapes' regression is fitted: it tells the two classes apart.
    outcome = estimator.network.shape_scores(faces(100, shapes=True).blendshapes)
    assert (outcome[:, :2].argmax(1).numpy() == faces(100, shapes=True).labels).all()
    assert [int(one["step"]) for one in _logged(tmp_path / "run")] == [1, 2]


def test_it_learns(made_up: None, tmp_path: Path) -> None:
    folder = trainer.train(config_of(tmp_path, steps=30, learning_rate=3e-3), progress=False)
    test = faces(120, shapes=False).part(test=True)
    shares = PixelEmotion(folder / "emotion.safetensors").probabilities(list(test.crops))
    assert (shares.argmax(1) == test.labels).mean() > 0.95


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    made_up: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = trainer.train(config_of(tmp_path / "once", steps=4, schedule="constant"), progress=False)
    settings = config_of(tmp_path / "twice", steps=4, schedule="constant", save_every=2)
    batch = module.EstimatorStage.batch

    def stopped(stage: module.EstimatorStage, step: int, *rest: Any) -> dict[str, Any]:
        if step == 3:
            raise KeyboardInterrupt
        return batch(stage, step, *rest)

    monkeypatch.setattr(module.EstimatorStage, "batch", stopped)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(settings, progress=False)
    monkeypatch.setattr(module.EstimatorStage, "batch", batch)
    twice = trainer.train(settings, resume=True, progress=False)
    # Norms' running statistics are part of the checkpoint.
    one, other = (load_file(folder / "emotion.safetensors") for folder in (once, twice))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def _logged(run: Path) -> list[dict[str, float]]:
    import json

    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_every_part_of_a_batch_sees_both_sets(made_up: None, tmp_path: Path) -> None:
    stage = module.EstimatorStage(config_of(tmp_path), torch.device("cpu"))
    whole = stage.batch(0, 0, 1, torch.device("cpu"))
    assert whole["crops"].shape == (16, 1, 32, 32)
    assert stage.batch(1, 0, 1, torch.device("cpu"))["crops"].shape == (16, 1, 40, 40)
    halves = [stage.batch(0, index, 2, torch.device("cpu")) for index in (0, 1)]
    for name, value in whole.items():
        assert torch.equal(torch.stack([halves[0][name], halves[1][name]], dim=1).flatten(0, 1), value)
    assert whole["targets"].sum(1).tolist() == [1.0] * 16
    # Twelve of FER2013 and four photos, each under its own set's prior.
    assert torch.equal(whole["log_priors"][:12], stage.log_priors[:1].expand(12, -1))
    assert torch.equal(whole["log_priors"][12:], stage.log_priors[1:].expand(4, -1))


def test_the_loss_is_smoothed_cross_entropy_written_out() -> None:
    torch.manual_seed(0)
    objective = EstimatorObjective(EmotionNet((8,), 1).eval(), 0.2)
    crops, targets = torch.rand(5, 1, 32, 32), torch.rand(5, 8).softmax(1)
    log_priors = prior(np.array([0, 0, 1, 3, 6])).log().expand(5, -1)
    with torch.no_grad():
        loss = objective(crops, targets, log_priors, kept := 2.0 * torch.eye(8)[:5])
        scores = objective.network(crops, kept).double().numpy()
        assert not np.allclose(scores, objective.network(crops).numpy())
    total = 0.0
    for row in range(5):
        logits = [scores[row][k] + float(log_priors[row, k]) for k in range(8)]
        norm = math.log(sum(math.exp(value) for value in logits))
        total -= sum((0.2 / 8 + 0.8 * float(targets[row, k])) * (logits[k] - norm) for k in range(8)) / 5
    assert float(loss) == pytest.approx(total, rel=1e-5)


def test_a_face_is_mixed_with_faces_of_its_own_set(made_up: None, tmp_path: Path) -> None:
    plain = module.EstimatorStage(config_of(tmp_path), torch.device("cpu")).batch(0, 0, 1, torch.device("cpu"))
    stage = module.EstimatorStage(config_of(tmp_path, estimator={**ABOUT, "mixup": 0.4}), torch.device("cpu"))
    stage.shares[len(stage.grey.labels) :] = torch.eye(8)[7]  # as no face of FER2013 is labelled here
    batch = stage.batch(0, 0, 1, torch.device("cpu"))
    assert not torch.equal(batch["crops"], plain["crops"])
    assert torch.equal(batch["kept"], plain["kept"])  # the same draws
    torch.testing.assert_close(batch["targets"].sum(1), torch.ones(16))
    assert (batch["targets"][:12, 7] == 0).all()
    assert (batch["targets"][12:, 7] == 1).all()
    assert batch["targets"][:12].max(1).values.min() >= 0.6
    assert ((batch["targets"] > 0) & (batch["targets"] < 1)).any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"blocks": (1, 2, 3)}, "one for each of `widths`"),
        ({"blocks": 0}, "from 1 up"),
        ({"blocks": (1, 0)}, "from 1 up"),
        ({"squeeze": 9}, "narrowest stage"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Estimator(**{**ABOUT, **settings})


def test_targets_are_votes_under_the_prior_of_an_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    grey = faces(120, shapes=False)
    shares = np.random.default_rng(0).dirichlet(np.ones(8), 120).astype(np.float32)
    voted = dataclasses.replace(grey, shares=shares, clear=grey.labels == 0)
    monkeypatch.setattr(module, "read_ferplus", lambda images, votes: voted)
    monkeypatch.setattr(module, "read_photos", lambda folder, labels: faces(100, shapes=True))
    stage = module.EstimatorStage(config_of(tmp_path, estimator={**ABOUT, "crop_evenness": 0.5}), torch.device("cpu"))
    batch = stage.batch(0, 0, 1, torch.device("cpu"))
    rows = {tuple(row) for row in shares[~grey.test].tolist()}
    assert all(tuple(row) in rows for row in batch["targets"][:12].tolist())
    mean = shares[~grey.test][stage.epoch.numpy()].astype(np.float64).mean(0)
    np.testing.assert_allclose(stage.log_priors[0].exp(), mean, atol=1e-3)
    # In use, the prior is the root of how common the classes are where people agree: 0 always, and the others as rare
    # as a class that there is none of.
    stage.save(tmp_path)
    rare = math.sqrt(0.001)
    first = float(PixelEmotion(tmp_path / "emotion.safetensors").network.prior[0])
    assert first == pytest.approx(1 / (1 + 7 * rare), abs=1e-3)


def test_a_run_begins_with_what_an_earlier_one_ended_with(made_up: None, tmp_path: Path) -> None:
    earlier = trainer.train(config_of(tmp_path / "earlier", steps=3), progress=False)
    config = config_of(tmp_path / "later", start=earlier)
    stage = module.EstimatorStage(config, torch.device("cpu"))
    saved = load_file(earlier / "emotion.safetensors")
    assert all(torch.equal(value.half(), saved[name]) for name, value in stage.model.state_dict().items()
               if value.is_floating_point())  # fmt: skip
    wider = config.model_copy(update={"estimator": Estimator(**{**ABOUT, "widths": (8, 32)})})
    with pytest.raises(ConfigError, match=r"has \{'widths': \[8, 16\]"):
        module.EstimatorStage(wider, torch.device("cpu"))
