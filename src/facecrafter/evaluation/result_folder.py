"""A table's result folder: what is in it, and how it is written.

- ``result.json``: the table, how it was made, and by which estimators. It is written last.
- ``requests.csv``: what every method is asked for, and what a folder of images made elsewhere must call them.
- ``subjects/``: the photos of identities and targets, aligned.
- ``images/METHOD/00000.png``: the images of a method, in the order of the requests.
- ``scores/METHOD.csv``: a row an image.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.errors import DataError, OutputError
from facecrafter.evaluation.images import portrait_name, request_name, write
from facecrafter.evaluation.result import AGAIN, REQUEST, Column
from facecrafter.request import Portrait, Request

REQUESTS = "requests.csv"
NUMBERED = re.compile(r"\d{5,}\.png")


def write_requests(out: Path, requests: Sequence[Request]) -> None:
    """Write the photos of everybody in the requests, and the list of what is asked for.

    Raises:
        OutputError: a file cannot be written.
    """
    given = [(one, request_name(one), one.identity, one.conditions.get("landmark")) for one in requests]
    rows = [[name, _place(identity), _place(target), one.seed] for one, name, identity, target in given]
    write(out / REQUESTS, _csv(["image", "identity", "target", "seed"], rows))
    portraits = {_place(one): one for _, _, *both in given for one in both if one}
    for place, portrait in portraits.items():
        write(out / place, png(portrait.image))


def write_images(out: Path, slug: str, made: Sequence[Path]) -> list[str]:
    """Put a method's images where a report finds them: linked from the cache where the disk can, else copied.

    Returns:
        Their paths in the folder.

    Raises:
        OutputError: they cannot be written.
    """
    folder = out / "images" / slug
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
        target = _place(request.conditions.get("landmark"))
        rows.append([images[number], _place(request.identity), target, request.seed, int(found[number]), *shown])
    write(scores_file(out, slug), _csv([*REQUEST, *keys], rows))


@dataclass(frozen=True)
class Score:
    """One image: where it lies, what was asked, and its metrics, less those that are not known.

    Paths are relative to the result folder; ``target`` is empty where there was none.
    """

    image: str
    identity: str
    target: str
    seed: int
    found: bool
    values: dict[str, float]

    @property
    def request(self) -> tuple[str, str, int]:
        """What methods are paired by."""
        return self.identity, self.target, self.seed


Scores = dict[tuple[str, str, int], Score]


def read_scores(out: Path, slug: str, columns: Iterable[Column]) -> Scores | None:
    """The images of one method by what was asked, or None where there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    path, line = scores_file(out, slug), 0
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            line = 1
            # The first column was called "picture" before version 2 of the result.
            reader.fieldnames = ["image" if name == "picture" else name for name in reader.fieldnames or ()]
            missing = [name for name in REQUEST if name not in reader.fieldnames]
            if missing:
                raise ValueError(f"there is no column {missing[0]!r}")
            keys = [column.key for column in columns if column.key in reader.fieldnames]
            scores: Scores = {}
            for cells in reader:
                line = reader.line_num
                score = _read_score(cells, keys)
                scores.setdefault(score.request, score)
            return scores
    except OSError:
        return None
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is damaged: line {line}: {error}; {AGAIN}") from None


def _read_score(cells: dict[Any, Any], keys: Sequence[str]) -> Score:
    if None in cells or None in cells.values():
        raise ValueError("it has more or fewer cells than the first line")
    for name in ("image", "identity", "target"):
        place = PurePosixPath(cells[name])
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(f"{cells[name]!r} leads out of the result folder")
    if cells["found"] not in ("0", "1"):
        raise ValueError(f"found is {cells['found']!r}, not 0 or 1")
    found = cells["found"] == "1"
    values = {key: float(cells[key]) for key in keys if cells[key]} if found else {}
    known = {key: value for key, value in values.items() if np.isfinite(value)}
    return Score(cells["image"], cells["identity"], cells["target"], int(cells["seed"]), found, known)


def scores_file(out: Path, slug: str) -> Path:
    """Where a method's scores are."""
    return out / "scores" / f"{slug}.csv"


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
