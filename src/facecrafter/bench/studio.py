"""What a user of the studio waits for: previews of one photo, asked of a real server one after another."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from facecrafter.errors import FaceCrafterError

MIB = 2**20
WARM = 5  # previews that are not counted: what is computed once is computed in them
HEADERS = {"X-FaceCrafter": "bench"}
BOUNDARY = "photo-of-the-benchmark"
EMOTIONS = ("happy", "sad:0.7", "surprise", "anger:0.5")


@dataclass(frozen=True)
class Waits:
    """Seconds from letting go of a control to the preview's bytes, and the server's memory.

    Attributes:
        seconds: of every preview, sorted.
        memory_mib: resident memory of the server after the first previews and after the last.
    """

    seconds: list[float]
    memory_mib: tuple[float, float]

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """What 95 % of the previews take at most, the nearest rank."""
        return self.seconds[-(-len(self.seconds) * 95 // 100) - 1]


def waiting(previews: int = 100, progress: Callable[[range], Any] = iter) -> Waits:
    """Previews with another pose and emotion each, one user at a time.

    Args:
        previews: how many are timed.
        progress: shows a count.

    Raises:
        FaceCrafterError: the server ended, or refused a preview.
    """
    import psutil

    with _server() as (process, address):
        (model,) = json.loads(_answer(address, "/v1/models"))["models"]
        wish = {"identity": [_sent(address)], **model["preview"], "n": 1, "preview": True}
        for number in range(WARM):
            _preview(address, wish, number)
        resident = psutil.Process(process.pid).memory_info
        before, seconds = resident().rss, []
        for number in progress(range(WARM, WARM + previews)):
            start = time.perf_counter()
            _preview(address, wish, number)
            seconds.append(time.perf_counter() - start)
        return Waits(sorted(seconds), (before / MIB, resident().rss / MIB))


@contextmanager
def _server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`facecrafter serve` with the shipped model in a process of its own, and its address."""
    command = [sys.executable, "-m", "facecrafter", "serve", "--private", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+?(?=/?\s|$)", process.stdout.readline())
        if found is None:
            raise FaceCrafterError("`facecrafter serve` did not start; run it by hand to see why")
        yield process, found[0]
    finally:
        process.terminate()
        process.wait()


def _sent(address: str) -> str:
    """The photo's id, after sending scikit-image's astronaut."""
    import io

    from PIL import Image
    from skimage.data import astronaut

    content = io.BytesIO()
    Image.fromarray(astronaut()).save(content, "JPEG", quality=92)
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photo"; filename="me.jpg"\r\n\r\n'
    body = head.encode() + content.getvalue() + f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return str(json.loads(_answer(address, "/v1/photos", body, kind))["photo"])


def _preview(address: str, wish: dict[str, Any], number: int) -> bytes:
    """One preview as the page asks for it, with a pose and an emotion of its own, waited for by its events."""
    pose = {"yaw": -30 + 7 * number % 61, "pitch": -10 + 3 * number % 21}
    wish = {**wish, "pose": pose, "emotion": EMOTIONS[number % len(EMOTIONS)], "seed": 3}
    job = json.loads(_answer(address, "/v1/images", json.dumps(wish).encode(), "application/json"))
    events = _answer(address, f"/v1/jobs/{job['id']}/events").decode().splitlines()
    last = json.loads([line for line in events if line.startswith("data: ")][-1].removeprefix("data: "))
    if last["status"] != "done":
        raise FaceCrafterError(f"a preview ended as {last['status']}: {last.get('error') or last.get('message')}")
    return _answer(address, f"/v1/jobs/{job['id']}/files/{last['files'][0]['name']}")


def _answer(address: str, path: str, body: bytes | None = None, kind: str | None = None) -> bytes:
    headers = {**HEADERS, **({"Content-Type": kind} if kind else {})}
    with urllib.request.urlopen(urllib.request.Request(address + path, body, headers)) as answer:
        content: bytes = answer.read()
        return content
