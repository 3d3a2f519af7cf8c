"""Training of the expression network: MediaPipe's readings of the prepared images, from their pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.config import Strict
from facecrafter.data.dataset import TrainingSet
from facecrafter.data.shards import Prepared
from facecrafter.errors import CheckpointError
from facecrafter.estimators import expression
from facecrafter.estimators.expression import DEGREES, ExpressionNet, Reading
from facecrafter.faces import symmetry
from facecrafter.io import whole
from facecrafter.training.augmentation import blurred, rectangles
from facecrafter.training.batches import generator, sample_indices
from facecrafter.training.config import Share, Stage
from facecrafter.training.stages.prepared import PreparedConfig, training_sets

# The result, in the run's `model/`, and how well it reads held-out people.
FILE, MEASURED = "expression.safetensors", "expression.json"
CHANCES = 17  # random numbers an image, see :func:`varied`
FIELDS = 32  # fields of noise, half of them fine and half coarse; a GPU waits for a CPU that draws new ones each step


class Expression(Strict):
    """The expression network: its size, what counts how much, and how images are varied."""

    widths: tuple[int, ...] = (64, 128, 256)  # channels a stage
    blocks: tuple[int, ...] = (1, 1, 2)  # residual blocks of each stage
    hidden: int = Field(192, ge=1)  # width of the layer that all readings are made from
    blendshapes: float = Field(1.0, ge=0)  # weight of the error of 52 numbers in [0, 1]: what the network is for
    angles: float = Field(0.5, ge=0)  # of three numbers in units of 45 degrees: easy to read, and must not lead
    points: float = Field(10.0, ge=0)  # of landmarks in shares of the side: a pixel of 128 is only 0.008
    light: float = Field(0.3, ge=0, lt=1)  # how much contrast, brightness and, half as much, each colour change
    blur: Share = 0.8  # at most this much of what is finer than four pixels is taken away
    noise: float = Field(0.15, ge=0)  # largest deviation of added noise, images being in [-1, 1]
    erase: Share = 0.25  # share of the images with a rectangle of one colour in them

    @model_validator(mode="after")
    def _fits(self) -> Expression:
        if len(self.widths) != len(self.blocks):
            raise ValueError("expression.widths and expression.blocks are of one length, a number a stage")
        if any(width % 32 for width in self.widths):
            raise ValueError("expression.widths are multiples of 32, for the groups of its norms")
        return self


class ExpressionConfig(PreparedConfig):
    """A run of the expression stage."""

    stage: Literal["expression"] = "expression"
    expression: Expression

    def build(self, device: torch.device) -> ExpressionStage:
        """A fresh network on the folder's images."""
        return ExpressionStage(self, device)


def labels(prepared: Prepared, rows: NDArray[np.int64]) -> Reading:
    """MediaPipe's reading of some samples, and after them of their mirror images: ``(2 N, ...)``."""
    side = prepared.images.shape[1]
    shapes, angles = prepared.blendshapes[rows], prepared.angles[rows] / np.float32(DEGREES)
    points = prepared.points[rows, :, :2] / np.float32(side)
    turned = points[:, symmetry.LANDMARKS] * np.array([-1, 1], np.float32) + np.array([1, 0], np.float32)
    parts = (
        (shapes, symmetry.blendshapes(shapes)),
        (angles, angles * np.array(symmetry.ANGLES, np.float32)),
        (points, turned),
    )
    return Reading(*(torch.from_numpy(np.concatenate(both)) for both in parts))


