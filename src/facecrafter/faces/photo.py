"""The one reader of images: which formats, how large, and one sentence about whatever cannot be read."""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag
from PIL.JpegImagePlugin import JpegImageFile

from facecrafter.errors import PhotoError, reason_of

log = logging.getLogger(__name__)

# What an image's name ends in, by format. Folders are searched for these endings, everywhere. Pillow knows many more
# formats, and some of them start other programs (EPS starts Ghostscript) or are vector drawings.
FORMATS: dict[str, tuple[str, ...]] = {
    "AVIF": (".avif",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    "JPEG2000": (".j2k", ".jp2", ".jpf"),
    "PNG": (".apng", ".png"),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
KINDS = "JPEG, PNG, HEIC, TIFF, WebP, AVIF, GIF or BMP"  # for messages: those that people have
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# Names of photos that are not read. A camera's own files hold a small preview, which would be taken for the photo.
FOREIGN_SUFFIXES = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".eps", ".jxl", ".nef", ".nrw", ".orf", ".pef", ".psd", ".raf", ".rw2", ".svg"}
)

_FOREIGN = "{} is of a kind that is not read; convert it to JPEG or PNG"

# Decoding takes up to 20 bytes a pixel, 3.6 GB at this limit. It is where Pillow refuses by default.
MOST_PIXELS = 178_956_970
# A JPEG beyond MOST_PIXELS is decoded at half its size or less. A progressive one is held in memory whole while it is,
# 3 to 6 bytes a pixel, so that is limited too. The largest phone cameras have 200 million pixels.
MOST_JPEG_PIXELS = 500_000_000
# Each scan of a progressive JPEG goes over all its pixels, and an empty one takes ten bytes. Encoders write about ten.
MOST_SCANS = 100
# Some decoders want the whole file in memory. MOST_PIXELS of uncompressed 16-bit colour have this many bytes.
MOST_BYTES = 2**30 + 2**26

_HEAD = 64
# How the images begin whose signature is long enough to be no accident.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
# A marker that stands for something: 0xff00 is data, 0xffd0 to 0xffd7 only restart the decoder.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# --- reading ----------------------------------------------------------------------------------------------------------


def load_photo(path: str | Path) -> NDArray[np.uint8]:
    """Read an image of one of the :data:`FORMATS` as ``(H, W, 3)`` uint8 RGB.

    EXIF orientation is applied; greyscale, palette, CMYK and 16-bit images are converted, and transparent ones are
    laid on white. Of several frames the first is taken. A JPEG of more than :data:`MOST_PIXELS` is read at half its
    size, with a note.

    Raises:
        PhotoError: there is no such file, it is not a regular one, may not be read, is no image of these formats,
            is damaged, or is too large. Whatever a decoder raises becomes this; its context is what was raised.
    """
    with _opened(path) as image:
        return _rgb(image)


def load_with_text(path: str | Path) -> tuple[NDArray[np.uint8], dict[str, str]]:
    """An image as :func:`load_photo` reads it, and the texts that its file holds, by their names.

    Raises:
        PhotoError: as :func:`load_photo`.
    """
    with _opened(path) as image:
        pixels = _rgb(image)
        return pixels, _texts(image)


def read_text(path: str | Path) -> dict[str, str]:
    """The texts before an image's pixels, by their names; the pixels are not looked at.

    Raises:
        PhotoError: as :func:`load_photo`, less damage in the pixels.
    """
    with _opened(path) as image:
        return _texts(image)


def decode_photo(content: bytes, name: object, most: int = MOST_PIXELS) -> NDArray[np.uint8]:
    """An image as :func:`load_photo` reads it, out of the bytes of its file.

    Args:
        content: the bytes.
        name: what to call it in an error.
        most: pixels that are decoded.

    Raises:
        PhotoError: as :func:`load_photo`.
    """
    with _guarded(name), _decoder(io.BytesIO(content), name, most) as image:
        return _rgb(image)


def to_rgb(image: Image.Image, name: object = "the image") -> NDArray[np.uint8]:
    """A PIL image of any mode as upright ``(H, W, 3)`` uint8 RGB.

    Raises:
        PhotoError: it is damaged, which may show only now, or its mode has no conversion to RGB.
    """
    with _guarded(name):
        return _rgb(image)


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """An image of a file, its pixels not yet decoded; see :func:`load_photo` for what is raised."""
    with _guarded(path):
        _check_file(path)
        with open(path, "rb") as file, _decoder(file, path) as image:
            yield image


def _check_file(path: str | Path) -> None:
    """Refuse what is no regular file, before it is opened: a FIFO would wait for its other end for ever."""
    state = os.stat(path)
    if stat.S_ISDIR(state.st_mode):
        raise PhotoError(f"{path} is a folder, not an image")
    if not stat.S_ISREG(state.st_mode):
        raise PhotoError(f"{path} is a pipe or a device, not an image; give a file")
    if Path(path).suffix.lower() in FOREIGN_SUFFIXES:
        raise PhotoError(_FOREIGN.format(path))
    if state.st_size > MOST_BYTES:
        raise PhotoError(f"{path} is larger than the {MOST_BYTES / 2**30:.1f} GiB that are read; make it smaller")


