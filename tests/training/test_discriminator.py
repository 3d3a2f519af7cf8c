"""The discriminator's scores and the adversarial loss, written out; each side's gradient stays on its own side."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from facecrafter.training.discriminator import Discriminator, balance, pleasing_loss, telling_loss

SHAPES = ((3, 4, 4), (5, 2, 2))


def maps(seed: int, grad: bool = False) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(3, *shape, generator=source).requires_grad_(grad) for shape in SHAPES]


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(6, channels=(3, 5), width=4)


IDENTITY = torch.nn.functional.normalize(torch.randn(3, 6, generator=torch.Generator().manual_seed(9)), dim=-1)


def test_a_score_is_the_mean_over_places_and_maps(discriminator: Discriminator) -> None:
    features = maps(1)
    scores = discriminator(features, IDENTITY)
    for row in range(3):
        total = 0.0
        for index, map_ in enumerate(features):
            seen = discriminator.heads[index](map_[row : row + 1] * math.sqrt(SHAPES[index][0]))[0]
            who = discriminator.person[index](IDENTITY[row])
            places = [
                float(discriminator.real[index].weight[0, :, 0, 0] @ seen[:, y, x] + discriminator.real[index].bias)
                + float(who @ seen[:, y, x]) / math.sqrt(4)
                for y in range(seen.shape[1]) for x in range(seen.shape[2])
            ]  # fmt: skip
            total += sum(places) / len(places) / 2
        assert float(scores[row]) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("own", [[True, True, True], [True, False, True], [False, False, False]])
def test_the_losses_are_both_sides_hinges(discriminator: Discriminator, own: list[bool]) -> None:
    made, photos = maps(1), maps(2)
    told, known = discriminator(made, IDENTITY).tolist(), discriminator(photos, IDENTITY).tolist()
    assert pleasing_loss(discriminator, made, IDENTITY).tolist() == pytest.approx([-score for score in told], abs=1e-5)
    real = [max(0, 1 - score) for score, shown in zip(known, own, strict=True) if shown]
    expected = sum(max(0, 1 + score) for score in told) / 3 + sum(real) / max(1, len(real))
    loss = telling_loss(discriminator, made, photos, IDENTITY, torch.tensor(own).float())
    assert float(loss) == pytest.approx(expected, abs=1e-5)


def test_each_sides_gradient_stays_on_its_side(discriminator: Discriminator) -> None:
    made, photos = maps(1, grad=True), maps(2, grad=True)
    pleasing_loss(discriminator, made, IDENTITY).mean().backward()
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    for map_, wanted in zip(made, torch.autograd.grad(-discriminator(made, IDENTITY).mean(), made), strict=True):
        torch.testing.assert_close(map_.grad, wanted)
        map_.grad = None
    telling_loss(discriminator, made, photos, IDENTITY, torch.ones(3)).backward()
    assert all(map_.grad is None for map_ in (*made, *photos))
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_the_balance_makes_both_pull_alike_at_each_image_and_nowhere_less_than_on_average() -> None:
    images = torch.randn(3, 3, 4, 4, requires_grad=True)
    share = torch.tensor([1.0, 0.1, 5.0]).view(3, 1, 1, 1)
    others, pleasing = (share * images).square().sum(), images.sum((1, 2, 3))
    factor = balance(others, pleasing.mean(), images)
    (one,) = torch.autograd.grad(others, images, retain_graph=True)
    (other,) = torch.autograd.grad((factor * pleasing).mean(), images)
    wanted = one.flatten(1).norm(dim=1)
    assert wanted[2] > wanted.mean() > wanted[0] > wanted[1]
    wanted[:2] = wanted.mean()
    torch.testing.assert_close(other.flatten(1).norm(dim=1), wanted, rtol=1e-4, atol=0)
    assert balance(others, pleasing.mean(), images.detach()).tolist() == [1, 1, 1]
