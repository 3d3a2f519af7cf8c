"""A sheet as one page of HTML that needs nothing beside it: charts inside, images inside, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.report import charts, paper, tables
from facecrafter.evaluation.report.cases import Thumbnails, cases, chooser
from facecrafter.evaluation.report.sheet import Row, Sheet
from facecrafter.evaluation.report.tables import Cell, Grid
from facecrafter.evaluation.result import Column
from facecrafter.evaluation.result_folder import Score

if TYPE_CHECKING:
    from jinja2 import Environment

LARGEST = 8 * 2**20  # bytes that a page should have at most
SIDES = (144, 112, 80, 48)  # of its images in pixels: the first that fits
NAMED = 5  # of the images that are missing


def template_environment(package: str | None = None) -> Environment:
    """Templates of pages: those of a package, and those here, which are common to all reports."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    packages = [*([package] if package else []), "facecrafter.evaluation.report"]
    return Environment(
        loader=ChoiceLoader([PackageLoader(one) for one in packages]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def sorting(environment: Environment) -> tuple[str, str]:
    """The script that sorts tables, and the digest by which a page's policy allows it and no other."""
    script = environment.loader.get_source(environment, "sort.js")[0] if environment.loader else ""
    return script, base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def as_html(sheet: Sheet) -> bytes:
    """The page, with images as large as :data:`LARGEST` lets them be."""
    environment = template_environment()
    script, digest = sorting(environment)
    template = environment.get_template("report.html")
    content = b""
    for side in SIDES:
        page = template.render(_content(sheet, Thumbnails(side)), digest=digest, script=script, tables=tables)
        content = page.encode("utf-8", "replace")
        if len(content) <= LARGEST:
            break
    return content


def _content(sheet: Sheet, thumbnails: Thumbnails) -> dict[str, Any]:
    """What the template shows; sections without content are None or empty."""
    table = paper.TABLES[sheet.runs[0].result.kind]
    grids = _cases(sheet, thumbnails)
    return {
        "sheet": sheet,
        "legend": [
            (charts.COLOURS[number % len(charts.COLOURS)], charts.SIGNS[number % len(charts.SIGNS)], row.label)
            for number, row in enumerate(sheet.rows)
        ],
        "methods": tables.methods(sheet),
        "metrics": _metrics(sheet),
        "cost": _costs(sheet),
        "differences": tables.differences(sheet),
        "curves": _curves(sheet),
        "leakage": _leakage(sheet),
        "groups": _groups(sheet),
        "cases": grids,
        "table": table,
        "printed": tables.printed(table),
        "paper_note": paper.NOTE,
        "notices": _notices(sheet, thumbnails),
    }


def _figure(caption: str, svg: str, alt: str) -> dict[str, str]:
    return {"caption": caption, "source": charts.uri(svg), "alt": f"{caption}. {alt}"}


def _notices(sheet: Sheet, thumbnails: Thumbnails) -> list[str]:
    """What a reader of the page has to know is not in it."""
    notices = [
        f"{row.label} has no scores (scores/{row.method.slug}.csv is missing), so no images and no differences here."
        for row in sheet.rows
        if row.scores is None
    ]
    failed = [row.label for row in sheet.rows if row.method.failures == row.method.images > 0]
    notices += [f"No face was found in any image of {label}." for label in failed]
    lacking = thumbnails.lacking
    if lacking:
        names = ", ".join(map(str, lacking[:NAMED])) + (", …" if len(lacking) > NAMED else "")
        notices.append(f"Images that are missing or cannot be read: {len(lacking)} ({names}).")
    return notices


# --- charts -----------------------------------------------------------------------------------------------------------


def _metrics(sheet: Sheet) -> list[dict[str, str]]:
    figures = []
    for column in sheet.columns:
        entries = tuple((row.label, row.value(column.key)) for row in sheet.rows)
        if any(value.value is not None for _, value in entries):
            svg = charts.bars(entries, frozenset(tables.best(sheet, column)))
            figures.append(
                _figure(column.heading, svg, "; ".join(f"{label}: {_number(one)}" for label, one in entries))
            )
    return figures


def costs(sheet: Sheet) -> tuple[tuple[str, tuple[charts.Point, ...]], ...]:
    """The plots of what an image costs: a metric that two methods or more have, of those whose time is known."""
    plots = []
    for column in sheet.columns:
        points = tuple(
            (number, row.label, row.method.seconds_an_image, row.value(column.key))
            for number, row in enumerate(sheet.rows)
            if row.method.seconds_an_image is not None and row.value(column.key).value is not None
        )
        if len(points) > 1:
            plots.append((column.heading, points))
    return tuple(plots)


def _costs(sheet: Sheet) -> list[dict[str, str]]:
    figures = []
    for name, points in costs(sheet):
        alt = "; ".join(f"{label}: {seconds:.3g} s, {_number(value)}" for _, label, seconds, value in points)
        figures.append(_figure(name, charts.cost((("", points),)), alt))
    return figures


def _number(value: Interval) -> str:
    return tables.UNKNOWN if value.value is None else f"{value.value:.4g}"


def _curves(sheet: Sheet) -> list[tuple[dict[str, str], Grid]]:
    """A chart and its numbers for each curve."""
    found = []
    for name in dict.fromkeys(name for row in sheet.rows for name in row.method.curves):
        series = [(number, row) for number, row in enumerate(sheet.rows) if name in row.method.curves]
        lines, named = [], []
        for number, row in series:
            one = row.method.curves[name]
            lines.append((number, tuple(one.asked), tuple(one.perceived), tuple(one.low), tuple(one.high)))
            named.append((row.label, one))
        alt = f"Perceived over asked, for {', '.join(label for label, _ in named)}; the numbers are in the table below"
        found.append((_figure(name, charts.curves(tuple(lines)), alt), tables.curve(name, named)))
    return found


def _groups(sheet: Sheet) -> list[tuple[str, list[dict[str, str]], Grid]]:
    """For each split its name, a chart a metric, and one table of all of them."""
    found = []
    for split in dict.fromkeys(split for row in sheet.rows for split in row.method.groups):
        names, figures = tables.groups(sheet, split), []
        for column in sheet.columns:
            series = tuple(
                tuple(tables.group(row, split, name).values.get(column.key) for name in names) for row in sheet.rows
            )
            if any(number is not None for numbers in series for number in numbers):
                alt = f"By {split} and method; the numbers are in the table below"
                figures.append(_figure(column.heading, charts.dots(tuple(names), series), alt))
        found.append((split, figures, tables.by_group(sheet, split)))
    return found


def _leakage(sheet: Sheet) -> tuple[list[str], list[Grid]] | None:
    """What the matrices are, and one a method, all shaded to the same number."""
    probed = [(row.label, row.method.leakage) for row in sheet.rows if row.method.leakage]
    if not probed:
        return None
    most = max((abs(n) for _, one in probed for line in one.values for n in line if n is not None), default=0.0) or 1.0
    abouts = dict.fromkeys(one.about for _, one in probed if one.about)
    return list(abouts), [tables.matrix(label, one, most) for label, one in probed]


# --- images -----------------------------------------------------------------------------------------------------------


def _cases(sheet: Sheet, thumbnails: Thumbnails) -> list[tuple[str, Grid]]:
    """Best, median and worst images by each metric, and the same requests to the other methods."""
    found = []
    for column in sheet.columns:
        by = chooser(sheet, column)
        if by is not None:
            found.append((column.heading, _case_grid(sheet, column, by, thumbnails)))
    return found


def _case_grid(sheet: Sheet, column: Column, by: Row, thumbnails: Thumbnails) -> Grid:
    chosen = list(enumerate(cases(by, column), 1))
    decimals = tables.column_places(sheet, column)

    def photos(name: str, place: Callable[[Score], str]) -> list[Cell]:
        alts = [f"{name} of case {number}, {kind}" for number, (kind, _) in chosen]
        return [_image(by, place(score), alt, thumbnails) for alt, (_, (_, score)) in zip(alts, chosen, strict=True)]

    caption = f"{column.title}: best, median and worst images of {by.label}, and the same requests to the others"
    grid = Grid(caption, ["", *(f"{number}, {kind}" for number, (kind, _) in chosen)], kind="cases")
    grid.rows.append(("Identity", photos("Identity", lambda score: score.identity)))
    if any(score.target for _, (_, score) in chosen):
        grid.rows.append(("Target", photos("Target", lambda score: score.target)))
    for row in sheet.rows:
        made = [_case(row, number, score, column, decimals, thumbnails) for number, (_, score) in chosen]
        grid.rows.append((row.label, made))
    return grid


def _case(row: Row, case: int, asked: Score, column: Column, decimals: int, thumbnails: Thumbnails) -> Cell:
    """One method's image of a request, with its score under it."""
    score = (row.scores or {}).get(asked.request)
    if score is None:
        return Cell("not made", image="")
    number = tables.shown(score.values.get(column.key), decimals) if score.found else "no face found"
    alt = f"{row.label}, case {case}, seed {asked.seed}, {column.title}: {number}"
    return _image(row, score.image, alt, thumbnails, number)


def _image(row: Row, name: str, alt: str, thumbnails: Thumbnails, small: str = "") -> Cell:
    source = thumbnails(row.folder / name) if name else None
    return Cell("image missing" if name else "none", small, image=source or "", alt=alt)
