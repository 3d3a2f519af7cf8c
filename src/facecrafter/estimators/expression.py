"""What MediaPipe reads from a face, read by a network that gradients go through.

MediaPipe's own networks run as closed files. A loss that asks a generated image for an expression needs the same
numbers with a way back into the pixels. This is a training aid, like LPIPS, and is not shipped: the `expression` stage
trains it on a prepared folder in a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.estimators import weights_file
from facecrafter.estimators.weights_file import Own
from facecrafter.faces.face import BLENDSHAPES

SIDE = 128  # pixels, of the images as the network sees them
POINTS = 478
DEGREES = 45.0  # what angles are divided by, which makes them numbers of the size of blendshapes
FORMAT = Own("facecrafter-expression-1", "expression network", "expression")


class Reading(NamedTuple):
    """What an image shows.

    Attributes:
        blendshapes: ``(B, 52)``, about [0, 1], in the order of :data:`facecrafter.faces.face.BLENDSHAPES`.
        angles: ``(B, 3)`` yaw, pitch and roll in degrees over :data:`DEGREES`. The roll is that of the photo before
            alignment turned it upright, so little of it is visible.
        points: ``(B, 478, 2)`` landmarks, x and y in shares of the image's side.
    """

    blendshapes: Tensor
    angles: Tensor
    points: Tensor


class Norm(nn.GroupNorm):
    """Group norm in its input's own precision: an image says the same alone and in any batch.

    Autocast would make it one in single precision and move twice the bytes; its sums are in single precision anyway.
    """

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape."""
        with torch.autocast(features.device.type, enabled=False):
            weight, bias = self.weight.to(features.dtype), self.bias.to(features.dtype)
            return F.group_norm(features, self.num_groups, weight, bias, self.eps)


class Residual(nn.Module):
    """Two 3x3 convolutions with norms beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = Norm(_groups(outputs), outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = Norm(_groups(outputs), outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(inputs, outputs, 1, bias=False))
        nn.init.zeros_(self.norm2.weight)  # a block begins as its shortcut

    def forward(self, features: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, outputs, h / stride, w / stride)``."""
        change = self.norm2(self.conv2(F.silu(self.norm1(self.conv1(features)))))
        return F.silu(self.shortcut(features) + change)


class ExpressionNet(nn.Module):
    """Aligned images to blendshapes, head angles and landmarks.

    The last features keep their places, eight by eight of them, because aligned faces all lie in the same one.

    Args:
        widths: channels of the stages, the first at a quarter of the image's side, each other at half the one before.
        blocks: residual blocks of each stage.
        hidden: width of the layer that the readings are made from.
    """

    def __init__(
        self, widths: Sequence[int] = (64, 128, 256), blocks: Sequence[int] = (1, 1, 2), hidden: int = 192
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks):
            raise ValueError(f"{len(widths)} widths and {len(blocks)} numbers of blocks")
        self.config = {"widths": list(widths), "blocks": list(blocks), "hidden": hidden}
        first = widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first // 2, 5, stride=2, padding=2, bias=False),
            Norm(_groups(first // 2), first // 2),
            nn.SiLU(),
            nn.Conv2d(first // 2, first, 3, stride=2, padding=1, bias=False),
            Norm(_groups(first), first),
            nn.SiLU(),
        )
        stages: list[nn.Module] = []
        before = first
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(count):
                stages.append(Residual(before, width, 2 if index and block == 0 else 1))
                before = width
        self.stages = nn.Sequential(*stages)
        cells = (SIDE // 2 ** (len(widths) + 1)) ** 2
        self.squeeze = nn.Conv2d(before, 32, 1)
        self.gather = nn.Linear(32 * cells, hidden)
        self.head = nn.Linear(hidden, len(BLENDSHAPES) + 3 + 2 * POINTS)

    def forward(self, images: Tensor) -> Reading:
        """Read images ``(B, 3, S, S)`` in [-1, 1], on the FFHQ template; sides other than 128 are brought to it."""
        if images.shape[2:] != (SIDE, SIDE):
            images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        images = images.contiguous(memory_format=torch.channels_last)
        places = F.silu(self.squeeze(self.stages(self.stem(images))))
        outputs = self.head(F.silu(self.gather(places.flatten(1)))).float()
        blendshapes, angles, points = outputs.split([len(BLENDSHAPES), 3, 2 * POINTS], dim=1)
        return Reading(blendshapes, angles, points.unflatten(1, (POINTS, 2)))

    @torch.no_grad()
    def begin_with(self, usual: Reading) -> None:
        """Let the untrained network say this reading ``(1, ...)`` whatever it sees, and learn what differs from it."""
        self.head.weight.mul_(0.1)
        self.head.bias.copy_(torch.cat([part.flatten() for part in usual]))


def _groups(channels: int) -> int:
    """Groups of at least eight channels: smaller ones would lose how strong a feature is beside its neighbours."""
    return max(1, min(16, channels // 8))


def save(network: ExpressionNet, path: Path) -> None:
    """Write the network with its config, whole or not at all.

    Raises:
        CheckpointError: the file cannot be written.
    """
    weights_file.write_own(network, network.config, path, FORMAT)


def load(path: Path) -> ExpressionNet:
    """Read a network that :func:`save` wrote: frozen, in evaluation mode and single precision.

    Raises:
        WeightsError: there is no such file, it is damaged, or holds something else.
    """
    network = weights_file.read_own(path, FORMAT, ExpressionNet)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
