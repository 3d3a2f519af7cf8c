"""An application behind its guard, and the server that runs it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from facecrafter import __version__
from facecrafter.errors import FaceCrafterError
from facecrafter.web.binding import Binding
from facecrafter.web.bodies import MOST_TOGETHER, Bodies
from facecrafter.web.guard import FAILED, USUAL_RATE, Guard
from facecrafter.web.invalid import in_words
from facecrafter.web.rates import Rate

STATIC = Path(__file__).parent / "static"
MOST_CONNECTIONS = 256
MOST_SECONDS = 60  # for a server in a thread to start, and to end
MOST_BYTES = 2**20  # of a request's body, unless an application says more
# FastAPI can report on requests to whatever the environment names; nothing leaves this machine.
NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}


class Files(StaticFiles):
    """Files that a browser keeps, and asks each time whether they have changed."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """A file, or that the visitor has it already."""
        response = super().file_response(*arguments, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file; JavaScript by its own type, whatever this machine's registry of types says."""
        response = await super().get_response(path, scope)
        if path.endswith((".js", ".mjs")):
            response.headers["Content-Type"] = "text/javascript; charset=utf-8"
        return response


def application(
    title: str, most_bytes: int = MOST_BYTES, most_together: int = MOST_TOGETHER, **options: Any
) -> FastAPI:
    """An empty application: errors are sentences, the common stylesheet is at ``/static/web/base.css``, and the pages
    that show an API are left out, because they load scripts from elsewhere.

    Args:
        title: of the API.
        most_bytes: of a request's body; more is refused with 413.
        most_together: of the bodies of all requests in work; more is refused with 503.
        options: more of FastAPI's.
    """
    app = FastAPI(
        title=title,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        max_body_size=most_bytes,
        telemetry=NO_TELEMETRY,  # type: ignore[arg-type]
        **options,
    )
    app.add_middleware(Bodies, most_bytes=most_together)
    app.mount("/static/web", Files(directory=STATIC), name="web")
    app.add_exception_handler(FaceCrafterError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)
    return app


def guarded(app: FastAPI, binding: Binding, open_paths: Collection[str] = (), rate: Rate | None = USUAL_RATE) -> Guard:
    """The application as it is served; see :class:`Guard`."""
    return Guard(app, binding, open_paths, rate)


def serve(
    app: Guard, ready: Callable[[str], object], path: str = "/", most_connections: int = MOST_CONNECTIONS
) -> None:
    """Serve until Ctrl-C or SIGTERM. Requests are not logged: their addresses and contents are the visitors'.

    Args:
        app: guarded; its binding says where.
        ready: called with the address that a visitor opens, once it answers.
        path: of that address.
        most_connections: at once; a browser opens up to six.

    Raises:
        ConfigError: the address cannot be used.
    """
    listening = app.binding.listen()
    with listening:
        server = Server(app, lambda: ready(app.binding.url(listening.getsockname()[1], path)), most_connections)
        server.run(sockets=[listening])


@contextmanager
def serving(app: Guard, most_connections: int = MOST_CONNECTIONS) -> Iterator[str]:
    """Serve in a thread of this process while it lasts; gives the address, without a slash at its end.

    Raises:
        ConfigError: the address cannot be used.
        FaceCrafterError: the server did not start.
    """
    ready = threading.Event()
    with app.binding.listen() as listening:
        server = Server(app, ready.set, most_connections)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        if not ready.wait(MOST_SECONDS):
            raise FaceCrafterError(f"the server did not start within {MOST_SECONDS} seconds")
        try:
            yield app.binding.url(listening.getsockname()[1]).rstrip("/")
        finally:
            server.should_exit = True
            thread.join(MOST_SECONDS)


class Server(uvicorn.Server):
    """uvicorn without a log of requests.

    Args:
        app: guarded.
        ready: called once it answers.
        most_connections: at once.
    """

    def __init__(
        self, app: Guard, ready: Callable[[], object] = lambda: None, most_connections: int = MOST_CONNECTIONS
    ) -> None:
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,  # a visitor could claim to be anyone
                limit_concurrency=most_connections,
                timeout_graceful_shutdown=3,
                ws="none",
            )
        )
        self._ready = ready

    async def startup(self, sockets: Any = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def refusal(status: int, error: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer that says in a sentence why something is refused."""
    return JSONResponse({"error": error, "message": message}, status, headers)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    kind = type(error).__name__.removesuffix("Error").lower() or "failed"
    return refusal(422, {"noface": "no_face"}.get(kind, kind), str(error))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return refusal(422, "invalid", in_words(error.errors()))


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return refusal(500, "failed", FAILED)  # and the guard logs it


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    names = {404: "not_found", 405: "not_allowed", 413: "too_large", 503: "busy"}
    text = {404: "there is nothing here", 413: "the request is larger than this server reads"}.get(error.status_code)
    plain = error.detail in ("Not Found", "Content Too Large", "Request Entity Too Large")
    message = text if text and plain else str(error.detail)
    return refusal(error.status_code, names.get(error.status_code, "refused"), message, dict(error.headers or {}))
