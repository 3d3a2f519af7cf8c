"""What the Inception networks are made of."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

Kernel = int | tuple[int, int]


class Conv(nn.Module):
    """A convolution without bias, a batch norm and a ReLU.

    Args:
        inputs, outputs: channels.
        kernel: its side, or its height and width.
        stride: 1, or 2 to halve the sides.
        padded: zeros at the edges, so that a stride of 1 keeps the sides; by default there are some at that stride.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel = 1, stride: int = 1, padded: bool | None = None
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        edges = (sides[0] // 2, sides[1] // 2) if (stride == 1 if padded is None else padded) else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, edges, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, outputs, h', w')``."""
        return F.relu(self.bn(self.conv(features)))
