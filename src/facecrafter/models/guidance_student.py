"""Guidance distillation (Meng et al., 2023): the predictions of Eq. 6 in one, with its scales as inputs.

The base and its controls stay as they are. What is trained lies beside them: low-rank updates of the base's layers (Hu
et al., 2022), and an embedding of the scales that joins the timestep's and sets the weights of Eq. 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from facecrafter.models.registry import FORMER_CONTROLS

# Sines of a scale w at these frequencies tell 0 to 8 apart, in steps of about a quarter.
FREQUENCIES = tuple(math.pi / 8 * 2**k for k in range(4))


# How the updated layers' names end. K and V of the conditions are not among them: they are computed once an image.
UPDATED = (".conv1", ".conv2", "attn2.to_q", ".to_out.0", "ff.net.2")

# Name, inputs, outputs, kernel (0 for a linear layer) and stride.
Layer = list[Any]


class LowRank(nn.Module):
    """An update of one linear or convolutional layer: the layer's own kernel to ``rank`` channels, and from there to
    its outputs. It starts at zero."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, rank: int) -> None:
        super().__init__()
        if kernel:
            self.down: nn.Module = nn.Conv2d(inputs, rank, kernel, stride, kernel // 2, bias=False)
            self.up: nn.Module = nn.Conv2d(rank, outputs, 1, bias=False)
        else:
            self.down, self.up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
        nn.init.zeros_(self.up.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """The layer's input to what is added to its output."""
        out: Tensor = self.up(self.down(x))
        return out


class GuidanceStudent(ModelMixin, ConfigMixin):
    """What makes a base predict what Eq. 6 says at given scales, in one prediction with every condition in it.

    A fresh one changes nothing: the prediction is the base's with all conditions, each with a weight of 1.

    Args:
        layers: the base's layers that it updates, see :func:`layers_of`.
        time_width: width of the base's timestep embedding.
        rank: of the updates.
        hidden: width of the scales' embedding.
        scale: the name of the model scale it was made for.
        controls: the names of the controls whose scales it reads after identity's.
    """

    @register_to_config
    def __init__(
        self,
        layers: Sequence[Layer],
        time_width: int,
        rank: int = 16,
        hidden: int = 128,
        scale: str = "mini",
        controls: Sequence[str] = FORMER_CONTROLS,
    ) -> None:
        super().__init__()
        self.updates = nn.ModuleList(
            LowRank(inputs, outputs, kernel, stride, rank) for _, inputs, outputs, kernel, stride in layers
        )
        self.read = nn.Sequential(nn.Linear((1 + len(controls)) * (1 + 2 * len(FREQUENCIES)), hidden), nn.SiLU())
        self.to_time, self.to_weights = nn.Linear(hidden, time_width), nn.Linear(hidden, len(controls))
        for layer in (self.to_time, self.to_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def controls(self) -> list[str]:
        """The controls whose scales it reads, in their order."""
        return list(self.config.controls)  # type: ignore[attr-defined]

    def inputs(self, unet: nn.Module, scales: Mapping[str, Tensor]) -> StudentInputs:
        """What makes a prediction of a base the student's.

        Args:
            unet: the base, which stays as it is.
            scales: of identity and of each control, ``(1,)`` or one for each sample; 0 for what is not given.
        """
        stacked = torch.stack([scales[name] for name in ("identity", *self.controls)], dim=1)
        embedded = self.read(_waves(stacked).to(self.dtype))
        modules = dict(unet.named_modules())
        updates = {modules[name]: update for (name, *_), update in zip(self.config.layers, self.updates, strict=True)}
        weights = dict(zip(self.controls, (1 + self.to_weights(embedded)).unbind(1), strict=True))
        return StudentInputs(self.to_time(embedded), weights, updates)


@dataclass(frozen=True)
class StudentInputs:
    """A student's part in one call of :func:`facecrafter.models.prediction.predict`.

    Attributes:
        time_update: added to the timestep embedding, ``(1 or B, width)``.
        weights: of Eq. 1 for each control, ``(1 or B,)``.
        updates: what is added to the outputs of the base's layers.
    """

    time_update: Tensor
    weights: dict[str, Tensor]
    updates: dict[nn.Module, nn.Module]


def student_of(unet: Any, rank: int, scale: str, controls: Sequence[str] = FORMER_CONTROLS) -> GuidanceStudent:
    """A fresh student of a base with some controls."""
    width = unet.time_embedding.linear_2.out_features
    return GuidanceStudent(layers_of(unet), width, rank, scale=scale, controls=list(controls))


def layers_of(unet: nn.Module) -> list[Layer]:
    """What a student updates: the convolutions of the residual blocks, the queries of the conditions, and what the
    attentions and the transformers' perceptrons put out."""
    layers: list[Layer] = []
    for name, module in unet.named_modules():
        if not name.endswith(UPDATED):
            continue
        if isinstance(module, nn.Conv2d):
            layers.append([name, module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0]])
        elif isinstance(module, nn.Linear):
            layers.append([name, module.in_features, module.out_features, 0, 1])
    return layers


def _waves(scales: Tensor) -> Tensor:
    """Scales ``(B, N)`` to ``(B, 9 N)``: themselves, and their sines and cosines."""
    turned = scales[..., None] * torch.tensor(FREQUENCIES, device=scales.device)
    return torch.cat([scales[..., None], turned.sin(), turned.cos()], dim=-1).flatten(1)
