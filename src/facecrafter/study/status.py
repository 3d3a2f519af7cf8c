"""How far a study is."""

from __future__ import annotations

from pydantic import BaseModel
from sqlmodel import Session, col, select

from facecrafter.study.design import chi_square_of_positions
from facecrafter.study.records import Answer, Trial
from facecrafter.study.store import Store, tally, totals


class Balance(BaseModel):
    """The answers to one question: how many, the fewest and the most a set, and the chi-square test of whether every
    method was shown equally often in each position."""

    question: str
    answers: int
    fewest: int
    most: int
    positions_p: float


class Status(BaseModel):
    """Counts over the whole study."""

    joined: int
    participants: int
    finished: int
    withdrawn: int
    answers: int
    questions: list[Balance]


def status_of(store: Store) -> Status:
    """Count what a database holds."""
    with store.database.reading() as session:
        participants, answers, finished = totals(session)
        return Status(
            joined=tally(session, "joined"),
            participants=participants,
            finished=finished,
            withdrawn=tally(session, "withdrawn"),
            answers=answers,
            questions=[_balance(session, store, one.key) for one in store.study.config.questions],
        )


def _balance(session: Session, store: Store, question: str) -> Balance:
    group = store.study.group(question)
    query = select(Trial.number, Trial.layout).join(Answer, col(Answer.trial_id) == Trial.id)
    rows = list(session.exec(query.where(Trial.question == question, Trial.kind == "answer")))
    counts = [0] * len(group.sets)
    for number, _ in rows:
        counts[number] += 1
    return Balance(
        question=question,
        answers=len(rows),
        fewest=min(counts),
        most=max(counts),
        positions_p=chi_square_of_positions([tuple(layout) for _, layout in rows], len(group.methods))[1],
    )
