"""Each loss against its equation as loops in float64."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from facecrafter.training import losses

SHAPES = [(1, 1, 1, 1), (2, 3, 2, 4), (4, 2, 3, 3)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_equation_4_is_the_weighted_mean_squared_error(shape: tuple[int, int, int, int]) -> None:
    prediction, target, weight = random(*shape, seed=1), random(*shape, seed=2), random(shape[0], seed=3).abs()
    batch, *rest = shape
    total = 0.0
    for b in range(batch):
        places = list(product(*map(range, rest)))
        total += (
            float(weight[b]) * sum((float(prediction[b][i]) - float(target[b][i])) ** 2 for i in places) / len(places)
        )
    got = losses.diffusion_loss(prediction, target, weight)
    assert float(got) == pytest.approx(total / batch, rel=1e-5)  # the loss is taken in float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_loss_is_single_precision_whatever_the_network_says(dtype: torch.dtype) -> None:
    prediction = torch.full((2, 1, 1, 1), 300.0, dtype=dtype)  # its square overflows a half
    loss = losses.diffusion_loss(prediction, torch.zeros(2, 1, 1, 1), torch.ones(2))
    assert loss.dtype == torch.float32
    assert float(loss) == 90000


def test_the_gradient_of_equation_4_is_that_of_its_square() -> None:
    prediction, target = random(2, 1, 2, 2, seed=1).float(), random(2, 1, 2, 2, seed=2).float()
    weight = torch.tensor([0.5, 2.0])
    prediction.requires_grad_(True)
    (gradient,) = torch.autograd.grad(losses.diffusion_loss(prediction, target, weight), prediction)
    expected = 2 * weight.view(-1, 1, 1, 1) * (prediction - target) / 4 / 2
    torch.testing.assert_close(gradient, expected.detach())


@pytest.mark.parametrize("alpha_bar", [0.9991, 0.5, 0.0047])
def test_targets_recover_the_clean_image(alpha_bar: float) -> None:
    clean, noise = random(2, 3, 2, 2, seed=1), random(2, 3, 2, 2, seed=2)
    a = torch.full((2,), alpha_bar, dtype=torch.float64)
    noisy = math.sqrt(alpha_bar) * clean + math.sqrt(1 - alpha_bar) * noise
    epsilon = losses.diffusion_target("epsilon", clean, noise, a)
    assert torch.equal(epsilon, noise)
    torch.testing.assert_close((noisy - math.sqrt(1 - alpha_bar) * epsilon) / math.sqrt(alpha_bar), clean)
    velocity = losses.diffusion_target("v_prediction", clean, noise, a)
    torch.testing.assert_close(math.sqrt(alpha_bar) * noisy - math.sqrt(1 - alpha_bar) * velocity, clean)
    torch.testing.assert_close(math.sqrt(1 - alpha_bar) * noisy + math.sqrt(alpha_bar) * velocity, noise)


def test_each_sample_has_its_own_noise_level() -> None:
    clean, noise = random(2, 1, 1, 1, seed=1), random(2, 1, 1, 1, seed=2)
    a = torch.tensor([0.9, 0.1], dtype=torch.float64)
    together = losses.diffusion_target("v_prediction", clean, noise, a)
    for row in range(2):
        alone = losses.diffusion_target("v_prediction", clean[row : row + 1], noise[row : row + 1], a[row : row + 1])
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [0.1, 1.0, 5.0, 1e9])
def test_min_snr_weights_the_clean_images_error_by_at_most_gamma(kind: str, gamma: float) -> None:
    """A prediction off by d in the clean image costs min(SNR, gamma) d^2, whichever target the network has."""
    clean, off = random(4, 1, 2, 2, seed=1), random(4, 1, 2, 2, seed=2)
    a = torch.tensor([0.99, 0.7, 0.2, 0.01], dtype=torch.float64)
    alpha, weight = a.view(-1, 1, 1, 1), losses.snr_weight(kind, a, gamma)
    noise = random(4, 1, 2, 2, seed=3)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

    def said(x: Tensor) -> Tensor:
        """What a network says that believes in the clean image x."""
        return losses.diffusion_target(kind, x, (noisy - alpha.sqrt() * x) / (1 - alpha).sqrt(), a)

    for row in range(4):
        snr = float(a[row] / (1 - a[row]))
        cost = float(weight[row]) * float((said(clean + off) - said(clean))[row].square().mean())
        assert cost == pytest.approx(min(snr, gamma) * float(off[row].square().mean()), rel=1e-9)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_without_gamma_equation_4_is_unweighted(kind: str) -> None:
    assert torch.equal(losses.snr_weight(kind, torch.tensor([0.9, 0.1]), None), torch.ones(2))


@pytest.mark.parametrize(("lpips", "prior"), [(0.3, 1e-3), (0.0, 0.0), (1.0, 2.0)])
def test_the_autoencoders_loss_is_its_three_terms(lpips: float, prior: float) -> None:
    reconstruction, image = random(2, 3, 2, 2, seed=1), random(2, 3, 2, 2, seed=2)
    mean, perceptual = random(2, 4, 1, 1, seed=3), random(2, seed=4).abs()
    pairs = list(zip(reconstruction.flatten().tolist(), image.flatten().tolist(), strict=True))
    l1 = sum(abs(x - y) for x, y in pairs) / len(pairs)
    squares = [z * z for z in mean.flatten().tolist()]
    expected = l1 + lpips * sum(perceptual.tolist()) / 2 + prior * sum(squares) / len(squares)
    got = losses.reconstruction_loss(reconstruction, image, mean, perceptual, prior, lpips)
    assert float(got) == pytest.approx(expected, rel=1e-5)


BOTH = "landmark+emotion"
NAMES = ("identity", "landmark", "emotion", BOTH)

# --- Eq. 2 and 3 ------------------------------------------------------------------------------------------------------


def features_of(batch: int, sides: list[int], widths: list[int], seed: int = 0) -> list[Tensor]:
    return [
        random(batch, side * side, width, seed=seed + n)
        for n, (side, width) in enumerate(zip(sides, widths, strict=True))
    ]


def equation_3(features: list[Tensor], masks: Tensor, names: list[str | None], group: int) -> float:
    """Eq. 3 over Eq. 2 as loops over groups, pairs of combinations, blocks, pairs of samples, and places."""
    pairs = [
        ("identity", "landmark"), ("identity", "emotion"), ("identity", BOTH),
        ("landmark", "emotion"), ("landmark", BOTH),
    ]  # fmt: skip
    total, groups = 0.0, len(names) // group
    for first in range(0, len(names), group):
        members = range(first, first + group)
        for a, b in pairs:
            for feature in features:
                side = math.isqrt(feature.shape[1])
                step = masks.shape[1] // side
                for i, j in product(members, members):
                    if names[i] != a or names[j] != b:
                        continue
                    alike = []
                    for y, x in product(range(side), range(side)):
                        if masks[i, y * step : (y + 1) * step, x * step : (x + 1) * step].mean() >= 0.5:
                            u, v = feature[i, y * side + x].tolist(), feature[j, y * side + x].tolist()
                            dot = sum(p * q for p, q in zip(u, v, strict=True))
                            alike.append(max(0.0, dot / math.hypot(*u) / math.hypot(*v)))
                    total += sum(alike) / max(1, len(alike)) / len(features) / groups
    return total


CASES = [
    # sides and widths of the blocks, and each sample's combination: 0 ID, 1 +LMK, 2 +EMO, 3 both, -1 none
    ([2], [3], [0, 1, 2, 3], 4),
    ([4, 2], [3, 5], [0, 0, 1, 1, 2, 3, 3, -1], 8),
    ([4, 2, 4], [2, 2, 6], [3, 1, 0, 2, 0, -1], 3),
    ([1], [4], [0, 1, 0, 2, 3, 3], 6),
]


@pytest.mark.parametrize(("sides", "widths", "numbers", "group"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_equations_2_and_3_are_their_loops(
    sides: list[int], widths: list[int], numbers: list[int], group: int, seed: int
) -> None:
    features = features_of(len(numbers), sides, widths, seed)
    masks = (random(len(numbers), 8, 8, seed=seed + 50) + 0.2).sigmoid()
    names = [None if number < 0 else NAMES[number] for number in numbers]
    got = losses.attention_disentanglement(features, masks, torch.tensor(numbers), group)
    expected = equation_3(features, masks, names, group)
    assert expected > 0.01
    assert float(got) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("numbers", "group"), [([0, 0], 2), ([2, 3], 2), ([-1, -1], 2), ([1, 1, 1], 3), ([0, 1], 1), ([-1, 0], 2)]
)
def test_what_equation_3_does_not_name_costs_nothing(numbers: list[int], group: int) -> None:
    feature = random(1, 4, 3).expand(len(numbers), -1, -1)  # as alike as can be
    loss = losses.attention_disentanglement([feature], torch.ones(len(numbers), 4, 4), torch.tensor(numbers), group)
    assert float(loss) == 0


def test_equal_features_cost_one_a_pair_and_opposite_ones_nothing() -> None:
    feature = random(1, 4, 3)
    masks, numbers = torch.ones(2, 4, 4), torch.tensor([0, 3])
    same, opposite = (torch.cat([feature, sign * feature]) for sign in (2.0, -1.0))
    assert float(losses.attention_disentanglement([same], masks, numbers, 2)) == pytest.approx(1)
    assert float(losses.attention_disentanglement([opposite], masks, numbers, 2)) == 0
    assert float(losses.attention_disentanglement([same], 0 * masks, numbers, 2)) == 0


@pytest.mark.parametrize("reading", ["sum", "branch"])
def test_the_gradient_of_equation_5s_second_term_by_finite_differences(reading: str) -> None:
    own, controls = random(4, 4, 3, seed=1), random(4, 4, 3, seed=2)
    controls[0] = 0
    masks = random(4, 4, 4, seed=3).sigmoid()
    numbers = torch.tensor([0, 1, 2, 3])

    def loss(own: Tensor, controls: Tensor) -> Tensor:
        feature = losses.attention_features(own, controls, reading)
        return losses.attention_disentanglement([feature], masks, numbers, 4)

    switched = controls.clone()
    own.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(own, switched), own)
    assert gradient.abs().max() > 1e-3
    for place in product(range(4), range(4), range(3)):
        above, below = own.detach().clone(), own.detach().clone()
        above[place] += 1e-6
        below[place] -= 1e-6
        slope = float(loss(above, switched) - loss(below, switched)) / 2e-6
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-6)
    live = controls[1:].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: loss(own.detach(), torch.cat([controls[:1], x])), live)


def test_the_two_readings_of_a_feature() -> None:
    own, controls = random(3, 4, 2, seed=1), random(3, 4, 2, seed=2)
    controls[1] = 0
    assert torch.equal(losses.attention_features(own, controls, "sum"), own + controls)
    branch = losses.attention_features(own, controls, "branch")
    assert torch.equal(branch[[0, 2]], controls[[0, 2]])
    assert torch.equal(branch[1], own[1])


def test_combinations_are_numbered_as_they_are_named() -> None:
    dropped = torch.tensor([False, False, False, False, True])
    landmark, emotion = torch.tensor([0.0, 1, 0, 1, 0]), torch.tensor([0.0, 0, 1, 1, 0])
    numbers = losses.combination(dropped, {"landmark": landmark, "emotion": emotion}).tolist()
    assert numbers == [0, 1, 2, 3, -1]
    assert [losses.number_of(name) for name in NAMES] == [0, 1, 2, 3]
