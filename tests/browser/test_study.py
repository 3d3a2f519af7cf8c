"""A participant's page in a browser: keyboard, screen reader's tree, phone, lost connections, two tabs, way back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from facecrafter.study.build import build
from facecrafter.study.config import StudyConfig
from facecrafter.study.database import open_database
from facecrafter.study.server import make_app
from facecrafter.study.status import status_of
from facecrafter.study.store import Store
from facecrafter.web.binding import Binding
from tests.study.conftest import METHODS, draw_images

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from facecrafter.web.guard import Guard

QUESTIONS = (
    {"key": "pose", "images": "control", "shows": ("source", "target"), "text": "Which follows the pose best?"},
    {"key": "variety", "images": "diversity", "text": "Which group varies most?"},
)
TRIALS = 2 * 2 + 1 + 1
# An option that can be chosen: its images are there.
READY = "#trial:not([hidden]) li:first-child .option:enabled:not(.waiting)"
END = "#end:not([hidden])"


@pytest.fixture
def ready(tmp_path: Path, serving: Callable[[Guard], Any]) -> Iterator[Callable[..., tuple[str, Store]]]:
    """Builds and serves a study; gives its address and its store."""
    open_ones: list[Any] = []
    methods = draw_images(tmp_path / "images", 3)

    def study(**settings: Any) -> tuple[str, Store]:
        small = {"images_a_set": 2, "sets": 3, "sets_a_participant": 2, "attention_checks": 1, "questions": QUESTIONS}
        config = StudyConfig(methods=methods, references=tmp_path / "images/references", **{**small, **settings})
        folder = tmp_path / "study"
        built = build(config, folder)
        store = Store(built, open_database(folder, built.digest))
        server = serving(make_app(folder, store, Binding()))
        open_ones.append((server, store))
        return server.__enter__(), store

    yield study
    for server, store in open_ones:
        server.__exit__(None, None, None)
        store.database.close()


def begin(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("button", name="I agree and take part").click()
    page.wait_for_selector(READY)


def count(page: Page) -> str:
    return page.locator("#count").inner_text()


def settled(page: Page) -> None:
    """Wait until the page takes an answer; a click right after a new question is the second one of a double click."""
    page.wait_for_selector(READY)
    page.wait_for_selector("#trial.settled")


def press(page: Page, key: str) -> None:
    settled(page)
    done = int(count(page).split()[0])
    page.keyboard.press(key)
    page.wait_for_selector(f"#bar[value='{done + 1}']", state="attached")


def test_a_study_by_keyboard_alone(
    page: Page, ready: Callable[..., tuple[str, Store]], check_accessibility: Callable[[Page], None]
) -> None:
    url, store = ready(completion_code="CODE-7")
    page.goto(url)
    page.wait_for_selector("#consent:not([hidden])")
    check_accessibility(page)
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "agree"
    page.keyboard.press("Enter")
    settled(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 1280  # nothing is cut off
    assert page.evaluate("() => document.activeElement.id") == "question"  # a screen reader reads the question
    check_accessibility(page)
    page.emulate_media(color_scheme="dark")
    check_accessibility(page)
    press(page, "2")
    page.keyboard.press("Backspace")
    page.wait_for_selector("#bar[value='0']", state="attached")
    settled(page)
    page.locator(".option").nth(2).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#bar[value='1']", state="attached")
    for _ in range(TRIALS - 1):
        press(page, "1")
    page.wait_for_selector(END)
    assert "CODE-7" in page.locator("#completion").inner_text()
    check_accessibility(page)
    found = status_of(store)
    assert (found.participants, found.finished, found.answers) == (1, 1, TRIALS)


def test_what_a_screen_reader_meets(page: Page, ready: Callable[..., tuple[str, Store]]) -> None:
    url, _ = ready(practice=False, attention_checks=0, questions=QUESTIONS[:1])
    begin(page, url)
    tree = page.locator("#trial").aria_snapshot()
    for line in (
        'heading "Which follows the pose best?" [level=1]',
        'img "Source photo"',
        'img "Target photo"',
        'button "Option 1"',
        'button "Option 3"',
    ):
        assert line in tree, tree
    assert not any(method in page.content() for method in METHODS)
    assert page.get_by_role("progressbar", name="0 of 2").count() == 1


def test_on_a_phone_nothing_is_cut_off(new_page: Callable[..., Page], ready: Callable[..., tuple[str, Store]]) -> None:
    url, _ = ready()
    page = new_page(390, 844, has_touch=True, is_mobile=True)
    begin(page, url)
    for _ in range(TRIALS):
        settled(page)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        assert page.locator("#help").inner_text() == "Tap one option."  # there are no keys to press
        for box in (one.bounding_box() for one in page.locator(".option").all()):
            assert box is not None and box["width"] >= 44 and box["height"] >= 44
        done = int(count(page).split()[0])
        # Another place each time: two taps on one place in half a second are a double tap, whose second is no answer.
        page.locator(".option").nth(done % 2).tap()
        page.wait_for_selector(f"#bar[value='{done + 1}']", state="attached")
    page.wait_for_selector(END)
    assert "go on" not in page.locator("#later").inner_text()  # there is nothing left to go on with
    page.get_by_role("button", name="Withdraw and delete my answers").tap()
    dialog = page.locator("#sure").bounding_box()
    assert dialog is not None and dialog["x"] >= 8 and dialog["x"] + dialog["width"] <= 382


def test_reload_back_and_two_tabs_lose_and_double_nothing(page: Page, ready: Callable[..., tuple[str, Store]]) -> None:
    url, store = ready()
    begin(page, url)
    press(page, "1")
    page.reload()
    settled(page)
    assert count(page) == f"1 of {TRIALS}"
    other = page.context.new_page()
    other.goto(url)
    settled(other)
    press(other, "2")
    settled(page)  # still shows the question that the other tab has answered
    page.keyboard.press("3")
    page.wait_for_selector("#bar[value='2']", state="attached")
    assert status_of(store).answers == 2
    page.goto("about:blank")
    page.go_back()
    settled(page)
    assert count(page) == f"2 of {TRIALS}"
    other.close()


def test_a_double_click_answers_one_question(page: Page, ready: Callable[..., tuple[str, Store]]) -> None:
    url, store = ready()
    begin(page, url)
    settled(page)
    page.locator(".option").first.dblclick()
    page.wait_for_selector("#bar[value='1']", state="attached")
    settled(page)
    assert count(page) == f"1 of {TRIALS}" and status_of(store).answers == 1


@pytest.mark.parametrize("how", ["slow double click", "double click", "key"])
def test_an_undo_done_twice_takes_back_one_answer(
    page: Page, ready: Callable[..., tuple[str, Store]], how: str
) -> None:
    def twice(apart: float) -> None:
        for number in (1, 2):
            if how == "key":
                page.keyboard.press("Backspace")
            else:  # where the button is by then: another question may move it
                page.locator("#undo").dispatch_event("click", {"detail": number if how == "double click" else 1})
            page.wait_for_timeout(apart)

    url, store = ready()
    begin(page, url)
    for key in "123":
        press(page, key)
    settled(page)
    twice(450 if how == "double click" else 250)
    settled(page)
    assert count(page) == f"2 of {TRIALS}" and status_of(store).answers == 2
    page.keyboard.press("Backspace")  # and a later one takes back the next
    page.wait_for_selector("#bar[value='1']", state="attached")


def test_the_last_answer_is_undone_at_the_end(page: Page, ready: Callable[..., tuple[str, Store]]) -> None:
    url, store = ready()
    begin(page, url)
    for _ in range(TRIALS):
        press(page, "1")
    page.wait_for_selector(END)
    page.locator("#undo").dblclick(delay=100)
    settled(page)
    assert count(page) == f"{TRIALS - 1} of {TRIALS}" and status_of(store).answers == TRIALS - 1


def test_a_mouse_at_rest_marks_no_option_of_the_next_question(
    page: Page, ready: Callable[..., tuple[str, Store]]
) -> None:
    def marks() -> list[str]:
        return [
            one.evaluate("it => getComputedStyle(it).borderColor + getComputedStyle(it).backgroundColor")
            for one in page.locator(".option").all()
        ]

    url, _ = ready(questions=QUESTIONS[:1], practice=False, attention_checks=0)
    begin(page, url)
    settled(page)
    page.locator(".option").first.click()
    page.wait_for_selector("#bar[value='1']", state="attached")
    settled(page)
    assert page.locator(".option:hover").count() == 1  # the mouse is still there
    assert len(set(marks())) == 1
    page.locator(".option").nth(1).hover()
    page.wait_for_selector("#trial.pointed")
    found = marks()
    assert found[0] == found[2] != found[1]


def test_an_answer_outlives_a_lost_connection_and_a_reload(page: Page, ready: Callable[..., tuple[str, Store]]) -> None:
    url, store = ready()
    begin(page, url)
    settled(page)
    page.route("**/api/answers", lambda route: route.abort())
    page.keyboard.press("2")
    page.get_by_role("alert").filter(has_text="The connection is lost").wait_for()
    assert status_of(store).answers == 0
    page.unroute("**/api/answers")
    page.reload()
    page.wait_for_selector("#bar[value='1']", state="attached")
    assert status_of(store).answers == 1
    # The answer arrives, and what the server says of it is lost: it is sent again, and counts once.
    lost: list[str] = []

    def lose(route: Any) -> None:
        if not lost:
            lost.append(route.fetch().text())
            route.abort()
        else:
            route.continue_()

    page.route("**/api/answers", lose)
    press(page, "1")
    assert lost and status_of(store).answers == 2


NOT_FOUND = {"status": 404, "content_type": "text/plain", "body": "404 page not found"}
FOREIGN = [
    NOT_FOUND,
    {"status": 403, "content_type": "text/html", "body": "<h1>403 Forbidden</h1>"},
    {"status": 408, "body": ""},
    {"status": 404, "json": {"error": "not_found", "message": "no such backend"}},
    {"status": 403, "json": {"error": "other_origin", "message": "a proxy changes what is sent"}},
]


@pytest.mark.parametrize("answer", FOREIGN)
def test_what_a_proxy_refuses_is_no_withdrawal_and_loses_no_answer(
    page: Page, ready: Callable[..., tuple[str, Store]], answer: dict[str, Any]
) -> None:
    url, store = ready()
    begin(page, url)
    settled(page)
    page.route("**/api/answers", lambda route: route.fulfill(**answer))
    page.keyboard.press("2")
    page.get_by_role("alert").filter(has_text=re.compile("connection is lost|went wrong")).wait_for()
    assert count(page) == f"0 of {TRIALS}" and not page.locator("#end").is_visible()
    page.unroute("**/api/answers")
    page.reload()
    page.wait_for_selector("#bar[value='1']", state="attached")
    assert status_of(store).answers == 1


def test_a_proxys_404_at_a_look_at_the_tab_is_no_withdrawal(
    page: Page, ready: Callable[..., tuple[str, Store]]
) -> None:
    url, store = ready()
    begin(page, url)
    settled(page)
    asked: list[str] = []

    def refuse(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(**NOT_FOUND)

    page.route("**/api/state", refuse)
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(300)
    assert asked and not page.locator("#end").is_visible()
    page.unroute("**/api/state")
    press(page, "1")
    assert status_of(store).answers == 1


def test_a_request_that_is_never_answered_is_sent_again(page: Page, ready: Callable[..., tuple[str, Store]]) -> None:
    url, store = ready()
    page.clock.install()
    begin(page, url)
    page.clock.run_for(1000)
    settled(page)
    held: list[Any] = []
    page.route("**/api/answers", lambda route: held.append(route))
    page.keyboard.press("2")
    page.wait_for_selector(".option.sent")
    page.clock.run_for(19_000)
    assert not page.get_by_role("alert").is_visible()
    page.clock.run_for(1_000)
    page.get_by_role("alert").filter(has_text="The connection is lost").wait_for()
    assert status_of(store).answers == 0
    page.unroute("**/api/answers")
    page.clock.run_for(1000)
    page.wait_for_selector("#bar[value='1']", state="attached")
    assert status_of(store).answers == 1


def test_an_answer_that_is_kept_is_one_participants(page: Page, ready: Callable[..., tuple[str, Store]]) -> None:
    url, store = ready()
    begin(page, url)
    own = page.locator("#link").get_attribute("href")
    settled(page)
    page.route("**/api/answers", lambda route: route.abort())
    page.keyboard.press("2")
    page.get_by_role("alert").filter(has_text="The connection is lost").wait_for()
    page.unroute("**/api/answers")
    page.goto("about:blank")
    page.context.clear_cookies()
    begin(page, url)  # another person, in the same browser
    settled(page)
    assert count(page) == f"0 of {TRIALS}" and status_of(store).answers == 0
    page.goto(f"{url}{own}")
    page.wait_for_selector("#bar[value='1']", state="attached")
    found = status_of(store)
    assert (found.participants, found.answers) == (2, 1)


@pytest.mark.parametrize("lost", ["**/api/consent", "**/api/state"])
def test_a_lost_connection_at_the_consent_speaks_of_no_answer(
    page: Page, ready: Callable[..., tuple[str, Store]], lost: str
) -> None:
    url, store = ready()
    page.goto(url)
    page.route(lost, lambda route: route.abort())
    page.get_by_role("button", name="I agree and take part").click()
    problem = page.get_by_role("alert").filter(has_text="The study cannot be reached")
    problem.wait_for()
    assert "answer" not in page.locator("#problem").inner_text()
    page.unroute(lost)
    page.evaluate("() => dispatchEvent(new Event('online'))")
    page.wait_for_selector(READY)  # it goes on by itself
    assert page.locator("#problem").is_hidden() and status_of(store).participants == 1


def test_a_lost_connection_speaks_of_no_answer_where_none_is_sent(
    page: Page, ready: Callable[..., tuple[str, Store]]
) -> None:
    url, store = ready()
    begin(page, url)
    press(page, "1")
    settled(page)
    for path, button in (("undo", "Undo the last answer"), ("withdraw", "Yes, delete them")):
        page.route(f"**/api/{path}", lambda route: route.abort())
        if path == "withdraw":
            page.get_by_role("button", name="Withdraw and delete my answers").click()
        page.get_by_role("button", name=button).click()
        page.get_by_role("alert").filter(has_text="The study cannot be reached").wait_for()
        page.unroute(f"**/api/{path}")
        page.evaluate("() => dispatchEvent(new Event('online'))")
        page.wait_for_selector("#problem", state="hidden")
    page.wait_for_selector(END)
    assert status_of(store).withdrawn == 1


def test_withdrawing_asks_and_deletes(
    page: Page, ready: Callable[..., tuple[str, Store]], check_accessibility: Callable[[Page], None]
) -> None:
    url, store = ready()
    begin(page, url)
    press(page, "1")
    page.get_by_role("button", name="Withdraw and delete my answers").click()
    check_accessibility(page)
    page.keyboard.press("Escape")
    assert status_of(store).answers == 1
    page.get_by_role("button", name="Withdraw and delete my answers").click()
    page.get_by_role("button", name="Yes, delete them").click()
    page.wait_for_selector(END)
    assert "deleted" in page.locator("#end-title").inner_text()
    found = status_of(store)
    assert (found.participants, found.answers, found.withdrawn) == (0, 0, 1)


@pytest.mark.parametrize("then", ["an undo", "an answer", "a look at the tab"])
def test_a_withdrawal_in_another_tab_ends_this_one(
    page: Page, ready: Callable[..., tuple[str, Store]], then: str
) -> None:
    url, store = ready()
    begin(page, url)
    press(page, "1")
    settled(page)
    other = page.context.new_page()
    other.goto(url)
    settled(other)
    other.get_by_role("button", name="Withdraw and delete my answers").click()
    other.get_by_role("button", name="Yes, delete them").click()
    other.wait_for_selector(END)
    if then == "an undo":
        page.get_by_role("button", name="Undo the last answer").click()
    elif then == "an answer":
        page.keyboard.press("2")
    else:
        page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector(END)
    assert "deleted" in page.locator("#end-title").inner_text()
    assert page.locator("#problem").is_hidden() and page.locator("#bottom").is_hidden()
    page.reload()  # and nothing is stuck: one can take part again
    page.get_by_role("button", name="I agree and take part").click()
    press(page, "1")
    found = status_of(store)
    assert (found.participants, found.answers, found.withdrawn) == (1, 1, 1)
    other.close()


def test_an_answer_that_is_refused_is_not_called_saved(page: Page, ready: Callable[..., tuple[str, Store]]) -> None:
    url, store = ready()
    begin(page, url)
    press(page, "1")
    settled(page)
    assert page.locator("#saved").inner_text() == "Saved."
    other = page.context.new_page()
    other.goto(url)
    press(other, "1")
    other.get_by_role("button", name="Undo the last answer").click()
    other.wait_for_selector("#bar[value='1']", state="attached")
    settled(other)
    page.keyboard.press("2")  # of the attempt that the other tab has undone
    page.wait_for_function("() => document.getElementById('saved').textContent === ''")
    settled(page)
    assert status_of(store).answers == 1 and count(page) == f"1 of {TRIALS}"
    other.close()


def test_a_ranking_in_another_language(
    new_page: Callable[..., Page],
    ready: Callable[..., tuple[str, Store]],
    check_accessibility: Callable[[Page], None],
) -> None:
    german = {
        "title": "Welches Bild?",
        "introduction": "Sie sehen Bilder.",
        "consent": "Die Teilnahme ist freiwillig.",
        "questions": {"pose": "Welches folgt der Haltung?", "variety": "Welche Gruppe ist vielfältiger?"},
        "words": {"agree": "Ich nehme teil", "save": "Reihenfolge speichern", "rank": "Platz {number}"},
    }
    url, store = ready(design="ranking", translations={"de": german}, practice=False, attention_checks=0)
    page = new_page(locale="de-DE")
    page.goto(url)
    page.get_by_role("button", name="Ich nehme teil").click()
    settled(page)
    assert page.locator("html").get_attribute("lang") == "de"
    save = page.get_by_role("button", name="Reihenfolge speichern")
    assert save.is_disabled()
    for key in "31":
        page.keyboard.press(key)
    page.locator(".option").nth(2).click()  # takes the first place back
    page.keyboard.press("2")
    page.keyboard.press("3")
    assert page.get_by_role("button", name="Option 1").get_attribute("aria-pressed") == "true"
    assert [one.inner_text() for one in page.locator(".place").all()] == ["Platz 1", "Platz 2", "Platz 3"]
    check_accessibility(page)
    save.click()
    page.wait_for_selector("#bar[value='1']", state="attached")
    from sqlmodel import select

    from facecrafter.study.records import Answer

    with store.database.reading() as session:
        assert [one.positions for one in session.exec(select(Answer))] == [[0, 1, 2]]
