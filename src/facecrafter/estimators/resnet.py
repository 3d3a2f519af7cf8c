"""ResNet-50 (He et al., 2016) up to its pooled features, with the names of its widely published weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 2048


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the stride is the middle one's."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, features: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, 4 width, h / stride, w / stride)``."""
        change = F.relu(self.bn1(self.conv1(features)))
        change = F.relu(self.bn2(self.conv2(change)))
        return F.relu(self.bn3(self.conv3(change)) + self.downsample(features))


class ResNet50(nn.Module):
    """The trunk without its classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for stage, (width, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
            blocks = []
            for index in range(depth):
                blocks.append(Bottleneck(inputs, width, 2 if stage > 1 and index == 0 else 1))
                inputs = 4 * width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))

    def forward(self, pixels: Tensor) -> Tensor:
        """``(B, 3, h, w)`` to the mean of the last features over places, ``(B, 2048)``."""
        features = F.max_pool2d(F.relu(self.bn1(self.conv1(pixels))), 3, stride=2, padding=1)
        for stage in (1, 2, 3, 4):
            features = self.get_submodule(f"layer{stage}")(features)
        return features.mean((2, 3))
