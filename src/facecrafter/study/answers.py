"""Answers out of the database: for statistics as arrays, and as rows for the export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session, col, select

from facecrafter.study.config import BETWEEN
from facecrafter.study.manifest import Manifest
from facecrafter.study.records import Answer, Participant, Trial

COLUMNS = (
    "participant",
    "finished",
    "place",
    "question",
    "set",
    "kind",
    "shown",
    "chosen",
    "positions",
    "expected",
    "failed_checks",
    "milliseconds",
    "answered",
)


@dataclass(frozen=True)
class Choices:
    """The answers to one question.

    Attributes:
        methods: how many there are.
        participants, sets: ``(N,)``, by their numbers.
        layouts: ``(N, L)``, the methods from left to right.
        orders: ``(N, K)``, the methods from the best on: K is 1, or L in a ranking.
    """

    methods: int
    participants: NDArray[np.int64]
    sets: NDArray[np.int64]
    layouts: NDArray[np.int64]
    orders: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.participants)

    @property
    def is_ranking(self) -> bool:
        """Whether answers are orders of all that was shown."""
        return self.orders.shape[1] > 1

    def of(self, wanted: NDArray[np.bool_]) -> Choices:
        """Some of the answers, by ``(N,)``."""
        return Choices(
            self.methods, self.participants[wanted], self.sets[wanted], self.layouts[wanted], self.orders[wanted]
        )


@dataclass(frozen=True)
class Given:
    """One answer beside its trial."""

    participant: Participant
    trial: Trial
    answer: Answer
    failed_checks: int


def given(session: Session) -> list[Given]:
    """All answers, by participant and place, each with how many attention checks its participant failed."""
    query = (
        select(Participant, Trial, Answer)
        .join(Trial, col(Trial.participant_id) == Participant.id)
        .join(Answer, col(Answer.trial_id) == Trial.id)
        .order_by(col(Participant.number), col(Trial.place))
    )
    found = [(participant, trial, answer) for participant, trial, answer in session.exec(query)]
    failed: Counter[int] = Counter()
    for participant, trial, answer in found:
        failed[participant.number] += trial.kind == "attention" and answer.positions[0] != trial.expected
    return [Given(participant, trial, answer, failed[participant.number]) for participant, trial, answer in found]


def choices(answers: Sequence[Given], question: str, methods: int, width: int, places: int) -> Choices:
    """The counted answers to a question, neither practice nor attention checks.

    Args:
        answers: from :func:`given`.
        question: its key.
        methods: how many there are.
        width: options a trial.
        places: positions an answer: 1, or ``width`` in a ranking.
    """
    rows = [one for one in answers if one.trial.question == question and one.trial.kind == "answer"]
    orders = [[one.trial.layout[position] for position in one.answer.positions] for one in rows]
    return Choices(
        methods,
        np.array([one.participant.number for one in rows], np.int64),
        np.array([one.trial.number for one in rows], np.int64),
        np.array([one.trial.layout for one in rows], np.int64).reshape(len(rows), width),
        np.array(orders, np.int64).reshape(len(rows), places),
    )


def rows(answers: Sequence[Given], study: Manifest) -> Iterator[dict[str, Any]]:
    """The export: a row an answer, with :data:`COLUMNS`. Participants are numbers in the order of joining."""
    for one in answers:
        group = study.group(one.trial.question)
        shown = [group.methods[method] for method in one.trial.layout]
        chosen = [shown[position] for position in one.answer.positions]
        yield {
            "participant": one.participant.number,
            "finished": int(one.participant.finished is not None),
            "place": one.trial.place,
            "question": one.trial.question,
            "set": group.sets[one.trial.number].name,
            "kind": one.trial.kind,
            "shown": BETWEEN.join(shown),
            "chosen": BETWEEN.join(chosen),
            "positions": " ".join(str(position + 1) for position in one.answer.positions),
            "expected": "" if one.trial.expected is None else one.trial.expected + 1,
            "failed_checks": one.failed_checks,
            "milliseconds": one.answer.milliseconds,
            "answered": _utc(one.answer.answered),
        }


def _utc(time: datetime) -> str:
    """A time by ISO 8601. SQLite gives it in UTC without a zone, PostgreSQL in the zone of the connection."""
    return (time.astimezone(UTC) if time.tzinfo else time).replace(tzinfo=None).isoformat() + "Z"
