"""Pictures to files, whole or not at all, and back: what a file tells about its making."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from facecrafter.files import check_free, write_whole
from facecrafter.perception.face import load_photo
from facecrafter.sampling import watermark
from facecrafter.sampling.pipeline import signed

SHEET = "sheet.png"


def save(picture: Image.Image, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a generated picture as PNG, with the text in its ``info``.

    Args:
        picture: from :meth:`facecrafter.sampling.pipeline.FaceCrafter.generate`.
        path: the file; its folder is made if it is not there.
        overwrite: replace a file of that name.

    Raises:
        OutputError: the file exists, or cannot be written.
    """
    check_free([Path(path)], overwrite)
    text = PngImagePlugin.PngInfo()
    for key, value in picture.info.items():
        # JSON escapes what Latin-1, the alphabet of PNG text, does not have.
        text.add_text(str(key), value if isinstance(value, str) else json.dumps(value))
    content = io.BytesIO()
    picture.save(content, "PNG", pnginfo=text)
    write_whole(Path(path), content.getvalue())


def save_all(
    pictures: Iterable[tuple[int, Image.Image]], paths: Sequence[Path], sheet: Path, overwrite: bool = False
) -> None:
    """Write pictures as they come, each to its place, and at the end one sheet of them all.

    Args:
        pictures: numbers into ``paths``, and pictures.
        paths: where each goes.
        sheet: where the sheet goes.
        overwrite: replace files of those names.

    Raises:
        OutputError: a file exists, which is checked before the first picture is asked for, or cannot be written.
    """
    check_free([*paths, sheet], overwrite)
    made: dict[int, Image.Image] = {}
    for index, picture in pictures:
        save(picture, paths[index], overwrite)
        made[index] = picture
    save(contact_sheet([made[index] for index in sorted(made)]), sheet, overwrite)


def contact_sheet(pictures: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Pictures of one size in a grid about as wide as high, marked like each of them."""
    columns = int(np.ceil(len(pictures) ** 0.5))
    rows = -(-len(pictures) // columns)
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (gap + index % columns * (width + gap), gap + index // columns * (height + gap)))
    return signed(np.asarray(sheet), {"sheet of": [picture.info["facecrafter"] for picture in pictures]})


@dataclass(frozen=True)
class Inspection:
    """What a picture's file says about its making.

    Attributes:
        path: the file.
        text: the words in the file, without the next.
        made: how it was generated; empty where the file does not say.
        marked: whether the watermark is in the pixels, which also survives where the words were lost.
        score: the watermark's score; see :func:`facecrafter.sampling.watermark.score`.
    """

    path: Path
    text: dict[str, str]
    made: dict[str, Any]
    marked: bool
    score: float


def inspect(path: Path) -> Inspection:
    """Read the metadata and the watermark of a picture.

    Raises:
        PhotoError: it is not a picture.
    """
    pixels = load_photo(path)
    with Image.open(path) as file:
        text = {str(key): value for key, value in file.info.items() if isinstance(value, str)}
    try:
        made = json.loads(text.pop("facecrafter", "{}"))
    except json.JSONDecodeError:  # another program's word, or a damaged one
        made = {}
    score = watermark.score(pixels)
    return Inspection(path, text, made if isinstance(made, dict) else {}, score > watermark.THRESHOLD, score)
