"""Result files: what was measured beside how it was, written and read back by the same classes.

Every ``result.json`` is a :class:`TableResult`, a :class:`HeldoutResult` or an :class:`EmotionResult`. Numbers that are
not known (NaN, infinities) are None, for JSON has none. Intervals, differences and verdicts are stored; nothing that
reads a result works them out again. Files of version 1, which has no ``version``, are read under their former names.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from facecrafter.errors import DataError
from facecrafter.evaluation.emotion_records import ClassAgreement, IndependentResult, WordsResult
from facecrafter.evaluation.record import Interval, Number, Record, Settings, Text, Whole
from facecrafter.io import write_whole

if TYPE_CHECKING:
    from facecrafter.evaluation.numbers import NumbersResult

RESULT = "result.json"
VERSION = 2
AGAIN = "run the evaluation again"
REQUEST = ("image", "identity", "target", "seed", "found")  # columns of the score files beside the metrics

# How a column came from its images in version 1, which did not store it.
_MEANS = (
    "expression_distance",
    "distribution_distance",
    "class_accuracy",
    "identity_similarity",
    "identity_auc",
    "lpips",
    "expression_spread",
    "pose_spread",
)

Way = Literal["mean", "rms"]
Verdict = Literal["better", "worse", "higher", "lower", "not distinguished"]


@dataclass(frozen=True)
class Column:
    """A metric of a table.

    Attributes:
        key: its name in files.
        title: its name in tables.
        about: a sentence.
        better: which way is better; None where neither is.
        way: the value is the ``mean`` or the root mean square (``rms``) of the images' scores; None where images have
            no score of their own.
        unit: of the numbers.
    """

    key: str
    title: Text
    about: Text = ""
    better: Literal["lower", "higher"] | None = None
    way: Way | None = None
    unit: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _with_way(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "way" in content:
            return content
        key = str(content.get("key"))
        return {**content, "way": "rms" if key.endswith("_rmse") else "mean" if key in _MEANS else None}

    @property
    def heading(self) -> str:
        """Title, unit, and an arrow towards the better."""
        arrow = {"lower": " ↓", "higher": " ↑", None: ""}[self.better]
        return f"{self.title}{f' ({self.unit})' if self.unit else ''}{arrow}"


class Group(Record):
    """Images of one kind: how many, in how many of them no face was found, and the metrics over the others."""

    count: int
    failures: int | None = None
    values: dict[str, Number] = Field(default_factory=dict)


class Leakage(Record):
    """How far each of ``moved`` went when only one of ``changed`` was asked to: a row a change.

    It is over ``probes``, less the ``failures`` among them in which a face was not found.
    """

    changed: list[Text]
    moved: list[Text]
    values: list[list[Number]]
    about: Text = ""
    probes: int | None = None
    failures: int | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if [len(row) for row in self.values] != [len(self.moved)] * len(self.changed):
            raise ValueError(f"the matrix is not {len(self.changed)} by {len(self.moved)}")
        return self


class Curve(Record):
    """What was perceived, with its interval, where something was asked."""

    asked: list[float]
    perceived: list[Number]
    low: list[Number]
    high: list[Number]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not len(self.asked) == len(self.perceived) == len(self.low) == len(self.high):
            raise ValueError("asked, perceived, low and high are not equally many")
        if not all(map(math.isfinite, self.asked)):
            raise ValueError("what was asked is not a number")
        return self


class Difference(Record):
    """A method's metric less another's, over ``pairs`` images of ``identities`` people that both made a face for.

    ``low`` and ``high`` are the ends of the 95 % paired bootstrap interval; None where there is one identity alone.
    """

    method: Text
    against: Text
    metric: str
    value: float
    low: Number
    high: Number
    pairs: int
    identities: int
    verdict: Verdict


class MethodResult(Record):
    """One method's row."""

    name: Annotated[Text, Field(min_length=1)]
    kind: Text = ""
    key: Text = ""  # what its images depend on beside the request
    extra_parameters: Whole = None
    images: int
    failures: int
    without_face: list[Text] = Field(default_factory=list)
    seconds_an_image: Number = None
    values: dict[str, Interval]
    groups: dict[Text, dict[Text, Group]] = Field(default_factory=dict)
    leakage: Leakage | None = None
    curves: dict[Text, Curve] = Field(default_factory=dict)
    note: Text = ""

    @property
    def slug(self) -> str:
        """What the method's files are called."""
        return re.sub("[^a-z0-9]+", "-", self.name.lower())


class RealImages(Record):
    """Behind a Frechet distance: how many images, of which folder, and a digest of them."""

    images: int
    of: Text
    digest: Text


