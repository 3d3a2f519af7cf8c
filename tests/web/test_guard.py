from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from facecrafter.errors import NoFaceError, PhotoError
from facecrafter.web.binding import Binding
from facecrafter.web.guard import HEADER
from facecrafter.web.rates import Rate
from facecrafter.web.server import application, guarded

TOKEN = "a-token-that-is-long-enough"
OWN = "http://127.0.0.1:8000"
MINE = {HEADER: "1"}
JSON = {"Content-Type": "application/json"}


class Wish(BaseModel):
    steps: int


def client(binding: Binding = Binding(), rate: Rate | None = None, open_paths: tuple[str, ...] = ()) -> TestClient:
    app = application("test", most_bytes=1000)

    @app.get("/page")
    def page() -> str:
        return "page"

    @app.post("/wish")
    def wish(wish: Wish) -> int:
        return wish.steps

    @app.post("/upload")
    async def upload(request: Request) -> int:
        return len(await request.body())

    @app.get("/fail/{kind}")
    def fail(kind: str) -> str:
        raise {"face": NoFaceError("no face in it"), "photo": PhotoError("no image"), "secret": OSError("/home/ann")}[
            kind
        ]

    @app.get("/breaks")
    def breaks() -> StreamingResponse:
        def content() -> Iterator[bytes]:
            yield b"a part"
            raise RuntimeError("/home/ann/me.jpg")

        return StreamingResponse(content())

    return TestClient(guarded(app, binding, open_paths, rate), OWN, raise_server_exceptions=False)


def test_answers_allow_a_browser_nothing_from_elsewhere() -> None:
    answer = client().get("/page")
    assert answer.json() == "page"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in answer.headers
    assert client().options("/wish", headers={"Origin": "http://evil.example"}).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.168.0.1"])
def test_another_name_that_points_here_is_refused(host: str) -> None:
    answer = client().get("/page", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]) == (421, "unknown_host")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),  # a form of anywhere
        ({"Content-Type": "text/plain"}, 403),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 403),
        ({"Content-Type": "application/json"}, 200),
        (MINE, 200),
        ({"Authorization": "Bearer x"}, 200),
        ({"Origin": OWN}, 200),
        ({"Origin": "http://evil.example", **MINE}, 403),
        ({"Origin": "http://127.0.0.1:9000", **MINE}, 403),
        ({"Origin": "null", **MINE}, 403),
        ({"Origin": "http://[", **MINE}, 403),  # none at all
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site", **MINE}, 403),
        ({"Sec-Fetch-Site": "same-site", **MINE}, 403),
    ],
)
def test_a_page_of_another_origin_changes_nothing(headers: dict[str, str], status: int) -> None:
    assert client().post("/upload", content=b"abc", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://faces.example", 200),  # behind a proxy that does not hand Host on
        ("https://faces.example:8443", 200),
        ("https://evil.example", 403),
        ("https://faces.example.evil.example", 403),
        ("http://localhost:9000", 403),  # another server of this machine
        ("null", 403),
    ],
)
def test_a_page_of_the_name_that_was_given_is_no_other_origin(origin: str, status: int) -> None:
    named = client(Binding(names=["faces.example", "localhost"]))
    headers = {"Origin": origin, "Content-Type": "application/json"}
    assert named.post("/wish", json={"steps": 1}, headers=headers).status_code == status
    cross = {**headers, "Sec-Fetch-Site": "same-site"}
    assert named.post("/wish", json={"steps": 1}, headers=cross).status_code == 403


def test_a_link_from_elsewhere_is_followed_and_an_image_is_not_shown_there() -> None:
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert client().get("/page", headers={**cross, "Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert client().get("/page", headers={**cross, "Sec-Fetch-Mode": "no-cors"}).status_code == 403


def test_a_token_is_needed_and_comes_by_header_or_by_the_address_once() -> None:
    asking = client(Binding("0.0.0.0", token=TOKEN), open_paths=("/open",))
    answer = asking.get("/page")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert asking.get("/page", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert asking.get("/page", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert asking.get("/page?token=wrong").status_code == 401
    assert asking.get("/open").status_code == 404  # the guard lets it through
    entered = asking.get(f"/page?a=1&token={TOKEN}", follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/page?a=1")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie  # a link from another site is followed with it
    assert TOKEN not in cookie
    assert asking.get("/page").json() == "page"  # by the cookie
    away = asking.get(f"{OWN}//evil.example/?token={TOKEN}", follow_redirects=False)
    assert away.headers["location"] == "/evil.example/"


def test_an_unreadable_cookie_is_no_token() -> None:
    asking = client(Binding("0.0.0.0", token=TOKEN))
    assert asking.get("/page", headers={"Cookie": 'a="\\; b=]['}).status_code == 401


@pytest.mark.parametrize("other", ['open={"tab": 1}', "theme=dark mode", "@x=1", "a,b=1", "flag", "x[y]=1"])
def test_a_cookie_of_another_program_shuts_nobody_out(other: str) -> None:
    asking = client(Binding("0.0.0.0", token=TOKEN))
    entered = asking.get(f"/page?token={TOKEN}", follow_redirects=False)
    own = entered.headers["set-cookie"].partition(";")[0]
    asking.cookies.clear()
    assert asking.get("/page", headers={"Cookie": f"{other}; {own}"}).status_code == 200


def test_large_bodies_are_refused() -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    assert client().post("/upload", content=b"x" * 1000, headers=MINE).json() == 1000
    assert client().post("/upload", content=b"x" * 1001, headers=MINE).status_code == 413
    assert client().post("/upload", content=pieces(), headers=MINE).status_code == 413


def test_too_many_requests_wait() -> None:
    asking = client(rate=Rate(burst=2, per_second=0.01))
    assert [asking.post("/upload", headers=MINE).status_code for _ in range(3)] == [200, 200, 429]
    answer = asking.post("/upload", headers=MINE)
    assert 0 < int(answer.headers["retry-after"]) <= 100
    assert asking.get("/page").status_code == 200


def test_errors_are_sentences() -> None:
    asking = client()
    assert asking.get("/fail/face").json() == {"error": "no_face", "message": "no face in it"}
    assert asking.get("/fail/photo").json() == {"error": "photo", "message": "no image"}
    assert asking.get("/nowhere").json() == {"error": "not_found", "message": "there is nothing here"}
    assert asking.get("/wish").json()["error"] == "not_allowed"
    invalid = asking.post("/wish", json={"steps": "many"})
    assert (invalid.status_code, invalid.json()["error"]) == (422, "invalid")
    assert invalid.json()["message"] == "steps wants a whole number"
    assert asking.post("/wish", json={}).json()["message"] == "steps is missing; give it"
    assert asking.post("/wish", content=b"{", headers=JSON).json()["message"] == "the request is no JSON"


def test_what_fails_is_logged_without_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("facecrafter")
    before, logger.propagate = logger.propagate, True
    try:
        answer = client().get("/fail/secret")
        client().get("/breaks")
    finally:
        logger.propagate = before
    assert (answer.status_code, answer.json()["error"]) == (500, "failed")
    assert "OSError" in caplog.text
    assert "ann" not in caplog.text
    assert "/home" not in answer.text


def test_the_stylesheet_is_served_and_kept() -> None:
    answer = client().get("/static/web/base.css")
    assert answer.headers["cache-control"] == "no-cache"
    again = client().get("/static/web/base.css", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
