from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlmodel import Field, Session, SQLModel, select

from facecrafter.errors import OutputError
from facecrafter.web.database import engine_of


class Kept(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)


def pragma(engine: Engine, name: str) -> object:
    with engine.connect() as connection:
        return connection.execute(text(f"PRAGMA {name}")).scalar()


def test_a_database_is_its_owners_and_in_write_ahead_mode(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data.sqlite"
    engine = engine_of(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert pragma(engine, "journal_mode") == "wal"
    assert pragma(engine, "busy_timeout") == 10_000
    assert pragma(engine, "foreign_keys") == 1
    SQLModel.metadata.create_all(engine, tables=[Kept.__table__])
    with Session(engine) as session, Session(engine) as reader:
        session.add(Kept())
        session.flush()
        assert reader.exec(select(Kept)).all() == []  # a reader does not wait for a writer
        session.commit()
    engine.dispose()
    with Session(engine_of(path)) as session:
        assert len(session.exec(select(Kept)).all()) == 1


def test_one_in_memory_is_one_for_all_its_connections() -> None:
    engine = engine_of(None)
    SQLModel.metadata.create_all(engine, tables=[Kept.__table__])
    with Session(engine) as session:
        session.add(Kept())
        session.commit()
    with Session(engine) as session:
        assert len(session.exec(select(Kept)).all()) == 1


@pytest.mark.parametrize("in_memory", [True, False])
def test_many_threads_write_and_nothing_is_lost(tmp_path: Path, in_memory: bool) -> None:
    engine = engine_of(None if in_memory else tmp_path / "data.sqlite")
    SQLModel.metadata.create_all(engine, tables=[Kept.__table__])

    def write(_: int) -> None:
        with Session(engine) as session:
            session.add(Kept())
            session.flush()
            session.exec(select(Kept)).first()
            session.commit()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(100)))
    with Session(engine) as session:
        assert len(session.exec(select(Kept)).all()) == 100


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(OutputError, match="move it away"):
        engine_of(tmp_path / "text")
    with pytest.raises(OutputError, match="choose another folder"):
        engine_of(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another folder"):
        engine_of(tmp_path / "file" / "data.sqlite")


def test_a_lost_connection_leaves_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "data.sqlite"
    SQLModel.metadata.create_all(engine_of(path), tables=[Kept.__table__])
    cut = sqlite3.connect(path)
    cut.execute("INSERT INTO kept DEFAULT VALUES")
    cut.close()  # without a commit
    with Session(engine_of(path)) as session:
        assert session.exec(select(Kept)).all() == []
