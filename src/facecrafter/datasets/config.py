"""What a data set is to hold: the schema of ``plan.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from facecrafter.config import Strict
from facecrafter.faces.asked import ANGLES

# How far apart two people are at least, as 1 - cosine of their mean embeddings. Measured with dlib's embeddings of
# Labeled Faces in the Wild: each half of the photos of a person is nearer to the other half than 0.025 for all of the
# 197 people with eight photos or more, and of 5,449 people 99 % have nobody nearer than 0.032.
APART = {"dlib": 0.025}

# Whose embeddings a model of each scale reads; they are in models/scales.py too, which is too heavy for a plan. A test
# keeps them in step.
READS = {"mini": "dlib", "arc2face": "arcface"}

MOST_IMAGES = 10**10  # of a cell, of a person in a cell, and of a plan

Images = Annotated[int, Field(ge=1, le=MOST_IMAGES)]
Share = Annotated[float, Field(ge=0, le=2)]
Degrees = Annotated[float, Field(gt=0, le=180)]


def recogniser_of(model: str) -> str | None:
    """Whose embeddings a model reads: by its name or, of a folder, by what is written into its UNet's file.

    Args:
        model: ``mini``, ``arc2face``, or a folder.

    Returns:
        The recogniser's name; None where the folder is no model's.
    """
    from safetensors import SafetensorError, safe_open

    if model in READS:
        return READS[model]
    try:
        with safe_open(Path(model) / "unet.safetensors", "numpy") as file:
            return READS.get((file.metadata() or {}).get("scale", ""))
    except (SafetensorError, OSError):
        return None


def emotions(values: Any) -> Any:
    """The values of the axis of emotions as they are.

    Raises:
        ValueError: one is neither a word nor a point.
    """
    for value in values if isinstance(values, list) else []:
        numbers = isinstance(value, dict) and all(
            isinstance(one, int | float) and not isinstance(one, bool) for one in value.values()
        )
        if not isinstance(value, str) and not (numbers and value and value.keys() <= {"valence", "arousal"}):
            raise ValueError(
                f"an emotion is in words such as happy, or a point such as {{valence: 0.5, arousal: 0.3}}, not {value}"
            )
    return values


class SourceConfig(Strict):
    """Where some identities come from; one of the first two.

    Attributes:
        prepared: a folder of ``data synthesise``, or of ``data prepare`` for photos of your own; shards that its index
            does not list yet are not read.
        embeddings: ``.npy`` of ``(N, D)``; their faces have the mean shape.
        count: how many at most; all if None.
    """

    prepared: Path | None = None
    embeddings: Path | None = None
    count: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> SourceConfig:
        if (self.prepared is None) == (self.embeddings is None):
            raise ValueError(
                "give prepared, a folder of 'data prepare' or 'data synthesise', or embeddings, one of both"
            )
        return self


class CellsConfig(Strict):
    """The axes of the cells; every combination is a cell.

    Attributes:
        yaw, pitch: degrees.
        expression: presets by name, ``jawOpen=0.6,mouthSmile=0.5``, or ``neutral``.
        emotion: in words, ``happy`` or ``happy:0.8,surprise:0.2``, as a point ``{valence: 0.5, arousal: 0.3}``, or
            ``free`` for none at all.
    """

    yaw: list[float] = Field([0.0], min_length=1)
    pitch: list[float] = Field([0.0], min_length=1)
    expression: list[str] = Field(["neutral"], min_length=1)
    emotion: list[str | dict[Literal["valence", "arousal"], float]] = Field(["free"], min_length=1)

    @field_validator("emotion", mode="before")
    @classmethod
    def _emotions(cls, values: Any) -> Any:
        return emotions(values)

    @field_validator("yaw", "pitch", "expression", "emotion")
    @classmethod
    def _different(cls, values: list[Any]) -> list[Any]:
        words = [str(value) for value in values]
        if twice := next((word for word in words if words.count(word) > 1), None):
            raise ValueError(f"{twice} is named twice")
        return values

    @model_validator(mode="after")
    def _within_reach(self) -> CellsConfig:
        for name in ("yaw", "pitch"):
            for value in getattr(self, name):
                if not abs(value) <= ANGLES[name]:  # NaN fails this too
                    raise ValueError(f"{name} must be from {-ANGLES[name]:g} to {ANGLES[name]:g} degrees, not {value}")
        return self


class FillConfig(Strict):
    """Cells that are filled otherwise than the rest; what is not named means every value of the axis.

    Attributes:
        yaw, pitch, expression, emotion: the values, as the axes name them.
        images: in each of these cells, over all people.
    """

    yaw: list[float] | None = None
    pitch: list[float] | None = None
    expression: list[str] | None = None
    emotion: list[str | dict[Literal["valence", "arousal"], float]] | None = None
    images: Annotated[int, Field(ge=0, le=MOST_IMAGES)]

    @field_validator("emotion", mode="before")
    @classmethod
    def _emotions(cls, values: Any) -> Any:
        return emotions(values)


class AcceptConfig(Strict):
    """When an image is in its cell. A face must be found in any case; None checks nothing.

    Attributes:
        yaw, pitch: largest difference between asked and measured, in degrees.
        expression: largest difference of a blendshape that is asked for.
        emotion: whether the likeliest emotion measured must be that of the words.
        valence, arousal: largest difference where a point is asked for.
        identity: least cosine of the measured embedding to the person's, by the recogniser that the model reads.
    """

    yaw: Degrees | None = 15.0
    pitch: Degrees | None = 15.0
    expression: Share | None = None
    emotion: bool = False
    valence: Share | None = None
    arousal: Share | None = None
    identity: Annotated[float, Field(ge=-1, le=1)] | None = None


class SamplingConfig(Strict):
    """How images are sampled, as for ``generate``; None is the model's own."""

    identity_scale: float | None = None
    landmark_scale: float | None = None
    emotion_scale: float | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    scheduler: str | None = None
    speed: str | None = None
    batch_size: Annotated[int, Field(ge=1)] = 8


