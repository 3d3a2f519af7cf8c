"""Result folders of the tables: read, checked, and laid beside each other."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from facecrafter.errors import DataError, PhotoError
from facecrafter.faces.face import load_photo

AGAIN = "run the evaluation again"
REQUEST = ("picture", "identity", "target", "seed", "found")


def clean(text: object) -> object:
    """Text on one line, without letters that cannot be shown; anything else as it is."""
    if not isinstance(text, str):
        return text
    return " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split())


def _finite(value: object) -> object:
    """JSON's NaN and infinities are numbers that nobody knows."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Text = Annotated[str, BeforeValidator(clean)]
Number = Annotated[float | None, BeforeValidator(_finite)]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True)


class Column(_Read):
    """A metric: its key, what a table calls it, its unit, which way is better, and a sentence about it."""

    key: str
    title: Text
    unit: Text = ""
    better: Literal["lower", "higher"] | None = None
    about: Text = ""

    @property
    def heading(self) -> str:
        """Title, unit, and an arrow towards the better."""
        arrow = {"lower": " ↓", "higher": " ↑", None: ""}[self.better]
        return f"{self.title}{f' ({self.unit})' if self.unit else ''}{arrow}"


class Value(_Read):
    """A number with its 95 % interval; None where it is not known."""

    value: Number = None
    low: Number = None
    high: Number = None


class Group(_Read):
    """Images of one kind: how many, in how many of them no face was found, and the metrics over the others."""

    count: int
    failures: int | None = None
    values: dict[str, Number] = {}


class Leakage(_Read):
    """How far each of ``moved`` went when only one of ``changed`` was asked to: a row a change.

    It is over ``probes``, less the ``failures`` among them in which a face was not found.
    """

    changed: list[Text]
    moved: list[Text]
    values: list[list[Number]]
    about: Text = ""
    probes: int | None = None
    failures: int | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Leakage:
        if [len(row) for row in self.values] != [len(self.moved)] * len(self.changed):
            raise ValueError(f"the matrix is not {len(self.changed)} by {len(self.moved)}")
        return self


class Curve(_Read):
    """What was perceived, with its interval, where something was asked."""

    asked: list[float]
    perceived: list[Number]
    low: list[Number]
    high: list[Number]

    @model_validator(mode="after")
    def _is_whole(self) -> Curve:
        if not len(self.asked) == len(self.perceived) == len(self.low) == len(self.high):
            raise ValueError("asked, perceived, low and high are not equally many")
        if not all(map(math.isfinite, self.asked)):
            raise ValueError("what was asked is not a number")
        return self


class MethodResult(_Read):
    """One method's row."""

    name: Annotated[Text, Field(min_length=1)]
    extra_parameters: Annotated[int | None, BeforeValidator(_finite)] = None
    pictures: int
    failures: int
    seconds_a_picture: Number = None
    values: dict[str, Value]
    groups: dict[Text, dict[Text, Group]] = {}
    leakage: Leakage | None = None
    curves: dict[Text, Curve] = {}
    note: Text = ""

    @property
    def slug(self) -> str:
        """What the method's files are called."""
        return re.sub("[^a-z0-9]+", "-", self.name.lower())


