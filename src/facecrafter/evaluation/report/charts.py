"""Charts as SVG by matplotlib, the same bytes for the same numbers, with series of different colour, mark and dash."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, cast

from facecrafter.evaluation.record import Interval
from facecrafter.evaluation.report.tables import interval, places, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f7fc1", "#d9730d", "#2e9e5b", "#a566c9", "#d64545", "#16969e", "#d1589a", "#8a8a1f")
MARKS, SIGNS = "os^D", "●■▲◆"  # matplotlib's, and the same as text
DASHES = ("-", "--", ":", "-.")
LETTERS = 30  # of a name that fit beside a chart
INK, QUIET, RULE = "#1b1f24", "#59636e", "#d1d9e0"
ACROSS = "seconds an image"
# Charts are transparent, and where the page is dark their lines and words are light.
DARK = "".join(
    f'[style*="stroke: {light}"] {{ stroke: {dark} !important }} '
    for light, dark in ((INK, "#e6e9ed"), (QUIET, "#9da7b3"), (RULE, "#3a424c"))
)
STYLE = f"@media (prefers-color-scheme: dark) {{ text {{ fill: #e6e9ed !important }} {DARK}}}"
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "facecrafter",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.unicode_minus": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.markersize": 5,
}

Arguments = ParamSpec("Arguments")
Point = tuple[int, str, float, Interval]  # a series' number, its name, how far right it is, and how high
Line = tuple[int, tuple[float, ...], tuple[float | None, ...], tuple[float | None, ...], tuple[float | None, ...]]


def uri(svg: str) -> str:
    """A chart as the source of an image."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode('utf-8', 'replace')).decode()}"


def short(name: str, letters: int = LETTERS) -> str:
    """A name, shortened where it is long."""
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _chart(draw: Callable[Arguments, Figure]) -> Callable[Arguments, str]:
    """A function that draws a figure as one that gives its SVG. A page is laid out up to four times, so charts of the
    same arguments, which are tuples, are kept."""

    @wraps(draw)
    def made(*arguments: Arguments.args, **named: Arguments.kwargs) -> str:
        import matplotlib

        content = io.StringIO()
        with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # letters that matplotlib's own font lacks; the reader's has them
            draw(*arguments, **named).savefig(
                content, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
            )
        svg = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", content.getvalue())
        return svg[svg.index("<svg") :].replace('<style type="text/css">', f'<style type="text/css">{STYLE} ', 1)

    return cast("Callable[Arguments, str]", lru_cache(maxsize=256)(made))


def _figure(
    width: float, height: float, left: float, right: float, bottom: float, top: float = 8
) -> tuple[Figure, Axes]:
    """A figure of one plot; all in points, the last four the margins around it."""
    from matplotlib.figure import Figure

    figure = Figure((width / 72, height / 72))
    return figure, _axes(figure, width, height, left, right, bottom, top)


def _axes(figure: Figure, width: float, height: float, left: float, right: float, bottom: float, top: float) -> Axes:
    box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    axes: Axes = figure.add_axes(box)
    axes.tick_params(length=0)
    return axes


@_chart
def bars(entries: tuple[tuple[str, Interval], ...], best: frozenset[str]) -> Figure:
    """A bar a method from 0, with its interval as a whisker, and the number beside it."""
    figure, axes = _figure(480, 20 * len(entries) + 30, 178, 147, 22)
    decimals = places(value.value for _, value in entries)
    ends = [end for _, value in entries for end in (value.value, value.low, value.high, 0.0) if end is not None]
    if min(ends) == max(ends):  # nothing but zeros
        axes.set_xlim(0, 1)
    for row, (label, value) in enumerate(entries):
        weight = "bold" if label in best else "normal"
        if value.value is not None:
            axes.barh(row, value.value, 0.62, color=COLOURS[row % len(COLOURS)], alpha=0.8, gid=f"bar-{row}")
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [row, row], color=INK, marker="|", linewidth=1.2)
        words = f"{shown(value.value, decimals)} {interval(value, decimals)}"
        axes.text(1.03, row, words, transform=axes.get_yaxis_transform(), va="center", weight=weight)
        axes.text(
            -0.03, row, short(label), transform=axes.get_yaxis_transform(), va="center", ha="right", weight=weight
        )
    axes.axvline(0, color=QUIET, linewidth=1)
    axes.set(ylim=(len(entries) - 0.5, -0.5), yticks=[])
    axes.locator_params(axis="x", nbins=5)
    return figure


