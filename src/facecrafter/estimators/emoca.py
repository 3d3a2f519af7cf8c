"""EMOCA v2: pose and expression of a face as parameters of FLAME, from the published checkpoint.

Danecek et al., "EMOCA: Emotion driven monocular face capture and animation" (2022): the coarse encoder of DECA (Feng et
al., 2021; a ResNet-50 and two layers) for shape, pose, camera and light, and a second one like it, fine-tuned, for the
expression. What a checkpoint has beside the two (renderer, details, losses) is left. No digest of the published
checkpoints could be found, so names and shapes are all that a file is known by.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facecrafter.errors import WeightsError
from facecrafter.estimators.emonet import BROWS, OUTLINE
from facecrafter.estimators.resnet import WIDTH, ResNet50
from facecrafter.estimators.weights_file import Published, fill, read
from facecrafter.faces.face import square_crop

SIZE = 224
EXPRESSION = 50
JAW = 3
# DECA's code: shape, texture, expression, pose (global rotation, jaw), camera, light.
CODE = {"shape": 100, "texture": 50, "expression": 50, "pose": 6, "camera": 3, "light": 27}

# The side of the crop: the mean side of the landmarks' box, a tenth more, and a quarter more again.
LOOSENESS = 1.1 * 1.25

PUBLISHED = Published("EMOCA", "checkpoint (.ckpt) of an EMOCA v2 with ResNet-50 encoders, such as EMOCA_v2_lr_mse_20")


def crop(image: NDArray[np.uint8], points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The crop that the encoders were trained on, ``(224, 224, 3)`` uint8 RGB, upright as the image is.

    A square around the middle of the box of the 68 landmarks of the face-alignment network, for whose outermost points
    MediaPipe's of the face's outline and brows stand. Beyond the image its edge is repeated (EMOCA's own is black).

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        points: ``(478, 2 or 3)`` landmarks in pixels of it.
    """
    outermost = points[[*OUTLINE, *BROWS], :2].astype(np.float64)
    low, high = outermost.min(0), outermost.max(0)
    side = max(1, int((high - low).mean() * LOOSENESS))
    # EMOCA lays the square's corners on the middles of the first and last pixel.
    return square_crop(image, (low + high) / 2, side * SIZE / (SIZE - 1), SIZE)


class Encoder(nn.Module):
    """ResNet-50 and two layers: an image to ``outputs`` numbers."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.encoder = ResNet50()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 1024), nn.ReLU(), nn.Linear(1024, outputs))

    def forward(self, pixels: Tensor) -> Tensor:
        """``(B, 3, 224, 224)`` in [0, 1] to ``(B, outputs)``."""
        parameters: Tensor = self.layers(self.encoder(pixels))
        return parameters


class Parameters(NamedTuple):
    """FLAME parameters of B faces.

    Attributes:
        expression: ``(B, 50)``, coefficients of FLAME's first 50 components of expression.
        pose: ``(B, 6)``: global rotation and the jaw's, either as an axis times an angle in radians.
    """

    expression: Tensor
    pose: Tensor


class Emoca(nn.Module):
    """The two encoders, with the names of the checkpoint.

    Args:
        jaw: the second encoder gives the jaw's rotation after the expression, an option of EMOCA's code; otherwise the
            jaw is DECA's.
    """

    def __init__(self, jaw: bool = False) -> None:
        super().__init__()
        self.E_flame = Encoder(sum(CODE.values()))
        self.E_expression = Encoder(EXPRESSION + (JAW if jaw else 0))

    def code(self, crops: Tensor) -> dict[str, Tensor]:
        """What the first encoder says, by the names of :data:`CODE`, of crops as in :meth:`forward`."""
        return dict(zip(CODE, self.E_flame(crops / 255).split(list(CODE.values()), 1), strict=True))

    def expression(self, crops: Tensor) -> Tensor:
        """``(B, 50)`` of crops as in :meth:`forward`."""
        return self.E_expression(crops / 255)[:, :EXPRESSION]

    def forward(self, crops: Tensor) -> Parameters:
        """RGB crops ``(B, 3, 224, 224)``, float 0 to 255, to their parameters."""
        expression, jaw = self.E_expression(crops / 255).tensor_split([EXPRESSION], 1)
        turn, own_jaw = self.code(crops)["pose"].split([3, 3], 1)
        return Parameters(expression, torch.cat([turn, jaw if jaw.shape[1] else own_jaw], 1))


def load(path: Path) -> Emoca:
    """The encoders with the weights of a published checkpoint, for evaluation.

    Raises:
        WeightsError: there is no such file, it is damaged, or it has no such encoders.
    """
    content = read(path, PUBLISHED).items()
    state = {name.removeprefix("deca."): value for name, value in content if name.startswith("deca.E_")}
    last = state.get("E_expression.layers.2.bias")
    if last is not None and last.numel() not in (EXPRESSION, EXPRESSION + JAW):
        wrong = f"its expression has {last.numel()} numbers, not {EXPRESSION}"
        raise WeightsError(f"{path} is no EMOCA file: {wrong}; {PUBLISHED.advice}")
    with torch.device("meta"):
        network = Emoca(jaw=last is not None and last.numel() > EXPRESSION)
    return fill(network, state, path, PUBLISHED)
