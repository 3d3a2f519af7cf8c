"""The client in docs/studio.md works as it stands there."""

from __future__ import annotations

import re
import threading
from pathlib import Path

from facecrafter.pipelines.generate import FaceCrafter
from facecrafter.studio.app import studio_app
from facecrafter.studio.studio import Studio
from facecrafter.web.binding import Binding
from facecrafter.web.server import Server, guarded

DOCUMENT = Path(__file__).parents[2] / "docs" / "studio.md"


def test_the_client_gets_images(crafter: FaceCrafter, jpeg: bytes) -> None:
    found = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, object] = {"__name__": "client"}
    exec(found[1], names)
    app, ready = guarded(studio_app(Studio(crafter)), Binding()), threading.Event()
    with app.binding.listen() as listening:
        server = Server(app, ready.set)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        assert ready.wait(60)
        names["URL"] = app.binding.url(listening.getsockname()[1]).rstrip("/")
        images = names["ask"](jpeg, emotion="sad:0.8", pose={"yaw": 20}, n=2, steps=1)  # type: ignore[operator]
        server.should_exit = True
        thread.join(60)
    assert [image[:4] for image in images] == [b"\x89PNG"] * 2
