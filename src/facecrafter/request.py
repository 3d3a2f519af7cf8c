"""What one image is asked to be: whose face, showing what, how strongly, from which noise; and a digest of all that."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facecrafter.errors import ConfigError, PhotoError
from facecrafter.faces.emotion import Emotion
from facecrafter.faces.face import Pick, check_pick, load_photo
from facecrafter.faces.photo import find_photos

if TYPE_CHECKING:
    from facecrafter.pipelines.generate import FilledSettings

log = logging.getLogger(__name__)

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
            PhotoError: it cannot be read, said as :func:`facecrafter.faces.face.load_photo` says it.
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
        face, target_face: which face of the identity's photo, and of the photo that gives conditions, where that is not
            for the generator to choose.

    Raises:
        ConfigError: no identity, a face to pick where there is not one photo, an emotion given twice, or a seed out of
            range.
    """

    identity: tuple[PhotoFile, ...]
    settings: FilledSettings
    seed: int = 0
    landmarks_from: PhotoFile | None = None
    emotion_from: PhotoFile | None = None
    emotion: Emotion | None = None
    face: Pick | None = None
    target_face: Pick | None = None

    def __post_init__(self) -> None:
        if not self.identity:
            raise ConfigError("a person needs at least one photo")
        others = {photo.path for photo in (self.landmarks_from, self.emotion_from) if photo is not None}
        check_faces(self.face, len(self.identity), self.target_face, len(others))
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
        faces = {"face": self.face, "target face": self.target_face}
        return {
            **{name: pick for name, pick in faces.items() if pick is not None},
            "identity": [photo.sha256 for photo in self.identity],
            "landmarks from": self.landmarks_from and self.landmarks_from.sha256,
            "emotion from": self.emotion_from and self.emotion_from.sha256,
            # + 0.0: a negative zero is the same emotion.
            "emotion": numbers and [round(number, DECIMALS) + 0.0 for number in numbers],
        }


def check_faces(face: Pick | None, people: int, target_face: Pick | None, others: int) -> None:
    """Refuse to pick a face where there is not one photo to pick it in.

    Args:
        face: which face of the identity's photo; None where none is picked.
        people: how many photos the identity has.
        target_face, others: the same of the photos that give conditions.

    Raises:
        ConfigError: there is not one photo, or the face is picked in no known way.
    """
    for pick, photos, name in ((face, people, "an identity"), (target_face, others, "a target")):
        if pick is None:
            continue
        check_pick(pick)
        if photos != 1:
            given = f"of {photos} photos" if photos else "without a photo"
            advice = "; crop the photos instead" if photos else ""
            raise ConfigError(f"a face is picked in one photo, and not for {name} {given}{advice}")


def photos_in(path: Path) -> list[Path]:
    """The photos of a person that a path stands for: a file itself, or the photos that lie in a folder.

    Raises:
        PhotoError: the folder holds none.
    """
    if not os.path.isdir(path):
        return [path]
    found, passed = find_photos(path)
    for _, reason in passed:
        log.warning("%s", reason)
    # Folders inside are mostly other people's.
    own = [photo for photo in found if photo.parent == path]
    if not own:
        raise PhotoError(f"{path} is a folder without photos in it; give a photo, or a folder of one person's photos")
    return own


def read_person(paths: Sequence[Path]) -> list[PhotoFile]:
    """The photos of a person, by files and folders. Of several, those that cannot be read are left out with a note.

    Raises:
        PhotoError: a folder holds no photos, or not one can be read.
    """
    photos = [photo for path in paths for photo in photos_in(path)]
    read: list[PhotoFile] = []
    for number, photo in enumerate(photos, 1):
        try:
            read.append(PhotoFile.read(photo))
        except PhotoError as error:
            if not read and number == len(photos):
                raise
            log.warning("%s; it is left out", error)
    return read


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
