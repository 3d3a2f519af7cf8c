"""The study over HTTP: what each visitor may do and see, and 200 of them at once."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from facecrafter.study import manifest, server, statistics, worth
from facecrafter.study.answers import choices, given
from facecrafter.study.database import Database, open_database
from facecrafter.study.manifest import Manifest
from facecrafter.study.rehearsal import Habits, by_worth, check_kept, owners, rehearsed, take_part_together
from facecrafter.study.server import MOST_CONNECTIONS, make_app
from facecrafter.study.status import status_of
from facecrafter.study.store import Store, digest_of
from facecrafter.web.binding import Binding
from facecrafter.web.rates import Rate
from facecrafter.web.server import serving
from tests.study.conftest import METHODS, Clock

# Simulated at once; FACECRAFTER_STUDY_PARTICIPANTS=200 takes half a minute.
PARTICIPANTS = int(os.environ.get("FACECRAFTER_STUDY_PARTICIPANTS", "40"))
AGREED = {"agreed": True}


@pytest.fixture
def study(
    made: Callable[..., tuple[Path, Manifest]], opened: Callable[[Manifest], Database], clock: Clock
) -> Callable[..., tuple[Path, Store]]:
    """Builds and opens a study."""

    def ready(**settings: Any) -> tuple[Path, Store]:
        folder, found = made(**settings)
        return folder, Store(found, opened(found), clock)

    return ready


def visitor(folder: Path, store: Store) -> TestClient:
    app = make_app(folder, store, Binding())
    return TestClient(app, base_url="http://127.0.0.1", headers={"Sec-Fetch-Site": "same-origin"})


def agreed(client: TestClient) -> dict[str, Any]:
    """Open the page, agree, and where one is then."""
    assert client.get("/").status_code == 200
    assert client.post("/api/consent", json=AGREED).json() == {"joined": True}
    return client.get("/api/state").json()


def answer(now: dict[str, Any], position: int = 0) -> dict[str, Any]:
    trial = now["trial"]
    return {"trial": trial["trial"], "attempt": trial["attempt"], "positions": [position], "milliseconds": 900}


def test_a_participant_from_consent_to_the_code_at_the_end(study: Callable[..., tuple[Path, Store]]) -> None:
    client = visitor(*study(completion_code="DONE-1"))
    assert client.get("/api/state").status_code == 404  # nobody yet
    now = agreed(client)
    assert (now["done"], now["total"], now["completion_code"], now["last"]) == (0, 13, "", None)
    assert now["trial"]["practice"] and len(now["trial"]["options"]) == 3
    kinds = Counter()
    while now["trial"]:
        trial = now["trial"]
        kinds["check" if trial["instructed"] is not None else "practice" if trial["practice"] else "answer"] += 1
        for image in [one for option in trial["options"] for one in option] + [r["image"] for r in trial["references"]]:
            found = client.get(image)
            assert found.status_code == 200 and found.headers["content-type"] == "image/png"
        saved = client.post("/api/answers", json=answer(now)).json()
        assert saved["changed"] and saved["now"]["done"] == now["done"] + 1
        now = saved["now"]
    assert kinds == {"practice": 1, "check": 2, "answer": 10} and now["completion_code"] == "DONE-1"


def test_nothing_that_a_participant_gets_tells_the_methods(study: Callable[..., tuple[Path, Store]]) -> None:
    client = visitor(*study())
    now = agreed(client)
    texts = [client.get("/").text, client.get("/api/study").text]
    while now["trial"]:
        response = client.post("/api/answers", json=answer(now))
        texts.append(response.text)
        now = response.json()["now"]
    for method in METHODS:
        assert not any(word in text for text in texts for word in (method, method.split()[1]))


def test_an_image_does_not_tell_when_it_was_written(study: Callable[..., tuple[Path, Store]]) -> None:
    client = visitor(*study())
    option = agreed(client)["trial"]["options"][0][0]
    headers = client.get(option).headers
    assert headers["content-type"] == "image/png" and "last-modified" not in headers and "etag" not in headers


def test_before_consent_nothing_is_stored_and_no_image_shown(study: Callable[..., tuple[Path, Store]]) -> None:
    folder, store = study()
    client = visitor(folder, store)
    assert client.get("/").status_code == 200 and not client.get("/api/study").json()["joined"]
    assert client.get(f"/images/{next((folder / 'images').iterdir()).name}").status_code == 404
    assert client.post("/api/consent", json={"agreed": False}).status_code == 422
    assert status_of(store).participants == 0


def test_a_double_click_a_second_tab_and_a_late_answer_count_once(study: Callable[..., tuple[Path, Store]]) -> None:
    client = visitor(*study())
    now = agreed(client)
    first = answer(now, 1)
    assert client.post("/api/answers", json=first).json()["changed"]
    again = client.post("/api/answers", json={**first, "positions": [2]}).json()
    assert not again["changed"] and again["now"]["done"] == 1
    undone = client.post("/api/undo", json=again["now"]["last"]).json()
    assert undone["changed"] and undone["now"]["done"] == 0
    assert not client.post("/api/undo", json=again["now"]["last"]).json()["changed"]
    assert client.post("/api/answers", json=first).status_code == 409  # what was undone does not come back
    assert client.post("/api/answers", json=answer(undone["now"])).json()["changed"]


def test_two_participants_do_not_reach_each_other(study: Callable[..., tuple[Path, Store]]) -> None:
    folder, store = study()
    one, other = visitor(folder, store), visitor(folder, store)
    now = agreed(one)
    agreed(other)
    assert other.post("/api/answers", json=answer(now)).status_code == 404
    assert other.post("/api/undo", json={"trial": now["trial"]["trial"], "attempt": 0}).status_code == 404


def test_withdrawal_deletes_and_forgets(study: Callable[..., tuple[Path, Store]]) -> None:
    folder, store = study()
    client = visitor(folder, store)
    now = agreed(client)
    client.post("/api/answers", json=answer(now))
    assert client.post("/api/withdraw", json={"sure": True}).json() == {"changed": True}
    found = status_of(store)
    assert (found.participants, found.answers, found.withdrawn) == (0, 0, 1)
    assert client.get("/api/state").status_code == 404
    assert client.post("/api/withdraw", json={"sure": True}).json() == {"changed": False}


def test_the_personal_link_goes_on_elsewhere(study: Callable[..., tuple[Path, Store]]) -> None:
    folder, store = study()
    client, phone = visitor(folder, store), visitor(folder, store)
    now = client.post("/api/answers", json=answer(agreed(client))).json()["now"]
    assert phone.get(now["link"]).status_code == 200
    assert phone.get("/api/state").json() == now
    assert phone.get("/r/a-token-that-nobody-has").status_code == 404


@pytest.mark.parametrize(
    ("names", "scheme", "secure"),
    [
        (["study.example"], "https", True),
        (["study.example"], "http", False),
        (["study.example"], None, False),
        ([], "https", False),
    ],
)
def test_a_cookie_that_came_by_https_goes_by_https_alone(
    study: Callable[..., tuple[Path, Store]], names: list[str], scheme: str | None, secure: bool
) -> None:
    folder, store = study()
    client = TestClient(make_app(folder, store, Binding(names=names)), base_url="http://127.0.0.1")
    found = client.get("/", headers={"X-Forwarded-Proto": scheme} if scheme else {})
    assert ("; secure" in found.headers["set-cookie"].lower()) == secure


def test_a_visitor_has_a_name_of_their_own_in_each_study(
    made: Callable[..., tuple[Path, Manifest]], tmp_path: Path
) -> None:
    secrets = ("one-visitors-token", "another-visitors-token")
    names = set()
    for title in ("One", "Other"):
        folder, found = made(title=title)
        (tmp_path / title).mkdir()
        store = Store(found, open_database(tmp_path / title, found.digest))
        for secret in secrets:
            client = visitor(folder, store)
            client.cookies.set(f"facecrafter-study-{found.digest[:8]}", secret)
            name = client.get("/api/study").json()["visitor"]
            assert name == client.get("/api/study").json()["visitor"]
            assert secret not in name and name not in digest_of(secret)
            names.add(name)
        store.database.close()
    assert len(names) == 4


def test_links_are_for_one_participant_each(study: Callable[..., tuple[Path, Store]]) -> None:
    folder, store = study(access="links")
    code = store.invite(1)[0]
    stranger = visitor(folder, store)
    assert stranger.get("/").status_code == 200 and stranger.get("/api/study").json()["needs_link"]
    assert stranger.post("/api/consent", json=AGREED).status_code == 401
    assert stranger.get("/i/not-a-code-of-this-study").status_code == 404
    client = visitor(folder, store)
    assert client.get(f"/i/{code}").status_code == 200
    now = agreed(client)
    assert now["link"] == f"/i/{code}"
    assert visitor(folder, store).get(f"/i/{code}").status_code == 200
    client.post("/api/withdraw", json={"sure": True})
    assert visitor(folder, store).get(f"/i/{code}").status_code == 404


def test_a_panel_needs_its_code(study: Callable[..., tuple[Path, Store]]) -> None:
    client = visitor(*study(access="code", access_code="panel word"))
    client.get("/")
    assert client.get("/api/study").json()["needs_code"]
    for wrong in ("", "panel", "Panel Word"):
        assert client.post("/api/consent", json={**AGREED, "code": wrong}).status_code == 401
    assert client.post("/api/consent", json={**AGREED, "code": " panel word "}).json() == {"joined": True}


def test_status_and_export_need_the_admin_token(study: Callable[..., tuple[Path, Store]]) -> None:
    folder, store = study()
    client = visitor(folder, store)
    now = agreed(client)
    now = client.post("/api/answers", json=answer(now)).json()["now"]
    client.post("/api/answers", json=answer(now, 2))
    for path in ("/api/admin/status", "/api/admin/export"):
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
            refused = client.get(path, headers=wrong)
            assert refused.status_code == 401 and METHODS[0] not in refused.text
    token = {"Authorization": f"Bearer {manifest.admin_token(folder)}"}
    assert client.get("/api/admin/status", headers=token).json()["answers"] == 2
    rows = list(csv.DictReader(io.StringIO(client.get("/api/admin/export", headers=token).text)))
    assert [one["kind"] for one in rows] == ["practice", rows[1]["kind"]]
    assert rows[0]["chosen"] == rows[0]["shown"].split(" | ")[0]
    assert rows[1]["chosen"] == rows[1]["shown"].split(" | ")[2] and rows[1]["positions"] == "3"


@pytest.fixture
def hardly_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates that allow three requests, and then none for a year: the tests' own pace decides nothing."""
    for name in ("PARTICIPANT_RATE", "ADMIN_RATE", "JOINING_RATE", "REFUSED_RATE"):
        monkeypatch.setattr(server, name, Rate(3, 3e-8))


