"""The studio's addresses: its page, and an API for everyone else."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from PIL import Image
from pydantic import Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser

from facecrafter import __version__
from facecrafter.errors import ConfigError
from facecrafter.faces.photo_file import HeldPhoto
from facecrafter.studio.catalog import controls as all_controls
from facecrafter.studio.photos import MOST_PHOTO_BYTES, UnknownPhotoError, photo_id, plain_name
from facecrafter.studio.schema import (
    MOST_PHOTOS,
    PHOTO_ID,
    WANTED,
    Controls,
    Error,
    Health,
    ImageRequest,
    JobView,
    Models,
    PhotoView,
)
from facecrafter.studio.studio import Studio
from facecrafter.studio.worker import Busy, Task
from facecrafter.web.invalid import in_words
from facecrafter.web.server import Files, application, refusal

STATIC = Path(__file__).parent / "static"
COOKIE = "facecrafter-session"
COOKIE_SECONDS = 365 * 24 * 3600
MOST_BYTES = 3 * MOST_PHOTO_BYTES  # of a request: some photos at once
MEDIA = {".png": "image/png", ".gif": "image/gif"}
PHOTO_FIELDS = ("identity", "target", "landmarks_from", "emotion_from")
Result = TypeVar("Result")

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": words}
    for status, words in {
        400: "The body cannot be read.",
        401: "The server's token is missing.",
        403: "The request comes from a page of another origin.",
        404: "There is no such thing, or no longer.",
        413: "The body is too large.",
        421: "The Host header is not this server's.",
        422: "It cannot be made; the message is a sentence for people.",
        429: "Too many at once; ask again after the seconds in Retry-After.",
        503: "Too many bytes are sent at once; send them again after the seconds in Retry-After.",
    }.items()
}
JobId = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_-]+$", examples=["Zk3v1oWq0mB7r2tJc9yXhA"])]
FileName = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_.,-]+$", examples=["00007.png"])]
PhotoIdPath = Annotated[str, Field(pattern=PHOTO_ID)]

_BINARY = {"type": "string", "format": "binary"}
IMAGES_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/ImageRequest"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["identity"],
                    "properties": {
                        "identity": {"type": "array", "items": _BINARY, "maxItems": MOST_PHOTOS},
                        **{name: _BINARY for name in PHOTO_FIELDS[1:]},
                        "request": {"type": "string", "description": "The rest, an ImageRequest in JSON."},
                    },
                }
            },
        },
    }
}
PHOTO_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["photo"], "properties": {"photo": _BINARY}}
            }
        },
    }
}


def studio_app(studio: Studio, page: bool = True) -> FastAPI:
    """The application of a studio, not yet guarded.

    Args:
        studio: what it serves; it is closed with the application.
        page: serve the page too, and not the API alone.
    """

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(studio.close)

    app = application("FaceCrafter", MOST_BYTES, lifespan=living, description=__doc__ or "")
    app.state.studio = studio
    app.include_router(api)
    app.add_exception_handler(Busy, _busy)
    app.add_exception_handler(UnknownPhotoError, _unknown_photo)
    schema = app.openapi

    def openapi() -> dict[str, Any]:
        found = schema()
        found["components"]["schemas"].setdefault("ImageRequest", _request_schema(found["components"]["schemas"]))
        return found

    app.openapi = openapi  # type: ignore[method-assign]
    if page:
        app.mount("/static/studio", Files(directory=STATIC), name="studio")
        app.add_api_route("/", _page, include_in_schema=False)
    return app


def _request_schema(schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema of a request, which is read by hand because it comes in two kinds; its parts go beside it."""
    own = ImageRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, part in own.pop("$defs", {}).items():
        schemas.setdefault(name, part)
    return own


def _studio(request: Request) -> Studio:
    return request.app.state.studio  # type: ignore[no-any-return]


def _session(request: Request) -> str:
    """Whose page asks; empty for programs."""
    return request.cookies.get(COOKIE, "")[:64]


async def _page(request: Request) -> Response:
    response = FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})
    if not _session(request):
        # A strict one would not come with a link that is followed from another site, and would be replaced here.
        response.set_cookie(COOKIE, secrets.token_urlsafe(24), COOKIE_SECONDS, httponly=True, samesite="lax")
    return response


