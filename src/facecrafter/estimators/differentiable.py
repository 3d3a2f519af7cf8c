"""A recogniser that gradients pass through: the same network as in :mod:`facecrafter.estimators.identity`, in torch.

onnxruntime and dlib only run forward. For a loss on the identity of an image, the network is read from its ONNX file,
node by node, and run with torch's functions; dlib's is in :mod:`facecrafter.estimators.dlib_network`. The files of
SFace and of ArcFace are chains of the nodes in :data:`NODES`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter import weights
from facecrafter.errors import WeightsError
from facecrafter.estimators.dlib_network import CHIP_SIZE, CHIP_TEMPLATE, DlibNetwork
from facecrafter.estimators.identity import (
    ARCFACE_SIZE,
    ARCFACE_TEMPLATE,
    chip_points,
    five_points,
    published,
    similarity,
    without_weight_inputs,
)

Attributes = dict[str, Any]


@dataclass(frozen=True)
class Crop:
    """The square that a recogniser cuts out of an image, by five points of the face.

    Attributes:
        size: its side in pixels.
        template: where it has the points, ``(5, 2)`` in pixels.
        points: finds them among the 478 landmarks of each of any number of faces, ``(..., 5, 2)``.
        twin: for each of them the one that takes its place in a mirror.
    """

    size: int
    template: NDArray[np.float64]
    points: Callable[[NDArray[np.float32]], NDArray[np.float64]]
    twin: tuple[int, ...]

    def mirrored(self, five: NDArray[np.float64], side: int) -> NDArray[np.float64]:
        """The five points ``(..., 5, 2)`` in a mirror image of an image of that side, for landmarks in whole pixels."""
        return np.stack([side - 1 - five[..., 0], five[..., 1]], axis=-1)[..., list(self.twin), :]

    def grid(self, five: NDArray[np.float64], side: int) -> NDArray[np.float32]:
        """Where the crop reads images: the ``(..., 2, 3)`` matrices for :func:`torch.nn.functional.affine_grid`.

        Args:
            five: the points in each image, ``(..., 5, 2)`` in pixels.
            side: of the images.
        """
        to_crop = similarity(five, self.template)
        last = np.broadcast_to([0.0, 0.0, 1.0], (*to_crop.shape[:-2], 1, 3))
        forward = np.concatenate([to_crop, last], axis=-2)
        to_pixels = _from_unit(self.size)  # [-1, 1] over the crop to its pixels
        back = np.linalg.inv(_from_unit(side)) @ np.linalg.inv(forward) @ to_pixels
        return np.asarray(back[..., :2, :], np.float32)

    def cut(self, images: Tensor, grids: Tensor) -> Tensor:
        """Crops ``(B, 3, size, size)`` out of images ``(B, 3, S, S)`` by their grids ``(B, 2, 3)``. Outside an image
        it is black, as in the recogniser's own crops."""
        shape = [len(images), 3, self.size, self.size]
        return F.grid_sample(images, F.affine_grid(grids, shape, align_corners=False), align_corners=False)


ARCFACE_CROP = Crop(ARCFACE_SIZE, ARCFACE_TEMPLATE, five_points, (1, 0, 2, 4, 3))
DLIB_CHIP = Crop(CHIP_SIZE, CHIP_TEMPLATE, chip_points, (2, 3, 0, 1, 4))


def differentiable(name: str, path: Path | None = None) -> tuple[nn.Module, Crop]:
    """A recogniser by name, as :func:`facecrafter.estimators.identity.recogniser` has them, and the crop that it reads.

    Raises:
        WeightsError: the name is unknown, or its file is missing or another one.
    """
    if name == "dlib":
        return DlibNetwork(weights.locate("dlib")), DLIB_CHIP
    return DifferentiableRecogniser(*published(name, path)), ARCFACE_CROP