def test_wrong_admin_tokens_are_slowed_down(study: Callable[..., tuple[Path, Store]], hardly_any: None) -> None:
    folder, store = study()
    client = visitor(folder, store)
    codes = [client.get("/api/admin/status").status_code for _ in range(5)]
    assert codes == [401, 401, 401, 429, 429]
    token = {"Authorization": f"Bearer {manifest.admin_token(folder)}"}
    assert client.get("/api/admin/status", headers=token).status_code == 200


def test_one_participant_cannot_flood(study: Callable[..., tuple[Path, Store]], hardly_any: None) -> None:
    folder, store = study()
    client, other = visitor(folder, store), visitor(folder, store)
    now = agreed(client)
    wrong = {**answer(now), "positions": [9]}
    codes = [client.post("/api/answers", json=wrong).status_code for _ in range(5)]
    assert codes == [422, 422, 422, 429, 429]
    assert other.post("/api/answers", json=answer(agreed(other))).status_code == 200


def test_one_address_cannot_join_for_ever(study: Callable[..., tuple[Path, Store]], hardly_any: None) -> None:
    folder, store = study()
    client = visitor(folder, store)
    codes = []
    for _ in range(5):
        client.cookies.clear()
        client.get("/")
        codes.append(client.post("/api/consent", json=AGREED).status_code)
    assert codes == [200, 200, 200, 429, 429] and status_of(store).participants == 3


