"""A world in which everything about an image is written into its pixels, so that all numbers are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facecrafter.data.shards import Prepared, held_out
from facecrafter.evaluation import session
from facecrafter.evaluation.judges import Measurements
from facecrafter.request import Request

SIDE = 16
POSE, EXPRESSION, IDENTITY, EMOTION = slice(0, 3), slice(0, 12), slice(0, 8), slice(0, 10)
NOBODY = 7  # an image whose last pixel is this shows no face


def read(image: np.ndarray) -> dict[str, np.ndarray]:
    """What is written in an image."""
    rows = image[:, :, 0].astype(np.float64)
    identity = rows[2, IDENTITY] - 100
    return {
        "pose": (rows[0, POSE] - 128) / 100,
        "expression": rows[1, EXPRESSION] / 255,
        "identity": identity / np.linalg.norm(identity),
        "emotion": np.concatenate([(rows[3, :2] - 128) / 127, rows[3, 2:10] / 255]),
    }


class StubJudges:
    """Reads pixels; counts what it was shown."""

    def __init__(self, config: object = None) -> None:
        roles = ("pose", "expression", "identity", "emotion", "frechet", "lpips")
        self.names = {role: f"stub {role}" for role in roles}
        self.shown = 0

    def measure(self, images: Sequence[np.ndarray], progress: bool = False) -> Measurements:
        self.shown += len(images)
        measured = [read(image) for image in images]
        found = np.array([image[-1, -1, 0] != NOBODY for image in images])
        rows = {name: np.array([one[name] for one in measured]) for name in measured[0]}
        for row in rows.values():
            row[~found] = np.nan
        return Measurements(found, [None] * len(images), **rows)

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        self.shown += len(images)
        return np.array([image[4, :5, 0] for image in images], np.float64)

    def lpips(self, one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
        return np.array(
            [np.abs(a.astype(float) - b.astype(float)).mean() / 255 for a, b in zip(one, other, strict=True)]
        )


class StubMethod:
    """Paints exactly what is asked, or does as ``paint`` says; counts what it made."""

    size, extra_parameters = SIDE, 12

    def __init__(self, name: str = "Stub", paint: Callable[[np.ndarray, Request], None] | None = None) -> None:
        self.name, self.key, self.paint, self.made = name, f"key of {name}", paint, 0

    def generate(self, requests: Sequence[Request], progress: object = None) -> Iterator[tuple[int, np.ndarray]]:
        self.made += len(requests)
        return enumerate(map(self._one, requests))

    def _one(self, request: Request) -> np.ndarray:
        image = request.identity.image.copy()
        if "landmark" in request.conditions:
            image[:2] = request.conditions["landmark"].image[:2]
        if "emotion" in request.conditions:
            asked = request.conditions["emotion"].emotion
            image[3, :2] = np.round(asked[:2] * 127 + 128)[:, None]
            image[3, 2:10] = np.round(asked[2:] * 255)[:, None]
        image[5:7] = np.random.default_rng(request.seed).integers(0, 256, (2, SIDE, 3))
        if self.paint:
            self.paint(image, request)
        return image


@pytest.fixture
def world() -> Prepared:
    """Forty held-out people and ten others, three photos each; photos of one person share identity."""
    random = np.random.default_rng(0)
    names = [f"person {number}" for number in range(2000)]
    out = held_out(names)
    people = [name for name, kept in zip(names, out, strict=True) if kept][:40]
    people += [name for name, kept in zip(names, out, strict=True) if not kept][:10]
    persons = [name for name in people for _ in range(3)]
    images = random.integers(10, 256, (len(persons), SIDE, SIDE, 1), np.uint8).repeat(3, axis=3)
    images[:, 2] = images[::3, 2].repeat(3, axis=0)
    measured = [read(image) for image in images]
    return Prepared(
        images=images,
        points=random.uniform(0, SIDE, (len(persons), 478, 3)).astype(np.float32),
        blendshapes=np.array([np.resize(one["expression"], 52) for one in measured], np.float32),
        angles=np.degrees([one["pose"] for one in measured]).astype(np.float32),
        identity=random.normal(size=(len(persons), 128)).astype(np.float32),
        emotion=np.array([one["emotion"] for one in measured], np.float32),
        masks=np.zeros((len(persons), 64, 64), np.uint8),
        persons=persons,
        files=[f"{name}/{number % 3}.jpg" for number, name in enumerate(persons)],
    )


@pytest.fixture
def stubbed(world: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Install the world; give a function that takes methods and eyes and returns what a table's config needs."""
    data = tmp_path / "data"
    data.mkdir()
    about = {
        "format": 1,
        "size": 128,
        "recognisers": {"dlib": {"dimension": 128}},
        "landmarks": {"name": "stub"},
        "emotion": {"name": "stub"},
    }
    (data / "meta.json").write_text(json.dumps(about))
    monkeypatch.setattr(session.shards, "load", lambda *_, **__: world)

    def install(*methods: StubMethod, judges: StubJudges | None = None) -> dict[str, Any]:
        by_name = {method.name: method for method in methods}
        monkeypatch.setattr(session, "Judges", lambda *_: judges or StubJudges())
        monkeypatch.setattr(session.generators, "open_generator", lambda entry, *_: by_name[entry.name])
        entries = [{"name": method.name, "model": "mini"} for method in methods]
        common = {"identities": 8, "real": 60, "frechet_draws": 20, "batch_size": 5}
        return {"data": data, "out": tmp_path / "out", "methods": entries, **common}

    return install


@pytest.fixture
def stub_judges() -> type[StubJudges]:
    return StubJudges


@pytest.fixture
def stub_method() -> type[StubMethod]:
    return StubMethod


@pytest.fixture
def requests_of(world: Prepared) -> Callable[[int], list[Request]]:
    """Some requests of the world."""
    from facecrafter.request import Portrait

    def make(count: int) -> list[Request]:
        portraits = [Portrait.of(world, row) for row in range(2 * count)]
        targets = [dict.fromkeys(("landmark", "emotion"), portrait) for portrait in portraits[count:]]
        return [Request(portraits[n], targets[n], n) for n in range(count)]

    return make


@pytest.fixture
def altered() -> Callable[..., Request]:
    """A request with one field of one of its portraits replaced."""

    def change(request: Request, part: str, **fields: object) -> Request:
        if part == "identity":
            return replace(request, identity=replace(request.identity, **fields))
        changed = replace(request.conditions[part], **fields)
        return replace(request, conditions={**request.conditions, part: changed})

    return change
