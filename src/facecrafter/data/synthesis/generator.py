"""MobileStyleGAN (Belousov, 2021, "MobileStyleGAN: A Lightweight Convolutional Neural Network for High-Fidelity Image
Synthesis"), distilled from StyleGAN2 on FFHQ, read from its published OpenVINO files.

The synthesis network doubles the size seven times by an inverse Haar transform of its own features, and its last layer
gives an image as four Haar bands: the low band is the image at half the side. In single precision the images differ
from the published runtime's by 1e-5 of their range; by default that runtime computes in 16 bits.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter import weights
from facecrafter.errors import WeightsError

WIDTH = 512  # of z and w
DOUBLINGS = 7
# One style for the first convolution, three for each doubling (features, first and second convolution), one for RGB.
STYLES = 1 + 3 * DOUBLINGS + 1
SIZES = (512, 1024)
SLOPE = 0.2  # of every leaky ReLU
HALF = 0.5  # what the four Haar bands of a place count in each of its pixels

_TYPES = {"f16": np.float16, "f32": np.float32, "i32": np.int32, "i64": np.int64}


@dataclass(frozen=True)
class Operation:
    """One operation of an OpenVINO graph, with those of its inputs that are constants."""

    kind: str
    constants: list[NDArray[np.float32]]


def read_operations(xml: Path, numbers: Path) -> list[Operation]:
    """The operations of an OpenVINO IR (version 10) in the file's order, which is an order of execution.

    Raises:
        WeightsError: a file is missing or is no such graph.
    """
    try:
        graph, content = ET.parse(xml).getroot(), numbers.read_bytes()
        layers = {layer.attrib["id"]: layer for layer in graph.iterfind("layers/layer")}
        inputs: dict[str, list[str]] = {}
        for edge in graph.iterfind("edges/edge"):
            inputs.setdefault(edge.attrib["to-layer"], []).append(edge.attrib["from-layer"])
        constants = {name: _constant(layer, content) for name, layer in layers.items() if layer.get("type") == "Const"}
        return [
            Operation(layer.attrib["type"], [constants[one] for one in inputs.get(name, []) if one in constants])
            for name, layer in layers.items()
            if name not in constants
        ]
    except OSError as error:
        raise WeightsError(f"{error.filename} cannot be read ({error.strerror}); fetch the generator again") from None
    except (ET.ParseError, KeyError, ValueError, AttributeError) as error:
        raise WeightsError(f"{xml} is not the graph of a network ({error}); fetch the generator again") from None


def _constant(layer: ET.Element, content: bytes) -> NDArray[np.float32]:
    data = layer.find("data")
    assert data is not None
    shape = [int(side) for side in data.attrib["shape"].split(",") if side.strip()]
    offset, size = int(data.attrib["offset"]), int(data.attrib["size"])
    values = np.frombuffer(content[offset : offset + size], _TYPES[data.attrib["element_type"]])
    return values.reshape(shape).astype(np.float32)


class Mapping(nn.Module):
    """Normal noise to styles: eight layers of one width behind a normalisation.

    Args:
        operations: see :func:`read_operations`.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        super().__init__()
        weights = [one.constants[0] for one in operations if one.kind == "MatMul"]
        biases = [one.constants[0] for one in operations if one.kind == "Reshape"]
        gains = [one.constants[0].item() for one in operations if one.kind == "Multiply" and one.constants][1:]
        if not len(weights) == len(biases) == len(gains) == 8:
            raise WeightsError("the mapping network does not have eight layers; fetch the generator again")
        self.layers = nn.ModuleList(map(_linear, weights, biases))
        self.gains = gains

    def forward(self, noise: Tensor) -> Tensor:
        """``(B, 512)`` standard normal to styles w ``(B, 512)``."""
        x = noise * (noise.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer, gain in zip(self.layers, self.gains, strict=True):
            x = F.leaky_relu(layer(x), SLOPE) * gain
        return x


class Modulated(nn.Module):
    """A convolution of features multiplied by a style, with fixed noise, a bias and a leaky ReLU: plain, or a depthwise
    one followed by one of single pixels."""

    noise: Tensor

    def __init__(
        self, kernels: Sequence[NDArray[np.float32]], noise: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> None:
        super().__init__()
        self.kernels = nn.ParameterList(torch.from_numpy(one) for one in kernels)
        self.register_buffer("noise", torch.from_numpy(noise + bias))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Features ``(B, C, h, w)`` and a style ``(B, C)`` to ``(B, C', h, w)``."""
        x = x * style[:, :, None, None]
        *depthwise, last = self.kernels
        for kernel in depthwise:
            x = F.conv2d(x, kernel, padding=1, groups=len(kernel))
        return F.leaky_relu_(_convolved(x, last).add_(self.noise), SLOPE)


def _convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """A convolution that keeps the size. For small kernels and one thread PyTorch takes a way that is half as fast as
    oneDNN, so that is asked for by name."""
    padding = kernel.shape[-1] // 2
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return torch.mkldnn_convolution(x, kernel, None, [padding] * 2, [1, 1], [1, 1], 1)
    return F.conv2d(x, kernel, padding=padding)


class Synthesis(nn.Module):
    """Styles to images.

    Args:
        operations: see :func:`read_operations`.
    """

    constant: Tensor

    def __init__(self, operations: Sequence[Operation]) -> None:
        super().__init__()
        dense = list(_dense(operations))[::-1]  # the file has the last layer's first
        if len(dense) != STYLES:
            raise WeightsError(
                f"the synthesis network has {len(dense)} styles, not {STYLES}; fetch the generator again"
            )
        self.styles = nn.ModuleList(dense)
        (constant,) = (one.constants[0] for one in operations if one.constants and one.constants[0].ndim == 4
                       and one.kind == "Broadcast")  # fmt: skip
        self.register_buffer("constant", torch.from_numpy(constant))
        *layers, image = _convolutions(operations)
        self.layers = nn.ModuleList(Modulated(*layer) for layer in layers)
        (kernel,), bias, _ = image
        self.kernel, self.bias = (
            nn.Parameter(torch.from_numpy(kernel)),
            nn.Parameter(torch.from_numpy(bias.reshape(-1))),
        )

    def forward(self, styles: Tensor, size: int = 1024) -> Tensor:
        """Images ``(B, 3, size, size)``, about in [-1, 1].

        Args:
            styles: w of every layer ``(B, 23, 512)``, or one w for all ``(B, 512)``.
            size: 512 or 1024.
        """
        if styles.ndim == 2:
            styles = styles[:, None].expand(-1, STYLES, -1)
        first, *others = (dense(style) for dense, style in zip(self.styles, styles.unbind(1), strict=True))
        x = self.layers[0](self.constant.expand(len(styles), -1, -1, -1), first)
        for number in range(DOUBLINGS):
            features, one, other = others[3 * number : 3 * number + 3]
            x = _interleaved(x * (HALF * features)[:, :, None, None])
            x = self.layers[1 + 2 * number](x, one)
            x = self.layers[2 + 2 * number](x, other)
        x = F.conv2d(x * others[-1][:, :, None, None], self.kernel, self.bias)
        return inverse_haar(x) if size == SIZES[1] else HALF * x[:, :3]


def inverse_haar(x: Tensor) -> Tensor:
    """Four Haar bands ``(B, 4 C, h, w)`` to ``(B, C, 2 h, 2 w)``: C low bands first, then three for each channel, of
    which the first is the vertical difference, the second the horizontal one, the third both."""
    return _interleaved(HALF * x)


def _interleaved(x: Tensor) -> Tensor:
    """Twice :func:`inverse_haar`: each of the four pixels of a place is written where it belongs."""
    batch, channels, height, width = x.shape
    count = channels // 4
    low, bands = x[:, :count], x[:, count:].unflatten(1, (count, 3))
    vertical, horizontal, both = bands.unbind(2)
    pixels = x.new_empty(batch, count, height, 2, width, 2)
    for row, (left, right) in enumerate(
        ((low + vertical, horizontal + both), (low - vertical, horizontal - both)),
    ):
        pixels[:, :, :, row, :, 0] = left + right
        pixels[:, :, :, row, :, 1] = left - right
    return pixels.view(batch, count, 2 * height, 2 * width)


def _linear(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(torch.from_numpy(weight))
    layer.bias = nn.Parameter(torch.from_numpy(bias.reshape(-1)))
    return layer


def _dense(operations: Sequence[Operation]) -> Iterator[nn.Linear]:
    """The layers from w to the styles, in the file's order; a factor that follows a layer is multiplied in."""
    kinds = [(index, one) for index, one in enumerate(operations) if one.kind == "MatMul"]
    for (index, one), (end, _) in zip(kinds, [*kinds[1:], (len(operations), kinds[-1][1])], strict=True):
        following = operations[index + 1 : end]
        bias = next(other.constants[0] for other in following if other.kind == "Add")
        factor = next(
            (other.constants[0].item() for other in following if other.kind == "Multiply" and other.constants), 1.0
        )
        yield _linear(one.constants[0] * np.float32(factor), bias * np.float32(factor))


def _convolutions(
    operations: Sequence[Operation],
) -> Iterator[tuple[list[NDArray[np.float32]], NDArray[np.float32], NDArray[np.float32]]]:
    """Kernels, noise and bias of every convolution, a depthwise one with the one that follows it."""
    kernels: list[NDArray[np.float32]] = []
    for index, one in enumerate(operations):
        if one.kind == "GroupConvolution":
            kernels.append(one.constants[0][:, 0])
        elif one.kind == "Convolution":
            added = [other.constants[0] for other in operations[index + 1 : index + 3] if other.kind == "Add"]
            yield [*kernels, one.constants[0]], added[0], added[1] if len(added) > 1 else np.zeros(1, np.float32)
            kernels = []


class FaceGenerator:
    """The published generator with its average style.

    Args:
        device: where to compute.

    Attributes:
        average: mean w over :data:`SAMPLES` noises, ``(512,)``.

    Raises:
        WeightsError: its files are not installed; the message says how to fetch them.
    """

    SAMPLES = 4096

    def __init__(self, device: str | torch.device = "cpu") -> None:
        def operations(part: str) -> list[Operation]:
            name = f"face_generator_{part}"
            return read_operations(weights.locate(f"{name}_graph"), weights.locate(name))

        self.mapping = Mapping(operations("mapping")).to(device).eval().requires_grad_(False)
        self.synthesis = Synthesis(operations("synthesis")).to(device).eval().requires_grad_(False)
        noise = torch.randn(self.SAMPLES, WIDTH, generator=torch.Generator().manual_seed(0))
        self.average = self.mapping(noise.to(device)).mean(0)

    @torch.no_grad()
    def people(self, seeds: Sequence[int], truncation: float = 0.8) -> Tensor:
        """Styles w ``(B, 512)``, one a seed, drawn towards the average.

        Args:
            seeds: B; a person depends on their own seed alone.
            truncation: 1 for none; at 0 all are the average.
        """
        noise = torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        return self.average + truncation * (self.mapping(noise.to(self.average.device)) - self.average)

    @torch.no_grad()
    def images(self, styles: Tensor, size: int = 512) -> Tensor:
        """Images ``(B, size, size, 3)`` uint8; see :meth:`Synthesis.forward`."""
        made = self.synthesis(styles, size).clamp(-1, 1)
        return ((made + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
