"""Emotion from the pixels of a face: a small residual network of this project, trained by its `estimator` stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.errors import NoFaceError, PhotoError
from facecrafter.estimators import weights_file
from facecrafter.estimators.weights_file import Own
from facecrafter.faces.emotion import EMOTIONS, Emotion, features
from facecrafter.faces.face import BLENDSHAPES, Face, square_crop

ASSET = Path(__file__).parents[1] / "assets" / "emotion" / "pixels.safetensors"

# Side of the crops in pixels, as in FER2013.
SIZE = 48
# How FER2013's crops frame a face, measured with MediaPipe on 255 of them: the mean of the two sides of the landmarks'
# box is 0.86 of the crop's side, and the box's middle lies at 0.55 of its height.
FRAME, MIDDLE = 0.86, 0.55

FORMAT = Own("facecrafter-emotion-1", "emotion network", "estimator")


class Gate(nn.Module):
    """Channels weighed by what the whole map says (squeeze and excitation; Hu et al., 2018)."""

    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(width, width // squeeze), nn.Linear(width // squeeze, width)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, width, h, w)``, each channel times a number in (0, 1)."""
        weights = torch.sigmoid(self.excite(F.relu(self.squeeze(features.mean((2, 3))))))
        return features * weights[:, :, None, None]


class Residual(nn.Module):
    """Two 3x3 convolutions with norms, gated if ``squeeze`` is not 0, beside a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int, squeeze: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.gate: nn.Module = Gate(outputs, squeeze) if squeeze else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            pool = nn.AvgPool2d(stride, ceil_mode=True) if stride != 1 else nn.Identity()
            self.shortcut = nn.Sequential(pool, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        nn.init.zeros_(self.norm2.weight)  # a block begins as its shortcut

    def forward(self, features: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, outputs, h / stride, w / stride)``."""
        change = self.gate(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(features))))))
        return F.relu(self.shortcut(features) + change)


