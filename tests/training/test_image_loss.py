"""The walk from noise to a judged image, against the same walk written out."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.estimators.differentiable import ARCFACE_CROP
from facecrafter.estimators.identity import ARCFACE_SIZE
from facecrafter.models.attention import AttentionInputs
from facecrafter.training.image_loss import (
    ImageLoss,
    ImageLossConfig,
    Rollout,
    clean_and_noise,
    jittered,
    relit,
    rollout_timesteps,
)
from facecrafter.training.words import WordLoss

ALPHA_BARS = torch.linspace(0.999, 0.005, 1000)
WHOLE = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # the crop is the whole image


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


class ToyPerceptual(nn.Module):
    def forward(self, made: Tensor, wanted: Tensor, counts: Tensor | None = None) -> Tensor:
        apart = (made - wanted).square().mean(1)
        return (apart if counts is None else apart * F.interpolate(counts[:, None], apart.shape[1:])[:, 0]).mean((1, 2))


class ToyReader(nn.Module):
    def forward(self, images: Tensor) -> object:
        means = images.mean((2, 3))
        return SimpleNamespace(blendshapes=means, angles=2 * means)


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
def test_a_rollout_goes_from_pure_noise_down(jitter: list[float], expected: list[int]) -> None:
    assert rollout_timesteps(len(jitter) + 1, torch.tensor(jitter)).tolist() == expected


@pytest.mark.parametrize("steps", [2, 4, 25])
def test_a_rollout_never_goes_up(steps: int) -> None:
    source = torch.Generator().manual_seed(0)
    for _ in range(50):
        timesteps = rollout_timesteps(steps, torch.rand(steps - 1, generator=source)).tolist()
        assert timesteps[0] == 999
        assert all(a >= b >= 20 for a, b in pairwise(timesteps))


def rollout_of(steps: list[int], **settings: Any) -> Rollout:
    source = torch.Generator().manual_seed(0)
    values = {
        "noise": torch.randn(3, 3, 8, 8, generator=source),
        "timesteps": torch.tensor(steps),
        "learns": (True,) * len(steps),
        "rows": {},
        "identity": torch.randn(3, 12, generator=source),
        "own": torch.tensor([True, True, True]),
        "posed": torch.tensor([True, True, True]),
        "moved": torch.tensor([False, False, False]),
        "words": torch.tensor([-1, -1, -1]),
        "photos": torch.rand(3, 3, 112, 112, generator=source) * 2 - 1,
        "masks": torch.zeros(3, 16, 16),
        "grids": WHOLE.expand(3, -1, -1),
        "views": WHOLE.expand(3, -1, -1),
        "frames": WHOLE.expand(3, -1, -1),
        "jitter": torch.zeros(3, 8),
    }
    return Rollout(**{**values, **settings})


def loss_of(kind: str = "v_prediction", **weights: float) -> ImageLoss:
    terms = ImageLossConfig(**weights)
    return ImageLoss(
        ToyDenoiser(), ToyDecoder(), ToyRecogniser(), ARCFACE_CROP, ToyPerceptual(), ALPHA_BARS, kind, terms
    )


TOKENS = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))


def written_out(rollout: Rollout, kind: str, weights: list[float]) -> list[Tensor]:
    """The finished images, with a weight of the toy denoiser for each step."""
    images, steps = [], rollout.timesteps.tolist()
    for row in range(3):
        x = rollout.noise[row].double()
        for index, (t, weight) in enumerate(zip(steps, weights, strict=True)):
            a = float(ALPHA_BARS[t])
            said = weight * x * (1 + t / 1000) + float(TOKENS[row].mean())
            if kind == "epsilon":
                rest = said
                clean = (x - (1 - a) ** 0.5 * rest) / a**0.5
            else:
                clean = a**0.5 * x - (1 - a) ** 0.5 * said
                rest = (1 - a) ** 0.5 * x + a**0.5 * said
            if index + 1 < len(steps):
                b = float(ALPHA_BARS[steps[index + 1]])
                x = b**0.5 * clean + (1 - b) ** 0.5 * rest
        images.append((clean / 2).repeat_interleave(14, 1).repeat_interleave(14, 2))
    return images


def wrong_people(images: list[Tensor], identity: Tensor) -> list[float]:
    """1 - cosine by the toy recogniser, in loops."""
    wrong = []
    for image, asked in zip(images, identity.double(), strict=True):
        light = (image + 1) * 127.5
        means = [light[:, i : i + 56, j : j + 56].mean((1, 2)) for i in (0, 56) for j in (0, 56)]
        made = torch.stack(means, dim=1).flatten()
        wrong.append(1 - float(made @ asked / asked.norm() / made.norm()))
    return wrong


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [[999], [999, 500], [999, 749, 499, 249]])
def test_the_identity_term_is_the_rollout_written_out(kind: str, steps: list[int]) -> None:
    rollout, loss = rollout_of(steps), loss_of(kind, identity=2.0)
    got = loss(rollout, TOKENS, AttentionInputs())
    assert loss.unet.calls == len(steps)

    def expected(weight: float) -> float:
        return 2 * sum(wrong_people(written_out(rollout, kind, [weight] * len(steps)), rollout.identity)) / 3

    assert float(got) == pytest.approx(expected(0.3), abs=1e-4)
    got.backward()
    # The gradient is that of the whole walk, not of its last prediction alone.
    slope = (expected(0.3 + 1e-5) - expected(0.3 - 1e-5)) / 2e-5
    assert float(loss.unet.weight.grad) == pytest.approx(slope, rel=1e-2, abs=1e-3)


def test_a_image_that_is_alike_enough_is_let_be() -> None:
    rollout = rollout_of([999, 500])
    wrong = wrong_people(written_out(rollout, "v_prediction", [0.3, 0.3]), rollout.identity)
    enough = 1 - sorted(wrong)[1]  # the image in the middle is just alike enough
    loss = loss_of(identity=2.0, enough=enough)
    got = loss(rollout, TOKENS, AttentionInputs())
    assert 0 < enough < 1
    assert float(got) == pytest.approx(2 * sum(max(0.0, one - sorted(wrong)[1]) for one in wrong) / 3, abs=1e-4)


@pytest.mark.parametrize("kept", [tuple, torch.tensor])  # known before, or on a device that is not asked
@pytest.mark.parametrize("learns", [[True, False, False], [False, True, False], [False, False, True]])
def test_a_step_that_does_not_learn_takes_its_prediction_as_given(learns: list[bool], kept: Any) -> None:
    rollout, loss = rollout_of([999, 600, 200], learns=kept(learns)), loss_of(identity=1.0)
    loss(rollout, TOKENS, AttentionInputs()).backward()
    place = learns.index(True)

    def expected(weight: float) -> float:
        """The other steps say what they say at 0.3, whatever this one does."""
        x, clean = rollout.noise.double(), rollout.noise.double()
        frozen = rollout.noise.double()
        for index, t in enumerate(rollout.timesteps.tolist()):
            a = float(ALPHA_BARS[t])
            offset = TOKENS.mean((1, 2)).view(-1, 1, 1, 1).double()
            usual = 0.3 * frozen * (1 + t / 1000) + offset
            said = weight * x * (1 + t / 1000) + offset if index == place else usual
            values = []
            for current, spoken in ((x, said), (frozen, usual)):
                clean = a**0.5 * current - (1 - a) ** 0.5 * spoken
                rest = (1 - a) ** 0.5 * current + a**0.5 * spoken
                b = float(ALPHA_BARS[rollout.timesteps[min(index + 1, 2)]])
                values.append((clean, b**0.5 * clean + (1 - b) ** 0.5 * rest))
            (clean, x), (_, frozen) = values
        images = [(one / 2).repeat_interleave(14, 1).repeat_interleave(14, 2) for one in clean]
        return sum(wrong_people(images, rollout.identity)) / 3

    slope = (expected(0.3 + 1e-5) - expected(0.3 - 1e-5)) / 2e-5
    assert abs(slope) > 1e-4
    assert float(loss.unet.weight.grad) == pytest.approx(slope, rel=2e-2, abs=2e-4)


def test_the_photo_counts_where_it_is_the_persons_own_and_its_face_where_it_is_posed() -> None:
    own, posed = torch.tensor([True, False, True]), torch.tensor([True, True, False])
    rollout = rollout_of([999, 500], own=own, posed=posed)
    images = torch.stack(written_out(rollout, "v_prediction", [0.3, 0.3])).float()
    difference = images - rollout.photos
    coarse = [
        sum(
            float(difference[row, c, side * i : side * (i + 1), side * j : side * (j + 1)].mean().abs())
            for c in range(3) for i in range(112 // side) for j in range(112 // side)
        ) / (3 * (112 // side) ** 2)
        for row, side in ((0, 14), (2, 28))
    ]  # fmt: skip
    with torch.no_grad():
        colours = loss_of(colours=3.0)(rollout, TOKENS, AttentionInputs())
        perceptual = loss_of(lpips=5.0)(rollout, TOKENS, AttentionInputs())
        of_faces = loss_of(face_lpips=4.0)(rollout, TOKENS, AttentionInputs())
        fine = loss_of(face=2.0)(rollout, TOKENS, AttentionInputs())
        both = loss_of(lpips=5.0, colours=3.0)(rollout, TOKENS, AttentionInputs())
    assert float(colours) == pytest.approx(3 * sum(coarse) / 3, rel=1e-4)
    # The toy crop is the whole image, so its LPIPS is the image's.
    assert float(perceptual) == pytest.approx(5 * float(difference[0].square().mean()) / 3, rel=1e-3)
    assert float(of_faces) == pytest.approx(4 * float(difference[0].square().mean()) / 3, rel=1e-3)
    blocks = [difference[0, :, i : i + 4, j : j + 4].mean((1, 2)) for i in range(0, 112, 4) for j in range(0, 112, 4)]
    assert float(fine) == pytest.approx(2 * float(torch.stack(blocks).abs().mean()) / 3, rel=1e-3)
    assert float(both) == pytest.approx(float(colours + perceptual), rel=1e-5)


def test_what_is_not_near_the_face_counts_as_much_as_the_config_says() -> None:
    masks = torch.zeros(3, 16, 16)
    masks[:, 5:9, 6:10] = 1  # a reach of 16 // 6 = 2 places makes it rows 3 to 10 and columns 4 to 11
    rollout = rollout_of([999, 500], masks=masks)
    images = torch.stack(written_out(rollout, "v_prediction", [0.3, 0.3])).float()
    difference = (images - rollout.photos).double()
    counts = torch.full((16, 16), 0.25, dtype=torch.float64)
    counts[3:11, 4:12] = 1
    squares = difference.square().unflatten(3, (16, 7)).unflatten(2, (16, 7)).mean((0, 1, 3, 5))
    cells = difference.unflatten(3, (8, 14)).unflatten(2, (8, 14)).mean((3, 5)).abs().mean((0, 1))
    coarse = counts.unflatten(1, (8, 2)).unflatten(0, (8, 2)).mean((1, 3))
    with torch.no_grad():
        perceptual = loss_of(lpips=5.0, background=0.25)(rollout, TOKENS, AttentionInputs())
        colours = loss_of(colours=3.0, background=0.25)(rollout, TOKENS, AttentionInputs())
    assert float(perceptual) == pytest.approx(5 * float((squares * counts).mean()), rel=1e-3)
    assert float(colours) == pytest.approx(3 * float((cells * coarse).mean()), rel=1e-3)


def test_the_expression_asked_for_is_the_posed_photos_whoever_is_on_it() -> None:
    own, posed = torch.tensor([True, False, True]), torch.tensor([True, True, False])
    rollout = rollout_of([999, 500], own=own, posed=posed)
    loss = ImageLoss(
        ToyDenoiser(), ToyDecoder(), ToyRecogniser(), ARCFACE_CROP, None, ALPHA_BARS, "v_prediction",
        ImageLossConfig(expression=2.0, expression_net="net"), expression=ToyReader(),
    )  # fmt: skip
    got = loss(rollout, TOKENS, AttentionInputs())
    images, total = written_out(rollout, "v_prediction", [0.3, 0.3]), 0.0
    for row in (0, 1):  # the second is asked for somebody else, the third's pose is free
        squares, turned = [], []
        for c in range(3):
            apart = float(images[row][c].mean()) - float(rollout.photos[row, c].double().mean())
            squares.append(apart**2)
            turned.append(abs(2 * apart))
        total += 2 * ((sum(squares) / 3 + 1e-6) ** 0.5 + 0.5 * sum(turned[:2]) / 2) / 3  # roll is not asked for
    assert float(got) == pytest.approx(total, rel=1e-4)
    got.backward()
    assert loss.unet.weight.grad.abs() > 1e-4


def test_an_emotion_without_a_pose_asks_for_the_photos_blendshapes_alone() -> None:
    rollout = rollout_of([999, 500], posed=torch.tensor([True, False, False]), moved=torch.tensor([False, True, False]))
    loss = ImageLoss(
        ToyDenoiser(), ToyDecoder(), ToyRecogniser(), ARCFACE_CROP, None, ALPHA_BARS, "v_prediction",
        ImageLossConfig(emotion=3.0, expression_net="net"), expression=ToyReader(),
    )  # fmt: skip
    image, photo = written_out(rollout, "v_prediction", [0.3, 0.3])[1], rollout.photos[1].double()
    squares = [(float(image[c].mean()) - float(photo[c].mean())) ** 2 for c in range(3)]
    got = loss(rollout, TOKENS, AttentionInputs())
    assert float(got) == pytest.approx(3 * (sum(squares) / 3 + 1e-6) ** 0.5 / 3, rel=1e-4)


class ToyWords(WordLoss):
    """Where a word is asked, the mean of the crop times it."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, crops: Tensor, words: Tensor) -> Tensor:
        return torch.where(words >= 0, words * crops.mean((1, 2, 3)) / 255, 0.0)


