"""A table of pairs to pictures, one a row: everything is loaded once, and a run that was stopped goes on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from facecrafter.errors import ConfigError, FaceCrafterError
from facecrafter.files import write_whole
from facecrafter.sampling.output import save
from facecrafter.sampling.pipeline import Conditions, FaceCrafter, Settings

REQUIRED = ("identity", "target")
OPTIONAL = ("emotion", "valence", "arousal", "seed")
RESULTS = "results.csv"
RESULT_COLUMNS = ("identity", "target", "output", "seed", "error")


@dataclass(frozen=True)
class Pair:
    """One row of the table.

    Attributes:
        values: the row's cells by column, as written; empty where there is none.
        folder: what its paths are relative to.
        number: of the row, from 0.
    """

    values: Mapping[str, str]
    folder: Path
    number: int

    def photo(self, column: str) -> Path | None:
        """The path in a column; None where it is empty."""
        return self.folder / self.values[column] if self.values[column] else None

    def seed(self, first: int) -> int:
        """The row's seed: its own, or ``first`` plus its number.

        Raises:
            ConfigError: it is not a whole number from 0 to 2^63 - 1.
        """
        written = self.values["seed"]
        if not written:
            return first + self.number
        try:
            seed = int(written)
        except ValueError:
            seed = -1
        if not 0 <= seed < 2**63:
            raise ConfigError(f"the seed '{written}' is not a whole number from 0 to 2^63 - 1")
        return seed

    def decimal(self, column: str) -> float | None:
        """The number in a column; None where it is empty.

        Raises:
            ConfigError: it is not a number.
        """
        try:
            return float(self.values[column]) if self.values[column] else None
        except ValueError:
            raise ConfigError(f"the {column} '{self.values[column]}' is not a number") from None

    def conditions(self, crafter: FaceCrafter) -> Conditions:
        """Read the row's photos.

        Raises:
            FaceCrafterError: whatever is wrong with the row.
        """
        identity = self.photo("identity")
        if identity is None:
            raise ConfigError("the row names no identity photo")
        valence, arousal = self.decimal("valence"), self.decimal("arousal")
        emotion = self.values["emotion"] or None
        return crafter.conditions(identity, self.photo("target"), emotion=emotion, valence=valence, arousal=arousal)


@dataclass
class Result:
    """One row of ``results.csv``: a pair, and its picture's file name in the output folder or what went wrong.

    ``conditions`` are those of a picture that is yet to be made.
    """

    pair: Pair
    output: str = ""
    seed: str = ""
    error: str = ""
    conditions: Conditions | None = None

    @property
    def finished(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.output or self.error)


@dataclass(frozen=True)
class Summary:
    """What a run did: rows whose pictures it made, that were there already, and that failed."""

    made: int
    there: int
    failed: int


def read_pairs(path: Path) -> list[Pair]:
    """Read a table of pairs: CSV with the columns ``identity,target`` and, as wanted, ``emotion,valence,arousal,seed``.

    Paths in it are relative to its own folder. Cells other than ``identity`` may be empty.

    Raises:
        ConfigError: there is no such file, it is not CSV in UTF-8, a column is missing or unknown, or it has no rows.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"the pairs {path} cannot be read ({reason})") from None
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = [name.strip() for name in rows.fieldnames or []]
        rows.fieldnames = columns
        content = list(rows)
    except csv.Error as error:
        raise ConfigError(f"{path} is not a table in CSV ({error})") from None
    for missing in [name for name in REQUIRED if name not in columns]:
        raise ConfigError(f"{path} has no column '{missing}'; it needs {','.join(REQUIRED)} in its first line")
    for unknown in [name for name in columns if name not in REQUIRED + OPTIONAL]:
        raise ConfigError(f"{path} has a column '{unknown}'; there are {', '.join(REQUIRED + OPTIONAL)}")
    if not content:
        raise ConfigError(f"{path} has no rows")
    names = REQUIRED + OPTIONAL
    return [
        Pair({name: (row.get(name) or "").strip() for name in names}, path.parent, number)
        for number, row in enumerate(content)
    ]


