from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from facecrafter.errors import OutputError
from facecrafter.studio.store import INTERRUPTED, MOST_PREVIEWS, MOST_UNDONE, JobRow, Made, Store


def job(store: Store, name: str, created: float = 0, preview: bool = False, session: str = "ann") -> None:
    store.add(JobRow(id=name, session=session, created=created, request="{}", preview=preview))


def made(size: int, name: str = "00000.png") -> list[Made]:
    return [Made(name, "image", b"x" * size, {"seed": 0})]


def test_what_is_done_outlives_the_server_and_what_is_not_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "studio.sqlite", 1000)
    job(store, "done")
    store.change("done", made(10), status="done")
    job(store, "not")
    store.close()
    again = Store(tmp_path / "studio.sqlite", 1000)
    assert again.content("done", "00000.png") == b"x" * 10
    assert again.files("done") == [("00000.png", "image", {"seed": 0})]
    row = again.get("not")
    assert row is not None
    assert (row.status, row.message) == ("interrupted", INTERRUPTED)


SERVER = """
import sys
from pathlib import Path
from facecrafter.studio.store import JobRow, Store
store = Store(Path(sys.argv[1]), 1000)
store.add(JobRow(id="running", created=0, request="{}", status="running"))
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_second_server_is_refused_and_leaves_the_jobs_of_the_first_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="needs file locks")
    path = tmp_path / "studio.sqlite"
    (tmp_path / "link.sqlite").symlink_to(path)
    command = [sys.executable, "-c", SERVER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        for name in ("studio.sqlite", "link.sqlite"):
            with pytest.raises(OutputError, match=r"has the database .*--keep FILE.*--private"):
                Store(tmp_path / name, 1000)
        assert status_in(path) == "running"
        first.kill()
    Store(path, 1000).close()  # a server that was killed is no obstacle
    assert status_in(path) == "interrupted"


def status_in(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT status FROM studio_job").fetchone()[0])


def test_a_database_that_cannot_be_used_stays_free(tmp_path: Path) -> None:
    path = tmp_path / "studio.sqlite"
    path.write_text("no database " * 100)
    for _ in range(2):
        with pytest.raises(OutputError, match="move it away"):
            Store(path, 1000)


def test_the_oldest_go_where_it_is_too_much(tmp_path: Path) -> None:
    store = Store(tmp_path / "studio.sqlite", 1000)
    for number in range(5):
        job(store, str(number), created=number)
        store.change(str(number), made(300), status="done")
    assert [row.id for row in store.listed("ann")] == ["4", "3", "2"]
    assert store.content("0", "00000.png") is None


def test_few_previews_are_kept_and_none_is_listed() -> None:
    store = Store(None, 10**9)
    assert store.is_private
    for number in range(MOST_PREVIEWS + 5):
        job(store, str(number), created=number, preview=True)
        store.change(str(number), made(1), status="done")
    assert store.listed("ann") == []
    assert store.get("0") is None
    assert store.get(str(MOST_PREVIEWS + 4)) is not None


@pytest.mark.parametrize("status", ["failed", "cancelled"])
@pytest.mark.parametrize("preview", [False, True])
def test_few_jobs_are_kept_that_made_nothing(status: str, preview: bool) -> None:
    store, most = Store(None, 10**9), MOST_PREVIEWS if preview else MOST_UNDONE
    job(store, "done")
    store.change("done", made(10), status="done")
    for number in range(most + 5):
        job(store, str(number), created=1 + number, preview=preview)
        store.change(str(number), status=status)
    kept = [number for number in range(most + 5) if store.get(str(number)) is not None]
    assert kept == list(range(5, most + 5))
    assert store.get("done") is not None


def test_few_jobs_are_kept_that_a_server_left_behind(tmp_path: Path) -> None:
    store = Store(tmp_path / "studio.sqlite", 1000)
    for number in range(MOST_UNDONE + 5):
        job(store, str(number), created=number)
    store.close()
    store = Store(tmp_path / "studio.sqlite", 1000)
    assert len(store.listed("ann", most=1000)) == MOST_UNDONE


def test_removed_previews_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facecrafter.studio.store.PRIVATE_BYTES", 1000)
    monkeypatch.setattr("facecrafter.studio.store.MOST_PREVIEWS", 1)
    store = Store(None, 0)
    job(store, "image")
    store.change("image", made(600), status="done")
    for number in (1, 2):
        job(store, str(number), created=number, preview=True)
        store.change(str(number), made(300), status="done")
    assert store.content("image", "00000.png") is not None  # without the first preview there is place for it


def test_jobs_are_listed_for_their_own_session_and_removed() -> None:
    store = Store(None, 10**9)
    for number, session in enumerate(("ann", "bob", "ann")):
        job(store, str(number), created=number, session=session)
    assert [row.id for row in store.listed("ann")] == ["2", "0"]
    store.change("0", made(1))
    store.remove(["0"])
    assert store.files("0") == []
    store.change("0", made(1))  # of a job that was removed meanwhile
    assert store.files("0") == []
