"""Pose and expression, by the landmarks of a face drawn as an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from facecrafter.controls.base import Control

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn


def _module(width: int, options: Mapping[str, Any]) -> nn.Module:
    from facecrafter.models.landmark_module import LandmarkModule

    if options["channels"][-1] != width:
        raise ValueError(f"the landmark CNN ends at {options['channels'][-1]} channels, not the context's {width}")
    return LandmarkModule(options["channels"], options["strides"])


def _draw(points: Sequence[NDArray[np.float32]], size: float, options: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Landmark images ``(B, L, L, 3)`` uint8: a quarter of what numbers in [0, 1] take."""
    import numpy as np

    from facecrafter.faces import landmarks

    return np.stack([landmarks.draw(one, size, options["size"]) for one in points])


def _present(images: Tensor) -> Tensor:
    """``(B, L, L, 3)`` uint8 to ``(B, 3, L, L)`` in [0, 1]."""
    return images.permute(0, 3, 1, 2).float() / 255


LANDMARK = Control(
    name="landmark",
    title="landmarks are",
    read=lambda portrait: portrait.points,
    module=_module,
    options={
        "channels": (3, 128, 128, 128, 256, 512, 512, 256),  # the last is the context's width
        "strides": (2, 2, 2, 2, 2, 2, 1),
        "size": 512,  # side of the landmark images in pixels
        "place_sigma": None,  # None for Eq. 1 as the paper has it
    },
    own_options={
        "mini": {
            "channels": (3, 32, 64, 128, 256, 256),
            "strides": (2, 2, 2, 2, 1),
            "size": 128,
            "place_sigma": 0.12,
        }
    },
    scales={"mini": 0.9, "arc2face": 2.0},
    encode=_draw,
    present=_present,
    mirror=lambda images: images.flip(3),
    row="pose",
    moves=("pose", "expression"),
    carries_shape=True,
)
