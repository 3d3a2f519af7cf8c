"""Equation 6: guidance by each condition with a scale of its own.

    e = e() + w_ID (e(ID) - e()) + w_LMK (e(ID, LMK) - e(ID)) + w_EMO (e(ID, EMO) - e(ID))

Collected by prediction, the right side is a weighted sum of four, whose weights sum to 1:

    (1 - w_ID) e()  +  (w_ID - w_LMK - w_EMO) e(ID)  +  w_LMK e(ID, LMK)  +  w_EMO e(ID, EMO)

A prediction with weight 0 need not be made. Because the weights sum to 1, the same formula holds for v-predictions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from facecrafter.errors import ConfigError

PREDICTIONS = ("none", "identity", "landmark", "emotion")


@dataclass(frozen=True)
class Guidance:
    """The scales of Eq. 6, any real numbers; the defaults are the paper's.

    Raises:
        ConfigError: a scale is not finite.
    """

    identity: float = 2.5
    landmark: float = 2.0
    emotion: float = 2.0

    def __post_init__(self) -> None:
        for name in PREDICTIONS[1:]:
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"the {name} scale must be a number, not {getattr(self, name)}")

    def scales(self, landmark: bool, emotion: bool) -> tuple[float, float, float]:
        """The scales of identity, landmarks and emotion; that of a condition which is not given counts as 0."""
        return self.identity, self.landmark if landmark else 0.0, self.emotion if emotion else 0.0

    def coefficients(self, landmark: bool, emotion: bool) -> dict[str, float]:
        """The weight of each prediction that has to be made, in the order of :data:`PREDICTIONS`.

        Args:
            landmark, emotion: whether the condition is given; if not, its scale counts as 0.
        """
        w_identity, w_landmark, w_emotion = self.scales(landmark, emotion)
        weights = (1 - w_identity, w_identity - w_landmark - w_emotion, w_landmark, w_emotion)
        return {name: weight for name, weight in zip(PREDICTIONS, weights, strict=True) if abs(weight) > 1e-9}


def combine(predictions: Tensor, coefficients: dict[str, float]) -> Tensor:
    """Eq. 6 of predictions that were made in one call.

    Args:
        predictions: ``(P * B, ...)``, all B samples of the first prediction first.
        coefficients: of the P predictions, as :meth:`Guidance.coefficients` gives them.

    Returns:
        ``(B, ...)``.
    """
    parts = predictions.chunk(len(coefficients))
    weights = iter(coefficients.values())
    total = parts[0] * next(weights)
    for part, weight in zip(parts[1:], weights, strict=True):
        total = total + weight * part
    return total
