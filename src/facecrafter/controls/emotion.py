"""Emotion, by valence, arousal and the probabilities of eight classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from facecrafter.controls.base import Control

if TYPE_CHECKING:
    from torch import nn


def _module(width: int, options: Mapping[str, Any]) -> nn.Module:
    from facecrafter.models.emotion_module import EmotionModule

    return EmotionModule(options["hidden"], options["tokens"], width)


EMOTION = Control(
    name="emotion",
    title="emotion is",
    read=lambda portrait: portrait.emotion,
    module=_module,
    options={
        "hidden": 128,
        "tokens": 4,
        "estimator": None,  # whose emotions were learned; None in files from before it was written down
    },
    scales={"mini": 1.4, "arc2face": 2.0},
    row="emotion",
    moves=("emotion",),
    origin=lambda prepared: {"estimator": prepared.estimator},
)
