"""Training of the emotion estimator, on FER+'s votes for grey crops and on labelled colour photos at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.data.fer2013 import EmotionFaces, read_ferplus, read_photos
from facecrafter.errors import ConfigError
from facecrafter.estimators import calibration, emotion
from facecrafter.estimators.emotion import EmotionNet
from facecrafter.faces.emotion import EMOTIONS, features
from facecrafter.training.augmentation import blurred, equalised, rectangles
from facecrafter.training.batches import batch_indices, generator
from facecrafter.training.config import Estimator, TrainConfig

# The result, in the run's `model/`.
FILE = "emotion.safetensors"
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
    """An epoch in which a class of ``n`` samples is seen about ``n ** (1 - evenness)`` times, up to a factor that lets
    every sample of the most common class be seen once: which samples, each a whole number of times."""
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
    seen = F.grid_sample(crops, grid, padding_mode="border", align_corners=False)
    seen = _lit(seen, chance, config)
    if config.blur:
        seen = blurred(seen, config.blur * chance[:, 14].view(-1, 1, 1, 1))
    covered = rectangles(chance[:, 8:12], side, 0.15, 0.45) & (chance[:, 7] < config.erase).view(-1, 1, 1, 1)
    return torch.where(covered, seen.mean((2, 3), keepdim=True), seen).clamp(0, 1)


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


class EstimatorObjective(nn.Module):
    """Cross-entropy of the scores plus the logarithm of how common each class is in the sample's own set."""

    def __init__(self, network: EmotionNet, smoothing: float) -> None:
        super().__init__()
        self.network, self.smoothing = network, smoothing

    def forward(self, crops: Tensor, targets: Tensor, log_priors: Tensor, kept: Tensor) -> Tensor:
        """Crops ``(B, 1, S, S)``, shares of the classes ``(B, 8)``, their sets' priors ``(B, 8)``, and what pooled
        features are multiplied by ``(B, W)``, to the loss."""
        scores = self.network(crops.contiguous(memory_format=torch.channels_last), kept).float()
        return F.cross_entropy(scores + log_priors, targets, label_smoothing=self.smoothing)


