"""What can be asked for beside identity. A new control is a file in this package and an entry in the registry."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from facecrafter.controls.base import Control
from facecrafter.controls.emotion import EMOTION
from facecrafter.controls.landmark import LANDMARK
from facecrafter.models import registry

# In the order of Eq. 1. Nothing here imports a network before it is built, so that the registry costs nothing.
CONTROLS: dict[str, Control] = {"landmark": LANDMARK, "emotion": EMOTION}

registry.hand_in(CONTROLS)


def together(names: Iterable[str]) -> list[str]:
    """What can be given together with identity, by name: ``identity`` alone, each of some controls, and their
    combinations, joined by ``+`` in the registry's order."""
    chosen = set(names)
    ordered = [name for name in CONTROLS if name in chosen]
    return [
        "identity",
        *("+".join(some) for size in range(1, len(ordered) + 1) for some in combinations(ordered, size)),
    ]


__all__ = ["CONTROLS", "Control", "together"]
