"""The API under load, after kill -9, without a network, and asked at random."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from facecrafter.studio.making import Wish
from facecrafter.studio.photos import ENTRY_BYTES, Photos
from facecrafter.studio.store import Made
from facecrafter.studio.studio import Studio
from facecrafter.studio.worker import Task
from facecrafter.web.guard import HEADER
from tests.studio.conftest import finished, send

FEW = {"steps": 1, "speed": "exact"}
SECONDS = 120


def test_of_fifty_posts_at_once_none_is_lost(open_client: Callable[..., TestClient], jpeg: bytes) -> None:
    client = open_client(waiting=8)
    photo = send(client, jpeg).json()["photo"]
    wish = {"identity": [photo], "preview": True, **FEW}
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda seed: client.post("/v1/images", json={**wish, "seed": seed}), range(50)))
    taken = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(taken) + len(refused) == 50
    assert 8 <= len(taken) < 50
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all(answer.json()["error"] == "busy" for answer in refused)
    assert {finished(client, job)["status"] for job in taken} == {"done"}
    assert client.get("/health").json()["waiting"] == 0


def test_the_photos_of_jobs_that_wait_count(client: TestClient, jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    go, begun = threading.Event(), threading.Event()

    def make(wish: Wish, task: Task) -> tuple[list[Made], list[str]]:
        begun.set()
        assert go.wait(SECONDS)
        return [], []

    studio: Studio = client.studio  # type: ignore[attr-defined]
    monkeypatch.setattr(studio.maker, "make", make)
    studio.photos = Photos(most_bytes=2 * (len(jpeg) + 1 + ENTRY_BYTES))

    def ask(number: int) -> Any:
        return client.post("/v1/images", files={"identity": (f"{number}.jpg", jpeg + bytes([number]))})

    jobs = [ask(number).json()["id"] for number in range(2)]
    assert begun.wait(SECONDS)
    refused = ask(2)
    assert (refused.status_code, refused.json()["error"]) == (429, "busy")
    assert int(refused.headers["retry-after"]) >= 1
    client.delete(f"/v1/jobs/{jobs[1]}")  # one that waits and is cancelled needs its photo no longer
    jobs.append(ask(3).json()["id"])
    go.set()
    assert [finished(client, job)["status"] for job in jobs] == ["done", "cancelled", "done"]
    assert ask(4).status_code == 202


LONG = pytest.mark.skipif(
    "FACECRAFTER_LOAD" not in os.environ, reason="takes minutes: set FACECRAFTER_LOAD to a number of requests, say 1000"
)


@LONG
def test_many_requests_take_no_more_memory(client: TestClient, jpeg: bytes) -> None:
    import psutil

    photo = send(client, jpeg).json()["photo"]
    own = psutil.Process()

    def ask(count: int) -> int:
        for seed in range(count):
            job = client.post("/v1/images", json={"identity": [photo], "preview": True, "seed": seed, **FEW})
            assert finished(client, job.json()["id"])["status"] == "done"
        return int(own.memory_info().rss)

    warm = ask(100)
    assert ask(int(os.environ["FACECRAFTER_LOAD"])) - warm < 40 * 2**20


class Server:
    """`facecrafter serve` in a process of its own."""

    def __init__(self, model: Path, database: Path, port: int = 0, *more: str) -> None:
        words = ["serve", "--model", str(model), "--device", "cpu", "--keep", str(database), "--port", str(port), *more]
        command = [sys.executable, "-m", "facecrafter", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.output: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if "http://" in line:
                self.port = int(line.split("http://127.0.0.1:")[1].split("/")[0])
                break
        else:
            raise AssertionError(f"the server did not start: {self.output}")

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content, {"Content-Type": kind, HEADER: "1"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if answer.getheader("content-type") == "application/json" else text

    def events(self, job: str) -> Any:
        """The events of a job until the connection ends."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.request("GET", f"/v1/jobs/{job}/events")
        for line in connection.getresponse():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        rest, _ = self.process.communicate(timeout=SECONDS)
        self.output.append(rest)


def form(content: bytes, name: str = "secret-name.jpg") -> tuple[bytes, str]:
    head = f'--x\r\nContent-Disposition: form-data; name="photo"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


@LONG
def test_after_kill_what_is_done_is_there_and_what_is_not_says_so(
    model_folder: Path, tmp_path: Path, jpeg: bytes
) -> None:
    server = Server(model_folder, tmp_path / "studio.sqlite")
    try:
        status, photo = server.ask("POST", "/v1/photos", *form(jpeg))
        assert status == 200
        wish = {"identity": [photo["photo"]]}
        done = server.ask("POST", "/v1/images", {**wish, **FEW})[1]["id"]
        assert list(server.events(done))[-1]["status"] == "done"
        # A long job, killed while it runs.
        cut = server.ask("POST", "/v1/images", {**wish, "n": 8, "steps": 100, "speed": "exact"})[1]["id"]
        waits = server.ask("POST", "/v1/images", {**wish, **FEW})[1]["id"]
        for job in server.events(cut):
            if job["progress"] > 0:
                break
    finally:
        server.kill()
    # Neither the photo nor its name, nor where anything lies, is in the log.
    assert "secret" not in "".join(server.output)
    assert str(tmp_path) not in "".join(server.output)
    again = Server(model_folder, tmp_path / "studio.sqlite", server.port)
    try:
        status, found = again.ask("GET", f"/v1/jobs/{done}")
        assert (status, found["status"], len(found["files"])) == (200, "done", 1)
        assert again.ask("GET", found["files"][0]["url"])[1].startswith(b"\x89PNG")
        for job in (cut, waits):
            found = again.ask("GET", f"/v1/jobs/{job}")[1]
            assert (found["status"], found["error"], found["files"]) == ("interrupted", "interrupted", [])
            assert "ask for it again" in found["message"]
        assert again.ask("POST", "/v1/images", wish)[1]["error"] == "unknown_photo"
        assert not [path for path in tmp_path.iterdir() if not path.name.startswith("studio.sqlite")]
    finally:
        again.kill(signal.SIGTERM)
    assert again.process.returncode in (0, 143, -signal.SIGTERM)


def test_nothing_is_asked_of_another_machine(
    open_client: Callable[..., TestClient], jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[object] = []

    def refuse(*arguments: Any, **options: Any) -> Any:
        reached.append(arguments)
        raise OSError("the network is cut")

    client = open_client()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "sendto", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert client.get("/").status_code == 200
    photo = send(client, jpeg).json()["photo"]
    job = client.post("/v1/images", json={"identity": [photo], "emotion": "happy", "pose": {}, **FEW}).json()["id"]
    assert finished(client, job)["status"] == "done"
    assert client.post("/v1/perceive", files={"photo": ("me.jpg", jpeg)}).status_code == 200
    assert reached == []


def test_pages_load_nothing_from_elsewhere() -> None:
    from facecrafter.studio.app import STATIC

    for path in STATIC.rglob("*"):
        if path.suffix in (".html", ".js", ".css"):
            text = path.read_text(encoding="utf-8")
            assert "http://" not in text and "https://" not in text and "//cdn" not in text, path.name


def test_random_requests_get_documented_answers(open_client: Callable[..., TestClient]) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    client, headers = open_client(waiting=1000), {"Host": "127.0.0.1", HEADER: "1"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app, headers=headers)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 13
    limited = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    for operation in operations:

        @limited
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            # A schema does not say which bytes are a photo with a face.
            case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

        ask()
