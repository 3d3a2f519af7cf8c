"""A sheet as Markdown and as CSV, and the words and numbers that the page shares with them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from facecrafter.evaluation.report import paper
from facecrafter.evaluation.report.sheet import Row, Run, Sheet
from facecrafter.evaluation.result import Column, Difference, Interval, clean

UNKNOWN = "-"
INTERVALS = "In brackets the 95 % bootstrap interval over identities; bold is the best of the column."
FAILURES = "Failures are images in which no face was found; the metrics of faces are over the others."
PAIRED = (
    "Over the pairs that both methods made a face for; the interval is a paired bootstrap over identities, and where "
    "it holds 0 the two are not told apart."
)


def places(numbers: Iterable[float | None]) -> int:
    """How many decimals show numbers of this size."""
    largest = max((abs(number) for number in numbers if number is not None), default=0.0)
    for decimals, limit in ((5, 0.01), (4, 0.1), (3, 10), (2, 100)):
        if 0 < largest < limit:
            return decimals
    return 1 if largest else 3


def shown(number: float | None, decimals: int) -> str:
    """A number for people."""
    return UNKNOWN if number is None else f"{number:.{decimals}f}"


def interval(value: Interval, decimals: int) -> str:
    """The interval in brackets, or nothing."""
    if value.low is None or value.high is None:
        return ""
    return f"[{shown(value.low, decimals)}, {shown(value.high, decimals)}]"


def column_places(sheet: Sheet, column: Column) -> int:
    """The decimals of a column."""
    return places(row.value(column.key).value for row in sheet.rows)


def best(sheet: Sheet, column: Column) -> set[str]:
    """The labels of the best methods of a column; none where there is nothing to choose from."""
    known = {row.label: value for row in sheet.rows if (value := row.value(column.key).value) is not None}
    if column.better is None or len(known) < 2:
        return set()
    top = (min if column.better == "lower" else max)(known.values())
    return {label for label, value in known.items() if value == top}


def facts(sheet: Sheet) -> dict[str, str]:
    """What a table tells of a method besides the metrics: keys and headings."""
    all_facts = {
        "extra_parameters": "Extra parameters ↓",
        "failures": "Failures",
        "seconds_an_image": "Seconds an image",
    }
    keys = {column.key for column in sheet.columns}
    return {key: heading for key, heading in all_facts.items() if key not in keys}


def fact(row: Row, key: str) -> str:
    """One of :func:`facts` for people."""
    method = row.method
    if key == "failures":
        return f"{method.failures:,} of {method.images:,}"
    if key == "extra_parameters":
        return _parameters(method.extra_parameters)
    return UNKNOWN if method.seconds_an_image is None else f"{method.seconds_an_image:.3g}"


def _parameters(count: float | None) -> str:
    if count is None:
        return UNKNOWN
    return f"{count / 1e6:.3g} M" if count >= 1e5 else f"{count:,.0f}"


def how(run: Run) -> dict[str, str]:
    """Where a run's numbers come from: commit first, then the machine, the versions, the seed and the time."""
    told = {"commit": "unknown", **run.result.environment}
    words = {str(clean(key)).capitalize(): _flat(value) for key, value in told.items()}
    words |= {"Seed": str(run.result.seed), "Time": duration(run.result.seconds)}
    if run.result.conditions:
        words["Conditions by"] = _flat(run.result.conditions)
    if run.result.real:
        real = run.result.real
        words["Real images"] = f"{real.images} of {real.of} ({real.digest})"
    if run.result.left_out:
        words["Photos left out"] = f"{len(run.result.left_out)}, in which no face was found"
    return words


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{clean(str(key))} {_flat(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_flat(inner) for inner in value)
    return str(clean(str(value)))


def duration(seconds: float | None) -> str:
    """Seconds for people."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def settings(run: Run) -> str:
    """The run's config as YAML."""
    return yaml.safe_dump(run.result.config, sort_keys=False, allow_unicode=True).rstrip()


def unpaired(sheet: Sheet) -> str:
    """A sentence on the columns that have no paired difference."""
    names = ", ".join(column.title for column in sheet.unpaired)
    return f"Without a paired difference, for they are no means over images: {names}." if names else ""


# --- Markdown ---------------------------------------------------------------------------------------------------------


def as_markdown(sheet: Sheet) -> str:
    """The table, what its columns are, differences, how it was measured, and the paper's own table."""
    parts = [f"# {_md(sheet.title)}", _main(sheet), f"{INTERVALS} {FAILURES}", _about(sheet)]
    parts += [f"{_md(row.label)}: {_md(row.method.note)}" for row in sheet.rows if row.method.note]
    if sheet.differences:
        parts += [f"## Differences from {_md(sheet.differences[0].against)}", _differences(sheet)]
        parts += [PAIRED, _md(unpaired(sheet))]
    estimators = sheet.runs[0].result.estimators
    parts += ["## How it was measured", "\n".join(f"- {_md(of)}: {_md(name)}" for of, name in estimators.items())]
    for run in sheet.runs:
        parts += [f"### {_md(run.name)}", "\n".join(f"- {_md(key)}: {_md(value)}" for key, value in how(run).items())]
        parts += ["\n".join(f"    {line}" for line in settings(run).splitlines())]
    return "\n\n".join(part for part in [*parts, _paper(paper.TABLES[sheet.runs[0].result.kind])] if part) + "\n"


def as_section(sheet: Sheet, printed: bool = True) -> str:
    """What a document shows of a table: the methods, what leaks where that was measured, where the numbers come from,
    and if ``printed`` the paper's own table."""
    parts = [_main(sheet), f"{INTERVALS} {FAILURES}"]
    parts += [f"{_md(row.label)}: {_md(row.method.note)}" for row in sheet.rows if row.method.note]
    parts += [_leaks(sheet)]
    for run in sheet.runs:
        told = how(run)
        judges = ", ".join(f"{of} {name}" for of, name in run.result.estimators.items())
        kept = {key: told[key] for key in ("Commit", "Device", "Seed", "Time", "Real images") if key in told}
        parts += [_md(f"{run.name}: {', '.join(f'{key.lower()} {value}' for key, value in kept.items())}; {judges}.")]
    if printed:
        parts += [_paper(paper.TABLES[sheet.runs[0].result.kind])]
    return "\n\n".join(part for part in parts if part)


def _leaks(sheet: Sheet) -> str:
    """A column a cell of the leakage matrices, a row a method; nothing where nothing was probed."""
    probed = [(row, row.method.leakage) for row in sheet.rows if row.method.leakage]
    if not probed:
        return ""
    first = probed[0][1]
    assert first is not None
    headings = ["Method", *(f"{changed} → {moved}" for changed in first.changed for moved in first.moved)]
    rows = [
        [_md(row.label), *(shown(value, 2) for line in leakage.values for value in line)]
        for row, leakage in probed
        if leakage is not None and (leakage.changed, leakage.moved) == (first.changed, first.moved)
    ]
    about = (
        "What was changed alone → what moved, as a share of how far it is between the photos it came from: 1 is all."
    )
    return f"{about}\n\n{_grid([_md(heading) for heading in headings], rows)}"


def _md(text: str) -> str:
    """Text that Markdown takes as it is."""
    return re.sub(r"([\\`*_<>\[\]|#~&])", r"\\\1", text)


def _grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already; the first column to the left, the others to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _main(sheet: Sheet) -> str:
    bold = {column.key: best(sheet, column) for column in sheet.columns}

    def cell(row: Row, column: Column) -> str:
        value, decimals = row.value(column.key), column_places(sheet, column)
        number = shown(value.value, decimals)
        return f"{f'**{number}**' if row.label in bold[column.key] else number} {interval(value, decimals)}".strip()

    headings = ["Method", *(_md(column.heading) for column in sheet.columns), *facts(sheet).values()]
    rows = [
        [_md(row.label), *(cell(row, column) for column in sheet.columns), *(fact(row, key) for key in facts(sheet))]
        for row in sheet.rows
    ]
    return _grid(headings, rows)


def _about(sheet: Sheet) -> str:
    return "\n".join(f"- {_md(column.title)}: {_md(column.about)}" for column in sheet.columns if column.about)


def _differences(sheet: Sheet) -> str:
    titles = {column.key: _md(column.heading) for column in sheet.columns}
    headings = ["Method", "Metric", "Difference", "95 % interval", "Pairs", "Identities", "Verdict"]
    return _grid(headings, [[_md(one.method), titles[one.metric], *cells(one)] for one in sheet.differences])


def cells(one: Difference) -> list[str]:
    """A difference for people: number, interval, pairs, identities, verdict."""
    decimals = max(3, places([one.value]))
    low_high = (
        UNKNOWN if one.low is None or one.high is None else f"[{one.low:+.{decimals}f}, {one.high:+.{decimals}f}]"
    )
    return [f"{one.value:+.{decimals}f}", low_high, f"{one.pairs:,}", f"{one.identities:,}", one.verdict]


def _paper(table: paper.PaperTable) -> str:
    top = [table.best(number) for number in range(len(table.columns))]
    rows = [
        [_md(name), *(f"**{cell}**" if cell == wins else cell for cell, wins in zip(printed, top, strict=True))]
        for name, *printed in table.rows
    ]
    parts = [f"## {table.title}", paper.NOTE, _grid(["Method", *map(_md, table.headings)], rows), table.about]
    return "\n\n".join(parts)


# --- CSV --------------------------------------------------------------------------------------------------------------


def as_csv(sheet: Sheet) -> str:
    """A line a method and metric: ``method,metric,value,low,high``, empty where a number is not known."""
    lines: list[tuple[object, ...]] = [("method", "metric", "value", "low", "high")]
    keys = {column.key for column in sheet.columns}
    for row in sheet.rows:
        values = [(column.key, row.value(column.key)) for column in sheet.columns]
        lines.extend((row.label, key, value.value, value.low, value.high) for key, value in values)
        extra = {key: getattr(row.method, key) for key in (*facts(sheet), "images") if key not in keys}
        lines.extend((row.label, key, number, None, None) for key, number in extra.items())
    return _csv(lines)


def differences_csv(sheet: Sheet) -> str:
    """A line a difference: ``method,against,metric,difference,low,high,pairs,identities``."""
    heading = ("method", "against", "metric", "difference", "low", "high", "pairs", "identities")
    lines = [
        (one.method, one.against, one.metric, one.value, one.low, one.high, one.pairs, one.identities)
        for one in sheet.differences
    ]
    return _csv([heading, *lines])


def _csv(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
