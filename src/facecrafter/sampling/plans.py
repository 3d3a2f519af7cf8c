"""Ways to spend fewer predictions on an image than Eq. 6 asks for. docs/speed.md says what each saves and costs.

A way is a function that plans an image: it is given the weights that Eq. 6 collects (see
:meth:`facecrafter.sampling.guidance.Guidance.coefficients`) and the number of steps, and says for every step which
predictions to make, with which weights, and what to keep for later steps. Where Eq. 6 needs one prediction anyway,
every plan is the exact one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from facecrafter.controls import CONTROLS
from facecrafter.errors import ConfigError
from facecrafter.sampling.guidance import combine

if TYPE_CHECKING:
    from torch import Tensor

Coefficients = dict[str, float]


@dataclass(frozen=True)
class Step:
    """One denoising step.

    Attributes:
        weights: the predictions to make, by name, and the weight of each in the step's sum.
        keep: the sum's difference from this prediction is kept for later steps; None keeps what was kept.
        reuse: add the difference that was kept last.
        distilled: the prediction is the distilled network's, which takes the scales of Eq. 6 as inputs.
    """

    weights: Coefficients
    keep: str | None = None
    reuse: bool = False
    distilled: bool = False


Plan = Callable[[Coefficients, int], Sequence[Step]]


def together(coefficients: Coefficients) -> str:
    """The one prediction that is given every condition that has a weight."""
    return "+".join(name for name in CONTROLS if name in coefficients) or "identity"


def exact(coefficients: Coefficients, steps: int) -> Sequence[Step]:
    """Eq. 6 in every step."""
    return [Step(coefficients)] * steps


def interval(coefficients: Coefficients, steps: int, first: float, last: float) -> Sequence[Step]:
    """Guidance on an interval of the steps (Kynkäänniemi et al., 2024).

    Outside it every scale counts as 1 and the conditions are given together, which is one prediction: Eq. 1 with a
    weight of 1 for each control that is on.

    Args:
        coefficients, steps: see :data:`Plan`.
        first, last: the guided part of the steps, in shares of their number: step i of n, counted from the noise, is
            guided where ``first <= i / n < last``.
    """
    guided, plain = Step(coefficients), Step({together(coefficients): 1.0})
    return [guided if first <= index / steps < last else plain for index in range(steps)]


def refresh(coefficients: Coefficients, steps: int, every: int) -> Sequence[Step]:
    """Eq. 6 in every ``every``-th step; what it adds to one of the predictions is added again in between.

    That prediction is the one with the first control that is on: landmarks, because where things are changes fastest;
    else emotion; without controls the one with identity. In between it is made alone.
    """
    base = next(name for name in (*CONTROLS, "identity") if name in coefficients)
    fresh, between = Step(coefficients, keep=base), Step({base: 1.0}, reuse=True)
    return [between if index % every else fresh for index in range(steps)]


def distilled(coefficients: Coefficients, steps: int) -> Sequence[Step]:
    """One prediction a step, by a network that was trained to say what Eq. 6 says (Meng et al., 2023)."""
    return [Step({together(coefficients): 1.0}, distilled=True)] * steps


SPEEDS: dict[str, Plan] = {
    "exact": exact,
    "interval": partial(interval, first=0.6, last=1.0),
    "refresh": partial(refresh, every=3),
    "distilled": distilled,
}


def check_speed(speed: str) -> None:
    """Refuse a speed that there is not.

    Raises:
        ConfigError: there is no speed of that name.
    """
    if speed not in SPEEDS:
        raise ConfigError(f"unknown speed '{speed}'; there are {', '.join(SPEEDS)}")


def plan(speed: str, coefficients: Coefficients, steps: int) -> Sequence[Step]:
    """What to do in each step. Where Eq. 6 needs one prediction anyway, every way is the exact one.

    Raises:
        ConfigError: there is no speed of that name.
    """
    check_speed(speed)
    return (exact if len(coefficients) == 1 else SPEEDS[speed])(coefficients, steps)


def summed(predictions: Tensor, step: Step, kept: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A step's sum, and the difference that later steps may reuse.

    Args:
        predictions: ``(P * B, ...)``, the step's P predictions in their order, all B samples of the first one first.
        step: what to make of them.
        kept: what this function returned last, ``(B, ...)``.
    """
    parts = dict(zip(step.weights, predictions.chunk(len(step.weights)), strict=True))
    total = combine(predictions, step.weights)
    if step.reuse and kept is not None:
        total = total + kept
    if step.keep is not None:
        kept = total - parts[step.keep]
    return total, kept
