"""The expression network: what it says of an image alone and among others, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from facecrafter.errors import FaceCrafterError, WeightsError
from facecrafter.estimators.expression import ExpressionNet, Reading, load, save


@pytest.fixture(scope="module")
def network() -> ExpressionNet:
    """A small random network, its norms and shortcuts all acting."""
    torch.manual_seed(3)
    network = ExpressionNet((32, 32), (1, 1), 16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(5, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_shapes_and_size(images: Tensor) -> None:
    network = ExpressionNet()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        said = network(images[:1])
    assert [tuple(part.shape) for part in said] == [(1, 52), (1, 3), (1, 478, 2)]
    assert counter.get_total_flops() < 0.6e9
    assert sum(parameter.numel() for parameter in network.parameters()) < 3.1e6


def test_one_alone_is_the_same_one_among_others(network: ExpressionNet, images: Tensor) -> None:
    together = network(images)
    for row in range(len(images)):
        for alone, among in zip(network(images[row : row + 1]), together, strict=True):
            torch.testing.assert_close(alone[0], among[row], rtol=0, atol=1e-5)


def test_half_precision_says_nearly_the_same(network: ExpressionNet, images: Tensor) -> None:
    exact = network(images)
    with torch.autocast("cpu", torch.bfloat16):
        said = network(images)
    for one, other in zip(said, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() < 0.05 * other.abs().max()


def test_other_sides_show_the_same(network: ExpressionNet) -> None:
    smooth = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    small, large = (torch.nn.functional.interpolate(smooth, (side, side), mode="bicubic") for side in (128, 256))
    for one, other in zip(network(small), network(large), strict=True):
        assert (one - other).abs().max() < 0.05 * one.abs().max()
    assert network(large[:, :, :96, :96]).angles.shape == (2, 3)


def test_the_gradient_reaches_the_pixels(network: ExpressionNet, images: Tensor) -> None:
    asked = images[:1].clone().requires_grad_()
    network(asked).blendshapes.square().sum().backward()
    assert asked.grad is not None
    assert (asked.grad.abs().sum((0, 1)) > 0).float().mean() > 0.9


def test_it_begins_with_what_is_usual(images: Tensor) -> None:
    torch.manual_seed(0)
    network = ExpressionNet((32, 32), (1, 1), 16)
    usual = Reading(torch.full((1, 52), 0.3), torch.tensor([[0.1, -0.2, 0.0]]), torch.full((1, 478, 2), 0.5))
    network.begin_with(usual)
    with torch.no_grad():
        for said, wanted in zip(network(images), usual, strict=True):
            assert (said - wanted).abs().max() < 0.1


def test_save_and_load_are_exact(network: ExpressionNet, images: Tensor, tmp_path: Path) -> None:
    save(network, tmp_path / "model" / "net.safetensors")
    again = load(tmp_path / "model" / "net.safetensors")
    assert again.config == {"widths": [32, 32], "blocks": [1, 1], "hidden": 16}
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_a_wrong_weights_file_is_refused(network: ExpressionNet, tmp_path: Path) -> None:
    save(network, tmp_path / "net.safetensors")
    whole = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    save_file(
        {"weight": torch.zeros(3)},
        tmp_path / "odd.safetensors",
        {"format": "facecrafter-expression-1", "config": '{"widths": [32], "blocks": [1, 2]}'},
    )
    broken = load(tmp_path / "net.safetensors")
    broken.head.bias.data[2] = torch.nan
    save(broken, tmp_path / "nan.safetensors")
    for name, said in {
        "cut.safetensors": "damaged",
        "text.safetensors": "damaged",
        "other.safetensors": "no expression network of this project",
        "odd.safetensors": "damaged or another file",
        "nan.safetensors": "not finite numbers",
        "none.safetensors": "there is no expression network",
    }.items():
        with pytest.raises(WeightsError, match=said) as error:
            load(tmp_path / name)
        assert name in str(error.value)
        assert issubclass(error.type, FaceCrafterError)
