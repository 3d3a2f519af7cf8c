"""The study over HTTP: one page, what it asks for, and status and export for whoever has the admin token.

A participant is known by a random token in a cookie, which is made when the page is first opened and means nothing
until consent is given. No address of a visitor is stored or logged.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.routing import APIRoute

from facecrafter.errors import FaceCrafterError
from facecrafter.study import exchange, manifest
from facecrafter.study.exchange import refusals
from facecrafter.study.export import as_csv
from facecrafter.study.manifest import IMAGES
from facecrafter.study.records import Trial
from facecrafter.study.status import Status, status_of
from facecrafter.study.store import InvalidError, StaleError, State, Store, UnknownError, digest_of
from facecrafter.web.binding import Binding
from facecrafter.web.guard import Guard
from facecrafter.web.rates import Rate, RateLimit
from facecrafter.web.server import Files, application, guarded, refusal
from facecrafter.web.tokens import bearer, matches, new_token

STATIC = Path(__file__).parent / "static"
# A browser opens up to six, and a system often allows a process 1024 files.
MOST_CONNECTIONS = 900
COOKIE_SECONDS = 180 * 24 * 3600
# A whole lab, or a proxy before the server, is one address: what limits a visitor is the participant's own rate.
ADDRESS_RATE = Rate(burst=2000, per_second=200)
PARTICIPANT_RATE = Rate(burst=60, per_second=5)
JOINING_RATE = Rate(burst=300, per_second=5)
# Of an address: wrong codes and links. They do not count as joining, so that they keep nobody else out.
REFUSED_RATE = Rate(burst=100, per_second=1)
# Of a visitor's token, or of an address where there is none: a trial has up to some hundred images.
READING_RATE = Rate(burst=2000, per_second=60)
ADMIN_RATE = Rate(burst=20, per_second=1)


class Csv(PlainTextResponse):
    """A table."""

    media_type = "text/csv"


class Png(Response):
    """An image. It comes without the time of its file, which tells the order in which methods were written."""

    media_type = "image/png"


class TooOftenError(FaceCrafterError):
    """More requests than a visitor needs."""


class ForbiddenError(FaceCrafterError):
    """A code or token that is not right."""


_CODES: dict[type[FaceCrafterError], tuple[int, str]] = {
    UnknownError: (404, "unknown"),
    StaleError: (409, "stale"),
    InvalidError: (422, "invalid"),
    TooOftenError: (429, "too_often"),
    ForbiddenError: (401, "forbidden"),
}


def make_app(folder: Path, store: Store, binding: Binding) -> Guard:
    """The study's application behind its guard.

    Args:
        folder: of the study.
        store: of its participants.
        binding: where it listens.
    """
    app = application("FaceCrafter study")
    app.mount("/static/study", Files(directory=STATIC), name="study")
    for kind, (code, name) in _CODES.items():
        app.add_exception_handler(kind, _refuses(code, name))
    Participants(folder, store, named=bool(binding.names)).add_to(app)
    Admin(folder, store).add_to(app)
    for route in app.routes:
        if isinstance(route, APIRoute):
            route.operation_id = route.name
    return guarded(app, binding, rate=ADDRESS_RATE)


def _refuses(code: int, name: str) -> Any:
    async def handler(request: Request, error: Exception) -> JSONResponse:
        return refusal(code, name, str(error))

    return handler


class Participants:
    """What participants ask for.

    Args:
        folder: of the study.
        store: of its participants.
        named: a proxy stands before it, whose word for how a visitor came is taken.
    """

    def __init__(self, folder: Path, store: Store, named: bool = False) -> None:
        self.named = named
        self.folder, self.store, self.study = folder, store, store.study
        self.cookie = f"facecrafter-study-{self.study.digest[:8]}"
        self.images = {path.name for path in (folder / IMAGES).glob("*.png")}
        self._answering, self._joining = RateLimit(PARTICIPANT_RATE), RateLimit(JOINING_RATE)
        self._refused, self._reading = RateLimit(REFUSED_RATE), RateLimit(READING_RATE)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""
        read: dict[str, Any] = {"dependencies": [Depends(self._limit_reading)]}
        plain: dict[str, Any] = {"include_in_schema": False, **read}
        app.get("/", response_class=FileResponse, **plain)(self.page)
        app.get("/i/{code}", response_class=RedirectResponse, **plain)(self.personal)
        app.get("/r/{token}", response_class=RedirectResponse, **plain)(self.come_back)
        app.get("/api/study", responses=refusals(429), **read)(self.about)
        app.post("/api/consent", responses=refusals(401, 404, 429))(self.consent)
        app.get("/api/state", responses=refusals(404, 429), **read)(self.state)
        app.post("/api/answers", responses=refusals(404, 409, 429))(self.answer)
        app.post("/api/undo", responses=refusals(404, 409, 429))(self.undo)
        app.post("/api/withdraw", responses=refusals(429))(self.withdraw)
        app.get("/images/{name}", response_class=Png, responses=refusals(404, 429), **read)(self.image)

    # --- pages --------------------------------------------------------------------------------------------------------

    def page(self, request: Request) -> Response:
        """The page; a new visitor gets a token, which means nothing yet."""
        response = FileResponse(STATIC / "study.html", headers={"Cache-Control": "no-store"})
        if not self._secret(request) and self.study.config.access != "links":
            self._remember(request, response, new_token())
        return response

    def personal(self, request: Request, code: str) -> Response:
        """A personal link: it makes one participant, and opened again goes on where that one was."""
        try:
            self.store.check_invitation(code)
        except UnknownError as error:
            return PlainTextResponse(f"{error}\n", 404)
        return self._entering(request, code)

    def come_back(self, request: Request, token: str) -> Response:
        """The link with which a participant goes on elsewhere."""
        if not self.store.knows(token):
            return PlainTextResponse("this link is not valid, or its answers were deleted\n", 404)
        return self._entering(request, token)

    def _entering(self, request: Request, token: str) -> Response:
        response = RedirectResponse("/", 303)
        self._remember(request, response, token)
        return response

    def _remember(self, request: Request, response: Response, token: str) -> None:
        secure = self.named and request.headers.get("x-forwarded-proto", "").strip().lower() == "https"
        response.set_cookie(self.cookie, token, COOKIE_SECONDS, path="/", secure=secure, httponly=True, samesite="lax")

    def _secret(self, request: Request) -> str:
        """The visitor's token; empty where there is none that could be one."""
        token = request.cookies.get(self.cookie, "")
        return token if 16 <= len(token) <= 100 else ""

    def _limited(self, secret: str) -> None:
        if self._answering.wait(secret):
            raise TooOftenError("too many requests at once; wait a little")

    async def _limit_reading(self, request: Request) -> None:
        if self._reading.wait(self._secret(request) or _client(request)):
            raise TooOftenError("too many requests at once; wait a little")

    # --- what the page asks for ---------------------------------------------------------------------------------------

    def about(self, request: Request, language: Annotated[str | None, Query(max_length=35)] = None) -> exchange.About:
        """The study's texts in one of its languages; its own where that one is not there."""
        config = self.study.config
        other = config.translations.get(language or "")
        texts = other or config
        secret = self._secret(request)
        return exchange.About(
            language=(language or "") if other else config.language,
            languages=[config.language, *config.translations],
            title=texts.title,
            introduction=texts.introduction,
            consent=texts.consent,
            contact=config.contact,
            questions=other.questions if other else {one.key: one.text for one in config.questions},
            words=texts.words.model_dump(),
            needs_code=config.access == "code",
            needs_link=config.access == "links" and not secret,
            ranking=config.design == "ranking",
            joined=bool(secret) and self.store.knows(secret),
            visitor=digest_of(f"{self.study.digest} {secret}")[:16],
        )

    def consent(self, request: Request, body: exchange.Consent) -> exchange.Joined:
        """Take part. Doing it again changes nothing."""
        config, secret = self.study.config, self._secret(request)
        if secret and self.store.knows(secret):
            return exchange.Joined(joined=True)
        try:
            self._check_may_join(secret, body.code)
        except (ForbiddenError, UnknownError):
            if self._refused.wait(_client(request)):
                raise TooOftenError("too many wrong codes or links; wait a little") from None
            raise
        if self._joining.wait(_client(request)):
            raise TooOftenError("too many people join at once; wait a little")
        self.store.join(secret, invited=config.access == "links")
        return exchange.Joined(joined=True)

    def _check_may_join(self, secret: str, code: str) -> None:
        """Refuse a visitor without a token, with a wrong code, or with a link that is not valid."""
        config = self.study.config
        if not secret:
            needs = (
                "open your personal link first" if config.access == "links" else "allow cookies, and reload the page"
            )
            raise ForbiddenError(f"this visitor is not known; {needs}")
        if config.access == "code" and not matches(code.strip(), config.access_code):
            raise ForbiddenError("this access code is not right")
        if config.access == "links":
            self.store.check_invitation(secret)

    def state(self, request: Request) -> exchange.Now:
        """Where the participant is."""
        secret = self._secret(request)
        return self._now(secret, self.store.state(secret))

    def answer(self, request: Request, body: exchange.Choice) -> exchange.Saved:
        """Keep an answer. The same one again changes nothing."""
        secret = self._secret(request)
        self._limited(secret)
        new = self.store.answer(secret, body.trial, body.attempt, body.positions, body.milliseconds)
        return exchange.Saved(changed=new, now=self.state(request))

    def undo(self, request: Request, body: exchange.Undo) -> exchange.Saved:
        """Take the last answer back. The same again changes nothing."""
        secret = self._secret(request)
        self._limited(secret)
        undone = self.store.undo(secret, body.trial, body.attempt)
        return exchange.Saved(changed=undone, now=self.state(request))

    def withdraw(self, request: Request, response: Response, body: exchange.Withdrawal) -> exchange.Withdrawn:
        """Delete the participant with all answers."""
        secret = self._secret(request)
        self._limited(secret)
        response.delete_cookie(self.cookie, path="/", httponly=True, samesite="lax")
        return exchange.Withdrawn(changed=bool(secret) and self.store.withdraw(secret))

    def image(self, request: Request, name: str) -> Response:
        """An image of one of the participant's own trials."""
        if name not in self.images or not self.store.may_see(self._secret(request), name):
            return refusal(404, "not_found", "there is no such image")
        return Png((self.folder / IMAGES / name).read_bytes(), headers={"Cache-Control": "private, max-age=3600"})

    # --- trials -------------------------------------------------------------------------------------------------------

    def _now(self, secret: str, state: State) -> exchange.Now:
        finished = state.trial is None
        last = state.last
        way = "i" if self.study.config.access == "links" else "r"
        return exchange.Now(
            done=state.done,
            total=state.total,
            trial=self._shown(state.trial) if state.trial else None,
            last=exchange.Last(trial=last.id or 0, attempt=last.attempt) if last else None,
            upcoming=list(self._addresses(state.upcoming)) if state.upcoming else [],
            completion_code=self.study.config.completion_code if finished else "",
            link=f"/{way}/{secret}",
        )

    def _shown(self, trial: Trial) -> exchange.ShownTrial:
        images = self.study.group(trial.question).sets[trial.number]
        shows = self.study.config.question(trial.question).shows
        return exchange.ShownTrial(
            trial=trial.id or 0,
            attempt=trial.attempt,
            question=trial.question,
            practice=trial.kind == "practice",
            instructed=trial.expected,
            references=[
                exchange.Reference(role=role, image=_image_path(images.references[role]))
                for role in shows
                if role in images.references
            ],
            options=[[_image_path(name) for name in images.images[method]] for method in trial.layout],
        )

    def _addresses(self, trial: Trial) -> Iterator[str]:
        shown = self._shown(trial)
        yield from (one.image for one in shown.references)
        yield from (image for option in shown.options for image in option)


def _image_path(name: str) -> str:
    return f"/images/{name}"


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


class Admin:
    """What the lab asks for, with its token in ``Authorization: Bearer``."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.store, self._token = store, manifest.admin_token(folder)
        self._wrong = RateLimit(ADMIN_RATE)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""
        app.get("/api/admin/status", responses=refusals(401, 429))(self.status)
        app.get("/api/admin/export", response_class=Csv, responses=refusals(401, 429))(self.export)

    def _check(self, request: Request) -> None:
        if matches(bearer(request.headers.get("authorization")), self._token):
            return
        if self._wrong.wait(_client(request)):
            raise TooOftenError("too many wrong tokens; wait a little")
        raise ForbiddenError("this needs the study's admin token as 'Authorization: Bearer TOKEN'")

    def status(self, request: Request) -> Status:
        """How far the study is."""
        self._check(request)
        return status_of(self.store)

    def export(self, request: Request) -> Csv:
        """All answers as CSV."""
        self._check(request)
        return Csv(as_csv(self.store))
