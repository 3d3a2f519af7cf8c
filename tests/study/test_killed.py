"""The server is killed at random moments: every answer that it acknowledged is there, once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from facecrafter.study.answers import given
from facecrafter.study.database import open_database
from facecrafter.study.manifest import Manifest
from facecrafter.study.rehearsal import Visitor
from facecrafter.study.store import Store
from tests.study.conftest import new_postgresql_database

# Kills in all; FACECRAFTER_KILLS=100 takes some minutes.
KILLS = int(os.environ.get("FACECRAFTER_KILLS", "5"))


class Served:
    """`study serve` in a process of its own."""

    def __init__(self, folder: Path, url: str | None) -> None:
        command = [sys.executable, "-m", "facecrafter", "study", "serve", str(folder), "--port", "0"]
        if url:
            command += ["--database", url]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip().rstrip("/")
        assert self.address.startswith("http://127.0.0.1:")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def answer_until_it_dies(address: str, kept: dict[int, list[int]], enough: threading.Event, after: int) -> None:
    """One participant after the other, who notes what was acknowledged; ``enough`` is set after so many."""
    mine = 0
    try:
        while True:
            visitor = Visitor(address, timeout=20)
            assert visitor.ask("GET", "/")[0] == 200
            assert visitor.ask("POST", "/api/consent", {"agreed": True, "code": ""})[0] == 200
            now = visitor.ask("GET", "/api/state")[1]
            while now["trial"] is not None:
                trial = now["trial"]
                body = {
                    "trial": trial["trial"],
                    "attempt": trial["attempt"],
                    "positions": [trial["trial"] % 3],
                    "milliseconds": 5,
                }
                status, content = visitor.ask("POST", "/api/answers", body)
                assert status == 200 and content["changed"]
                kept[trial["trial"]] = body["positions"]
                now = content["now"]
                mine += 1
                if mine >= after:
                    enough.set()
    except (OSError, ValueError) as error:  # of the connection, whose other end is gone
        assert not isinstance(error, AssertionError)
    except Exception as error:
        assert type(error).__module__ == "http.client", error


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_every_acknowledged_answer_is_there_after_a_kill(
    kind: str, made: Callable[..., tuple[Path, Manifest]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = new_postgresql_database(request.getfixturevalue("postgresql")) if kind == "postgresql" else None
    built, study = made()
    folder = tmp_path / "study"
    folder.mkdir()
    for path in built.iterdir():
        if path.name != "study.sqlite":
            (folder / path.name).symlink_to(path)
    kept: dict[int, list[int]] = {}
    chance = random.Random(7)
    for _ in range(max(1, (KILLS + (kind == "sqlite")) // 2)):
        served, enough = Served(folder, url), threading.Event()
        # The moment is by the number of answers that came back, and then wherever the others are.
        after = chance.randrange(1, 12)
        people = [
            threading.Thread(target=answer_until_it_dies, args=(served.address, kept, enough, after)) for _ in range(4)
        ]
        for person in people:
            person.start()
        assert enough.wait(60)
        served.kill()
        for person in people:
            person.join(60)
        database = open_database(folder, study.digest, url)
        with database.reading() as session:
            stored = {one.answer.trial_id: one.answer.positions for one in given(session)}
        assert len(kept) > 0 and {trial: stored.get(trial) for trial in kept} == kept
        # What was on its way when it died may be there too: at most one answer of each who was answering.
        assert len(stored) - len(kept) <= 4 * max(1, KILLS)
        Store(study, database).invite(1)  # and it takes new entries
        database.close()


def test_a_server_that_is_stopped_says_that_answers_are_saved(made: Callable[..., tuple[Path, Manifest]]) -> None:
    command = [sys.executable, "-m", "facecrafter", "study", "serve", str(made()[0]), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert errors.splitlines()[-1] == "stopped: every acknowledged answer is saved"
