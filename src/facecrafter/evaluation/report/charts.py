"""Charts as SVG that a page can hold, each with its series told apart by colour, mark and dash."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from facecrafter.evaluation.report.markup import Markup, el
from facecrafter.evaluation.report.tables import interval, places, shown
from facecrafter.evaluation.result import Curve, Interval

COLOURS = 8  # of the page's style: c0 to c7
DASHES = ("none", "6 3", "2 3", "8 3 2 3")
MARKS = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "M-4 -4h8v8h-8z", "M0 -5L5 4H-5z", "M0 -5L5 0L0 5L-5 0z")
LETTERS = 30  # of a name that fit beside a chart
FONT = 12

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Scale:
    """Numbers from ``low`` to ``high`` to pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, number: float) -> float:
        """A number's place."""
        return self.start + (number - self.low) / (self.high - self.low) * (self.end - self.start)

    @classmethod
    def over(cls, numbers: Sequence[float], start: float, end: float) -> Scale:
        """One that holds all the numbers, and is never empty."""
        low, high = min(numbers, default=0.0), max(numbers, default=1.0)
        return cls(low, high if high > low else low + 1, start, end)

    def ticks(self) -> list[float]:
        """About five round numbers inside."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def mark(series: int, x: float, y: float) -> Markup:
    """A series' mark at a point."""
    return el(
        "path",
        d=MARKS[series % len(MARKS)],
        class_=f"mark c{series % COLOURS}",
        transform=f"translate({x:.1f} {y:.1f})",
    )


def legend(labels: Sequence[str]) -> Markup:
    """Which mark is which series, as a list."""
    items = []
    for series, label in enumerate(labels):
        swatch = el(
            "svg",
            _line([(0, 8), (28, 8)], series),
            mark(series, 14, 8),
            viewBox="0 0 28 16",
            width=28,
            height=16,
            aria_hidden="true",
        )
        items.append(el("li", swatch, el("span", label)))
    return el("ul", items, class_="legend")


def bars(name: str, entries: Sequence[tuple[str, Interval]], best: set[str]) -> Markup:
    """A bar a method from 0, with its interval as a whisker, and the number beside it."""
    left, right, width, pitch, top = 210, 170, 640, 26, 6
    numbers = [end for _, value in entries for end in (value.value, value.low, value.high) if end is not None]
    scale = Scale.over([0.0, *numbers], left, width - right)
    decimals = places(value.value for _, value in entries)
    bottom = top + pitch * len(entries)
    parts: list[Markup] = [_upright(scale, top, bottom)]
    for series, (label, value) in enumerate(entries):
        y = top + pitch * series + pitch / 2
        parts.append(_label(label, left - 8, y, label in best))
        if value.value is not None:
            x, width_of = min(scale(0), scale(value.value)), abs(scale(value.value) - scale(0))
            parts.append(
                el(
                    "rect",
                    x=f"{x:.1f}",
                    y=f"{y - 8:.1f}",
                    width=f"{width_of:.1f}",
                    height=16,
                    class_=f"bar c{series % COLOURS}",
                )
            )
        if value.low is not None and value.high is not None:
            parts.append(_whisker(scale(value.low), scale(value.high), y))
        words = f"{shown(value.value, decimals)} {interval(value, decimals)}".strip()
        parts.append(_text(words, width - right + 10, y, "start", label in best))
    described = "; ".join(f"{label}: {shown(value.value, decimals)}" for label, value in entries)
    return _svg(f"{name}. {described}", width, bottom + 24, parts)


def curves(name: str, series: Sequence[tuple[int, str, Curve]]) -> Markup:
    """What was perceived over what was asked, a line a method in its band; the dashed diagonal is perfect control."""
    width, height, left, right, top, bottom = 460, 360, 48, 12, 10, 44
    asked = [number for _, _, curve in series for number in curve.asked]
    seen = [
        n for _, _, curve in series for ends in (curve.perceived, curve.low, curve.high) for n in ends if n is not None
    ]
    across = Scale.over(asked, left, width - right)
    up = Scale.over([*asked, *seen], height - bottom, top)
    ideal = [(across(end), up(end)) for end in (min(asked), max(asked))] if asked else []
    parts = [_upright(across, top, height - bottom), _level(up, left, width - right), _path(ideal, "ideal")]
    for number, _, curve in series:
        parts.extend(_band(curve, across, up, number))
        for run in _runs([(x, y) for x, y in zip(curve.asked, curve.perceived, strict=True)]):
            points = [(across(x), up(y)) for x, y in run]
            parts.append(_line(points, number))
            parts.extend(mark(number, *point) for point in points)
    parts.append(_text("asked", (left + width - right) / 2, height - 8, "middle"))
    turned = f"translate(12 {(top + height - bottom) / 2:.1f}) rotate(-90)"
    parts.append(el("text", "perceived", transform=turned, text_anchor="middle", class_="axis"))
    described = ", ".join(label for _, label, _ in series)
    return _svg(
        f"{name}: perceived over asked, for {described}; the numbers are in the table below", width, height, parts
    )


