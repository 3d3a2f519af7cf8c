"""A table of pairs to images, one a row: everything is loaded once, and a run that was stopped goes on."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from facecrafter.errors import ConfigError, FaceCrafterError, OutputError, nearest
from facecrafter.faces.asked import Asked, angles_of, asked_of
from facecrafter.faces.photo_file import PhotoFile
from facecrafter.io import check_free, write_whole
from facecrafter.pipelines.generate import FaceCrafter
from facecrafter.pipelines.images import KEY_IN_NAME, check_sheets, is_there, write_sheets
from facecrafter.pipelines.missing import Job, Summary, make_missing
from facecrafter.pipelines.report import best_key, candidates
from facecrafter.pipelines.settings import Settings
from facecrafter.request import Progress, Request

REQUIRED = ("identity", "target")
ANGLES = ("yaw", "pitch", "roll")
OPTIONAL = ("emotion", "valence", "arousal", "seed", *ANGLES, "expression", "preset")
DELIMITERS = (",", ";", "\t")
RESULTS = "results.csv"
MOST_BYTES = 180  # of an image's name before its key; file systems take names of 255, and ".partial" comes after it
RESULT_COLUMNS = (*REQUIRED, *OPTIONAL, "output", "error")
# What results.csv had for columns when an image was known by its row's number and not by what it depends on.
FORMER_COLUMNS = ("identity", "target", "output", "seed", "error")
# What it had before poses and expressions by numbers.
FEWER_COLUMNS = (*REQUIRED, "emotion", "valence", "arousal", "seed", "output", "error")


@dataclass(frozen=True)
class Numbers:
    """How the poses and expressions of a table's rows are meant, and of how many images the closest is kept; see
    :meth:`FaceCrafter.generate`."""

    relative: bool = False
    keep_expression: bool = False
    presets: Path | None = None
    emotion_through: str | None = None
    strict: bool = False
    best_of: int = 1


@dataclass(frozen=True)
class Pair:
    """One row of the table.

    Attributes:
        values: the row's cells by column, as written; empty where there is none.
        folder: what its paths are relative to.
    """

    values: Mapping[str, str]
    folder: Path

    def photo(self, column: str) -> Path | None:
        """The path in a column; None where it is empty."""
        return self.folder / self.values[column] if self.values[column] else None

    @property
    def seed(self) -> int | None:
        """The row's own seed; None where it names none.

        Raises:
            ConfigError: it is not a whole number from 0 to 2^63 - 1.
        """
        written = self.values["seed"]
        if not written:
            return None
        try:
            seed = int(written)
        except ValueError:
            seed = -1
        if not 0 <= seed < 2**63:
            raise ConfigError(f"the seed '{written}' is not a whole number from 0 to 2^63 - 1")
        return seed

    def decimal(self, column: str) -> float | None:
        """The number in a column, with a point or, as some spreadsheets write it, a comma; None where it is empty.

        Raises:
            ConfigError: it is not a number.
        """
        try:
            return float(self.values[column].replace(",", ".")) if self.values[column] else None
        except ValueError:
            raise ConfigError(f"the {column} '{self.values[column]}' is not a number") from None

    def request(
        self,
        crafter: FaceCrafter,
        settings: Settings,
        read: Callable[[Path], PhotoFile],
        numbers: Numbers = Numbers(),
    ) -> Request:
        """What the row asks for, its seed 0 where it names none.

        Args:
            crafter: the model.
            settings: how to sample.
            read: :meth:`PhotoFile.read`, or the same with a memory.
            numbers: how the row's pose and expression are meant.

        Raises:
            FaceCrafterError: whatever is wrong with the row, but for photos that show no face.
        """
        identity, target = self.photo("identity"), self.photo("target")
        if identity is None:
            raise ConfigError("the row names no identity photo")
        asked = self._asked(numbers)
        through = numbers.emotion_through if self.values["emotion"] or self.values["valence"] else None
        return crafter.request(
            [read(identity)],
            None if target is None else read(target),
            emotion=self.values["emotion"] or None,
            valence=self.decimal("valence"),
            arousal=self.decimal("arousal"),
            seed=self.seed or 0,
            settings=settings,
            asked=asked,
            emotion_through=through,
            strict=numbers.strict,
        )

    def _asked(self, numbers: Numbers) -> Asked | None:
        """The row's pose and expression; None where it has none, and no emotion that could move landmarks of its own.

        Raises:
            ConfigError: they cannot be used.
        """
        by_numbers = any(self.values[column] for column in (*ANGLES, "expression", "preset"))
        emotion = not self.values["target"] and (self.values["emotion"] or self.values["valence"])
        if not by_numbers and not (emotion and (numbers.relative or numbers.keep_expression)):
            return None
        angles = angles_of(*(self.decimal(column) for column in ANGLES))
        expression, preset = self.values["expression"] or None, self.values["preset"] or None
        presets = numbers.presets if preset else None
        return asked_of(angles, expression, preset, numbers.relative, numbers.keep_expression, presets)


@dataclass
class Result:
    """One row of ``results.csv``: a pair, and the job that makes its image, or what is wrong with the row.

    Rows that ask for the same image share a job.
    """

    pair: Pair
    job: Job | None = None
    wrong: str = ""

    @property
    def error(self) -> str:
        """What went wrong; empty where nothing did."""
        return str(self.job.error or "") if self.job else self.wrong

    @property
    def output(self) -> str:
        """The image's file name in the output folder; empty while there is none."""
        return self.job.path.name if self.job and self.job.done else ""

    def row(self) -> list[str]:
        """The cells of ``results.csv``: the table's own with the seed that was used, the image, the error."""
        seed = str(self.job.request.seed) if self.job else self.pair.values["seed"]
        values = {**self.pair.values, "seed": seed, "output": self.output, "error": self.error}
        return [values[column] for column in RESULT_COLUMNS]