class EmotionNet(nn.Module):
    """Grey face crops to class scores that know nothing of how common a class is.

    The scores are log-likelihoods up to a constant: a prior's logarithm is added where probabilities are wanted, the
    training set's in training (logit adjustment; Menon et al., 2021), :attr:`prior` in use. So data sets with other
    shares of the classes can be mixed. Beside the pixels there is a multinomial regression on MediaPipe's blendshapes
    whose scores are of the same kind; where landmarks were found, the two are added for the classes that
    :attr:`shape_classes` names.

    Args:
        widths: channels of the stages, each at half the side of the one before.
        blocks: residual blocks, of every stage or of each.
        stem: channels of two 3x3 convolutions at the crop's own size, before the one that halves it; 0 for a single
            5x5 convolution that halves it at once.
        squeeze: how many channels share one in the blocks' gates; 0 for blocks without gates.
    """

    prior: Tensor
    shape_classes: Tensor
    temperature: Tensor
    joint_temperature: Tensor

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256),
        blocks: int | Sequence[int] = 2,
        stem: int = 0,
        squeeze: int = 0,
    ) -> None:
        super().__init__()
        depths = [blocks] * len(widths) if isinstance(blocks, int) else list(blocks)
        self.config = {"widths": list(widths), "blocks": depths, "stem": stem, "squeeze": squeeze}
        layers: list[nn.Module] = []
        # channels in and out, kernel, stride
        plan = [(1, stem, 3, 1), (stem, stem, 3, 1), (stem, widths[0], 3, 2)] if stem else [(1, widths[0], 5, 2)]
        for inputs, outputs, kernel, stride in plan:
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        self.stem = nn.Sequential(*layers)
        stages: list[nn.Module] = []
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for block in range(depth):
                first = block == 0
                before = widths[index - 1] if first and index else width
                stages.append(Residual(before, width, 2 if first and index else 1, squeeze))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1], len(EMOTIONS))
        self.shapes = nn.Linear(len(BLENDSHAPES), len(EMOTIONS))
        # How common the classes are, and by what the scores are divided; set when training is over.
        self.register_buffer("prior", torch.full((len(EMOTIONS),), 1 / len(EMOTIONS)))
        # Of which classes the blendshapes are heard: 1 or 0.
        self.register_buffer("shape_classes", torch.ones(len(EMOTIONS)))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("joint_temperature", torch.ones(()))

    def forward(self, crops: Tensor, kept: Tensor | None = None) -> Tensor:
        """Scores ``(B, 8)``.

        Args:
            crops: ``(B, 1, H, W)`` in [0, 1], any side from 32 to 64; each is brought to mean 0 and deviation 1 first.
            kept: what the pooled features ``(B, W)`` are multiplied by, for dropout in training.
        """
        mean, deviation = crops.mean((2, 3), keepdim=True), crops.std((2, 3), keepdim=True)
        features = self.stages(self.stem((crops - mean) / (deviation + 0.02)))
        pooled = features.mean((2, 3))
        scores: Tensor = self.head(pooled if kept is None else pooled * kept)
        return scores

    def shape_scores(self, blendshapes: NDArray[np.float32]) -> Tensor:
        """Blendshapes ``(B, 52)`` to scores ``(B, 8)``."""
        inputs = torch.from_numpy(features(blendshapes)).float()
        scores: Tensor = self.shapes(inputs.to(self.shapes.weight.device))
        return scores

    def joint_scores(self, scores: Tensor, blendshapes: NDArray[np.float32]) -> Tensor:
        """The pixels' scores ``(B, 8)`` and those of blendshapes ``(B, 52)`` in one; see :func:`combined`."""
        return combined(scores, self.shape_scores(blendshapes), self.shape_classes > 0, self.prior)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # Files from before there was a choice hear the blendshapes of all classes.
        state_dict.setdefault(f"{prefix}shape_classes", torch.ones(len(EMOTIONS)))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def probabilities(self, scores: Tensor, joint: bool = False) -> Tensor:
        """Calibrated probabilities ``(B, 8)`` under :attr:`prior`.

        Args:
            scores: ``(B, 8)``: of the pixels alone, or those of :meth:`joint_scores`.
            joint: which of the two.
        """
        return torch.softmax(self.calibrated(scores, joint), dim=-1)

    def calibrated(self, scores: Tensor, joint: bool = False) -> Tensor:
        """The logits ``(B, 8)`` of :meth:`probabilities`, up to a constant."""
        temperature = self.joint_temperature if joint else self.temperature
        return scores / temperature + self.prior.log()


def combined(pixels: Tensor, shapes: Tensor, heard: Tensor, prior: Tensor) -> Tensor:
    """The scores of pixels and blendshapes ``(B, 8)`` in one: their sum, for the classes that are ``heard`` ``(8,)``.

    Of another class the blendshapes say as much as of all that are heard together under their ``prior`` ``(8,)``: they
    speak neither for nor against it. Where none is heard, the pixels speak alone.
    """
    if not heard.any():
        return pixels
    common = torch.where(heard, prior, 0)
    others = torch.logsumexp(shapes + (common / common.sum()).log(), dim=1, keepdim=True)
    return pixels + torch.where(heard, shapes, others)


