"""Result folders of the tables, checked, and laid beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from facecrafter.errors import DataError, PhotoError
from facecrafter.evaluation import differences, result
from facecrafter.evaluation.record import Interval, clean
from facecrafter.evaluation.result import Column, Difference, MethodResult, TableResult
from facecrafter.evaluation.result_folder import Scores, read_scores, scores_file
from facecrafter.faces.face import load_photo


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
    scores: Scores | None

    def value(self, key: str) -> Interval:
        """The metric, or one that is not known."""
        return self.method.values.get(key, Interval())


@dataclass(frozen=True)
class Run:
    """A result folder: its name, what its file says, and its methods."""

    folder: Path
    name: str
    result: TableResult
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
        return f"{self.runs[0].result.kind.capitalize()}: {', '.join(run.name for run in self.runs)}"

    @cached_property
    def differences(self) -> list[Difference]:
        """From the first method that has scores: a run's own, and over the pairs they share where runs are compared."""
        stored = self.runs[0].result.differences
        if len(self.runs) == 1 and stored is not None:
            return stored
        return differences.paired({row.label: row.scores for row in self.rows}, self.columns)

    @property
    def unpaired(self) -> list[Column]:
        """The columns that have no differences, for they are no means over images."""
        return [column for column in self.columns if column.way is None] if self.differences else []


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
    results = [_read_table(folder) for folder in folders]
    methods = Counter(method.name for one in results for method in one.methods)
    runs = []
    for folder, name, one in zip(folders, short, results, strict=True):
        unique = str(name if short.count(name) == 1 else clean(str(folder)))
        run = Run(folder, unique, one)
        for method in one.methods:
            label = method.name if methods[method.name] == 1 else f"{method.name} ({unique})"
            scores = read_scores(folder, method.slug, one.columns)
            run.rows.append(Row(label, folder, method, scores))
        runs.append(run)
    for other in runs[1:]:
        _check_comparable(runs[0], other)
    return Sheet(runs)


def _read_table(folder: Path) -> TableResult:
    found = result.read(folder)
    if not isinstance(found, TableResult):
        raise DataError(
            f"{folder} holds no table of methods; name a folder that `evaluate control` or `evaluate diversity` wrote"
        )
    return found


def _check_comparable(first: Run, other: Run) -> None:
    """Let runs into one table only where the same was measured on the same pairs.

    Raises:
        DataError: they differ; the message says in what.
    """
    reasons = _differences_of_settings(first.result, other.result)
    for run in (first, other):
        for row in run.rows:
            if row.scores is None:
                reasons.append(f"{scores_file(row.folder, row.method.slug)} is missing")
    if not reasons:
        apart = len(first.requests ^ other.requests)
        if apart:
            reasons.append(f"{apart} pairs of identity, target and seed are in one of them alone")
        elif moved := _other_images(first, other):
            reasons.append(f"the data: {moved[0]} shows another image in each ({len(moved)} of such)")
    if reasons:
        raise DataError(
            f"{first.folder} and {other.folder} cannot stand in one table, for they differ: {'; '.join(reasons)}; "
            "evaluate both with the same settings, or write a report of each alone"
        )


def _differences_of_settings(first: TableResult, other: TableResult) -> list[str]:
    if first.kind != other.kind:
        return [f"one is of {first.kind}, the other of {other.kind}"]
    reasons = []
    for kind in {**first.estimators, **other.estimators}:
        names = [one.estimators.get(kind, "nothing") for one in (first, other)]
        if names[0] != names[1]:
            reasons.append(f"{kind} is estimated by {names[0]} and by {names[1]}")
    measured = [{column.key: (column.unit, column.better) for column in one.columns} for one in (first, other)]
    columns = sorted(key for key in {**measured[0], **measured[1]} if measured[0].get(key) != measured[1].get(key))
    if columns:
        reasons.append(f"the columns {', '.join(columns)} are not the same")
    real = [one.config.get("real") for one in (first, other)]
    if real[0] != real[1]:
        reasons.append(f"the Frechet distances are to {real[0]} and to {real[1]} real images")
    elif first.real and other.real and first.real.digest != other.real.digest:
        of = first.real.of, other.real.of
        reasons.append(f"the Frechet distances are to different real images, of {of[0]} and of {of[1]}")
    if first.seed != other.seed:
        reasons.append(f"the seeds are {first.seed} and {other.seed}")
    return reasons


def _other_images(first: Run, other: Run) -> list[str]:
    """People and targets that have one name and two images. What cannot be read is not compared."""
    names = sorted({name for identity, target, _ in first.requests for name in (identity, target) if name})
    return [name for name in names if not _same_image(first.folder / name, other.folder / name)]


def _same_image(first: Path, other: Path) -> bool:
    try:
        if first.read_bytes() == other.read_bytes():
            return True
        return np.array_equal(load_photo(first), load_photo(other))
    except (OSError, PhotoError):
        return True
