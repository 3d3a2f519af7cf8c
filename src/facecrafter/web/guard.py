"""What stands before an application: who asks, from where, how often; and what a browser may do with the answer."""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facecrafter.web.binding import LOOPBACK_NAMES, Binding, host_of
from facecrafter.web.rates import Rate, RateLimit
from facecrafter.web.tokens import bearer, fingerprint, matches

log = logging.getLogger(__name__)

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# A page of another origin can send any header but this one: it would have to ask first, and is not allowed to.
HEADER = "X-FaceCrafter"
# What a form of another origin can send without asking first.
FORM_TYPES = frozenset({"", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
FAILED = "the server failed at this; the place is in its log"
USUAL_RATE = Rate(burst=120, per_second=20)

# Everything comes from this server; images may also be made in the page itself. No page may be framed.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",  # without any, a browser hides the origin of a form too
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Refuses what is no request of a visitor's own, and answers for what fails.

    Args:
        app: what it stands before.
        binding: where the server listens.
        open_paths: beginnings of paths that need no token.
        rate: how often one address may ask for a change; None for as often as it likes.
    """

    def __init__(
        self, app: ASGIApp, binding: Binding, open_paths: Collection[str] = (), rate: Rate | None = USUAL_RATE
    ) -> None:
        self.app, self.binding, self.open_paths = app, binding, tuple(open_paths)
        self._limit = None if rate is None else RateLimit(rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(message)
            await send(message)

        refused = self._refusal(scope, Headers(scope=scope))
        if refused is not None:
            await _send(answer, *refused)
            return
        try:
            await self.app(scope, receive, answer)
        except Exception as error:
            log.error("a request failed: %s", place_of(error))
            if not started:  # else the connection ends unfinished, which the visitor notices
                await _send(answer, *_no(500, "failed", FAILED))

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, dict[str, str], dict[str, str] | None] | None:
        """The status, headers and content of a refusal; None where there is nothing against the request."""
        method = scope["method"]
        if not self.binding.knows(headers.get("host", "")):
            return _no(421, "unknown_host", "this name is not the server's; open it as it was printed at its start")
        if is_foreign(method, headers, self.binding.names):
            text = "the request comes from a page of another origin; programs send the header " + HEADER
            return _no(403, "other_origin", text)
        if self.binding.token and not scope["path"].startswith(self.open_paths or "\0"):
            if entered := self._entered(scope):
                return 303, entered, None
            if not self._may(headers):
                text = "give the server's token as 'Authorization: Bearer TOKEN', or open the address with ?token="
                status, more, content = _no(401, "no_token", text)
                return status, {**more, "WWW-Authenticate": "Bearer"}, content
        if self._limit is not None and method not in SAFE:
            wait = self._limit.wait((scope.get("client") or ("", 0))[0])
            if wait:
                status, more, content = _no(429, "too_often", "too many requests at once; wait a little")
                return status, {**more, "Retry-After": str(math.ceil(wait))}, content
        return None

    def _may(self, headers: Headers) -> bool:
        token = self.binding.token or ""
        if matches(bearer(headers.get("authorization")), token):
            return True
        # Other programs on this host have cookies too, in any form: the parser must not stop at one of them.
        cookies = cookie_parser(headers.get("cookie", ""))
        return matches(cookies.get(self._cookie), fingerprint(token, "cookie"))

    @property
    def _cookie(self) -> str:
        """One for every server: cookies do not tell the ports of a host apart."""
        return "facecrafter-" + fingerprint(self.binding.token or "", "name")[:8]

    def _entered(self, scope: Scope) -> dict[str, str] | None:
        """The headers that let a browser in which brings the token in an address, and take it out of the address."""
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if scope["method"] != "GET" or not matches(given, self.binding.token or ""):
            return None
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # Lax: with Strict a link that is followed from another site would be refused. Changes are :func:`is_foreign`'s.
        cookie = f"{self._cookie}={fingerprint(self.binding.token or '', 'cookie')}; Path=/; HttpOnly; SameSite=Lax"
        # Two slashes at its beginning would name another host.
        place = "/" + scope["path"].lstrip("/\\")
        return {"Location": place + (f"?{rest}" if rest else ""), "Set-Cookie": cookie}


def is_foreign(method: str, headers: Headers, names: Collection[str] = ()) -> bool:
    """Whether a page of another origin may have sent a request (CSRF).

    Browsers say where a request comes from, in Sec-Fetch-Site and, with what is no GET, in Origin. What says neither
    and is of a kind that a form can send needs the header :data:`HEADER`, or a token in Authorization.

    Args:
        method: of the request.
        headers: of the request.
        names: of the server, beside what Host says: a proxy may not hand that on. This machine's own are not counted,
            whose other ports are other servers.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        opened = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        return not opened  # a link on another page may be followed
    if origin is not None and _place_in(origin) != headers.get("host", "").lower():
        name = host_of(_place_in(origin) or "")
        if name not in names or name in LOOPBACK_NAMES:
            return True
    if method in SAFE or origin is not None or site is not None:
        return False
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in FORM_TYPES and HEADER not in headers and "authorization" not in headers


def _place_in(origin: str) -> str | None:
    """The host and port of an Origin header; None where it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def place_of(error: BaseException) -> str:
    """An error's kind and where in this package it was raised: what it says may hold a name or a path."""
    package = Path(__file__).parents[1]
    own = [one for one in traceback.extract_tb(error.__traceback__) if Path(one.filename).is_relative_to(package)]
    last = own[-1] if own else None
    where = f" in {Path(last.filename).relative_to(package).as_posix()}, line {last.lineno}" if last else ""
    return type(error).__name__ + where


def _no(status: int, error: str, message: str) -> tuple[int, dict[str, str], dict[str, str]]:
    return status, {}, {"error": error, "message": message}


async def _send(send: Send, status: int, headers: Mapping[str, str], content: Mapping[str, str] | None) -> None:
    body = b"" if content is None else json.dumps(content).encode()
    fields = [(b"content-length", str(len(body)).encode())]
    if content is not None:
        fields.append((b"content-type", b"application/json"))
    fields += [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _add_headers(message: Message) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Cache-Control", "no-store")
