"""The autoencoder: images to latents and back (mini only; arc2face brings Stable Diffusion's)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from facecrafter import weights
from facecrafter.config import Strict
from facecrafter.data.dataset import TrainingSet
from facecrafter.errors import ConfigError
from facecrafter.estimators.lpips import LPIPS
from facecrafter.models import checkpoint, scales
from facecrafter.training import losses
from facecrafter.training.batches import generator, sample_indices
from facecrafter.training.config import PLACE, Share, Stage, start_folder
from facecrafter.training.discriminator import Discriminator, balance, pleasing_loss, telling_loss
from facecrafter.training.stages.prepared import PreparedConfig, training_sets

# On so many photos latents are standardised: once, or again and again by a run that writes its model on the way, for
# which 128 of 256 px give a channel's deviation to 1 %.
STANDARDISED, STANDARDISED_OFTEN = 2048, 128


class Architecture(Strict):
    """A deep autoencoder; see :class:`facecrafter.models.deep_autoencoder.DeepAutoencoder`."""

    size: int = Field(256, ge=32)  # side of the images in pixels, and with it of the whole model's
    latent_channels: int = Field(64, ge=1)
    widths: tuple[int, ...] = (64, 128, 256, 256)
    encoder_blocks: tuple[int, ...] = (1, 1, 2, 2)
    decoder_blocks: tuple[int, ...] = (1, 2, 2, 3)
    fold: int = Field(1, ge=1)
    latent_noise: float = Field(0.1, gt=0)


class AutoencoderLoss(Strict):
    """What the autoencoder is trained for."""

    lpips: float = Field(0.3, ge=0)  # weight of LPIPS (AlexNet) beside L1
    prior: float = Field(1e-3, ge=0)  # weight of the latents' mean square, which bounds them under the fixed noise
    crop: int = Field(64, ge=32, multiple_of=16)  # side of the training crops in pixels
    whole_from: Share = 0.75  # from this share of the run on, whole images, a third as many a step
    # After so many samples the encoder stays as it is and the decoder alone learns, on whole images: what was trained
    # on the latents stays right however long the decoder goes on. null: the encoder learns to the end.
    encoder_samples: int | None = Field(None, ge=1)
    # From then on: how hard a discriminator pulls that tells reconstructions from photos, 1 being as hard as the others
    # together. L1 and LPIPS answer with an average where the latents leave something open; photos are sharp.
    adversary: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _adversary_begins(self) -> AutoencoderLoss:
        if self.adversary and self.encoder_samples is None:
            raise ValueError("`adversary` begins when the encoder is done; say when by `encoder_samples`")
        return self


class AutoencoderConfig(PreparedConfig):
    """A run of the autoencoder stage."""

    SHARES_OF_STEPS: ClassVar[tuple[str, ...]] = ("loss.whole_from",)

    stage: Literal["autoencoder"] = "autoencoder"
    begin_with: Annotated[Path | None, PLACE] = None  # a model folder whose autoencoder is trained further
    autoencoder: Architecture | None = None  # null: the scale's own, of 128 px
    loss: AutoencoderLoss = AutoencoderLoss()
    adversary_rate: float = Field(6.0, gt=0)  # its share of the learning rate

    @model_validator(mode="after")
    def _has_an_autoencoder_to_train(self) -> AutoencoderConfig:
        if self.scale != "mini":
            raise ValueError("the arc2face scale brings its own autoencoder; only mini trains one")
        if self.loss.crop > self.image_size():
            raise ValueError(f"loss.crop is at most the images' side, {self.image_size()}")
        return self

    def wants_steps(self) -> str:
        """Where crops give way to whole images on the way."""
        return "loss.whole_from to 0 or 1" if 0 < self.loss.whole_from < 1 else ""

    def image_size(self) -> int:
        """As the architecture says, or the scale."""
        return self.autoencoder.size if self.autoencoder else super().image_size()

    def build(self, device: torch.device) -> AutoencoderStage:
        """A fresh autoencoder on the folder's images, or that of `begin_with`."""
        return AutoencoderStage(self, device)