def test_images_asked_for_a_word_are_read_for_it_and_not_held_to_their_photo() -> None:
    rollout = rollout_of([999, 500], posed=torch.tensor([True, False, False]), words=torch.tensor([-1, 3, 5]))
    loss = ImageLoss(
        ToyDenoiser(), ToyDecoder(), ToyRecogniser(), ARCFACE_CROP, None, ALPHA_BARS, "v_prediction",
        ImageLossConfig(words=2.0, emotion_net="net"), words=ToyWords(),
    )  # fmt: skip
    images = written_out(rollout, "v_prediction", [0.3, 0.3])
    expected = sum(word * float((images[row].mean() + 1) / 2) for row, word in ((1, 3), (2, 5)))
    got = loss(rollout, TOKENS, AttentionInputs())
    assert float(got) == pytest.approx(2 * expected / 3, rel=1e-3)
    got.backward()
    assert loss.unet.weight.grad.abs() > 1e-4


@pytest.mark.parametrize(
    "given", [{"expression": 1.0}, {"emotion": 1.0}, {"expression_net": "net"}, {"words": 1.0}, {"emotion_net": "net"}]
)
def test_a_term_needs_its_network(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="go together"):
        ImageLossConfig(**given)


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
        # Where the crop's corner (1, 1) and its right middle (1, 0) are read, in the image's own [-1, 1].
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
