"""How long a run may go on: by the clock in place of a count of steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from facecrafter.errors import ConfigError

# The learning rate is constant and falls to its end in the last part: of a run that may be given more time later nobody
# knows the whole length, which a cosine would need.
FALLS_FROM, LEAST = 0.7, 0.02
# A checkpoint is written so many times a run, but not more often than the first and not more seldom than the second.
SAVES, SHORTEST, LONGEST = 5, 20.0, 600.0
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # of a budget
SHOWN_FROM = 300.0  # seconds from which on a run takes the time for a grid of samples


def check_one_process() -> None:
    """Refuse a budget to one of several processes: each has a clock of its own, and would end at another step.

    Raises:
        ConfigError: a launcher started several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a budget of time is for one process; give --steps to several, or start one without a launcher"
        )


def seconds_of(text: str) -> float:
    """A budget such as ``90s``, ``9m``, ``1.5h`` or ``2d`` in seconds.

    Raises:
        ConfigError: it is none.
    """
    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        seconds = float("nan")
    if not 0 < seconds < 366 * UNITS["d"]:
        raise ConfigError(f"'{text}' is no budget; give a number and its unit, as in 90s, 9m, 12h or 2d")
    return seconds


@dataclass
class TimeBox:
    """One run's time.

    Attributes:
        until: the end, on ``time.monotonic``'s clock.
        limit: operations a second that the machine's own matrix product reaches; NaN where it was not measured.
        saved: called when the model was written.
        began: when it began; building the stage counts.
    """

    until: float
    limit: float = float("nan")
    saved: Callable[[], None] = lambda: None
    began: float = field(default_factory=lambda: time.monotonic())

    @classmethod
    def of(cls, seconds: float) -> TimeBox:
        """So many seconds from now on."""
        return cls(time.monotonic() + seconds)

    def __post_init__(self) -> None:
        self._last_saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """The whole time."""
        return max(self.until - self.began, 1e-3)

    @property
    def gone(self) -> float:
        """The share of it that is gone, from 0 up; above 1 after the end."""
        return (time.monotonic() - self.began) / self.seconds

    def is_over(self, steps: int) -> bool:
        """Whether to stop after so many steps: one at least is made."""
        return steps > 0 and self.gone >= 1

    def rate_factor(self, step: int, warmup: int) -> float:
        """The learning rate's factor, in (0, 1]: linear warm-up by steps, constant, and at the end a straight line down
        to 2 %."""
        left = max(0.0, 1 - self.gone) / (1 - FALLS_FROM)
        return min(1.0, (step + 1) / max(1, warmup)) * max(LEAST, min(1.0, left))

    def save_is_due(self) -> bool:
        """Whether it is time to write a checkpoint; the next one is due a while after."""
        every = min(LONGEST, max(SHORTEST, self.seconds / SAVES))
        if time.monotonic() - self._last_saved < every:
            return False
        self._last_saved = time.monotonic()
        return True
