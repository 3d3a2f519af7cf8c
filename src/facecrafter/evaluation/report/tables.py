"""The tables of a report as cells, which Markdown and the page both show, and the words and numbers in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from facecrafter.evaluation.record import Interval, clean
from facecrafter.evaluation.report.paper import PaperTable
from facecrafter.evaluation.report.sheet import Row, Run, Sheet
from facecrafter.evaluation.result import Column, Curve, Difference, Group, Leakage

UNKNOWN = "-"
# What a table says of a method besides the metrics.
FACTS = {"extra_parameters": "Extra parameters ↓", "failures": "Failures", "seconds_an_image": "Seconds an image"}
INTERVALS = "In brackets the 95 % bootstrap interval over identities; bold is the best of the column."
FAILURES = "Failures are images in which no face was found; the metrics of faces are over the others."
PAIRED = (
    "Over the pairs that both methods made a face for; the interval is a paired bootstrap over identities, and where "
    "it holds 0 the two are not distinguished."
)


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        small: what it says beside that, an interval say.
        sort: what the page sorts by, empty for what is not known; None where there is nothing but the text.
        strong: whether it is the best of its column.
        kind: a class of the page's style.
        share: how deeply it is shaded, in [0, 1].
        image: what it shows, as a data URI; empty where the image is lacking, None where there is none to show.
        alt: the image in words.
    """

    text: str = ""
    small: str = ""
    sort: str | None = None
    strong: bool = False
    kind: str = ""
    share: float | None = None
    image: str | None = None
    alt: str = ""


@dataclass(frozen=True)
class Grid:
    """A table whose lines begin with a label."""

    caption: str
    headings: Sequence[str]
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)
    sortable: bool = False
    kind: str = ""


# --- numbers for people -----------------------------------------------------------------------------------------------


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


def interval(value: Interval | Difference, decimals: int, sign: str = "") -> str:
    """The interval in brackets, or nothing."""
    if value.low is None or value.high is None:
        return ""
    return f"[{value.low:{sign}.{decimals}f}, {value.high:{sign}.{decimals}f}]"


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


