"""What one image is asked to be: whose face, showing what, how strongly, from which noise; and a digest of all that."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facecrafter.errors import ConfigError, PhotoError
from facecrafter.perception.emotion import Emotion
from facecrafter.perception.face import load_photo

if TYPE_CHECKING:
    from facecrafter.sampling.pipeline import FilledSettings

# Digits of an emotion that count: what is beyond them may differ from one machine's arithmetic to the next.
DECIMALS = 6


@dataclass(frozen=True)
class PhotoFile:
    """A photo that a request names.

    Attributes:
        path: where it is.
        sha256: of the file's content, 64 hexadecimal digits: what the request depends on.
    """

    path: Path
    sha256: str

    @classmethod
    def read(cls, path: Path) -> PhotoFile:
        """Hash a file as it is now.

        Raises:
            PhotoError: it cannot be read, said as :func:`facecrafter.perception.face.load_photo` says it.
        """
        try:
            if path.is_file():  # opening a pipe would wait for ever
                with open(path, "rb") as file:
                    return cls(path, hashlib.file_digest(file, "sha256").hexdigest())
        except OSError:
            pass
        load_photo(path)
        raise PhotoError(f"{path} cannot be read; save or copy it again")

    def check_unchanged(self) -> None:
        """Make sure that the file still has the content that the request was made with.

        Raises:
            PhotoError: it does not.
        """
        if PhotoFile.read(self.path) != self:
            raise PhotoError(f"{self.path} has changed since the run began; run it again")


@dataclass(frozen=True)
class Request:
    """One image: an identity, conditions, scales and the other settings, and a seed.

    Attributes:
        identity: at least one photo of the person; several are averaged.
        settings: the scales, steps, scheduler and speed; the batch size is no part of what an image is.
        seed: in [0, 2^63).
        landmarks_from: gives pose and expression; None leaves them free.
        emotion_from: gives the emotion, where ``emotion`` does not.
        emotion: asked for in words or numbers.

    Raises:
        ConfigError: no identity, an emotion given twice, or a seed out of range.
    """

    identity: tuple[PhotoFile, ...]
    settings: FilledSettings
    seed: int = 0
    landmarks_from: PhotoFile | None = None
    emotion_from: PhotoFile | None = None
    emotion: Emotion | None = None

    def __post_init__(self) -> None:
        if not self.identity:
            raise ConfigError("a person needs at least one photo")
        if self.emotion is not None and self.emotion_from is not None:
            raise ConfigError("an emotion is given as a photo and also in words or numbers; give it one way")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"a seed must be between 0 and 2^63 - 1, not {self.seed}")

    @property
    def photos(self) -> tuple[PhotoFile, ...]:
        """Every photo that it depends on."""
        others = (photo for photo in (self.landmarks_from, self.emotion_from) if photo is not None)
        return (*self.identity, *others)

    @cached_property
    def digest(self) -> str:
        """64 hexadecimal digits of a hash of its content: equal digests ask for the same image, wherever photos lie."""
        settings = asdict(self.settings)
        settings.pop("batch_size")
        return _hash({**self._conditions, "settings": settings, "seed": self.seed})

    def own_seed(self, first: int, occurrence: int = 0) -> int:
        """The seed that follows from the identity and the conditions, in [0, 2^32).

        It does not depend on where in a table a request stands, nor on the settings, so that the same face can be
        compared at several scales.

        Args:
            first: another number gives all requests other seeds.
            occurrence: tells requests for the same identity and conditions apart, from 0.
        """
        return int(_hash({**self._conditions, "first": first, "occurrence": occurrence})[:8], 16)

    @property
    def _conditions(self) -> dict[str, Any]:
        emotion = self.emotion
        numbers = emotion and [emotion.valence, emotion.arousal, *emotion.probabilities]
        return {
            "identity": [photo.sha256 for photo in self.identity],
            "landmarks from": self.landmarks_from and self.landmarks_from.sha256,
            "emotion from": self.emotion_from and self.emotion_from.sha256,
            # + 0.0: a negative zero is the same emotion.
            "emotion": numbers and [round(number, DECIMALS) + 0.0 for number in numbers],
        }


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
