"""Charts of what a method reaches against the time that it takes."""

from __future__ import annotations

from facecrafter.evaluation.report import charts, style
from facecrafter.evaluation.report.markup import Markup, el, join
from facecrafter.evaluation.report.sheet import Sheet
from facecrafter.evaluation.result import Column

ABOUT = (
    "A metric over the seconds that an image took, on the hardware and in the batches named below; whiskers are 95 % "
    "intervals. Seconds of images that came out of the cache are those of the run that made them."
)
ACROSS = "seconds an image"
WIDTH, HEIGHT, GAP = 460, 320, 28  # of a chart, and above each for its heading
COLUMNS = 2


def charts_of(sheet: Sheet) -> list[tuple[Column, Markup]]:
    """A chart for each metric that two methods or more have, of those whose time is known."""
    timed = [(number, row, row.method.seconds_an_image) for number, row in enumerate(sheet.rows)]
    made = []
    for column in sheet.columns:
        points = [
            (number, row.label, seconds, row.value(column.key))
            for number, row, seconds in timed
            if seconds is not None and row.value(column.key).value is not None
        ]
        if len(points) > 1:
            made.append((column, charts.scatter(f"{column.title} over {ACROSS}", points, ACROSS, column.title)))
    return made


def as_svg(sheet: Sheet) -> bytes:
    """All of them as one image that needs nothing beside it."""
    plates = charts_of(sheet)
    lines = -(-len(plates) // COLUMNS)
    placed = []
    for number, (column, chart) in enumerate(plates):
        x, y = number % COLUMNS * WIDTH, number // COLUMNS * (HEIGHT + GAP)
        heading = el("text", column.heading, x=WIDTH / 2, y=GAP - 8, text_anchor="middle", class_="strong")
        inside = Markup(chart.replace("<svg ", f'<svg y="{GAP}" width="{WIDTH}" height="{HEIGHT}" ', 1))
        placed.append(el("g", heading, inside, transform=f"translate({x} {y})"))
    width, height = COLUMNS * WIDTH, lines * (HEIGHT + GAP)
    paper = el("rect", width=width, height=height, style="fill: var(--paper)")
    whole = el(
        "svg",
        el("title", f"{sheet.title}: what an image costs"),
        el("style", Markup(style.CHARTS)),
        paper,
        join(placed),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        class_="chart",
    )
    return f"{whole}\n".encode("utf-8", "replace")
