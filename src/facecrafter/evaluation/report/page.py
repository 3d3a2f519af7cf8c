"""A sheet as one page of HTML that needs nothing beside it: charts inside, images inside, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from facecrafter.evaluation.report import charts, cost, paper, style, tables
from facecrafter.evaluation.report.cases import Thumbnails, cases, chooser
from facecrafter.evaluation.report.markup import Child, Markup, el, join
from facecrafter.evaluation.report.sheet import Row, Run, Sheet
from facecrafter.evaluation.result import Column, Difference, Group, Leakage
from facecrafter.evaluation.results import Score

LARGEST = 8 * 2**20  # bytes that a page should have at most
SIDES = (144, 112, 80, 48)  # of its images in pixels: the first that fits
NAMED = 5  # of the images that are missing


def as_html(sheet: Sheet) -> bytes:
    """The page, with images as large as :data:`LARGEST` lets them be."""
    content = b""
    for side in SIDES:
        content = _page(sheet, Thumbnails(side)).encode("utf-8", "replace")
        if len(content) <= LARGEST:
            break
    return content


def _page(sheet: Sheet, thumbnails: Thumbnails) -> str:
    printed = paper.TABLES[sheet.runs[0].result.kind]
    made = [
        ("table", "Table", _table(sheet)),
        ("metrics", "Metrics", _metrics(sheet)),
        ("cost", "What an image costs", _cost(sheet)),
        ("differences", "Differences", _differences(sheet)),
        ("curves", "Control curves", _curves(sheet)),
        ("leakage", "Leakage", _leakage(sheet)),
        ("groups", "Groups", _groups(sheet)),
        ("cases", "Best, median and worst", _cases(sheet, thumbnails)),
        ("how", "How it was measured", _how(sheet)),
        ("paper", printed.title, _paper(printed)),
    ]
    sections = [(key, title, content) for key, title, content in made if content]
    links = [el("li", el("a", title, href=f"#{key}")) for key, title, _ in sections]
    body = [
        el("a", "To the table", href="#table", class_="skip"),
        el(
            "header",
            el("h1", sheet.title),
            el("nav", el("ul", links), aria_label="Sections"),
            _notices(sheet, thumbnails),
        ),
        el("main", [el("section", el("h2", title, id=key), content) for key, title, content in sections]),
        el("script", Markup(style.SCRIPT)),
    ]
    return f"<!DOCTYPE html>\n{el('html', _head(sheet.title), el('body', body), lang='en')}\n"


def _head(title: str) -> Markup:
    digest = base64.b64encode(hashlib.sha256(style.SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("style", Markup(style.CHARTS + style.PAGE)),
    )


def _notices(sheet: Sheet, thumbnails: Thumbnails) -> Markup:
    """What the reader of the page has to know is not in it."""
    told = [
        f"{row.label} has no scores (scores/{row.method.slug}.csv is missing), so no images and no differences here."
        for row in sheet.rows
        if row.scores is None
    ]
    told += [f"No face was found in any image of {row.label}." for row in sheet.rows if _all_failed(row)]
    lacking = thumbnails.lacking
    if lacking:
        names = ", ".join(map(str, lacking[:NAMED])) + (", …" if len(lacking) > NAMED else "")
        told.append(f"Images that are missing or cannot be read: {len(lacking)} ({names}).")
    return join(el("p", one, class_="notice") for one in told)


def _all_failed(row: Row) -> bool:
    return row.method.failures == row.method.images > 0


# --- sections ---------------------------------------------------------------------------------------------------------


def _table(sheet: Sheet) -> Markup:
    bold = {column.key: tables.best(sheet, column) for column in sheet.columns}

    def cell(row: Row, column: Column) -> Markup:
        value, decimals = row.value(column.key), tables.column_places(sheet, column)
        number: Child = tables.shown(value.value, decimals)
        if row.label in bold[column.key]:
            number = el("strong", number)
        return el("td", number, el("small", tables.interval(value, decimals)), data_value=_sortable(value.value))

    def fact(row: Row, key: str) -> Markup:
        return el("td", tables.fact(row, key), data_value=_sortable(getattr(row.method, key)))

    keys = tables.facts(sheet)
    rows = [[*(cell(row, column) for column in sheet.columns), *(fact(row, key) for key in keys)] for row in sheet.rows]
    headings = ["Method", *(column.heading for column in sheet.columns), *keys.values()]
    notes = [(row.label, row.method.note) for row in sheet.rows if row.method.note]
    return join(
        [
            _grid(sheet.title, headings, [row.label for row in sheet.rows], rows, "sortable"),
            el("p", f"{tables.INTERVALS} {tables.FAILURES}", class_="quiet"),
            _terms([(column.title, column.about) for column in sheet.columns if column.about]),
            _terms(notes),
        ]
    )


def _metrics(sheet: Sheet) -> Markup | None:
    plates = []
    for column in sheet.columns:
        values = [(row.label, row.value(column.key)) for row in sheet.rows]
        if any(value.value is not None for _, value in values):
            chart = charts.bars(column.title, values, tables.best(sheet, column))
            plates.append(_figure(chart, column.heading))
    return el("div", plates, class_="plates") if plates else None


def _cost(sheet: Sheet) -> Markup | None:
    plates = [_figure(chart, column.heading) for column, chart in cost.charts_of(sheet)]
    return join([el("p", cost.ABOUT), el("div", plates, class_="plates")]) if plates else None


def _differences(sheet: Sheet) -> Markup | None:
    differences, titles = sheet.differences, {column.key: column.heading for column in sheet.columns}
    if not differences:
        return None
    against = differences[0].against
    rows = [
        [
            el("td", titles[one.metric]),
            *(el("td", word, data_value=_sortable(number)) for word, number in _numbers(one)),
            el("td", one.verdict, class_=one.verdict if one.verdict in ("better", "worse") else None),
        ]
        for one in differences
    ]
    headings = ["Method", "Metric", f"Less {against}", "95 % interval", "Pairs", "Identities", "Verdict"]
    grid = _grid(f"Every method less {against}", headings, [one.method for one in differences], rows, "sortable")
    return join([grid, el("p", tables.PAIRED, class_="quiet"), el("p", tables.unpaired(sheet), class_="quiet")])


def _numbers(one: Difference) -> Iterable[tuple[str, float | None]]:
    return zip(tables.cells(one)[:4], (one.value, one.low, one.pairs, one.identities), strict=True)


def _curves(sheet: Sheet) -> Markup | None:
    names = list(dict.fromkeys(name for row in sheet.rows for name in row.method.curves))
    if not names:
        return None
    plates = [_curve(sheet, name) for name in names]
    about = "What is perceived where something was asked; bands are 95 % intervals, the dashed line is perfect control."
    return join([el("p", about), _legend(sheet), el("div", plates, class_="plates")])


def _curve(sheet: Sheet, name: str) -> Markup:
    """A chart, and its numbers."""
    series = [
        (number, row.label, row.method.curves[name])
        for number, row in enumerate(sheet.rows)
        if name in row.method.curves
    ]
    labels, rows = [], []
    for _, label, curve in series:
        for numbers in zip(curve.asked, curve.perceived, curve.low, curve.high, strict=True):
            labels.append(label)
            rows.append([el("td", tables.shown(number, 3)) for number in numbers])
    grid = _grid(f"{name}, the numbers", ["Method", "Asked", "Perceived", "Low", "High"], labels, rows)
    return el("div", _figure(charts.curves(name, series), name), el("details", el("summary", "Numbers"), grid))


def _leakage(sheet: Sheet) -> Markup | None:
    told = [(row.label, row.method.leakage) for row in sheet.rows if row.method.leakage]
    if not told:
        return None
    most = max((abs(n) for _, one in told for numbers in one.values for n in numbers if n is not None), default=0.0)
    about = dict.fromkeys(one.about for _, one in told if one.about)
    words = "A row is what was changed, a column how far it moved; framed is what was meant to move."
    plates = [_matrix(label, one, most or 1.0) for label, one in told]
    return join([el("p", words), [el("p", one) for one in about], el("div", plates, class_="plates")])


def _matrix(label: str, told: Leakage, most: float) -> Markup:
    """Shaded from 0 to ``most``, which is the same for all methods."""
    decimals = tables.places(number for numbers in told.values for number in numbers)
    rows = []
    for changed, numbers in zip(told.changed, told.values, strict=True):
        cells = []
        for moved, number in zip(told.moved, numbers, strict=True):
            share = abs(number or 0.0) / most
            kind = "shade asked" if moved == changed else "shade"
            cells.append(el("td", tables.shown(number, decimals), class_=kind, style=f"--share:{share:.3f}"))
        rows.append(cells)
    over = "" if told.probes is None else f", over {told.probes:,} probes"
    lost = f", less {told.failures:,} without a face" if told.failures else ""
    return _grid(f"{label}{over}{lost}", ["Changed", *(f"{moved} moved" for moved in told.moved)], told.changed, rows)


def _groups(sheet: Sheet) -> Markup | None:
    splits = list(dict.fromkeys(split for row in sheet.rows for split in row.method.groups))
    if not splits:
        return None
    return join([_legend(sheet), [join([el("h3", f"By {split}"), _split(sheet, split)]) for split in splits]])


def _split(sheet: Sheet, split: str) -> Markup:
    """A chart a metric, and one table of all of them."""
    groups = list(dict.fromkeys(group for row in sheet.rows for group in row.method.groups.get(split, {})))

    def told(row: Row, group: str) -> Group:
        return row.method.groups.get(split, {}).get(group, Group(count=0))

    plates = []
    for column in sheet.columns:
        series = [[told(row, group).values.get(column.key) for group in groups] for row in sheet.rows]
        if any(number is not None for numbers in series for number in numbers):
            plates.append(_figure(charts.dots(f"{column.title} by {split}", groups, series), column.heading))
    labels, rows = [], []
    for group in groups:
        for row in sheet.rows:
            one = told(row, group)
            numbers = [(one.values.get(c.key), tables.column_places(sheet, c)) for c in sheet.columns]
            labels.append(group)
            cells = [el("td", tables.shown(*number), data_value=_sortable(number[0])) for number in numbers]
            lost = tables.UNKNOWN if one.failures is None else f"{one.failures:,}"
            counts = [
                el("td", f"{one.count:,}", data_value=one.count),
                el("td", lost, data_value=_sortable(one.failures)),
            ]
            rows.append([el("td", row.label, class_="name"), *counts, *cells])
    headings = [split.capitalize(), "Method", "Images", "Failures", *(column.heading for column in sheet.columns)]
    grid = _grid(f"Metrics by {split}", headings, labels, rows, "sortable")
    return join([el("div", plates, class_="plates"), grid])


def _cases(sheet: Sheet, thumbnails: Thumbnails) -> Markup | None:
    grids = []
    for column in sheet.columns:
        by = chooser(sheet, column)
        if by is not None:
            grids.append(join([el("h3", column.heading), _case_grid(sheet, column, by, thumbnails)]))
    if not grids:
        return None
    about = (
        "In a column all methods were asked the same: one person, one target, one seed. Images in which no face was "
        "found have no score and are not chosen."
    )
    return join([el("p", about), grids])


def _case_grid(sheet: Sheet, column: Column, by: Row, thumbnails: Thumbnails) -> Markup:
    chosen = cases(by, column)
    decimals = tables.column_places(sheet, column)

    def subjects(name: str, path_of: Callable[[Score], str]) -> list[Markup]:
        return [
            el("td", _picture(by.folder, path_of(score), f"{name} of case {number}, {kind}", thumbnails))
            for number, (kind, score) in enumerate(chosen, 1)
        ]

    labels, rows = ["Identity"], [subjects("Identity", lambda score: score.identity)]
    if any(score.target for _, score in chosen):
        labels.append("Target")
        rows.append(subjects("Target", lambda score: score.target))
    for row in sheet.rows:
        labels.append(row.label)
        rows.append(
            [_case(row, number, score, column, decimals, thumbnails) for number, (_, score) in enumerate(chosen, 1)]
        )
    caption = f"{column.title}: best, median and worst images of {by.label}, and the same requests to the others"
    return _grid(
        caption, ["", *(f"{number}, {kind}" for number, (kind, _) in enumerate(chosen, 1))], labels, rows, "cases"
    )


def _case(row: Row, case: int, asked: Score, column: Column, decimals: int, thumbnails: Thumbnails) -> Markup:
    """One method's image of a request, with its score under it."""
    score = (row.scores or {}).get(asked.request)
    if score is None:
        return el("td", el("span", "not made", class_="lacking"))
    number = tables.shown(score.values.get(column.key), decimals) if score.found else "no face found"
    alt = f"{row.label}, case {case}, seed {asked.seed}, {column.title}: {number}"
    return el("td", _picture(row.folder, score.image, alt, thumbnails), el("small", number))


