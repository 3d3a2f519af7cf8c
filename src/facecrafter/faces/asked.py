"""A pose and an expression by numbers: what can be asked for, and what is wrong with what cannot."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

import numpy as np

from facecrafter import config
from facecrafter.errors import ConfigError, did_you_mean, nearest
from facecrafter.faces.control_words import DOES
from facecrafter.faces.emotion import Emotion, describe
from facecrafter.faces.face import BLENDSHAPES
from facecrafter.faces.gain import Gain
from facecrafter.faces.rig import Rig
from facecrafter.weights import ASSETS

log = logging.getLogger(__name__)

# Degrees to either side. Beyond, MediaPipe guesses half of the face, and LFW has next to no photos.
ANGLES = {"yaw": 45.0, "pitch": 30.0, "roll": 30.0}
SIDES = ("Left", "Right")
# From where on a lid is meant to be shut, or wide open; and a number to say something against an emotion.
CLEARLY = 0.2
PRESETS = ASSETS / "presets.yaml"

# What numbers start from: the person's neutral face; its own expression, in which those named are replaced; or its own
# pose and expression, to which numbers are added.
Start = Literal["neutral", "keep", "relative"]
# What an emotion in words, or as a point, acts through.
Through = Literal["both", "landmarks", "module"]
USUALLY: Through = "both"
Numbers = Mapping[str, float] | str


@dataclass(frozen=True)
class Pose:
    """Where a head looks, in degrees as MediaPipe reads them.

    Attributes:
        yaw: to the image's right, from -45 to 45.
        pitch: up, from -30 to 30.
        roll: turned counter-clockwise in the image, from -30 to 30.

    Raises:
        ConfigError: an angle is no number or out of its range.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def __post_init__(self) -> None:
        for name, most in ANGLES.items():
            value = getattr(self, name)
            if not _is_number(value) or not -most <= value <= most:  # NaN fails this too
                raise ConfigError(f"the {name} must be from {-most:g} to {most:g} degrees, not {_quoted(value)}")

    def __str__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name) + 0.0:g}" for name in ANGLES)

    def turned(self, gain: Gain | None) -> Pose:
        """The pose of landmarks whose image shows this one."""
        return self if gain is None else Pose(**{name: gain.turn(name, getattr(self, name)) for name in ANGLES})


def angles_of(yaw: float | None = None, pitch: float | None = None, roll: float | None = None) -> dict[str, float]:
    """Those angles of a pose that are given."""
    return {name: value for name, value in zip(ANGLES, (yaw, pitch, roll), strict=True) if value is not None}


@dataclass(frozen=True)
class Asked:
    """A pose and an expression by numbers.

    Attributes:
        pose: None for straight ahead, or the photo's own where the numbers start from it.
        expression: by the names of :data:`facecrafter.faces.face.BLENDSHAPES`.
        start: what the numbers start from.
        emotion: whose typical expression is added to the neutral face.
        gain: how far the landmarks are turned for the image to show the pose, or to look straight ahead; None for as
            far as the pose says.
        drawn: nobody asked for it: it is a photo's of the training, drawn by the image's seed.
    """

    pose: Pose | None = None
    expression: Mapping[str, float] = field(default_factory=dict)
    start: Start = "neutral"
    emotion: Emotion | None = None
    gain: Gain | None = None
    drawn: bool = False

    @property
    def turns(self) -> bool:
        """Whether it says where the head looks: by a pose, or straight ahead. Otherwise the photo does."""
        return self.pose is not None or self.start == "neutral"

    def content(self) -> dict[str, Any]:
        """What an image depends on, for JSON."""
        gain = {"gain": self.gain.content()} if self.gain and self.turns else {}
        pose = self.pose and {name: float(getattr(self.pose, name)) + 0.0 for name in ANGLES}
        expression = {name: float(value) + 0.0 for name, value in self.expression.items()}
        emotion = self.emotion and [round(share, 6) for share in self.emotion.probabilities]
        return {"pose": pose, "expression": expression, "start": self.start, "emotion": emotion, **gain}

    def described(self) -> dict[str, str]:
        """The same in words, for an image's metadata."""
        if self.drawn:
            return {"pose and expression": "drawn by the seed from photos of the training"}
        words = {
            "landmarks start": {"neutral": "neutral", "keep": "the photo's expression"}.get(self.start, "the photo")
        }
        if self.pose:
            words["pose asked"] = str(self.pose)
        if self.expression:
            words["expression asked"] = in_words(self.expression)
        if self.emotion:
            words["emotion of the landmarks"] = describe(self.emotion)
        return words


