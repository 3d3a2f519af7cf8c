"""The expression network of face-api.js (Mühler, 2018): seven emotions, read off a colour crop of a face.

It had no part in what the project trained, labelled or chose, so evaluation asks it what images show. Its published
weights are 8-bit numbers in one file, in an order that a manifest beside it tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, FiniteFloat, PositiveInt, TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter import weights
from facecrafter.errors import NoFaceError, PhotoError, WeightsError
from facecrafter.estimators.emonet import BROWS, OUTLINE
from facecrafter.estimators.weights_file import Published, fill

# The network's classes by the project's names, in its own order. It does not know contempt.
CLASSES = ("neutral", "happy", "sad", "anger", "fear", "disgust", "surprise")

SIZE = 112
WIDTHS = (32, 64, 128, 256)
MEAN = (122.782, 117.001, 104.298)
PADDING = 0.1  # of the landmarks' box, on each side

PUBLISHED = Published("face-api expression", "face_expression_model.bin of the npm package @vladmandic/face-api 1.7.15")


# --- the network ------------------------------------------------------------------------------------------------------


def same(features: Tensor, stride: int) -> Tensor:
    """Features ``(B, C, S, S)`` with the zeros around them that TensorFlow's "same" padding gives a 3x3 convolution;
    of an odd number of them the last goes to the right and below."""
    side = features.shape[-1]
    needed = max((math.ceil(side / stride) - 1) * stride + 3 - side, 0)
    before, after = needed // 2, needed - needed // 2
    return F.pad(features, (before, after, before, after))


class Plain(nn.Conv2d):
    """A 3x3 convolution with "same" padding."""

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, S, S)`` to ``(B, outputs, S / stride, S / stride)``."""
        return super().forward(same(features, self.stride[0]))


class Separable(nn.Module):
    """A 3x3 convolution of each channel by itself with "same" padding, then a 1x1 convolution over channels."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, S, S)`` to ``(B, outputs, S / stride, S / stride)``."""
        each = self.depthwise(same(features, self.stride))
        return F.conv2d(each, self.pointwise.weight, self.bias)


class DenseBlock(nn.Module):
    """Four convolutions; the first halves the sides, and each of the others reads the rectified sum of all before."""

    def __init__(self, first: nn.Module, width: int) -> None:
        super().__init__()
        self.conv0 = first
        self.conv1, self.conv2, self.conv3 = (Separable(width, width) for _ in range(3))

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, S, S)`` to ``(B, width, S / 2, S / 2)``."""
        total = F.relu(self.conv0(features))
        for layer in (self.conv1, self.conv2, self.conv3):
            total = total + layer(F.relu(total))
        return F.relu(total)


class FaceApi(nn.Module):
    """Four dense blocks, a mean over the last 7x7 places, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        first, *others = WIDTHS
        self.dense0 = DenseBlock(Plain(3, first, 3, stride=2), first)
        for number, (inputs, width) in enumerate(zip(WIDTHS, others, strict=False), 1):
            self.add_module(f"dense{number}", DenseBlock(Separable(inputs, width, 2), width))
        self.fc = nn.Linear(WIDTHS[-1], len(CLASSES))

    def forward(self, pixels: Tensor) -> Tensor:
        """RGB crops ``(B, 3, 112, 112)`` of 0 to 255 to logits ``(B, 7)`` of :data:`CLASSES`."""
        features = (pixels - pixels.new_tensor(MEAN).view(1, 3, 1, 1)) / 255
        for number in range(len(WIDTHS)):
            features = self.get_submodule(f"dense{number}")(features)
        return self.fc(F.avg_pool2d(features, 7, 2).flatten(1))  # type: ignore[no-any-return]


# --- the published files ----------------------------------------------------------------------------------------------


class _Quantised(BaseModel):
    """Numbers are stored as bytes q and are q * scale + min."""

    dtype: Literal["uint8"]
    scale: FiniteFloat
    min: FiniteFloat


class _Stored(BaseModel):
    """A tensor of the manifest; floats in 32 bits where it is not quantised."""

    name: str
    shape: list[PositiveInt]
    dtype: Literal["float32"]
    quantization: _Quantised | None = None

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * (1 if self.quantization else 4)


class _Group(BaseModel):
    weights: list[_Stored]


_MANIFEST = TypeAdapter(list[_Group])


