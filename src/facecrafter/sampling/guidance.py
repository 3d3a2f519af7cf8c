"""Equation 6: guidance by each condition with a scale of its own.

    e = e() + w_ID (e(ID) - e()) + sum over the controls c of w_c (e(ID, c) - e(ID))

Collected by prediction, the right side is a weighted sum, whose weights sum to 1:

    (1 - w_ID) e()  +  (w_ID - sum of w_c) e(ID)  +  sum of w_c e(ID, c)

Predictions are named ``none``, ``identity``, and after the controls that are given beside identity: one, or several
joined by ``+``. A prediction with weight 0 need not be made. Because the weights sum to 1, the same formula holds for
v-predictions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from facecrafter.controls import CONTROLS
from facecrafter.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

PAPER = "arc2face"  # the model scale whose scales in Eq. 6 are the paper's


@dataclass(frozen=True)
class Guidance:
    """The scales of Eq. 6, any real numbers; the defaults are the paper's.

    Attributes:
        identity: of identity.
        controls: by control; what is left out has its default.

    Raises:
        ConfigError: a scale is not finite, or of no control.
    """

    identity: float = 2.5
    controls: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := self.controls.keys() - CONTROLS.keys():
            raise ConfigError(f"there is no control '{min(unknown)}'; there are {', '.join(CONTROLS)}")
        filled = {name: self.controls.get(name, control.scales[PAPER]) for name, control in CONTROLS.items()}
        object.__setattr__(self, "controls", filled)
        for name, scale in (("identity", self.identity), *filled.items()):
            if not math.isfinite(scale):
                raise ConfigError(f"the {name} scale must be a number, not {scale}")

    def scales(self, given: Collection[str]) -> dict[str, float]:
        """The scale of identity and of every control; that of a control which is not given counts as 0."""
        return {"identity": self.identity} | {
            name: scale if name in given else 0.0 for name, scale in self.controls.items()
        }

    def coefficients(self, given: Collection[str]) -> dict[str, float]:
        """The weight of each prediction that has to be made: ``none``, ``identity``, and the controls in their order.

        Args:
            given: the controls that are; the scales of the others count as 0.
        """
        scales = self.scales(given)
        identity = scales.pop("identity")
        rest = identity
        for scale in scales.values():
            rest = rest - scale
        weights = {"none": 1 - identity, "identity": rest, **scales}
        return {name: weight for name, weight in weights.items() if abs(weight) > 1e-9}


def given_to(prediction: str) -> tuple[str, ...]:
    """What a prediction is given, by its name: nothing, ``identity``, or ``identity`` and some controls."""
    if prediction == "none":
        return ()
    return ("identity",) if prediction == "identity" else ("identity", *prediction.split("+"))


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
