"""Images to files, whole or not at all, and back: what a file tells about its making."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from facecrafter.errors import OutputError
from facecrafter.faces.photo import load_photo, load_with_text
from facecrafter.io import check_free, write_whole
from facecrafter.pipelines import former_watermark, watermark
from facecrafter.pipelines.generate import described

SHEET = "sheet.png"
WHOLE = 0.9  # share of the area from which on an image is called marked without more words
# Images on one sheet: eight rows of eight, 17 megapixels at the arc2face scale.
SHEET_IMAGES = 64
# How many digits of an image's key are in its name, where the name tells it at all.
KEY_IN_NAME = 10


def save(image: Image.Image, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a generated image as PNG, with the text in its ``info``.

    Args:
        image: from :meth:`facecrafter.pipelines.generate.FaceCrafter.generate`.
        path: the file; its folder is made if it is not there.
        overwrite: replace a file of that name.

    Raises:
        OutputError: the file exists, or cannot be written.
    """
    check_free([Path(path)], overwrite)
    text = PngImagePlugin.PngInfo()
    for key, value in image.info.items():
        # JSON escapes what Latin-1, the alphabet of PNG text, does not have.
        text.add_text(str(key), value if isinstance(value, str) else json.dumps(value))
    content = io.BytesIO()
    image.save(content, "PNG", pnginfo=text)
    write_whole(Path(path), content.getvalue())


@dataclass(frozen=True)
class Record:
    """What an image's file says of its making.

    Attributes:
        made: as :func:`save` wrote it; empty where the file does not say.
        whole: whether the file is a PNG of which nothing is missing or damaged.
    """

    made: dict[str, Any]
    whole: bool


_END_OF_PNG = b"IEND\xaeB`\x82"


def read_record(path: Path) -> Record:
    """Read the metadata of a PNG, and check the file from end to end. What is wrong with it is no error here."""
    made: dict[str, Any] = {}
    if not path.is_file():
        return Record(made, False)
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as file:
            made = _made(file.info.get("facecrafter"))
            file.verify()  # reads every chunk, and compares its checksum
    except Exception:  # damaged files raise whatever the decoder meets
        return Record(made, False)
    return Record(made, content.endswith(_END_OF_PNG))


def _made(text: object) -> dict[str, Any]:
    """The story of an image's making from its file's text; empty where that is another program's, or damaged."""
    try:
        made = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):  # a number of 5,000 digits, brackets in brackets
        made = {}
    return made if isinstance(made, dict) else {}


def is_there(path: Path, key: str) -> bool:
    """Whether a file is the image of a key, whole.

    What is known as that image, by its metadata or its name, and damaged, counts as missing, as an empty file does.

    Raises:
        OutputError: something else is in its place.
    """
    if not path.exists():
        return False
    record = read_record(path)
    if record.made.get("key") == key:
        return record.whole
    if path.is_file() and not record.whole and (path.stat().st_size == 0 or path.stem.endswith(key[:KEY_IN_NAME])):
        return False
    if "key" in record.made:
        reason = "is the image of another request, or of a photo or a model that has changed since"
    elif record.made:
        reason = "was made by an earlier version and does not say of which photos"
    else:
        reason = "exists already and is no whole image of this program"
    raise OutputError(f"{path} {reason}; {_WAY_OUT}")


_WAY_OUT = "choose another folder for the output, or give --overwrite"


def _sheets(folder: Path, count: int) -> Iterator[tuple[Path, slice]]:
    """The sheets of some images, and which images each shows."""
    for number, first in enumerate(range(0, count, SHEET_IMAGES), 1):
        name = SHEET if number == 1 else f"{Path(SHEET).stem}-{number}.png"
        yield folder / name, slice(first, first + SHEET_IMAGES)


