"""What participants do, on SQLite and on PostgreSQL: nothing lost, nothing twice, and sets dealt evenly."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlmodel import select

from facecrafter.errors import ConfigError, DataError
from facecrafter.study.database import FILE, Database, open_database
from facecrafter.study.manifest import Manifest
from facecrafter.study.records import Answer, Invitation, Participant, Tally, Trial
from facecrafter.study.store import InvalidError, StaleError, Store, UnknownError, digest_of, tally
from tests.study.conftest import Clock

TRIALS = 5 * 2 + 2 + 1


def rows(store: Store, table: Any) -> list[Any]:
    with store.database.reading() as session:
        return list(session.exec(select(table)))


def go_on(store: Store, secret: str, count: int = 1000) -> int:
    """Answer the next trials; how many there were."""
    for done in range(count):
        trial = store.state(secret).trial
        if trial is None:
            return done
        assert trial.id is not None
        assert store.answer(secret, trial.id, trial.attempt, [0], 1500)
    return count


def live_counts(store: Store) -> dict[str, list[int]]:
    """How often each set of each question is dealt and not given back."""
    counts: dict[str, Counter[int]] = {}
    for one in rows(store, Trial):
        if one.kind == "answer" and one.live:
            counts.setdefault(one.question, Counter())[one.number] += 1
    return {key: [count[number] for number in range(6)] for key, count in counts.items()}


def test_a_participant_goes_through_all_trials_once(store: Store) -> None:
    store.join("one")
    state = store.state("one")
    assert (state.done, state.total, state.last) == (0, TRIALS, None)
    assert state.trial is not None and state.trial.kind == "practice"
    assert go_on(store, "one") == TRIALS
    state = store.state("one")
    assert state.trial is None and state.done == TRIALS
    assert rows(store, Participant)[0].finished is not None
    kinds = Counter(one.kind for one in rows(store, Trial))
    assert kinds == {"answer": 10, "attention": 2, "practice": 1}
    assert len(rows(store, Answer)) == TRIALS


def test_what_is_done_twice_is_done_once(store: Store) -> None:
    store.join("one")
    store.join("one")
    assert len(rows(store, Participant)) == 1
    trial = store.state("one").trial
    assert trial is not None and trial.id is not None
    assert store.answer("one", trial.id, 0, [1], 10) is True
    assert store.answer("one", trial.id, 0, [2], 20) is False
    assert [one.positions for one in rows(store, Answer)] == [[1]]
    assert store.undo("one", trial.id, 0) is True
    assert store.undo("one", trial.id, 0) is False
    assert rows(store, Answer) == []
    with pytest.raises(StaleError):  # the first answer, sent again by a slow connection
        store.answer("one", trial.id, 0, [1], 10)
    assert store.answer("one", trial.id, 1, [2], 30) is True
    assert store.withdraw("one") is True
    assert store.withdraw("one") is False


def test_only_the_last_answer_is_undone(store: Store) -> None:
    store.join("one")
    go_on(store, "one", 3)
    first = next(one for one in rows(store, Trial) if one.place == 0)
    with pytest.raises(StaleError, match="only the last"):
        store.undo("one", first.id, first.attempt)
    assert store.state("one").done == 3


def test_undoing_the_very_last_answer_opens_the_study_again(store: Store) -> None:
    store.join("one")
    go_on(store, "one")
    last = store.state("one").last
    assert last is not None and last.id is not None
    assert store.undo("one", last.id, last.attempt)
    assert rows(store, Participant)[0].finished is None
    assert go_on(store, "one") == 1


@pytest.mark.parametrize("positions", [[], [-1], [3], [0, 1], [0, 0]])
def test_answers_that_are_none_are_refused(store: Store, positions: list[int]) -> None:
    store.join("one")
    trial = store.state("one").trial
    assert trial is not None and trial.id is not None
    with pytest.raises(InvalidError, match="one of 0 to 2"):
        store.answer("one", trial.id, 0, positions, 10)


@pytest.mark.parametrize("positions", [[0], [0, 1, 1], [0, 1, 3], [0, 1, 2, 2]])
def test_a_ranking_names_every_option_once(
    made: Callable[..., tuple[Path, Manifest]],
    opened: Callable[[Manifest], Database],
    positions: list[int],
) -> None:
    study = made(design="ranking")[1]
    store = Store(study, opened(study))
    store.join("one")
    trial = store.state("one").trial
    assert trial is not None and trial.id is not None
    with pytest.raises(InvalidError, match="all of 0 to 2"):
        store.answer("one", trial.id, 0, positions, 10)
    assert store.answer("one", trial.id, 0, [2, 0, 1], 10)


def test_nobody_answers_for_another(store: Store) -> None:
    store.join("one")
    store.join("other")
    trial = store.state("one").trial
    assert trial is not None and trial.id is not None
    with pytest.raises(UnknownError):
        store.answer("other", trial.id, 0, [0], 10)
    with pytest.raises(UnknownError):
        store.undo("other", trial.id, 0)
    with pytest.raises(UnknownError):
        store.state("nobody")
    assert not store.may_see("nobody", "x.png")


def test_images_are_shown_to_whom_they_are_dealt(store: Store) -> None:
    store.join("one")
    trials = rows(store, Trial)
    shown = store.study.group(trials[0].question).sets[trials[0].number]
    assert store.may_see("one", shown.images[0][0]) and store.may_see("one", shown.references["source"])
    dealt = {one.number for one in trials if store.study.config.question(one.question).images == "diversity"}
    foreign = [one for number, one in enumerate(store.study.groups["diversity"].sets) if number not in dealt]
    assert foreign and not any(store.may_see("one", one.images[0][0]) for one in foreign)


def test_counts_differ_by_one_at_most(store: Store) -> None:
    for person in range(11):
        store.join(f"person {person}")
        for counts in live_counts(store).values():
            assert max(counts) - min(counts) <= 1


def test_sets_of_those_who_left_are_dealt_first(store: Store, clock: Clock) -> None:
    for person in range(9):
        store.join(f"person {person}")
        go_on(store, f"person {person}", person)
    clock.pass_hours(25)
    for person in range(9, 18):
        store.join(f"person {person}")
        go_on(store, f"person {person}")
    counts = live_counts(store)
    assert all(max(one) - min(one) <= 1 for one in counts.values())
    answered = {one.trial_id for one in rows(store, Answer)}
    live = {one.id for one in rows(store, Trial) if one.kind == "answer" and one.live}
    assert live <= answered  # what counts is answered


def test_after_a_weeks_pause_a_participant_goes_on(store: Store, clock: Clock) -> None:
    store.join("one")
    go_on(store, "one", 5)
    before = [one for one in rows(store, Answer)]
    clock.pass_hours(24 * 7)
    store.join("other")  # whose dealing gives back what is left unanswered
    gone = [one for one in rows(store, Trial) if not one.live]
    assert gone
    state = store.state("one")
    assert (state.done, state.total) == (5, TRIALS)
    assert all(one.live for one in rows(store, Trial))
    assert go_on(store, "one") == TRIALS - 5
    assert [one for one in rows(store, Answer) if one.trial_id in {b.trial_id for b in before}] == before
    mine = [one for one in rows(store, Trial) if one.participant_id == 1 and one.kind == "answer"]
    assert len({(one.question, one.number) for one in mine}) == len(mine) == 10
    with pytest.raises(StaleError):  # an answer to the trial as it was before the pause
        store.answer("one", gone[0].id, gone[0].attempt, [0], 10)


def test_an_answer_that_was_on_its_way_during_a_long_pause_counts(store: Store, clock: Clock) -> None:
    for person in range(3):
        store.join(f"person {person}")
    go_on(store, "person 0", 3)
    trial = store.state("person 0").trial
    assert trial is not None and trial.id is not None and trial.kind == "answer"
    clock.pass_hours(25)
    for person in range(3, 6):
        store.join(f"person {person}")  # whose dealing gives it back
    assert not next(one for one in rows(store, Trial) if one.id == trial.id).live
    assert store.answer("person 0", trial.id, trial.attempt, [1], 10)
    assert not store.answer("person 0", trial.id, trial.attempt, [2], 10)
    revived = next(one for one in rows(store, Trial) if one.id == trial.id)
    assert revived.live and (revived.number, revived.layout) == (trial.number, trial.layout)
    assert max(max(one) - min(one) for one in live_counts(store).values()) <= 2
    assert store.state("person 0").done == 4 and go_on(store, "person 0") == TRIALS - 4
    mine = [one for one in rows(store, Trial) if one.participant_id == 1 and one.kind == "answer"]
    assert len({(one.question, one.number) for one in mine}) == len(mine) == 10
    for person in range(6, 9):
        store.join(f"person {person}")
    assert all(max(one) - min(one) <= 1 for one in live_counts(store).values())


def test_withdrawal_deletes_everything_of_one_alone(store: Store) -> None:
    for name in ("one", "other"):
        store.join(name)
        go_on(store, name, 4)
    kept = {one.trial_id for one in rows(store, Answer)} - {
        one.id for one in rows(store, Trial) if one.participant_id == 1
    }
    assert store.withdraw("one")
    assert {one.trial_id for one in rows(store, Answer)} == kept and len(kept) == 4
    assert [one.secret for one in rows(store, Participant)] == [digest_of("other")]
    assert {one.participant_id for one in rows(store, Trial)} == {2}
    with store.database.reading() as session:
        assert (tally(session, "joined"), tally(session, "withdrawn")) == (2, 1)


def test_personal_links_are_used_once(store: Store) -> None:
    codes = store.invite(2)
    assert len(set(codes)) == 2 and all(len(one) > 16 for one in codes)
    with pytest.raises(UnknownError):
        store.check_invitation("guess")
    with pytest.raises(UnknownError):
        store.join("guess", invited=True)
    store.check_invitation(codes[0])
    store.join(codes[0], invited=True)
    go_on(store, codes[0], 2)
    store.join(codes[0], invited=True)  # on another device
    assert store.state(codes[0]).done == 2 and len(rows(store, Participant)) == 1
    store.withdraw(codes[0])
    with pytest.raises(UnknownError):
        store.join(codes[0], invited=True)
    assert sorted(one.used for one in rows(store, Invitation)) == [False, True]


def test_no_token_is_stored(store: Store) -> None:
    code = store.invite(1)[0]
    store.join("a long secret token")
    texts = [str(one) for table in (Participant, Invitation, Tally, Trial) for one in rows(store, table)]
    assert not any("a long secret" in text or code in text for text in texts)


def test_many_at_once_lose_and_double_nothing(store: Store) -> None:
    def person(number: int) -> None:
        secret = f"person {number % 8}"  # each in two tabs
        store.join(secret)
        for _ in range(TRIALS):
            trial = store.state(secret).trial
            if trial is not None and trial.id is not None:
                store.answer(secret, trial.id, trial.attempt, [number % 3], 10)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(person, range(16)))
    assert len(rows(store, Participant)) == 8
    assert len(rows(store, Answer)) == 8 * TRIALS
    assert sorted(one.number for one in rows(store, Participant)) == list(range(8))
    for counts in live_counts(store).values():
        assert max(counts) - min(counts) <= 1


def test_the_same_seed_deals_the_same(made: Callable[..., tuple[Path, Manifest]], tmp_path: Path, clock: Clock) -> None:
    def dealt(folder: str, seed: int) -> list[tuple[Any, ...]]:
        study = made(seed=seed)[1]
        store = Store(study, open_database(tmp_path / folder, study.digest), clock)
        for person in range(3):
            store.join(f"{folder} {person}")
        return [(one.place, one.question, one.number, tuple(one.layout)) for one in rows(store, Trial)]

    assert dealt("a", 3) == dealt("b", 3) != dealt("c", 4)


# --- the database -----------------------------------------------------------------------------------------------------


def test_the_tables_are_those_of_the_migrations(store: Store) -> None:
    import facecrafter.study.migrations as migrations

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with store.database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.check(config)  # raises where the models differ
        command.downgrade(config, "base")
        connection.commit()
        command.upgrade(config, "head")
        connection.commit()
    assert rows(store, Participant) == []


def test_answers_stay_when_the_database_is_opened_again(store: Store, tmp_path: Path, url: str | None) -> None:
    store.join("one")
    go_on(store, "one", 3)
    store.database.close()
    again = Store(store.study, open_database(tmp_path, store.study.digest, url))
    assert again.state("one").done == 3
    again.database.close()


def test_the_database_of_another_study_is_refused(store: Store, tmp_path: Path, url: str | None) -> None:
    with pytest.raises(DataError, match="another study"):
        open_database(tmp_path, "0" * 16, url)


def test_sqlite_writes_ahead_and_to_the_disk(tmp_path: Path) -> None:
    database = open_database(tmp_path, "0" * 16)
    with database.reading() as session:
        connection = session.connection()
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    database.close()


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    open_database(tmp_path, "0" * 16).close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DataError, match="newer"):
        open_database(tmp_path, "0" * 16)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "URL"),
        ("mysql://localhost/x", "URL"),
        ("sqlite:///x", "URL"),
        ("postgresql+psycopg://someone:hidden@127.0.0.1:1/none", "cannot be used"),
    ],
)
def test_other_databases_are_refused_and_passwords_not_shown(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        open_database(tmp_path, "0" * 16, url)
    assert "hidden" not in str(error.value)