def read_stored(manifest: Path, binary: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors of a TensorFlow.js model by their names in the manifest, channels last.

    Raises:
        WeightsError: a file is missing or damaged, or the two do not belong together.
    """
    try:
        stored = [one for group in _MANIFEST.validate_json(manifest.read_bytes()) for one in group.weights]
        content = binary.read_bytes()
    except OSError as error:
        raise WeightsError(f"{error.filename} cannot be read ({error.strerror}); {PUBLISHED.advice}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place + ': ' if place else ''}{first['msg']}"
        raise WeightsError(f"{manifest} is no manifest of weights ({reason}); {PUBLISHED.advice}") from None
    wanted = sum(one.bytes for one in stored)
    if len(content) != wanted:
        raise WeightsError(f"{binary} has {len(content)} bytes, and its manifest asks for {wanted}; {PUBLISHED.advice}")
    tensors, start = {}, 0
    for one in stored:
        tensors[one.name] = _numbers(one, content[start : start + one.bytes])
        start += one.bytes
    return tensors


def _numbers(stored: _Stored, content: bytes) -> NDArray[np.float32]:
    """A tensor out of its bytes."""
    if stored.quantization is None:
        return np.frombuffer(content, "<f4").astype(np.float32).reshape(stored.shape)
    whole = np.frombuffer(content, np.uint8).astype(np.float32).reshape(stored.shape)
    return whole * np.float32(stored.quantization.scale) + np.float32(stored.quantization.min)


# A layer's tensors by the manifest's names: the module's name, and which axis of the file is each of the module's.
_AXES = {
    "filters": ("weight", (3, 2, 0, 1)),
    "depthwise_filter": ("depthwise.weight", (2, 3, 0, 1)),
    "pointwise_filter": ("pointwise.weight", (3, 2, 0, 1)),
    "weights": ("weight", (1, 0)),
    "bias": ("bias", (0,)),
}


def as_state(tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """The tensors of the manifest as the network has them."""
    state = {}
    for name, values in tensors.items():
        layer, _, kind = name.rpartition("/")
        own, axes = _AXES.get(kind, (kind, ()))
        ordered = values.transpose(axes) if len(axes) == values.ndim else values
        state[f"{layer}.{own}".replace("/", ".")] = torch.from_numpy(ordered.copy())
    return state


def load(manifest: Path | None = None, binary: Path | None = None) -> FaceApi:
    """The network with its published weights, in evaluation mode.

    Args:
        manifest, binary: the two files; None for those that ``facecrafter weights fetch face_expression`` brought.

    Raises:
        WeightsError: a file is missing, damaged or another one.
    """
    binary = binary or weights.locate("face_expression")  # first, for its name is the one that documents fetch both by
    manifest = manifest or weights.locate("face_expression_manifest")
    state = as_state(read_stored(manifest, binary))
    with torch.device("meta"):
        network = FaceApi()
    return fill(network, state, binary, PUBLISHED)


# --- reading faces ----------------------------------------------------------------------------------------------------


def crop(image: NDArray[np.uint8], points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The crop that the network wants, ``(112, 112, 3)`` uint8 RGB: the box of the 68 landmarks from brows to chin with
    a tenth more on each side, in the middle of a black square that its longer side fills. It ends where the image does.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, in which the face is upright.
        points: ``(478, 2 or 3)`` landmarks in pixels of it.

    Raises:
        PhotoError: an image of another kind.
        NoFaceError: the landmarks are not finite, all in one place, or outside the image.
    """
    import cv2

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise PhotoError(f"an image is {image.dtype} of shape {image.shape}; give (height, width, 3) uint8 RGB")
    outermost = points[[*OUTLINE, *BROWS], :2].astype(np.float64)
    low, high = outermost.min(0), outermost.max(0)
    padding = PADDING * (high - low)
    edges = np.array([low - padding, high + padding])
    if not (np.isfinite(edges).all() and (high - low).min() >= 1):
        raise NoFaceError("the landmarks of a face are not finite, or all in one place; look for the face again")
    limit = np.array(image.shape[1::-1])
    (left, top), (right, bottom) = (np.clip([np.floor(edges[0]), np.ceil(edges[1])], 0, limit)).astype(int).tolist()
    cut = image[top:bottom, left:right]
    if not cut.size:
        raise NoFaceError("the landmarks of a face are outside its image; look for the face again")
    scale = SIZE / max(cut.shape[:2])
    height, width = (max(1, round(side * scale)) for side in cut.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    square = np.zeros((SIZE, SIZE, 3), np.uint8)
    above, before = (SIZE - height) // 2, (SIZE - width) // 2
    square[above : above + height, before : before + width] = cv2.resize(cut, (width, height), interpolation=way)
    return square


class FaceApiReader:
    """Reads emotions with the network.

    Args:
        network: None for the one with the published weights.
        batch: faces at once.

    Raises:
        WeightsError: see :func:`load`.
    """

    def __init__(self, network: FaceApi | None = None, batch: int = 64) -> None:
        self.network, self.batch = network or load(), batch

    def read(self, images: Sequence[NDArray[np.uint8]], points: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """The probabilities ``(N, 7)`` of :data:`CLASSES` in N faces.

        Args:
            images: ``(H, W, 3)`` uint8 RGB of any size, one a face.
            points: ``(478, 2 or 3)`` landmarks of each, in pixels.

        Raises:
            PhotoError, NoFaceError: see :func:`crop`.
        """
        crops = [crop(image, marks) for image, marks in zip(images, points, strict=True)]
        read = np.zeros((len(crops), len(CLASSES)))
        for start in range(0, len(crops), self.batch):
            stack = torch.from_numpy(np.stack(crops[start : start + self.batch])).permute(0, 3, 1, 2).float()
            with torch.inference_mode():
                read[start : start + self.batch] = self.network(stack).double().softmax(1).numpy()
        return read
