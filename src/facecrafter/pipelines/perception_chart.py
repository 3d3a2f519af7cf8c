"""One face and what it expresses as an image."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from facecrafter.faces.emotion import CENTRES, EMOTIONS, Emotion
from facecrafter.faces.face import BLENDSHAPES, Face

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from facecrafter.pipelines.perceive import Reading

ANGLES = ("yaw", "pitch", "roll")
# Blendshapes that an image shows: the strongest.
SHOWN_BLENDSHAPES = 20


def chart(reading: Reading, title: str) -> bytes:
    """One face as a PNG: its image with landmarks and box, blendshapes, head angles, emotion.

    Where a crop was read without its landmarks, the panels that need them say so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, parse_math=False)
    grid = figure.add_gridspec(2, 3, height_ratios=(2, 1))
    _draw_image(figure.add_subplot(grid[0, 0]), reading)
    _draw_plane(figure.add_subplot(grid[0, 1]), reading.emotion)
    _draw_classes(figure.add_subplot(grid[1, 1]), reading.emotion)
    angles, shapes = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[:, 2])
    if reading.face is None:
        for panel in (angles, shapes):
            panel.text(0.5, 0.5, "not known:\nno face was looked for", ha="center", va="center")
            panel.set_axis_off()
    else:
        _draw_angles(angles, reading.face)
        _draw_blendshapes(shapes, reading.face)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters in a file's name that the font does not have
        figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _draw_image(panel: Axes, reading: Reading) -> None:
    height, width = reading.image.shape[:2]
    panel.imshow(reading.image, extent=(0, width, height, 0))
    panel.set_axis_off()
    if reading.face is None:
        return
    points = reading.face.points[:, :2]
    panel.plot(*points.T, ".", color="lime", markersize=1.5)
    (left, top), (right, bottom) = points.min(0), points.max(0)
    panel.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color="yellow", linewidth=1)
    panel.set(xlim=(0, width), ylim=(height, 0))


def _draw_plane(panel: Axes, emotion: Emotion) -> None:
    panel.axhline(0, color="lightgrey", linewidth=1)
    panel.axvline(0, color="lightgrey", linewidth=1)
    panel.plot(*CENTRES.T, "o", color="grey", markersize=4)
    for name, (valence, arousal) in zip(EMOTIONS, CENTRES, strict=True):
        # Four unpleasant classes lie close together: two are named to their left, two to their right. Happy is near
        # the edge.
        side, step = ("left", 5) if -0.58 < valence < 0.6 else ("right", -5)
        panel.annotate(name, (valence, arousal), (step, -3), textcoords="offset points", ha=side, fontsize=8)
    panel.plot([emotion.valence], [emotion.arousal], "*", color="crimson", markersize=14, clip_on=False)
    panel.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xlabel="valence", ylabel="arousal")
    panel.set_title(f"valence {emotion.valence:+.2f}, arousal {emotion.arousal:+.2f}", fontsize=10)


def _draw_classes(panel: Axes, emotion: Emotion) -> None:
    colours = ["crimson" if name == emotion.label else "steelblue" for name in EMOTIONS]
    panel.barh(EMOTIONS, emotion.probabilities, color=colours)
    panel.set(xlim=(0, 1), xlabel="probability")
    panel.invert_yaxis()


def _draw_angles(panel: Axes, face: Face) -> None:
    names = [f"{name} {round(angle):+d}°" for name, angle in zip(ANGLES, face.angles, strict=True)]
    panel.barh(names, face.angles, color="steelblue")
    panel.axvline(0, color="black", linewidth=1)
    panel.set(xlim=(-90, 90), xlabel="degrees: to the image's right, up, counter-clockwise")
    panel.invert_yaxis()


def _draw_blendshapes(panel: Axes, face: Face) -> None:
    strongest = np.argsort(-face.blendshapes, kind="stable")[:SHOWN_BLENDSHAPES]
    panel.barh([BLENDSHAPES[index] for index in strongest], face.blendshapes[strongest], color="steelblue")
    panel.set(xlim=(0, 1), title=f"the {SHOWN_BLENDSHAPES} strongest blendshapes of {len(BLENDSHAPES)}")
    panel.tick_params(labelsize=8)
    panel.invert_yaxis()
