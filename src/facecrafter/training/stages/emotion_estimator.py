"""The emotion estimator, on FER+'s votes for grey crops and on labelled colour photos at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.config import Strict
from facecrafter.data.fer2013 import EmotionFaces, read_ferplus, read_photos
from facecrafter.errors import ConfigError
from facecrafter.estimators import calibration, emotion
from facecrafter.estimators.emotion import EmotionNet
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.training.batches import batch_indices, generator
from facecrafter.training.config import PLACE, RunConfig, Share, Stage
from facecrafter.training.emotion import (
    CHANCES,
    evened,
    fit_shapes,
    heard_classes,
    mixed,
    prior,
    repeated,
    softened,
    varied,
)

# The result, in the run's `model/`.
FILE = "emotion.safetensors"


class Estimator(Strict):
    """The emotion estimator: what it learns from, and how."""

    fer2013: Annotated[Path, PLACE]  # FER2013's images, a tar or a folder
    votes: Annotated[Path, PLACE]  # FER+'s votes for them, a CSV
    labels: Annotated[Path, PLACE]  # CSV of image,emotion for photos of `data`
    widths: tuple[int, ...] = (64, 128, 256)  # channels a stage
    blocks: int | tuple[int, ...] = 2  # residual blocks, of every stage or of each
    stem: int = Field(0, ge=0)  # channels at the crop's own size; 0: the first convolution halves it
    squeeze: int = Field(0, ge=0)  # channels that share one in the blocks' gates; 0: no gates
    dropout: float = Field(0.3, ge=0, lt=1)  # share of the pooled features that a sample goes without
    photos: Share = 0.25  # share of colour photos in a batch
    # How much rare classes are drawn more often among the photos: 0 as they come, 1 all alike.
    evenness: Share = 0.5
    crop_evenness: Share = 0.0  # likewise among FER2013's crops, which are repeated within an epoch for it
    smoothing: float = Field(0.1, ge=0, lt=1)  # of the targets; distributions of votes have no need of it
    # Up to which share another face of its set is laid over a crop, and mixed into its label. Labels that people do
    # not agree on are learned by heart in a long run, and those of mixtures cannot be.
    mixup: Share = 0.0
    sides: tuple[int, int] = (32, 44)  # of the training crops in pixels: first, and then
    small_until: Share = 0.4  # share of the run at the first
    turn: float = Field(15.0, ge=0)  # degrees to either side
    zoom: float = Field(0.15, ge=0, lt=1)
    shift: float = Field(0.1, ge=0, lt=1)  # of the crop's side
    erase: Share = 0.5  # share of the crops with a grey rectangle in them
    contrast: float = Field(0.3, ge=0, lt=1)
    brightness: float = Field(0.15, ge=0, lt=1)  # crops being in [0, 1]
    gamma: float = Field(1.0, ge=1)  # crops are raised to a power between its inverse and it
    equalise: Share = 0.0  # share of the crops whose histogram is made even
    blur: Share = 0.0  # at most this much of what is finer than four pixels is taken away

    @model_validator(mode="after")
    def _builds(self) -> Estimator:
        depths = (self.blocks,) * len(self.widths) if isinstance(self.blocks, int) else self.blocks
        if len(depths) != len(self.widths) or min(depths, default=0) < 1:
            raise ValueError("`blocks` is a number from 1 up, or one for each of `widths`")
        if self.squeeze > min(self.widths):
            raise ValueError(f"`squeeze` is at most the narrowest stage's channels, {min(self.widths)}")
        return self


class EstimatorConfig(RunConfig):
    """A run of the estimator stage."""

    SHARES_OF_STEPS: ClassVar[tuple[str, ...]] = ("estimator.small_until",)

    stage: Literal["estimator"] = "estimator"
    start: Annotated[Path | None, PLACE] = None  # an earlier run's `model/`, whose weights are trained further
    estimator: Estimator

    def wants_steps(self) -> str:
        """Where crops grow on the way."""
        first, then = self.estimator.sides
        return "estimator.sides to one side, twice" if first != then else ""

    def build(self, device: torch.device) -> EstimatorStage:
        """A network on both sets of labelled faces."""
        return EstimatorStage(self, device)


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


class EstimatorStage(Stage):
    """The network learns its scores; the rest of the estimator is fitted to them at the end."""

    def __init__(self, config: EstimatorConfig, device: torch.device) -> None:
        self.config, self.about = config, config.estimator
        grey = read_ferplus(self.about.fer2013, self.about.votes)
        photos = read_photos(config.data, self.about.labels)
        self.grey, self.photos = grey.part(test=False), photos.part(test=False)
        self.held = grey.part(test=True), photos.part(test=True)
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
        """All but what reads blendshapes, which is fitted at the end."""
        return [self.model.stem, self.model.stages, self.model.head]

    def batch(self, step: int, index: int, parts: int, device: torch.device) -> dict[str, Any]:
        """FER2013 in epochs, the photos drawn by class."""
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
        augmented = varied(self.crops[chosen][:, None].float() / 255, chance.to(self.device), side, about)
        targets = self.shares[chosen]
        if about.mixup:
            within = [torch.randperm(first, generator=source), first + torch.randperm(second, generator=source)]
            share = about.mixup * torch.rand(config.batch_size, generator=source)
            augmented, targets = mixed(augmented, targets, torch.cat(within).to(self.device), share.to(self.device))
        log_priors = self.log_priors.repeat_interleave(torch.tensor([first, second]), dim=0)
        own = slice(index, None, parts)  # every share sees both sets
        batch = {
            "crops": augmented[own],
            "targets": targets[own],
            "log_priors": log_priors[own],
            "kept": kept[own] / (1 - about.dropout),
        }
        return {name: value.to(device) for name, value in batch.items()}

    @torch.no_grad()
    def validate(self) -> float | None:
        """The cross-entropy against the votes for FER2013's validation
        images, without smoothing, under the prior of training's images as they come."""
        faces = self.held[0]
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
        """The norms are measured again for the averaged weights, the
        blendshapes' regression and the temperatures are fitted, the latter on what was held out; all in one file."""
        self._measure_norms()
        weight, bias = self.shapes
        with torch.no_grad():
            self.model.shapes.weight.copy_(weight)
            self.model.shapes.bias.copy_(bias)
        agreed, clear = self.grey.only(self.grey.clear), self.held[0].only(self.held[0].clear)
        self.model.prior.copy_(softened(prior(agreed.labels)))
        in_use = self.model.prior.log().double().cpu().numpy()
        scores = calibration.Scores(self._read(clear).numpy(), clear.labels, in_use)
        self.model.temperature.fill_(calibration.fit_temperature(scores))
        self._combine(self.held[1])
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
        scores = calibration.Scores(both.numpy(), photos.labels, common)
        self.model.joint_temperature.fill_(calibration.fit_temperature(scores))

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