def _picture(folder: Path, name: str, alt: str, thumbnails: Thumbnails) -> Markup:
    source = thumbnails(folder / name) if name else None
    if source is None:
        return el("span", "image missing" if name else "none", class_="lacking")
    return el("img", src=source, alt=alt)


def _how(sheet: Sheet) -> Markup:
    result = sheet.runs[0].result
    estimators = _terms(list(result.estimators.items()))
    return join([el("h3", "Estimators"), estimators, [_run(run) for run in sheet.runs]])


def _run(run: Run) -> Markup:
    methods = ", ".join(row.label for row in run.rows)
    config = el("pre", tables.settings(run), tabindex=0, role="region", aria_label=f"Config of {run.name}")
    return join([el("h3", run.name), _terms([*tables.how(run).items(), ("Methods", methods)]), config])


def _paper(printed: paper.PaperTable) -> Markup:
    top = [printed.best(number) for number in range(len(printed.columns))]
    rows = [
        [el("td", el("strong", cell) if cell == wins else cell) for cell, wins in zip(cells, top, strict=True)]
        for _, *cells in printed.rows
    ]
    grid = _grid(printed.title, ["Method", *printed.headings], [name for name, *_ in printed.rows], rows)
    return join([el("p", paper.NOTE, class_="notice"), grid, el("p", printed.about, class_="quiet")])


