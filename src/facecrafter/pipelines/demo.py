"""The whole path on one real photo: the photo beside faces generated from it, each labelled with what was asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from facecrafter.faces import landmarks
from facecrafter.faces.deformation import EXPRESSIONS
from facecrafter.faces.emotion import Emotion
from facecrafter.pipelines.generate import FaceCrafter
from facecrafter.pipelines.images import described, save
from facecrafter.pipelines.settings import FilledSettings, Settings
from facecrafter.request import Portrait, Progress, Request, portrait_of

COLUMNS = 6
TURNS = {"40° left": (-40, 0), "20° left": (-20, 0), "20° right": (20, 0), "40° right": (40, 0), "20° up": (0, 20)}
TURNS["20° down"] = (0, -20)
EMOTIONS = ("happy", "sad", "surprise", "anger", "fear", "neutral")
IMAGES = 4 * COLUMNS
TILE, GAP, MARGIN, LABEL = 176, 8, 24, 22


@dataclass(frozen=True)
class Tile:
    """One generated face of the demo: its label, and what it is asked to show."""

    label: str
    request: Request


def make_demo(
    out: Path,
    model: str = "mini",
    steps: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the demo's image, from scikit-image's photo of Eileen Collins (NASA, public domain).

    Args:
        out: the PNG to write.
        model: as for :meth:`FaceCrafter.from_pretrained`.
        steps: denoising steps; the model's own if None.
        overwrite: replace the file if it is there.
        progress: called with the number of faces' worth of work done; there are :data:`IMAGES`.

    Raises:
        FaceCrafterError: the model is missing, or the file exists or cannot be written.
    """
    from skimage.data import astronaut

    photo = np.asarray(astronaut(), np.uint8)
    crafter = FaceCrafter.from_pretrained(model)
    settings = Settings(steps=steps).filled(crafter.model.scale)
    rows = tiles(crafter, photo, settings)
    requests = [tile.request for row in rows.values() for tile in row]
    made = dict(crafter.render(requests, progress))
    poster = compose(photo, rows, [made[index] for index in range(len(requests))])
    outcome = {"model": crafter.name, "scale": crafter.model.scale.name, "steps": settings.steps}
    save(described(poster, outcome), out, overwrite)


def tiles(crafter: FaceCrafter, photo: NDArray[np.uint8], settings: FilledSettings) -> dict[str, list[Tile]]:
    """What the demo asks for, by row: identity alone; the person's own landmarks turned; moved; and emotions."""
    identity, points = Portrait(embedding=crafter.person(photo)), crafter.face(photo).points

    def tile(label: str, seed: int = 1, **conditions: Portrait) -> Tile:
        return Tile(label, Request(identity, conditions, seed, settings))

    turned = {label: landmarks.turn(points, *angles) for label, angles in TURNS.items()}
    # Turning by nothing puts the moved points back on the template.
    moved = {label: landmarks.turn(move(points)) for label, move in EXPRESSIONS.items()}
    return {
        "identity only": [tile(f"seed {seed}", seed) for seed in range(1, COLUMNS + 1)],
        "identity + pose": [tile(label, landmark=Portrait(points=shape)) for label, shape in turned.items()],
        "identity + expression": [tile(label, landmark=Portrait(points=shape)) for label, shape in moved.items()],
        "identity + emotion": [tile(name, emotion=portrait_of(Emotion.from_words({name: 1.0}))) for name in EMOTIONS],
    }


def compose(photo: NDArray[np.uint8], rows: dict[str, list[Tile]], images: list[Image.Image]) -> Image.Image:
    """The photo on the left, the generated faces in rows on the right, landmarks asked for in their corner."""
    heading, label = ImageFont.load_default(20), ImageFont.load_default(14)
    row_height = 2 * LABEL + TILE + GAP
    left = MARGIN + 2 * TILE + MARGIN
    size = (left + COLUMNS * (TILE + GAP) + MARGIN, len(rows) * row_height + 2 * MARGIN)
    poster = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(poster)
    pen.text((MARGIN, MARGIN), "the photo", "black", heading)
    shown = Image.fromarray(photo).resize((2 * TILE, 2 * TILE), Image.Resampling.LANCZOS)
    poster.paste(shown, (MARGIN, MARGIN + 2 * LABEL))
    note = "All other faces are generated.\nNone of them is a photo."
    pen.text((MARGIN, MARGIN + 3 * LABEL + 2 * TILE), note, "black", label)
    remaining = iter(images)
    for number, (name, row) in enumerate(rows.items()):
        top = MARGIN + number * row_height
        pen.text((left, top), name, "black", heading)
        for column, tile in enumerate(row):
            x, y = left + column * (TILE + GAP), top + 2 * LABEL
            pen.text((x, y - LABEL + 2), tile.label, "black", label)
            poster.paste(_with_landmarks(next(remaining), tile.request.conditions.get("landmark")), (x, y))
    return poster


def _with_landmarks(image: Image.Image, target: Portrait | None) -> Image.Image:
    """A face at the demo's size, the landmarks that it was asked to follow in its corner."""
    shown = image.resize((TILE, TILE), Image.Resampling.BICUBIC)
    if target is not None:
        inset = Image.fromarray(landmarks.draw(target.points, target.size, 4 * TILE // 14))
        shown.paste(inset, (TILE - inset.width, TILE - inset.height))
    return shown