@contextmanager
def _guarded(name: object) -> Iterator[None]:
    """Turn what reading an image raises into one sentence, and keep Pillow's warnings about its details back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except PhotoError:
            raise
        except FileNotFoundError:
            raise PhotoError(f"there is no file {name}") from None
        except UnidentifiedImageError:
            raise PhotoError(f"{name} is not an image that can be read; give a {KINDS} file") from None
        except PermissionError:
            raise PhotoError(f"{name} cannot be read (permission denied); change its permissions") from None
        except MemoryError:
            raise PhotoError(f"{name} takes more memory than there is; make it smaller") from None
        except Image.DecompressionBombError:
            raise _too_large(name, MOST_PIXELS) from None
        # Decoders raise of every kind: OSError, ValueError, SyntaxError, RuntimeError, struct.error, IndexError ...
        except Exception as error:
            reason = reason_of(error)
            raise PhotoError(f"{name} is damaged or cannot be read ({reason}); save or copy it again") from None


def _too_large(name: object, most: int, size: tuple[int, int] | None = None) -> PhotoError:
    has = f"has {size[0]}x{size[1]} pixels, which is more" if size else "has more pixels"
    return PhotoError(f"{name} {has} than the {most // 1_000_000} million that are read; make it smaller")


def _decoder(file: BinaryIO, name: object, most: int | None = None) -> Image.Image:
    """Pillow's image of an open file, by the file's first bytes and not by its name; see :func:`decode_photo`."""
    head = file.read(_HEAD)
    file.seek(0)
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg(file, name, most)
    if _is_heif(head):
        # Not registered with Pillow, which would change what the whole process opens.
        from pillow_heif import HeifImageFile

        image: Image.Image = HeifImageFile(file)
    else:
        image = Image.open(file, formats=[kind for kind in FORMATS if kind not in ("HEIF", "JPEG")])
    limit = MOST_PIXELS if most is None else min(most, MOST_PIXELS)
    if image.width * image.height > limit:
        raise _too_large(name, limit, image.size)
    return image


def _jpeg(file: BinaryIO, name: object, most: int | None) -> Image.Image:
    """A JPEG, reduced where it is large. Image.open would refuse that by its size before it can be reduced."""
    image = JpegImageFile(file)
    size = image.size
    if size[0] * size[1] > MOST_JPEG_PIXELS:
        raise _too_large(name, MOST_JPEG_PIXELS, size)
    if image.info.get("progressive") and _count_scans(file) > MOST_SCANS:
        raise PhotoError(f"{name} is a JPEG of more than {MOST_SCANS} scans, which no camera writes; save it again")
    halved = size[0] * size[1] > MOST_PIXELS
    if halved:
        image.draft(None, (size[0] // 2, size[1] // 2))
    if most is not None and image.width * image.height > most:
        raise _too_large(name, most, size)
    if halved:
        log.warning("%s has %dx%d pixels; it is read, and measured, at half its size", name, *size)
    return image


def _count_scans(file: BinaryIO) -> int:
    """How many scans a JPEG has, up to its end. The file stays where it was."""
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    scans, at = 0, 2
    while (marker := _JPEG_MARKER.search(content, at)) and marker[1] != b"\xd9":
        scans += marker[1] == b"\xda"
        at = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2], "big"))
    return scans


def _is_heif(head: bytes) -> bool:
    """Whether a file is in HEIF and not in AVIF, which shares its container and some of its brands."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head and b"avis" not in head


def _texts(image: Image.Image) -> dict[str, str]:
    return {str(name): value for name, value in image.info.items() if isinstance(value, str)}


# --- pixels -----------------------------------------------------------------------------------------------------------


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    image = _upright(image)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_eight_bits(np.asarray(image), image.mode))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    """The image, turned and mirrored as its EXIF says. Broken EXIF says nothing, and costs nobody the image."""
    image.load()  # a PNG may have its EXIF after the pixels
    try:
        way = _UPRIGHT.get(image.getexif().get(ExifTag.Orientation, 1))
    except Exception:  # Pillow's parsers raise of many kinds
        way = None
    return image if way is None else image.transpose(way)


def _eight_bits(values: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    """Greys ``(H, W)`` of a mode of more than eight bits as uint8, a few rows at once to spare memory."""
    rows = [slice(first, first + 256) for first in range(0, len(values), 256)]

    def finite(some: slice) -> NDArray[np.float64]:
        return np.nan_to_num(values[some].astype(np.float64))

    top = _white(mode, max(float(finite(some).max()) for some in rows))
    greys = np.empty(values.shape, np.uint8)
    for some in rows:
        greys[some] = (finite(some).clip(0, top) * (255 / top)).round()
    return greys


def _white(mode: str, brightest: float) -> float:
    """The value that means white: 16-bit modes say so themselves, wider ones leave it to the brightest pixel."""
    if mode.startswith("I;16"):
        return 65535
    steps = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
    return next((step for step in steps if brightest <= step), brightest)


# --- folders ----------------------------------------------------------------------------------------------------------


def find_photos(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The images in a folder and the folders inside, by the endings of their names (:data:`SUFFIXES`).

    Returns:
        The visible files with such an ending, sorted; and what is passed over though it may be an image, each with the
        reason in one sentence: files that begin as an image does but have another ending, files of cameras and other
        programs that are not read, and folders that may not be listed.
    """
    found: list[Path] = []
    passed: list[tuple[Path, str]] = []

    def closed(error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        passed.append((Path(error.filename), f"the folder {error.filename} cannot be listed ({reason})"))

    for place, inner, files in os.walk(folder, onerror=closed):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for path in (Path(place, name) for name in files if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                found.append(path)
            elif reason := _passed_over(path):
                passed.append((path, reason))
    return sorted(found), sorted(passed)


def _passed_over(path: Path) -> str:
    """Why a file without an image's ending may be one after all; empty where it does not look like one."""
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        return _FOREIGN.format(path)
    if not os.path.isfile(path):  # which, unlike Path.is_file, is false where permissions hide it
        return ""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return ""
    webp, avif = head[:4] + head[8:12] == b"RIFFWEBP", head[4:12] in (b"ftypavif", b"ftypavis")
    if head.startswith(_SIGNATURES) or webp or avif or _is_heif(head):
        return f"{path} begins as an image does, but its name does not end in .jpg or the like; rename it"
    return ""
