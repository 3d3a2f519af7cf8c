"""A studio of the small random model, behind its guard."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from facecrafter.pipelines.generate import FaceCrafter
from facecrafter.studio.app import studio_app
from facecrafter.studio.studio import Options, Studio
from facecrafter.web.binding import Binding
from facecrafter.web.guard import HEADER
from facecrafter.web.server import guarded

if TYPE_CHECKING:
    from facecrafter.models.checkpoint import FaceModel

SECONDS = 120


@pytest.fixture(scope="session")
def crafter(small_model: FaceModel) -> FaceCrafter:
    return FaceCrafter(small_model, "small")


@pytest.fixture(scope="session")
def jpeg(astronaut: NDArray[np.uint8]) -> bytes:
    """A photo as a file's content."""
    content = io.BytesIO()
    Image.fromarray(astronaut).save(content, "JPEG", quality=92)
    return content.getvalue()


@pytest.fixture
def open_client(crafter: FaceCrafter) -> Iterator[Callable[..., TestClient]]:
    """Starts studios; each client is a program without cookies of its own."""
    opened = []

    def start(database: Path | None = None, **options: Any) -> TestClient:
        studio = Studio(crafter, Options(database, model={"model": "small"}, **options))
        app = guarded(studio_app(studio), Binding())
        client = TestClient(app, "http://127.0.0.1:8000", headers={HEADER: "1"})
        client.studio = studio  # type: ignore[attr-defined]
        opened.append(studio)
        return client

    yield start
    for studio in opened:
        studio.close()


@pytest.fixture
def client(open_client: Callable[..., TestClient]) -> TestClient:
    return open_client()


def send(client: TestClient, content: bytes, name: str = "me.jpg") -> Any:
    """Send a photo."""
    return client.post("/v1/photos", files={"photo": (name, content, "image/jpeg")})


def finished(client: TestClient, job: str) -> dict[str, Any]:
    """A job when it is over."""
    with client.stream("GET", f"/v1/jobs/{job}/events") as answer:
        for _ in answer.iter_lines():
            pass
    end = time.monotonic() + SECONDS
    while (found := client.get(f"/v1/jobs/{job}").json())["status"] in ("queued", "running"):
        assert time.monotonic() < end
    return found