def save(network: EmotionNet, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the network with its config, whole or not at all.

    Raises:
        CheckpointError: the file cannot be written.
    """
    weights_file.write_own(network, network.config, path, FORMAT, dtype)


def load(path: Path = ASSET) -> EmotionNet:
    """Read a network that :func:`save` wrote, in evaluation mode and single precision.

    Raises:
        WeightsError: there is no such file, it is damaged, or holds something else.
    """
    network = weights_file.read_own(path, FORMAT, EmotionNet)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def crop_frame(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The middle ``(2,)`` and the side of the square that FER2013 would show of a face with landmarks ``(N, 2)``."""
    low, high = points.min(0), points.max(0)
    side = float((high - low).mean()) / FRAME
    return (low + high) / 2 - (0, (MIDDLE - 0.5) * side), side


def tight_crop(image: NDArray[np.uint8], points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The grey crop ``(48, 48)`` uint8 out of an aligned face, framed as FER2013 frames its own.

    Args:
        image: ``(S, S, 3)`` uint8 RGB; where the crop reaches beyond, its edge is repeated.
        points: ``(478, 3)`` landmarks in pixels of it.

    Raises:
        NoFaceError: the landmarks are not finite, or all in one place.
    """
    import cv2

    finite = bool(np.isfinite(points).all())
    middle, side = crop_frame(points[:, :2].astype(np.float64)) if finite else (np.zeros(2), 0.0)
    if not side >= 1:
        raise NoFaceError("the landmarks of a face are not finite, or all in one place; look for the face again")
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    # Every cell of the crop is the mean over what it covers: first to twice or more its size, then by areas.
    times = max(1, round(side / SIZE))
    crop = square_crop(grey, middle, side, times * SIZE)
    return np.asarray(cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.uint8)


def grey_crop(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image that already is a tight face crop, stretched to ``(48, 48)`` uint8 grey.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)`` uint8, of any size.

    Raises:
        PhotoError: it is of another kind, or all of one colour.
    """
    import cv2

    image = np.asarray(image)
    colours = image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or image.size == 0 or not (image.ndim == 2 or colours):
        kind = f"{image.dtype} of shape {image.shape}"
        raise PhotoError(f"a face crop is {kind}; give (height, width) or (height, width, 3) uint8")
    if int(image.max()) - int(image.min()) < 2:
        raise PhotoError("a face crop is all of one colour; give an image with a face")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if colours else image
    way = cv2.INTER_AREA if min(grey.shape) > SIZE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(grey, (SIZE, SIZE), interpolation=way), np.uint8)


class PixelEmotion:
    """Reads emotions with :class:`EmotionNet`, and with the blendshapes too where landmarks were found.

    Valence and arousal are derived from the distribution, not measured.

    Args:
        path: the network.
        batch: faces at once.

    Raises:
        WeightsError: see :func:`load`.
    """

    name = "pixels"

    def __init__(self, path: Path = ASSET, batch: int = 128) -> None:
        self.path, self.batch = path, batch
        self.network = load(path)

    def estimate(self, faces: Sequence[Face]) -> list[Emotion]:
        """The emotions of faces of any aligned size.

        Raises:
            NoFaceError: a face whose landmarks say nothing, see :func:`tight_crop`.
        """
        crops = [tight_crop(face.image, face.points) for face in faces]
        shapes = np.array([face.blendshapes for face in faces]).reshape(-1, len(BLENDSHAPES))
        return [Emotion.from_probabilities(row) for row in self.probabilities(crops, shapes)]

    def estimate_crops(self, crops: Sequence[NDArray[np.uint8]]) -> list[Emotion]:
        """Emotions of images that already are tight face crops, by the pixels alone; see :func:`grey_crop`.

        Raises:
            PhotoError: an image of another kind, or all of one colour.
        """
        return [Emotion.from_probabilities(row) for row in self.probabilities([grey_crop(crop) for crop in crops])]

    def probabilities(
        self, crops: Sequence[NDArray[np.uint8]], blendshapes: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """Crops ``(48, 48)`` uint8 grey, and blendshapes ``(N, 52)`` if there are any, to ``(N, 8)``."""
        made = [np.zeros((0, len(EMOTIONS)))]
        for start in range(0, len(crops), self.batch):
            scores = self.scores(np.stack(crops[start : start + self.batch]))
            if blendshapes is not None:
                scores = self.network.joint_scores(scores, blendshapes[start : start + self.batch])
            made.append(self.network.probabilities(scores, joint=blendshapes is not None).double().numpy())
        shares = np.concatenate(made)
        return np.asarray(shares / shares.sum(1, keepdims=True))

    def scores(self, crops: NDArray[np.uint8]) -> Tensor:
        """Crops ``(B, 48, 48)`` uint8 to the network's scores ``(B, 8)``, the mean of the crop's and its mirror
        image's: a face says the same in a mirror."""
        pixels = torch.from_numpy(crops)[:, None].float() / 255
        with torch.inference_mode():
            scores: Tensor = (self.network(pixels) + self.network(pixels.flip(3))) / 2
        return scores
