"""The loss by emotions asked in words: what it reads, and that the network stays as it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from facecrafter.estimators.emotion import SIZE, EmotionNet, tight_crop
from facecrafter.faces.emotion import EMOTIONS, Emotion
from facecrafter.training.words import CROP, TEMPLATE, WordLoss, vectors


def network() -> EmotionNet:
    torch.manual_seed(0)
    net = EmotionNet((4, 8), 1)
    with torch.no_grad():
        net.prior.copy_(torch.tensor([0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.1, 0.05]))
        net.temperature.fill_(1.7)
        net.head.weight.mul_(30)
    return net.eval()


def test_it_is_the_logarithm_of_the_words_probability_under_the_prior_in_use() -> None:
    net = network()
    crops = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 255
    words = torch.tensor([2, -1, 7, 0])
    got = WordLoss(net)(crops, words)
    for row, word in enumerate(words.tolist()):
        red, green, blue = crops[row]
        grey = (0.299 * red + 0.587 * green + 0.114 * blue)[None, None] / 255
        shares = net.probabilities(net(grey))[0]
        expected = -math.log(float(shares[word])) if word >= 0 else 0.0
        assert float(got[row]) == pytest.approx(expected, abs=1e-4)
    assert len({round(float(one), 3) for one in got}) == 4


def test_its_gradient_reaches_the_image_and_no_weight() -> None:
    loss = WordLoss(network())
    crops = (torch.rand(2, 3, SIZE, SIZE) * 255).requires_grad_()
    loss(crops, torch.tensor([4, -1])).mean().backward()
    assert crops.grad is not None
    assert float(crops.grad[0].abs().sum()) > 0
    assert float(crops.grad[1].abs().sum()) == 0  # nothing is asked of it
    assert all(weight.grad is None for weight in loss.parameters())


def test_training_does_not_move_its_norms() -> None:
    loss = WordLoss(network())
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.train()
    loss(torch.rand(2, 3, SIZE, SIZE) * 255, torch.tensor([1, 2]))
    assert not any(module.training for module in loss.modules())
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_words_are_what_generation_is_given() -> None:
    for row, word in zip(vectors(), EMOTIONS, strict=True):
        np.testing.assert_array_equal(row.numpy(), Emotion.from_words({word: 1.0}).vector)


def test_a_face_in_the_template_is_framed_as_the_estimator_frames_it() -> None:
    """A face whose landmarks' box is the frame's, its five points where the template has them: both crops show it
    in the same place."""
    side, scale, shift = 128, 2.0, 14.0
    five = TEMPLATE * scale + shift
    grid = torch.from_numpy(CROP.grid(five, side))[None]
    image = np.zeros((side, side, 3), np.uint8)
    for x, y in five.round().astype(int):
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    cut = CROP.cut(torch.from_numpy(image).permute(2, 0, 1)[None].float(), grid)[0, 0].numpy()
    # The frame: 48 pixels of the crop are 96 of the image, its first pixel's border at the shift.
    low, high = shift - 0.5 * scale + 0.5, shift + 47.5 * scale + 0.5
    margin = (1 - 0.86) / 2 * (high - low)
    points = np.zeros((478, 3), np.float32)
    points[:, :2] = five.mean(0)
    lower = 0.05 * (high - low)  # the box's middle lies below the frame's
    points[0, :2] = (low + margin - 0.5, low + margin + lower - 0.5)
    points[1, :2] = (high - margin - 0.5, high - margin + lower - 0.5)
    framed = tight_crop(image, points)
    for x, y in TEMPLATE.round().astype(int):
        assert cut[y - 1 : y + 2, x - 1 : x + 2].max() > 150
        assert framed[y - 1 : y + 2, x - 1 : x + 2].max() > 150
