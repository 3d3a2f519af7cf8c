"""A new control is one entry in the registry: with it alone it trains, samples and has a row in the leakage matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facecrafter.controls import CONTROLS, Control, together
from facecrafter.data import shards
from facecrafter.data.shards import Prepared, held_out
from facecrafter.errors import CheckpointError, ConfigError
from facecrafter.evaluation import leakage
from facecrafter.evaluation.measurements import Measurements
from facecrafter.models import scales
from facecrafter.models.checkpoint import load_model
from facecrafter.models.controls import FaceControls
from facecrafter.models.scales import Scale
from facecrafter.pipelines.generator import FaceCrafterGenerator
from facecrafter.pipelines.settings import Settings
from facecrafter.request import Portrait, Request, images_of
from facecrafter.sampling.guidance import Guidance
from facecrafter.sampling.sampler import Sampler
from facecrafter.training import trainer
from facecrafter.training.stages import parse


class Tokens(nn.Module):
    """Three angles to one token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, width)

    def forward(self, angles: Tensor) -> Tensor:
        return torch.tanh(self.layer(angles))[:, None]


TURN = Control(
    name="turn",
    title="a turn is",
    read=lambda portrait: portrait.angles,
    module=lambda width, options: Tokens(options["copies"] * width),
    options={"copies": 1},
    scales={"mini": 3.0, "arc2face": 2.0},
    mirror=lambda angles: angles * torch.tensor([-1.0, 1.0, -1.0]),
    row="turn",
    moves=("pose",),
)


@pytest.fixture
def with_turn(
    model_folder: Path, small_scale: Scale, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The registry with a third control, and a model folder from before there was one."""
    monkeypatch.setitem(CONTROLS, "turn", TURN)
    monkeypatch.setitem(scales.SCALES, "mini", small_scale)
    monkeypatch.setattr(shards, "load", lambda folder, recogniser: prepared)
    generate = Sampler.generate
    monkeypatch.setattr(Sampler, "generate", lambda self, *a, **options: generate(self, *a, **{**options, "steps": 1}))
    yield model_folder


def train(stage: str, start: Path, run: Path, **settings: Any) -> Path:
    content: Mapping[str, Any] = {
        "stage": stage,
        "data": run / "data",
        "run": run,
        "start": start,
        "steps": 2,
        "batch_size": 8,
        "warmup": 0,
        "learning_rate": 0.01,
        "precision": "no",
        **settings,
    }
    return trainer.train(parse(Path("run.yaml"), content), progress=False)


def test_a_third_control_learns_alone_and_jointly_samples_and_has_a_row(
    with_turn: Path, prepared: Prepared, tmp_path: Path
) -> None:
    before = load_model(with_turn)
    assert before.controls is not None and before.controls.names == ["landmark", "emotion"]
    alone = train("turn", with_turn, tmp_path / "turn", mixture={"identity": 0.25, "turn": 0.75})
    learned = load_model(alone).controls
    assert learned is not None and learned.names == ["landmark", "emotion", "turn"]
    old, new = before.controls.state_dict(), learned.state_dict()
    assert all(torch.equal(new[name], value) for name, value in old.items())
    assert {name.partition(".")[0] for name in new.keys() - old.keys()} == {"turn", "turn_keys", "turn_values"}
    assert all(layer.weight.abs().max() > 0 for layer in learned.turn_values)

    folder = train("joint", alone, tmp_path / "joint")
    model = load_model(folder)
    joined = model.controls
    assert joined is not None
    moved = {name for name, value in joined.state_dict().items() if not torch.equal(value, new[name])}
    assert {name.partition("_")[0].partition(".")[0] for name in moved} == {"landmark", "emotion", "turn"}

    generator = FaceCrafterGenerator(model, settings=Settings(speed="exact"))
    assert generator.settings.described()["turn_scale"] == 3.0
    own = prepare(prepared)
    identity, other = Portrait.of(own, 0), Portrait.of(own, 2)
    requests = [Request(identity), Request(identity, {"turn": other}), Request(identity, {"turn": identity})]
    free, given, itself = images_of(generator, requests)
    assert not np.array_equal(free, given) and not np.array_equal(given, itself)
    louder = FaceCrafterGenerator(model, settings=Settings(speed="exact", scales={"turn": 6.0}))
    assert louder.key != generator.key
    assert not np.array_equal(images_of(louder, requests[1:2])[0], given)

    probes = leakage.choose_probes(own, [0, 2, 3], 4, 7)
    assert all(len(probe.requests) == len(probe.photos) == 6 for probe in probes)
    images = images_of(generator, [request for probe in probes for request in probe.requests])
    photos = np.stack([photo.image for probe in probes for photo in probe.photos])
    matrix = leakage.leakage(measured(images), measured(photos))
    assert matrix.changed == matrix.moved == ["identity", "pose", "emotion", "turn"]
    values = np.array(matrix.values)
    assert values.shape == (4, 4) and (values > 0).all()


def prepare(prepared: Prepared) -> Prepared:
    """The made-up samples as those of four held-out people, two each."""
    names = [name for name in map(str, range(400)) if held_out([name])[0]][:4]
    return dataclasses.replace(prepared, persons=[names[place] for place in (0, 0, 1, 2, 1, 3, 2, 3)])


def measured(images: NDArray[np.uint8]) -> Measurements:
    """Numbers that differ where images do, in the place of judges' readings."""
    flat = images.reshape(len(images), -1).astype(np.float64) / 255
    projected = flat @ np.random.default_rng(0).normal(size=(flat.shape[1], 24))
    identity = projected[:, :8] / np.linalg.norm(projected[:, :8], axis=1, keepdims=True)
    return Measurements(
        np.ones(len(images), bool), projected[:, 8:11], projected[:, 11:14], identity, projected[:, 14:]
    )


def test_every_part_that_goes_by_controls_knows_the_third(with_turn: Path) -> None:
    assert together(CONTROLS)[:5] == ["identity", "landmark", "emotion", "turn", "landmark+emotion"]
    assert together(CONTROLS)[5:] == ["landmark+turn", "emotion+turn", "landmark+emotion+turn"]
    weights = Guidance(2.5, {"turn": 3.0}).coefficients(["emotion", "turn"])
    assert weights == {"none": -1.5, "identity": -2.5, "emotion": 2.0, "turn": 3.0}


def test_a_model_without_the_third_control_says_so(with_turn: Path) -> None:
    model = load_model(with_turn)
    with pytest.raises(ConfigError, match="this model has no control 'turn'; it has landmark, emotion"):
        Sampler(model).generate(torch.zeros(1, 128), {"turn": torch.zeros(1, 3)})


def test_a_file_with_a_control_that_is_not_known_is_refused(
    with_turn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train("turn", with_turn, tmp_path / "turn", steps=1, mixture={"turn": 1.0})
    monkeypatch.delitem(CONTROLS, "turn")
    with pytest.raises(CheckpointError, match="has the control 'turn', which this version does not know"):
        load_model(folder)
    with pytest.raises(ValueError, match="unknown controls or options: turn"):
        FaceControls([8], controls=["turn"])
