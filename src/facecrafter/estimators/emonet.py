"""EmoNet: valence, arousal and emotion from the pixels of a face, for who has its published weights.

Toisoul et al., "Estimation of continuous valence and arousal levels from faces in naturalistic conditions", Nature
Machine Intelligence 3 (2021): a face-alignment network (Bulat & Tzimiropoulos, 2017) whose features, weighed by where
it sees landmarks, go through a small convolutional head. The modules here bear the names of the published files,
``emonet_8.pth`` and ``emonet_5.pth``. Its authors' definition speaks of instance norms but binds that name to batch
norms, and the files hold their running statistics, so these are batch norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from facecrafter.errors import NoFaceError, PhotoError, WeightsError
from facecrafter.estimators import weights_file
from facecrafter.estimators.weights_file import Published
from facecrafter.faces.emotion import EMOTIONS, Emotion
from facecrafter.faces.face import Face, square_crop
from facecrafter.pickles import ForeignClasses, foreign_class

SIZE = 256
LANDMARKS = 68
WIDTH = 256
MODULES = 2
DEPTH = 4

# What the outputs of the two published files stand for. In the training labels of the smaller one, anger (6 of 8) is
# moved to the fifth place and fear is left out.
CLASSES = {8: EMOTIONS, 5: ("neutral", "happy", "sad", "surprise", "anger")}

# The outline of the face from temple to chin to temple, and the upper edges of the brows: where the 68 points of the
# face-alignment network lie outermost. The forehead, which they leave out, is left out here too.
OUTLINE = (127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356)  # fmt: skip # noqa: E501
BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
# The crop's side is the sum of the sides of the points' box, divided by this.
TIGHTNESS = 1.1

PUBLISHED = Published("EmoNet", "emonet_8.pth or emonet_5.pth, whole")


class ConvBlock(nn.Module):
    """Three 3x3 convolutions, each on the result of the one before, side by side: 1/2, 1/4 and 1/4 of the channels.

    Norm and ReLU come before each; the input is added at the end, through a 1x1 convolution where the width changes.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half, quarter = outputs // 2, outputs // 4
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, half, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(half), nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3, self.conv3 = nn.BatchNorm2d(quarter), nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.downsample: nn.Module = nn.Identity()
        if inputs != outputs:
            self.downsample = nn.Sequential(
                nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False)
            )

    def forward(self, features: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, outputs, h, w)``."""
        first = self.conv1(F.relu(self.bn1(features)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        return torch.cat([first, second, third], 1) + self.downsample(features)


class Hourglass(nn.Module):
    """Down by halves to a sixteenth of the side and up again, with a block across at every level (level 4 first)."""

    def __init__(self) -> None:
        super().__init__()
        for level in range(DEPTH, 0, -1):
            for part in ("b1", "b2", "b3"):
                self.add_module(f"{part}_{level}", ConvBlock(WIDTH, WIDTH))
        self.b2_plus_1 = ConvBlock(WIDTH, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, 256, h, w)`` to the same shape; the sides are multiples of 16."""
        across = []
        for level in range(DEPTH, 0, -1):
            across.append(self.get_submodule(f"b1_{level}")(features))
            features = self.get_submodule(f"b2_{level}")(F.max_pool2d(features, 2))
        features = self.b2_plus_1(features)
        for level in range(1, DEPTH + 1):
            risen = self.get_submodule(f"b3_{level}")(features)
            features = across.pop() + F.interpolate(risen, scale_factor=2, mode="nearest")
        return features


class Output(NamedTuple):
    """What the network says of B faces.

    Attributes:
        heatmaps: ``(B, 68, 64, 64)``, where the last hourglass sees each landmark.
        scores: ``(B, classes + 2)``: the logits of the classes, then valence, then arousal, neither of them bounded.
    """

    heatmaps: Tensor
    scores: Tensor


