"""What participants do, as transactions: join, see a trial, answer, undo, withdraw. Doing one twice changes nothing."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import delete, func, update
from sqlmodel import Session, col, select

from facecrafter.errors import FaceCrafterError
from facecrafter.study import design
from facecrafter.study.config import MOST_HOURS
from facecrafter.study.database import Database
from facecrafter.study.design import Dealt
from facecrafter.study.manifest import Manifest
from facecrafter.study.records import Answer, Invitation, Participant, Tally, Trial, now

LONGEST_MILLISECONDS = 24 * 3600 * 1000


class UnknownError(FaceCrafterError):
    """A token, link or trial that is nobody's."""


class StaleError(FaceCrafterError):
    """An answer to what is no longer asked: it was undone, or dealt again, in the meantime."""


class InvalidError(FaceCrafterError):
    """An answer that is none of the trial's."""


@dataclass(frozen=True)
class State:
    """Where a participant is: the open trial, None at the end; how many of all are answered; and the last answered
    one, which can be undone."""

    trial: Trial | None
    done: int
    total: int
    last: Trial | None
    upcoming: Trial | None


def digest_of(secret: str) -> str:
    """How a token or a code is stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Store:
    """A study and its database.

    Args:
        study: as built.
        database: of it.
        clock: the time, for tests.
    """

    def __init__(self, study: Manifest, database: Database, clock: Callable[[], datetime] = now) -> None:
        self.study, self.database, self.clock = study, database, clock

    # --- joining ------------------------------------------------------------------------------------------------------

    def invite(self, count: int) -> list[str]:
        """New personal codes, each for one participant."""
        codes = [secrets.token_urlsafe(16) for _ in range(count)]
        with self.database.writing() as session:
            session.add_all([Invitation(code=digest_of(code)) for code in codes])
        return codes

    def check_invitation(self, code: str) -> None:
        """Make sure that a personal code can be used.

        Raises:
            UnknownError: there is no such code, or its participant has withdrawn.
        """
        with self.database.reading() as session:
            _invitation(session, code)

    def join(self, secret: str, invited: bool = False) -> None:
        """Let somebody who has agreed take part. Doing it again with the same token changes nothing.

        Args:
            secret: a new random token; where the study asks for personal links, the code of one.
            invited: it is such a code.

        Raises:
            UnknownError: the code is not valid.
        """
        with self.database.writing() as session:
            self.database.lock_dealing(session)
            if _participant(session, secret) is not None:
                return
            invitation = _invitation(session, secret) if invited else None
            self._release(session)
            participant = self._add(session, secret)
            if invitation is not None:
                invitation.used, invitation.participant_id = True, participant.id
                session.add(invitation)

    def _add(self, session: Session, secret: str) -> Participant:
        number = _count(session, "joined")
        time = self.clock()
        participant = Participant(number=number, secret=digest_of(secret), joined=time, active=time)
        session.add(participant)
        session.flush()
        assert participant.id is not None
        config = self.study.config
        rng = self._rng(number)
        hands = [(one.key, self._hand(session, one.key, config.sets_a_participant, rng)) for one in config.questions]
        planned = design.session(hands, config.attention_checks, config.practice, rng)
        session.add_all(
            [
                Trial(
                    participant_id=participant.id,
                    place=place,
                    question=one.question,
                    number=one.set,
                    layout=list(one.layout),
                    kind=one.kind,
                    expected=one.expected,
                )
                for place, one in enumerate(planned)
            ]
        )
        return participant

    def _rng(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.study.config.seed, *numbers])

    def _hand(
        self, session: Session, question: str, count: int, rng: np.random.Generator, without: Sequence[int] = ()
    ) -> list[tuple[int, design.Layout]]:
        """Deal some sets of a question, by what is dealt and not given back."""
        rows = session.exec(
            select(Trial.number, Trial.layout).where(
                Trial.question == question, Trial.kind == "answer", col(Trial.live).is_(True)
            )
        )
        dealt = Dealt.of((number, tuple(layout)) for number, layout in rows)
        group = self.study.group(question)
        return design.deal(self.study.config.design, len(group.methods), len(group.sets), count, dealt, rng, without)

    # --- dropping out and coming back ---------------------------------------------------------------------------------

    def _release(self, session: Session) -> None:
        """Give back what participants left unanswered for long."""
        since = self.clock() - timedelta(hours=min(self.study.config.return_after_hours, MOST_HOURS))
        # Locked, so that nobody of them answers meanwhile; who does so just now is not gone.
        left = session.exec(
            select(Participant.id)
            .where(col(Participant.finished).is_(None), col(Participant.active) < since)
            .with_for_update(skip_locked=True)
        ).all()
        if left:
            session.execute(
                update(Trial)
                .where(
                    col(Trial.participant_id).in_(left),
                    col(Trial.id).not_in(select(Answer.trial_id)),
                    col(Trial.live).is_(True),
                    col(Trial.kind) == "answer",
                )
                .values(live=False)
                .execution_options(synchronize_session=False)
            )

    def _come_back(self, session: Session, participant: Participant) -> None:
        """Deal somebody who comes back after long new sets in place of those that were given back."""
        trials = _trials(session, participant)
        gone = [one for one in trials if not one.live]
        if not gone:
            return
        self.database.lock_dealing(session)
        returned = sum(one.attempt for one in trials) + len(trials)
        rng = self._rng(participant.number, returned, len(gone))
        for question in dict.fromkeys(one.question for one in gone):
            places = [one for one in gone if one.question == question]
            kept = [one.number for one in trials if one.question == question and one.live and one.kind == "answer"]
            for trial, (number, layout) in zip(
                places, self._hand(session, question, len(places), rng, kept), strict=True
            ):
                trial.number, trial.layout, trial.live, trial.attempt = number, list(layout), True, trial.attempt + 1
                session.add(trial)

    # --- one participant ----------------------------------------------------------------------------------------------

    def knows(self, secret: str) -> bool:
        """Whether a token is a participant's."""
        with self.database.reading() as session:
            return _participant(session, secret) is not None

    def state(self, secret: str) -> State:
        """Where a participant is.

        Raises:
            UnknownError: the token is nobody's.
        """
        with self.database.reading() as session:
            participant = _known(session, secret)
            trials = _trials(session, participant)
            state = _state(trials, _answered(session, participant))
        if any(not one.live for one in trials):
            with self.database.writing() as session:
                participant = _known(session, secret, lock=True)
                self._come_back(session, participant)
                participant.active = self.clock()
                session.add(participant)
                session.flush()
                state = _state(_trials(session, participant), _answered(session, participant))
        return state

    def answer(self, secret: str, trial_id: int, attempt: int, positions: Sequence[int], milliseconds: int) -> bool:
        """Keep an answer. It is on the disk when this returns. One to a trial that was given back counts too, while
        its participant was dealt nothing in its place: it was sent late, over a lost connection.

        Args:
            secret: the participant's token.
            trial_id: the trial.
            attempt: the trial's, as it was shown.
            positions: what was chosen, the best first.
            milliseconds: how long it took, from 0 to :data:`LONGEST_MILLISECONDS`.

        Returns:
            Whether it is new; False where the trial has an answer already, which stays as it is.

        Raises:
            UnknownError: the token is nobody's, or the trial is none of theirs.
            StaleError: the trial was undone or dealt again after it was shown.
            InvalidError: there are no such positions.
        """
        with self.database.writing() as session:
            participant = _known(session, secret, lock=True)
            trial = session.get(Trial, trial_id)
            if trial is None or trial.participant_id != participant.id:
                raise UnknownError("there is no such trial; reload the page")
            self._check(trial, positions)
            if attempt != trial.attempt:
                raise StaleError("this question has changed in the meantime; reload the page")
            if session.get(Answer, trial_id) is not None:
                return False
            if not trial.live:
                self.database.lock_dealing(session)
                trial.live = True
                session.add(trial)
            time = self.clock()
            session.add(Answer(trial_id=trial_id, positions=list(positions), milliseconds=milliseconds, answered=time))
            session.flush()
            participant.active = time
            if len(_answered(session, participant)) == len(_trials(session, participant)):
                participant.finished = time
            session.add(participant)
            return True

    def _check(self, trial: Trial, positions: Sequence[int]) -> None:
        shown = len(trial.layout)
        wanted = shown if self.study.config.design == "ranking" else 1
        if len(positions) != wanted or len(set(positions)) < wanted or not all(0 <= one < shown for one in positions):
            what = f"all of 0 to {shown - 1} in order" if wanted > 1 else f"one of 0 to {shown - 1}"
            raise InvalidError(f"the answer is {what}")

    def undo(self, secret: str, trial_id: int, attempt: int) -> bool:
        """Take back a participant's last answer.

        Returns:
            Whether it was there; False where it is taken back already.

        Raises:
            UnknownError: the token is nobody's, or the trial is none of theirs.
            StaleError: another trial was answered after it.
        """
        with self.database.writing() as session:
            participant = _known(session, secret, lock=True)
            trial = session.get(Trial, trial_id)
            if trial is None or trial.participant_id != participant.id:
                raise UnknownError("there is no such trial; reload the page")
            answer = session.get(Answer, trial_id)
            if answer is None or trial.attempt != attempt:
                return False
            last = _state(_trials(session, participant), _answered(session, participant)).last
            if last is None or last.id != trial_id:
                raise StaleError("only the last answer can be undone; reload the page")
            session.delete(answer)
            trial.attempt += 1
            participant.finished, participant.active = None, self.clock()
            session.add_all([trial, participant])
            return True

    def withdraw(self, secret: str) -> bool:
        """Delete a participant and all that they answered; only how many withdrew is kept.

        Returns:
            Whether there was one; False where they have withdrawn already.
        """
        with self.database.writing() as session:
            participant = _participant(session, secret, lock=True)
            if participant is None:
                return False
            trials = select(Trial.id).where(Trial.participant_id == participant.id)
            session.execute(delete(Answer).where(col(Answer.trial_id).in_(trials)))
            session.execute(delete(Trial).where(col(Trial.participant_id) == participant.id))
            session.execute(
                update(Invitation).where(col(Invitation.participant_id) == participant.id).values(participant_id=None)
            )
            session.execute(delete(Participant).where(col(Participant.id) == participant.id))
            self.database.lock_dealing(session)
            _count(session, "withdrawn")
            return True

    def may_see(self, secret: str, image: str) -> bool:
        """Whether an image is in one of a participant's trials."""
        with self.database.reading() as session:
            participant = _participant(session, secret)
            if participant is None:
                return False
            for trial in _trials(session, participant):
                shown = self.study.group(trial.question).sets[trial.number]
                if image in shown.references.values() or any(image in shown.images[one] for one in trial.layout):
                    return True
        return False


