"""One page of what came of a folder of synthesised people: how many were kept, who they are, and what they show."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.data.prepare.folder import read_list
from facecrafter.data.shards import read_shard, shard_path, write_whole
from facecrafter.faces.emotion import EMOTIONS
from facecrafter.faces.skin import TONES, skin_tone

REPORT, NUMBERS = "report.html", "report.json"
SHOWN = 12  # people on the sheet
SIDE = 96  # of their images, in pixels
MOST = 12  # images of a person
HISTOGRAMS = {
    "yaw": "yaw in degrees",
    "pitch": "pitch in degrees",
    "age": "apparent age in years",
    "sface": "SFace to the plain image",
    "dlib": "dlib to the plain image",
    "strength": "strength",
}
STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ccc }
td:first-child, th:first-child { text-align: left } img { max-width: 100% }"""

Entry = Mapping[str, Any]


def write_report(out: Path, count: int) -> None:
    """Write :data:`REPORT` and its numbers, :data:`NUMBERS`, for the first shards of a folder.

    Args:
        out: the folder.
        count: of its shards.

    Raises:
        DataError: a list beside a shard is damaged, or the files cannot be written.
    """
    entries: list[Entry] = []
    rejected: list[str] = []
    people = 0
    for number in range(count):
        beside = read_list(out, number)
        entries += beside["synthesis"]
        rejected += [one["reason"] for one in beside["rejected"] if "/" not in one["file"]]
        people += beside["people"]
    if not entries:
        return
    numbers = summary(entries, people, rejected)
    write_whole(out / NUMBERS, (json.dumps(numbers, indent=2) + "\n").encode())
    write_whole(out / REPORT, _page(numbers, entries, _sheet(out)).encode())


def summary(entries: Sequence[Entry], people: int, rejected: Sequence[str]) -> dict[str, Any]:
    """The numbers of the report.

    Args:
        entries: of every image, what the lists beside the shards say.
        people: who were tried.
        rejected: why people were left out.
    """
    kept = len({one["person"] for one in entries})
    tones = Counter(skin_tone(one["skin"]) for one in entries if one["asked"] == "plain")
    labels = Counter(one["emotion"] for one in entries)
    yaw = np.abs([one["yaw"] for one in entries])
    return {
        "people": {"tried": people, "kept": kept, "left out": dict(Counter(rejected).most_common())},
        "images": len(entries),
        "a person": len(entries) / kept,
        "edits": {name: _edit(name, entries, kept) for name in dict.fromkeys(one["asked"] for one in entries)},
        "emotion": {name: labels[name] for name in EMOTIONS},
        "skin tone": {name: tones[name] for name in TONES},
        "yaw": {"15 to 30": int(((yaw >= 15) & (yaw < 30)).sum()), "30 and more": int((yaw >= 30).sum())},
    }


def _edit(name: str, entries: Sequence[Entry], kept: int) -> dict[str, Any]:
    ours = [one for one in entries if one["asked"] == name]
    sface = [one["sface"] for one in ours]
    numbers: dict[str, Any] = {
        "images": len(ours),
        "a person": len(ours) / kept,
        "strength": float(np.median([one["strength"] for one in ours])),
        "sface": [float(np.percentile(sface, share)) for share in (5, 50)],
    }
    if name in EMOTIONS:
        numbers["read as asked"] = sum(one["likeliest"] == name for one in ours) / len(ours)
    return numbers


def _page(numbers: Mapping[str, Any], entries: Sequence[Entry], sheet: str) -> str:
    people = numbers["people"]
    parts = [
        f"<p>{people['kept']} of {people['tried']} people were kept, with {numbers['images']} images, "
        f"{numbers['a person']:.1f} a person.</p>",
        _table(("people left out because", "people"), people["left out"].items()),
        "<h2>What was asked for</h2>",
        "<p>Read as asked: the likeliest emotion by the project's estimator where all eight are as common as each "
        "other. SFace: cosine to the plain image, 5th percentile and median.</p>",
        _table(
            ("edit", "images", "a person", "strength", "SFace 5 %", "SFace median", "read as asked"),
            (_cells(name, edit) for name, edit in numbers["edits"].items()),
        ),
        "<h2>What was measured</h2>",
        f'<img alt="distributions" src="{_charts(numbers, entries)}">',
        f'<h2>The first people</h2><img alt="images of the first people" src="{sheet}">',
    ]
    style = f"<meta charset='utf-8'><title>People who do not exist</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'>{style}<h1>People who do not exist</h1>{''.join(parts)}</html>\n"


def _cells(name: str, edit: Mapping[str, Any]) -> tuple[Any, ...]:
    share = edit.get("read as asked")
    low, middle = edit["sface"]
    asked = "" if share is None else f"{share:.0%}"
    return (
        name, edit["images"], f"{edit['a person']:.2f}", f"{edit['strength']:.2f}", f"{low:.2f}", f"{middle:.2f}", asked
    )  # fmt: skip


def _table(head: Sequence[str], rows: Any) -> str:
    def row(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _charts(numbers: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    """Histograms and bars as the source of an image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots(3, 3).ravel()
    for axis, (name, title) in zip(axes, HISTOGRAMS.items(), strict=False):
        edited = name in ("sface", "dlib", "strength")
        axis.hist([one[name] for one in entries if not edited or one["asked"] != "plain"], 40)
        axis.set_title(title)
    for axis, name in zip(axes[6:], ("emotion", "skin tone", "yaw"), strict=True):
        axis.barh(list(numbers[name]), list(numbers[name].values()))
        axis.set_title({"emotion": "images by emotion read", "skin tone": "people by skin tone"}.get(name, name))
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return _uri("png", buffer.getvalue())


def _sheet(out: Path) -> str:
    """The first people, a row each, as the source of an image."""
    rows = []
    samples = read_shard(shard_path(out, 0))
    for _, images in groupby(samples, key=lambda sample: sample[0].partition("-")[0]):
        tiles = [_tile(parts["png"]) for _, parts in images][:MOST]
        tiles += [np.full((SIDE, SIDE, 3), 255, np.uint8)] * (MOST - len(tiles))
        rows.append(np.concatenate(tiles, axis=1))
        if len(rows) == SHOWN:
            break
    buffer = io.BytesIO()
    if rows:
        Image.fromarray(np.concatenate(rows)).save(buffer, "JPEG", quality=88)
    return _uri("jpeg", buffer.getvalue())


def _tile(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
