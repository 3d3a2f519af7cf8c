"""The base: UNet and identity encoder, by Eq. 4 and by losses on finished images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from facecrafter import weights
from facecrafter.data.dataset import TrainingSet
from facecrafter.errors import ConfigError
from facecrafter.estimators import emotion, expression
from facecrafter.estimators.differentiable import ARCFACE_CROP, differentiable
from facecrafter.estimators.lpips import LPIPS
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.models import checkpoint, scales
from facecrafter.models.pretrained import is_published
from facecrafter.training.batches import Draw, generator
from facecrafter.training.config import PLACE, start_folder
from facecrafter.training.image_loss import ImageLoss, ImageLossConfig, Rollout, rollout_timesteps
from facecrafter.training.stages.diffusion import (
    DiffusionLossConfig,
    DiffusionStage,
    EncoderConfig,
    Mixed,
    add_controls,
    load_start,
)
from facecrafter.training.stages.objective import DiffusionObjective
from facecrafter.training.words import CROP as WORD_CROP
from facecrafter.training.words import WordLoss, vectors


class BaseConfig(Mixed, EncoderConfig, DiffusionLossConfig):
    """A run of the base stage. A `start` that holds an autoencoder alone gives a fresh base."""

    stage: Literal["base"] = "base"
    fresh_controls: bool = False  # begin with untrained control modules, whatever `start` holds
    scaffold: bool = False  # train the controls along, which steadies a short run (see docs/method.md)
    # Shares of the learning rate, as those of the encoder.
    scaffold_rate: float = Field(1.0, gt=0)  # the controls, where they are trained along
    discriminator_rate: float = Field(1.0, gt=0)  # the discriminators of image_loss.adversary
    image_loss: ImageLossConfig = ImageLossConfig()
    arcface: Annotated[Path | None, PLACE] = None  # arcface.onnx, which the identity loss reads at the arc2face scale

    @model_validator(mode="after")
    def _images_fit(self) -> BaseConfig:
        images = self.image_loss
        if images.on and (images.batch > self.batch_size or images.batch % self.accumulate):
            raise ValueError("image_loss.batch is at most batch_size, and a multiple of accumulate")
        if images.on and images.learning > images.steps:
            raise ValueError(f"image_loss.learning is at most image_loss.steps, {images.steps}")
        return self

    def divided(self) -> dict[str, int]:
        """The batch, and that of the finished images."""
        return {**super().divided(), **({"image_loss.batch": self.image_loss.batch} if self.image_loss.on else {})}

    def build(self, device: torch.device) -> BaseStage:
        """The base that `start` holds, or a fresh one on its autoencoder."""
        return BaseStage(self, device)


class BaseObjective(DiffusionObjective):
    """Eq. 4, and what is wrong with finished images."""

    words: Tensor

    def __init__(self, model: checkpoint.FaceModel, config: BaseConfig) -> None:
        super().__init__(model, config.snr_gamma)
        self.image_loss = _image_loss(model, config, self.alpha_bars) if config.image_loss.on else None
        self.register_buffer("words", vectors(), persistent=False)

    def forward(self, rollout: Rollout | None = None, **batch: Any) -> Tensor:  # type: ignore[override]
        """The loss of a batch.

        Args:
            rollout: what :class:`ImageLoss` needs, for the first rows of the batch.
            batch: see :class:`DiffusionObjective`.
        """
        loss = super().forward(**batch)
        if rollout is None or self.image_loss is None:
            return loss
        first = len(rollout.identity)
        weights = {name: weight[:first] for name, weight in batch["weights"].items()}
        values = {name: batch["values"][name][: len(rows)] for name, rows in rollout.rows.items()}
        if len(values.get("emotion", ())):
            # What a word asks for takes the place of the photo's emotion.
            words = rollout.words[rollout.rows["emotion"]]
            asked = self.words[words.clamp(min=0)].to(values["emotion"])
            values["emotion"] = torch.where(words[:, None] >= 0, asked, values["emotion"])
        conditions = self.conditions(values, weights, rollout.rows)
        return loss + self.image_loss(rollout, self.encoder(rollout.identity), conditions)


def _image_loss(model: checkpoint.FaceModel, config: BaseConfig, alpha_bars: Tensor) -> ImageLoss:
    recogniser, crop = differentiable(model.scale.recogniser, config.arcface)
    perceptual = LPIPS(weights.locate("lpips_alexnet")) if config.image_loss.perceptual else None
    reader, words = config.image_loss.expression_net, config.image_loss.emotion_net
    kind = str(model.scale.scheduler["prediction_type"])
    return ImageLoss(
        model.unet, model.autoencoder, recogniser, crop, perceptual, alpha_bars, kind, config.image_loss,
        embedding=model.scale.embedding, expression=expression.load(reader) if reader else None,
        words=WordLoss(emotion.load(words)) if words else None,
    )  # fmt: skip


class BaseStage(DiffusionStage[BaseConfig]):
    """UNet and identity encoder learn; with ``scaffold: true`` the controls learn along."""

    objective: BaseObjective

    def __init__(self, config: BaseConfig, device: torch.device) -> None:
        super().__init__(config, device)
        loss = self.objective.image_loss
        # The face, and what the recogniser and the emotion network read, each with where it is when the pose is free.
        crops = (ARCFACE_CROP, loss.crop, WORD_CROP) if loss else ()
        self.crops = [(crop, self.data.usual_crop_grid(crop).to(self.drawn_on)) for crop in crops]

    def _starting_model(self) -> checkpoint.FaceModel:
        config, start = self.config, start_folder(self.config.start)
        if (start / "unet.safetensors").is_file() or (config.scale == "arc2face" and is_published(start)):
            model = load_start(config)
        else:
            scale = scales.SCALES[config.scale]
            torch.manual_seed(config.seed)
            autoencoder = checkpoint.load_part(start / "autoencoder.safetensors", "autoencoder", scale.name)
            scale = scales.fitting(scale, autoencoder)
            model = checkpoint.FaceModel(scale, scales.build_unet(scale), scales.build_encoder(scale), autoencoder)
        if config.fresh_controls:
            model.controls = None
        if model.controls is None and config.scaffold:
            add_controls(model, config.seed)
        if model.controls is None and config.mixture.foreign():
            raise ConfigError(
                f"the mixture names controls, and {config.start} has none; set scaffold: true, or drop them"
            )
        return model

    def _build_objective(self) -> nn.Module:
        torch.manual_seed(self.config.seed)  # of the discriminators
        return BaseObjective(self.model, self.config)

    def trained(self) -> list[nn.Module]:
        """UNet, encoder, the scaffold, and discriminators."""
        scaffold = [self.model.controls] if self.config.scaffold and self.model.controls else []
        return [self.model.unet, self.model.encoder, *scaffold, *self._discriminators]

    def learned_controls(self) -> Sequence[str]:
        """All of them, as a scaffold."""
        return self.model.controls.names if self.model.controls and self.config.scaffold else ()

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """Rates of the encoder, the identity's K and V, the scaffold and the discriminators."""
        model, config = self.model, self.config
        scaffold = list(model.controls.parameters()) if model.controls else []
        discriminators = [one for module in self._discriminators for one in module.parameters()]
        return [
            *config.encoder_rates(model),
            (scaffold, config.scaffold_rate),
            (discriminators, config.discriminator_rate),
        ]

    @property
    def _discriminators(self) -> list[nn.Module]:
        """What learns along and is no part of the model."""
        loss = self.objective.image_loss
        return [loss.discriminators] if loss is not None and loss.discriminators is not None else []

    def _more(self, data: TrainingSet, chosen: Draw, identity: Tensor, place: tuple[int, int, int]) -> dict[str, Any]:
        if not self.config.image_loss.on or data is not self.data:
            return {}
        step, index, parts = place
        return {"rollout": self._rollout(step, index, chosen, identity, self.config.image_loss.batch // parts)}

    def _rollout(self, step: int, index: int, chosen: Draw, identity: Tensor, count: int) -> Rollout:
        """Rollouts for the first ``count`` samples of a batch: some keep their person, some get one between two people
        or another one altogether."""
        config, data, device = self.config.image_loss, self.data, self.drawn_on
        source = generator(self.config.seed, 3, step, index, device=device)
        rand, randint = (partial(one, generator=source, device=device) for one in (torch.rand, torch.randint))
        other = data.identity[randint(0, data.count, (count,))]
        kind, between = rand(2, count, 1)
        crossed, blended = kind < config.cross, kind < config.cross + config.blend
        share = torch.where(crossed, 1.0, between * blended)
        # Which sample has which conditions is known on the CPU, and so is how many have each.
        given = {name: weight[:count] != 0 for name, weight in chosen.weights.items() if name in data.encoded}
        indices, posed = chosen.indices[:count], given["landmark"].to(device)
        moved = given["emotion"].to(device) & ~posed
        grids, views, frames = (
            torch.where(posed.view(-1, 1, 1), data.crop_grids(crop, indices), usual) for crop, usual in self.crops
        )
        learns = torch.zeros(config.steps, dtype=torch.bool, device=device)
        learns[torch.randperm(config.steps, generator=source, device=device)[: config.learning]] = True
        noise = torch.randn(count, *chosen.noise.shape[1:], generator=source, device=device)
        timesteps = rollout_timesteps(config.steps, rand(config.steps - 1))
        jitter = 2 * rand(count, 8) - 1
        worded = moved & (rand(count) < config.word_share * (config.words > 0))
        words = torch.where(worded, randint(0, len(EMOTIONS), (count,)), -1)
        return Rollout(
            noise=noise,
            timesteps=timesteps,
            learns=learns if self.config.drawn_on_device else tuple(learns.tolist()),
            rows={name: own.nonzero().squeeze(1) for name, own in given.items()},
            identity=nn.functional.normalize((1 - share) * identity[:count] + share * other, dim=-1),
            own=~blended.squeeze(1),
            posed=posed,
            moved=moved & ~worded,
            words=words,
            photos=data.images(indices),
            masks=data.face_masks(indices),
            grids=grids,
            views=views,
            frames=frames,
            jitter=jitter,
        )