class AutoencoderObjective(nn.Module):
    """L1 + LPIPS + a prior on the latents, under the posterior's noise; later on a discriminator.

    Args:
        autoencoder: what learns.
        perceptual: LPIPS.
        about: the weights.
        embedding: width of the identity embeddings, which the discriminator is given.
    """

    def __init__(self, autoencoder: Any, perceptual: Any, about: AutoencoderLoss, embedding: int) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder
        self.perceptual: Any = perceptual
        self.weights = about
        self.discriminator = Discriminator(embedding) if about.adversary else None

    def forward(self, images: Tensor, noise: Tensor, identity: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            images: ``(B, 3, S, S)`` in [-1, 1].
            noise: standard normal, of the latents' shape.
            identity: who they are, ``(B, D)`` of unit length; given when the encoder has learned enough, and the
                decoder alone learns.
        """
        weights = self.weights
        with torch.set_grad_enabled(torch.is_grad_enabled() and identity is None):
            posterior = self.autoencoder.encode(images).latent_dist
        made = self.autoencoder.decode(posterior.mean + posterior.std * noise).sample
        maps, photos = self.perceptual.features(made), self.perceptual.features(images)
        perceptual = self.perceptual.distance(maps, photos)
        loss = losses.reconstruction_loss(made, images, posterior.mean, perceptual, weights.prior, weights.lpips)
        if identity is None or self.discriminator is None:
            return loss
        pleasing = pleasing_loss(self.discriminator, maps, identity)
        own = torch.ones(len(images), device=images.device)
        telling = telling_loss(self.discriminator, maps, photos, identity, own)
        pull = balance(loss, pleasing.mean(), made)
        return loss + weights.adversary * (pull * pleasing).mean() + telling


class AutoencoderStage(Stage):
    """Images to latents and back."""

    data: TrainingSet
    objective: AutoencoderObjective

    def __init__(self, config: AutoencoderConfig, device: torch.device) -> None:
        self.config = config
        self.data, self.held = training_sets(*config.read_at_scale(), config.scale)
        self.data.place(device)
        torch.manual_seed(config.seed)
        settings = config.autoencoder.model_dump() if config.autoencoder else None
        self.model: Any = scales.build_autoencoder(scales.SCALES[config.scale], settings)
        if config.begin_with is not None:
            self._begin_with(start_folder(config.begin_with) / "autoencoder.safetensors")
        perceptual = LPIPS(weights.locate("lpips_alexnet"))
        objective = AutoencoderObjective(self.model, perceptual, config.loss, self.data.identity.shape[1])
        self.objective = objective.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _begin_with(self, file: Path) -> None:
        """Take up the weights of an earlier one."""
        earlier = checkpoint.load_part(file, "autoencoder", self.config.scale)
        own, theirs = self.model.state_dict(), earlier.state_dict()
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in theirs.items()}:
            raise ConfigError(f"{file} is an autoencoder of other sizes than `autoencoder` says; name another start")
        self.model.load_state_dict(theirs)

    def trained(self) -> list[nn.Module]:
        """The autoencoder, and the discriminator."""
        return [self.model, *([self.objective.discriminator] if self.objective.discriminator else [])]

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """The rate of the discriminator."""
        discriminator = self.objective.discriminator
        return [(list(discriminator.parameters()), self.config.adversary_rate)] if discriminator else []

    def encoder_learns(self, step: int) -> bool:
        """Whether at a step the encoder still learns."""
        enough = self.config.loss.encoder_samples
        return enough is None or step * self.config.batch_size < enough

    def settled(self, step: int) -> list[nn.Parameter]:
        """The encoder, when it has learned enough."""
        done = not self.encoder_learns(step) and (step == 0 or self.encoder_learns(step - 1))
        return list(self.model.encoder.parameters()) if done else []

    def batch(self, step: int, index: int, parts: int, device: torch.device) -> dict[str, Tensor]:
        """Crops for the first part of the run, whole images after it: crops see more faces a second, and whole
        images teach the borders."""
        config, side = self.config, self.data.pixels.shape[1]
        learns = self.encoder_learns(step)
        whole = not learns or step >= config.loss.whole_from * config.steps
        crop = side if whole else config.loss.crop
        size = max(parts, config.batch_size // 3 if whole else config.batch_size) // parts
        source = generator(config.seed, 2, step)
        left, top = torch.randint(0, side - crop + 1, (2,), generator=source).tolist()
        chosen = sample_indices(self.data, config.seed, step, config.batch_size)[index * size : (index + 1) * size]
        noise = torch.randn(size * parts, *self.model.latent_shape(crop), generator=source)
        images = self.data.images(chosen)[:, :, top : top + crop, left : left + crop]
        batch = {
            "images": images.to(device, memory_format=torch.channels_last),
            "noise": noise[index * size : (index + 1) * size].to(device),
        }
        if not learns:
            batch["identity"] = self.data.identity[chosen % self.data.count].to(device)
        return batch

    @torch.no_grad()
    def validate(self) -> float | None:
        """The loss on 64 images of held-out people, without the noise on the latents."""
        if self.held is None:
            return None
        device, losses_ = next(self.model.parameters()).device, []
        for chosen in torch.arange(min(64, self.held.count)).split(16):
            images = self.held.images(chosen).to(device)
            noise = torch.zeros(len(chosen), *self.model.latent_shape(images.shape[2]), device=device)
            losses_.append(float(self.objective(images, noise)) * len(chosen))
        return sum(losses_) / min(64, self.held.count)

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Eight images above their reconstructions."""
        device = next(self.model.parameters()).device
        images = self.data.images(torch.arange(min(8, self.data.count))).to(device)
        return torch.cat([images, self.model.decode(self.model.encode(images).latent_dist.mode()).sample]).cpu()

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Write the autoencoder, its latents standardised over the training set; over the photos alone where other
        folders are beside them, which may grow."""
        model = copy.deepcopy(self.model)
        device = next(model.parameters()).device
        photos = self.data.by_source[0]
        count = min(STANDARDISED if self.config.autoencoder is None else STANDARDISED_OFTEN, len(photos))
        rows = photos[torch.linspace(0, len(photos) - 1, count).long()].split(64)
        latents = torch.cat([model.encoder(self.data.images(part).to(device)) for part in rows])
        model.standardise(latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save_part(model, folder / "autoencoder.safetensors", "autoencoder", self.config.scale)
