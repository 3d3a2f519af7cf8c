"""The FID's Inception: names and shapes as published, its pools, its resize, and its forward pass."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from facecrafter.errors import WeightsError
from facecrafter.estimators import inception
from facecrafter.estimators.inception import Inception, load, resize

Shapes = dict[str, tuple[int, ...]]
ROW, COLUMN = (1, 7), (7, 1)


def conv(name: str, inputs: int, outputs: int, height: int = 1, width: int = 0) -> Shapes:
    norm = {f"{name}.bn.{line}": (outputs,) for line in ("weight", "bias", "running_mean", "running_var")}
    weight = {f"{name}.conv.weight": (outputs, inputs, height, width or height)}
    return {**weight, **norm, f"{name}.bn.num_batches_tracked": ()}


def block_a(name: str, inputs: int, pooled: int) -> Shapes:
    shapes = conv(f"{name}.branch1x1", inputs, 64) | conv(f"{name}.branch_pool", inputs, pooled)
    shapes |= conv(f"{name}.branch5x5_1", inputs, 48) | conv(f"{name}.branch5x5_2", 48, 64, 5)
    shapes |= conv(f"{name}.branch3x3dbl_1", inputs, 64) | conv(f"{name}.branch3x3dbl_2", 64, 96, 3)
    return shapes | conv(f"{name}.branch3x3dbl_3", 96, 96, 3)


def block_c(name: str, width: int) -> Shapes:
    shapes = conv(f"{name}.branch1x1", 768, 192) | conv(f"{name}.branch_pool", 768, 192)
    shapes |= conv(f"{name}.branch7x7_1", 768, width) | conv(f"{name}.branch7x7_2", width, width, *ROW)
    shapes |= conv(f"{name}.branch7x7_3", width, 192, *COLUMN) | conv(f"{name}.branch7x7dbl_1", 768, width)
    shapes |= conv(f"{name}.branch7x7dbl_2", width, width, *COLUMN) | conv(f"{name}.branch7x7dbl_3", width, width, *ROW)
    shapes |= conv(f"{name}.branch7x7dbl_4", width, width, *COLUMN)
    return shapes | conv(f"{name}.branch7x7dbl_5", width, 192, *ROW)


def block_e(name: str, inputs: int) -> Shapes:
    shapes = conv(f"{name}.branch1x1", inputs, 320) | conv(f"{name}.branch_pool", inputs, 192)
    shapes |= conv(f"{name}.branch3x3_1", inputs, 384) | conv(f"{name}.branch3x3dbl_1", inputs, 448)
    shapes |= conv(f"{name}.branch3x3dbl_2", 448, 384, 3)
    for end in ("branch3x3_2", "branch3x3dbl_3"):
        shapes |= conv(f"{name}.{end}a", 384, 384, 1, 3) | conv(f"{name}.{end}b", 384, 384, 3, 1)
    return shapes


def published() -> Shapes:
    shapes = conv("Conv2d_1a_3x3", 3, 32, 3) | conv("Conv2d_2a_3x3", 32, 32, 3) | conv("Conv2d_2b_3x3", 32, 64, 3)
    shapes |= conv("Conv2d_3b_1x1", 64, 80) | conv("Conv2d_4a_3x3", 80, 192, 3)
    shapes |= block_a("Mixed_5b", 192, 32) | block_a("Mixed_5c", 256, 64) | block_a("Mixed_5d", 288, 64)
    shapes |= conv("Mixed_6a.branch3x3", 288, 384, 3) | conv("Mixed_6a.branch3x3dbl_1", 288, 64)
    shapes |= conv("Mixed_6a.branch3x3dbl_2", 64, 96, 3) | conv("Mixed_6a.branch3x3dbl_3", 96, 96, 3)
    for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
        shapes |= block_c(f"Mixed_6{letter}", width)
    shapes |= conv("Mixed_7a.branch3x3_1", 768, 192) | conv("Mixed_7a.branch3x3_2", 192, 320, 3)
    shapes |= conv("Mixed_7a.branch7x7x3_1", 768, 192) | conv("Mixed_7a.branch7x7x3_2", 192, 192, *ROW)
    shapes |= conv("Mixed_7a.branch7x7x3_3", 192, 192, *COLUMN) | conv("Mixed_7a.branch7x7x3_4", 192, 192, 3)
    shapes |= block_e("Mixed_7b", 1280) | block_e("Mixed_7c", 2048)
    return shapes | {"fc.weight": (1008, 2048), "fc.bias": (1008,)}


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = Inception()
    state = network.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == published()
    # Inception-v3 without its second head has 23,834,568 numbers to learn; the FID's has eight classes more.
    assert sum(value.numel() for value in network.parameters()) == 23_834_568 + 8 * 2049
    # The published file is 95,628,359 bytes long: the numbers in float32, and some 100 kB of names.
    numbers = sum(value.numel() for value in state.values() if value.is_floating_point())
    assert 0 < 95_628_359 - 4 * numbers < 120_000


# --- the resize -------------------------------------------------------------------------------------------------------


def resized_by_loops(image: np.ndarray, size: int) -> np.ndarray:
    """``(H, W)``: the pixel at (i H / size, j W / size), between its four neighbours."""
    height, width = image.shape
    made = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y, x = i * height / size, j * width / size
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            made[i, j] = upper + (lower - upper) * (y - top)
    return made


@pytest.mark.parametrize(("height", "width", "size"), [(5, 7, 13), (16, 11, 6), (9, 9, 9), (1, 3, 4), (30, 20, 1)])
def test_the_resize_is_tensorflows(height: int, width: int, size: int) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (2, 3, height, width))
    made = resize(torch.from_numpy(image), size).numpy()
    for sample in range(2):
        for channel in range(3):
            np.testing.assert_allclose(made[sample, channel], resized_by_loops(image[sample, channel], size), atol=1e-9)


def test_the_resize_of_a_known_row() -> None:
    """TensorFlow 1 makes 0, 4 into 0, 2, 4, 4: with half pixels it would be 0, 1, 3, 4."""
    row = torch.tensor([0.0, 4.0]).expand(1, 1, 2, 2)
    assert resize(row, 4)[0, 0].tolist() == [[0, 2, 4, 4]] * 4


def resized_between_centres(image: np.ndarray, size: int) -> np.ndarray:
    """``(H, W)``: the pixel at ((i + 1/2) H / size - 1/2, ...), between its four neighbours, the border repeated."""
    height, width = image.shape
    made = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y = min(max((i + 0.5) * height / size - 0.5, 0), height - 1)
            x = min(max((j + 0.5) * width / size - 0.5, 0), width - 1)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            made[i, j] = upper + (lower - upper) * (y - top)
    return made


@pytest.mark.parametrize(("height", "width"), [(40, 50), (299, 299), (512, 400)])
def test_the_input_of_pytorch_fid_is_between_centres_and_scaled_to_one(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.float64)
    made = inception.pytorch_fid_input(torch.from_numpy(image).expand(1, 3, height, width))
    assert made.shape == (1, 3, 299, 299)
    np.testing.assert_allclose(made[0, 1].numpy(), 2 * resized_between_centres(image, 299) / 255 - 1, atol=1e-9)
    white = inception.pytorch_fid_input(torch.full((1, 3, 8, 8), 255.0))
    torch.testing.assert_close(white, torch.ones_like(white))


# --- the forward pass -------------------------------------------------------------------------------------------------


def reference(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The published forward pass, function by function from the names of the weights."""

    def conv(name: str, x: Tensor, stride: int = 1, padding: bool = True) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        same = (weight.shape[2] // 2, weight.shape[3] // 2) if padding and stride == 1 else 0
        x = F.conv2d(x, weight, stride=stride, padding=same)
        lines = (
            state[f"{name}.bn.{line}"].view(1, -1, 1, 1) for line in ("running_mean", "running_var", "weight", "bias")
        )
        mean, var, scale, shift = lines
        return F.relu((x - mean) / torch.sqrt(var + 1e-3) * scale + shift)

    def mean_of_nine(x: Tensor) -> Tensor:
        """Over the neighbours that there are."""
        ones = torch.ones_like(x[:1, :1])
        return F.avg_pool2d(F.pad(x, [1] * 4), 3, 1) / F.avg_pool2d(F.pad(ones, [1] * 4), 3, 1)

    def shrunk(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2)

    x = conv("Conv2d_2a_3x3", conv("Conv2d_1a_3x3", pixels, 2), padding=False)
    x = conv("Conv2d_3b_1x1", shrunk(conv("Conv2d_2b_3x3", x)))
    x = shrunk(conv("Conv2d_4a_3x3", x, padding=False))
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = conv(f"{name}.branch5x5_2", conv(f"{name}.branch5x5_1", x))
        double = conv(f"{name}.branch3x3dbl_2", conv(f"{name}.branch3x3dbl_1", x))
        parts = [conv(f"{name}.branch1x1", x), five, conv(f"{name}.branch3x3dbl_3", double)]
        x = torch.cat([*parts, conv(f"{name}.branch_pool", mean_of_nine(x))], 1)
    double = conv("Mixed_6a.branch3x3dbl_2", conv("Mixed_6a.branch3x3dbl_1", x))
    x = torch.cat([conv("Mixed_6a.branch3x3", x, 2), conv("Mixed_6a.branch3x3dbl_3", double, 2), shrunk(x)], 1)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        single, double = x, x
        for index in (1, 2, 3):
            single = conv(f"{name}.branch7x7_{index}", single)
        for index in (1, 2, 3, 4, 5):
            double = conv(f"{name}.branch7x7dbl_{index}", double)
        pooled = conv(f"{name}.branch_pool", mean_of_nine(x))
        x = torch.cat([conv(f"{name}.branch1x1", x), single, double, pooled], 1)
    seven = conv("Mixed_7a.branch7x7x3_2", conv("Mixed_7a.branch7x7x3_1", x))
    seven = conv("Mixed_7a.branch7x7x3_4", conv("Mixed_7a.branch7x7x3_3", seven), 2)
    x = torch.cat([conv("Mixed_7a.branch3x3_2", conv("Mixed_7a.branch3x3_1", x), 2), seven, shrunk(x)], 1)
    for name in ("Mixed_7b", "Mixed_7c"):
        single = conv(f"{name}.branch3x3_1", x)
        double = conv(f"{name}.branch3x3dbl_2", conv(f"{name}.branch3x3dbl_1", x))
        parts = [conv(f"{name}.branch1x1", x)]
        parts += [conv(f"{name}.branch3x3_2{end}", single) for end in "ab"]
        parts += [conv(f"{name}.branch3x3dbl_3{end}", double) for end in "ab"]
        pooled = mean_of_nine(x) if name == "Mixed_7b" else F.max_pool2d(x, 3, 1, 1)
        x = torch.cat([*parts, conv(f"{name}.branch_pool", pooled)], 1)
    return x.flatten(2).mean(2)


@pytest.fixture(scope="module")
def network(enliven) -> Inception:
    return enliven(Inception())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 40, 50)).astype(np.float32))