def duration(seconds: float | None) -> str:
    """Seconds for people."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _fact(row: Row, key: str) -> str:
    method = row.method
    if key == "failures":
        return f"{method.failures:,} of {method.images:,}"
    if key == "seconds_an_image":
        return UNKNOWN if method.seconds_an_image is None else f"{method.seconds_an_image:.3g}"
    count = method.extra_parameters
    return UNKNOWN if count is None else f"{count / 1e6:.3g} M" if count >= 1e5 else f"{count:,.0f}"


def _sort(number: float | None) -> str:
    """What the page sorts by; unknown numbers come last."""
    return "" if number is None else repr(number)


# --- how it was measured ----------------------------------------------------------------------------------------------


def how(run: Run) -> dict[str, str]:
    """Where a run's numbers come from: commit first, then the machine, the versions, the seed and the time."""
    result = run.result
    made = {"commit": "unknown", **result.environment}
    words = {str(clean(key)).capitalize(): _flat(value) for key, value in made.items()}
    words |= {"Seed": str(result.seed), "Time": duration(result.seconds)}
    if result.conditions:
        words["Conditions by"] = _flat(result.conditions)
    if result.real:
        words["Real images"] = f"{result.real.images} of {result.real.of} ({result.real.digest})"
    if result.left_out:
        words["Photos left out"] = f"{len(result.left_out)}, in which no face was found"
    return words


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{clean(str(key))} {_flat(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_flat(inner) for inner in value)
    return str(clean(str(value)))


def settings(run: Run) -> str:
    """The run's config as YAML."""
    return yaml.safe_dump(run.result.config, sort_keys=False, allow_unicode=True).rstrip()


def unpaired(sheet: Sheet) -> str:
    """A sentence on the columns that have no paired difference."""
    names = ", ".join(column.title for column in sheet.unpaired)
    return f"Without a paired difference, for they are no means over images: {names}." if names else ""


# --- tables -----------------------------------------------------------------------------------------------------------


def methods(sheet: Sheet) -> Grid:
    """Every method's metrics with their intervals, and :data:`FACTS`."""
    tops = {column.key: best(sheet, column) for column in sheet.columns}

    def cell(row: Row, column: Column) -> Cell:
        value, decimals = row.value(column.key), column_places(sheet, column)
        strong = row.label in tops[column.key]
        return Cell(shown(value.value, decimals), interval(value, decimals), _sort(value.value), strong)

    grid = Grid(sheet.title, ["Method", *(column.heading for column in sheet.columns), *FACTS.values()], sortable=True)
    for row in sheet.rows:
        known = [Cell(_fact(row, key), sort=_sort(getattr(row.method, key))) for key in FACTS]
        grid.rows.append((row.label, [*(cell(row, column) for column in sheet.columns), *known]))
    return grid


def differences(sheet: Sheet) -> Grid | None:
    """Every method less the first; None where there is nothing to compare."""
    if not sheet.differences:
        return None
    titles = {column.key: column.heading for column in sheet.columns}
    against = sheet.differences[0].against
    headings = ["Method", "Metric", f"Less {against}", "95 % interval", "Pairs", "Identities", "Verdict"]
    grid = Grid(f"Every method less {against}", headings, sortable=True)
    for one in sheet.differences:
        decimals = max(3, places([one.value]))
        cells = [
            Cell(titles[one.metric]),
            Cell(f"{one.value:+.{decimals}f}", sort=_sort(one.value)),
            Cell(small=interval(one, decimals, "+") or UNKNOWN, sort=_sort(one.low)),
            Cell(f"{one.pairs:,}", sort=_sort(one.pairs)),
            Cell(f"{one.identities:,}", sort=_sort(one.identities)),
            Cell(one.verdict, kind=one.verdict if one.verdict in ("better", "worse") else ""),
        ]
        grid.rows.append((one.method, cells))
    return grid


def curve(name: str, series: Sequence[tuple[str, Curve]]) -> Grid:
    """The numbers of a control curve, method by method."""
    grid = Grid(f"{name}, the numbers", ["Method", "Asked", "Perceived", "Low", "High"])
    for label, one in series:
        for numbers in zip(one.asked, one.perceived, one.low, one.high, strict=True):
            grid.rows.append((label, [Cell(shown(number, 3)) for number in numbers]))
    return grid


def matrix(label: str, leakage: Leakage, most: float) -> Grid:
    """A leakage matrix, shaded from 0 to ``most``."""
    decimals = places(number for numbers in leakage.values for number in numbers)
    over = "" if leakage.probes is None else f", over {leakage.probes:,} probes"
    lost = f", less {leakage.failures:,} without a face" if leakage.failures else ""
    grid = Grid(f"{label}{over}{lost}", ["Changed", *(f"{moved} moved" for moved in leakage.moved)])
    for changed, numbers in zip(leakage.changed, leakage.values, strict=True):
        cells = [
            Cell(
                shown(number, decimals),
                kind="shade asked" if moved == changed else "shade",
                share=abs(number or 0) / most,
            )
            for moved, number in zip(leakage.moved, numbers, strict=True)
        ]
        grid.rows.append((changed, cells))
    return grid


def leaks(sheet: Sheet) -> Grid | None:
    """A column a cell of the leakage matrices, a row a method; None where nothing was probed."""
    probed = [(row.label, row.method.leakage) for row in sheet.rows if row.method.leakage]
    if not probed:
        return None
    first = probed[0][1]
    grid = Grid("Leakage", ["Method", *(f"{changed} → {moved}" for changed in first.changed for moved in first.moved)])
    for label, one in probed:
        if (one.changed, one.moved) == (first.changed, first.moved):
            grid.rows.append((label, [Cell(shown(value, 2)) for line in one.values for value in line]))
    return grid


def groups(sheet: Sheet, split: str) -> list[str]:
    """The groups of a split, in the order of the methods that have them."""
    return list(dict.fromkeys(group for row in sheet.rows for group in row.method.groups.get(split, {})))


def group(row: Row, split: str, name: str) -> Group:
    """A method's group; an empty one where it has none of that name."""
    return row.method.groups.get(split, {}).get(name, Group(count=0))


def by_group(sheet: Sheet, split: str) -> Grid:
    """Every metric of every method by group."""
    headings = [split.capitalize(), "Method", "Images", "Failures", *(column.heading for column in sheet.columns)]
    grid = Grid(f"Metrics by {split}", headings, sortable=True)
    for name in groups(sheet, split):
        for row in sheet.rows:
            one = group(row, split, name)
            lost = UNKNOWN if one.failures is None else f"{one.failures:,}"
            counts = [Cell(f"{one.count:,}", sort=_sort(one.count)), Cell(lost, sort=_sort(one.failures))]
            values = [(one.values.get(column.key), column_places(sheet, column)) for column in sheet.columns]
            cells = [Cell(shown(*value), sort=_sort(value[0])) for value in values]
            grid.rows.append((name, [Cell(row.label, kind="name"), *counts, *cells]))
    return grid


def printed(table: PaperTable) -> Grid:
    """The paper's own table, with the best of each column strong."""
    tops = [table.best(number) for number in range(len(table.columns))]
    grid = Grid(table.title, ["Method", *table.headings])
    for name, *cells in table.rows:
        grid.rows.append((name, [Cell(cell, strong=cell == top) for cell, top in zip(cells, tops, strict=True)]))
    return grid
