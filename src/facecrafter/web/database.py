"""SQLite for servers: several readers and one writer at a time, and nothing half written after a crash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import QueuePool
from sqlmodel import create_engine

from facecrafter.errors import OutputError, reason_of

BUSY_MILLISECONDS = 10_000  # that one connection waits for another's write


def engine_of(path: Path | None, **options: Any) -> Engine:
    """An engine of a database in write-ahead mode; its tables are the caller's.

    Args:
        path: the file, made for its owner alone where there is none; None for a database in memory, which ends with the
            engine.
        options: more of :func:`sqlmodel.create_engine`.

    Raises:
        OutputError: the file cannot be used, or is no database.
    """
    shared = {"check_same_thread": False}
    if path is None:
        # One connection, which one thread at a time has: two would be in one transaction.
        engine = create_engine(
            "sqlite://", connect_args=shared, poolclass=QueuePool, pool_size=1, max_overflow=0, **options
        )
    else:
        _make(path)
        engine = create_engine(f"sqlite:///{path}", connect_args=shared, **options)
    event.listen(engine, "connect", _prepare)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT count(*) FROM sqlite_master"))
    except DatabaseError as error:
        engine.dispose()
        reason = reason_of(error.orig) if isinstance(error.orig, Exception) else "it is damaged"
        raise OutputError(f"the database {path} cannot be used ({reason}); move it away, or choose another") from None
    return engine


def _make(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"the database {path} cannot be used ({reason}); choose another folder") from None


def _prepare(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {BUSY_MILLISECONDS}",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
        "secure_delete = ON",  # what is deleted is overwritten: it was about people
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
