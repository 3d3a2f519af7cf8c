"""How the estimator's samples are drawn and varied, and what is fitted to its scores, against plain formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facecrafter.faces.emotion import EMOTIONS, features
from facecrafter.training.emotion import (
    SHAPES_DECAY,
    evened,
    fit_shapes,
    heard_classes,
    mixed,
    prior,
    repeated,
    varied,
)
from facecrafter.training.stages.emotion_estimator import Estimator

ABOUT = {"fer2013": Path("fer"), "votes": Path("votes"), "labels": Path("labels")}


def test_mixed_crops_have_mixed_labels() -> None:
    crops, targets = torch.rand(3, 1, 4, 4), torch.eye(8)[:3]
    others, share = torch.tensor([1, 2, 0]), torch.tensor([0.0, 0.25, 1.0])
    seen, outcome = mixed(crops, targets, others, share)
    for row in range(3):
        own, other = 1 - float(share[row]), float(share[row])
        torch.testing.assert_close(seen[row], own * crops[row] + other * crops[others[row]])
        torch.testing.assert_close(outcome[row], own * targets[row] + other * targets[others[row]])


def test_rare_classes_are_drawn_more_often() -> None:
    labels = np.array([0] * 16 + [1] * 4)
    for evenness, share in ((0.0, 16 / 20), (0.5, 4 / 6), (1.0, 0.5)):
        weights = evened(labels, evenness)
        assert weights.sum() == pytest.approx(1)
        assert weights[:16].sum() == pytest.approx(share)


def test_an_epoch_repeats_rare_classes_whole_times() -> None:
    labels = np.array([0] * 16 + [1] * 4 + [3])
    assert repeated(labels, 0.0).tolist() == list(range(21))
    half = repeated(labels, 0.5)
    assert np.bincount(labels[half]).tolist() == [16, 8, 0, 4]
    assert np.bincount(half).tolist() == [1] * 16 + [2] * 4 + [4]


def test_blendshapes_are_heard_where_they_help() -> None:
    """Pixels know all but that 2 and 3 differ; blendshapes tell these two apart, and mislead about 0 and 1."""
    random = np.random.default_rng(0)
    labels = np.tile([0, 1, 2, 3], 60)
    certain = 4.0 * torch.eye(8, dtype=torch.float64)[labels]
    pixels, shapes = certain + torch.from_numpy(random.normal(0, 1, (240, 8))), torch.zeros(240, 8, dtype=torch.float64)
    undecided = torch.from_numpy(labels >= 2)
    pixels[undecided, 2:4] = pixels[undecided, 2:4].mean(1, keepdim=True)
    shapes[undecided] = certain[undecided]
    shapes[~undecided, :2] = torch.from_numpy(random.normal(0, 6, (120, 2)))
    even = np.log(np.full(8, 1 / 8))
    heard = heard_classes(pixels, shapes, labels, even, torch.full((8,), 1 / 8, dtype=torch.float64), np.arange(4))
    assert heard.tolist() == [False, False, True, True, False, False, False, False]
    none = heard_classes(pixels, shapes, labels, even, torch.full((8,), 1 / 8, dtype=torch.float64), np.array([], int))
    assert not none.any()


def still(**settings: Any) -> Estimator:
    return Estimator(**{**ABOUT, "turn": 0, "zoom": 0, "shift": 0, "erase": 0, **settings})


def test_crops_are_varied_as_asked() -> None:
    crops = torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    middle = torch.full((1, 16), 0.5)
    torch.testing.assert_close(varied(crops, middle, 48, still()), crops, rtol=0, atol=1e-5)
    mirrored, bright = middle.clone(), middle.clone()
    mirrored[0, 4], bright[0, 6] = 0.0, 1.0
    torch.testing.assert_close(varied(crops, mirrored, 48, still()), crops.flip(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(varied(crops, bright, 48, still()), (crops + 0.15).clamp(0, 1), rtol=0, atol=1e-5)
    moved = middle.clone()
    moved[0, 2] = 1.0  # a quarter of the crop
    got = varied(crops, moved, 48, still(shift=0.25))
    torch.testing.assert_close(got[..., :36], crops[..., 12:], rtol=0, atol=1e-5)
    covered = middle.clone()
    covered[0, 7] = 0.0
    changed = (varied(crops, covered, 48, still(erase=1.0)) - crops).abs() > 1e-4
    assert 0.05 < changed.float().mean() < 0.12  # 0.3 x 0.3 of the crop
    gamma, even = middle.clone(), middle.clone()
    gamma[0, 12], even[0, 13] = 1.0, 0.0
    torch.testing.assert_close(varied(crops, gamma, 48, still(gamma=2)), crops**2, rtol=0, atol=1e-4)
    ranks = varied(crops, even, 48, still(equalise=0.5)).flatten().sort().values
    torch.testing.assert_close(ranks, torch.linspace(0, 1, len(ranks)), rtol=0, atol=0.02)
    untouched = varied(crops, middle, 48, still(equalise=0.5, blur=0.0))
    torch.testing.assert_close(untouched, crops, rtol=0, atol=1e-5)
    blurred = middle.clone()
    blurred[0, 14] = 1.0
    soft = varied(crops, blurred, 48, still(blur=1.0))
    assert soft.std() < 0.5 * crops.std()
    torch.testing.assert_close(soft.mean(), crops.mean(), rtol=0.02, atol=0)
    assert varied(crops, torch.rand(1, 16), 32, Estimator(**ABOUT)).shape == (1, 1, 32, 32)


def test_the_regression_on_blendshapes_is_at_its_minimum() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, len(EMOTIONS), 300)
    shapes = random.random((300, 52)).astype(np.float32)
    weight, bias = fit_shapes(shapes, labels)
    logits = features(shapes) @ weight.double().numpy().T + bias.double().numpy() + prior(labels).double().log().numpy()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = shares - np.eye(8)[labels]
    slope = error.T @ features(shapes) / 300 + SHAPES_DECAY * weight.double().numpy()
    assert np.abs(slope).max() < 1e-3
