"""Photos as they are asked for: by a path, a folder or their pixels; and as they are remembered, by their content."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.errors import ConfigError, PhotoError
from facecrafter.faces.face import Pick, check_pick
from facecrafter.faces.photo import decode_photo, find_photos, load_photo, to_rgb

log = logging.getLogger(__name__)

# A stranger may send a photo that is held, and decoding takes up to 20 bytes a pixel: 1.3 GB.
MOST_HELD_PIXELS = 64_000_000


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
            PhotoError: it cannot be read, in the words of :func:`facecrafter.faces.face.load_photo`.
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

    def pixels(self) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 RGB, of the file as it is now.

        Raises:
            PhotoError: it is gone, no image, or damaged.
        """
        return load_photo(self.path)


@dataclass(frozen=True)
class HeldPhoto(PhotoFile):
    """A photo that is held in memory and never lies on the disk, say an upload; ``path`` is only what it is called.

    Attributes:
        content: the bytes of its file.
    """

    content: bytes = field(repr=False, compare=False)

    @classmethod
    def of(cls, content: bytes, name: str) -> HeldPhoto:
        """A photo by its content."""
        return cls(Path(name), hashlib.sha256(content).hexdigest(), content)

    def check_unchanged(self) -> None:
        """It cannot change."""

    def pixels(self) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 RGB.

        Raises:
            PhotoError: it is no image, damaged, or larger than :data:`MOST_HELD_PIXELS`.
        """
        return decode_photo(self.content, self.path, MOST_HELD_PIXELS)


# A photo as callers name it, and as a portrait holds it.
Photo = str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | PhotoFile
TakenPhoto = PhotoFile | NDArray[np.uint8]


def taken(photo: Photo) -> TakenPhoto:
    """A photo as a portrait holds it: a file by its content, anything else as ``(H, W, 3)`` uint8 RGB.

    Raises:
        PhotoError: a file cannot be read.
    """
    if isinstance(photo, str | os.PathLike):
        return PhotoFile.read(Path(photo))
    return to_rgb(photo) if isinstance(photo, Image.Image) else photo


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


def photos_of(photos: Sequence[Photo]) -> tuple[TakenPhoto, ...]:
    """The photos of a person; folders stand for those in them. Of several, those that cannot be read are left out with
    a note.

    Raises:
        ConfigError: there is none.
        PhotoError: a folder holds no photos, or not one can be read.
    """
    if not photos:
        raise ConfigError("a person needs at least one photo")
    single: list[Photo] = []
    for photo in photos:
        single.extend(photos_in(Path(photo)) if isinstance(photo, str | os.PathLike) else [photo])
    found: list[TakenPhoto] = []
    for number, photo in enumerate(single, 1):
        try:
            found.append(taken(photo))
        except PhotoError as error:
            if not found and number == len(single):
                raise
            log.warning("%s; it is left out", error)
    return tuple(found)
