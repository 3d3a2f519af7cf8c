"""A sheet as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from facecrafter.evaluation.report import paper, tables
from facecrafter.evaluation.report.sheet import Sheet
from facecrafter.evaluation.report.tables import Cell, Grid

LEAKS = "What was changed alone → what moved, as a share of how far it is between the photos it came from: 1 is all."


def as_markdown(sheet: Sheet) -> str:
    """The table, what its columns are, differences, how it was measured, and the paper's own table."""
    abouts = [f"- {escaped(column.title)}: {escaped(column.about)}" for column in sheet.columns if column.about]
    parts = [f"# {escaped(sheet.title)}", *_main(sheet), "\n".join(abouts), *_notes(sheet)]
    if differences := tables.differences(sheet):
        parts += [f"## Differences from {escaped(sheet.differences[0].against)}", grid_as_markdown(differences)]
        parts += [tables.PAIRED, escaped(tables.unpaired(sheet))]
    parts += ["## How it was measured", _list(sheet.runs[0].result.estimators)]
    for run in sheet.runs:
        config = "\n".join(f"    {line}" for line in tables.settings(run).splitlines())
        parts += [f"### {escaped(run.name)}", _list(tables.how(run)), config]
    return "\n\n".join(part for part in [*parts, *_paper(sheet)] if part) + "\n"


def as_section(sheet: Sheet, printed: bool = True) -> str:
    """What a document shows of a table: the methods, what leaks where that was measured, where the numbers come from,
    and if ``printed`` the paper's own table."""
    parts = [*_main(sheet), *_notes(sheet)]
    if leaks := tables.leaks(sheet):
        parts += [f"{LEAKS}\n\n{grid_as_markdown(leaks)}"]
    for run in sheet.runs:
        how = tables.how(run)
        judges = ", ".join(f"{of} {name}" for of, name in run.result.estimators.items())
        kept = [
            f"{key.lower()} {how[key]}" for key in ("Commit", "Device", "Seed", "Time", "Real images") if key in how
        ]
        parts += [escaped(f"{run.name}: {', '.join(kept)}; {judges}.")]
    return "\n\n".join([*parts, *(_paper(sheet) if printed else [])])


def as_csv(sheet: Sheet) -> str:
    """A line a method and metric: ``method,metric,value,low,high``, empty where a number is not known."""
    lines: list[tuple[object, ...]] = [("method", "metric", "value", "low", "high")]
    for row in sheet.rows:
        values = [(column.key, row.value(column.key)) for column in sheet.columns]
        lines.extend((row.label, key, value.value, value.low, value.high) for key, value in values)
        lines.extend((row.label, key, getattr(row.method, key), None, None) for key in (*tables.FACTS, "images"))
    return _csv(lines)


def differences_csv(sheet: Sheet) -> str:
    """A line a difference: ``method,against,metric,difference,low,high,pairs,identities``."""
    heading = ("method", "against", "metric", "difference", "low", "high", "pairs", "identities")
    lines = [
        (one.method, one.against, one.metric, one.value, one.low, one.high, one.pairs, one.identities)
        for one in sheet.differences
    ]
    return _csv([heading, *lines])


def escaped(text: str) -> str:
    """Text that Markdown takes as it is."""
    return re.sub(r"([\\`*_<>\[\]|#~&])", r"\\\1", text)


def _main(sheet: Sheet) -> list[str]:
    return [grid_as_markdown(tables.methods(sheet)), f"{tables.INTERVALS} {tables.FAILURES}"]


def _notes(sheet: Sheet) -> list[str]:
    return [f"{escaped(row.label)}: {escaped(row.method.note)}" for row in sheet.rows if row.method.note]


def _paper(sheet: Sheet) -> list[str]:
    table = paper.TABLES[sheet.runs[0].result.kind]
    return [f"## {table.title}", paper.NOTE, grid_as_markdown(tables.printed(table)), table.about]


def _list(words: dict[str, str]) -> str:
    return "\n".join(f"- {escaped(key)}: {escaped(value)}" for key, value in words.items())


def grid_as_markdown(grid: Grid) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [[escaped(heading) for heading in grid.headings], ["---", *["---:"] * (len(grid.headings) - 1)]]
    lines += [[escaped(label), *map(_cell, cells)] for label, cells in grid.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    text = escaped(cell.text)
    return f"{f'**{text}**' if cell.strong else text} {cell.small}".strip()


def _csv(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
