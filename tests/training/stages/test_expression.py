"""The expression network's stage: its labels in the mirror, its loss, two steps of it, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from facecrafter.data import shards
from facecrafter.data.shards import Prepared
from facecrafter.errors import ConfigError
from facecrafter.estimators.expression import ExpressionNet, load
from facecrafter.faces.face import BLENDSHAPES
from facecrafter.training import trainer
from facecrafter.training.stages import parse
from facecrafter.training.stages.expression import (
    CHANCES,
    Expression,
    ExpressionConfig,
    ExpressionObjective,
    ExpressionStage,
    labels,
    noise_fields,
    varied,
)

ABOUT: dict[str, Any] = {"widths": (32, 32), "blocks": (1, 1), "hidden": 16}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def made_up_data(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "load", lambda folder, recogniser: prepared)


def config_of(folder: Path, **settings: Any) -> ExpressionConfig:
    values: dict[str, Any] = {
        "stage": "expression", "data": folder / "data", "run": folder / "run", "steps": 2, "batch_size": 4,
        "warmup": 0, "schedule": "constant", "precision": "no", "log_every": 1, "validate_every": 1,
        "expression": ABOUT,
    }  # fmt: skip
    return parse(Path("run.yaml"), {**values, **settings})  # type: ignore[return-value]


def stage_of(prepared: Prepared, folder: Path, **settings: Any) -> ExpressionStage:
    return config_of(folder, **settings).build(CPU)


def test_two_steps_write_a_network_and_how_well_it_reads(tmp_path: Path) -> None:
    folder = trainer.train(config_of(tmp_path), progress=False)
    network = load(folder / "expression.safetensors")
    assert network.config["widths"] == [32, 32]
    assert network(torch.zeros(1, 3, 128, 128)).points.shape == (1, 478, 2)
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "loss" in line] == [1, 2]
    assert all(line["validation_loss"] > 0 for line in logged if "validation_loss" in line)
    measured = json.loads((folder / "expression.json").read_text())
    assert measured["images"] == 1  # Ida
    assert measured.keys() >= {"blendshapes_rmse", "blendshapes_explained", "yaw_mae", "pitch_mae", "points_mae"}
    assert (tmp_path / "run" / "samples" / "0000002.png").is_file()


def test_it_learns(prepared: Prepared, tmp_path: Path) -> None:
    plain = {**ABOUT, "light": 0, "blur": 0, "noise": 0, "erase": 0}
    config = config_of(tmp_path, steps=25, batch_size=8, learning_rate=3e-3, ema=0.0, expression=plain)
    network = load(trainer.train(config, progress=False) / "expression.safetensors")
    keep = np.flatnonzero(~shards.held_out(prepared.persons))
    asked = labels(prepared, keep).blendshapes[: len(keep)]
    images = torch.from_numpy(prepared.images[keep]).permute(0, 3, 1, 2) / 127.5 - 1
    wrong = (network(images).blendshapes - asked).square().mean()
    assert wrong < 0.7 * (asked - asked.mean(0)).square().mean()


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = trainer.train(config_of(tmp_path / "once", steps=4), progress=False)
    settings = config_of(tmp_path / "twice", steps=4, save_every=2)
    batch = ExpressionStage.batch

    def stopped(self: ExpressionStage, step: int, *rest: Any) -> dict[str, Any]:
        if step == 3:
            raise KeyboardInterrupt
        return batch(self, step, *rest)

    monkeypatch.setattr(ExpressionStage, "batch", stopped)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(settings, progress=False)
    monkeypatch.setattr(ExpressionStage, "batch", batch)
    twice = trainer.train(settings, resume=True, progress=False)
    one, other = (load_file(folder / "expression.safetensors") for folder in (once, twice))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_nobody_kept_out_is_not_measured(prepared: Prepared, tmp_path: Path) -> None:
    stage = config_of(tmp_path, held_out=False).build(CPU)
    assert stage.validate() is None
    stage.save(tmp_path / "model")
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["expression.safetensors"]


def test_parts_of_a_batch_are_the_batch(prepared: Prepared, tmp_path: Path) -> None:
    stage = stage_of(prepared, tmp_path, batch_size=8)
    whole = stage.batch(1, 0, 1, CPU)
    halves = [stage.batch(1, index, 2, CPU) for index in (0, 1)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([half[name] for half in halves]), value)
    assert not torch.equal(whole["images"], stage.batch(2, 0, 1, CPU)["images"])


def test_labels_of_the_mirror_image(prepared: Prepared) -> None:
    rows = np.array([1, 4])
    made = labels(prepared, rows)
    left, right = BLENDSHAPES.index("eyeBlinkLeft"), BLENDSHAPES.index("eyeBlinkRight")
    np.testing.assert_array_equal(made.blendshapes[2:, left], prepared.blendshapes[rows, right])
    np.testing.assert_allclose(made.angles[:2] * 45, prepared.angles[rows], rtol=1e-5)
    np.testing.assert_allclose(made.angles[2:] * 45, prepared.angles[rows] * (-1, 1, -1), rtol=1e-5)
    # The outer corner of the right eye (33) is where that of the left one (263) was, seen from the other side.
    np.testing.assert_allclose(made.points[2:, 33, 0] * 128, 128 - prepared.points[rows, 263, 0], rtol=1e-4)
    np.testing.assert_allclose(made.points[2:, 33, 1] * 128, prepared.points[rows, 263, 1], rtol=1e-4)


def test_images_and_labels_are_of_one_sample(prepared: Prepared, tmp_path: Path) -> None:
    still = {**ABOUT, "light": 0, "blur": 0, "noise": 0, "erase": 0}
    stage = stage_of(prepared, tmp_path, batch_size=16, expression=still)
    batch, keep = stage.batch(0, 0, 1, CPU), ~shards.held_out(prepared.persons)
    images = torch.from_numpy(prepared.images[keep]).permute(0, 3, 1, 2) / 127.5 - 1
    both = torch.cat([images, images.flip(3)])
    every = labels(prepared, np.flatnonzero(keep))
    seen = set()
    for row in range(16):
        place = int((both - batch["images"][row]).abs().mean((1, 2, 3)).argmin())
        torch.testing.assert_close(batch["images"][row], both[place], rtol=0, atol=1e-5)
        for name, part in every._asdict().items():
            assert torch.equal(batch[name][row], part[place])
        seen.add(place)
    assert seen == set(range(len(both)))  # both of the twins, in every epoch


def test_the_loss_written_out() -> None:
    torch.manual_seed(0)
    about = Expression(**ABOUT, **{"blendshapes": 2.0, "angles": 0.5, "points": 10.0})
    objective = ExpressionObjective(ExpressionNet(about.widths, about.blocks, about.hidden), about)
    images, shapes, angles, points = (
        torch.rand(3, 3, 128, 128), torch.rand(3, 52), torch.rand(3, 3), torch.rand(3, 478, 2),
    )  # fmt: skip
    with torch.no_grad():
        loss, said = objective(images, shapes, angles, points), objective.network(images)

    def huber(one: torch.Tensor, other: torch.Tensor, beta: float) -> float:
        wrong = (one - other).abs().double().numpy()
        return float(np.where(wrong < beta, wrong**2 / (2 * beta), wrong - beta / 2).mean())

    wanted = 2 * huber(said[0], shapes, 0.1) + 0.5 * huber(said[1], angles, 0.1) + 10 * huber(said[2], points, 0.005)
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_images_are_varied_as_asked() -> None:
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) - 0.5
    fields, middle = noise_fields(128), torch.full((2, CHANCES), 0.5)
    assert 0.9 < fields[0].std() < 1.1
    assert 0.8 < fields[-1].std() < 1.2
    about = Expression(**{**ABOUT, "erase": 0})
    torch.testing.assert_close(varied(images, middle, fields, about), images, rtol=0, atol=1e-6)

    def changed(place: int, value: float, about: Expression = about) -> torch.Tensor:
        chance = middle.clone()
        chance[0, place] = value
        made = varied(images, chance, fields, about)
        torch.testing.assert_close(made[1], images[1], rtol=0, atol=1e-6)  # the other one has draws of its own
        return made[0]

    torch.testing.assert_close(changed(4, 1.0), images[0] * 1.3, rtol=0, atol=1e-5)
    torch.testing.assert_close(changed(5, 1.0), images[0] + 0.3, rtol=0, atol=1e-5)
    torch.testing.assert_close(changed(1, 0.0)[1], images[0, 1] * 0.85, rtol=0, atol=1e-5)
    assert changed(6, 1.0).std() < 0.5 * images[0].std()
    assert (changed(8, 1.0) - images[0]).std() == pytest.approx(0.15, rel=0.1)
    covered = (changed(9, 0.0, Expression(**{**ABOUT, "erase": 1e-9})) - images[0]).abs().amax(0) > 1e-4
    assert 0.03 < covered.float().mean() < 0.05  # 0.2 x 0.2 of the image
    assert varied(images, torch.rand(2, CHANCES), fields, Expression(**ABOUT)).abs().max() <= 1.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"expression": None}, "expression: Input should be a valid dictionary"),
        ({"stage": "autoencoder"}, "'expression' is a setting of the expression stage, not of autoencoder"),
        ({"expression": {"widths": [32], "blocks": [1, 1]}}, "a number a stage"),
        ({"expression": {"widths": [40], "blocks": [1]}}, "multiples of 32"),
        ({"start": "s"}, "'start' is a setting of the base, landmark"),
    ],
)
def test_a_wrong_config_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, **settings)
