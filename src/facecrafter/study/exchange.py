"""What the page and the server say to each other, as models: the OpenAPI schema is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from facecrafter.study.store import LONGEST_MILLISECONDS


def _whole(value: object) -> object:
    """A float without a fraction as the integer that it is in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Number = Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(_whole)]
Position = Annotated[int, Field(ge=0, le=1000), BeforeValidator(_whole)]
Milliseconds = Annotated[int, Field(ge=0, le=LONGEST_MILLISECONDS), BeforeValidator(_whole)]
Short = Annotated[str, Field(max_length=200)]


class _Asked(BaseModel):
    """A request's body: nothing unknown in it, and no number as text."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Consent(_Asked):
    """Somebody agrees; with the access code where the study has one."""

    agreed: Literal[True]
    code: Short = ""


class Choice(_Asked):
    """An answer to a trial as it was shown at an attempt: positions from 0, the best first."""

    trial: Number
    attempt: Number
    positions: list[Position] = Field(min_length=1, max_length=1000)
    milliseconds: Milliseconds


class Undo(_Asked):
    """The last answer is to be taken back."""

    trial: Number
    attempt: Number


class Withdrawal(_Asked):
    """All answers are to be deleted."""

    sure: Literal[True]


class Reference(BaseModel):
    """A photo beside the choice."""

    role: Literal["source", "target"]
    image: str


class ShownTrial(BaseModel):
    """A trial: the addresses of what it shows. ``instructed`` is the position that an attention check asks for."""

    trial: int
    attempt: int
    question: str
    practice: bool
    instructed: int | None
    references: list[Reference]
    options: list[list[str]]


class Last(BaseModel):
    """The answer that can be undone."""

    trial: int
    attempt: int


class Now(BaseModel):
    """Where a participant is. At the end there is no trial, and the panel's completion code if it has one."""

    done: int
    total: int
    trial: ShownTrial | None
    last: Last | None
    upcoming: list[str]
    completion_code: str
    link: str


class Saved(BaseModel):
    """What came of an answer or an undo, and where the participant is now. ``changed`` is false where it was so
    already."""

    changed: bool
    now: Now


class Withdrawn(BaseModel):
    """What came of a withdrawal; ``changed`` is false where there was nobody."""

    changed: bool


class Joined(BaseModel):
    """Whether the visitor takes part."""

    joined: bool


class About(BaseModel):
    """The study in one language. ``visitor`` tells this study's participant from every other one of the browser, and is
    no secret."""

    language: str
    languages: list[str]
    title: str
    introduction: str
    consent: str
    contact: str
    questions: dict[str, str]
    words: dict[str, str]
    needs_code: bool
    needs_link: bool
    ranking: bool
    joined: bool
    visitor: str


class Refused(BaseModel):
    """Why something is refused."""

    error: str
    message: str


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The answers of a route besides its own, for the schema; they are JSON also where its own is an image or a
    table."""
    content = {"application/json": {"schema": Refused.model_json_schema()}}
    return {code: {"description": "Refused", "content": content} for code in (*codes, 400, 403, 413, 421, 422)}