api = APIRouter(responses=REFUSALS)


@api.get("/health")
async def health(request: Request) -> Health:
    """Whether the server works, and how busy it is."""
    worker = _studio(request).worker
    return Health(
        version=__version__, waiting=worker.waiting, most_waiting=worker.most_waiting, running=worker.is_running
    )


@api.get("/v1/models")
async def models(request: Request) -> Models:
    """The model that images are made by, its defaults and the server's limits."""
    return Models(models=[_studio(request).model])


@api.get("/v1/controls")
def controls(request: Request) -> Controls:
    """Every number, preset and emotion that can be asked for."""
    return all_controls(_studio(request).maker.crafter.following)


@api.post("/v1/photos", openapi_extra=PHOTO_BODY)
async def keep_photo(request: Request) -> PhotoView:
    """Send a photo, which is held in memory; the answer has its id and what its faces express."""
    studio, content, name = _studio(request), *await _sent_photo(request)
    photo = await run_in_threadpool(studio.photos.add, content, name)
    return await _looked(studio, lambda task: studio.maker.look(photo, task))


@api.post("/v1/perceive", openapi_extra=PHOTO_BODY)
async def perceive(request: Request) -> PhotoView:
    """What the faces of a photo express, as networks read it: pose, blendshapes, emotion. The photo is not held."""
    studio, content, name = _studio(request), *await _sent_photo(request)
    photo = HeldPhoto.of(content, plain_name(name))
    return await _looked(studio, lambda task: studio.maker.look(photo, task))


@api.get("/v1/photos/{photo}/face.png", response_class=Response, responses={200: {"content": {"image/png": {}}}})
async def face(request: Request, photo: PhotoIdPath) -> Response:
    """The face of a photo that is held, the chosen one of several, upright, 256 px a side."""
    studio = _studio(request)
    held = studio.photos.get(photo)
    studio.photos.keep({photo: held})
    try:
        pixels = await _looked(studio, lambda task: studio.maker.aligned(held))
    finally:
        studio.photos.let_go([photo])
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return Response(content.getvalue(), media_type="image/png")


@api.post("/v1/images", status_code=202, openapi_extra=IMAGES_BODY)
async def make_images(request: Request, response: Response) -> JobView:
    """Ask for images of a person. The answer is a job, whose address is in Location; the images come later."""
    wish, sent = await _wish(request)
    job = await run_in_threadpool(_studio(request).submit, wish, _session(request), sent)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job


@api.get("/v1/jobs")
def list_jobs(request: Request) -> list[JobView]:
    """The jobs of this browser, the newest first, without previews."""
    return _studio(request).listed(_session(request))


@api.delete("/v1/jobs", status_code=204)
def forget_jobs(request: Request) -> None:
    """Remove all jobs of this browser that are over, previews too, and their images."""
    _studio(request).forget(_session(request))


@api.get("/v1/jobs/{job}")
def get_job(request: Request, job: JobId) -> JobView:
    """A job, and the files that it made."""
    return _found(_studio(request).view(job))


@api.delete("/v1/jobs/{job}")
def end_job(request: Request, job: JobId) -> JobView:
    """Cancel a job that is not over, within one step; or remove one that is, and its files."""
    return _found(_studio(request).end(job))


@api.get(
    "/v1/jobs/{job}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def watch_job(request: Request, job: JobId) -> StreamingResponse:
    """A job's changes as server-sent events, each the job in JSON; the last one is the job when it is over."""
    studio = _studio(request)
    task = studio.task(job)
    first = _found(await run_in_threadpool(studio.view, job))

    async def events() -> AsyncIterator[str]:
        if task is None:
            yield _event(first)
            return
        async for _ in task.changes():
            if found := await run_in_threadpool(studio.view, job):
                yield _event(found)

    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@api.get(
    "/v1/jobs/{job}/files/{name}",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in MEDIA.values()}}},
)
def get_file(request: Request, job: JobId, name: FileName) -> Response:
    """A file that a job made: a PNG with its metadata and watermark, or a GIF."""
    content = _found(_studio(request).store.content(job, name))
    media = MEDIA.get(Path(name).suffix, "application/octet-stream")
    return Response(content, media_type=media, headers={"Content-Disposition": f'inline; filename="{name}"'})


