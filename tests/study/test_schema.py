"""The API against its own schema: whatever is asked, the answer is one that the schema has, and never a failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from starlette.testclient import TestClient

from facecrafter.study import manifest
from facecrafter.study.database import open_database
from facecrafter.study.manifest import Manifest
from facecrafter.study.server import make_app
from facecrafter.study.store import Store
from facecrafter.web.binding import Binding

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: pip install 'facecrafter[dev]'")

# Requests a route; FACECRAFTER_SCHEMA_EXAMPLES=200 takes a minute.
EXAMPLES = int(os.environ.get("FACECRAFTER_SCHEMA_EXAMPLES", "10"))
ROUTES = [
    ("GET", "/api/study"),
    ("POST", "/api/consent"),
    ("GET", "/api/state"),
    ("POST", "/api/answers"),
    ("POST", "/api/undo"),
    ("POST", "/api/withdraw"),
    ("GET", "/images/{name}"),
    ("GET", "/api/admin/status"),
    ("GET", "/api/admin/export"),
]


@pytest.fixture(scope="module")
def served(
    made: Callable[..., tuple[Path, Manifest]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, TestClient, str]:
    """The schema of a served study, a participant's client, and the admin token."""
    folder, study = made()
    store = Store(study, open_database(tmp_path_factory.mktemp("schema"), study.digest))
    app = make_app(folder, store, Binding())
    client = TestClient(app, base_url="http://127.0.0.1", headers={"Sec-Fetch-Site": "same-origin"})
    client.get("/")
    client.post("/api/consent", json={"agreed": True})
    loaded = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    loaded.app = app
    return loaded, client, manifest.admin_token(folder)


def test_the_schema_has_every_route(served: tuple[Any, TestClient, str]) -> None:
    found = {(one.ok().method.upper(), one.ok().path) for one in served[0].get_all_operations()}
    assert found == set(ROUTES)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_answer_is_one_of_the_schemas(served: tuple[Any, TestClient, str], method: str, path: str) -> None:
    from schemathesis import GenerationMode

    schema, client, token = served
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    headers = {"Cookie": cookies, "Authorization": f"Bearer {token}", "Sec-Fetch-Site": "same-origin"}

    def check(case: Any) -> None:
        response = case.call(base_url="http://127.0.0.1", headers=headers)
        assert response.status_code < 500, response.text
        case.validate_response(response, headers=headers)

    # Nothing can be wrong with a request that has no parameter.
    modes = [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if method == "POST" else [])]
    for mode in modes:
        cases = schema[path][method].as_strategy(generation_mode=mode)
        limits = settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        limits(given(cases)(check))()
