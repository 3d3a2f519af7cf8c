"""Photos that visitors sent: in memory, under their content's hash, and forgotten when there are too many."""

from __future__ import annotations

import base64
import binascii
import threading
import unicodedata
from collections import OrderedDict

from facecrafter.errors import ConfigError, FaceCrafterError, PhotoError
from facecrafter.faces.photo_file import HeldPhoto
from facecrafter.studio.schema import InlinePhoto

MOST_PHOTO_BYTES = 32 * 2**20
MOST_HELD_BYTES = 512 * 2**20
LONGEST_NAME = 80


class UnknownPhotoError(FaceCrafterError):
    """A photo that the server does not hold, or no longer."""


def plain_name(name: str) -> str:
    """What a photo is called in metadata and in a command: its client's name without folders and without what could
    steer a terminal. It is never a place on this machine."""
    name = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(one for one in unicodedata.normalize("NFC", name) if one.isprintable()).strip().lstrip("-.")
    stem, dot, ending = kept.rpartition(".")
    if len(kept) > LONGEST_NAME:
        kept = stem[: LONGEST_NAME - 6] + dot + ending[:5] if dot else kept[:LONGEST_NAME]
    return kept or "photo"


class Photos:
    """Those that are held.

    Args:
        most_bytes: of all together.
    """

    def __init__(self, most_bytes: int = MOST_HELD_BYTES) -> None:
        self._most, self._held = most_bytes, OrderedDict[str, HeldPhoto]()
        self._lock = threading.Lock()

    def add(self, content: bytes, name: str) -> HeldPhoto:
        """Hold a photo; the ones that were not used for longest go, where it is too much.

        Raises:
            PhotoError: it is empty or too large.
        """
        name = plain_name(name)
        if not content:
            raise PhotoError(f"{name} is empty; save or copy it again")
        if len(content) > MOST_PHOTO_BYTES:
            raise PhotoError(f"{name} has more than the {MOST_PHOTO_BYTES // 2**20} MiB that are read; make it smaller")
        photo = HeldPhoto.of(content, name)
        with self._lock:
            self._held.pop(photo.sha256, None)
            self._held[photo.sha256] = photo
            while sum(len(one.content) for one in self._held.values()) > self._most:
                self._held.popitem(last=False)
        return photo

    def get(self, photo: str | InlinePhoto) -> HeldPhoto:
        """A photo by its id, or one inside a request.

        Raises:
            UnknownPhotoError: it is not held.
            PhotoError: see :meth:`add`.
            ConfigError: its bytes are not base64.
        """
        if isinstance(photo, InlinePhoto):
            try:
                content = base64.b64decode(photo.base64, validate=True)
            except (binascii.Error, ValueError):
                raise ConfigError(f"the photo {plain_name(photo.name)} is not in base64") from None
            return self.add(content, photo.name)
        with self._lock:
            if photo not in self._held:
                raise UnknownPhotoError("the server does not hold this photo, or no longer; send it again")
            self._held.move_to_end(photo)
            return self._held[photo]