def noise_fields(side: int) -> Tensor:
    """Normal noise, fine and of four pixels' size: ``(FIELDS, 3, side, side)`` of deviation about 1."""
    source = generator(0, 31)
    fine = torch.randn(FIELDS // 2, 3, side, side, generator=source)
    coarse = torch.randn(FIELDS // 2, 3, side // 4, side // 4, generator=source)
    smooth = F.interpolate(coarse, (side, side), mode="bicubic")
    return torch.cat([fine, smooth / smooth.std()])


def varied(images: Tensor, chance: Tensor, fields: Tensor, config: Expression) -> Tensor:
    """Images lit, coloured, blurred, noisy and partly covered at random: generated ones are slightly wrong too.

    Nothing is moved, so that the labels hold.

    Args:
        images: ``(B, 3, S, S)`` in [-1, 1].
        chance: ``(B, CHANCES)`` in [0, 1): the colours' three gains, saturation, contrast, brightness, blur, which
            noise and how much, whether a rectangle is covered, its height and width, where it lies, and its colour.
        fields: see :func:`noise_fields`.
        config: how much of each.

    Returns:
        ``(B, 3, S, S)``, about [-1, 1].
    """
    side = images.shape[-1]
    spread = (2 * chance - 1)[:, :, None, None, None]
    light = config.light
    augmented = images * (1 + light / 2 * spread[:, 0:3, 0])
    grey = augmented.mean(1, keepdim=True)
    augmented = grey + (augmented - grey) * (1 + 2 * light * spread[:, 3])
    augmented = augmented * (1 + light * spread[:, 4]) + light * spread[:, 5]
    augmented = blurred(augmented, config.blur * spread[:, 6].clamp(min=0))
    field = fields[(chance[:, 7] * len(fields)).long()]
    augmented = augmented + config.noise * spread[:, 8].clamp(min=0) * field
    covered = rectangles(chance[:, 10:14], side, 0.1, 0.3) & (chance[:, 9] < config.erase).view(-1, 1, 1, 1)
    return torch.where(covered, spread[:, 14:17, 0], augmented).clamp(-1.2, 1.2)


class ExpressionObjective(nn.Module):
    """How far the readings are from MediaPipe's: quadratic within its own jitter, linear beyond."""

    def __init__(self, network: ExpressionNet, config: Expression) -> None:
        super().__init__()
        self.network, self.weights = network, config

    def forward(self, images: Tensor, blendshapes: Tensor, angles: Tensor, points: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` and what should be read from them, see :class:`Reading`, to the loss."""
        prediction, weights = self.network(images), self.weights
        return (
            weights.blendshapes * F.smooth_l1_loss(prediction.blendshapes, blendshapes, beta=0.1)
            + weights.angles * F.smooth_l1_loss(prediction.angles, angles, beta=0.1)
            + weights.points * F.smooth_l1_loss(prediction.points, points, beta=0.005)
        )


class ExpressionStage(Stage):
    """The expression network learns from images of any size, which stay where the network is if there is room."""

    data: TrainingSet

    def __init__(self, config: ExpressionConfig, device: torch.device) -> None:
        self.config, self.about = config, config.expression
        prepared, keep = config.read()
        self.data, self.held = training_sets(prepared, keep, config.scale)
        self.data.place(device)
        self.labels = Reading(*(part.to(device) for part in labels(prepared, self.data.rows)))
        self.held_labels = labels(prepared, self.held.rows) if self.held else None
        self.fields = noise_fields(prepared.images.shape[1]).to(device)
        torch.manual_seed(config.seed)
        self.model = ExpressionNet(self.about.widths, self.about.blocks, self.about.hidden)
        self.model.begin_with(Reading(*(part.mean(0, keepdim=True) for part in self.labels)))
        objective = ExpressionObjective(self.model, self.about)
        self.objective = objective.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def trained(self) -> list[nn.Module]:
        """The network."""
        return [self.model]

    def batch(self, step: int, index: int, parts: int, device: torch.device) -> dict[str, Any]:
        """Images varied at random, and what MediaPipe read of them."""
        size = self.config.batch_size // parts
        own = slice(index * size, (index + 1) * size)
        chosen = sample_indices(self.data, self.config.seed, step, self.config.batch_size)[own]
        source = generator(self.config.seed, 32, step)
        chance = torch.rand(self.config.batch_size, CHANCES, generator=source)[own]
        images = self.data.images(chosen).to(device)
        asked = Reading(*(part[chosen.to(part.device)] for part in self.labels))
        return {"images": varied(images, chance.to(device), self.fields, self.about), **asked._asdict()}

    def validate(self) -> float | None:
        """The root of the mean squared error of the blendshapes."""
        return self.measure().get("blendshapes_rmse")

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """How well held-out people are read; empty where nobody is.

        Of the blendshapes the root mean squared and the mean absolute error, and what share of their variance is
        explained; of the angles the mean absolute error in degrees; of landmarks that in shares of the image's side.
        """
        if self.held is None or self.held_labels is None:
            return {}
        count = self.held.count
        device = next(self.model.parameters()).device
        read = [self.model(self.held.images(part).to(device)) for part in torch.arange(count).split(128)]
        prediction = Reading(*(torch.cat(parts).cpu() for parts in zip(*read, strict=True)))
        asked = Reading(*(part[:count] for part in self.held_labels))
        wrong = Reading(*((one - other).double() for one, other in zip(prediction, asked, strict=True)))
        spread = (asked.blendshapes - asked.blendshapes.mean(0)).double().square().mean()
        degrees = DEGREES * wrong.angles.abs().mean(0)
        return {
            "images": float(count),
            "blendshapes_rmse": float(wrong.blendshapes.square().mean().sqrt()),
            "blendshapes_mae": float(wrong.blendshapes.abs().mean()),
            "blendshapes_explained": float(1 - wrong.blendshapes.square().mean() / spread.clamp(min=1e-9)),
            **{f"{name}_mae": float(value) for name, value in zip(("yaw", "pitch", "roll"), degrees, strict=True)},
            "points_mae": float(wrong.points.abs().mean()),
        }

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Images as the network sees them in training, and the same with the landmarks that it sees in them."""
        device = next(self.model.parameters()).device
        chosen = torch.arange(min(8, self.data.count))
        chance = torch.rand(len(chosen), CHANCES, generator=generator(0, 33)).to(device)
        images = varied(self.data.images(chosen).to(device), chance, self.fields, self.about)
        side = images.shape[-1]
        points = (self.model(images).points * side).long().clamp(0, side - 1).cpu()
        marked = images.cpu().clone()
        green = torch.tensor([-1.0, 1.0, -1.0])[:, None]
        for image, places in zip(marked, points, strict=True):
            image[:, places[:, 1], places[:, 0]] = green
        return torch.cat([images.cpu(), marked])

    def save(self, folder: Path) -> None:
        """The network, with what :meth:`measure` finds beside it."""
        expression.save(self.model, folder / FILE)
        if measured := self.measure():
            content = json.dumps({name: round(value, 6) for name, value in measured.items()}, indent=2) + "\n"
            try:
                with whole(folder / MEASURED) as partial:
                    partial.write_text(content)
            except OSError as error:
                raise CheckpointError(f"{folder / MEASURED} could not be written: {error}") from None