def _found(value: Result | None) -> Result:
    if value is None:
        raise HTTPException(404)
    return value


def _event(job: JobView) -> str:
    return f"event: job\ndata: {job.model_dump_json()}\n\n"


async def _looked(studio: Studio, do: Callable[[Task], Result]) -> Result:
    """The result of something short that needs the model."""
    task, result = studio.look(do)
    try:
        await task.over()
    except BaseException:  # the visitor has gone
        studio.worker.cancel(task)
        raise
    return result()


async def _form(request: Request) -> FormData:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ConfigError("send the photo as multipart/form-data")
    # Larger files would go through a file on a disk; the body is no larger than this.
    MultiPartParser.spool_max_size = MOST_BYTES
    return await request.form(max_files=MOST_PHOTOS + 3, max_fields=4, max_part_size=2**20)


async def _sent_photo(request: Request) -> tuple[bytes, str]:
    """The bytes and the client's name of the photo in a form."""
    async with _closing(await _form(request)) as form:
        photo = form.get("photo")
        if not isinstance(photo, UploadFile):
            raise ConfigError("send a file in the form's field 'photo'")
        return await photo.read(), photo.filename or "photo"


async def _wish(request: Request) -> tuple[ImageRequest, dict[str, HeldPhoto]]:
    """A request in JSON, or in a form with its photos as files; and these, by their ids."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return _parsed(await request.body()), {}
    studio = _studio(request)
    async with _closing(await _form(request)) as form:
        _check_fields(form)
        text = form.get("request", "{}")
        assert isinstance(text, str)
        photos: dict[str, Any] = {}
        sent: dict[str, HeldPhoto] = {}
        for name in PHOTO_FIELDS:
            files = [one for one in form.getlist(name) if isinstance(one, UploadFile)]
            added = [studio.photos.add(await one.read(), one.filename or "photo") for one in files]
            ids = [photo_id(one) for one in added]
            sent |= zip(ids, added, strict=True)
            if ids:
                photos[name] = ids if name == "identity" else ids[-1]
        return _parsed(text.encode(), photos), sent


def _check_fields(form: FormData) -> None:
    """Refuse what would be left out of a request in a form.

    Raises:
        ConfigError: a field that is none, text in place of a file or the other way round, or one given twice.
    """
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) and name not in PHOTO_FIELDS:
            raise ConfigError(f"the form has no field '{name}' for a file; there are {', '.join(PHOTO_FIELDS)}")
        if isinstance(value, str) and name != "request":
            raise ConfigError(
                f"'{name}' is no text field of the form; put it into the field 'request', an ImageRequest in JSON"
            )
        if name != "identity" and len(form.getlist(name)) > 1:
            raise ConfigError(f"the form has several fields '{name}'; give one")


def _parsed(text: bytes, photos: dict[str, Any] | None = None) -> ImageRequest:
    try:
        content = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        raise ConfigError("the request is no JSON") from None
    if not isinstance(content, dict):
        raise ConfigError("the request is a JSON object, {...}")
    twice = [name for name in photos or {} if name in content]
    if twice:
        raise ConfigError(f"'{twice[0]}' is in the form and in its field 'request'; give it once")
    try:
        return ImageRequest.model_validate({**content, **(photos or {})})
    except ValidationError as error:
        words = in_words(error.errors(include_url=False, include_input=False), ImageRequest, WANTED)
        raise RequestValidationError([{"type": "in_words", "loc": (), "msg": words}]) from None


@asynccontextmanager
async def _closing(form: FormData) -> AsyncIterator[FormData]:
    try:
        yield form
    finally:
        await form.close()


async def _busy(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Busy)
    return refusal(429, "busy", str(error), {"Retry-After": str(error.seconds)})


async def _unknown_photo(request: Request, error: Exception) -> JSONResponse:
    return refusal(404, "unknown_photo", str(error))
