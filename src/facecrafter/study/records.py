"""The tables of a study's database."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import JSON, Column, DateTime, ForeignKey, Index, Integer, MetaData, UniqueConstraint
from sqlmodel import Field, SQLModel

# Of the study alone: SQLModel's own metadata is shared by every table that the process imports.
METADATA = MetaData()


class _Table(SQLModel):
    metadata = METADATA


def now() -> datetime:
    """The time in UTC, to the second: answers need no more, and finer times tell more of a person."""
    return datetime.now(UTC).replace(microsecond=0)


def _time(nullable: bool = False) -> Column[datetime]:
    return Column(DateTime(timezone=True), nullable=nullable)


class Tally(_Table, table=True):
    """Numbers and texts about the whole study: its digest, how many joined, how many withdrew."""

    __tablename__ = "tally"

    name: str = Field(primary_key=True, max_length=40)
    value: str = Field(max_length=200)


class Participant(_Table, table=True):
    """Somebody who agreed to take part. Nothing here tells who: ``secret`` is the SHA-256 of a random token that only
    the participant's browser has. ``number`` counts those who joined, and seeds the dealing."""

    __tablename__ = "participant"

    id: int | None = Field(default=None, primary_key=True)
    number: int = Field(unique=True)
    secret: str = Field(unique=True, max_length=64)
    joined: datetime = Field(sa_column=_time())
    active: datetime = Field(sa_column=_time())
    finished: datetime | None = Field(default=None, sa_column=_time(nullable=True))


class Invitation(_Table, table=True):
    """A personal link, by the SHA-256 of its code. Once used it belongs to one participant, and after a withdrawal to
    nobody: it cannot be used again."""

    __tablename__ = "invitation"

    id: int | None = Field(default=None, primary_key=True)
    code: str = Field(unique=True, max_length=64)
    used: bool = False
    participant_id: int | None = Field(
        default=None, sa_column=Column(Integer, ForeignKey("participant.id", ondelete="SET NULL"), nullable=True)
    )


class Trial(_Table, table=True):
    """One screen of a participant.

    Attributes:
        place: from 0, in the participant's order.
        question: the key of the question.
        number: of the set.
        layout: the numbers of the methods, from left to right.
        kind: ``answer``, ``practice`` or ``attention``.
        expected: the position that an attention check tells to choose.
        attempt: grows by one with every undo, so that an answer sent before it is known as stale.
        live: false once the trial was given back, because its participant left it unanswered.
    """

    __tablename__ = "trial"
    __table_args__ = (
        UniqueConstraint("participant_id", "place", name="uq_trial_place"),
        Index("ix_trial_question", "question", "live"),
    )

    id: int | None = Field(default=None, primary_key=True)
    participant_id: int = Field(
        sa_column=Column(Integer, ForeignKey("participant.id", ondelete="CASCADE"), nullable=False)
    )
    place: int
    question: str = Field(max_length=40)
    number: int
    layout: list[int] = Field(sa_column=Column(JSON, nullable=False))
    kind: str = Field(max_length=10)
    expected: int | None = None
    attempt: int = 0
    live: bool = True


class Answer(_Table, table=True):
    """What was chosen in a trial; the key of the trial makes a second one impossible.

    Attributes:
        positions: from the best on: one in `choose` and `pairs`, all in `ranking`.
        milliseconds: from showing to choosing, by the participant's clock.
    """

    __tablename__ = "answer"

    trial_id: int = Field(
        sa_column=Column(Integer, ForeignKey("trial.id", ondelete="CASCADE"), primary_key=True, autoincrement=False)
    )
    positions: list[int] = Field(sa_column=Column(JSON, nullable=False))
    milliseconds: int
    answered: datetime = Field(sa_column=_time())