class EmoNet(nn.Module):
    """The network of the published files: face alignment with two hourglasses, and the emotion head.

    Args:
        classes: 8 or 5, see :data:`CLASSES`.
    """

    def __init__(self, classes: int = 8) -> None:
        super().__init__()
        self.classes = classes
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, stride=2, padding=3), nn.BatchNorm2d(64)
        self.conv2, self.conv3, self.conv4 = ConvBlock(64, 128), ConvBlock(128, 128), ConvBlock(128, WIDTH)
        for index in range(MODULES):
            self.add_module(f"m{index}", Hourglass())
            self.add_module(f"top_m_{index}", ConvBlock(WIDTH, WIDTH))
            self.add_module(f"conv_last{index}", nn.Conv2d(WIDTH, WIDTH, 1))
            self.add_module(f"bn_end{index}", nn.BatchNorm2d(WIDTH))
            self.add_module(f"l{index}", nn.Conv2d(WIDTH, LANDMARKS, 1))
        for index in range(MODULES - 1):
            self.add_module(f"bl{index}", nn.Conv2d(WIDTH, WIDTH, 1))
            self.add_module(f"al{index}", nn.Conv2d(LANDMARKS, WIDTH, 1))
        self.conv1x1_input_emo_2 = nn.Conv2d(WIDTH * (MODULES + 1), WIDTH, 1)
        halvings = [layer for _ in range(4) for layer in (ConvBlock(WIDTH, WIDTH), nn.MaxPool2d(2))]
        self.emo_net_2 = nn.Sequential(*halvings)
        self.avg_pool_2 = nn.AvgPool2d(4)
        self.emo_fc_2 = nn.Sequential(
            nn.Linear(WIDTH, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, classes + 2)
        )

    def forward(self, pixels: Tensor) -> Output:
        """RGB faces ``(B, 3, 256, 256)`` in [0, 1] to heat maps and scores."""
        stem = F.max_pool2d(self.conv2(F.relu(self.bn1(self.conv1(pixels)))), 2)
        stem = self.conv4(self.conv3(stem))
        entering, tops = stem, []
        for index in range(MODULES):
            top = self.get_submodule(f"top_m_{index}")(self.get_submodule(f"m{index}")(entering))
            top = F.relu(self.get_submodule(f"bn_end{index}")(self.get_submodule(f"conv_last{index}")(top)))
            heatmaps = self.get_submodule(f"l{index}")(top)
            if index < MODULES - 1:
                top = self.get_submodule(f"bl{index}")(top)
                entering = entering + top + self.get_submodule(f"al{index}")(heatmaps)
            tops.append(top)
        attention = heatmaps.sum(1, keepdim=True)
        features = self.conv1x1_input_emo_2(torch.cat([stem, torch.cat(tops, 1) * attention], 1))
        pooled = self.avg_pool_2(self.emo_net_2(features)).flatten(1)
        return Output(heatmaps, self.emo_fc_2(pooled))


def load(path: Path) -> EmoNet:
    """The network in evaluation mode with the weights of a published file.

    Names may begin with ``module.``, as training on several GPUs leaves them. Weights that the network has no place for
    are not read.

    Args:
        path: ``emonet_8.pth`` or ``emonet_5.pth``; which of the two, its last layer tells.

    Raises:
        WeightsError: there is no such file, it is damaged, or its weights are not EmoNet's.
    """
    state = _read(path)
    last = state.get("emo_fc_2.3.bias", torch.empty(0))
    classes = last.numel() - 2
    if classes not in CLASSES:
        raise WeightsError(
            f"{path} is not an EmoNet file: its last layer is not one of 8 or 5 classes; {PUBLISHED.advice}"
        )
    with torch.device("meta"):
        network = EmoNet(classes)
    # Old versions of PyTorch did not count the batches that went through a norm; a count in a file is ignored.
    counted = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    return weights_file.fill(network, counted, path, PUBLISHED)