class EstimatorStage:
    """See :class:`facecrafter.training.stages.Stage`."""

    data = None

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        assert config.estimator is not None
        self.config, self.about = config, config.estimator
        grey = read_ferplus(self.about.fer2013, self.about.votes)
        photos = read_photos(config.data, self.about.labels)
        self.grey, self.photos = grey.part(test=False), photos.part(test=False)
        self.kept_out = grey.part(test=True), photos.part(test=True)
        self.device = device
        torch.manual_seed(config.seed)
        self.model = EmotionNet(self.about.widths, self.about.blocks, self.about.stem, self.about.squeeze)
        if config.start is not None:
            self._begin_with(config.start / FILE)
        objective = EstimatorObjective(self.model, self.about.smoothing)
        self.objective = objective.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.epoch = torch.from_numpy(repeated(self.grey.labels, self.about.crop_evenness))
        self.share_of = evened(self.photos.labels, self.about.evenness)
        votes = self.grey.shares[self.epoch.numpy()].sum(0)
        log_priors = [calibration.log_shares(votes), calibration.log_prior(self.photos.labels, self.share_of)]
        self.log_priors = torch.from_numpy(np.stack(log_priors)).float()
        # All of both sets, FER2013 first, lies where the network is: a batch is put together there.
        self.crops = torch.from_numpy(np.concatenate([self.grey.crops, self.photos.crops])).to(device)
        self.shares = torch.from_numpy(np.concatenate([self.grey.shares, self.photos.shares])).to(device)

    def _begin_with(self, file: Path) -> None:
        """Take up the weights that an earlier run ended with."""
        earlier = emotion.load(file)
        if earlier.config != self.model.config:
            raise ConfigError(f"{file} has {earlier.config}, and the config asks for {self.model.config}")
        self.model.load_state_dict(earlier.state_dict())

    def trained(self) -> list[nn.Module]:
        """See :class:`facecrafter.training.stages.Stage`; what the blendshapes say is fitted at the end."""
        return [self.model.stem, self.model.stages, self.model.head]

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """See :class:`facecrafter.training.stages.Stage`; all of it learns alike."""
        return []

    def batch(self, step: int, index: int, parts: int, device: torch.device) -> dict[str, Any]:
        """See :class:`facecrafter.training.stages.Stage`: FER2013 in epochs, the photos drawn by class."""
        config, about = self.config, self.about
        source = generator(config.seed, 11, step)
        second = round(about.photos * config.batch_size)
        first = config.batch_size - second
        grey = self.epoch[batch_indices(config.seed, step, first, len(self.epoch))]
        drawn = torch.multinomial(torch.from_numpy(self.share_of), second, replacement=True, generator=source)
        chance = torch.rand(config.batch_size, CHANCES, generator=source)
        kept = torch.rand(config.batch_size, about.widths[-1], generator=source) >= about.dropout
        # Numbers are drawn on the CPU, so that they are the same everywhere; the rest is done where the network is.
        chosen = torch.cat([grey, len(self.grey.labels) + drawn]).to(self.device)
        side = about.sides[int(step >= about.small_until * config.steps)]
        seen = varied(self.crops[chosen][:, None].float() / 255, chance.to(self.device), side, about)
        targets = self.shares[chosen]
        if about.mixup:
            within = [torch.randperm(first, generator=source), first + torch.randperm(second, generator=source)]
            share = about.mixup * torch.rand(config.batch_size, generator=source)
            seen, targets = mixed(seen, targets, torch.cat(within).to(self.device), share.to(self.device))
        log_priors = self.log_priors.repeat_interleave(torch.tensor([first, second]), dim=0)
        own = slice(index, None, parts)  # every share sees both sets
        batch = {
            "crops": seen[own],
            "targets": targets[own],
            "log_priors": log_priors[own],
            "kept": kept[own] / (1 - about.dropout),
        }
        return {name: value.to(device) for name, value in batch.items()}

    @torch.no_grad()
    def validate(self) -> float | None:
        """See :class:`facecrafter.training.stages.Stage`: the cross-entropy against the votes for FER2013's validation
        images, without smoothing, under the prior of training's images as they come."""
        faces = self.kept_out[0]
        scores = torch.cat([self.model(crops).float().cpu() for crops in self._tensors(faces)])
        common = torch.from_numpy(calibration.log_shares(self.grey.shares.sum(0))).float()
        return float(F.cross_entropy(scores + common, torch.from_numpy(faces.shares)))

    def _tensors(self, faces: EmotionFaces, size: int = 256) -> Iterator[Tensor]:
        """Crops ``(B, 1, 48, 48)`` in [0, 1] on the device, up to ``size`` at once."""
        for crops in torch.from_numpy(faces.crops).split(size):
            yield crops.to(self.device)[:, None].float() / 255

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Crops as the network sees them in training: eight of each set."""
        batch = self.batch(self.config.steps, 0, 1, torch.device("cpu"))["crops"]
        return torch.cat([batch[:8], batch[-8:]]).expand(-1, 3, -1, -1) * 2 - 1

    def save(self, folder: Path) -> None:
        """See :class:`facecrafter.training.stages.Stage`: the norms are measured again for the averaged weights, the
        blendshapes' regression and the temperatures are fitted, the latter on what was held out; all in one file."""
        self._measure_norms()
        weight, bias = self.shapes
        with torch.no_grad():
            self.model.shapes.weight.copy_(weight)
            self.model.shapes.bias.copy_(bias)
        agreed, clear = self.grey.only(self.grey.clear), self.kept_out[0].only(self.kept_out[0].clear)
        self.model.prior.copy_(softened(prior(agreed.labels)))
        in_use = self.model.prior.log().double().cpu().numpy()
        crops = calibration.Scores(self._read(clear).numpy(), clear.labels, in_use)
        self.model.temperature.fill_(calibration.fit_temperature(crops))
        self._combine(self.kept_out[1])
        emotion.save(self.model, folder / FILE, torch.float16)

    @torch.no_grad()
    def _combine(self, photos: EmotionFaces) -> None:
        """Choose of which classes the blendshapes are heard, and fit the temperature of what they and the pixels say
        together. The choice is made on people that the network was not trained on, and that the evaluations of other
        stages do not use."""
        assert photos.blendshapes is not None
        pixels, shapes = self._read(photos), self.model.shape_scores(photos.blendshapes).double().cpu()
        common, prior = calibration.log_prior(self.photos.labels), self.model.prior.double().cpu()
        others = torch.from_numpy(np.flatnonzero(~photos.held_out))
        classes = np.flatnonzero(np.bincount(self.photos.labels, minlength=len(EMOTIONS)) >= calibration.ENOUGH)
        heard = heard_classes(pixels[others], shapes[others], photos.labels[~photos.held_out], common, prior, classes)
        self.model.shape_classes.copy_(heard)
        both = emotion.combined(pixels, shapes, heard, prior)
        said = calibration.Scores(both.numpy(), photos.labels, common)
        self.model.joint_temperature.fill_(calibration.fit_temperature(said))

    @torch.no_grad()
    def _read(self, faces: EmotionFaces) -> Tensor:
        """The pixels' scores ``(N, 8)`` as they are in use: of crops and their mirror images."""
        read = [(self.model(crops) + self.model(crops.flip(3))) / 2 for crops in self._tensors(faces)]
        return torch.cat(read).double().cpu()

    @cached_property
    def shapes(self) -> tuple[Tensor, Tensor]:
        """The regression on the photos' blendshapes."""
        assert self.photos.blendshapes is not None
        return fit_shapes(self.photos.blendshapes, self.photos.labels)

    @torch.no_grad()
    def _measure_norms(self, crops: int = 6400, batches: int = 40) -> None:
        """Running means and variances as the averaged weights have them; training left those of the last weights."""
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        self.model.train()
        for step in range(min(batches, -(-crops // self.config.batch_size))):
            self.model(self.batch(self.config.steps + step, 0, 1, self.device)["crops"])
        self.model.eval()
        for norm in norms:
            norm.momentum = 0.1


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

    Its scores leave out how common the classes are among the samples, like :class:`EmotionNet`'s.
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
