"""A student starts as the base it stands beside, changes nothing but its own prediction, and fits one base alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.errors import CheckpointError
from facecrafter.models.attention import AttentionInputs
from facecrafter.models.checkpoint import STUDENT_FILE, FaceModel, load_model, save_model, save_part
from facecrafter.models.guidance_student import GuidanceStudent, LowRank, layers_of, student_of
from facecrafter.models.prediction import predict

SCALES = torch.tensor([[1.2, 2.5, 4.0], [2.0, 0.0, 1.0]])


def named(scales: Tensor) -> dict[str, Tensor]:
    return dict(zip(("identity", "landmark", "emotion"), scales.unbind(1), strict=True))


def call(model: FaceModel, student: GuidanceStudent | None = None, scales: Tensor = SCALES) -> Tensor:
    """The prediction of a base, or of a student beside it."""
    source = torch.Generator().manual_seed(1)
    noisy, context = torch.randn(2, 32, 8, 8, generator=source), torch.randn(2, 8, 128, generator=source)
    with torch.no_grad():
        if student is None:
            return predict(model.unet, noisy, torch.tensor(300), AttentionInputs(), context)
        inputs = student.inputs(model.unet, named(scales))
        conditions = AttentionInputs(updates=inputs.updates)
        return predict(model.unet, noisy, torch.tensor(300), conditions, context, time_update=inputs.time_update)


def lively(model: FaceModel, seed: int = 0) -> GuidanceStudent:
    """A student that has learned something."""
    student = student_of(model.unet, 4, "mini").requires_grad_(False)
    source = torch.Generator().manual_seed(seed)
    for parameter in student.parameters():
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=source))
    return student


@torch.no_grad()
def test_a_fresh_student_is_the_base(small_model: FaceModel) -> None:
    student = student_of(small_model.unet, 4, "mini")
    assert torch.equal(call(small_model, student), call(small_model))
    weights = student.inputs(small_model.unet, named(SCALES)).weights
    assert {name: weight.tolist() for name, weight in weights.items()} == {
        "landmark": [1.0, 1.0],
        "emotion": [1.0, 1.0],
    }


def test_a_student_changes_the_prediction_by_its_scales_and_leaves_the_base(small_model: FaceModel) -> None:
    base, student = call(small_model), lively(small_model)
    made = [call(small_model, student, scales) for scales in (SCALES, SCALES + 1)]
    for scales in (SCALES, SCALES + 1):
        weights = student.inputs(small_model.unet, named(scales)).weights
        assert all(weight.shape == (2,) and (weight != 1).all() for weight in weights.values())
    assert (made[0] - base).abs().max() > 1e-3
    assert ((made[0] - made[1]).abs().amax((1, 2, 3)) > 1e-4).all()
    assert torch.equal(call(small_model), base)


def test_a_row_reads_its_own_scales(small_model: FaceModel) -> None:
    student = lively(small_model)
    weights, flipped = (student.inputs(small_model.unet, named(scales)).weights for scales in (SCALES, SCALES.flip(0)))
    torch.testing.assert_close(weights["landmark"].flip(0), flipped["landmark"])
    both, other = (call(small_model, student, scales) for scales in (SCALES, SCALES.flip(0)))
    assert (both - other).abs().amax((1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize(("kernel", "stride"), [(0, 1), (1, 1), (3, 1), (3, 2)])
def test_an_update_is_a_change_of_the_layers_weight(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    update = LowRank(5, 6, kernel, stride, 2).requires_grad_(False)
    assert update.up.weight.count_nonzero() == 0
    nn.init.normal_(update.up.weight)
    if kernel:
        layer: nn.Module = nn.Conv2d(5, 6, kernel, stride, kernel // 2).requires_grad_(False)
        change = torch.einsum("or,rikl->oikl", update.up.weight[:, :, 0, 0], update.down.weight)
        x = torch.randn(2, 5, 8, 8)
        expected = F.conv2d(x, layer.weight + change, layer.bias, stride, kernel // 2)
    else:
        layer, x = nn.Linear(5, 6).requires_grad_(False), torch.randn(2, 3, 5)
        expected = F.linear(x, layer.weight + update.up.weight @ update.down.weight, layer.bias)
    torch.testing.assert_close(layer(x) + update(x), expected, rtol=0, atol=1e-5)


def test_what_is_computed_once_a_image_is_not_updated(small_model: FaceModel) -> None:
    names = [name for name, *_ in layers_of(small_model.unet)]
    assert not [name for name in names if name.endswith((".to_k", ".to_v"))]
    assert sum(name.endswith("attn2.to_q") for name in names) == 4
    assert sum(name.endswith(("conv1", "conv2")) for name in names) == 16


def test_it_is_saved_and_loaded_with_its_model(small_model: FaceModel, tmp_path: Path) -> None:
    student = lively(small_model)
    model = copy.copy(small_model)
    model.distilled = student
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.distilled is not None
    assert torch.equal(call(loaded, loaded.distilled), call(model, student))
    # With other controls it would say what Eq. 6 said with the old ones.
    assert load_model(tmp_path, tmp_path / "controls.safetensors").distilled is None


def test_a_student_of_another_base_is_refused(small_model: FaceModel, tiny_model: FaceModel, tmp_path: Path) -> None:
    save_model(small_model, tmp_path)
    save_part(student_of(tiny_model.unet, 2, "mini"), tmp_path / STUDENT_FILE, "distilled", "mini")
    with pytest.raises(CheckpointError, match=r"distilled\.safetensors was made for a base with other layers"):
        load_model(tmp_path)
    save_part(small_model.controls, tmp_path / STUDENT_FILE, "controls", "mini")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="is not a mini distilled"):
        load_model(tmp_path)