def _participant(session: Session, secret: str, lock: bool = False) -> Participant | None:
    query = select(Participant).where(Participant.secret == digest_of(secret))
    return session.exec(query.with_for_update() if lock else query).first()


def _invitation(session: Session, code: str) -> Invitation:
    found = session.exec(select(Invitation).where(Invitation.code == digest_of(code))).first()
    if found is None or (found.used and found.participant_id is None):
        raise UnknownError("this link is not valid; ask for a new one")
    return found


def _known(session: Session, secret: str, lock: bool = False) -> Participant:
    participant = _participant(session, secret, lock)
    if participant is None:
        raise UnknownError("you are not taking part yet, or have withdrawn; open your link again")
    return participant


def _trials(session: Session, participant: Participant) -> list[Trial]:
    query = select(Trial).where(Trial.participant_id == participant.id).order_by(col(Trial.place))
    return list(session.exec(query))


def _answered(session: Session, participant: Participant) -> set[int]:
    query = select(Answer.trial_id).join(Trial, col(Trial.id) == Answer.trial_id)
    return set(session.exec(query.where(Trial.participant_id == participant.id)))


def _state(trials: Sequence[Trial], answered: set[int]) -> State:
    done = [one for one in trials if one.id in answered]
    open_ = [one for one in trials if one.id not in answered]
    last = done[-1] if done else None
    return State(open_[0] if open_ else None, len(done), len(trials), last, open_[1] if len(open_) > 1 else None)


def _count(session: Session, name: str) -> int:
    """A tally before it is counted up by one."""
    tally = session.get(Tally, name) or Tally(name=name, value="0")
    before = int(tally.value)
    tally.value = str(before + 1)
    session.add(tally)
    session.flush()
    return before


def tally(session: Session, name: str) -> int:
    """How often something was counted."""
    found = session.get(Tally, name)
    return int(found.value) if found else 0


def totals(session: Session) -> tuple[int, int, int]:
    """How many participants and answers there are, and how many finished."""
    participants = session.exec(select(func.count()).select_from(Participant)).one()
    finished = session.exec(select(func.count()).select_from(Participant).where(col(Participant.finished).is_not(None)))
    answers = session.exec(select(func.count()).select_from(Answer)).one()
    return participants, answers, finished.one()