def _read(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file, without running anything that it may contain."""
    if not path.is_file():
        raise WeightsError(f"there is no EmoNet file {path}; {PUBLISHED.advice}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # pickle, zip and torch raise types of their own, with paragraphs of advice to programmers
        unknown = foreign_class(error)
        wrong = ForeignClasses([unknown]) if unknown else "is damaged, or is no file of PyTorch weights"
        raise WeightsError(f"{path} {wrong}; {PUBLISHED.advice}") from None
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not named or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds something else than named weights; {PUBLISHED.advice}")
    return {name.removeprefix("module."): value for name, value in content.items()}


def tight_crop(face: Face) -> NDArray[np.uint8]:
    """The crop that EmoNet was trained on, ``(256, 256, 3)`` uint8 RGB, out of a face of any aligned size.

    It is a square around the middle of the box of :data:`OUTLINE` and :data:`BROWS`, whose side is the sum of the box's
    two sides over 1.1, about 1.8 times the side of the box itself. On an FFHQ-aligned image that is most of the
    frame; where it reaches beyond, the image's edge is repeated. The face stays upright as FFHQ's alignment turned it
    (the published crops keep the photo's own roll).

    Raises:
        NoFaceError: the landmarks are not finite, or all in one place.
    """
    face = face.resized(SIZE)
    points = face.points[[*OUTLINE, *BROWS], :2].astype(np.float64)
    low, high = points.min(0), points.max(0)
    side = float((high - low).sum()) / TIGHTNESS
    if not (np.isfinite(points).all() and side >= 1):
        raise NoFaceError("the landmarks of a face are not finite, or all in one place; look for the face again")
    return square_crop(face.image, (low + high) / 2, side, SIZE)


def decode(scores: NDArray[np.float32]) -> list[Emotion]:
    """The network's scores ``(B, 10)`` or ``(B, 7)`` as emotions.

    Valence and arousal are clipped to [-1, 1], as the published evaluation does; a softmax makes the logits
    probabilities. The three classes that the smaller file does not know get 0.
    """
    values = np.asarray(scores, np.float64)
    odds = np.exp(values[:, :-2] - values[:, :-2].max(1, keepdims=True))
    places = [EMOTIONS.index(name) for name in CLASSES[odds.shape[1]]]
    probabilities = np.zeros((len(values), len(EMOTIONS)))
    probabilities[:, places] = odds / odds.sum(1, keepdims=True)
    affects = values[:, -2:].clip(-1, 1)
    return [
        Emotion(float(valence), float(arousal), tuple(row.tolist()))
        for (valence, arousal), row in zip(affects, probabilities, strict=True)
    ]


class EmoNetEstimator:
    """Reads emotions with EmoNet; valence and arousal are measured, not derived from the classes.

    Args:
        path: the published file.
        device: where to compute: cpu, cuda, mps.
        batch: faces at once.

    Raises:
        WeightsError: see :func:`load`.
    """

    def __init__(self, path: Path, device: str = "cpu", batch: int = 16) -> None:
        self.path, self.device, self.batch = Path(path), device, batch
        self.network = load(self.path).to(device)
        self.name = f"emonet_{self.network.classes}"

    def estimate(self, faces: Sequence[Face]) -> list[Emotion]:
        """The emotions of faces of any aligned size.

        Raises:
            NoFaceError: a face whose landmarks say nothing, see :func:`tight_crop`.
            WeightsError: the network's answer is not a number.
        """
        return self.estimate_crops([tight_crop(face) for face in faces])

    def estimate_crops(self, crops: Sequence[NDArray[np.uint8]]) -> list[Emotion]:
        """Emotions of images that already are tight face crops, ``(H, W, 3)`` uint8 RGB of any size.

        Each is stretched to 256 px a side.

        Raises:
            PhotoError: an image of another kind.
            WeightsError: the network's answer is not a number.
        """
        pixels = [_as_input(crop) for crop in crops]
        emotions: list[Emotion] = []
        for start in range(0, len(pixels), self.batch):
            stack = torch.from_numpy(np.stack(pixels[start : start + self.batch])).to(self.device)
            with torch.inference_mode():
                scores = self.network(stack.permute(0, 3, 1, 2).float() / 255).scores.float().cpu().numpy()
            if not np.isfinite(scores).all():
                raise WeightsError(f"{self.path} answers with values that are not finite numbers; {PUBLISHED.advice}")
            emotions.extend(decode(scores))
        return emotions


def _as_input(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A crop at the network's size."""
    import cv2

    if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3 or crop.size == 0:
        raise PhotoError(f"a face crop is {crop.dtype} of shape {crop.shape}; give (height, width, 3) uint8 RGB")
    way = cv2.INTER_AREA if min(crop.shape[:2]) > SIZE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(crop, (SIZE, SIZE), interpolation=way), np.uint8)
