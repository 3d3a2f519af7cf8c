"""Reports of images as lines, a table and a chart."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facecrafter.errors import OutputError
from facecrafter.faces.face import load_photo
from facecrafter.io import write_whole
from facecrafter.pipelines.report import DEGREES, Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from facecrafter.pipelines.generate import FaceCrafter
    from facecrafter.pipelines.missing import Job

TABLE, CHART = "report.csv", "report.png"
COLUMNS = ("image", "kind", "name", "asked", "rig", "got", "identity", "identity by")
SHOWN = 24  # images of the chart
SOFTWARE = "FaceCrafter's report"
Reports = Sequence[tuple[str, Report]]


def check_reports(out: Path, overwrite: bool = False) -> None:
    """Make sure that a folder has no other program's files where a report goes; an earlier report is replaced.

    Raises:
        OutputError: it has.
    """
    for name, own in ((TABLE, ",".join(COLUMNS).encode()), (CHART, SOFTWARE.encode())):
        path = out / name
        try:
            start = path.open("rb").read(1000) if path.is_file() else b"" if path.exists() else None
        except OSError:
            start = b""
        if start is not None and own not in start and not overwrite:
            raise OutputError(f"{path} exists already and is no report of this program; give --overwrite")


def measure_all(crafter: FaceCrafter, jobs: Sequence[Job]) -> Iterator[tuple[str, Report]]:
    """The name and the report of each image that is there.

    Raises:
        PhotoError, NoFaceError: an image or a photo has gone.
    """
    for job in jobs:
        if job.done:
            read = crafter.read(job.request)
            yield job.path.name, crafter.measurer.report(read, load_photo(job.path))


def lines(reports: Reports) -> Iterator[str]:
    """A report for the terminal: an image's identity, and a line for each thing that was asked of it."""
    for name, one in reports:
        likeness = "no face was found" if one.identity is None else f"identity {one.identity:.2f} ({one.judge})"
        yield f"{name}: {likeness}"
        for row in one.rows:
            numbers = [f"{word} {_cell(row, getattr(row, word))}" for word in ("asked", "rig", "got")]
            yield f"  {row.name:20} {'  '.join(numbers)}"


def _cell(row: Row, number: float | None) -> str:
    return f"{'-':>6}" if number is None else f"{number:6.1f}" if row.kind == "pose" else f"{number:6.2f}"


def write_report(out: Path, reports: Reports) -> list[Path]:
    """Write ``report.csv`` and ``report.png``, the bar chart of the first images.

    Raises:
        OutputError: they cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, one in reports:
        likeness = ["" if one.identity is None else f"{one.identity:.4f}", one.judge]
        for row in one.rows or [None]:
            values = [] if row is None else [row.asked, row.rig, row.got]
            cells = ["" if value is None else f"{value:.4f}" for value in values] or ["", "", ""]
            writer.writerow([name, *(("", "") if row is None else (row.kind, row.name)), *cells, *likeness])
    write_whole(out / TABLE, text.getvalue().encode())
    write_whole(out / CHART, chart(reports[:SHOWN]))
    return [out / TABLE, out / CHART]


def chart(reports: Reports) -> bytes:
    """A PNG with a panel an image: bars of what was asked, what the landmarks have, and what the image shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(4, max(1, len(reports)))
    lines_of = -(-max(1, len(reports)) // columns)
    most = max((len(one.rows) for _, one in reports), default=1)
    figure = Figure(figsize=(4.2 * columns, lines_of * (1.2 + 0.4 * max(1, most))), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines_of, columns, squeeze=False).ravel()
    for panel in panels[len(reports) :]:
        panel.set_axis_off()
    for panel, (name, one) in zip(panels, reports, strict=False):
        likeness = "no face" if one.identity is None else f"identity {one.identity:.2f}"
        panel.set_title(f"{name}: {likeness}", fontsize=9, parse_math=False)
        _draw(panel, one.rows)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": SOFTWARE})
    return content.getvalue()


def _draw(panel: Axes, rows: Sequence[Row]) -> None:
    """Three bars a row: angles as a share of 45 degrees, the others as they are."""
    places = np.arange(len(rows))
    for number, (word, colour) in enumerate((("asked", "grey"), ("rig", "lightsteelblue"), ("got", "crimson"))):
        values = [_share(row, getattr(row, word)) for row in rows]
        panel.barh(places + 0.27 * (number - 1), values, 0.25, color=colour, label=word)
    panel.axvline(0, color="black", linewidth=1)
    panel.set_yticks(places, [f"{row.name} ({DEGREES:g}°)" if row.kind == "pose" else row.name for row in rows])
    panel.tick_params(labelsize=8)
    panel.set(xlim=(-1, 1) if any(row.kind == "pose" for row in rows) else (0, 1))
    panel.invert_yaxis()


def _share(row: Row, value: float | None) -> float:
    return 0.0 if value is None else value / DEGREES if row.kind == "pose" else value
