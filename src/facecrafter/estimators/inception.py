"""The Inception-v3 of the FID: TensorFlow's of December 2015, from the PyTorch file that holds its weights.

Szegedy et al., "Rethinking the Inception architecture for computer vision" (2016); Heusel et al. (2017) for the
distance. Three things set it apart from Inception-v3 as others publish it: its average pools do not count the padding,
the last block pools by maximum, and it has 1,008 classes. Two programs compute the FID with it and differ in its input:

- the original (:func:`tensorflow_input`) resizes as TensorFlow 1 did and scales by ``(x - 128) / 128``, both part of
  its graph;
- pytorch-fid (:func:`pytorch_fid_input`), which most tables use, resizes with half pixels and scales by
  ``2 x / 255 - 1``.

The network and its weights are the same, the numbers slightly others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.estimators.layers import Conv
from facecrafter.estimators.weights_file import Published, fill, read

SIZE = 299
WIDTH = 2048
CLASSES = 1008

PUBLISHED = Published(
    "FID Inception",
    "pt_inception-2015-12-05-6726825d.pth of pytorch-fid",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)


def resize(images: Tensor, size: int) -> Tensor:
    """Images ``(B, C, H, W)`` at ``size`` pixels a side, bilinear as in TensorFlow 1.

    Pixel i of the result lies at i times the ratio of the sides (no half pixels, corners not aligned), between its two
    neighbours there; beyond the last pixel the last is repeated. Nothing is averaged where images shrink.
    """
    for dim in (-1, -2):
        side = images.shape[dim]
        place = torch.arange(size, dtype=images.dtype, device=images.device) * (side / size)
        low = place.long().clamp(max=side - 1)
        share = (place - low).unsqueeze(-1) if dim == -2 else place - low
        first = images.index_select(dim, low)
        second = images.index_select(dim, (low + 1).clamp(max=side - 1))
        images = first + (second - first) * share
    return images


def tensorflow_input(images: Tensor) -> Tensor:
    """The original's input: RGB ``(B, 3, H, W)``, float 0 to 255, to ``(B, 3, 299, 299)`` in [-1, 1)."""
    return (resize(images, SIZE) - 128) / 128


def pytorch_fid_input(images: Tensor) -> Tensor:
    """pytorch-fid's input: RGB ``(B, 3, H, W)``, float 0 to 255, to ``(B, 3, 299, 299)`` in [-1, 1].

    Bilinear between pixel centres, without averaging where images shrink.
    """
    return F.interpolate(images / 255, size=(SIZE, SIZE), mode="bilinear", align_corners=False) * 2 - 1


def _mean_pool(features: Tensor) -> Tensor:
    return F.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)


def _max_pool(features: Tensor) -> Tensor:
    return F.max_pool2d(features, 3, stride=1, padding=1)


class _Block(nn.Module):
    def chain(self, features: Tensor, *names: str) -> Tensor:
        """Through the named convolutions, one after the other."""
        for name in names:
            features = self.get_submodule(name)(features)
        return features


class BlockA(_Block):
    """35 x 35 places: 1x1, 5x5, two 3x3, and a pool."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(inputs, 64)
        self.branch5x5_1, self.branch5x5_2 = Conv(inputs, 48), Conv(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 64), Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(inputs, pooled)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, 224 + pooled, h, w)``."""
        small, large = self.branch1x1(x), self.chain(x, "branch5x5_1", "branch5x5_2")
        double = self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([small, large, double, self.branch_pool(_mean_pool(x))], 1)


class BlockB(_Block):
    """From 35 x 35 places to 17 x 17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 64), Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, inputs + 480, h / 2, w / 2)``."""
        double = self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(_Block):
    """17 x 17 places: 1x1, 7x7 as a row and a column, the same twice, and a pool."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Conv(inputs, 192)
        self.branch7x7_1, self.branch7x7_2 = Conv(inputs, width), Conv(width, width, row)
        self.branch7x7_3 = Conv(width, 192, column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(inputs, width), Conv(width, width, column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Conv(width, width, row), Conv(width, width, column)
        self.branch7x7dbl_5 = Conv(width, 192, row)
        self.branch_pool = Conv(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, 768, h, w)``."""
        single = self.chain(x, *(f"branch7x7_{index}" for index in (1, 2, 3)))
        double = self.chain(x, *(f"branch7x7dbl_{index}" for index in (1, 2, 3, 4, 5)))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_mean_pool(x))], 1)


class BlockD(_Block):
    """From 17 x 17 places to 8 x 8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(inputs, 192), Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(inputs, 192), Conv(192, 192, (1, 7))
        self.branch7x7x3_3, self.branch7x7x3_4 = Conv(192, 192, (7, 1)), Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, inputs + 512, h / 2, w / 2)``."""
        small = self.chain(x, "branch3x3_1", "branch3x3_2")
        large = self.chain(x, *(f"branch7x7x3_{index}" for index in (1, 2, 3, 4)))
        return torch.cat([small, large, F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(_Block):
    """8 x 8 places: 1x1, 3x3 and two 3x3 whose ends are a row beside a column, and a pool.

    Args:
        inputs: channels.
        largest: pool by maximum, as the last block does, and not by the mean.
    """

    def __init__(self, inputs: int, largest: bool) -> None:
        super().__init__()
        row, column = (1, 3), (3, 1)
        self.pool = _max_pool if largest else _mean_pool
        self.branch1x1 = Conv(inputs, 320)
        self.branch3x3_1 = Conv(inputs, 384)
        self.branch3x3_2a, self.branch3x3_2b = Conv(384, 384, row), Conv(384, 384, column)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 448), Conv(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Conv(384, 384, row), Conv(384, 384, column)
        self.branch_pool = Conv(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, 2048, h, w)``."""
        single = self.branch3x3_1(x)
        double = self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2")
        ends = [self.branch3x3_2a(single), self.branch3x3_2b(single)]
        ends += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *ends, self.branch_pool(self.pool(x))], 1)


class Inception(nn.Module):
    """The network with the names of the published file, whose ``fc`` (the classes) the FID does not use.

    Args:
        prepare: makes the network's input of RGB images of any size, float 0 to 255.
    """

    def __init__(self, prepare: Callable[[Tensor], Tensor] = tensorflow_input) -> None:
        super().__init__()
        self._prepare = prepare
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c = BlockC(768, 128), BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = BlockC(768, 160), BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, largest=False), BlockE(2048, largest=True)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """RGB images ``(B, 3, H, W)`` of any size, float 0 to 255, to the pool3 features ``(B, 2048)``."""
        x = self._prepare(images)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


def load(path: Path, prepare: Callable[[Tensor], Tensor] = tensorflow_input) -> Inception:
    """The network with the published weights, for evaluation.

    Args:
        path: the published file, the same for both programs.
        prepare: see :class:`Inception`.

    Raises:
        WeightsError: there is no such file, or it is not the published one.
    """
    state = read(path, PUBLISHED)
    with torch.device("meta"):
        network = Inception(prepare)
    return fill(network, state, path, PUBLISHED)
