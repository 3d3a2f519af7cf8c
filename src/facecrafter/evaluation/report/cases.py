"""Which images a report shows, and how they come to lie in its page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from facecrafter.errors import PhotoError
from facecrafter.evaluation.report.sheet import Row, Sheet
from facecrafter.evaluation.result import Column
from facecrafter.evaluation.result_folder import Score
from facecrafter.faces.face import load_photo

CASES = 2  # of each kind
QUALITY = 82


def chooser(sheet: Sheet, column: Column) -> Row | None:
    """By whose scores the cases of a column are chosen: the first method that has any."""
    if column.better is None:
        return None
    for row in sheet.rows:
        if any(column.key in score.values for score in (row.scores or {}).values()):
            return row
    return None


def cases(row: Row, column: Column) -> list[tuple[str, Score]]:
    """The best, the median and the worst images of a method by a metric, :data:`CASES` of each and no image twice.

    Those of a kind show different people where there are so many. Equal scores keep the order of the file.
    """
    sign = 1 if column.better == "lower" else -1
    known = [score for score in (row.scores or {}).values() if column.key in score.values]
    ordered = sorted(known, key=lambda score: sign * score.values[column.key])
    middle = (len(ordered) - 1) / 2
    central = sorted(range(len(ordered)), key=lambda place: abs(place - middle))
    kinds = {"best": ordered, "worst": ordered[::-1], "median": [ordered[place] for place in central]}
    taken: set[str] = set()
    found = {kind: _distinct(scores, taken) for kind, scores in kinds.items()}
    return [(kind, score) for kind in ("best", "median", "worst") for score in found[kind]]


def _distinct(scores: Iterable[Score], taken: set[str]) -> list[Score]:
    """The first few that are not taken, of different people first."""
    free = [score for score in scores if score.image not in taken]
    people: set[str] = set()
    again = []
    for score in free:
        again.append(score.identity in people)
        people.add(score.identity)
    chosen = [score for _, score in sorted(zip(again, free, strict=True), key=lambda pair: pair[0])][:CASES]
    taken.update(score.image for score in chosen)
    return chosen


class Thumbnails:
    """Images as data URIs of JPEGs that are at most ``side`` pixels long.

    Attributes:
        lacking: the images that were asked for and could not be read.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.lacking: list[Path] = []
        self._made: dict[Path, str | None] = {}

    def __call__(self, path: Path) -> str | None:
        """One image; None where it cannot be read."""
        if path not in self._made:
            self._made[path] = self._make(path)
        return self._made[path]

    def _make(self, path: Path) -> str | None:
        try:
            image = Image.fromarray(load_photo(path))
        except PhotoError:
            self.lacking.append(path)
            return None
        image.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        image.save(content, "JPEG", quality=QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