class PlanConfig(Strict):
    """A data set as it is asked for.

    Attributes:
        model: ``mini``, ``arc2face``, or the folder of a model.
        weights: the folder of Arc2Face's published files (docs/arc2face.md), for ``arc2face``; beside a model folder of
            that scale it gives the recogniser's file, ``arcface.onnx``, unless the folder holds it.
        bfloat16: compute images in bfloat16, as for ``generate``.
        seed: another seed makes other images of the same people.
        identities: where people come from, in order.
        apart: how far people are from each other and from ``away_from`` at least, 1 - cosine of their embeddings;
            None for what was measured for the recogniser.
        away_from: prepared folders with photos of people whom nobody may resemble: those the model was trained on.
        cells: the axes.
        images: in each cell, over all people, who take turns.
        a_person: in place of ``images``: how many each person has in each cell.
        fill: cells that are filled otherwise; of several that fit a cell the last counts.
        accept: when an image is in its cell.
        attempts: how often an image is made at most.
        sampling: how images are sampled.
        emotion_through: what an emotion acts through, as for ``generate``.
        presets: YAML of presets of your own.
        recogniser: whose embeddings the model reads, which follows from the model.
        also: further recognisers whose embeddings are stored; the audit reads both, the experiment dlib's.
        shard_size: images a shard: what a worker makes at once, and what is lost at most where one is killed.
    """

    model: str = "mini"
    weights: Path | None = None
    bfloat16: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    identities: Annotated[list[SourceConfig], Field(min_length=1)]
    apart: Annotated[float, Field(ge=0, le=2)] | None = None
    away_from: list[Path] = Field([])
    cells: CellsConfig = CellsConfig()
    images: Images | None = None
    a_person: Images | None = None
    fill: list[FillConfig] = Field([])
    accept: AcceptConfig = AcceptConfig()
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    sampling: SamplingConfig = SamplingConfig()
    emotion_through: Literal["both", "landmarks", "module"] = "both"
    presets: Path | None = None
    recogniser: Literal["dlib", "sface", "arcface"] = "dlib"
    also: list[Literal["dlib", "sface"]] = Field(["dlib", "sface"])
    shard_size: Annotated[int, Field(ge=1, le=65536)] = 256

    @model_validator(mode="before")
    @classmethod
    def _by_the_model(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and "recogniser" not in content:
            reads = recogniser_of(str(content.get("model", "mini")))
            return content if reads is None else {**content, "recogniser": reads}
        return content

    @model_validator(mode="after")
    def _fits_together(self) -> PlanConfig:
        if (self.images is None) == (self.a_person is None):
            raise ValueError("give images, how many a cell holds, or a_person, how many of each person; one of both")
        if self.apart is None and self.recogniser not in APART:
            raise ValueError(f"apart: nothing is measured for '{self.recogniser}'; give it")
        for rule in self.fill:
            for name in ("yaw", "pitch", "expression", "emotion"):
                for value in getattr(rule, name) or []:
                    if value not in getattr(self.cells, name):
                        raise ValueError(f"fill: the axis {name} has no {value}, so no cell is filled by it")
        return self

    @property
    def least(self) -> float:
        """How far people are apart at least."""
        return APART[self.recogniser] if self.apart is None else self.apart

    @property
    def recognisers(self) -> tuple[str, ...]:
        """Whose embeddings are stored, the model's first."""
        return tuple(dict.fromkeys([self.recogniser, *self.also]))
