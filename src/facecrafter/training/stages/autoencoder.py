"""The autoencoder: images to latents and back (mini only; arc2face brings Stable Diffusion's)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from facecrafter import weights
from facecrafter.config import Strict
from facecrafter.data.dataset import TrainingSet
from facecrafter.estimators.lpips import LPIPS
from facecrafter.models import checkpoint, scales
from facecrafter.training import losses
from facecrafter.training.batches import batch_indices, generator
from facecrafter.training.config import Share, Stage
from facecrafter.training.stages.prepared import PreparedConfig, training_sets


class AutoencoderLoss(Strict):
    """What the autoencoder is trained for."""

    lpips: float = Field(0.3, ge=0)  # weight of LPIPS (AlexNet) beside L1
    prior: float = Field(1e-3, ge=0)  # weight of the latents' mean square, which bounds them under the fixed noise
    crop: int = Field(64, ge=32, multiple_of=16)  # side of the training crops in pixels
    whole_from: Share = 0.75  # from this share of the run on, whole images, a third as many a step


class AutoencoderConfig(PreparedConfig):
    """A run of the autoencoder stage."""

    SHARES_OF_STEPS: ClassVar[tuple[str, ...]] = ("loss.whole_from",)

    stage: Literal["autoencoder"] = "autoencoder"
    loss: AutoencoderLoss = AutoencoderLoss()

    @model_validator(mode="after")
    def _has_an_autoencoder_to_train(self) -> AutoencoderConfig:
        if self.scale != "mini":
            raise ValueError("the arc2face scale brings its own autoencoder; only mini trains one")
        return self

    def build(self, device: torch.device) -> AutoencoderStage:
        """A fresh autoencoder on the folder's images."""
        return AutoencoderStage(self, device)


class AutoencoderObjective(nn.Module):
    """L1 + LPIPS + a prior on the latents, under the posterior's noise."""

    def __init__(self, autoencoder: Any, perceptual: nn.Module, about: AutoencoderLoss) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder
        self.perceptual, self.weights = perceptual, about

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` in [-1, 1] and normal noise of the latents' shape to the loss."""
        posterior = self.autoencoder.encode(images).latent_dist
        reconstruction = self.autoencoder.decode(posterior.mean + posterior.std * noise).sample
        perceptual = self.perceptual(reconstruction, images)
        weights = self.weights
        return losses.reconstruction_loss(
            reconstruction, images, posterior.mean, perceptual, weights.prior, weights.lpips
        )


class AutoencoderStage(Stage):
    """Images to latents and back."""

    data: TrainingSet

    def __init__(self, config: AutoencoderConfig, device: torch.device) -> None:
        self.config = config
        self.data, self.held = training_sets(*config.read_at_scale())
        torch.manual_seed(config.seed)
        self.model = scales.build_autoencoder(scales.SCALES[config.scale])
        perceptual = LPIPS(weights.locate("lpips_alexnet"))
        objective = AutoencoderObjective(self.model, perceptual, config.loss)
        self.objective = objective.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def trained(self) -> list[nn.Module]:
        """The autoencoder."""
        return [self.model]

    def batch(self, step: int, index: int, parts: int, device: torch.device) -> dict[str, Tensor]:
        """Crops for the first part of the run, whole images after it: crops see more faces a second, and whole
        images teach the borders."""
        config, side = self.config, self.data.pixels.shape[1]
        whole = step >= config.loss.whole_from * config.steps
        crop = side if whole else config.loss.crop
        size = max(parts, config.batch_size // 3 if whole else config.batch_size) // parts
        source = generator(config.seed, 2, step)
        left, top = torch.randint(0, side - crop + 1, (2,), generator=source).tolist()
        chosen = batch_indices(config.seed, step, config.batch_size, len(self.data))[index * size : (index + 1) * size]
        noise = torch.randn(
            size * parts, 4 * self.model.config.latent_channels, crop // 16, crop // 16, generator=source
        )
        images = self.data.images(chosen)[:, :, top : top + crop, left : left + crop]
        return {
            "images": images.to(device, memory_format=torch.channels_last),
            "noise": noise[index * size : (index + 1) * size].to(device),
        }

    @torch.no_grad()
    def validate(self) -> float | None:
        """The loss on 64 images of held-out people, without the noise on the latents."""
        if self.held is None:
            return None
        device, losses_ = next(self.model.parameters()).device, []
        for chosen in torch.arange(min(64, self.held.count)).split(16):
            images = self.held.images(chosen).to(device)
            shape = (len(chosen), 4 * self.model.config.latent_channels, *(side // 16 for side in images.shape[2:]))
            losses_.append(float(self.objective(images, torch.zeros(shape, device=device))) * len(chosen))
        return sum(losses_) / min(64, self.held.count)

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Eight images above their reconstructions."""
        device = next(self.model.parameters()).device
        images = self.data.images(torch.arange(min(8, self.data.count))).to(device)
        return torch.cat([images, self.model.decode(self.model.encode(images).latent_dist.mode()).sample]).cpu()

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Write the autoencoder, its latents standardised over the training set."""
        model = copy.deepcopy(self.model)
        device = next(model.parameters()).device
        count = min(2048, self.data.count)
        rows = torch.linspace(0, self.data.count - 1, count).long().split(64)
        latents = torch.cat([model.encoder(self.data.images(part).to(device)) for part in rows])
        model.standardise(latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save_part(model, folder / "autoencoder.safetensors", "autoencoder", self.config.scale)
