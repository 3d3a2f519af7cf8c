"""What results are made of: texts on one line, numbers that JSON has, intervals, records that former names reach."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic.dataclasses import dataclass

# Names in files of version 1.
FORMER = {"pictures": "images", "seconds_a_picture": "seconds_an_image", "table": "kind", "protocol": "config"}


def clean(text: object) -> object:
    """Text on one line, without letters that cannot be shown; anything else as it is."""
    if not isinstance(text, str):
        return text
    return " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split())


def _finite(value: object) -> object:
    """A float as a plain one, None where it is NaN or infinite; anything else as it is."""
    if not isinstance(value, float):
        return value
    return float(value) if math.isfinite(value) else None


def _as_json(content: object) -> object:
    """Settings as JSON has them: tuples are lists, and paths text."""
    return json.loads(json.dumps(content, default=str))


Text = Annotated[str, BeforeValidator(clean)]
Whole = Annotated[int | None, BeforeValidator(_finite)]
Number = Annotated[float | None, BeforeValidator(_finite)]
Settings = Annotated[dict[str, Any], BeforeValidator(_as_json)]


class Record(BaseModel):
    """A part of a result, which former names reach too."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _under_new_names(cls, content: Any) -> Any:
        if not isinstance(content, Mapping) or not FORMER.keys() & content.keys():
            return content
        fields = cls.model_fields
        return {FORMER[key] if FORMER.get(key) in fields else key: value for key, value in content.items()}


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval; None where it is not known.

    Attributes:
        value: over all rows; None where there are none.
        low, high: None where there are fewer than two people, or too few resamplings that have a value.
    """

    value: Number = None
    low: Number = None
    high: Number = None