def read_pairs(path: Path) -> list[Pair]:
    """Read a table of pairs: CSV with the columns ``identity,target`` and, as wanted, those of :data:`OPTIONAL`.

    Cells are separated by commas, semicolons or tabs, whichever the first line has. Paths are relative to the table's
    own folder. Cells other than ``identity`` may be empty; empty rows are left out.

    Raises:
        ConfigError: there is no such file, it is not CSV in UTF-8, a column is missing, unknown or named twice, a row
            has more cells than there are columns, or there are no rows.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text; save it as CSV UTF-8"
        raise ConfigError(f"the pairs {path} cannot be read ({reason})") from None
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        # Numbered as an editor numbers lines; a quoted cell may span several.
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise ConfigError(f"{path} is not a table in CSV ({error} in line {reader.line_num})") from None
    columns = _without_empty_end(lines[0][1]) if lines else []
    _check_columns(path, columns)
    content = [(number, cells) for number, row in lines[1:] if (cells := _without_empty_end(row))]
    if not content:
        raise ConfigError(f"{path} has no rows")
    for number, cells in content:
        if len(cells) > len(columns):
            raise ConfigError(
                f"{path}, line {number} has {len(cells)} cells for {len(columns)} columns; put a cell that holds a "
                f'{_NAMES[delimiter]} in quotes, as in "happy:0.8,surprise:0.2"'
            )
    empty = dict.fromkeys(REQUIRED + OPTIONAL, "")
    return [Pair({**empty, **dict(zip(columns, cells, strict=False))}, path.parent) for _, cells in content]


_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


def _delimiter(text: str) -> str:
    """What separates the cells: the delimiter that splits the first line into the most columns of known names."""

    def known(delimiter: str) -> int:
        names = [name.strip().strip('"') for name in text.partition("\n")[0].split(delimiter)]
        return sum(name in REQUIRED + OPTIONAL for name in names)

    return max(DELIMITERS, key=known)


def _without_empty_end(cells: Sequence[str]) -> list[str]:
    """Cells without the empty ones at the end, which spreadsheets write for columns that once held something."""
    used = max((number for number, cell in enumerate(cells, 1) if cell), default=0)
    return list(cells[:used])


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    for missing in [name for name in REQUIRED if name not in columns]:
        raise ConfigError(f"{path} has no column '{missing}'; it needs {','.join(REQUIRED)} in its first line")
    for unknown in [name for name in columns if name not in REQUIRED + OPTIONAL]:
        raise ConfigError(f"{path} has a column '{unknown}'{nearest(unknown, REQUIRED + OPTIONAL)}")
    for twice in [name for name in columns if columns.count(name) > 1]:
        raise ConfigError(f"{path} has two columns '{twice}'; leave one of them out")


def generate_pairs(
    crafter: FaceCrafter,
    table: Path,
    out: Path,
    seed: int = 0,
    settings: Settings = Settings(),
    overwrite: bool = False,
    progress: Progress | None = None,
    numbers: Numbers = Numbers(),
) -> Summary:
    """Make one image for each row of a table, ``results.csv`` and contact sheets beside them.

    An image's name holds its key, a hash of all that it depends on (:meth:`FaceCrafter.key`), so a run that is repeated
    makes what is missing and what has changed; images of a former content stay. ``results.csv`` is written after every
    batch; stopping keeps what is done.

    Args:
        crafter: the model.
        table: see :func:`read_pairs`.
        out: the folder for the images.
        seed: another number gives all rows without a seed of their own another one; see :meth:`Request.own_seed`.
        settings: how to sample.
        overwrite: make images again that are there already.
        progress: called with the number of rows' worth of work done.
        numbers: how poses and expressions by numbers are meant.

    Raises:
        ConfigError: the table or a setting cannot be used.
        OutputError: the output cannot be written. What is wrong with one row is written to ``results.csv`` instead.
    """
    pairs = read_pairs(table)
    if not overwrite:
        _check_folder(out)
    results = _results(pairs, crafter, out, seed, settings, numbers)
    jobs = list({id(result.job): result.job for result in results if result.job}.values())
    if not overwrite:
        check_sheets(out, [job.key for job in jobs], others=True)
        for job in jobs:
            job.done = is_there(job.path, job.key)
    there = sum(bool(result.output) for result in results)
    if progress:
        progress(len(results) - sum(not job.done for job in jobs))
    try:
        for _ in make_missing(crafter, jobs, progress, numbers.best_of):
            write_results(out / RESULTS, results)
    finally:
        write_results(out / RESULTS, results)
    write_sheets(out, [job.path for job in jobs if job.done])
    failed = sum(bool(result.error) for result in results)
    return Summary(len(results) - there - failed, there, failed, tuple(jobs))


def _check_folder(out: Path) -> None:
    """Make sure that what an output folder holds is no other program's, nor an earlier version's.

    Raises:
        OutputError: it is.
    """
    path = out / RESULTS
    try:
        columns = tuple(path.read_text(encoding="utf-8").partition("\n")[0].split(","))
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError):
        columns = ()
    if columns == FORMER_COLUMNS:
        raise OutputError(
            f"{out} holds images of an earlier version, which do not say of which photos they were made; choose "
            "another folder for the output, or give --overwrite to make them again beside the old ones"
        )
    if columns not in (RESULT_COLUMNS, FEWER_COLUMNS, ("",)):
        check_free([path])


def _results(
    pairs: Sequence[Pair], crafter: FaceCrafter, out: Path, first: int, settings: Settings, numbers: Numbers
) -> list[Result]:
    """The rows with their jobs, none of them done, or with what is wrong with them."""
    read = cache(PhotoFile.read)
    before: Counter[int] = Counter()
    jobs: dict[str, Job] = {}
    names = {path.stem.rpartition("_")[2]: path.name for path in sorted(out.glob("*.png"))}
    results = []
    for pair in pairs:
        try:
            request = pair.request(crafter, settings, read, numbers)
            candidates(request, numbers.best_of)
        except FaceCrafterError as error:
            results.append(Result(pair, wrong=str(error)))
            continue
        if pair.seed is None:
            content = request.own_seed(first)
            request = replace(request, seed=request.own_seed(first, before[content]))
            before[content] += 1
        key = best_key(crafter.key(request), numbers.best_of)
        if key not in jobs:
            # A photo that got another name is the same photo, and its image keeps the name that it has.
            name = names.get(key[:KEY_IN_NAME], file_name(pair, key))
            jobs[key] = Job(request, key, out / name)
        results.append(Result(pair, jobs[key]))
    return results


def file_name(pair: Pair, key: str) -> str:
    """The name of a row's image: its photos' names, the emotion that it asks for, and the beginning of its key."""
    values = pair.values
    words = [Path(values[column]).stem for column in REQUIRED]
    words += [values["emotion"], *(name[0] + values[name] for name in ("valence", "arousal") if values[name])]
    words += [values["preset"], *(name + values[name] for name in ANGLES if values[name]), values["expression"]]
    described = _cut("_".join(_short(word) for word in words if word), MOST_BYTES)
    return f"{described}_{key[:KEY_IN_NAME]}.png"


def _short(word: str) -> str:
    """A word as part of a file's name, at most 48 bytes of it."""
    return _cut(re.sub(r"[^\w.+-]+", "-", word).strip("-."), 48)


def _cut(word: str, most: int) -> str:
    return word.encode()[:most].decode(errors="ignore")


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write ``results.csv``: of every row that is done, what became of it.

    Raises:
        OutputError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RESULT_COLUMNS)
    writer.writerows(result.row() for result in results if result.output or result.error)
    write_whole(path, text.getvalue().encode())
