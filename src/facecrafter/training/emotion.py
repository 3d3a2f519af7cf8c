"""How the emotion estimator's samples are drawn and varied, and what is fitted to its scores."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.estimators import calibration, emotion
from facecrafter.faces.emotion import EMOTIONS, features
from facecrafter.training.augmentation import blurred, equalised, rectangles

if TYPE_CHECKING:
    from facecrafter.training.stages.emotion_estimator import Estimator

# How hard the regression on the blendshapes is held to zero: the weight of half its squares beside the mean loss.
SHAPES_DECAY = 1e-3
# The prior in use is how common the classes are where FER+'s voters agree, to this power: between how often they show
# on the web's images, 1, and evenly, 0. At 1 hardly anybody is ever afraid, disgusted or contemptuous.
PRIOR_POWER = 0.5
# How many random numbers vary a crop.
CHANCES = 16


def prior(labels: NDArray[np.int64], weights: NDArray[np.float64] | None = None) -> Tensor:
    """How common each class is: ``(8,)``."""
    return torch.from_numpy(np.exp(calibration.log_prior(labels, weights))).float()


def repeated(labels: NDArray[np.int64], evenness: float) -> NDArray[np.int64]:
    """An epoch in which a class of ``n`` samples is drawn about ``n ** (1 - evenness)`` times, up to a factor that lets
    every sample of the most common class be drawn once: which samples, each a whole number of times."""
    counts = np.bincount(labels, minlength=len(EMOTIONS))
    times = (counts.max() / np.maximum(counts, 1)) ** evenness
    return np.repeat(np.arange(len(labels)), np.round(times).astype(np.int64)[labels])


def evened(labels: NDArray[np.int64], evenness: float) -> NDArray[np.float64]:
    """How often to draw each sample: ``(N,)`` summing to 1. A class of ``n`` is drawn as ``n ** (1 - evenness)``."""
    counts = np.bincount(labels, minlength=len(EMOTIONS)).astype(np.float64)
    weights = counts[labels] ** -evenness
    return np.asarray(weights / weights.sum())


def varied(crops: Tensor, chance: Tensor, side: int, config: Estimator) -> Tensor:
    """Crops turned, zoomed, shifted, mirrored, lit, blurred and partly covered at random.

    Args:
        crops: ``(B, 1, 48, 48)`` in [0, 1].
        chance: ``(B, 16)`` in [0, 1): turn, zoom, shift in x and y, mirror, contrast, brightness, whether a rectangle
            is covered, its height and width, and where it lies (two), gamma, whether the histogram is made even, blur,
            and one that nothing uses.
        side: of the result in pixels.
        config: how much of each.

    Returns:
        ``(B, 1, side, side)``.
    """
    spread = 2 * chance - 1
    angle, zoom = spread[:, 0] * np.deg2rad(config.turn), 1 + config.zoom * spread[:, 1]
    mirror = torch.where(spread[:, 4] < 0, -1.0, 1.0)
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    rows = [
        torch.stack([mirror * cosine, -sine, 2 * config.shift * spread[:, 2]], dim=1),
        torch.stack([mirror * sine, cosine, 2 * config.shift * spread[:, 3]], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), [len(crops), 1, side, side], align_corners=False)
    augmented = F.grid_sample(crops, grid, padding_mode="border", align_corners=False)
    augmented = _lit(augmented, chance, config)
    if config.blur:
        augmented = blurred(augmented, config.blur * chance[:, 14].view(-1, 1, 1, 1))
    covered = rectangles(chance[:, 8:12], side, 0.15, 0.45) & (chance[:, 7] < config.erase).view(-1, 1, 1, 1)
    return torch.where(covered, augmented.mean((2, 3), keepdim=True), augmented).clamp(0, 1)


def _lit(crops: Tensor, chance: Tensor, config: Estimator) -> Tensor:
    """Crops with another histogram, gamma, contrast and brightness; see :func:`varied`."""
    even = chance[:, 13] < config.equalise
    if even.any():
        crops = crops.clone()
        crops[even] = equalised(crops[even])
    spread = (2 * chance - 1)[:, :, None, None, None]
    if config.gamma > 1:
        crops = crops.clamp(1e-4, 1) ** (math.log(config.gamma) * spread[:, 12]).exp()
    mean = crops.mean((2, 3), keepdim=True)
    lit = mean + (crops - mean) * (1 + config.contrast * spread[:, 5]) + config.brightness * spread[:, 6]
    return lit.clamp(0, 1)


def mixed(crops: Tensor, targets: Tensor, others: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Crops ``(B, 1, S, S)`` and shares of the classes ``(B, 8)``, with the ``others``-th ``(B,)`` laid over each at a
    ``share`` ``(B,)`` in [0, 1] (mixup; Zhang et al., 2018)."""
    over = share.view(-1, 1, 1, 1)
    return torch.lerp(crops, crops[others], over), torch.lerp(targets, targets[others], share[:, None])