def test_the_forward_pass_is_the_published_one(network: Inception, images: Tensor) -> None:
    with torch.inference_mode():
        features = network(images)
        expected = reference(network.state_dict(), (resize(images[:1], 299) - 128) / 128)
        assert torch.equal(network(images), features)
        alone = network(images[1:2])
    assert features.shape == (3, 2048) and features.std() > 0.01
    torch.testing.assert_close(features[:1], expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features[1:2], alone, rtol=1e-3, atol=1e-4)


def test_both_programs_share_the_network_and_differ_in_its_input(network: Inception, images: Tensor) -> None:
    other = Inception(inception.pytorch_fid_input).eval()
    other.load_state_dict(network.state_dict())
    small = F.interpolate(images[:1] / 255, size=(299, 299), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        features = other(images[:1])
        torch.testing.assert_close(features, reference(network.state_dict(), 2 * small - 1), rtol=1e-3, atol=1e-4)
        assert (features - network(images[:1])).abs().max() > 1e-3


def hollow() -> dict[str, Tensor]:
    """A state of the right names and shapes that is small on disk: each tensor is one number, repeated."""
    return {name: torch.full((), 0.5).expand(shape) for name, shape in published().items()}


def test_a_file_is_checked_by_shapes_and_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "inception.pth"
    torch.save(hollow() | {"fc.weight": torch.zeros(1000, 2048)}, path)
    words = r"fc.weight has the shape \(1000, 2048\) in place of \(1008, 2048\); give the published pt_inception-2015"
    with pytest.raises(WeightsError, match=words):
        load(path)
    torch.save(hollow(), path)
    with pytest.raises(WeightsError, match=r"is not the FID Inception file: .* by its sha256"):
        load(path)
    monkeypatch.setattr(inception, "PUBLISHED", dataclasses.replace(inception.PUBLISHED, sha256=None))
    assert load(path).Mixed_7c.branch_pool.bn.running_var[0] == 0.5