class Result(Record):
    """What every result says: of which kind it is, and how it was made."""

    version: int = VERSION
    environment: Settings
    config: Settings = Field(default_factory=dict)

    @field_validator("version")
    @classmethod
    def _is_known(cls, version: int) -> int:
        if version > VERSION:
            raise ValueError(f"{version} is of a newer facecrafter, and this one reads up to {VERSION}; update it")
        return VERSION

    def write(self, folder: Path) -> None:
        """Write ``result.json``, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        content = json.dumps(self.model_dump(), indent=2, allow_nan=False)
        write_whole(folder / RESULT, f"{content}\n".encode())


class TableResult(Result):
    """Table 1 (``control``) or 2 (``diversity``)."""

    kind: Literal["control", "diversity"]
    seed: int
    seconds: Number = None
    estimators: dict[Text, Text]
    conditions: dict[Text, Text] = Field(default_factory=dict)
    real: RealImages | None = None
    people: int | None = None
    left_out: list[Text] = Field(default_factory=list)
    columns: list[Column]
    methods: Annotated[list[MethodResult], Field(min_length=1)]
    differences: list[Difference] | None = None  # None in version 1

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for kind, names in (
            ("columns", [column.key for column in self.columns]),
            ("methods", [method.slug for method in self.methods]),
        ):
            for name, count in Counter(names).items():
                if count > 1:
                    raise ValueError(f"{count} {kind} have the key {name!r}")
        for column in self.columns:
            if column.key in REQUEST:
                raise ValueError(f"no column can have the key {column.key!r}, which the scores use for something else")
        return self


class Setting(Record):
    """What was measured under some of the conditions; None over no faces."""

    images: int
    face_found: float
    seconds_an_image: Number = None
    same: Number
    other: Number
    auc: Number
    yaw_error: Number
    yaw_correlation: Number
    pitch_error: Number
    pitch_correlation: Number
    blendshape_rmse: Number
    emotion_agreement: Number
    valence_rmse: Number
    arousal_rmse: Number
    emotion_by_class: dict[str, ClassAgreement] = Field(default_factory=dict)


class Appearance(Record):
    """What images look like, whatever was asked.

    Attributes:
        frechet_ratio: see :func:`facecrafter.evaluation.frechet.ratio`.
        skin_error: by third of the people's skin tones, how far the typology angle is from the photo's, in degrees.
    """

    frechet_ratio: Interval
    skin_error: dict[str, Interval]


class AppearanceResult(Record):
    """That, setting by setting, beside so many photos of held-out people. ``another_photo`` has the skin errors between
    two photos of one person, of those who have two."""

    photos: int
    network: Text
    another_photo: dict[str, Interval]
    settings: dict[Text, Appearance]


class HeldoutResult(Result):
    """One model on held-out people, setting by setting."""

    kind: Literal["heldout"] = "heldout"
    model: Text
    key: Text | None = None  # a digest of the weights and of how they are sampled; None in older files
    controls: Text | None = None
    estimators: dict[Text, Text]
    settings: dict[Text, Setting]
    words: WordsResult | None = None
    independent: IndependentResult | None = None  # None in older files
    appearance: AppearanceResult | None = None  # None in older files, and where its network is not installed


class ReadingInUse(Record):
    """How well a reader does under the prior that the estimator has in use."""

    accuracy: float
    balanced_accuracy: float
    recall: dict[str, float]
    calibration_error: float
    confusion: list[list[int]]


class Reading(ReadingInUse):
    """How well a reader does on a set of faces: under the set's own prior, and where a name says so under an even one;
    see :func:`facecrafter.evaluation.emotions.figures`."""

    faces: int
    balanced_accuracy_own_prior: float
    classes: list[str]
    recall_own_prior: dict[str, float]
    confusion_even_prior: list[list[int]]
    in_use: ReadingInUse | None = None


class EmotionResult(Result):
    """The emotion estimator: its readers on each set of faces, its circumplex, and how far its readings move."""

    kind: Literal["emotion"] = "emotion"
    estimator: Text
    sets: dict[str, dict[str, Reading]]
    circumplex: dict[str, dict[str, list[float]]]
    variations: dict[str, dict[str, float]] = Field(default_factory=dict)
    faces_a_second: float


AnyResult: TypeAlias = "TableResult | HeldoutResult | EmotionResult | NumbersResult"
_KINDS: dict[str, type[TableResult] | type[HeldoutResult] | type[EmotionResult]] = {
    "control": TableResult,
    "diversity": TableResult,
    "heldout": HeldoutResult,
    "emotion": EmotionResult,
}


def read(folder: Path) -> AnyResult:
    """The result in a folder.

    Raises:
        DataError: it has no ``result.json``, or a damaged one; the message names the field.
    """
    try:
        return read_file(folder / RESULT)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder} has no {RESULT}; name a folder that an evaluation wrote") from None


def read_file(path: Path) -> AnyResult:
    """The result in a file.

    Raises:
        DataError: it cannot be read, or is damaged; the message names the field.
        FileNotFoundError, NotADirectoryError: there is no such file.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        return _kind(content).model_validate(content)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); put that right or {AGAIN}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{path} is damaged: {place + ': ' if place else ''}{message}; {AGAIN}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}; {AGAIN}") from None


def _kind(content: Mapping[str, Any]) -> type[AnyResult]:
    """The class of a file's content; version 1 had no name for the last two."""
    named = content.get("kind", content.get("table"))
    if named is None:
        named = "heldout" if "settings" in content else "emotion" if "sets" in content else None
    if named == "controls":
        from facecrafter.evaluation.numbers import NumbersResult  # which is made of this module's

        return NumbersResult
    if not isinstance(named, str) or named not in _KINDS:
        raise ValueError(f"kind: it is {named!r}, not one of {', '.join([*_KINDS, 'controls'])}")
    return _KINDS[named]
