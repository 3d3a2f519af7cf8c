"""Simulated participants through the real server: the rehearsal of a study, with reloads, double sends and drop-outs.

No answer of a rehearsal is anybody's, and none reaches the study's own database.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from facecrafter.errors import DataError
from facecrafter.study import manifest
from facecrafter.study.answers import given
from facecrafter.study.database import open_database
from facecrafter.study.manifest import Manifest
from facecrafter.study.server import MOST_CONNECTIONS, make_app
from facecrafter.study.store import Store
from facecrafter.web.binding import Binding
from facecrafter.web.server import serving

# Between a method and the next one of a rehearsal: odds of 3 to 2.
STEP = 0.4
TRIES = 40
PAUSE = 0.25  # seconds


@dataclass
class Acknowledged:
    """What the server acknowledged to one participant: positions by trial; and whether all was answered."""

    answers: dict[int, list[int]] = field(default_factory=dict)
    finished: bool = False
    secret: str = ""


class Visitor:
    """A participant's browser, as far as the server sees it.

    Args:
        address: of the server, ``http://HOST:PORT``.
        timeout: seconds that one request may take.
    """

    def __init__(self, address: str, timeout: float = 60) -> None:
        self.host, self.timeout = urlsplit(address).netloc, timeout
        self.cookie = ""
        self._connection: HTTPConnection | None = None

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """One request; its status, and its content where that is JSON.

        Raises:
            OSError, HTTPException: the connection is lost.
        """
        connection = self._connection or HTTPConnection(self.host, timeout=self.timeout)
        self._connection = None
        headers = {"Content-Type": "application/json", **({"Cookie": self.cookie} if self.cookie else {})}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        if cookie := response.getheader("Set-Cookie"):
            self.cookie = cookie.partition(";")[0]
        self._connection = connection
        is_json = response.getheader("Content-Type", "").startswith("application/json")
        return response.status, json.loads(content) if is_json else None

    def must(self, method: str, path: str, body: object = None) -> Any:
        """One request that must succeed. Like the page, it is sent again where the connection is lost or the server is
        busy.

        Raises:
            DataError: it is refused.
            OSError, HTTPException: no connection for :data:`TRIES` times.
        """
        for left in reversed(range(TRIES)):
            try:
                status, content = self.ask(method, path, body)
            except (OSError, HTTPException):
                if not left:
                    raise
                status, content = 503, None
            if status < 400:
                return content
            if status not in (429, 503) or not left:
                raise DataError(f"the server refused {path} ({status}: {content and content.get('message')})")
            time.sleep(PAUSE)


@dataclass(frozen=True)
class Habits:
    """What simulated participants do beside answering, each with a chance a trial: ``reload`` the page, ``double`` the
    send, ``undo`` the answer and give it again; and the share who ``leave`` somewhere for good."""

    reload: float = 0.2
    double: float = 0.2
    undo: float = 0.1
    leave: float = 0.15


def take_part(
    address: str,
    decide: Callable[[np.random.Generator, dict[str, Any]], list[int]],
    rng: np.random.Generator,
    habits: Habits = Habits(),
    entry: str = "/",
    code: str = "",
) -> Acknowledged:
    """One participant from the first page to the end.

    Args:
        address: of the server.
        decide: chooses positions for a trial as the server describes it.
        rng: of habits and choices.
        habits: what else is done.
        entry: the path that is opened first, a personal link's where the study has them.
        code: the access code, where the study has one.
    """
    visitor, kept = Visitor(address), Acknowledged()
    consent = {"agreed": True, "code": code}
    visitor.must("GET", entry)
    kept.secret = visitor.cookie.partition("=")[2]
    visitor.must("POST", "/api/consent", consent)
    now = visitor.must("GET", "/api/state")
    leaves_at = int(rng.integers(now["total"])) if rng.random() < habits.leave else None
    while (trial := now["trial"]) is not None:
        if now["done"] == leaves_at:
            return kept
        if rng.random() < habits.reload:
            visitor.must("GET", "/")
            visitor.must("POST", "/api/consent", consent)
            now = visitor.must("GET", "/api/state")
        positions = decide(rng, trial)
        body = {"trial": trial["trial"], "attempt": trial["attempt"], "positions": positions, "milliseconds": 1000}
        saved = visitor.must("POST", "/api/answers", body)
        if rng.random() < habits.double:
            again = visitor.must("POST", "/api/answers", {**body, "positions": positions[::-1]})
            if again["changed"]:
                raise DataError(f"the server took two answers to trial {trial['trial']}")
        if rng.random() < habits.undo:
            now = visitor.must("POST", "/api/undo", saved["now"]["last"])["now"]
            continue
        kept.answers[trial["trial"]] = positions
        now = saved["now"]
    kept.finished = True
    return kept


def take_part_together(
    address: str,
    participants: int,
    decide: Callable[[np.random.Generator, dict[str, Any]], list[int]],
    seed: int = 0,
    habits: Habits = Habits(),
    threads: int = 200,
    entries: Sequence[str] = (),
    code: str = "",
) -> list[Acknowledged]:
    """Many participants at once, all of whom begin at the same moment.

    Args:
        address: of the server.
        participants: how many.
        decide: chooses positions for a trial as the server describes it.
        seed: of habits and choices.
        habits: what else they do.
        threads: participants at once.
        entries: the path that each opens first, ``/`` without any.
        code: the access code, where the study has one.

    Raises:
        DataError: the server refused something, or took an answer twice.
    """
    at_once = min(participants, threads)
    start = threading.Barrier(at_once)

    def one(number: int) -> Acknowledged:
        if number < at_once:
            start.wait(60)
        entry = entries[number] if entries else "/"
        return take_part(address, decide, np.random.default_rng([seed, number]), habits, entry, code)

    try:
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(one, range(participants)))
    except (OSError, HTTPException) as error:
        raise DataError(f"the server at {address} did not answer ({type(error).__name__}); is it running?") from None


def by_worth(
    owners: dict[str, int], logs: Sequence[float], ranking: bool = False
) -> Callable[[np.random.Generator, dict[str, Any]], list[int]]:
    """A way to decide by methods' worths (Plackett-Luce), which obeys attention checks.

    Args:
        owners: the method of each image, by its address.
        logs: log-worths.
        ranking: put all options in order.
    """

    def decide(rng: np.random.Generator, trial: dict[str, Any]) -> list[int]:
        first = trial["instructed"]
        utility = [logs[owners[option[0]]] + rng.gumbel() for option in trial["options"]]
        if first is not None:
            utility[first] = np.inf
        order = [int(one) for one in np.argsort(utility)[::-1]]
        return order if ranking else order[:1]

    return decide


def owners(study: Manifest) -> dict[str, int]:
    """The number of the method behind each image, by the image's address."""
    return {
        f"/images/{name}": method
        for group in study.groups.values()
        for one in group.sets
        for method, names in enumerate(one.images)
        for name in names
    }


