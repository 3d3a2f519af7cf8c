"""Aligned face to emotion: eight class probabilities, valence and arousal, behind one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import ConfigError, did_you_mean

# The project's own estimator, as prepared folders and models name it.
OWN = "pixels"

# EmoNet's order (Toisoul et al., 2021).
EMOTIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")

_WORDS = {
    "neutral": ("neutral",),
    "happy": ("happy", "happiness", "joy", "joyful"),
    "sad": ("sad", "sadness"),
    "surprise": ("surprise", "surprised"),
    "fear": ("fear", "fearful", "afraid", "scared", "frightened"),
    "disgust": ("disgust", "disgusted"),
    "anger": ("anger", "angry"),
    "contempt": ("contempt", "contemptuous"),
}
# The class by whatever word a user, or a set of photos or videos, has for it.
NAMES = {word: emotion for emotion, words in _WORDS.items() for word in words}

# Shares that name neutral may miss 1 by so much, as rounded ones do.
_ROUNDING = 0.01

# Valence and arousal of the classes: Russell & Mehrabian (1977), "Evidence for a three-factor theory of emotions",
# Journal of Research in Personality 11, for happy, sad, surprised, fearful, disgusted and angry. Neutral is the origin
# by construction. They have no value for contempt; it takes the mean of disgust and anger, its neighbours.
CENTRES = np.array(
    [
        [0.0, 0.0],
        [0.81, 0.51],
        [-0.63, -0.27],
        [0.40, 0.67],
        [-0.64, 0.60],
        [-0.60, 0.35],
        [-0.51, 0.59],
        [-0.555, 0.47],
    ]
)


@dataclass(frozen=True)
class Emotion:
    """What a face expresses.

    Attributes:
        valence: unpleasant to pleasant, in [-1, 1].
        arousal: calm to excited, in [-1, 1].
        probabilities: of the eight :data:`EMOTIONS`, summing to 1.

    Raises:
        ConfigError: a number outside its range.
    """

    valence: float
    arousal: float
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_point(self.valence, self.arousal)
        if len(self.probabilities) != len(EMOTIONS):
            raise ConfigError(f"an emotion needs {len(EMOTIONS)} probabilities, not {len(self.probabilities)}")
        if not (min(self.probabilities) >= 0 and abs(sum(self.probabilities) - 1) < 1e-3):
            raise ConfigError("the eight probabilities of an emotion must be at least 0 and sum to 1")
        object.__setattr__(self, "valence", float(self.valence))  # of NumPy they would not be JSON
        object.__setattr__(self, "arousal", float(self.arousal))
        object.__setattr__(self, "probabilities", tuple(map(float, self.probabilities)))

    @classmethod
    def from_probabilities(cls, probabilities: Sequence[float]) -> Emotion:
        """An emotion whose valence and arousal are derived: the mean of the class centres under the distribution,
        times its :func:`sharpness`. A reading that cannot decide says nothing of either, where the plain mean over all
        classes would be an unpleasant excitement."""
        shares = np.asarray(probabilities, np.float64)
        valence, arousal = (0.0, 0.0)
        if shares.shape == (len(EMOTIONS),) and (shares >= 0).all():  # anything else is refused below
            valence, arousal = sharpness(shares) * (shares @ CENTRES)
        return cls(float(valence), float(arousal), tuple(float(share) for share in shares))

    @classmethod
    def from_words(cls, shares: Mapping[str, float]) -> Emotion:
        """An emotion from named shares, say ``{"happy": 0.8, "surprise": 0.2}``. What is missing to 1 is neutral.

        The names are those of :data:`NAMES`: adjectives and nouns, in any case.

        Valence and arousal are the mean of the class centres: what is asked for is a blend, not a doubtful reading.

        Raises:
            ConfigError: an unknown name, or two of one class; a share outside [0, 1], more than 1 or nothing in all, or
                less than 1 where neutral is one of them.
        """
        named: dict[str, float] = {}
        for word, share in shares.items():
            name = class_named(word)
            if name in named:
                raise ConfigError(f"the emotion '{name}' is named twice in {', '.join(shares)}")
            if not isinstance(share, Real):
                raise ConfigError(f"the share of '{word}' is {share!r}, not a number in [0, 1]")
            if not 0 <= share <= 1:
                raise ConfigError(f"the share of '{word}' is {share:g}, outside [0, 1]")
            named[name] = share
        total = sum(named.values())
        if total > 1 + 1e-6:
            raise ConfigError(f"the shares of {', '.join(shares)} sum to {total:g}, more than 1")
        if total == 0:
            raise ConfigError("the emotion has no share above 0; give one, or ask for neutral")
        if "neutral" in named and total < 1 - _ROUNDING:
            raise ConfigError(
                f"the shares of {', '.join(shares)} sum to {total:g}; where neutral is among them, they must sum to 1"
            )
        probabilities = [named.get(name, 0.0) for name in EMOTIONS]
        probabilities[0] += 1 - sum(probabilities)
        if probabilities[0] < 0:  # by rounding
            probabilities[0] = 0.0
            whole = sum(probabilities)
            probabilities = [share / whole for share in probabilities]
        valence, arousal = np.array(probabilities) @ CENTRES
        return cls(float(valence), float(arousal), tuple(probabilities))

    @classmethod
    def from_valence_arousal(cls, valence: float, arousal: float, sharpness: float = 6.0) -> Emotion:
        """An emotion from a point on the valence-arousal plane: a class weighs more the nearer its centre lies.

        Args:
            valence, arousal: in [-1, 1].
            sharpness: weights fall as ``exp(-sharpness * squared distance)``.

        Raises:
            ConfigError: one of them is no number in its range.
        """
        _check_point(valence, arousal)
        distance = ((CENTRES - [valence, arousal]) ** 2).sum(1)
        closeness = np.exp(-sharpness * (distance - distance.min()))
        shares = closeness / closeness.sum()
        return cls(float(valence), float(arousal), tuple(float(share) for share in shares))

    @property
    def label(self) -> str:
        """The most probable class."""
        return EMOTIONS[int(np.argmax(self.probabilities))]

    @property
    def vector(self) -> NDArray[np.float32]:
        """The condition ``(10,)``: valence, arousal, eight probabilities."""
        return np.array([self.valence, self.arousal, *self.probabilities], np.float32)


def _check_point(valence: float, arousal: float) -> None:
    for name, value in (("valence", valence), ("arousal", arousal)):
        if not isinstance(value, Real):
            raise ConfigError(f"{name} is {value!r}, not a number in [-1, 1]")
        if not -1 <= value <= 1:  # NaN fails this too
            raise ConfigError(f"{name} {value:g} is outside [-1, 1]")


def class_named(word: str) -> str:
    """The class, one of :data:`EMOTIONS`, by any of its :data:`NAMES`, in any case.

    Raises:
        ConfigError: no class has that name.
    """
    name = NAMES.get(word.strip().lower()) if isinstance(word, str) else None
    if name is None:
        way_out = did_you_mean(str(word), NAMES) or f"; there are {', '.join(EMOTIONS)}"
        colon = "; a share follows a colon, as in sad:0.7" if "=" in str(word) else ""
        raise ConfigError(f"unknown emotion '{word}'{colon or way_out}")
    return name


def sharpness(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """How decided distributions ``(..., 8)`` are, ``(...)`` in [0, 1].

    1 less the square of the entropy over the largest there is: 1 for a single class, 0.89 for two that are equal, 0
    for all eight. The square is a choice: a blend of two neighbours is an answer, and keeps most of its valence and
    arousal.
    """
    entropy = -(shares * np.log(np.maximum(shares, 1e-12))).sum(-1)
    return np.asarray(np.clip(1 - (entropy / np.log(len(EMOTIONS))) ** 2, 0, 1))


def features(blendshapes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Blendshapes on a scale where small movements count: their square roots."""
    return np.sqrt(np.clip(np.asarray(blendshapes, np.float64), 0, 1))


