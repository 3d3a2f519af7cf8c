"""How well the shipped model follows each control, as it was measured on held-out people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facecrafter.errors import CheckpointError
from facecrafter.faces.asked import ANGLES, SIDES, Asked
from facecrafter.weights import ASSETS

# What `evaluate numbers` found of the shipped mini model.
MEASURED = ASSETS / "controls.json"
# Less than a tenth of what is asked for is next to nothing.
HARDLY = 0.1


@dataclass(frozen=True)
class Following:
    """How images follow a control.

    Attributes:
        correlation, slope: of what was read in images, by what was asked.
        error: mean absolute difference.
        people: on how many it was measured.
        readable: the slope in photos whose pixels follow the control, which is as much as can be read; None where that
            was not measured.
    """

    correlation: float
    slope: float
    error: float
    people: int
    readable: float | None = None

    @property
    def hardly(self) -> bool:
        """Whether next to nothing of the control arrives."""
        return self.slope < HARDLY


def measured(path: Path = MEASURED) -> dict[str, Following]:
    """By control, of two sides as one; none where nothing was measured.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        photos = {name: one["slope"] for name, one in (content.get("photos") or {}).items()}
        return {
            name: Following(one["correlation"], one["slope"], one["error"], content["people"], photos.get(name))
            for name, one in content["controls"].items()
            if one["correlation"] is not None
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is damaged; write it again with: facecrafter evaluate numbers") from None


def unfollowed(asked: Asked, following: Mapping[str, Following], model: str) -> Iterator[str]:
    """Say what of a request a model was measured to follow next to not at all.

    Args:
        asked: the request.
        following: what was measured.
        model: its name.

    Yields:
        One sentence a control.
    """
    angles = [name for name in ANGLES if asked.pose is not None and getattr(asked.pose, name)]
    shapes = [_of_both_sides(name, following) for name, value in asked.expression.items() if value]
    for name in dict.fromkeys([*angles, *shapes]):
        one = following.get(name)
        if one is not None and one.hardly:
            photos = "" if one.readable is None else f", moved photos {_percent(one.readable)}"
            shown = f"images show {_percent(one.slope)} of what is asked{photos}"
            yield f"{model} hardly follows {name}: {shown} ({one.people} people)"


def _percent(share: float) -> str:
    return f"{max(0, round(100 * share))} %"


def _of_both_sides(name: str, following: Mapping[str, Following]) -> str:
    """The name under which a blendshape was measured."""
    without = next((name.removesuffix(side) for side in SIDES if name.endswith(side)), name)
    return without if without in following else name
