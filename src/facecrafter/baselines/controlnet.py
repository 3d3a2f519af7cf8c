"""Arc2Face + ControlNet: a copy of the base's encoder with zero convolutions (Zhang et al., 2023).

The network is diffusers' own. Its cross-attention reads the base's identity tokens. Arc2Face's published ControlNet is
conditioned on rendered normals of EMOCA's FLAME mesh; this one reads the landmark image that our landmark module reads,
so that the two differ in the network alone.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from diffusers import ControlNetModel
from numpy.typing import NDArray
from torch import Tensor, nn

from facecrafter.baselines.base import Baseline
from facecrafter.faces import landmarks
from facecrafter.models import attention
from facecrafter.models.checkpoint import FaceModel
from facecrafter.request import Portrait

# Channels of the condition's convolutions, by how many pixels of an image's side share a place of the latents.
CONDITION_CHANNELS = {8: (16, 32, 96, 256), 16: (16, 32, 64, 96, 256), 32: (16, 32, 64, 96, 128, 256)}


def condition_channels(size: int, unet: Any) -> tuple[int, ...]:
    """The channels for a condition of ``size`` pixels a side, as large as the images of a UNet."""
    return CONDITION_CHANNELS[size // int(unet.config.sample_size)]


class EncoderCopy(Baseline, ControlNetModel):
    """A copy of the base's encoder that adds to the base's features, through convolutions that start at zero."""

    channels: ClassVar[int] = 3

    @classmethod
    def beside(cls, base: FaceModel) -> Self:
        """A fresh one, sized for a base."""
        copy: Self = cls.from_unet(
            base.unet,
            conditioning_embedding_out_channels=condition_channels(base.scale.size, base.unet),
            conditioning_channels=cls.channels,
        )
        return copy.train(base.unet.training)

    def fits(self, base: FaceModel) -> bool:
        """Whether the base has the shapes that it was made for."""
        own: Any = self.config
        theirs: Any = base.unet.config
        names = ("in_channels", "down_block_types", "block_out_channels", "layers_per_block", "cross_attention_dim")
        return all(_plain(own[name]) == _plain(theirs[name]) for name in names)

    def install(self, plain: bool) -> None:
        """Set how its attention layers compute."""
        attention.install(self, plain)

    def predict(
        self, unet: nn.Module, noisy: Tensor, timesteps: Tensor, tokens: Tensor, prepared: Any, rows: Tensor
    ) -> Tensor:
        """The base's prediction with what it adds, ``(B, C, H, W)``."""
        if len(rows) == 0:
            return unet(noisy, timesteps, tokens).sample
        down, middle = self(noisy[rows], timesteps[rows], tokens[rows], prepared, return_dict=False)

        def spread(part: Tensor) -> Tensor:
            return part.new_zeros(len(noisy), *part.shape[1:]).index_copy(0, rows, part)

        return unet(
            noisy,
            timesteps,
            tokens,
            down_block_additional_residuals=[spread(part) for part in down],
            mid_block_additional_residual=spread(middle),
        ).sample


class ControlNetBaseline(EncoderCopy):
    """Conditioned on the landmark image."""

    kind = "controlnet"
    title = "Arc2Face + ControlNet"

    def read(self, portrait: Portrait, size: int) -> NDArray[np.float32]:
        """The landmark image ``(3, size, size)`` in [0, 1]."""
        drawn = landmarks.draw(portrait.points, portrait.size, size)
        return np.asarray(drawn.transpose(2, 0, 1) / 255, np.float32)


def _plain(value: Any) -> Any:
    """JSON has no tuples."""
    return list(value) if isinstance(value, list | tuple) else value