def generate_pairs(
    crafter: FaceCrafter,
    table: Path,
    out: Path,
    seed: int = 0,
    settings: Settings = Settings(),
    overwrite: bool = False,
    progress: Callable[[float], object] | None = None,
) -> Summary:
    """Make one picture for each row of a table, and ``results.csv`` beside them.

    A picture's name holds a hash of its row and the settings, so a run that is repeated makes what is missing, and what
    has changed. ``results.csv`` is written after every batch; stopping keeps what is done.

    Args:
        crafter: the model.
        table: see :func:`read_pairs`.
        out: the folder for the pictures.
        seed: of the first row; a row without a seed of its own takes this plus its number.
        settings: how to sample.
        overwrite: make pictures anew that are there already.
        progress: called with the number of rows' worth of work done.

    Raises:
        ConfigError: the table or a setting cannot be used.
        OutputError: the output cannot be written. What is wrong with one row is told in ``results.csv`` instead.
    """
    results = [Result(pair) for pair in read_pairs(table)]
    for result in results:
        _look(result, crafter, out, seed, settings, overwrite)
    there = sum(bool(result.output) for result in results)
    waiting = [result for result in results if not result.finished]
    if progress:
        progress(len(results) - len(waiting))
    for first in range(0, len(waiting), settings.batch_size):
        batch = waiting[first : first + settings.batch_size]
        for result in batch:
            _read(result, crafter)
        missing = [result for result in batch if result.conditions is not None]
        if progress:
            progress(len(batch) - len(missing))
        conditions = [result.conditions for result in missing if result.conditions is not None]
        try:
            seeds = [int(result.seed) for result in missing]
            for index, picture in crafter.render(conditions, seeds, settings, progress):
                name = file_name(missing[index].pair, seeds[index], crafter, settings)
                save(picture, out / name, overwrite=True)
                missing[index].output, missing[index].conditions = name, None
        finally:
            write_results(out / RESULTS, results)
    if not waiting:
        write_results(out / RESULTS, results)
    failed = sum(bool(result.error) for result in results)
    return Summary(len(results) - there - failed, there, failed)


def _look(
    result: Result, crafter: FaceCrafter, out: Path, first_seed: int, settings: Settings, overwrite: bool
) -> None:
    """Find a row's picture of an earlier run, or what is wrong with its seed."""
    try:
        seed = result.pair.seed(first_seed)
    except ConfigError as error:
        result.error = str(error)
        return
    result.seed = str(seed)
    name = file_name(result.pair, seed, crafter, settings)
    if not overwrite and (out / name).is_file():
        result.output = name


def _read(result: Result, crafter: FaceCrafter) -> None:
    """Read a row's conditions, or find what is wrong with it."""
    try:
        result.conditions = result.pair.conditions(crafter)
    except FaceCrafterError as error:
        result.error = str(error)


def file_name(pair: Pair, seed: int, crafter: FaceCrafter, settings: Settings) -> str:
    """The name of a row's picture: its photos' names, and a hash of all that makes the picture what it is."""
    told = {**pair.values, "seed": seed, "model": crafter.digest, "choose": crafter.choose}
    told.update(asdict(settings.filled(crafter.model.scale)))
    told.pop("batch_size")
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]
    stems = [Path(pair.values[column]).stem[:40] for column in REQUIRED if pair.values[column]]
    return "_".join([*stems, digest]) + ".png"


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write ``results.csv``: of every row that is done, what became of it.

    Raises:
        OutputError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RESULT_COLUMNS)
    for result in results:
        if result.finished:
            values = result.pair.values
            writer.writerow([values["identity"], values["target"], result.output, result.seed, result.error])
    write_whole(path, text.getvalue().encode())
