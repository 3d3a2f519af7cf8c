"""What faces in photos express: read many images, and tell it as a table, as CSV, as JSON and as images."""

from __future__ import annotations

import csv
import io
import json
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path, PurePath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import NoFaceError, PhotoError
from facecrafter.estimators.emotion_estimator import EmotionEstimator
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces.emotion import EMOTIONS, Emotion
from facecrafter.faces.face import ALIGNED_SIZE, MOST_FACES, Face, align, load_photo
from facecrafter.faces.photo import KINDS, find_photos
from facecrafter.interruption import deferred
from facecrafter.io import check_free, name_as_text, write_whole
from facecrafter.pipelines.perception_chart import ANGLES, chart

Which = Literal["largest", "centre", "all"]
Row = dict[str, str | int | float | None]

BOX = ("left", "top", "right", "bottom")
COLUMNS = ("file", "face", "valence", "arousal", *EMOTIONS, "emotion", *ANGLES, *BOX)


@dataclass(frozen=True)
class Source:
    """An image to read.

    Attributes:
        path: the file.
        name: what images made from it are called, less the face's number: unique, and relative to the output folder.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class Reading:
    """One face, and what it expresses.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB, what was looked at: the aligned face, or the crop as it was given.
        emotion: the estimate.
        face: where and how the face is; None for a crop in which no face was looked for.
    """

    image: NDArray[np.uint8]
    emotion: Emotion
    face: Face | None


@dataclass
class Survey:
    """What a run of :func:`perceive` found.

    Attributes:
        estimator: the name of the emotion estimator.
        rows: one a face, with :data:`COLUMNS`: valence and arousal in [-1, 1], probabilities, degrees, and the box in
            pixels of the photo. What a crop does not tell is None.
        skipped: the files that could not be read, each with the reason in one sentence.
    """

    estimator: str
    rows: list[Row] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def find_sources(paths: Iterable[Path]) -> tuple[list[Source], list[tuple[Path, str]]]:
    """The images among files and folders, and the paths that lead to none, each with the reason.

    A file is taken whatever it is called; folders are walked by :func:`facecrafter.faces.photo.find_photos`, and
    what that passes over is among those that lead to none. A file that is named twice is taken once.
    """
    sources: dict[Path, Source] = {}
    lacking: list[tuple[Path, str]] = []
    taken: set[str] = set()
    for path in paths:
        files, passed = find_photos(path) if os.path.isdir(path) else ([path], [])
        lacking.extend(passed)
        if not files:
            lacking.append((path, f"{path} has no images in it; name a folder with {KINDS} files"))
        for file in files:
            if file not in sources:
                wanted = file.relative_to(path) if os.path.isdir(path) else PurePath(file.name)
                sources[file] = Source(file, _unique(wanted.with_suffix("").as_posix(), taken))
    return list(sources.values()), lacking


def _unique(name: str, taken: set[str]) -> str:
    """The name, or where another has it the name with the first free number."""
    free, number = name, 1
    while free.casefold() in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free.casefold())
    return free


def perceive(
    sources: Sequence[Source],
    estimator: EmotionEstimator,
    *,
    which: Which = "all",
    aligned: bool = False,
    out: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[float], object] | None = None,
    tell: Callable[[Survey], object] | None = None,
) -> Survey:
    """Read the faces of images, one image after the other. An image that cannot be read costs only itself.

    Args:
        sources: from :func:`find_sources`.
        estimator: reads the emotions.
        which: the largest face of each photo, the one nearest to its centre, or all, the largest first.
        aligned: the images already are tight face crops, in which no face is looked for.
        out: a folder for one PNG a face, see :func:`chart`; none are made without it.
        overwrite: replace PNGs that are there.
        progress: called with 1 after each image.
        tell: called after each image with what was found so far; see :class:`Printer`.

    Raises:
        OutputError: a PNG of one of the images exists already, which is checked before any is read, or cannot be
            written.
        WeightsError: the face finder's files are missing.
    """
    if out is not None:
        check_free(_made_before(out, sources), overwrite)
    survey = Survey(estimator.name)
    with ExitStack() as stack:
        # Made when an image first needs it: that takes half a second, and crops may need none.
        finder = cache(lambda: stack.enter_context(FaceFinder(MOST_FACES)))
        read = _read_crop if aligned else partial(_read_photo, finder, which)
        for source in sources:
            try:
                readings = read(estimator, source.path)
            except (PhotoError, NoFaceError) as error:
                survey.skipped.append((source.path, str(error)))
                readings = []
            for number, reading in enumerate(readings, 1):
                if out is not None:
                    title = f"{name_as_text(source.path.name)}, face {number}"
                    write_whole(out / f"{source.name}_{number}.png", chart(reading, title))
                survey.rows.append(_row(source.path, number, reading))
            if tell is not None:
                tell(survey)
            if progress is not None:
                progress(1)
    return survey


def _read_photo(
    finder: Callable[[], FaceFinder], which: Which, estimator: EmotionEstimator, path: Path
) -> list[Reading]:
    photo = load_photo(path)
    if which == "all":
        found = finder().find_ordered(photo, path)
        faces = [align(photo, detection, ALIGNED_SIZE, len(found) - 1) for detection in found]
    else:
        faces = [finder().find(photo, ALIGNED_SIZE, which, path)]
    emotions = estimator.estimate(faces)
    return [Reading(face.image, emotion, face) for face, emotion in zip(faces, emotions, strict=True)]


def _read_crop(estimator: EmotionEstimator, path: Path) -> list[Reading]:
    crop = load_photo(path)
    try:
        return [Reading(crop, estimator.estimate_crops([crop])[0], None)]
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from None


def _made_before(out: Path, sources: Sequence[Source]) -> Iterator[Path]:
    """The PNGs that an earlier run made of these images, however many faces it saw."""
    names = {source.name for source in sources}
    for path in sorted(out.rglob("*.png")):
        name, _, number = path.relative_to(out).with_suffix("").as_posix().rpartition("_")
        if name in names and number.isdigit():
            yield path


def _row(path: Path, number: int, reading: Reading) -> Row:
    emotion, face = reading.emotion, reading.face
    row: Row = {"file": name_as_text(path), "face": number}
    row |= {"valence": round(emotion.valence, 4), "arousal": round(emotion.arousal, 4)}
    row |= {name: round(share, 4) for name, share in zip(EMOTIONS, emotion.probabilities, strict=True)}
    row |= {"emotion": emotion.label}
    places = [round(value, 2) for value in (*face.angles, *face.box)] if face else [None] * 7
    return row | dict(zip((*ANGLES, *BOX), places, strict=True))


# --- telling ----------------------------------------------------------------------------------------------------------


def as_csv(survey: Survey) -> str:
    """The rows with :data:`COLUMNS` above them; what is not known is empty."""
    return _csv_head(survey) + "".join(map(_csv_row, survey.rows))


def _csv_head(_: Survey) -> str:
    return ",".join(COLUMNS) + "\n"


def _csv_row(row: Row) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerow(row)
    return text.getvalue()


def as_json(survey: Survey, unread: int = 0) -> str:
    """An object with ``estimator``, ``faces`` (the rows) and ``skipped`` (``file`` and ``reason``), and where images
    were left unread ``unread``, how many."""
    return _json_head(survey) + ",".join(map(_json_row, survey.rows)) + _json_tail(survey, unread)


def _json_head(survey: Survey) -> str:
    return f'{{\n "estimator": {json.dumps(survey.estimator)},\n "faces": ['


def _json_row(row: Row) -> str:
    return "\n" + textwrap.indent(json.dumps(row, indent=1, allow_nan=False), "  ")


def _json_tail(survey: Survey, unread: int = 0) -> str:
    skipped = [{"file": name_as_text(path), "reason": reason} for path, reason in survey.skipped]
    rest = {"skipped": skipped, **({"unread": unread} if unread else {})}
    end = "\n ]" if survey.rows else "]"
    return f"{end},{json.dumps(rest, indent=1)[1:]}\n"


def as_table(survey: Survey) -> str:
    """A table for people: the likeliest emotion of each face and its share, valence, arousal, angles and box."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("face", justify="right")
    table.add_column("emotion")
    for name in ("valence", "arousal", *ANGLES):
        table.add_column(name, justify="right")
    table.add_column("left, top, right, bottom")
    for row in survey.rows:
        emotion = f"{row['emotion']} {row[str(row['emotion'])]:.2f}"
        marks = [f"{row[name]:+.2f}" for name in ("valence", "arousal")]
        known = row["yaw"] is not None
        angles = [f"{round(float(row[name] or 0)):+d}°" if known else "-" for name in ANGLES]
        box = ", ".join(f"{row[name]:.0f}" for name in BOX) if known else "-"
        table.add_row(Text(str(row["file"])), str(row["face"]), emotion, *marks, *angles, box)
    console = Console()
    if not console.is_terminal:  # in a file or a pipe nothing needs to be folded
        console.width = 240
    with console.capture() as capture:
        console.print(table)
    return capture.get()


