"""The mini scale's autoencoder: 128 px images to 8x8 latents and back. That for larger images is in
:mod:`facecrafter.models.deep_autoencoder`.

At the ``arc2face`` scale this place is taken by diffusers' ``AutoencoderKL``. Both answer the same two calls,
``encode(x).latent_dist`` and ``decode(z).sample``, so nothing downstream asks which one it holds.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a straight path. It starts as the identity, which spares a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        for value in self.conv2.parameters():
            nn.init.zeros_(value)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, width, H, W)`` to the same shape."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class LatentAutoencoder(ModelMixin, ConfigMixin):
    """What the mini scale's autoencoders share: their latents are folded, and their posterior's deviation is fixed.

    Attributes:
        encoder, decoder: from images and to images; a convolution is the encoder's last layer and the decoder's first.
        fold: cells a side that are folded into channels between them.
        factor: pixels a side of a place of the folded latents.
    """

    encoder: nn.Sequential
    decoder: nn.Sequential
    fold: int
    factor: int

    def latent_shape(self, side: int) -> tuple[int, int, int]:
        """The shape of the latents of an image of so many pixels a side, without the batch."""
        config: Any = self.config
        return config.latent_channels * self.fold**2, side // self.factor, side // self.factor

    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """Images ``(B, 3, H, W)`` in [-1, 1], sides divisible by the factor, to a Gaussian over latents
        ``(B, fold**2 * latent_channels, H / factor, W / factor)``."""
        config: Any = self.config
        mean = F.pixel_unshuffle(self.encoder(x), self.fold)
        log_variance = torch.full_like(mean, 2 * math.log(config.latent_noise))
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(torch.cat([mean, log_variance], dim=1)))

    def decode(self, z: Tensor) -> DecoderOutput:
        """Latents as :meth:`encode` gives them to images, about [-1, 1], not clipped."""
        return DecoderOutput(sample=self.decoder(F.pixel_shuffle(z, self.fold)))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> DecoderOutput:
        """Encode, sample, decode."""
        return self.decode(self.encode(x).latent_dist.sample(generator=generator))

    @torch.no_grad()
    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Fold per-channel statistics of the latents, each ``(latent_channels,)``, into the two convolutions that touch
        them: afterwards latents have zero mean and unit deviation, and reconstructions are what they were (but at the
        image's border, where zero padding now stands for another value)."""
        last: Any = self.encoder[-1]
        first: Any = self.decoder[0]
        last.weight.div_(std.view(-1, 1, 1, 1))
        last.bias.sub_(mean).div_(std)
        first.bias.add_((first.weight * mean.view(1, -1, 1, 1)).sum(dim=(1, 2, 3)))
        first.weight.mul_(std.view(1, -1, 1, 1))


class FaceAutoencoder(LatentAutoencoder):
    """A convolutional autoencoder without norms, cheap enough to train on two CPU cores.

    Images are folded into channels before the first convolution (4x4 pixels a cell), so nothing runs at full
    resolution. The latents are folded once more (2x2 cells) at the end: the denoiser works on 8x8 places with 32
    channels, where its matrix products are large and its memory traffic small.

    Args:
        latent_channels: channels of the latents before the last fold; the denoiser sees ``4 * latent_channels``.
        widths: channels at a quarter and at an eighth of the image's side.
        blocks: residual blocks at those two sizes in the encoder; the decoder has one more of each.
        latent_noise: standard deviation of the posterior around its mean, the same for every latent. A decoder
            trained under this noise forgives the denoiser's small errors.
        scaling_factor: latents are multiplied by it before diffusion. 1.0 here: training ends by folding the
            per-channel mean and deviation into the convolutions, so latents leave the encoder standardised.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        widths: tuple[int, int] = (96, 192),
        blocks: tuple[int, int] = (2, 3),
        latent_noise: float = 0.1,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.fold, self.factor = 2, 16
        fine, coarse = widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 3, padding=1),
            *(ResidualBlock(fine) for _ in range(blocks[0])),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * fine, coarse, 3, padding=1),
            *(ResidualBlock(coarse) for _ in range(blocks[1])),
            nn.Conv2d(coarse, latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, coarse, 3, padding=1),
            *(ResidualBlock(coarse) for _ in range(blocks[1] + 1)),
            nn.Conv2d(coarse, 4 * fine, 3, padding=1),
            nn.PixelShuffle(2),
            *(ResidualBlock(fine) for _ in range(blocks[0] + 1)),
            nn.Conv2d(fine, 2 * fine, 3, padding=1),
            nn.PixelShuffle(2),
            ResidualBlock(fine // 2),
            nn.Conv2d(fine // 2, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