def emotion_of(
    emotion: Emotion | Mapping[str, float] | str | None = None,
    valence: float | None = None,
    arousal: float | None = None,
) -> Emotion | None:
    """The emotion asked for in words or in numbers; None where nothing is asked.

    Args:
        emotion: an emotion, named shares, or both in one string: ``"happy"``, ``"happy:0.8,surprise:0.2"``.
        valence, arousal: in [-1, 1].

    Raises:
        ConfigError: an unknown name, a number out of its range, words and numbers at once, or one number without the
            other.
    """
    if valence is None and arousal is None:
        if isinstance(emotion, str):
            return Emotion.from_words(_shares(emotion))
        if isinstance(emotion, Mapping):
            return Emotion.from_words(emotion)
        if emotion is not None and not isinstance(emotion, Emotion):
            raise ConfigError(f"an emotion is 'sad:0.7' or {{'sad': 0.7}}, not of the type {type(emotion).__name__}")
        return emotion
    if emotion is not None:
        raise ConfigError("an emotion is given in words and also as valence and arousal; give it one way")
    if valence is None or arousal is None:
        missing = "valence" if valence is None else "arousal"
        raise ConfigError(f"valence and arousal belong together; {missing} is missing")
    return Emotion.from_valence_arousal(valence, arousal)


def _shares(text: str) -> dict[str, float]:
    """``"happy:0.8,surprise:0.2"`` as a dictionary; a name alone has the share 1."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, colon, share = (piece.strip() for piece in part.partition(":"))
        emotion = class_named(name)
        if emotion in shares:
            raise ConfigError(f"the emotion '{emotion}' is named twice in '{text}'")
        try:
            shares[emotion] = float(share) if colon else 1.0
        except ValueError:
            raise ConfigError(f"the share of '{name}' is '{share}', not a number in [0, 1]") from None
    return shares


def describe(emotion: Emotion) -> str:
    """An emotion in one line: the classes that matter, valence and arousal."""
    shares = sorted(zip(emotion.probabilities, EMOTIONS, strict=True), reverse=True)
    words = ", ".join(f"{name} {share:.2f}" for share, name in shares if share >= 0.05)
    return f"{words}; valence {emotion.valence:+.2f}, arousal {emotion.arousal:+.2f}"