def drawn(seed: int, rig: Rig) -> Asked:
    """The pose and the expression of a photo of the training, which the seed of an image chooses."""
    yaw, pitch, *scores = np.random.default_rng([seed, 0]).choice(rig.usual).tolist()
    expression = dict(zip(BLENDSHAPES[1:], scores[1:], strict=True))
    return Asked(Pose(round(yaw, 1), round(pitch, 1)), expression, drawn=True)


def in_words(expression: Mapping[str, float]) -> str:
    """Blendshapes in a row."""
    return ", ".join(f"{name} {value:.3g}" for name, value in expression.items())


def asked_of(
    pose: Pose | Mapping[str, float] | None = None,
    expression: Numbers | None = None,
    preset: str | None = None,
    relative: bool = False,
    keep_expression: bool = False,
    presets: Path | None = None,
    swept: bool = False,
) -> Asked | None:
    """What is asked for by numbers; None where nothing is.

    Args:
        pose: in degrees; of ``{"pitch": 10}`` the other angles are the preset's, or 0.
        expression: ``{"jawOpen": 0.6, "mouthSmile": 0.5}`` or ``"jawOpen=0.6,mouthSmile=0.5"``; a name without its side
            means both.
        preset: a named pose and expression, or several with commas between them, of which a later one counts more than
            those before it; what is given beside them counts more than all.
        relative: add the numbers to the photo's own pose and expression.
        keep_expression: start from the photo's own expression, and replace what is named.
        presets: a YAML file of more presets, see :func:`read_presets`.
        swept: a sweep gives numbers too.

    Raises:
        ConfigError: an unknown name, a number out of its range, or numbers that contradict each other.
    """
    angles = _angles(pose)
    if relative and keep_expression:
        raise ConfigError("numbers are added to the photo's expression or replace parts of it; give one of both")
    numbers: dict[str, float] = {}
    if preset is None and presets is not None:
        raise ConfigError(f"the presets {presets} have no effect without a preset; name one of them")
    if preset is not None:
        if not isinstance(preset, str):
            raise ConfigError(f"a preset is a name, as 'wink', not of the type {_type(preset)}")
        numbers = _named(preset, read_presets(presets))
        angles = {name: numbers.pop(name) for name in ANGLES if name in numbers} | angles
    if expression is not None:
        numbers |= expression_of(expression, -1.0 if relative else 0.0)
    if not angles and not numbers and preset is None and expression is None and not keep_expression:
        if relative and not swept:
            raise ConfigError("nothing is to be added to the photo's pose and expression; give a pose or an expression")
        return Asked(start="relative") if relative else None
    check_lids(numbers)
    start: Start = "relative" if relative else "keep" if keep_expression else "neutral"
    return Asked(Pose(**angles) if angles else None, dict(sorted(numbers.items())), start)