class Result(_Read):
    """One table: ``result.json``."""

    table: Literal["control", "diversity"]
    environment: dict[str, Any]
    config: dict[str, Any]
    seed: int
    seconds: Number = None
    estimators: dict[Text, Text]
    conditions: dict[Text, Text] = {}
    real: dict[Text, Any] = {}  # behind a Frechet distance: how many images, of which folder, and their digest
    left_out: list[Text] = []
    columns: list[Column]
    methods: Annotated[list[MethodResult], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> Result:
        for kind, names in (
            ("columns", [column.key for column in self.columns]),
            ("methods", [method.slug for method in self.methods]),
        ):
            for name, count in Counter(names).items():
                if count > 1:
                    raise ValueError(f"{count} {kind} have the key {name!r}")
        for column in self.columns:
            if column.key in REQUEST:
                raise ValueError(f"no column can have the key {column.key!r}, which the scores use for something else")
        return self


@dataclass(frozen=True)
class Score:
    """One image: where it lies, what was asked, and its metrics, less those that are not known.

    Paths are relative to the run folder; ``target`` is empty where there was none.
    """

    picture: str
    identity: str
    target: str
    seed: int
    found: bool
    values: dict[str, float]

    @property
    def request(self) -> tuple[str, str, int]:
        """What methods are paired by."""
        return self.identity, self.target, self.seed


@dataclass(frozen=True)
class Row:
    """A method as a report shows it.

    Attributes:
        label: its name, with the run's where several runs have a method of that name.
        folder: of its run.
        method: its results.
        scores: one a request; None where the file is missing.
    """

    label: str
    folder: Path
    method: MethodResult
    scores: dict[tuple[str, str, int], Score] | None

    def value(self, key: str) -> Value:
        """The metric, or one that is not known."""
        return self.method.values.get(key, Value())


@dataclass(frozen=True)
class Run:
    """A result folder: its name, what its file says, and its methods."""

    folder: Path
    name: str
    result: Result
    rows: list[Row] = field(default_factory=list)

    @cached_property
    def requests(self) -> set[tuple[str, str, int]]:
        """What its methods were asked for."""
        return {request for row in self.rows for request in row.scores or ()}


@dataclass(frozen=True)
class Sheet:
    """Methods of one run, or of several that can be compared, with the columns that they share."""

    runs: list[Run]

    @property
    def rows(self) -> list[Row]:
        """The methods, in the order of the runs."""
        return [row for run in self.runs for row in run.rows]

    @property
    def columns(self) -> list[Column]:
        """The metrics."""
        return self.runs[0].result.columns

    @property
    def title(self) -> str:
        """The table and its runs."""
        kind = {"control": "Control", "diversity": "Diversity"}[self.runs[0].result.table]
        return f"{kind}: {', '.join(run.name for run in self.runs)}"


def read(folders: Sequence[Path]) -> Sheet:
    """Runs beside each other.

    Raises:
        DataError: a folder is given twice or has no readable result, or two of them cannot stand in one table.
    """
    places = [folder.resolve() for folder in folders]
    if not places:
        raise DataError("no result folder is given; name one or several that an evaluation wrote")
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise DataError(f"{folder} is given more than once; name each result folder once")
    short = [clean(place.name) for place in places]
    results = [_read_result(folder) for folder in folders]
    methods = Counter(method.name for result in results for method in result.methods)
    runs = []
    for folder, name, result in zip(folders, short, results, strict=True):
        unique = str(name if short.count(name) == 1 else clean(str(folder)))
        run = Run(folder, unique, result)
        for method in result.methods:
            label = method.name if methods[method.name] == 1 else f"{method.name} ({unique})"
            scores = _read_scores(folder / "scores" / f"{method.slug}.csv", result.columns)
            run.rows.append(Row(label, folder, method, scores))
        runs.append(run)
    for other in runs[1:]:
        _check_comparable(runs[0], other)
    return Sheet(runs)


def _read_result(folder: Path) -> Result:
    path = folder / "result.json"
    try:
        return Result.model_validate(json.loads(path.read_text("utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder} has no result.json; name a folder that an evaluation wrote") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); put that right or {AGAIN}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{path} is damaged: {place + ': ' if place else ''}{message}; {AGAIN}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}; {AGAIN}") from None


def _read_scores(path: Path, columns: Sequence[Column]) -> dict[tuple[str, str, int], Score] | None:
    """The images of one method by what was asked, or None where there is no such file."""
    line = 0
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            line = 1
            missing = [name for name in REQUEST if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"there is no column {missing[0]!r}")
            keys = [column.key for column in columns if column.key in (reader.fieldnames or ())]
            scores: dict[tuple[str, str, int], Score] = {}
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
    for name in ("picture", "identity", "target"):
        place = PurePosixPath(cells[name])
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(f"{cells[name]!r} leads out of the result folder")
    if cells["found"] not in ("0", "1"):
        raise ValueError(f"found is {cells['found']!r}, not 0 or 1")
    found = cells["found"] == "1"
    values = {key: float(cells[key]) for key in keys if cells[key]} if found else {}
    known = {key: value for key, value in values.items() if math.isfinite(value)}
    return Score(cells["picture"], cells["identity"], cells["target"], int(cells["seed"]), found, known)


def _check_comparable(first: Run, other: Run) -> None:
    """Let runs into one table only where the same was measured on the same pairs.

    Raises:
        DataError: they differ; the message says in what.
    """
    reasons = _differences_of_settings(first.result, other.result)
    for run in (first, other):
        for row in run.rows:
            if row.scores is None:
                reasons.append(f"{row.folder / 'scores' / row.method.slug}.csv is missing")
    if not reasons:
        apart = len(first.requests ^ other.requests)
        if apart:
            reasons.append(f"{apart} pairs of identity, target and seed are in one of them alone")
        elif moved := _other_pictures(first, other):
            reasons.append(f"the data: {moved[0]} shows another image in each ({len(moved)} of such)")
    if reasons:
        raise DataError(
            f"{first.folder} and {other.folder} cannot stand in one table, for they differ: {'; '.join(reasons)}; "
            "evaluate both with the same settings, or write a report of each alone"
        )


def _differences_of_settings(first: Result, other: Result) -> list[str]:
    if first.table != other.table:
        return [f"one is of {first.table}, the other of {other.table}"]
    reasons = []
    for kind in {**first.estimators, **other.estimators}:
        names = [result.estimators.get(kind, "nothing") for result in (first, other)]
        if names[0] != names[1]:
            reasons.append(f"{kind} is estimated by {names[0]} and by {names[1]}")
    measured = [{column.key: (column.unit, column.better) for column in result.columns} for result in (first, other)]
    columns = sorted(key for key in {**measured[0], **measured[1]} if measured[0].get(key) != measured[1].get(key))
    if columns:
        reasons.append(f"the columns {', '.join(columns)} are not the same")
    real = [result.config.get("real") for result in (first, other)]
    if real[0] != real[1]:
        reasons.append(f"the Frechet distances are to {real[0]} and to {real[1]} real images")
    digests = [result.real.get("digest") for result in (first, other)]
    if real[0] == real[1] and None not in digests and digests[0] != digests[1]:
        of = [result.real.get("of") for result in (first, other)]
        reasons.append(f"the Frechet distances are to different real images, of {of[0]} and of {of[1]}")
    if first.seed != other.seed:
        reasons.append(f"the seeds are {first.seed} and {other.seed}")
    return reasons


def _other_pictures(first: Run, other: Run) -> list[str]:
    """People and targets that have one name and two images. What cannot be read is not compared."""
    names = sorted({name for identity, target, _ in first.requests for name in (identity, target) if name})
    return [name for name in names if not _same_picture(first.folder / name, other.folder / name)]


def _same_picture(first: Path, other: Path) -> bool:
    try:
        if first.read_bytes() == other.read_bytes():
            return True
        return np.array_equal(load_photo(first), load_photo(other))
    except (OSError, PhotoError):
        return True
