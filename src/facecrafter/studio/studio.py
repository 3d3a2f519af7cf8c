"""The studio without its addresses: photos come in, jobs are queued, made, kept and looked up."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from facecrafter.errors import FaceCrafterError
from facecrafter.faces.photo_file import HeldPhoto
from facecrafter.studio import reproduce
from facecrafter.studio.catalog import model_view
from facecrafter.studio.making import Maker, Wish, checked
from facecrafter.studio.photos import MOST_PHOTO_BYTES, Photos, photo_id
from facecrafter.studio.schema import FileView, ImageRequest, JobView, Limits, ModelView
from facecrafter.studio.store import JobRow, Made, Store, now
from facecrafter.studio.worker import Task, Worker
from facecrafter.web.guard import FAILED

if TYPE_CHECKING:
    from facecrafter.pipelines.generate import FaceCrafter

Result = TypeVar("Result")
MOST_WAITING = 16
KEPT_BYTES = 500 * 2**20
CANCELLED = "it was cancelled"
NOT_KEPT = "its result could not be written to the server's database; the server's log has the reason"


@dataclass(frozen=True)
class Options:
    """How a studio is run.

    Attributes:
        database: where results are kept; None to keep nothing beyond the process.
        kept_bytes: of results, at most.
        waiting: jobs in the queue, at most.
        model: what chooses the model in :meth:`FaceCrafter.from_pretrained`, and differs from its usual.
    """

    database: Path | None = None
    kept_bytes: int = KEPT_BYTES
    waiting: int = MOST_WAITING
    model: Mapping[str, Any] = field(default_factory=lambda: {"model": "mini"})


class Studio:
    """One model, one worker, and what was made.

    Args:
        crafter: the model.
        options: how to run it.
    """

    def __init__(self, crafter: FaceCrafter, options: Options = Options()) -> None:
        self.options, self.photos = options, Photos()
        self.store = Store(options.database, options.kept_bytes)
        self.worker, self.maker = Worker(options.waiting), Maker(crafter)
        limits = Limits(photo_bytes=MOST_PHOTO_BYTES, waiting=options.waiting)
        self.model: ModelView = model_view(crafter, self.store.is_private, limits)
        self._tasks: dict[str, Task] = {}
        self._not_kept: set[str] = set()  # jobs that are over, and could not be written
        self._closing = False

    def close(self) -> None:
        """Stop the work, and close what is kept. What is not done counts as interrupted from the next start on."""
        self._closing = True
        self.worker.stop()
        self.store.close()

    def submit(self, request: ImageRequest, session: str, sent: Mapping[str, HeldPhoto]) -> JobView:
        """Queue a request.

        Args:
            request: what is asked for.
            session: whose page asks.
            sent: photos that came with it, by their ids.

        Raises:
            FaceCrafterError: it cannot be made.
            Busy: the queue is full, or the photos of what waits are too large.
        """
        wish = self._checked(request, sent)
        row = self._row(wish, session)
        job = row.id
        task = Task(lambda task: self.maker.make(wish, task), wish.work, request.preview)
        task.finished.append(lambda task: self.photos.let_go(wish.held))
        task.finished.append(lambda task: self._keep(job, task))
        self.photos.keep(wish.held)
        try:
            self.store.add(row)
            self._tasks[job] = task
            self.worker.submit(task)
        except BaseException:
            self._tasks.pop(job, None)
            self.photos.let_go(wish.held)
            self.store.remove([job])
            raise
        return self._view(row, task)

    def look(self, do: Callable[[Task], Result]) -> tuple[Task, Callable[[], Result]]:
        """Queue something short that needs the model: its task, and what gives its result once that is over.

        Raises:
            Busy: the queue is full.
        """
        task = Task(do, urgent=True)
        self.worker.submit(task)

        def result() -> Result:
            if task.error is not None:
                raise task.error
            if task.status != "done":
                raise FaceCrafterError("the server is ending; start it again")
            return task.result  # type: ignore[no-any-return]

        return task, result

    def task(self, job: str) -> Task | None:
        """A job's task, as long as it is not over."""
        return self._tasks.get(job)

    def end(self, job: str) -> JobView | None:
        """Cancel a job that is not over; remove one that is. What it was then; None where there is none."""
        task = self._tasks.get(job)
        if task is not None:
            self.worker.cancel(task)
            return self.view(job, task)
        found = self.view(job)
        if found is not None:
            self.store.remove([job])
        return found

    def listed(self, session: str) -> list[JobView]:
        """A visitor's jobs, the newest first."""
        if not session:
            return []
        return [self._view(row, self._tasks.get(row.id)) for row in self.store.listed(session)]

    def forget(self, session: str) -> None:
        """Remove all of a visitor's jobs that are over, with previews."""
        jobs = self.store.ids(session) if session else []
        self.store.remove([job for job in jobs if job not in self._tasks])

    def view(self, job: str, task: Task | None = None) -> JobView | None:
        """A job as the API shows it; None where there is none."""
        task = task or self._tasks.get(job)
        row = self.store.get(job)
        return None if row is None else self._view(row, task)

    def _checked(self, request: ImageRequest, sent: Mapping[str, HeldPhoto]) -> Wish:
        """The request with its photos by their ids, and these."""
        held: dict[str, HeldPhoto] = {}

        def kept(photo: Any) -> str:
            found = sent[photo] if isinstance(photo, str) and photo in sent else self.photos.get(photo)
            key = photo_id(found)
            held[key] = found
            return key

        named = {"identity": [kept(photo) for photo in request.identity]}
        for name in reproduce.PHOTOS:
            photo = getattr(request, name)
            named[name] = None if photo is None else kept(photo)  # type: ignore[assignment]
        return checked(request.model_copy(update=named), held, self.model)

    def _row(self, wish: Wish, session: str) -> JobRow:
        names = {photo: held.path.name for photo, held in wish.held.items()}
        model, job = dict(self.options.model), secrets.token_urlsafe(16)
        out = reproduce.folder(job)
        return JobRow(
            id=job,
            session=session,
            created=now(),
            preview=wish.request.preview,
            request=wish.request.model_dump_json(exclude_defaults=True),
            photos=json.dumps(names),
            command=reproduce.command(wish.request, names, model, out),
            python=reproduce.python(wish.request, names, model, out),
        )

    def _keep(self, job: str, task: Task) -> None:
        """Keep what became of a job; called in the worker's thread before its task is over."""
        made: list[Made] = []
        values: dict[str, Any] = {"seconds": round(task.seconds, 3)}
        if isinstance(task.error, FaceCrafterError):
            kind = type(task.error).__name__.removesuffix("Error").lower()
            values |= {"status": "failed", "error": kind.replace("noface", "no_face"), "message": str(task.error)}
        elif task.error is not None:
            values |= {"status": "failed", "error": "failed", "message": FAILED}
        elif task.result is None:
            if self._closing:
                return
            values |= {"status": "cancelled", "error": "cancelled", "message": CANCELLED}
        else:
            made, notes = task.result
            values |= {"status": "done", "notes": json.dumps(notes)}
        task.result = None
        try:
            self.store.change(job, made, **values)
        except Exception:
            self._not_kept.add(job)
            raise
        finally:
            self._tasks.pop(job, None)

    def _view(self, row: JobRow, task: Task | None) -> JobView:
        live = task is not None and not task.is_over and row.status == "queued"
        status = task.status if live and task is not None else row.status
        files = [] if live else self.store.files(row.id)
        error, message, photos = row.error, row.message, json.loads(row.photos)
        if row.status == "queued" and row.id in self._not_kept:
            status, error, message = "failed", "failed", NOT_KEPT
        return JobView(
            id=row.id,
            status=status,  # type: ignore[arg-type]
            progress=round(task.progress, 3) if live and task is not None else float(row.status == "done"),
            ahead=self.worker.ahead(task) if live and task is not None else 0,
            created=row.created,
            seconds=row.seconds,
            request=json.loads(row.request),
            photos=photos,
            error=error,
            message=message,
            notes=json.loads(row.notes) + reproduce.notes(photos),
            files=[
                FileView(name=name, kind=kind, url=f"/v1/jobs/{row.id}/files/{name}", **about)
                for name, kind, about in files
            ],
            command=row.command,
            python=row.python,
        )
