"""Decoupled cross-attention (IP-Adapter; Ye et al., 2023): tokens with keys and values of their own in every block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from facecrafter.baselines.base import Baseline
from facecrafter.models import attention
from facecrafter.models.attention import AttentionInputs, Branch, KeyValue
from facecrafter.models.checkpoint import FaceModel


class Tokens(nn.Module):
    """A vector to tokens: two linear layers with GELU between them, and a layer norm over each token.

    Args:
        inputs: numbers of the vector.
        hidden: width between the layers.
        tokens: how many.
        width: of each.
    """

    def __init__(self, inputs: int, hidden: int, tokens: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, tokens * width))
        self.norm = nn.LayerNorm(width)

    def forward(self, vector: Tensor) -> Tensor:
        """``(B, inputs)`` to ``(B, tokens, width)``."""
        return self.norm(self.proj(vector).unflatten(-1, (-1, self.norm.normalized_shape[0])))


class TokenAdapter(Baseline, ModelMixin, ConfigMixin):
    """Tokens and their K and V, summed with the base's attention as Eq. 1 has it. Values start at zero."""

    def _build(self, tokens: Tokens, block_widths: Sequence[int], width: int) -> None:
        self.tokens = tokens
        self.token_keys = nn.ModuleList(nn.Linear(width, block, bias=False) for block in block_widths)
        values = [nn.Linear(width, block, bias=False) for block in block_widths]
        for value in values:
            nn.init.zeros_(value.weight)
        self.token_values = nn.ModuleList(values)

    def fits(self, base: FaceModel) -> bool:
        """Whether the base has the shapes that it was made for."""
        own: Any = self.config
        return list(own.block_widths) == attention.cross_attention_widths(base.unet)

    def prepare(self, condition: Tensor) -> list[KeyValue]:
        """K and V of conditions ``(R, inputs)`` in every cross-attention block."""
        tokens = self.tokens(condition)
        return [(key(tokens), value(tokens)) for key, value in zip(self.token_keys, self.token_values, strict=True)]

    def predict(
        self, unet: nn.Module, noisy: Tensor, timesteps: Tensor, tokens: Tensor, prepared: Any, rows: Tensor
    ) -> Tensor:
        """The base's prediction with what it adds, ``(B, C, H, W)``."""
        branches = [Branch(prepared, rows, torch.ones(len(rows), device=rows.device))] if len(rows) else []
        conditions = AttentionInputs(branches)
        return unet(noisy, timesteps, tokens, cross_attention_kwargs={"conditions": conditions}).sample
