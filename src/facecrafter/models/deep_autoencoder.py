"""The mini scale's autoencoder for larger images: 256 px to 8x8 latents, a factor of 32 a side.

A deep-compression autoencoder (Chen et al., 2024): every change of resolution has a straight path beside it that moves
pixels into channels and back, so that the convolutions only learn what this leaves over. Plain autoencoders of such
factors lose detail; with the straight paths depth costs little of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.models.autoencoder import LatentAutoencoder, ResidualBlock

PATCH = 4  # pixels a side that are folded into channels before the first convolution


class Down(nn.Module):
    """Half the side: a convolution, and beside it pixels moved into channels and averaged in groups.

    Args:
        inner, outer: channels before and after; ``4 * inner`` is a multiple of ``outer``, and ``outer`` of 4.
    """

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.outer = outer
        self.conv = nn.Conv2d(inner, outer // 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inner, H, W)`` to ``(B, outer, H / 2, W / 2)``."""
        straight = F.pixel_unshuffle(x, 2).unflatten(1, (self.outer, -1)).mean(2)
        return straight + F.pixel_unshuffle(self.conv(x), 2)


class Up(nn.Module):
    """Twice the side: a convolution, and beside it channels repeated and moved into pixels.

    Args:
        inner, outer: channels before and after; ``4 * outer`` is a multiple of ``inner``.
    """

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.repeats = 4 * outer // inner
        # Of one pixel: the residual blocks around it see the neighbours, and nine taps would cost as much as these.
        self.conv = nn.Conv2d(inner, 4 * outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inner, H, W)`` to ``(B, outer, 2 H, 2 W)``."""
        return F.pixel_shuffle(x.repeat_interleave(self.repeats, dim=1) + self.conv(x), 2)


class DeepAutoencoder(LatentAutoencoder):
    """A convolutional autoencoder with one stage a resolution.

    Args:
        size: side of the images in pixels that it is trained for, which makes it that of the whole model.
        latent_channels: channels of the latents before the fold; the denoiser sees ``fold**2`` times as many.
        widths: channels at a quarter, an eighth, ... of the image's side, each a quarter of a multiple of the next.
        encoder_blocks, decoder_blocks: residual blocks at these resolutions.
        fold: cells a side that are folded into channels after the encoder. 1: the last of the widths is at the
            latents' own resolution (a factor of 32 with four widths). 2: the encoder stops a stage earlier (a factor of
            16 with three widths), and the denoiser still works on 8x8 places of a 256 px image.
        latent_noise, scaling_factor: see :class:`facecrafter.models.autoencoder.FaceAutoencoder`.

    Raises:
        ValueError: widths and blocks that do not fit together.
    """

    @register_to_config
    def __init__(
        self,
        size: int = 256,
        latent_channels: int = 64,
        widths: Sequence[int] = (64, 128, 256, 256),
        encoder_blocks: Sequence[int] = (1, 1, 2, 2),
        decoder_blocks: Sequence[int] = (1, 2, 2, 3),
        fold: int = 1,
        latent_noise: float = 0.1,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        if not len(widths) == len(encoder_blocks) == len(decoder_blocks):
            raise ValueError("widths, encoder_blocks and decoder_blocks are of one length, a number a resolution")
        if widths[0] % 2 or any(4 * fine % coarse or coarse % 4 for fine, coarse in pairs):
            raise ValueError("four times each of widths is a multiple of the next, and each of these of 4")
        self.fold, self.factor = fold, PATCH * 2 ** (len(widths) - 1) * fold
        if size % self.factor:
            raise ValueError(f"size is a multiple of {self.factor}, the factor of these widths and fold")
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(PATCH),
            nn.Conv2d(3 * PATCH**2, widths[0], 3, padding=1),
            *_blocks(widths[0], encoder_blocks[0]),
            *(
                layer
                for (fine, coarse), count in zip(pairs, encoder_blocks[1:], strict=True)
                for layer in (Down(fine, coarse), *_blocks(coarse, count))
            ),
            nn.Conv2d(widths[-1], latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, widths[-1], 3, padding=1),
            *(
                layer
                for (fine, coarse), count in reversed(list(zip(pairs, decoder_blocks[1:], strict=True)))
                for layer in (*_blocks(coarse, count), Up(coarse, fine))
            ),
            *_blocks(widths[0], decoder_blocks[0]),
            nn.Conv2d(widths[0], 2 * widths[0], 3, padding=1),
            nn.PixelShuffle(2),
            ResidualBlock(widths[0] // 2),
            nn.Conv2d(widths[0] // 2, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )


def _blocks(width: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(width) for _ in range(count)]