@_chart
def curves(lines: tuple[Line, ...]) -> Figure:
    """What was perceived over what was asked, a line a method in its band; the dashed diagonal is perfect control."""
    figure, axes = _figure(345, 270, 42, 10, 36)
    asked = [number for _, xs, *_ in lines for number in xs]
    ends = [min(asked, default=0.0), max(asked, default=1.0)]
    axes.plot(ends, ends, color=QUIET, linestyle="--", linewidth=1)
    for series, xs, *numbers in lines:
        perceived, low, high = ([float("nan") if one is None else one for one in column] for column in numbers)
        style = _look(series)
        axes.plot(xs, perceived, linestyle=DASHES[series // len(COLOURS) % len(DASHES)], **style)
        axes.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="asked", ylabel="perceived")
    return figure


@_chart
def cost(plots: tuple[tuple[str, tuple[Point, ...]], ...]) -> Figure:
    """For each metric a mark a method over the time that an image takes, named, with its interval as a whisker; two
    plots side by side."""
    from matplotlib.figure import Figure

    width, height, columns = 345.0, 240.0, min(2, max(1, len(plots)))
    lines = max(1, -(-len(plots) // columns))
    figure = Figure((columns * width / 72, lines * height / 72))
    for number, (heading, points) in enumerate(plots):
        column, line = number % columns, number // columns
        margins = (width * column + 42, width * (columns - column - 1) + 10)
        below, above = height * (lines - line - 1) + 36, height * line + 22
        axes = _axes(figure, columns * width, lines * height, *margins, below, above)
        axes.set_title(heading, size=9, weight="bold")
        _scatter(axes, points)
    return figure


def _scatter(axes: Axes, points: Sequence[Point]) -> None:
    for series, label, seconds, value in points:
        assert value.value is not None
        if value.low is not None and value.high is not None:
            axes.plot([seconds, seconds], [value.low, value.high], color=INK, linewidth=1.2)
        axes.plot(seconds, value.value, gid=f"mark-{series}", **_look(series))
        before = seconds > max(one for _, _, one, _ in points) / 2
        offset, anchor = ((-6, 5), "right") if before else ((6, 5), "left")
        axes.annotate(short(label), (seconds, value.value), offset, textcoords="offset points", ha=anchor)
    axes.set(xlabel=ACROSS, xlim=(0, max(one for _, _, one, _ in points) * 1.05 or 1))
    axes.margins(y=0.15)


@_chart
def dots(groups: tuple[str, ...], series: tuple[tuple[float | None, ...], ...]) -> Figure:
    """A line a group and on it a mark a method."""
    pitch = max(18, 7 * len(series) + 8)
    figure, axes = _figure(345, pitch * len(groups) + 30, 110, 12, 22)
    for number, values in enumerate(series):
        rows = [row + (number + 1) / (len(series) + 1) - 0.5 for row, one in enumerate(values) if one is not None]
        axes.plot([one for one in values if one is not None], rows, linestyle="", **_look(number))
    axes.set(ylim=(len(groups) - 0.5, -0.5), yticks=range(len(groups)))
    axes.set_yticklabels([short(name, LETTERS * 2 // 3) for name in groups])
    axes.grid(visible=False, axis="y")
    axes.hlines(
        [row + 0.5 for row in range(len(groups) - 1)], 0, 1, RULE, transform=axes.get_yaxis_transform(), linewidth=0.8
    )
    axes.locator_params(axis="x", nbins=5)
    return figure


def _look(series: int) -> dict[str, Any]:
    return {"color": COLOURS[series % len(COLOURS)], "marker": MARKS[series % len(MARKS)]}
