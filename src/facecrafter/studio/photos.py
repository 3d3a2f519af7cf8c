"""Photos that visitors sent: in memory, by their content and name, and forgotten when there are too many."""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
import unicodedata
from collections import OrderedDict
from dataclasses import replace

from facecrafter.errors import ConfigError, FaceCrafterError, PhotoError
from facecrafter.faces.photo_file import HeldPhoto
from facecrafter.studio.schema import InlinePhoto

MOST_PHOTO_BYTES = 32 * 2**20
MOST_HELD_BYTES = 512 * 2**20
ENTRY_BYTES = 1024  # that a photo counts beside its content, so that small ones are not without number
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


def photo_id(photo: HeldPhoto) -> str:
    """What a photo is asked for by, 64 hexadecimal digits: a hash of its content and of its name.

    Two visitors may send the same photo under two names, and each job uses its own visitor's.
    """
    return hashlib.sha256(f"{photo.sha256} {photo.path.name}".encode()).hexdigest()


class Photos:
    """Those that are held, by their ids. Content that comes under several names is held once.

    Args:
        most_bytes: of all together.
    """

    def __init__(self, most_bytes: int = MOST_HELD_BYTES) -> None:
        self._most, self._bytes = most_bytes, 0
        self._held = OrderedDict[str, HeldPhoto]()
        self._contents: dict[str, tuple[bytes, int]] = {}  # by their sha256, and how many photos have each
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
            photo = self._take(photo)
            while self._bytes > self._most:
                self._drop(next(iter(self._held)))
        return photo

    def _take(self, photo: HeldPhoto) -> HeldPhoto:
        """Put a photo behind all others; the same, with the content that is held already."""
        key = photo_id(photo)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        content, count = self._contents.get(photo.sha256, (photo.content, 0))
        self._contents[photo.sha256] = content, count + 1
        self._bytes += ENTRY_BYTES + (0 if count else len(content))
        self._held[key] = replace(photo, content=content)
        return self._held[key]

    def _drop(self, key: str) -> None:
        """Forget a photo, and its content where no other photo has it."""
        photo = self._held.pop(key)
        content, count = self._contents.pop(photo.sha256)
        if count > 1:
            self._contents[photo.sha256] = content, count - 1
        self._bytes -= ENTRY_BYTES + (0 if count > 1 else len(content))

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