@contextmanager
def rehearsed(folder: Path, participants: int, seed: int = 0, habits: Habits = Habits()) -> Iterator[Store]:
    """A study that simulated participants have gone through, over HTTP on this machine, in a database of its own that
    goes when it ends. Methods later in the list are preferred, by a log-worth of :data:`STEP` each.

    Args:
        folder: of the study; nothing in it changes.
        participants: how many, at most 200 of them at once.
        seed: of their choices.
        habits: what else they do.

    Raises:
        DataError: an acknowledged answer is missing or doubled.
    """
    study = manifest.read(folder)
    with TemporaryDirectory() as place:
        database = open_database(Path(place), study.digest)
        store = Store(study, database)
        try:
            config = study.config
            entries = [f"/i/{code}" for code in store.invite(participants)] if config.access == "links" else []
            most = max(len(group.methods) for group in study.groups.values())
            decide = by_worth(owners(study), [STEP * one for one in range(most)], config.design == "ranking")
            with serving(make_app(folder, store, Binding()), MOST_CONNECTIONS) as address:
                kept = take_part_together(
                    address, participants, decide, seed, habits, entries=entries, code=config.access_code
                )
            check_kept(store, kept)
            yield store
        finally:
            database.close()


def check_kept(store: Store, kept: Sequence[Acknowledged]) -> None:
    """Make sure that what is stored is what was acknowledged, to the answer.

    Raises:
        DataError: it is not.
    """
    with store.database.reading() as session:
        stored = {one.answer.trial_id: one.answer.positions for one in given(session)}
    acknowledged = [item for one in kept for item in one.answers.items()]
    if len(acknowledged) != len(dict(acknowledged)) or stored != dict(acknowledged):
        raise DataError(f"{len(acknowledged)} answers were acknowledged, and the {len(stored)} stored are not the same")
