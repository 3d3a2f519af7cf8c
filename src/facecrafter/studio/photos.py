"""Photos that visitors sent: in memory, by their content and name, and forgotten when there are too many."""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from facecrafter.errors import ConfigError, FaceCrafterError, PhotoError
from facecrafter.faces.photo_file import HeldPhoto
from facecrafter.studio.schema import InlinePhoto
from facecrafter.studio.worker import Busy

MOST_PHOTO_BYTES = 32 * 2**20
MOST_HELD_BYTES = 512 * 2**20
ENTRY_BYTES = 1024  # that a photo counts beside its content, so that small ones are not without number
BUSY_SECONDS = 5.0  # after which a job that holds photos may be over
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
        self._kept: Counter[str] = Counter()  # how many jobs need each
        self._contents: dict[str, tuple[bytes, int]] = {}  # by their sha256, and how many photos have each
        self._lock = threading.Lock()

    def add(self, content: bytes, name: str) -> HeldPhoto:
        """Hold a photo; the ones that were not used for longest go, where it is too much.

        Raises:
            PhotoError: it is empty or too large.
            Busy: jobs that are not over need all that is held.
        """
        name = plain_name(name)
        if not content:
            raise PhotoError(f"{name} is empty; save or copy it again")
        if len(content) > MOST_PHOTO_BYTES:
            raise PhotoError(f"{name} has more than the {MOST_PHOTO_BYTES // 2**20} MiB that are read; make it smaller")
        photo = HeldPhoto.of(content, name)
        with self._lock:
            return self._take(photo)

    def keep(self, photos: Mapping[str, HeldPhoto]) -> None:
        """Hold photos until :meth:`let_go`, whatever else comes: what a job needs until it is over counts until then.

        Args:
            photos: by their ids.

        Raises:
            Busy: jobs that are not over need too much already; none of these is kept then.
        """
        kept: list[str] = []
        try:
            for key, photo in photos.items():
                with self._lock:
                    self._take(photo)
                    self._kept[key] += 1
                kept.append(key)
        except Busy:
            self.let_go(kept)
            raise

    def let_go(self, photos: Iterable[str]) -> None:
        """The opposite of :meth:`keep`, by ids."""
        with self._lock:
            for key in photos:
                self._kept[key] -= 1
                if not self._kept[key]:
                    del self._kept[key]

    def _take(self, photo: HeldPhoto) -> HeldPhoto:
        """Put a photo behind all others and make room for it; the same, with the content that is held already."""
        key = photo_id(photo)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        content, count = self._contents.get(photo.sha256, (photo.content, 0))
        self._contents[photo.sha256] = content, count + 1
        self._bytes += ENTRY_BYTES + (0 if count else len(content))
        self._held[key] = taken = replace(photo, content=content)
        while self._bytes > self._most:
            oldest = next(one for one in self._held if one not in self._kept)
            self._drop(oldest)
            if oldest == key:
                raise Busy(BUSY_SECONDS, "the photos of jobs that wait take up all the place")
        return taken

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
            PhotoError, Busy: see :meth:`add`.
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
