"""The distill stage for a few steps: what it writes, what it leaves alone, and that its result makes images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from facecrafter.data import shards
from facecrafter.data.shards import Prepared
from facecrafter.errors import ConfigError
from facecrafter.models import checkpoint, scales
from facecrafter.models.checkpoint import FaceModel
from facecrafter.models.scales import Scale
from facecrafter.sampling.sampler import Sampler
from facecrafter.training import trainer
from facecrafter.training.config import RunConfig
from facecrafter.training.stages import parse

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def made_up(
    prepared: Prepared, small_scale: Scale, small_model: FaceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prepared folder is in memory, the mini scale is the small one, and there is a model to start from."""
    monkeypatch.setattr(shards, "load", lambda folder, recogniser: prepared)
    monkeypatch.setitem(scales.SCALES, "mini", small_scale)
    checkpoint.save_model(small_model, tmp_path / "start")


def config_of(folder: Path, **settings: Any) -> RunConfig:
    values: dict[str, Any] = {
        "stage": "distill",
        "data": folder / "data",
        "run": folder / "run",
        "start": folder / "start",
        "steps": 3,
        "batch_size": 4,
        "warmup": 0,
        "schedule": "constant",
        "precision": "no",
        "ema": 0.0,
        "log_every": 1,
        "validate_every": 3,
        "mixture": {"identity": 0.25, "landmark": 0.25, "emotion": 0.25, "both": 0.25},
        "distill": {"rank": 2},
    }
    return parse(Path("run.yaml"), {**values, **settings})


def test_a_student_learns_beside_a_model_that_stays(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    folder = trainer.train(config, progress=False)
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in (tmp_path / "start").iterdir()} | {checkpoint.STUDENT_FILE}
    for path in (tmp_path / "start").iterdir():
        before, after = load_file(path), load_file(folder / path.name)
        assert all(torch.equal(before[name], after[name]) for name in before)
    student = load_file(folder / checkpoint.STUDENT_FILE)
    assert all(value.abs().max() > 0 for name, value in student.items() if name.endswith(".up.weight"))
    records = [json.loads(line) for line in (config.run / "log.jsonl").read_text().splitlines()]
    assert sum("validation_loss" in record for record in records) == 1
    assert all(0 < record["loss"] < 1000 for record in records if "loss" in record)
    with Image.open(config.run / "samples" / "0000003.png") as image:
        assert image.size == (7 * 128, 4 * 128)

    sampler = Sampler(checkpoint.load_model(folder))
    source = torch.Generator().manual_seed(0)
    asked = torch.randn(1, 128, generator=source), {"landmark": torch.rand(1, 3, 128, 128, generator=source)}
    made, exact = (sampler.generate(*asked, steps=2, speed=speed) for speed in ("distilled", "exact"))
    assert made.isfinite().all() and not torch.equal(made, exact)

    # Trained further, the model is another one than the student knows.
    further = parse(
        Path("run.yaml"),
        {
            **config.model_dump(exclude={"distill", "mixture"}),
            "stage": "landmark",
            "mixture": {"landmark": 1.0},
            "start": folder,
            "run": tmp_path / "further",
            "steps": 1,
        },
    )
    assert not (trainer.train(further, progress=False) / checkpoint.STUDENT_FILE).exists()


def test_scales_are_drawn_around_the_models_own_and_alike_in_parts(tmp_path: Path) -> None:
    stage = config_of(tmp_path, distill={"rank": 2, "spread": 0.25}).build(CPU)
    drawn = torch.cat([stage.batch(step, 0, 1, CPU)["scales"] for step in range(16)])
    own = torch.tensor([scales.MINI.sampling[f"{name}_scale"] for name in ("identity", "landmark", "emotion")])
    share = drawn / own  # type: ignore[operator]
    assert share.min() >= 0.75 and share.max() <= 1.25
    assert share.amax(0).min() > 1.15 and share.amin(0).max() < 0.85
    parts = [stage.batch(5, index, 2, CPU)["scales"] for index in range(2)]
    assert torch.equal(torch.cat(parts), stage.batch(5, 0, 1, CPU)["scales"])


def test_a_base_without_controls_has_nothing_to_distil(tmp_path: Path) -> None:
    (tmp_path / "start" / checkpoint.CONTROLS_FILE).unlink()
    with pytest.raises(ConfigError, match="the distill stage builds on trained controls"):
        trainer.train(config_of(tmp_path), progress=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mixture": {"none": 0.5, "both": 0.5}}, "leave `none` out"),
        ({"gradient_checkpointing": True}, "of the base, landmark, emotion, joint and baseline stages, not of distill"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        config_of(tmp_path, **settings)
