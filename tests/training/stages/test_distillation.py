"""What the student is asked to say is Eq. 6, sample by sample, and nothing but the student learns from it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from facecrafter.models.attention import AttentionInputs
from facecrafter.models.checkpoint import FaceModel
from facecrafter.models.controls import branches
from facecrafter.models.guidance_student import student_of
from facecrafter.training.stages.distillation import DistillationObjective

SOURCE = torch.Generator().manual_seed(0)
LANDMARK, EMOTION = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
IMAGES = torch.rand(4, 3, 128, 128, generator=SOURCE)
MOODS = torch.rand(4, 10, generator=SOURCE)
BATCH: dict[str, Any] = {
    "latents": torch.randn(4, 32, 8, 8, generator=SOURCE),
    "noise": torch.randn(4, 32, 8, 8, generator=SOURCE),
    "timesteps": torch.tensor([10, 300, 600, 990]),
    "identity": torch.randn(4, 128, generator=SOURCE),
    "values": {"landmark": IMAGES[LANDMARK.bool()], "emotion": MOODS[EMOTION.bool()]},
    "weights": {"landmark": LANDMARK, "emotion": EMOTION},
    "scales": torch.tensor([[1.2, 2.5, 4.0], [2.0, 1.0, 3.0], [0.5, 2.0, 2.0], [3.0, 1.0, 1.0]]),
}


@pytest.fixture
def objective(small_model: FaceModel) -> DistillationObjective:
    model = copy.deepcopy(small_model)
    return DistillationObjective(model, student_of(model.unet, 4, "mini"))


@torch.no_grad()
def predict(objective: DistillationObjective, row: int, *given: str) -> Tensor:
    """One prediction for one sample, everything computed again."""
    one = slice(row, row + 1)
    alpha_bar = objective.alpha_bars[BATCH["timesteps"][row]]
    noisy = alpha_bar.sqrt() * BATCH["latents"][one] + (1 - alpha_bar).sqrt() * BATCH["noise"][one]
    encoder = objective.encoder
    tokens = encoder(BATCH["identity"][one]) if "identity" in given else encoder.unconditional(1)
    values = {"landmark": IMAGES[one], "emotion": MOODS[one]}
    made = branches(objective.controls, values, {name: torch.tensor([float(name in given)]) for name in values})
    out: Tensor = objective.unet(
        noisy, BATCH["timesteps"][one], tokens, cross_attention_kwargs={"conditions": AttentionInputs(made)}
    ).sample
    return out


def equation_6(objective: DistillationObjective, row: int) -> Tensor:
    w_id, w_lmk, w_emo = BATCH["scales"][row].tolist()
    none, identity = predict(objective, row), predict(objective, row, "identity")
    total = none + w_id * (identity - none)
    if LANDMARK[row]:
        total = total + w_lmk * (predict(objective, row, "identity", "landmark") - identity)
    if EMOTION[row]:
        total = total + w_emo * (predict(objective, row, "identity", "emotion") - identity)
    return total


def test_a_fresh_student_is_as_wrong_as_one_prediction_with_all_conditions(objective: DistillationObjective) -> None:
    differences = []
    for row in range(4):
        given = [name for name, on in (("landmark", LANDMARK[row]), ("emotion", EMOTION[row])) if on]
        said = predict(objective, row, "identity", *given)
        differences.append((said - equation_6(objective, row)).square().mean())
    expected = torch.stack(differences).mean()
    assert expected > 1e-4
    torch.testing.assert_close(objective(**BATCH).detach(), expected, rtol=1e-3, atol=0)


def test_scales_of_what_is_not_given_do_not_matter(objective: DistillationObjective) -> None:
    other = BATCH["scales"].clone()
    other[LANDMARK == 0, 1] = 9.0
    other[EMOTION == 0, 2] = -3.0
    assert torch.equal(objective(**BATCH), objective(**{**BATCH, "scales": other}))
    assert not torch.equal(objective(**BATCH), objective(**{**BATCH, "scales": BATCH["scales"] + 1}))


def test_only_the_student_learns_and_what_it_learns_is_equation_6(objective: DistillationObjective) -> None:
    objective.requires_grad_(False)
    objective.student.requires_grad_(True)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    optimiser = torch.optim.Adam(objective.student.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = objective(**BATCH)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]
    changed = {name for name, value in objective.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"student.{name}" for name, _ in objective.student.named_parameters()}


def test_nobody_with_controls_is_plain_guidance(objective: DistillationObjective) -> None:
    names = ("landmark", "emotion")
    nothing = {
        "values": dict.fromkeys(names, torch.zeros(0)),
        "weights": dict.fromkeys(names, torch.zeros(4)),
    }
    loss = objective(**{**BATCH, **nothing})
    expected = torch.stack(
        [
            ((BATCH["scales"][row, 0] - 1) * (predict(objective, row, "identity") - predict(objective, row)))
            .square()
            .mean()
            for row in range(4)
        ]
    ).mean()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-3, atol=1e-9)
