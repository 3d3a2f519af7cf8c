"""What IP-Adapter-FaceID-Plus makes of a face: tokens of its embedding that attend to CLIP's features of its image.

Ye et al., "IP-Adapter", 2023, and its authors' FaceID-Plus models; Jaegle et al., "Perceiver", 2021. The modules bear
the names of the published files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.baselines.adapter import Tokens

HEAD = 64  # numbers of an attention head


class PerceiverAttention(nn.Module):
    """Tokens ask features and each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * HEAD, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * HEAD, bias=False)
        self.to_out = nn.Linear(heads * HEAD, width, bias=False)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Features ``(B, F, width)`` and tokens ``(B, T, width)`` to ``(B, T, width)``."""
        features, tokens = self.norm1(features), self.norm2(tokens)
        keys, values = self.to_kv(torch.cat([features, tokens], 1)).chunk(2, dim=-1)
        parts = (part.unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in (self.to_q(tokens), keys, values))
        attended = F.scaled_dot_product_attention(*parts)
        return self.to_out(attended.transpose(1, 2).flatten(2))


class Perceiver(nn.Module):
    """Layers in which tokens read features, each with a perceptron after it.

    Args:
        inputs: numbers of a feature.
        width: of the tokens inside, and of those that come in.
        outputs: of the tokens that come out.
        heads: of each attention.
        depth: layers.
        hidden: width inside the perceptrons.
    """

    def __init__(self, inputs: int, width: int, outputs: int, heads: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.proj_in, self.proj_out = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.norm_out = nn.LayerNorm(outputs)
        self.layers = nn.ModuleList()
        for _ in range(depth):
            widen, narrow = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
            perceptron = nn.Sequential(nn.LayerNorm(width), widen, nn.GELU(), narrow)
            self.layers.append(nn.ModuleList([PerceiverAttention(width, heads), perceptron]))

    @classmethod
    def shaped_as(cls, tensors: dict[str, Tensor]) -> Perceiver:
        """One whose weights have the shapes of a published file's.

        Raises:
            KeyError: a tensor that says a shape is missing.
        """
        width, inputs = tensors["proj_in.weight"].shape
        depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
        heads, hidden = len(tensors["layers.0.0.to_q.weight"]) // HEAD, len(tensors["layers.0.1.1.weight"])
        return cls(inputs, width, len(tensors["proj_out.weight"]), heads, depth, hidden)

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Tokens ``(B, T, width)`` and features ``(B, F, inputs)`` to ``(B, T, outputs)``."""
        features = self.proj_in(features)
        layer: Any
        for layer in self.layers:
            attention, perceptron = layer
            tokens = tokens + attention(features, tokens)
            tokens = tokens + perceptron(tokens)
        return self.norm_out(self.proj_out(tokens))


class FaceTokens(Tokens):
    """A face's embedding and CLIP's features of its image to tokens.

    Args:
        inputs, hidden, tokens, width: see :class:`facecrafter.baselines.adapter.Tokens`.
        perceiver: through which the embedding's tokens see the features.
        shortcut: add what it says to the embedding's tokens (Plusv2), or let it stand for them (Plus).
    """

    def __init__(self, inputs: int, hidden: int, tokens: int, width: int, perceiver: Perceiver, shortcut: bool) -> None:
        super().__init__(inputs, hidden, tokens, width)
        self.perceiver_resampler, self.shortcut = perceiver, shortcut

    def forward(self, vector: Tensor, features: Tensor) -> Tensor:  # type: ignore[override]
        """``(B, inputs)`` and ``(B, F, features)`` to ``(B, tokens, width)``."""
        own = super().forward(vector)
        attended: Tensor = self.perceiver_resampler(own, features)
        return own + attended if self.shortcut else attended
