"""How far landmarks are turned for an image to show a head turned as asked.

A generator that learned from few turned heads turns less than its landmarks do. What it was measured to do on people
that it was trained with is stored beside its weights, and read backwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facecrafter.errors import CheckpointError
from facecrafter.io import write_whole

FILE = "gain.json"  # in a model's folder
FORMAT = "facecrafter-gain-1"


@dataclass(frozen=True)
class Gain:
    """What images show of the landmarks' turns.

    Attributes:
        shown: by angle, pairs of degrees that the landmarks were turned by, and of those that images then showed on
            average; both rise. Beyond the last pair more turning shows less.
        about: what it was measured with, for JSON.
    """

    shown: Mapping[str, tuple[tuple[float, float], ...]]
    about: Mapping[str, Any] = field(default_factory=dict)

    def turn(self, name: str, wanted: float) -> float:
        """Degrees to turn the landmarks by; what no image showed gets the most that helps.

        Args:
            name: of the angle; one that was not measured is turned as wanted.
            wanted: degrees that the image should show.
        """
        pairs = self.shown.get(name)
        if pairs is None:
            return wanted
        turned, showed = zip(*pairs, strict=True)
        return round(float(np.interp(wanted, showed, turned)), 2) + 0.0

    def content(self) -> dict[str, Any]:
        """What an image depends on, for JSON."""
        return {name: [list(pair) for pair in pairs] for name, pairs in self.shown.items()}

    def save(self, path: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        content = {"format": FORMAT, "about": dict(self.about), "shown": self.content()}
        write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def rising(pairs: Mapping[float, float]) -> tuple[tuple[float, float], ...]:
    """Degrees turned and shown, in order, from the least shown below 0 to the most shown above: the part that can be
    read backwards."""
    turns = sorted(pairs)
    middle = min(range(len(turns)), key=lambda place: abs(turns[place]))
    kept = [middle]
    for step in (-1, 1):
        place = middle + step
        while 0 <= place < len(turns) and step * (pairs[turns[place]] - pairs[turns[place - step]]) > 0:
            kept.append(place)
            place += step
    return tuple((turns[place], round(pairs[turns[place]], 3)) for place in sorted(kept))


def load(folder: Path) -> Gain | None:
    """That of a model's folder; None where none was measured.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        shown = {
            name: tuple((float(turn), float(shows)) for turn, shows in pairs) for name, pairs in stored["shown"].items()
        }
        rises = all(len(pairs) > 1 and bool((np.diff(pairs, axis=0) > 0).all()) for pairs in shown.values())
        if stored["format"] != FORMAT or not rises:  # NaN does not rise
            raise ValueError("another format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        again = f"measure it again with: facecrafter controls gain DATA {path}"
        raise CheckpointError(f"{path} is damaged; {again}") from None
    return Gain(shown, stored.get("about", {}))
