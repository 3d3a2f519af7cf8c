"""A study's database: SQLite in the study's folder, or PostgreSQL by a URL; tables by Alembic's migrations."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, create_engine

from facecrafter.errors import ConfigError, DataError, reason_of
from facecrafter.study.records import Tally
from facecrafter.web.database import engine_of

FILE = "study.sqlite"
POOL = 10  # connections to PostgreSQL at once
# The key of the advisory lock under which sets are dealt in PostgreSQL.
DEALING = 0x46614372
_migrating = threading.Lock()  # Alembic's context is one for the process


class Database:
    """Connections to one study's database.

    Args:
        engine: of SQLite or PostgreSQL, with the study's tables.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"
        # SQLite asks again and again whether another writer is done, and gives up; a lock hands on.
        self._turn = threading.Lock() if self._is_sqlite else nullcontext()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads, all of it at one moment."""
        level = {} if self._is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with self.engine.connect().execution_options(**level) as connection, Session(connection) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are all there, on the disk, when it ends; none of them where something is raised.

        In SQLite there is one at a time. In PostgreSQL what must not happen twice is guarded by locks on rows.
        """
        with self._turn, self._connected() as connection, Session(connection, expire_on_commit=False) as session:
            yield session
            session.commit()

    def _connected(self) -> Connection:
        return self.engine.connect().execution_options(immediate=True)

    def lock_dealing(self, session: Session) -> None:
        """Let one transaction at a time deal sets, until it ends."""
        if not self._is_sqlite:
            session.connection().execute(text(f"SELECT pg_advisory_xact_lock({DEALING})"))

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def open_database(folder: Path, digest: str, url: str | None = None) -> Database:
    """The database of a study, with its tables as this version has them.

    Args:
        folder: of the study; its SQLite file is :data:`FILE`.
        digest: of the study, which the database must be of.
        url: of a PostgreSQL database in place of that.

    Raises:
        ConfigError: the URL is none of PostgreSQL, or nobody answers there.
        OutputError: the file cannot be used.
        DataError: the database belongs to another study, or to a newer version.
    """
    engine = _postgresql(url) if url else _sqlite(folder / FILE)
    database = Database(engine)
    try:
        _migrate(engine)
        _claim(database, digest, url or str(folder / FILE))
    except SQLAlchemyError as error:
        database.close()
        raise ConfigError(
            f"the database {_shown(engine)} cannot be used ({_reason(error)}); check --database"
        ) from None
    except BaseException:
        database.close()
        raise
    return database


def _sqlite(path: Path) -> Engine:
    engine = engine_of(path)
    event.listen(engine, "connect", _manual_begin)
    event.listen(engine, "begin", _begin)
    engine.dispose()  # what was opened before the listeners
    return engine


def _manual_begin(connection: Any, _: Any) -> None:
    """Let no BEGIN come from the driver, whose transactions would begin as readers and fail when they want to write.
    Answers that were acknowledged are on the disk even when the machine loses power."""
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous = FULL")


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _postgresql(url: str) -> Engine:
    try:
        if make_url(url).get_backend_name() == "postgresql":
            return create_engine(url, pool_size=POOL, max_overflow=POOL, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; run: pip install 'facecrafter[study]'") from None
    except SQLAlchemyError:
        pass
    raise ConfigError(
        "--database is a URL as postgresql+psycopg://USER:PASSWORD@HOST/DATABASE; without it SQLite is used"
    )


def _shown(engine: Engine) -> str:
    """Its address without the password."""
    return engine.url.render_as_string(hide_password=True)


def _reason(error: SQLAlchemyError) -> str:
    cause = getattr(error, "orig", None)
    return reason_of(cause if isinstance(cause, Exception) else error)


def _migrate(engine: Engine) -> None:
    """Bring the tables to this version.

    Raises:
        DataError: they are of a newer one.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with _migrating, engine.connect().execution_options(immediate=True) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({DEALING})"))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise DataError(f"the database {_shown(engine)} is of a newer facecrafter ({error}); update it") from None
        connection.commit()


def _claim(database: Database, digest: str, name: str) -> None:
    """Mark a new database as this study's; refuse that of another one."""
    with database.writing() as session:
        database.lock_dealing(session)
        found = session.get(Tally, "study")
        if found is None:
            session.add(Tally(name="study", value=digest))
        elif found.value != digest:
            shown = _shown(database.engine) if "://" in name else name
            raise DataError(f"{shown} holds the answers of another study; move it away, or name another database")
