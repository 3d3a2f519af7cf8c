"""EMOCA: names and shapes as published, its parameters' places, its crop, and its checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from facecrafter.errors import WeightsError
from facecrafter.estimators.emoca import Emoca, crop, load
from facecrafter.estimators.emonet import BROWS, OUTLINE
from facecrafter.estimators.resnet import ResNet50

Shapes = dict[str, tuple[int, ...]]


def norm(name: str, width: int) -> Shapes:
    lines = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{line}": (width,) for line in lines}, f"{name}.num_batches_tracked": ()}


def resnet(name: str) -> Shapes:
    shapes: Shapes = {f"{name}.conv1.weight": (64, 3, 7, 7), **norm(f"{name}.bn1", 64)}
    inputs = 64
    for stage, (width, depth) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], start=1):
        for index in range(depth):
            block = f"{name}.layer{stage}.{index}"
            layers = [(inputs, width, 1), (width, width, 3), (width, 4 * width, 1)]
            for number, (before, after, kernel) in enumerate(layers, start=1):
                shapes[f"{block}.conv{number}.weight"] = (after, before, kernel, kernel)
                shapes |= norm(f"{block}.bn{number}", after)
            if index == 0:
                shapes[f"{block}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                shapes |= norm(f"{block}.downsample.1", 4 * width)
            inputs = 4 * width
    return shapes


def encoder(name: str, outputs: int) -> Shapes:
    shapes = resnet(f"{name}.encoder")
    shapes |= {f"{name}.layers.0.weight": (1024, 2048), f"{name}.layers.0.bias": (1024,)}
    return shapes | {f"{name}.layers.2.weight": (outputs, 1024), f"{name}.layers.2.bias": (outputs,)}


@pytest.mark.parametrize("jaw", [False, True])
def test_names_and_shapes_are_the_published_ones(jaw: bool) -> None:
    with torch.device("meta"):
        network = Emoca(jaw)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == encoder("E_flame", 236) | encoder("E_expression", 53 if jaw else 50)


def test_the_trunk_is_resnet_50() -> None:
    """Which has 25,557,032 numbers to learn with its layer of 1,000 classes."""
    with torch.device("meta"):
        trunk = ResNet50()
    assert sum(value.numel() for value in trunk.parameters()) == 25_557_032 - 1000 * 2049


def reference(state: dict[str, Tensor], name: str, pixels: Tensor) -> Tensor:
    """An encoder's published forward pass, function by function from the names of its weights."""

    def conv(conv: str, bn: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.encoder.{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
        lines = [f"{name}.encoder.{bn}.{line}" for line in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *(state[line] for line in lines))

    x = F.max_pool2d(F.relu(conv("conv1", "bn1", pixels, 2)), 3, 2, 1)
    for stage, depth in enumerate((3, 4, 6, 3), start=1):
        for index in range(depth):
            block, stride = f"layer{stage}.{index}", 2 if index == 0 and stage > 1 else 1
            inner = F.relu(conv(f"{block}.conv1", f"{block}.bn1", x))
            inner = F.relu(conv(f"{block}.conv2", f"{block}.bn2", inner, stride))
            past = conv(f"{block}.downsample.0", f"{block}.downsample.1", x, stride) if index == 0 else x
            x = F.relu(conv(f"{block}.conv3", f"{block}.bn3", inner) + past)
    x = F.avg_pool2d(x, 7).flatten(1)
    x = F.relu(F.linear(x, state[f"{name}.layers.0.weight"], state[f"{name}.layers.0.bias"]))
    return F.linear(x, state[f"{name}.layers.2.weight"], state[f"{name}.layers.2.bias"])


@pytest.mark.parametrize("jaw", [False, True])
def test_parameters_are_where_deca_has_them(jaw: bool, enliven) -> None:
    network = enliven(Emoca(jaw))
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224)).astype(np.float32))
    with torch.inference_mode():
        found = network(crops)
        code, second = (reference(network.state_dict(), name, crops / 255) for name in ("E_flame", "E_expression"))
        alone = network(crops[1:])
        assert torch.equal(network.expression(crops), found.expression)
        assert torch.equal(network.code(crops)["pose"][:, :3], found.pose[:, :3])
        assert torch.equal(network(crops).pose, found.pose)
        assert {name: value.shape[1] for name, value in network.code(crops).items()} == {
            "shape": 100, "texture": 50, "expression": 50, "pose": 6, "camera": 3, "light": 27,
        }  # fmt: skip
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(found.expression, second[:, :50], **close)
    torch.testing.assert_close(found.pose[:, :3], code[:, 200:203], **close)
    torch.testing.assert_close(found.pose[:, 3:], second[:, 50:] if jaw else code[:, 203:206], **close)
    torch.testing.assert_close(alone.expression, found.expression[1:], **close)
    torch.testing.assert_close(alone.pose, found.pose[1:], **close)
    assert (found.expression[0] - found.expression[1]).abs().max() > 1e-3