def scatter(name: str, points: Sequence[tuple[int, str, float, Interval]], across: str, up: str) -> Markup:
    """A mark a method where two of its numbers meet, named, with its interval as a whisker.

    Args:
        name: what the chart is of.
        points: a series' number, its name, how far right it is, and how high.
        across, up: what the axes say; the one to the right begins at 0.
    """
    width, height, left, right, top, bottom = 460, 320, 56, 12, 10, 44
    ends = [end for *_, value in points for end in (value.value, value.low, value.high) if end is not None]
    right_of = Scale.over([0.0, *(x * 1.05 for _, _, x, _ in points)], left, width - right)
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.08 * (high - low)
    above = Scale.over([low - margin, high + margin], height - bottom, top)
    parts = [_upright(right_of, top, height - bottom), _level(above, left, width - right)]
    shown_: list[str] = []
    for number, label, x, value in points:
        if value.value is None:
            continue
        place = right_of(x), above(value.value)
        if value.low is not None and value.high is not None:
            d = f"M{place[0]:.1f} {above(value.low):.1f}V{above(value.high):.1f}"
            parts.append(el("path", d=d, class_="whisker"))
        parts.append(mark(number, *place))
        before = place[0] > (left + width - right) / 2
        aside = place[0] + (-8 if before else 8), place[1] - 8
        parts.append(el("g", el("title", label), _text(_short(label, LETTERS), *aside, "end" if before else "start")))
        shown_.append(f"{label}: {x:.3g}, {value.value:.4g}")
    parts.append(_text(across, (left + width - right) / 2, height - 8, "middle"))
    turned = f"translate(12 {(top + height - bottom) / 2:.1f}) rotate(-90)"
    parts.append(el("text", up, transform=turned, text_anchor="middle", class_="axis"))
    return _svg(f"{name}. {'; '.join(shown_)}", width, height, parts)


def dots(name: str, groups: Sequence[str], series: Sequence[Sequence[float | None]]) -> Markup:
    """A line a group and on it a mark a method."""
    left, width, top = 150, 460, 6
    pitch = max(24, 9 * len(series) + 10)
    bottom = top + pitch * len(groups)
    scale = Scale.over([number for numbers in series for number in numbers if number is not None], left + 8, width - 16)
    parts = [_upright(scale, top, bottom)]
    for line, group in enumerate(groups):
        y = top + pitch * line
        parts.append(_label(group, left - 8, y + pitch / 2, False, LETTERS * 2 // 3))
        parts.append(_path([(left, y + pitch), (width - 8, y + pitch)], "grid"))
        for number, values in enumerate(series):
            value = values[line]
            if value is not None:
                parts.append(mark(number, scale(value), y + pitch * (number + 1) / (len(series) + 1)))
    return _svg(f"{name}, by group and method; the numbers are in the table below", width, bottom + 24, parts)


# --- pieces -----------------------------------------------------------------------------------------------------------


def _svg(described: str, width: float, height: float, parts: Sequence[Markup]) -> Markup:
    return el("svg", parts, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=described, class_="chart")


def _text(words: str, x: float, y: float, anchor: Anchor, strong: bool = False) -> Markup:
    kind = "strong" if strong else None
    return el("text", words, x=f"{x:.1f}", y=f"{y + FONT / 3:.1f}", text_anchor=anchor, class_=kind)


def _label(words: str, x: float, y: float, strong: bool, letters: int = LETTERS) -> Markup:
    """A name, shortened where it is long."""
    return el("g", el("title", words), _text(_short(words, letters), x, y, "end", strong))


def _short(words: str, letters: int) -> str:
    return words if len(words) <= letters else f"{words[: letters - 1]}…"


def _path(points: Sequence[tuple[float, float]], kind: str, **attributes: object) -> Markup:
    return el("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=kind, **attributes)


def _line(points: Sequence[tuple[float, float]], series: int) -> Markup:
    dash = DASHES[series // COLOURS % len(DASHES)]
    return _path(points, f"line c{series % COLOURS}", stroke_dasharray=dash)


def _whisker(low: float, high: float, y: float) -> Markup:
    d = f"M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 4:.1f}v8M{high:.1f} {y - 4:.1f}v8"
    return el("path", d=d, class_="whisker")


def _upright(scale: Scale, top: float, bottom: float) -> Markup:
    """Upright lines at the ticks of an axis that runs to the right, with the numbers under them."""
    ticks = scale.ticks()
    lines = [_path([(scale(tick), top), (scale(tick), bottom)], "zero" if tick == 0 else "grid") for tick in ticks]
    return el("g", lines, [_text(f"{tick:.4g}", scale(tick), bottom + 12, "middle") for tick in ticks])


def _level(scale: Scale, left: float, right: float) -> Markup:
    """Level lines at the ticks of an axis that runs up, with the numbers beside them."""
    ticks = scale.ticks()
    lines = [_path([(left, scale(tick)), (right, scale(tick))], "zero" if tick == 0 else "grid") for tick in ticks]
    return el("g", lines, [_text(f"{tick:.4g}", left - 5, scale(tick), "end") for tick in ticks])


def _runs(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """The stretches of a line without a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def _band(curve: Curve, across: Scale, up: Scale, series: int) -> list[Markup]:
    """The interval around a line, where both of its ends are known."""
    both = [low is not None and high is not None for low, high in zip(curve.low, curve.high, strict=True)]
    lows = _runs([(x, y if k else None) for x, y, k in zip(curve.asked, curve.low, both, strict=True)])
    highs = _runs([(x, y if k else None) for x, y, k in zip(curve.asked, curve.high, both, strict=True)])
    bands = []
    for low, high in zip(lows, highs, strict=True):
        outline = [(across(x), up(y)) for x, y in [*low, *reversed(high)]]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
        bands.append(el("polygon", points=points, class_=f"band c{series % COLOURS}"))
    return bands
