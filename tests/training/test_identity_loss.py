"""The walk from noise to a judged picture, against the same walk written out."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.model.attention import AttentionInputs
from facecrafter.perception.identity import ARCFACE_SIZE
from facecrafter.training.identity_loss import (
    IdentityLossTerm,
    clean_and_noise,
    jittered,
    relit,
    walk_timesteps,
)

ALPHA_BARS = torch.linspace(0.999, 0.005, 1000)
WHOLE = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # the crop is the whole picture


class ToyDenoiser(nn.Module):
    """Depends on what it is given, on the time and on a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))
        self.calls = 0

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor, cross_attention_kwargs: object) -> object:
        self.calls += 1
        share = (timesteps / 1000).view(-1, 1, 1, 1)
        return SimpleNamespace(sample=self.weight * noisy * (1 + share) + tokens.mean((1, 2)).view(-1, 1, 1, 1))


class ToyDecoder(nn.Module):
    config = SimpleNamespace(scaling_factor=2.0)

    def decode(self, z: Tensor) -> object:
        return SimpleNamespace(sample=F.interpolate(z, scale_factor=14))


class ToyRecogniser(nn.Module):
    def forward(self, crops: Tensor) -> Tensor:
        return F.normalize(F.avg_pool2d(crops, 56).flatten(1), dim=1)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_gives_back_what_was_mixed(kind: str) -> None:
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    a = torch.tensor(0.37)
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    prediction = noise if kind == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * clean
    got_clean, got_noise = clean_and_noise(kind, prediction, noisy, a)
    torch.testing.assert_close(got_clean, clean, rtol=0, atol=1e-5)
    torch.testing.assert_close(got_noise, noise, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("jitter", "expected"),
    [
        ([0.5, 0.5, 0.5], [999, 750, 500, 250]),
        ([0.0, 0.0, 0.0], [999, 875, 625, 375]),
        ([0.999, 0.25, 0.75], [999, 625, 562, 187]),
        ([0.5], [999, 500]),
        ([0.0], [999, 750]),
    ],
)
def test_a_walk_goes_from_pure_noise_down(jitter: list[float], expected: list[int]) -> None:
    assert walk_timesteps(len(jitter) + 1, torch.tensor(jitter)).tolist() == expected


@pytest.mark.parametrize("steps", [2, 4, 25])
def test_a_walk_never_goes_up(steps: int) -> None:
    source = torch.Generator().manual_seed(0)
    for _ in range(50):
        timesteps = walk_timesteps(steps, torch.rand(steps - 1, generator=source)).tolist()
        assert timesteps[0] == 999
        assert all(a >= b >= 20 for a, b in pairwise(timesteps))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("walk", [[999], [999, 500], [999, 749, 499, 249]])
def test_the_loss_is_the_walk_written_out(kind: str, walk: list[int]) -> None:
    torch.manual_seed(0)
    unet = ToyDenoiser()
    term = IdentityLossTerm(unet, ToyDecoder(), ToyRecogniser(), ALPHA_BARS, kind)
    noise, tokens, identity = torch.randn(3, 3, 8, 8), torch.randn(3, 5, 6), torch.randn(3, 12)
    timesteps = torch.tensor(walk)
    got = term(noise, timesteps, tokens, AttentionInputs(), identity, WHOLE.expand(3, -1, -1), torch.zeros(3, 8))
    assert unet.calls == len(walk)

    def written_out(weight: float) -> list[float]:
        wrong = []
        for row in range(3):
            x = noise[row].double()
            for index, t in enumerate(walk):
                a = float(ALPHA_BARS[t])
                said = weight * x * (1 + t / 1000) + float(tokens[row].mean())
                if kind == "epsilon":
                    rest = said
                    clean = (x - (1 - a) ** 0.5 * rest) / a**0.5
                else:
                    clean = a**0.5 * x - (1 - a) ** 0.5 * said
                    rest = (1 - a) ** 0.5 * x + a**0.5 * said
                if index + 1 < len(walk):
                    b = float(ALPHA_BARS[walk[index + 1]])
                    x = b**0.5 * clean + (1 - b) ** 0.5 * rest
            picture = ((clean / 2).repeat_interleave(14, 1).repeat_interleave(14, 2) + 1) * 127.5
            means = [picture[:, i : i + 56, j : j + 56].mean((1, 2)) for i in (0, 56) for j in (0, 56)]
            made = torch.stack(means, dim=1).flatten()
            wrong.append(1 - float(made @ identity[row].double() / identity[row].norm() / made.norm()))
        return wrong

    torch.testing.assert_close(got, torch.tensor(written_out(0.3)), rtol=1e-4, atol=1e-4)
    got.sum().backward()
    assert unet.weight.grad is not None
    # The gradient is that of the whole walk, not of its last prediction alone.
    slope = (sum(written_out(0.3 + 1e-5)) - sum(written_out(0.3 - 1e-5))) / 2e-5
    assert float(unet.weight.grad) == pytest.approx(slope, rel=1e-2, abs=1e-3)


def test_no_jitter_changes_nothing() -> None:
    grids, crops = torch.randn(4, 2, 3), torch.rand(4, 3, ARCFACE_SIZE, ARCFACE_SIZE) * 255
    torch.testing.assert_close(jittered(grids, torch.zeros(4, 8)), grids, rtol=0, atol=0)
    torch.testing.assert_close(relit(crops, torch.zeros(4, 8)), crops, rtol=0, atol=1e-4)


def at(place: int, value: float) -> Tensor:
    jitter = torch.zeros(1, 8)
    jitter[0, place] = value
    return jitter


@pytest.mark.parametrize(
    ("place", "value", "where"),
    [
        # Where the crop's corner (1, 1) and its right middle (1, 0) are read, in the picture's own [-1, 1].
        (0, 1.0, [[0.8511, 1.1294], [0.9903, 0.1392]]),
        (1, 1.0, [[1.08, 1.08], [1.08, 0.0]]),
        (2, 1.0, [[1.1, 1.0], [1.1, 0.0]]),
        (3, -1.0, [[1.0, 0.9], [1.0, -0.1]]),
        (4, -1.0, [[-1.0, 1.0], [-1.0, 0.0]]),
    ],
)
def test_each_jitter_moves_the_crop_its_own_way(place: int, value: float, where: list[list[float]]) -> None:
    (grid,) = jittered(WHOLE[None], at(place, value))
    corners = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    torch.testing.assert_close(corners @ grid.T, torch.tensor(where), rtol=0, atol=1e-3)


def test_blur_contrast_and_brightness() -> None:
    crops = torch.rand(1, 3, ARCFACE_SIZE, ARCFACE_SIZE, generator=torch.Generator().manual_seed(0)) * 255
    assert relit(crops, at(5, 1.0)).std() < 0.4 * crops.std()
    torch.testing.assert_close(relit(crops, at(5, -1.0)), crops, rtol=0, atol=1e-4)
    torch.testing.assert_close(relit(crops, at(6, 1.0)), 1.2 * crops - 0.2 * 127.5, rtol=0, atol=1e-3)
    torch.testing.assert_close(relit(crops, at(7, -1.0)), crops - 20, rtol=0, atol=1e-3)
