"""The client and the commands in docs/studio.md work as they stand there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from facecrafter.pipelines.generate import FaceCrafter
from facecrafter.studio.app import studio_app
from facecrafter.studio.studio import Studio
from facecrafter.web.binding import Binding
from facecrafter.web.server import Server, guarded

DOCUMENT = Path(__file__).parents[2] / "docs" / "studio.md"


@contextmanager
def served(crafter: FaceCrafter) -> Iterator[str]:
    """A studio on a port of this machine; gives its address."""
    app, ready = guarded(studio_app(Studio(crafter)), Binding()), threading.Event()
    with app.binding.listen() as listening:
        server = Server(app, ready.set)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        assert ready.wait(60)
        yield app.binding.url(listening.getsockname()[1]).rstrip("/")
        server.should_exit = True
        thread.join(60)


def test_the_client_gets_images(crafter: FaceCrafter, jpeg: bytes) -> None:
    found = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, object] = {"__name__": "client"}
    exec(found[1], names)
    with served(crafter) as address:
        names["URL"] = address
        images = names["ask"](jpeg, emotion="sad:0.8", pose={"yaw": 20}, n=2, steps=1)  # type: ignore[operator]
    assert [image[:4] for image in images] == [b"\x89PNG"] * 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_commands_send_a_photo(crafter: FaceCrafter, jpeg: bytes, tmp_path: Path) -> None:
    commands = re.findall(r"^    (curl .*)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert [command.rpartition("/")[2] for command in commands] == ["photos", "perceive"]
    (tmp_path / "me.jpg").write_bytes(jpeg)
    with served(crafter) as address:
        for command in commands:
            words = shlex.split(command.replace("http://127.0.0.1:8017", address))
            answer = subprocess.run([*words, "--silent"], cwd=tmp_path, capture_output=True, check=True).stdout
            assert len(json.loads(answer)["faces"]) == 1
