"""What a preparation begins with: the photos and videos of a folder or an archive, in a fixed order."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from facecrafter.data import shards, video
from facecrafter.data.shards import META
from facecrafter.errors import DataError, reason_of
from facecrafter.io import LOCK, name_as_text

UNPACKED = "unpacked.partial"


@dataclass(frozen=True)
class Photo:
    """A file of the source, or a frame of a video."""

    key: str
    path: Path
    file: str  # inside the source
    person: str
    video: video.VideoSource | None = None
    images: int = 1  # a video's frames, by its header
    seconds: float | None = None  # when a frame is shown

    def at(self, seconds: float) -> Photo:
        """A frame of this video; its name is the video's with the time as a media fragment."""
        key, file = f"{self.key}-{round(seconds * 1000):08d}", f"{self.file}#t={seconds:.3f}"
        return replace(self, key=key, file=file, images=1, seconds=seconds)


def count_images(photos: Iterable[Photo]) -> int:
    """How many images files promise: one a photo, and a video's frames by its header."""
    return sum(photo.images for photo in photos)


def check_folders(source: Path, out: Path) -> None:
    """Refuse a source that is not there, empty or no archive, and an ``out`` that is no folder to prepare into."""
    if not source.exists():
        raise DataError(f"there is no folder or archive {source}")
    if not source.is_dir() and not source.is_file():
        raise DataError(f"{source} is a pipe or a device; name a folder or an archive")
    if source.is_file():
        _check_archive(source)
    elif next(_visible(source), None) is None:
        raise DataError(f"there are no photos in {source}")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} lies inside {source}, whose photos it is made from; name a folder outside it")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; name a folder to prepare into")
    if holds_other_files(out):
        raise DataError(f"{out} is not empty and not a prepared folder; name a new one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise shards.unwritable(out, error) from None


def holds_other_files(out: Path) -> bool:
    """Whether there is a folder with files, and no prepared one."""
    if not out.is_dir() or (out / META).is_file():
        return False
    return any(path.suffix != ".partial" and path.name != LOCK for path in out.iterdir())


def _check_archive(source: Path) -> None:
    try:
        known = zipfile.is_zipfile(source) or tarfile.is_tarfile(source)
    except shards.DAMAGE as error:
        raise _damaged(source, error) from None
    if not known:
        raise DataError(f"{source} is neither a folder nor a tar or zip archive of photos; name one of these")


def _damaged(source: Path, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.errno is not None:
        return DataError(f"{source} cannot be read ({error.strerror}); change its permissions, or name another one")
    return DataError(
        f"{source} is a damaged archive ({reason_of(error)}); fetch it again, or unpack it and name the folder"
    )


@contextmanager
def photos_of(source: Path, out: Path, interval: float) -> Iterator[list[Photo]]:
    """The files of a source in a fixed order; an archive is unpacked into ``out`` for as long as it takes."""
    unpacked = out / UNPACKED
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        # Folders called as the archive and where it lies, since they may be what names a video's person.
        place = unpacked / source.resolve().parent.name / source.name.partition(".")[0]
        folder = source if source.is_dir() else _unpack(source, place)
        photos = _list_photos(folder, interval)
        if not photos:
            raise DataError(f"there are no photos in {source}")
        yield photos
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _unpack(source: Path, folder: Path) -> Path:
    """Unpack a tar or zip, and name the folder that holds its photos or people."""
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as zipped:
                zipped.extractall(folder)
        else:
            with tarfile.open(source) as tarred:
                _extract(tarred, folder)
    except shards.DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise shards.unwritable(folder, error) from None
        raise _damaged(source, error) from None
    inside = [path for path in folder.iterdir() if not _hidden(path.name)] if folder.is_dir() else []
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Write a tar's files into a folder, and nothing outside it. Links become copies of what they point to in the
    archive. The filter of ``extractall`` does the like, but Debian 12's Python, 3.11.2, is too old to have it.

    Raises:
        TarError: a file's name leads out of the folder, or the archive is damaged or ends early.
    """
    root = folder.resolve()
    for member in archive:
        target = (root / member.name.lstrip("/")).resolve()
        if not target.is_relative_to(root):
            raise tarfile.TarError(f"{member.name} would lie outside of it")
        try:
            content = archive.extractfile(member)
        except KeyError:  # a link to what the archive does not hold
            continue
        if content is None:  # a folder or a device
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, open(target, "wb") as file:
            shutil.copyfileobj(content, file)
    _check_end(archive)


def _check_end(archive: tarfile.TarFile) -> None:
    """Read what follows the last member, which for ``tarfile`` is the end also where a header is damaged. A compressed
    archive's checksum is compared with it.

    Raises:
        TarError: it is something else than the blocks of zeros that end a tar.
    """
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    length = 0
    while left := archive.fileobj.read(2**20):
        if left.strip(b"\0"):
            raise tarfile.ReadError(f"there is no member of a tar at byte {archive.offset}")
        length += len(left)
    if length < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends early")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _visible(folder: Path) -> Iterator[Path]:
    """Every file of a folder that is not hidden."""
    for place, inner, files in os.walk(folder):
        inner[:] = [name for name in inner if not _hidden(name)]
        yield from (Path(place, name) for name in files if not _hidden(name))


def _list_photos(folder: Path, interval: float) -> list[Photo]:
    """Every file that is not hidden, sorted by its path; its number in that order is its key."""
    photos = []
    for number, (file, path) in enumerate(
        sorted((path.relative_to(folder).as_posix(), path) for path in _visible(folder))
    ):
        key, film = f"{number:08d}", video.source(folder, path)
        if film is not None:
            frames = video.expected_frames(path, interval)
            photos.append(Photo(key, path, name_as_text(file), name_as_text(film.person), film, frames))
        else:
            person = path.stem if path.parent == folder else path.parent.name
            photos.append(Photo(key, path, name_as_text(file), name_as_text(person)))
    return photos