# --- pieces -----------------------------------------------------------------------------------------------------------


def _grid(
    caption: str,
    headings: Sequence[str],
    labels: Sequence[str],
    rows: Sequence[Sequence[Child]],
    kind: str | None = None,
) -> Markup:
    """A table whose lines begin with a label, in a frame that can be scrolled with the keyboard."""
    head = el("tr", [el("th", heading, scope="col") if heading else el("td") for heading in headings])
    lines = [el("tr", el("th", label, scope="row"), cells) for label, cells in zip(labels, rows, strict=True)]
    table = el("table", el("caption", caption), el("thead", head), el("tbody", lines), class_=kind)
    return el("div", table, class_="wide", tabindex=0, role="region", aria_label=caption)


def _figure(chart: Markup, caption: str) -> Markup:
    return el("figure", el("figcaption", caption), chart)


def _legend(sheet: Sheet) -> Markup:
    return charts.legend([row.label for row in sheet.rows])


def _terms(pairs: Sequence[tuple[str, str]]) -> Markup | None:
    """Words and what is said of them."""
    return el("dl", [[el("dt", word), el("dd", said)] for word, said in pairs]) if pairs else None


def _sortable(number: float | None) -> str:
    """What a script sorts by; unknown numbers come last."""
    return "" if number is None else repr(number)
