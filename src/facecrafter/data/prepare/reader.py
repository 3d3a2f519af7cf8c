"""One photo or video to rows of the index and parts of a shard, or to the reason why there are none."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facecrafter.data import shards, video
from facecrafter.data.prepare.source import Photo
from facecrafter.data.prepare.stopping import Halted, check_leaving
from facecrafter.data.shards import MASK_SIZE
from facecrafter.errors import FaceCrafterError
from facecrafter.estimators import emotion_estimator, identity
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces.emotion import Emotion
from facecrafter.faces.face import ALIGNED_SIZE, Choice, Face, load_photo
from facecrafter.faces.segmentation import face_mask

# What a machine has run out of, whichever file was open then.
_EXHAUSTED = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})
LESS_MEMORY = "free some, or run it again with fewer workers, it goes on from there"


@dataclass(frozen=True)
class Job:
    """What a worker needs to know."""

    size: int
    choose: Choice
    recognisers: tuple[str, ...]
    arcface: Path | None
    interval: float = 1.0
    emonet: Path | None = None


@dataclass(frozen=True)
class Row:
    """A prepared image: its row of the index, less the shard."""

    key: str
    person: str
    file: str
    yaw: float
    pitch: float
    roll: float
    valence: float
    arousal: float
    emotion: str
    others: int


@dataclass(frozen=True)
class Accepted:
    """A photo or frame with a face: its row, and the files of its sample by kind."""

    row: Row
    parts: dict[str, bytes]


@dataclass(frozen=True)
class Rejected:
    """A photo, frame or video that was left out, by its name inside the source."""

    file: str
    reason: str


Result = Accepted | Rejected


class Reader:
    """Reads photos and videos, one at a time."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._finder = FaceFinder()
        self._recognisers = {name: identity.recogniser(name, job.arcface) for name in job.recognisers}
        self._estimator = emotion_estimator.estimator(job.emonet)

    def close(self) -> None:
        """Free the landmark network."""
        self._finder.close()

    def read(self, photo: Photo) -> list[Result]:
        """The rows and files of a photo or of a video's frames, or why there are none. Nothing that a photo, frame or
        video can do stops the rest.

        Raises:
            DataError: the machine failed.
        """
        if photo.video is None:
            return [_guarded(photo, lambda: self._accept(photo, load_photo(photo.path)))]
        results: list[Result] = []
        try:
            for seconds, image in video.frames(photo.path, self._job.interval):
                check_leaving()
                results.append(self._read_frame(photo.at(seconds), image))
        except Halted:
            raise
        except Exception as error:
            results.append(_rejected(photo, error))
        return results

    def _read_frame(self, frame: Photo, image: NDArray[np.uint8]) -> Result:
        return _guarded(frame, lambda: self._accept(frame, image))

    def _accept(self, photo: Photo, image: NDArray[np.uint8]) -> Accepted:
        size = self._job.size
        aligned = self._finder.find(image, max(ALIGNED_SIZE, size), self._job.choose, photo.path)
        face, stored = aligned.resized(ALIGNED_SIZE), aligned.resized(size)
        emotion = self._estimator.estimate([face])[0]
        embeddings = {name: network.embed([face])[0] for name, network in self._recognisers.items()}
        film, more = photo.video, {}
        if film is not None:
            more["video"] = {"seconds": photo.seconds, "emotion": film.emotion, "level": film.level, "view": film.view}
        return accepted(photo.key, photo.person, photo.file, face, stored, embeddings, emotion, more)


def crashed(photo: Photo) -> list[Result]:
    """What comes of a photo or video at which the process that reads it crashes."""
    return [Rejected(photo.file, f"{photo.file} crashes what decodes it; save it in another format")]


def accepted(
    key: str,
    person: str,
    file: str,
    face: Face,
    stored: Face,
    embeddings: Mapping[str, NDArray[np.float32]],
    emotion: Emotion,
    more: Mapping[str, Any],
    png: bytes | None = None,
) -> Accepted:
    """The row and the sample of an image.

    Args:
        key: of the sample.
        person, file: whose image it is, and its name inside the source.
        face: aligned at :data:`ALIGNED_SIZE`.
        stored: the same face at the size that is stored.
        embeddings: ``(D,)`` by the recogniser's name.
        emotion: what it expresses.
        more: what the sample's JSON says beside, by name.
        png: of the stored image, where it is encoded already.
    """
    mask = np.round(face_mask(face, MASK_SIZE) * 255).astype(np.uint8)
    content, arrays = shards.encode(stored, embeddings, emotion.vector, mask, png)
    about = {"person": person, "file": file, "box": list(face.box), "others": face.others, **more}
    row = Row(
        key=key,
        person=person,
        file=file,
        yaw=face.angles[0],
        pitch=face.angles[1],
        roll=face.angles[2],
        valence=emotion.valence,
        arousal=emotion.arousal,
        emotion=emotion.label,
        others=face.others,
    )
    return Accepted(row, {"png": content, "npz": arrays, "json": json.dumps(about).encode()})


def _guarded(photo: Photo, read: Callable[[], Accepted]) -> Result:
    try:
        return read()
    except Exception as error:
        return _rejected(photo, error)


def _rejected(photo: Photo, error: Exception) -> Rejected:
    """Why a photo, frame or video was left out, under its name inside the source.

    Raises:
        DataError: the machine failed, and not the photo.
    """
    # What reads photos and videos words its own error from what the system gives as the reason.
    cause = error.__context__ if isinstance(error, FaceCrafterError) else error
    if isinstance(cause, MemoryError):
        raise Halted(f"memory ran out at {photo.file}; {LESS_MEMORY}") from None
    if isinstance(cause, OSError) and cause.errno is not None:
        its_own = cause is not error or str(cause.filename) == str(photo.path)
        if cause.errno in _EXHAUSTED or not its_own:
            raise Halted(f"preparation stopped at {photo.file} ({cause.strerror}); {shards.GO_ON}") from None
    reason = str(error)
    if not isinstance(error, FaceCrafterError):  # a library that chokes on one image of thousands
        reason = f"{photo.path} cannot be used: {type(error).__name__}: {error}"
    return Rejected(photo.file, reason.replace(str(photo.path), photo.file))
