from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse

from facecrafter.web.binding import Binding
from facecrafter.web.guard import Guard
from facecrafter.web.server import application, guarded

if TYPE_CHECKING:
    from playwright.sync_api import Page

TOKEN = "a-token-that-is-long-enough"
PAGE = """<!doctype html><html lang="en"><head><title>Test</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="/static/web/base.css"></head><body><main><h1>A page</h1>
<form method="post" action="/sent"><label>Name <input type="text" name="name"></label>
<button class="primary">Send</button></form><p class="notice">A notice.</p><p class="problem">A problem.</p>
<p class="muted">Muted.</p><button>Plain</button></main></body></html>"""


def paged(token: str | None = None) -> Guard:
    app = application("test")

    @app.get("/", response_class=HTMLResponse)
    def show() -> str:
        return PAGE

    @app.post("/sent", response_class=HTMLResponse)
    def sent() -> str:
        return PAGE.replace("A page", "Arrived")

    return guarded(app, Binding(token=token))


def test_a_page_a_form_and_the_token_work_in_a_browser(
    page: Page, serving: Callable[[Guard], Any], check_accessibility: Callable[[Page], None]
) -> None:
    with serving(paged(TOKEN)) as url:
        base, token = url.split("/?token=")
        assert page.goto(base).status == 401
        page.goto(f"{base}/?token={token}")
        assert page.url == f"{base}/"
        check_accessibility(page)
        page.emulate_media(color_scheme="dark")
        check_accessibility(page)
        page.get_by_role("button", name="Send").click()
        assert page.get_by_role("heading").inner_text() == "Arrived"


def test_a_page_of_another_origin_cannot_send_or_read(page: Page, serving: Callable[[Guard], Any]) -> None:
    with serving(paged()) as own, serving(paged()) as other:
        page.goto(other)
        # The other page's policy already keeps the browser from asking.
        outcome = page.evaluate("(url) => fetch(url, {mode: 'no-cors'}).then(() => 'read', () => 'refused')", own)
        assert outcome == "refused"
        answer = page.request.post(f"{own}/sent", headers={"Origin": other}, form={"name": "x"})
        assert answer.status == 403