def _conv(values: list[Tensor], attributes: Attributes) -> Tensor:
    pads = attributes.get("pads", [0, 0, 0, 0])
    bias = values[2] if len(values) > 2 else None
    return F.conv2d(
        values[0], values[1], bias, stride=attributes.get("strides", 1), padding=pads[:2],
        dilation=attributes.get("dilations", 1), groups=attributes.get("group", 1),
    )  # fmt: skip


def _gemm(values: list[Tensor], attributes: Attributes) -> Tensor:
    weight = values[1] if attributes.get("transB") else values[1].T
    return F.linear(values[0], weight, *values[2:])


def _batch_norm(values: list[Tensor], attributes: Attributes) -> Tensor:
    x, gamma, beta, mean, variance = values
    return F.batch_norm(x, mean, variance, gamma, beta, eps=attributes.get("epsilon", 1e-5))


NODES: dict[str, Callable[[list[Tensor], Attributes], Tensor]] = {
    "Add": lambda values, _: values[0] + values[1],
    "Sub": lambda values, _: values[0] - values[1],
    "Mul": lambda values, _: values[0] * values[1],
    "Conv": _conv,
    "PRelu": lambda values, _: F.prelu(values[0], values[1].flatten()),
    "BatchNormalization": _batch_norm,
    "Flatten": lambda values, _: values[0].flatten(1),
    "Gemm": _gemm,
}


class DifferentiableRecogniser(nn.Module):
    """A recogniser's network with frozen weights.

    Args:
        path: its ONNX file.
        mean, scale: pixels 0-255 become ``(pixel - mean) * scale``, as for
            :class:`facecrafter.estimators.identity.OnnxRecogniser`.

    Raises:
        WeightsError: the file cannot be read, or has nodes that are not in :data:`NODES`.
    """

    def __init__(self, path: Path, mean: float, scale: float) -> None:
        super().__init__()
        graph = _simplified(path)
        unknown = sorted({node.op_type for node in graph.node} - NODES.keys())
        if unknown:
            raise WeightsError(f"{path} has nodes that this project cannot differentiate: {', '.join(unknown)}")
        self._mean, self._scale = mean, scale
        self._nodes = [(node.op_type, list(node.input), node.output[0], _attributes(node)) for node in graph.node]
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._names = {tensor.name: f"weight{index}" for index, tensor in enumerate(graph.initializer)}
        for tensor in graph.initializer:
            self.register_buffer(self._names[tensor.name], torch.from_numpy(_array(tensor)), persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        """ArcFace crops ``(B, 3, 112, 112)``, RGB in 0-255, to embeddings ``(B, D)`` of unit length."""
        values = {self._input: (crops - self._mean) * self._scale}
        for kind, inputs, output, attributes in self._nodes:
            arguments = [getattr(self, self._names[name]) if name in self._names else values[name] for name in inputs]
            values[output] = NODES[kind](arguments, attributes)
        return F.normalize(values[self._output].float(), dim=-1)


def _from_unit(side: int) -> NDArray[np.float64]:
    """The matrix from torch's [-1, 1] (borders of the outer pixels) to pixel numbers (0 = centre of the first)."""
    return np.array([[side / 2, 0, (side - 1) / 2], [0, side / 2, (side - 1) / 2], [0, 0, 1]])


def _simplified(path: Path) -> Any:
    """The graph with weights in place of what only prepares them, and batch norms folded into convolutions."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "simplified.onnx")
        try:
            onnxruntime.InferenceSession(without_weight_inputs(path), options, providers=["CPUExecutionProvider"])
            return onnx.load(options.optimized_model_filepath).graph
        except Exception as error:  # onnx and onnxruntime raise types of their own
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"{path} is not a recogniser in ONNX ({reason})") from None


def _attributes(node: Any) -> Attributes:
    import onnx

    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def _array(tensor: Any) -> NDArray[Any]:
    import onnx

    return np.array(onnx.numpy_helper.to_array(tensor))
