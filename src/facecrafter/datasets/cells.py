"""The cells of a plan: what each asks for, how full it is to be, and whether an image is in it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.datasets.config import MOST_IMAGES, AcceptConfig, FillConfig, PlanConfig
from facecrafter.errors import ConfigError
from facecrafter.faces.asked import Asked, Pose, asked_of, doubts
from facecrafter.faces.emotion import Emotion, emotion_of
from facecrafter.faces.face import BLENDSHAPES
from facecrafter.faces.rig import load

NEUTRAL, FREE = "neutral", "free"


@dataclass(frozen=True)
class Cell:
    """One combination of the axes.

    Attributes:
        yaw, pitch: degrees.
        expression: as the axis names it.
        emotion: as the axis names it, in words.
        numbers: blendshapes that are asked for, by their full names.
        valence, arousal: of the emotion; None where it is free.
        probabilities: of the eight emotions; empty where it is free.
    """

    yaw: float
    pitch: float
    expression: str
    emotion: str
    numbers: Mapping[str, float]
    valence: float | None
    arousal: float | None
    probabilities: tuple[float, ...] = ()

    @cached_property
    def target_emotion(self) -> Emotion | None:
        """The emotion; None where it is free."""
        if not self.probabilities or self.valence is None or self.arousal is None:
            return None
        return Emotion(self.valence, self.arousal, self.probabilities)

    @property
    def name(self) -> str:
        """In one line."""
        return f"yaw {self.yaw:g}, pitch {self.pitch:g}, {self.expression}, {self.emotion}"

    def asked(self, through: str) -> Asked:
        """What its landmarks are asked to be.

        Args:
            through: what the emotion acts through.
        """
        emotion = self.target_emotion if through != "module" else None
        return Asked(Pose(self.yaw, self.pitch), dict(self.numbers), "neutral", emotion)

    @cached_property
    def digest(self) -> str:
        """What tells what it asks for from every other."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Cell:
        """Of what :func:`dataclasses.asdict` gave and JSON kept."""
        return cls(**{**content, "probabilities": tuple(content["probabilities"])})


def cells_of(config: PlanConfig) -> list[Cell]:
    """Every cell, those that differ in the pose alone next to each other: they share a person's face.

    Raises:
        ConfigError: a cell asks for what cannot be, or for what no image will follow, or two cells are one.
    """
    axes, found = config.cells, []
    for emotion, expression in product(axes.emotion, axes.expression):
        numbers = _expression(expression, config.presets)
        target = _emotion(emotion)
        _refuse_doubtful(expression, numbers, target if config.emotion_through != "module" else None)
        about = (None, None, ()) if target is None else (target.valence, target.arousal, target.probabilities)
        for yaw, pitch in product(axes.yaw, axes.pitch):
            found.append(Cell(yaw + 0.0, pitch + 0.0, expression, emotion_name(emotion), numbers, *about))
    _refuse_twice(found)
    return found


def _refuse_twice(cells: Sequence[Cell]) -> None:
    """Refuse cells that nothing could tell apart: images of both would have the same ids, or be counted as one.

    Raises:
        ConfigError: two have the same name.
    """
    named = Counter(cell.name for cell in cells)
    name, times = named.most_common(1)[0]
    if times > 1:
        raise ConfigError(f"cells: two cells are both '{name}'; leave one out")


def emotion_name(emotion: str | Mapping[Any, float]) -> str:
    """An emotion of the axis in words."""
    if isinstance(emotion, str):
        return emotion
    valence, arousal = (emotion.get(name, 0) + 0.0 for name in ("valence", "arousal"))  # no -0
    return f"valence {valence:g} arousal {arousal:g}"


def _expression(word: str, presets: Path | None) -> dict[str, float]:
    """Blendshapes of a value of the axis.

    Raises:
        ConfigError: no preset has that name, it turns the head, or a number is out of its range.
    """
    if word == NEUTRAL:
        return {}
    asked = asked_of(expression=word) if "=" in word else asked_of(preset=word, presets=presets)
    if asked is None or asked.pose is not None:
        raise ConfigError(f"the preset '{word}' also turns the head, which the axes do; give its blendshapes")
    return dict(asked.expression)


def _emotion(value: str | Mapping[Any, float]) -> Emotion | None:
    if value == FREE:
        return None
    if isinstance(value, str):
        return emotion_of(value)
    return emotion_of(None, value.get("valence"), value.get("arousal"))


def _refuse_doubtful(name: str, numbers: Mapping[str, float], emotion: Emotion | None) -> None:
    doubt = next(doubts(Asked(None, dict(numbers), "neutral", emotion), load()), None)
    if doubt:
        raise ConfigError(f"the cells with the expression '{name}' cannot be filled: {doubt}; leave it out")


def counts_of(config: PlanConfig, cells: Sequence[Cell], people: int) -> NDArray[np.int64]:
    """How many images each cell is to hold, ``(C,)``.

    Raises:
        ConfigError: they are none at all, or more than any plan may have.
    """
    usual = config.images if config.images is not None else (config.a_person or 0) * people
    counts = np.full(len(cells), usual, np.int64)
    for rule in config.fill:
        counts[[_fits(rule, cell) for cell in cells]] = rule.images
    total = sum(counts.tolist())
    if not total:
        raise ConfigError("no cell is to hold an image; give images or a_person, or another fill")
    if total > MOST_IMAGES:
        raise ConfigError(
            f"the plan asks for {total:,} images, and may for {MOST_IMAGES:,}; lower images, a_person or fill"
        )
    return counts


def _fits(rule: FillConfig, cell: Cell) -> bool:
    emotions = None if rule.emotion is None else [emotion_name(one) for one in rule.emotion]
    axes = ((rule.yaw, cell.yaw), (rule.pitch, cell.pitch), (rule.expression, cell.expression))
    return all(values is None or own in values for values, own in (*axes, (emotions, cell.emotion)))


@dataclass(frozen=True)
class Measured:
    """What is read off an image, for :func:`missed`.

    Attributes:
        angles: yaw, pitch and roll in degrees.
        blendshapes: ``(52,)``.
        emotion: as the estimator has it.
        likeness: cosine of its embedding to the person's.
    """

    angles: tuple[float, float, float]
    blendshapes: NDArray[np.float32]
    emotion: Emotion
    likeness: float


def missed(cell: Cell, accept: AcceptConfig, found: Measured) -> str:
    """Why an image is not in its cell; empty where it is."""
    for name, asked, read in (("yaw", cell.yaw, found.angles[0]), ("pitch", cell.pitch, found.angles[1])):
        most = getattr(accept, name)
        if most is not None and abs(read - asked) > most:
            return f"{name} {read:.0f} in place of {asked:g} degrees"
    for name, value in cell.numbers.items():
        read = float(found.blendshapes[BLENDSHAPES.index(name)])
        if accept.expression is not None and abs(read - value) > accept.expression:
            return f"{name} {read:.2f} in place of {value:g}"
    if cell.target_emotion is not None:
        if accept.emotion and found.emotion.label != cell.target_emotion.label:
            return f"{found.emotion.label} in place of {cell.target_emotion.label}"
        for name in ("valence", "arousal"):
            most, asked = getattr(accept, name), getattr(cell.target_emotion, name)
            read = getattr(found.emotion, name)
            if most is not None and abs(read - asked) > most:
                return f"{name} {read:.2f} in place of {asked:.2f}"
    if accept.identity is not None and found.likeness < accept.identity:
        return f"only {found.likeness:.2f} alike to the person"
    return ""