def softened(shares: Tensor) -> Tensor:
    """Shares of the classes ``(8,)`` to the power of :data:`PRIOR_POWER`, summing to 1."""
    powers = shares**PRIOR_POWER
    return powers / powers.sum()


def heard_classes(
    pixels: Tensor,
    shapes: Tensor,
    labels: NDArray[np.int64],
    log_prior: NDArray[np.float64],
    prior: Tensor,
    classes: NDArray[np.int64],
) -> Tensor:
    """Of which classes blendshapes are best heard beside the pixels, ``(8,)`` bool.

    All subsets are tried. The best gives the labels the largest likelihood under an even prior, the mean over the
    classes of each class's mean, at the temperature that suits the faces' own prior.

    Args:
        pixels, shapes: their scores ``(N, 8)``, in double precision.
        labels: ``(N,)``.
        log_prior: ``(8,)``, how common the classes are among the faces.
        prior: ``(8,)``, the one in use.
        classes: those that may be heard: of which there is enough to learn from.
    """
    counted = [one for one in classes.tolist() if (labels == one).any()]
    even = calibration.log_prior(np.array(counted, np.int64)) if counted else log_prior
    best, chosen = -math.inf, torch.zeros(len(EMOTIONS), dtype=torch.bool)
    for subset in product((False, True), repeat=len(counted)):
        heard = torch.zeros(len(EMOTIONS), dtype=torch.bool)
        heard[counted] = torch.tensor(subset, dtype=torch.bool)
        scores = emotion.combined(pixels, shapes, heard, prior).numpy()
        temperature = calibration.fit_temperature(calibration.Scores(scores, labels, log_prior))
        shares = calibration.Scores(scores, labels, even).probabilities(temperature)
        likelihood = float(np.mean([np.log(shares[labels == one, one] + 1e-12).mean() for one in counted] or [0.0]))
        if likelihood > best:
            best, chosen = likelihood, heard
    return chosen


def fit_shapes(blendshapes: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """A multinomial logistic regression on blendshapes ``(N, 52)``: weight ``(8, 52)`` and bias ``(8,)``.

    Its scores leave out how common the classes are among the samples, like those of
    :class:`facecrafter.estimators.emotion.EmotionNet`.
    """
    inputs, wanted = torch.from_numpy(features(blendshapes)), torch.from_numpy(labels)
    log_prior = prior(labels).double().log()
    regression = nn.Linear(inputs.shape[1], len(EMOTIONS), dtype=torch.float64)
    nn.init.zeros_(regression.weight)
    nn.init.zeros_(regression.bias)
    optimiser = torch.optim.LBFGS(regression.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        decay = SHAPES_DECAY / 2 * (regression.weight.square().sum() + regression.bias.square().sum())
        value = F.cross_entropy(regression(inputs) + log_prior, wanted) + decay
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[arg-type]
    return regression.weight.detach().float(), regression.bias.detach().float()