FORMATS: dict[str, Callable[[Survey], str]] = {"table": as_table, "csv": as_csv, "json": as_json}


class Printer:
    """Prints what a survey finds while it goes on: the rows of each image once it is read, so that a run that is
    stopped has printed those of all images before. A table needs the width of all rows and is printed at the end.

    Args:
        form: one of :data:`FORMATS`.
        write: prints a text at once.
    """

    def __init__(self, form: str, write: Callable[[str], object]) -> None:
        self._form, self._write = form, write
        self._survey = Survey("")
        self.images = self.rows = 0  # read, and printed
        self.ended = False

    def update(self, survey: Survey) -> None:
        """Take up what was found in one more image."""
        with deferred():
            self._survey = replace(survey, rows=list(survey.rows), skipped=list(survey.skipped))
            self.images += 1
            if self._form != "table":
                self._print_rows()

    def end(self, lacking: Sequence[tuple[Path, str]] = (), unread: int = 0) -> Survey:
        """Print what is left to print, which is nothing where no face was found.

        Args:
            lacking: what else was skipped, before all others.
            unread: images that were not read any more.

        Returns:
            What was found in the images that were read.
        """
        survey = replace(self._survey, skipped=[*lacking, *self._survey.skipped])
        if survey.rows and self._form == "table":
            self._write(as_table(survey))
            self.rows = len(survey.rows)
        elif survey.rows and self._form == "json":
            self._write(_json_tail(survey, unread))
        self.ended = True
        return survey

    def _print_rows(self) -> None:
        head, row_text, between = {"csv": (_csv_head, _csv_row, ""), "json": (_json_head, _json_row, ",")}[self._form]
        for row in self._survey.rows[self.rows :]:
            self._write((between if self.rows else head(self._survey)) + row_text(row))
            self.rows += 1