# --- checkpoints ------------------------------------------------------------------------------------------------------


def hollow(expressions: int = 50) -> dict[str, Tensor]:
    """A checkpoint's names and shapes, small on disk: each tensor is one number, repeated."""
    shapes = encoder("deca.E_flame", 236) | encoder("deca.E_expression", expressions)
    more = {"deca.E_detail.layers.2.bias": (128,), "emonet_loss.emonet.conv1.weight": (64, 3, 7, 7)}
    return {name: torch.full((), 0.5).expand(shape) for name, shape in (shapes | more).items()}


@pytest.mark.parametrize("expressions", [50, 53])
def test_a_checkpoint_says_by_its_last_layer_whose_jaw_it_gives(expressions: int, tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": hollow(expressions)}, tmp_path / "emoca.ckpt")
    network = load(tmp_path / "emoca.ckpt")
    assert network.E_expression.layers[2].bias.shape == (expressions,)
    assert network.E_flame.encoder.layer4[2].bn3.running_var[0] == 0.5


def without(part: str) -> dict[str, Tensor]:
    return {name: value for name, value in hollow().items() if part not in name}


WRONG = {
    "DECA": (without("E_expression"), "E_expression.encoder.conv1.weight the first of them"),
    "no encoders": ({"model.weight": torch.zeros(3)}, "E_flame.encoder.conv1.weight the first of them"),
    "other expressions": (hollow(100), "its expression has 100 numbers, not 50"),
    "another code": (
        hollow() | {"deca.E_flame.layers.2.bias": torch.zeros(334)},
        "E_flame.layers.2.bias has the shape (334,) in place of (236,)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_checkpoints_are_one_sentence(case: str, tmp_path: Path) -> None:
    state, words = WRONG[case]
    torch.save({"state_dict": state}, tmp_path / "emoca.ckpt")
    with pytest.raises(WeightsError) as raised:
        load(tmp_path / "emoca.ckpt")
    told = str(raised.value)
    assert words in told and "emoca.ckpt is no EMOCA file" in told and "\n" not in told
    assert told.endswith("with ResNet-50 encoders, such as EMOCA_v2_lr_mse_20")


# --- the crop ---------------------------------------------------------------------------------------------------------


def test_the_crop_is_emocas_square(face) -> None:
    """On an image whose colours are its coordinates, the crop's colours say where it was cut."""
    rows, columns = np.mgrid[:256, :256].astype(np.uint8)
    image = np.stack([columns, rows, np.zeros_like(rows)], 2)
    points = (face.points - 128) * 0.6 + 128
    made = crop(image, points).astype(float)
    box = points[[*OUTLINE, *BROWS], :2]
    low, high = box.min(0), box.max(0)
    size = int((high - low).sum() / 2 * 1.1 * 1.25)
    corner = (low + high) / 2 - size / 2 - 0.5  # of the first pixel's middle, counted from the image's first middle
    places = np.arange(224) * size / 223
    assert made.shape == (224, 224, 3)
    np.testing.assert_allclose(made[100, :, 0], corner[0] + places, atol=0.6)
    np.testing.assert_allclose(made[:, 100, 1], corner[1] + places, atol=0.6)


def test_beyond_the_image_its_edge_is_repeated(face) -> None:
    made = crop(face.image, face.points + np.array([0, 120, 0], np.float32))
    assert (made[-20:] == made[-1]).all() and made[-1].std() > 5
