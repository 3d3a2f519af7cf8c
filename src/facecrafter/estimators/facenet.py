"""FaceNet: 512 numbers that say who a face is, by the Inception-ResNet-v1 of facenet-pytorch, trained on VGGFace2.

Schroff et al. (2015) for the idea; David Sandberg's network, whose weights ``20180402-114759-vggface2.pt`` are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.estimators.layers import Conv, Kernel
from facecrafter.estimators.weights_file import Published, fill, read

SIZE = 160
MARGIN = 14
WIDTH = 512

# Where the edges of the face's box by MTCNN, the detector of facenet-pytorch, lie from those of the box around
# MediaPipe's landmarks (left, top, right, bottom), in widths and heights of MediaPipe's box. Landmarks end at the hair
# line and include the ears' roots, so MediaPipe's box is 9 % shorter and lies 6 % of MTCNN's height lower. Means over
# 300 photos of LFW (every 37th) with the MTCNN of facenet-pytorch 2.6.0, with standard deviations of 0.03 to 0.04.
# The boxes' intersection over union rises from 0.82 to 0.91, for either half of the photos by the means of the other
# too.
MTCNN_EDGES = (0.007, -0.120, -0.026, -0.016)

PUBLISHED = Published(
    "FaceNet",
    "20180402-114759-vggface2.pt of facenet-pytorch",
    "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
)


def mtcnn_box(points: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """MTCNN's box as MediaPipe's landmarks ``(478, 2 or 3)`` let one expect it: its left and top, and its right and
    bottom, in pixels."""
    low, high = points[:, :2].min(0).astype(np.float64), points[:, :2].max(0).astype(np.float64)
    left, top, right, bottom = MTCNN_EDGES
    return low + (left, top) * (high - low), high + (right, bottom) * (high - low)


def crop(image: NDArray[np.uint8], points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The crop that the network wants, ``(160, 160, 3)`` uint8 RGB.

    As facenet-pytorch cuts its own evaluation on LFW: the face's box with a margin of 14 of 160 pixels, stretched to a
    square, upright as the image is. The box there is its detector's, MTCNN's; here :func:`mtcnn_box`.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        points: ``(478, 2 or 3)`` landmarks in pixels of it.
    """
    low, high = mtcnn_box(points)
    margin = MARGIN * (high - low) / (SIZE - MARGIN) / 2
    height, width = image.shape[:2]
    left, top = np.clip(low - margin, 0, (width - 1, height - 1)).astype(int).tolist()
    right, bottom = np.clip(high + margin, (left + 1, top + 1), (width, height)).astype(int).tolist()
    cut = Image.fromarray(image[top:bottom, left:right])
    return np.asarray(cut.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def _chain(inputs: int, *layers: tuple[int, Kernel, int]) -> nn.Module:
    """Convolutions of (outputs, kernel, stride), one after the other; a single one stands by itself."""
    made = []
    for outputs, kernel, stride in layers:
        made.append(Conv(inputs, outputs, kernel, stride))
        inputs = outputs
    return made[0] if len(made) == 1 else nn.Sequential(*made)


class _Branches(nn.Module):
    """Chains side by side."""

    def __init__(self, *chains: nn.Module) -> None:
        super().__init__()
        self._count = len(chains)
        for index, chain in enumerate(chains):
            self.add_module(f"branch{index}", chain)

    def side_by_side(self, features: Tensor) -> list[Tensor]:
        """What each makes of the features."""
        return [self.get_submodule(f"branch{index}")(features) for index in range(self._count)]


class Residual(_Branches):
    """Branches, brought back to the width of the block, scaled and added to its input.

    Args:
        width: channels in and out.
        joined: channels of the branches together.
        scale: of what is added.
        chains: the branches.
        rectified: a ReLU at the end; the network's last block has none.
    """

    def __init__(self, width: int, joined: int, scale: float, *chains: nn.Module, rectified: bool = True) -> None:
        super().__init__(*chains)
        self.conv2d = nn.Conv2d(joined, width, 1)
        self._scale, self._rectified = scale, rectified

    def forward(self, features: Tensor) -> Tensor:
        """``(B, width, h, w)`` to the same."""
        change = self.conv2d(torch.cat(self.side_by_side(features), 1))
        features = features + self._scale * change
        return F.relu(features) if self._rectified else features


class Reduction(_Branches):
    """Branches that halve the sides, beside a pool by maximum."""

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, h, w)`` to more channels at half the sides."""
        return torch.cat([*self.side_by_side(features), F.max_pool2d(features, 3, stride=2)], 1)


def _block35() -> Residual:
    narrow = (32, 1, 1), (32, 3, 1)
    chains = _chain(256, (32, 1, 1)), _chain(256, *narrow), _chain(256, *narrow, (32, 3, 1))
    return Residual(256, 96, 0.17, *chains)


def _block17() -> Residual:
    cross = (128, 1, 1), (128, (1, 7), 1), (128, (7, 1), 1)
    return Residual(896, 256, 0.10, _chain(896, (128, 1, 1)), _chain(896, *cross))


def _block8(scale: float = 0.20, rectified: bool = True) -> Residual:
    cross = (192, 1, 1), (192, (1, 3), 1), (192, (3, 1), 1)
    return Residual(1792, 384, scale, _chain(1792, (192, 1, 1)), _chain(1792, *cross), rectified=rectified)


class FaceNet(nn.Module):
    """Inception-ResNet-v1 with the names of the published file, whose ``logits`` (8,631 people) are left."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a = Conv(3, 32, 3, stride=2)
        self.conv2d_2a = Conv(32, 32, 3, padded=False)
        self.conv2d_2b = Conv(32, 64, 3)
        self.conv2d_3b = Conv(64, 80)
        self.conv2d_4a = Conv(80, 192, 3, padded=False)
        self.conv2d_4b = Conv(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = Reduction(_chain(256, (384, 3, 2)), _chain(256, (192, 1, 1), (192, 3, 1), (256, 3, 2)))
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = Reduction(
            _chain(896, (256, 1, 1), (384, 3, 2)),
            _chain(896, (256, 1, 1), (256, 3, 2)),
            _chain(896, (256, 1, 1), (256, 3, 1), (256, 3, 2)),
        )
        self.repeat_3 = nn.Sequential(*(_block8() for _ in range(5)))
        self.block8 = _block8(scale=1.0, rectified=False)
        self.last_linear = nn.Linear(1792, WIDTH, bias=False)
        self.last_bn = nn.BatchNorm1d(WIDTH, eps=1e-3)

    def forward(self, crops: Tensor) -> Tensor:
        """RGB crops ``(B, 3, 160, 160)``, float 0 to 255, to embeddings ``(B, 512)`` of unit length."""
        x = (crops - 127.5) / 128
        x = F.max_pool2d(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x))), 3, stride=2)
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(x)))
        x = self.mixed_7a(self.repeat_2(self.mixed_6a(self.repeat_1(x))))
        x = self.block8(self.repeat_3(x)).mean((2, 3))
        return F.normalize(self.last_bn(self.last_linear(x)))


def load(path: Path) -> FaceNet:
    """The network with the published weights, for evaluation.

    Raises:
        WeightsError: there is no such file, or it is not the published one.
    """
    state = read(path, PUBLISHED)
    with torch.device("meta"):
        network = FaceNet()
    return fill(network, state, path, PUBLISHED)
