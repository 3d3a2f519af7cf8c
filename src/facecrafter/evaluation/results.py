"""A table's result folder: what is in it, and how it is written.

- ``result.json``: the table, how it was made, and by which estimators. It is written last.
- ``requests.csv``: what every method is asked for, and what a folder of images made elsewhere must call them.
- ``subjects/``: the photos of identities and targets, aligned.
- ``pictures/METHOD/00000.png``: the images of a method, in the order of the requests.
- ``scores/METHOD.csv``: a row an image.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.errors import OutputError
from facecrafter.evaluation.images import portrait_name, request_name, write
from facecrafter.evaluation.metrics import Column
from facecrafter.generator import Portrait, Request

RESULT = "result.json"
REQUESTS = "requests.csv"
NUMBERED = re.compile(r"\d{5,}\.png")


def write_requests(out: Path, requests: Sequence[Request]) -> None:
    """Write the photos of everybody in the requests, and the list of what is asked for.

    Raises:
        OutputError: a file cannot be written.
    """
    rows = [[request_name(one), _place(one.identity), _place(one.landmarks), one.seed] for one in requests]
    write(out / REQUESTS, _csv(["picture", "identity", "target", "seed"], rows))
    portraits = {_place(one): one for request in requests for one in (request.identity, request.landmarks) if one}
    for place, portrait in portraits.items():
        write(out / place, png(portrait.image))


def write_images(out: Path, slug: str, made: Sequence[Path]) -> list[str]:
    """Put a method's images where a report looks for them: linked from the cache where the disk can, else copied.

    Returns:
        Their paths in the folder.

    Raises:
        OutputError: they cannot be written.
    """
    folder = out / "pictures" / slug
    places = [folder / f"{number:05d}.png" for number in range(len(made))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if NUMBERED.fullmatch(old.name):
                old.unlink()
        for source, place in zip(made, places, strict=True):
            try:
                os.link(source, place)
            except OSError:  # another disk, or one without links
                shutil.copyfile(source, place)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise OutputError(f"{folder} could not be written ({why}); put that right and run it again") from None
    return [str(place.relative_to(out)) for place in places]


def write_scores(
    out: Path,
    slug: str,
    images: Sequence[str],
    requests: Sequence[Request],
    found: NDArray[np.bool_],
    columns: Sequence[Column],
    scores: Mapping[str, NDArray[np.float64]],
) -> None:
    """Write a method's scores, a row an image; cells are empty where no face was found.

    Raises:
        OutputError: the file cannot be written.
    """
    keys = [column.key for column in columns if column.key in scores]
    rows = []
    for number, request in enumerate(requests):
        cells = [scores[key][number] for key in keys]
        shown = [f"{cell:.6g}" if found[number] and np.isfinite(cell) else "" for cell in cells]
        target = _place(request.landmarks)
        rows.append([images[number], _place(request.identity), target, request.seed, int(found[number]), *shown])
    write(out / "scores" / f"{slug}.csv", _csv(["picture", "identity", "target", "seed", "found", *keys], rows))


def write_result(out: Path, result: Mapping[str, Any]) -> None:
    """Write ``result.json``, and with it finish the folder.

    Raises:
        OutputError: it cannot be written.
    """
    write(out / RESULT, (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())


def png(image: NDArray[np.uint8]) -> bytes:
    """An image ``(H, W, 3)`` as the content of a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def _place(portrait: Portrait | None) -> str:
    """A subject's photo in the folder; nothing of nobody."""
    return f"subjects/{portrait_name(portrait)}.png" if portrait else ""


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
