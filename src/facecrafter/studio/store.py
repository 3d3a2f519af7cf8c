"""Jobs and the files they made, in SQLite, up to a size."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Column, LargeBinary, delete, func, update
from sqlmodel import Field, Session, SQLModel, col, select

from facecrafter.errors import OutputError
from facecrafter.io import lock
from facecrafter.web.database import engine_of

MOST_PREVIEWS = 24
MOST_UNDONE = 100  # jobs that failed, were cancelled or interrupted: they have no bytes that count
AT_ONCE = 1000  # jobs that one statement names; SQLite takes 32,766 values
PRIVATE_BYTES = 64 * 2**20
UNDONE = ("failed", "cancelled", "interrupted")
INTERRUPTED = "the server ended before this was made; ask for it again"


class JobRow(SQLModel, table=True):
    """A job. Times are seconds since 1970."""

    __tablename__ = "studio_job"
    id: str = Field(primary_key=True)
    session: str = Field(default="", index=True)
    created: float
    seconds: float | None = None
    status: str = "queued"
    preview: bool = False
    request: str
    photos: str = "{}"
    error: str | None = None
    message: str | None = None
    notes: str = "[]"
    command: str = ""
    python: str = ""
    bytes: int = 0


class FileRow(SQLModel, table=True):
    """A file that a job made."""

    __tablename__ = "studio_file"
    job: str = Field(primary_key=True, foreign_key="studio_job.id")
    name: str = Field(primary_key=True)
    kind: str
    place: int
    content: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    about: str = "{}"


@dataclass(frozen=True)
class Made:
    """A file before it is kept.

    Attributes:
        name: of the file.
        kind: ``image``, ``strip`` or ``loop``.
        content: its bytes.
        about: what else is known of it, for JSON.
    """

    name: str
    kind: str
    content: bytes
    about: dict[str, Any] = field(default_factory=dict)


class Store:
    """What is kept. A database has one server: what its jobs did not finish, nobody else will.

    Args:
        path: the database; None to keep nothing beyond this process.
        most_bytes: of all files together; the oldest jobs go first.

    Raises:
        OutputError: another server has the database, or it cannot be used.
    """

    def __init__(self, path: Path | None, most_bytes: int) -> None:
        self.is_private, self._most = path is None, PRIVATE_BYTES if path is None else most_bytes
        self._lock = None if path is None else reserved(path)
        try:
            self._engine = engine_of(path)
        except OutputError:
            if self._lock is not None:
                self._lock.close()
            raise
        tables = [SQLModel.metadata.tables[one.__tablename__] for one in (JobRow, FileRow)]
        SQLModel.metadata.create_all(self._engine, tables=tables)
        with Session(self._engine) as session:
            ended = {"status": "interrupted", "error": "interrupted", "message": INTERRUPTED}
            session.execute(update(JobRow).where(col(JobRow.status).in_(("queued", "running"))).values(**ended))
            session.commit()
        self._forget_oldest()

    def add(self, row: JobRow) -> None:
        """Keep a new job."""
        with Session(self._engine, expire_on_commit=False) as session:
            session.add(row)
            session.commit()

    def change(self, job: str, made: Sequence[Made] = (), **values: Any) -> None:
        """Change a job, and keep what it made, both or neither."""
        size = sum(len(one.content) for one in made)
        with Session(self._engine) as session:
            row = session.get(JobRow, job)
            if row is None:
                return
            for name, value in values.items():
                setattr(row, name, value)
            row.bytes += size
            for place, one in enumerate(made):
                about = json.dumps(one.about)
                session.add(
                    FileRow(job=job, name=one.name, kind=one.kind, place=place, content=one.content, about=about)
                )
            session.commit()
        self._forget_oldest()

    def get(self, job: str) -> JobRow | None:
        """A job by its id."""
        with Session(self._engine) as session:
            return session.get(JobRow, job)

    def listed(self, owner: str, most: int = 60) -> list[JobRow]:
        """A visitor's jobs, the newest first, without previews."""
        wanted = select(JobRow).where(JobRow.session == owner, col(JobRow.preview).is_(False))
        with Session(self._engine) as session:
            return list(session.exec(wanted.order_by(col(JobRow.created).desc()).limit(most)))

    def ids(self, owner: str) -> list[str]:
        """All of a visitor's jobs, with previews."""
        with Session(self._engine) as session:
            return list(session.exec(select(JobRow.id).where(JobRow.session == owner)))

    def files(self, job: str) -> list[tuple[str, str, dict[str, Any]]]:
        """The names and kinds of a job's files, and what is known of each."""
        parts = select(FileRow.name, FileRow.kind, FileRow.about)
        wanted = parts.where(FileRow.job == job).order_by(col(FileRow.place))
        with Session(self._engine) as session:
            return [(name, kind, json.loads(about)) for name, kind, about in session.exec(wanted)]

    def content(self, job: str, name: str) -> bytes | None:
        """A file."""
        with Session(self._engine) as session:
            row = session.get(FileRow, (job, name))
            return None if row is None else row.content

    def remove(self, jobs: Sequence[str]) -> None:
        """Forget jobs and what they made."""
        with Session(self._engine) as session:
            for first in range(0, len(jobs), AT_ONCE):
                some = jobs[first : first + AT_ONCE]
                session.execute(delete(FileRow).where(col(FileRow.job).in_(some)))
                session.execute(delete(JobRow).where(col(JobRow.id).in_(some)))
            session.commit()

    def close(self) -> None:
        """Close the database, which another server may have then."""
        self._engine.dispose()
        if self._lock is not None:
            self._lock.close()

    def _forget_oldest(self) -> None:
        """Remove what is beyond the limits: of previews, of jobs that made nothing, and of bytes."""
        status, newest = col(JobRow.status), col(JobRow.created).desc()
        over = status.in_(("done", *UNDONE))
        with Session(self._engine) as session:
            previews = select(JobRow.id).where(over, col(JobRow.preview)).order_by(newest)
            undone = select(JobRow.id).where(status.in_(UNDONE)).order_by(newest)
            gone = {*session.exec(previews.offset(MOST_PREVIEWS)), *session.exec(undone.offset(MOST_UNDONE))}
            size = session.exec(select(func.coalesce(func.sum(JobRow.bytes), 0))).one()
            oldest = list(session.exec(select(JobRow.id, JobRow.bytes).where(over).order_by(col(JobRow.created))))
        size -= sum(own for job, own in oldest if job in gone)
        for job, own in oldest:
            if size <= self._most:
                break
            if job not in gone:
                gone.add(job)
                size -= own
        if gone:
            self.remove(list(gone))


def reserved(path: Path) -> IO[bytes]:
    """A file beside a database, open and locked: no other server can have the database until it is closed, or this
    process ends. The file stays. It is not the database itself, whose own locks closing it would end.

    Raises:
        OutputError: another server has the database, or the folder cannot be written to.
    """
    place = path.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(f"{place}.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"the database {path} cannot be used ({reason}); choose another folder") from None
    if not lock(file):
        file.close()
        raise OutputError(
            f"another studio or API has the database {path}; end it, give this one its own with --keep FILE, or keep "
            "nothing with --private"
        )
    return file


def now() -> float:
    """Seconds since 1970."""
    return time.time()
