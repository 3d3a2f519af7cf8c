"""Reports of the tables: Markdown, CSV, an image of what time buys, and one page with charts and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facecrafter.document import read_document, with_table
from facecrafter.errors import DataError
from facecrafter.evaluation import numbers, result, words
from facecrafter.evaluation.report import charts
from facecrafter.evaluation.report.page import as_html, costs
from facecrafter.evaluation.report.sheet import read
from facecrafter.evaluation.report.text import as_csv, as_markdown, as_section, differences_csv
from facecrafter.io import check_free, write_whole

FILES = ("table.md", "table.csv", "differences.csv", "cost.svg", "report.html")


def write(run: Path, overwrite: bool = False) -> list[Path]:
    """Write :data:`FILES` of one result folder into it.

    Args:
        run: a folder with ``result.json``, ``scores`` and images.
        overwrite: replace files of those names.

    Returns:
        The files.

    Raises:
        DataError: the folder has no readable result.
        OutputError: a file exists, or cannot be written.
    """
    return _write([run], run, overwrite)


def compare(runs: Sequence[Path], out: Path, overwrite: bool = False) -> list[Path]:
    """Write :data:`FILES` with the methods of several runs beside each other into ``out``.

    Differences are from the first method that has scores.

    Args:
        runs: result folders of the same table, pairs, images and estimators.
        out: where the files go.
        overwrite: replace files of those names.

    Returns:
        The files.

    Raises:
        DataError: a folder has no readable result, or the runs cannot stand in one table; the message says why.
        OutputError: a file exists, or cannot be written.
    """
    return _write(runs, out, overwrite)


def publish(runs: Sequence[Path], document: Path, printed: bool = True) -> None:
    """Put each run's table into a Markdown document, in place of what is between two of its lines,
    ``<!-- table NAME -->`` and ``<!-- end of table -->``, where NAME is the run folder's.

    Args:
        runs: result folders, also those of `evaluate numbers`, and of `evaluate model`, of which the table of emotions
            asked in words is shown.
        document: a file that has a place for each of them.
        printed: show the paper's own table too, once for each kind of table.

    Raises:
        DataError: a folder has no readable result, or the document cannot be read or has no place for it.
        OutputError: the document cannot be written.
    """
    text = read_document(document)
    shown: set[str] = set() if printed else {"control", "diversity"}
    for run in runs:
        text = with_table(document, text, run.name, _section(run, shown))
    write_whole(document, text.encode("utf-8"))


def _section(run: Path, shown: set[str]) -> str:
    """What a document gets of a run; the kind of table joins those whose table in the paper was shown."""
    found = result.read(run)
    if isinstance(found, result.TableResult):
        section = as_section(read([run]), found.kind not in shown)
        shown.add(found.kind)
        return section
    if isinstance(found, result.HeldoutResult) and found.words is not None:
        return words.as_markdown(found.words, found.independent)
    if isinstance(found, numbers.NumbersResult):
        return numbers.as_markdown(found)
    if isinstance(found, result.HeldoutResult):
        raise DataError(f"{run} has no emotions in words; measure it again with --words 60, or leave it out")
    raise DataError(f"{run} holds no table; name a folder of `evaluate control`, `diversity`, `numbers` or `model`")


def _write(runs: Sequence[Path], out: Path, overwrite: bool) -> list[Path]:
    """Make everything, and only then write anything."""
    paths = [out / name for name in FILES]
    check_free(paths, overwrite)
    sheet = read(runs)
    encoded = [text.encode("utf-8", "replace") for text in (as_markdown(sheet), as_csv(sheet), differences_csv(sheet))]
    contents = [*encoded, charts.cost(costs(sheet)).encode("utf-8", "replace"), as_html(sheet)]
    for path, content in zip(paths, contents, strict=True):
        write_whole(path, content)
    return paths
