"""Landmark image to tokens: a plain CNN whose last feature map, read row by row, is the sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LandmarkModule(nn.Module):
    """3x3 convolutions with SiLU between them.

    Args:
        channels: of every feature map, the input's three first, the context width last.
        strides: of every convolution.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        if len(strides) != len(channels) - 1:
            raise ValueError(f"{len(channels) - 1} convolutions need as many strides, not {len(strides)}")
        self.convs = nn.ModuleList(
            nn.Conv2d(inner, outer, 3, stride, padding=1)
            for inner, outer, stride in zip(channels[:-1], channels[1:], strides, strict=True)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Landmark images ``(B, 3, S, S)`` in [0, 1] to tokens ``(B, T, width)``, T places in rows from the top.

        Every token is normalised, and its place in the image is added as sines: attention is blind to order, and a
        landmark that has lost its place says nothing.
        """
        x = image
        for index, conv in enumerate(self.convs):
            x = conv(F.silu(x) if index else x)
        height, width = x.shape[-2:]
        tokens = F.layer_norm(x.flatten(2).transpose(1, 2), x.shape[1:2])
        return tokens + places(height, width, x.shape[1], tokens.device).to(tokens)


@lru_cache(maxsize=8)
def places(height: int, width: int, dimension: int, device: torch.device = torch.device("cpu")) -> Tensor:
    """Sines and cosines of row and column of every place of a grid, ``(height * width, dimension)`` in [-1, 1]."""
    count = dimension // 4
    frequencies = math.pi * torch.logspace(0, math.log2(max(height, width)), count, base=2.0)
    rows = (torch.arange(height) + 0.5)[:, None] / height * frequencies
    columns = (torch.arange(width) + 0.5)[:, None] / width * frequencies
    grid = torch.cat(
        [
            torch.cat([rows.sin(), rows.cos()], 1)[:, None].expand(height, width, 2 * count),
            torch.cat([columns.sin(), columns.cos()], 1)[None].expand(height, width, 2 * count),
        ],
        dim=-1,
    )
    return F.pad(grid.reshape(height * width, 4 * count), (0, dimension - 4 * count)).to(device)