@pytest.mark.parametrize("access", ["code", "links"])
def test_wrong_codes_and_links_are_slowed_down_and_keep_nobody_out(
    study: Callable[..., tuple[Path, Store]], hardly_any: None, access: str
) -> None:
    folder, store = study(access=access, access_code="panel word" if access == "code" else "")
    stranger, client = visitor(folder, store), visitor(folder, store)
    stranger.cookies.set(f"facecrafter-study-{store.study.digest[:8]}", "no-link-of-this-study")
    codes = [stranger.post("/api/consent", json={**AGREED, "code": "a guess"}).status_code for _ in range(5)]
    wrong = 401 if access == "code" else 404
    assert codes == [wrong, wrong, wrong, 429, 429]
    client.get("/" if access == "code" else f"/i/{store.invite(1)[0]}")
    assert client.post("/api/consent", json={**AGREED, "code": "panel word"}).json() == {"joined": True}


def test_reading_has_a_limit_of_its_own_for_each_visitor(
    study: Callable[..., tuple[Path, Store]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "READING_RATE", Rate(10, 3e-8))
    folder, store = study()
    app = make_app(folder, store, Binding())
    one, other = (
        TestClient(app, base_url="http://127.0.0.1", headers={"Sec-Fetch-Site": "same-origin"}) for _ in range(2)
    )
    image = agreed(one)["trial"]["options"][0][0]
    agreed(other)
    assert [one.get("/api/state").status_code for _ in range(9)] == [200] * 9
    for path in (image, "/api/state", "/api/study", "/", "/r/somebodys-token-it-may-be"):
        assert one.get(path).status_code == 429
    assert other.get("/api/state").status_code == 200


def test_a_translation_is_whole_and_the_rest_is_the_studys_own(study: Callable[..., tuple[Path, Store]]) -> None:
    keys = ["diversity-pose", "diversity-expression", "control-pose", "control-expression", "identity"]
    german = {
        "title": "Welches Bild?",
        "introduction": "Einleitung",
        "consent": "Zustimmung",
        "questions": {key: f"Frage {key}" for key in keys},
        "words": {"agree": "Ich mache mit"},
    }
    client = visitor(*study(translations={"de": german}))
    client.get("/")
    found = client.get("/api/study?language=de").json()
    assert (found["language"], found["words"]["agree"]) == ("de", "Ich mache mit")
    assert found["questions"]["identity"] == "Frage identity"
    other = client.get("/api/study?language=xx").json()
    assert other["language"] == "en" and other["languages"] == ["en", "de"]


def test_no_address_is_stored(study: Callable[..., tuple[Path, Store]], tmp_path: Path, url: str | None) -> None:
    folder, store = study()
    client = visitor(folder, store)
    client.get("/", headers={"User-Agent": "a telling browser", "X-Forwarded-For": "203.0.113.7"})
    agreed(client)
    store.database.close()
    if url is None:
        content = b"".join(path.read_bytes() for path in tmp_path.glob("study.sqlite*"))
        assert content and not any(word in content for word in (b"127.0.0.1", b"203.0.113", b"testclient", b"telling"))


# --- many at once -----------------------------------------------------------------------------------------------------


LOGS = (0.0, 0.7, 1.4)


@pytest.mark.parametrize(
    "settings",
    [{}, {"access": "links"}, {"access": "code", "access_code": "panel word"}],
    ids=["open", "links", "code"],
)
def test_a_study_of_any_access_is_rehearsed(
    made: Callable[..., tuple[Path, Manifest]], settings: dict[str, str]
) -> None:
    folder, _ = made(**settings)
    with rehearsed(folder, 3, habits=Habits(reload=0.5, leave=0)) as store:
        found = status_of(store)
    assert (found.participants, found.finished) == (3, 3)


def test_many_at_once_lose_and_double_nothing(
    study: Callable[..., tuple[Path, Store]], clock: Clock, url: str | None
) -> None:
    participants = PARTICIPANTS if url is None else PARTICIPANTS // 2
    folder, store = study(sets=30, sets_a_participant=3, questions=QUESTIONS)
    with serving(make_app(folder, store, Binding()), MOST_CONNECTIONS) as address:
        decide = by_worth(owners(store.study), LOGS)
        kept = take_part_together(address, participants, decide, 1)
        check_kept(store, kept)
        clock.pass_hours(25)  # the sets of those who left are dealt to others, who all finish
        later = take_part_together(address, participants // 5, decide, 2, Habits(leave=0))
        check_kept(store, kept + later)
    found = status_of(store)
    assert found.participants == found.joined == participants * 6 // 5
    assert found.finished == sum(one.finished for one in kept + later) < found.participants
    for one in found.questions:
        assert one.most - one.fewest <= 1, one
        assert one.positions_p > 0.01
    with store.database.reading() as session:
        answers = given(session)
    worths = np.exp(LOGS) / np.exp(LOGS).sum()
    for question in store.study.config.questions:
        chosen = choices(answers, question.key, 3, 3, 1)
        assert statistics.positions(chosen).p > 0.001
        recovered = [one.value for one in worth.fit(chosen).worths]
        assert np.abs(np.array(recovered, float) - worths).max() < 0.08 * np.sqrt(200 / participants)


QUESTIONS = (
    {"key": "pose", "images": "control", "text": "Pose?"},
    {"key": "identity", "images": "control", "text": "Identity?"},
)
