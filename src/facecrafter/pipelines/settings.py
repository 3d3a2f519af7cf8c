"""How images are sampled, and what of it does nothing where it is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from facecrafter.controls import CONTROLS
from facecrafter.errors import ConfigError

if TYPE_CHECKING:
    from facecrafter.models.scales import Scale
    from facecrafter.sampling.guidance import Guidance

# How far from 0 a scale of Eq. 6 may be. Measured with the shipped mini model, skimage's astronaut as identity and
# target, 8 seeds, one scale at a time: at an identity scale of 20, 57 % of the values are black or white and a face is
# found in 7 of 8 images; at 50 they are 70 % and 2, at 1000 they are 92 % and none. At a landmark or emotion scale of
# 50 a face is found in all 8; at 1000, in 2 and in 1.
MOST_SCALE = 20.0
# With fewer steps an image need not show a face. Measured as above, at each of the four speeds: a face is found in none
# of 8 images after one step, in 3 to 7 after two, and in all 8 after three.
ENOUGH_STEPS = 3
# Which multiples of the model scale's own the distilled network has learned: 1 - and 1 + its stage's ``spread``.
DISTILLED_RANGE = (0.5, 1.5)


@dataclass(frozen=True)
class Settings:
    """How images are sampled.

    Attributes:
        identity_scale, landmark_scale, emotion_scale: of Eq. 6, from -20 to 20; 0 switches a condition off.
        steps: denoising steps, at least 1.
        scheduler: ``dpm``, ``ddim``, ``ddpm``, ``euler`` or ``unipc``.
        batch_size: images made at once, at least 1; it changes how fast they come, not what they show.
        speed: ``exact`` for Eq. 6 as it is, or a way to spend less on it: ``interval``, ``refresh`` or ``distilled``.
        scales: of the other controls, by name.

    Whatever is None is the model scale's own, see :class:`facecrafter.models.scales.Scale`.

    Raises:
        ConfigError: a batch size below 1, a number of steps or a batch size that is not whole, or a scale that is out
            of its range.
    """

    identity_scale: float | None = None
    landmark_scale: float | None = None
    emotion_scale: float | None = None
    steps: int | None = None
    scheduler: str | None = None
    batch_size: int = 8
    speed: str | None = None
    scales: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            count = getattr(self, name)
            if count is not None and (isinstance(count, bool) or not isinstance(count, Integral)):
                raise ConfigError(f"the {name.replace('_', ' ')} must be a whole number, not {count!r}")
            object.__setattr__(self, name, count and int(count))  # of NumPy it would not be JSON
        if self.batch_size < 1:
            raise ConfigError(f"the batch size must be at least 1, not {self.batch_size}")
        if unknown := self.scales.keys() - CONTROLS.keys():
            raise ConfigError(f"there is no control '{min(unknown)}'; there are {', '.join(CONTROLS)}")
        for name in self.scales:
            if hasattr(self, f"{name}_scale"):
                raise ConfigError(f"the {name} scale is given as `{name}_scale`, not in `scales`")
        for name in ("identity", *CONTROLS):
            scale = self.scale_of(name)
            number = isinstance(scale, int | float | np.number)
            if scale is not None and not (number and abs(scale) <= MOST_SCALE):  # NaN fails this too
                raise ConfigError(f"the {name} scale must be from {-MOST_SCALE:g} to {MOST_SCALE:g}, not {scale}")
            if hasattr(self, f"{name}_scale"):
                object.__setattr__(self, f"{name}_scale", _plain(scale))
        object.__setattr__(self, "scales", {name: _plain(scale) for name, scale in self.scales.items()})

    @property
    def guidance(self) -> Guidance:
        """The scales, once they are :meth:`filled`."""
        from facecrafter.sampling.guidance import Guidance

        return Guidance(self.identity_scale, {name: self.scale_of(name) for name in CONTROLS})  # type: ignore[arg-type, misc]

    def scale_of(self, name: str) -> float | None:
        """The scale of ``identity`` or of a control; None where it is the model scale's own."""
        return getattr(self, f"{name}_scale", self.scales.get(name))

    def described(self) -> dict[str, object]:
        """What of them an image depends on, by name: all but the batch size."""
        own = {name: value for name, value in vars(self).items() if name not in ("batch_size", "scales")}
        return {**own, **{f"{name}_scale": value for name, value in self.scales.items()}}

    def filled(self, scale: Scale) -> FilledSettings:
        """The same with a model scale's own values in place of None."""
        own = {name: value for name, value in vars(self).items() if value is not None}
        usual = scale.sampling
        scales = {name: float(usual.pop(f"{name}_scale")) for name in CONTROLS if not hasattr(self, f"{name}_scale")}
        return FilledSettings(**{**usual, **own, "scales": {**scales, **self.scales}})  # type: ignore[arg-type]


def _plain(number: Any) -> Any:
    """A number as JSON has it."""
    return number.item() if isinstance(number, np.number) else number


@dataclass(frozen=True)
class FilledSettings(Settings):
    """Settings that leave nothing to the model's scale."""

    steps: int = field(kw_only=True)
    scheduler: str = field(kw_only=True)
    speed: str = field(kw_only=True)


def check_known(settings: Settings) -> None:
    """Refuse settings that no model could sample with, before one is loaded. What is None is not looked at.

    Raises:
        ConfigError: unknown scheduler or speed, or steps that no solver can take.
    """
    from facecrafter.sampling.plans import check_speed
    from facecrafter.sampling.solvers import SCHEDULERS, check_steps

    check_steps(settings.steps or 1, settings.scheduler or next(iter(SCHEDULERS)))
    if settings.speed is not None:
        check_speed(settings.speed)


def ineffective(settings: Settings, given: Collection[str], scale: Scale) -> Iterator[str]:
    """Say which settings that were asked for do nothing, or cannot give what they promise.

    Args:
        settings: as asked for; filled ones do not say what was.
        given: the controls that the image has conditions for.
        scale: the model's.

    Yields:
        One sentence a setting.
    """
    from facecrafter.sampling.plans import plan

    if isinstance(settings, FilledSettings):
        return
    filled = settings.filled(scale)
    for name, control in CONTROLS.items():
        value = settings.scale_of(name)
        if value and name not in given:
            yield f"the {name} scale {value:g} has no effect where no {control.title} asked for"
    if filled.steps < ENOUGH_STEPS:
        few, own = "1 step" if filled.steps == 1 else f"{filled.steps} steps", scale.sampling["steps"]
        yield f"after {few} an image need not show a face; the {scale.name} scale's own are {own}"
    weights = filled.guidance.coefficients(given)
    guided = len(weights) > 1
    if not guided and settings.speed not in (None, "exact"):
        yield f"the speed '{settings.speed}' has no effect: with these scales Eq. 6 is one prediction a step"
    interval = plan("interval", weights, filled.steps) if guided and filled.speed == "interval" else []
    if interval and all(step.weights != weights for step in interval):
        yield f"the scales have no effect: of {filled.steps} steps the speed 'interval' guides none"
    if filled.speed == "distilled":
        yield from _not_distilled(settings, scale, given)


def _not_distilled(settings: Settings, scale: Scale, given: Collection[str]) -> Iterator[str]:
    """What :func:`ineffective` says of scales that the distilled network has not learned."""
    for name in ("identity", *given):
        value = settings.scale_of(name)
        low, high = (share * float(scale.sampling[f"{name}_scale"]) for share in DISTILLED_RANGE)
        off = value == 0 and name != "identity"
        if value is not None and not off and not low <= value <= high:
            yield f"the distilled network knows {name} scales from {low:g} to {high:g}; what {value:g} gives is a guess"
