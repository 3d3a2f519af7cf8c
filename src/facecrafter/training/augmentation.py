"""What networks that look at faces are trained against: images a little blurred, and partly covered."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def blurred(images: Tensor, amount: Tensor) -> Tensor:
    """Images without what is finer than four pixels.

    Args:
        images: ``(B, C, H, W)``.
        amount: how much of that goes, ``(B, 1, 1, 1)`` in [0, 1].
    """
    coarse = F.interpolate(F.avg_pool2d(images, 4), images.shape[2:], mode="bilinear")
    return images + amount * (coarse - images)


def rectangles(chance: Tensor, side: int, smallest: float, largest: float) -> Tensor:
    """One upright rectangle an image, wholly inside it.

    Args:
        chance: ``(B, 4)`` in [0, 1): height, width, and how far down and to the right of the room that is left.
        side: of the image in places, S.
        smallest, largest: bounds of height and width, as shares of the side.

    Returns:
        ``(B, 1, S, S)`` bool, true within.
    """
    place = (torch.arange(side, device=chance.device) + 0.5) / side
    height, width = (smallest + (largest - smallest) * chance[:, index, None] for index in (0, 1))
    top, left = chance[:, 2, None] * (1 - height), chance[:, 3, None] * (1 - width)
    down, across = (place > top) & (place < top + height), (place > left) & (place < left + width)
    return (down[:, :, None] & across[:, None, :])[:, None]


def equalised(images: Tensor, levels: int = 256) -> Tensor:
    """Images ``(B, 1, H, W)`` in [0, 1] whose histograms are even: each value becomes the share of the pixels that
    are at most as bright, of those that are brighter than the darkest."""
    values = (images.flatten(1) * (levels - 1)).round().long()
    counts = torch.zeros(len(values), levels, device=images.device)
    counts.scatter_add_(1, values, torch.ones_like(values, dtype=counts.dtype))
    below = counts.cumsum(1)
    darkest = below.gather(1, values.min(1, keepdim=True).values)
    shares = (below.gather(1, values) - darkest) / (values.shape[1] - darkest).clamp(min=1)
    return shares.clamp(min=0).view_as(images)
