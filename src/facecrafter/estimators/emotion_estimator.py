"""What an emotion estimator is, and which there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import ConfigError
from facecrafter.faces.emotion import OWN, Emotion
from facecrafter.faces.face import Face


class EmotionEstimator(Protocol):
    """Reads emotions off faces."""

    name: str
    path: Path  # its weights

    def estimate(self, faces: Sequence[Face]) -> list[Emotion]:
        """One emotion a face, by its aligned image and what was found in it."""
        ...

    def estimate_crops(self, crops: Sequence[NDArray[np.uint8]]) -> list[Emotion]:
        """One emotion a tight face crop, each ``(H, W, 3)`` uint8 RGB of any size, by the pixels alone."""
        ...


def estimator(emonet: Path | None = None) -> EmotionEstimator:
    """The estimator that comes with the project, or EmoNet where its file is given.

    Raises:
        WeightsError: the file is missing, damaged or another one.
    """
    if emonet is not None:
        from facecrafter.estimators.emonet import EmoNetEstimator

        return EmoNetEstimator(emonet)
    from facecrafter.estimators.emotion import PixelEmotion

    return PixelEmotion()


def estimator_for(
    name: str | None, emonet: Path | None = None, of: str = "the model learned emotions from"
) -> EmotionEstimator:
    """The estimator of a name.

    Args:
        name: of the estimator whose emotions a model learned or a data set has; None where it is unknown, then it is
            EmoNet where its file is given, and else the project's own.
        emonet: EmoNet's file.
        of: how an error begins.

    Raises:
        ConfigError: EmoNet's file is needed and not given, or it is given and another estimator is needed.
        WeightsError: the file is missing, damaged or another one.
    """
    if name is None or (name == OWN and emonet is None):
        return estimator(emonet)
    if name == OWN:
        raise ConfigError(f"{of} the project's own estimator; leave --emonet out")
    if not name.startswith("emonet"):
        raise ConfigError(f"{of} '{name}', an estimator that this version does not know; use the version that does")
    if emonet is None:
        raise ConfigError(
            f"{of} {name}, whose file is not part of this project; give it with --emonet {name}.pth (docs/weights.md "
            "says where it is published), or give emotions in words or numbers"
        )
    found = estimator(emonet)
    if found.name != name:
        raise ConfigError(f"{of} {name}, and {emonet} is {found.name}; give {name}.pth")
    return found
