"""Options that several commands have, and the values that they can take."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Choose(StrEnum):
    """Which of several faces in a photo is meant."""

    largest = "largest"
    centre = "centre"


class Which(StrEnum):
    """Whose faces of a photo are read."""

    largest = "largest"
    centre = "centre"
    all = "all"


class Scale(StrEnum):
    """The two scales."""

    mini = "mini"
    arc2face = "arc2face"


class Speed(StrEnum):
    """What an image may cost."""

    exact = "exact"
    interval = "interval"
    refresh = "refresh"
    distilled = "distilled"


class Only(StrEnum):
    """What of a prepared folder can be renewed by itself."""

    emotion = "emotion"


class Through(StrEnum):
    """What an emotion in words acts through."""

    both = "both"
    landmarks = "landmarks"
    module = "module"


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    csv = "csv"
    json = "json"


def _own(text: str, name: str) -> str:
    """A help text with the defaults that the model scales have of their own."""
    mini, arc2face = DEFAULTS[name]
    return f"{text} [default: the model's own; mini {mini}, arc2face {arc2face}]"


# The scales' own values; they are in models/scales.py too, which is too heavy for --help. A test keeps them in step.
DEFAULTS = {
    "identity_scale": (1.5, 2.5),
    "landmark_scale": (0.9, 2.0),
    "emotion_scale": (1.4, 2.0),
    "steps": (8, 25),
    "scheduler": ("ddim", "dpm"),
    "speed": ("refresh", "exact"),
}
IdentityScale = Annotated[
    float | None, typer.Option(help=_own("Guidance by the identity: how much the photo counts.", "identity_scale"))
]
LandmarkScale = Annotated[
    float | None, typer.Option(help=_own("Guidance by the landmarks; 0 is off.", "landmark_scale"))
]
EmotionScale = Annotated[float | None, typer.Option(help=_own("Guidance by the emotion; 0 is off.", "emotion_scale"))]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files of these names.")]
TableConfig = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML of a table, as in configs/mini/evaluation.")]
Steps = Annotated[int | None, typer.Option(min=1, help=_own("Denoising steps.", "steps"))]
Scheduler = Annotated[str | None, typer.Option(help=_own("dpm, ddim, ddpm, euler or unipc.", "scheduler"))]
SpeedOption = Annotated[
    Speed | None,
    typer.Option(
        help=_own("exact is the paper's guidance (Eq. 6); the others are faster and a little different.", "speed")
    ),
]
Yaw = Annotated[float | None, typer.Option(help="The head turned to the image's right, -45 to 45 degrees.")]
Pitch = Annotated[float | None, typer.Option(help="The head turned up, -30 to 30 degrees.")]
Roll = Annotated[float | None, typer.Option(help="The head tilted counter-clockwise, -30 to 30 degrees.")]
Expression = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=NUMBER,...", help="Blendshapes: jawOpen=0.6,mouthSmile=0.5; see 'controls list'."),
]
Preset = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME,...", help="Poses and expressions by name: wink, laugh; see 'controls list'."),
]
Presets = Annotated[Path | None, typer.Option(metavar="FILE", help="YAML of presets of your own.", dir_okay=False)]
EmoNet = Annotated[
    Path | None, typer.Option(metavar="FILE", help="emonet_8.pth or emonet_5.pth, to read emotions with EmoNet.")
]
Weights = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Arc2Face's published files, for --model arc2face.", file_okay=False)
]
