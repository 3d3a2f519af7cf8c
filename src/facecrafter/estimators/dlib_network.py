"""dlib's face recognition network in torch, so that gradients pass through it.

The network is dlib's ``dnn_face_recognition_ex`` (King, 2017), a ResNet-34 with five blocks fewer and half the filters.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.errors import WeightsError

CHIP_SIZE = 150
# Where a chip has the outer and inner corners of the eye on the image's right and of the other, and the base of the
# nose, in shares of its side before the margin of a quarter is added on every side.
_FIVE = np.array(
    [
        [0.8595674595992, 0.2134981538014],
        [0.6460604764104, 0.2289674387677],
        [0.1205750620789, 0.2137274526848],
        [0.3340850613712, 0.2290642403242],
        [0.4901123135679, 0.6277975316475],
    ]
)
CHIP_TEMPLATE = (0.25 + _FIVE) / 1.5 * CHIP_SIZE - 0.5  # in pixel numbers: 0 is the centre of the first
_MEAN = (122.782, 117.001, 104.298)
# Filters of each block, from the image on; those marked halve the grid.
_BLOCKS = (
    (32, False), (32, False), (32, False),
    (64, True), (64, False), (64, False), (64, False),
    (128, True), (128, False), (128, False),
    (256, True), (256, False), (256, False),
    (256, True),
)  # fmt: skip


class DlibNetwork(nn.Module):
    """dlib's network with frozen weights.

    Args:
        path: dlib's own file of it.

    Raises:
        WeightsError: the file is another one.
    """

    head: Tensor
    mean: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        source = _Tensors(path)
        self._count = 0
        self._add(source, 3, 32, 7)
        width = 32
        for filters, _ in _BLOCKS:
            self._add(source, width, filters, 3)
            self._add(source, filters, filters, 3)
            width = filters
        self.register_buffer("head", source.take(width, 128), persistent=False)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, chips: Tensor) -> Tensor:
        """Chips ``(B, 3, 150, 150)``, RGB in 0-255, to embeddings ``(B, 128)`` of unit length."""
        x = F.relu(self._conv(0, (chips - self.mean) / 256, 2))
        x = F.max_pool2d(x, 3, 2)
        for index, (_, halve) in enumerate(_BLOCKS):
            stride = 2 if halve else 1
            y = F.relu(self._conv(2 * index + 1, x, stride))
            y = self._conv(2 * index + 2, y, 1)
            x = F.relu(_padded_sum(y, F.avg_pool2d(x, 2) if halve else x))
        return F.normalize(x.mean((2, 3)).float() @ self.head, dim=-1)

    def _add(self, source: _Tensors, inputs: int, filters: int, side: int) -> None:
        """The next convolution, with the scale and shift after it folded into it."""
        size = filters * inputs * side * side
        weight, bias = source.take(size + filters).flatten().split([size, filters])
        scale, shift = source.take(2 * filters).flatten().chunk(2)
        weight = weight.view(filters, inputs, side, side) * scale.view(-1, 1, 1, 1)
        self.register_buffer(f"weight{self._count}", weight, persistent=False)
        self.register_buffer(f"bias{self._count}", bias * scale + shift, persistent=False)
        self._count += 1

    def _conv(self, index: int, x: Tensor, stride: int) -> Tensor:
        weight = getattr(self, f"weight{index}")
        # dlib pads a convolution only where it does not stride.
        return F.conv2d(x, weight, getattr(self, f"bias{index}"), stride, 0 if stride > 1 else weight.shape[-1] // 2)


def _padded_sum(a: Tensor, b: Tensor) -> Tensor:
    """The sum of two maps of different sizes; what one of them lacks at the end of an axis counts as zero."""
    shape = [max(one, other) for one, other in zip(a.shape[1:], b.shape[1:], strict=True)]
    padded = [F.pad(x, [0, shape[2] - x.shape[3], 0, shape[1] - x.shape[2], 0, shape[0] - x.shape[1]]) for x in (a, b)]
    return padded[0] + padded[1]


class _Tensors:
    """The tensors of a file that dlib wrote, in the order of their use. Each is its shape, after a version number, and
    little-endian floats; what lies between, settings of training, is skipped."""

    def __init__(self, path: Path) -> None:
        self._path, self._content, self._place = path, path.read_bytes(), 0

    def take(self, rows: int, columns: int = 1) -> Tensor:
        """The next tensor of a shape, ``(rows, columns)``."""
        header = b"".join(_number(value) for value in (2, rows, columns, 1, 1))
        start = self._content.find(header, self._place) + len(header)
        self._place = start + 4 * rows * columns
        if start < len(header) or self._place > len(self._content):
            raise WeightsError(f"{self._path} is not dlib's face recognition network")
        values: NDArray[np.float32] = np.frombuffer(self._content, "<f4", rows * columns, start)
        return torch.from_numpy(values.copy()).view(rows, columns)


def _number(value: int) -> bytes:
    """A positive integer as dlib writes it: how many bytes follow, and these, the lowest first."""
    length = (value.bit_length() + 7) // 8
    return bytes([length]) + value.to_bytes(length, "little")