def _named(preset: str, known: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The numbers of one preset, or of several with commas between them."""
    numbers: dict[str, float] = {}
    for name in [preset] if preset in known else [part.strip() for part in preset.split(",")]:
        if name not in known:
            raise ConfigError(f"there is no preset '{name}'{nearest(name, sorted(known))}")
        numbers |= known[name]
    return numbers


def _angles(pose: Pose | Mapping[str, float] | None) -> dict[str, float]:
    """The angles that a pose gives: all, or some.

    Raises:
        ConfigError: it is no pose, or has an angle that there is not, or one that is out of its range.
    """
    if isinstance(pose, Pose):
        return {name: getattr(pose, name) for name in ANGLES}
    if not isinstance(pose, Mapping | NoneType):
        raise ConfigError(f"a pose is Pose(yaw=20, pitch=-5, roll=0) or {{'yaw': 20}}, not of the type {_type(pose)}")
    angles = {str(name): value for name, value in (pose or {}).items()}
    for name in angles.keys() - ANGLES.keys():
        raise ConfigError(f"there is no angle '{name}'{nearest(name, ANGLES)}")
    Pose(**angles)
    return angles


def expression_of(given: Numbers, least: float = 0.0) -> dict[str, float]:
    """Blendshapes by their full names.

    Args:
        given: see :func:`asked_of`.
        least: the lowest number that makes sense: 0, or -1 for changes.

    Raises:
        ConfigError: an unknown name, one that is named twice, or a number out of its range.
    """
    if not isinstance(given, str | Mapping):
        raise ConfigError(f"an expression is {{'jawOpen': 0.6}} or 'jawOpen=0.6', not of the type {_type(given)}")
    named: dict[str, float] = {}
    for word, value in _pairs(given) if isinstance(given, str) else given.items():
        sides = sides_of(str(word))
        if not _is_number(value) or not least <= value <= 1:  # NaN fails this too
            raise ConfigError(f"{word} must be a number from {least:g} to 1, not {_quoted(value)}")
        for name in sides:
            if name in named:
                raise ConfigError(f"{name} is named twice; leave one out")
            named[name] = float(value)
    return named


def sides_of(word: str, others: Collection[str] = ()) -> tuple[str, ...]:
    """The blendshapes that a name stands for: one, or both sides.

    Args:
        word: the name.
        others: names that could be meant too, for the message.

    Raises:
        ConfigError: it stands for none.
    """
    known = BLENDSHAPES[1:]
    if word in known:
        return (word,)
    if word in DOES:
        return tuple(word + side for side in SIDES)
    if word.lower() in ANGLES and not others:
        angle = word.lower()
        raise ConfigError(
            f"{word} is an angle; give it as --{angle} 20, pose={{'{angle}': 20}}, or {angle}: 20 in YAML"
        )
    close = did_you_mean(word, {*known, *DOES, *others})
    raise ConfigError(f"there is no control '{word}'{close}; 'facecrafter controls list' shows all")


def live(rig: Rig) -> list[str]:
    """The blendshapes that MediaPipe reads in photos, by their names without the side."""
    return [name for name in DOES if all(rig.live[BLENDSHAPES.index(side)] for side in sides_of(name))]


def _is_number(value: object) -> bool:
    """Whether it is one; YAML's ``yes`` and ``true`` are none."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _quoted(value: object) -> str:
    """A value for a message, in at most 40 characters."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _type(value: object) -> str:
    return type(value).__name__


def _pairs(text: str) -> Iterator[tuple[str, float]]:
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            if not name:
                raise ValueError
            yield name, float(value)
        except ValueError:
            example = "as in jawOpen=0.6,mouthSmile=0.5, with decimal points"
            raise ConfigError(f"'{part.strip()}' in '{text}' is no NAME=NUMBER, {example}") from None


def check_lids(numbers: Mapping[str, float]) -> None:
    """Make sure that no eye is to be shut and wide open.

    Raises:
        ConfigError: one is.
    """
    for side in SIDES:
        shut, wide = f"eyeBlink{side}", f"eyeWide{side}"
        if min(numbers.get(shut, 0), numbers.get(wide, 0)) > CLEARLY:
            raise ConfigError(f"{shut} shuts the eye that {wide} opens; leave one out")


def read_presets(more: Path | None = None) -> dict[str, dict[str, float]]:
    """Named poses and expressions: the project's own, and those of a file, which replace any of the same name.

    Args:
        more: YAML of ``NAME: {jawOpen: 0.6, mouthSmile: 0.5, yaw: 10}``.

    Raises:
        ConfigError: the file cannot be read, or asks for what cannot be.
    """
    found: dict[str, dict[str, float]] = {}
    for path in (PRESETS, *([] if more is None else [more])):
        try:
            content = config.read(path)
        except ConfigError as error:
            raise ConfigError(f"the presets cannot be read: {error}") from None
        if not all(isinstance(one, dict) for one in content.values()):
            raise ConfigError(f"the presets {path} must be NAME: {{jawOpen: 0.6, yaw: 10}}, one or more")
        for name, numbers in content.items():
            try:
                found[name] = _preset(numbers)
            except ConfigError as error:
                raise ConfigError(f"the preset '{name}' of {path}: {error}") from None
    return found


def _preset(numbers: Mapping[str, Any]) -> dict[str, float]:
    angles = {name: value for name, value in numbers.items() if name in ANGLES}
    Pose(**angles)
    expression = expression_of({str(name): value for name, value in numbers.items() if name not in ANGLES})
    check_lids(expression)
    return {**angles, **expression}


def acting_through(through: str | None, emotion: Emotion | None, by_photo: bool) -> Through:
    """What an emotion in words acts through.

    Args:
        through: as asked for.
        emotion: in words or as a point; None where none is given.
        by_photo: whether a photo alone says what the landmarks are, which then stay so unless it is asked for.

    Raises:
        ConfigError: it is no way, or there is no emotion.
    """
    if through is None:
        return "module" if emotion is None or by_photo else USUALLY
    for way in get_args(Through):
        if way == through and emotion is None:
            raise ConfigError(f"that an emotion acts through {way} has no effect without one in words or numbers")
        if way == through:
            return way  # type: ignore[no-any-return]
    raise ConfigError(f"an emotion acts through {', '.join(get_args(Through))}, not '{through}'")


def wanted(asked: Asked, rig: Rig, now: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The scores that a face should have, ``(52,)`` in [0, 1].

    Args:
        asked: what is asked for.
        rig: for what emotions add.
        now: ``(52,)`` the scores of the face that the numbers start from.
    """
    scores = np.array(now, np.float64)
    if asked.emotion is not None:
        scores += rig.emotion(asked.emotion.probabilities)
    for name, value in asked.expression.items():
        number = BLENDSHAPES.index(name)
        scores[number] = scores[number] + value if asked.start == "relative" else value
    return scores.clip(0, 1)


def doubts(asked: Asked, rig: Rig, emotion: Emotion | None = None) -> Iterator[str]:
    """Say what of a request will not be followed, or contradicts the rest.

    Args:
        asked: the numbers.
        rig: for which of them are read, and what emotions move.
        emotion: in words or as a point; None for that of the numbers.

    Yields:
        One sentence each.
    """
    dead = [name for name, value in asked.expression.items() if value and not rig.live[BLENDSHAPES.index(name)]]
    if dead:
        verb = "is a control" if len(dead) == 1 else "are controls"
        yield f"{', '.join(dead)} {verb} that MediaPipe does not read in photos: nothing follows"
    emotion = emotion or asked.emotion
    if emotion is None:
        return
    typical = rig.emotion(emotion.probabilities)
    for name, value in asked.expression.items():
        number = BLENDSHAPES.index(name)
        change = value if asked.start == "relative" else value - rig.neutral[number]
        # The number takes all of the emotion's change away, or goes the other way.
        if abs(typical[number]) > CLEARLY and change * typical[number] <= 0:
            does = "raises" if typical[number] > 0 else "lowers"
            yield f"{name} {value:g} contradicts the emotion {emotion.label}, which {does} it; the number counts"