def _shown(sheet: Path) -> list[object] | None:
    """The keys of the images that a sheet shows; None where there is no sheet, or a damaged one.

    Raises:
        OutputError: the file is something else.
    """
    if not sheet.exists():
        return None
    record = read_record(sheet)
    images = record.made.get("sheet of")
    if not isinstance(images, list):
        if sheet.is_file() and sheet.stat().st_size == 0:
            return None
        raise OutputError(f"{sheet} exists already and is no sheet of this program; {_WAY_OUT}")
    return [str(one.get("key")) for one in images if isinstance(one, dict)] if record.whole else None


def check_sheets(folder: Path, keys: Sequence[str], others: bool = False) -> None:
    """Make sure that the contact sheets of some images can be written.

    Args:
        folder: of the images.
        keys: theirs, in order.
        others: sheets of other images may be replaced; otherwise only those of fewer or more of the same.

    Raises:
        OutputError: a sheet shows other images, or is no sheet.
    """
    for sheet, part in _sheets(folder, len(keys)):
        before, wanted = set(_shown(sheet) or ()), set(keys[part])
        if not others and not (before <= wanted or wanted <= before):
            raise OutputError(f"{sheet} shows images of another request or another version; {_WAY_OUT}")


def write_sheets(folder: Path, paths: Sequence[Path]) -> None:
    """Write contact sheets of saved images, :data:`SHEET_IMAGES` each: ``sheet.png``, ``sheet-2.png`` and so on.

    A sheet that shows the same images already is left as it is.

    Raises:
        PhotoError: one of the images has gone.
        OutputError: a sheet cannot be written.
    """
    for sheet, part in _sheets(folder, len(paths)):
        keys = [read_record(path).made.get("key") for path in paths[part]]
        record = read_record(sheet)
        shown = record.made.get("sheet of") if record.whole else None
        if not isinstance(shown, list) or [isinstance(one, dict) and one.get("key") for one in shown] != keys:
            save(contact_sheet([_load(path) for path in paths[part]]), sheet, overwrite=True)


def _load(path: Path) -> Image.Image:
    """A saved image as it was before it was saved."""
    image = Image.fromarray(load_photo(path))
    image.info["facecrafter"] = read_record(path).made
    return image


def contact_sheet(images: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Images of one size in a grid about as wide as high, in which each keeps its watermark."""
    columns = int(np.ceil(len(images) ** 0.5))
    rows = -(-len(images) // columns)
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (gap + index % columns * (width + gap), gap + index // columns * (height + gap)))
    return described(sheet, {"sheet of": [image.info["facecrafter"] for image in images]})


@dataclass(frozen=True)
class Inspection:
    """What an image's file says about its making.

    Attributes:
        path: the file.
        text: the words in the file, without the next.
        made: how it was generated; empty where the file does not say.
        marked: whether the watermark is in the pixels, which also survives where the words were lost.
        score: the watermark's score; see :class:`facecrafter.pipelines.watermark.Detection`.
        parts: how many marked images are in it; 0 where it has the mark of an earlier version.
        share: of its area that these cover.
    """

    path: Path
    text: dict[str, str]
    made: dict[str, Any]
    marked: bool
    score: float
    parts: int = 0
    share: float = 0.0

    @property
    def watermark(self) -> str:
        """What the pixels say, in words."""
        if not self.marked:
            return f"no (score {self.score:.1f})"
        if not self.parts:
            return f"yes, that of an earlier version (score {self.score:.1f})"
        places = f", {self.parts} images" if self.parts > 1 else ""
        covered = f", on {self.share:.0%} of the area" if self.parts > 1 or self.share < WHOLE else ""
        return f"yes{places}{covered} (score {self.score:.1f})"


def inspect(path: Path) -> Inspection:
    """Read the metadata and the watermark of an image.

    Raises:
        PhotoError: it is not an image.
    """
    pixels, text = load_with_text(path)
    made = _made(text.pop("facecrafter", None))
    found = watermark.detect(pixels)
    former = former_watermark.score(pixels)
    if not found.marked and former > former_watermark.THRESHOLD:
        return Inspection(path, text, made, True, former)
    return Inspection(path, text, made, found.marked, found.score, len(found.parts), found.share)
