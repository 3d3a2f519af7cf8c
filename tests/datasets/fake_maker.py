"""A maker without networks, which worker processes import by its name: a sample follows from its row alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from facecrafter.data.prepare.reader import Accepted, Rejected, Result, accepted
from facecrafter.datasets import engines
from facecrafter.datasets.basis import Basis
from facecrafter.datasets.cells import Cell
from facecrafter.datasets.make import Made, run
from facecrafter.datasets.maker import Job
from facecrafter.datasets.output import settings_of
from facecrafter.datasets.plan import Plan
from facecrafter.errors import WeightsError
from facecrafter.estimators.identity import DIMENSIONS, unit
from facecrafter.faces.emotion import Emotion
from facecrafter.faces.face import Face

BASIS = Basis("weights", "gain", "rig", "cpu")


@dataclass(frozen=True)
class Making:
    """Calling it makes a maker.

    Attributes:
        cells: of the plan.
        recognisers: whose embeddings a sample has, the model's first.
        slow: seconds a shard takes.
        fatal: a file with a number; the first worker that has made so many shards deletes it and dies.
        refuses: why no worker can start; empty where all can.
    """

    cells: tuple[Cell, ...]
    recognisers: tuple[str, ...] = ("dlib", "sface")
    slow: float = 0.0
    fatal: Path | None = None
    refuses: str = ""

    def __call__(self) -> FakeMaker:
        return FakeMaker(self)


class FakeMaker:
    """Samples of noise that their ids seed. Ids that end with 0 miss their cell."""

    def __init__(self, making: Making) -> None:
        if making.refuses:
            raise WeightsError(making.refuses)
        self.making, self.made = making, 0

    def close(self) -> None:
        pass

    def read(self, job: Job) -> list[Result]:
        fatal = self.making.fatal
        if fatal is not None and fatal.exists() and self.made >= int(fatal.read_text()):
            fatal.unlink()
            os.kill(os.getpid(), 9)
        self.made += 1
        time.sleep(self.making.slow)
        return [self._sample(row, job) for row in job.rows]

    def _sample(self, row, job: Job) -> Result:
        cell = self.making.cells[row.cell]
        if row.id.endswith("0"):
            return Rejected(row.id, f"{cell.name}: no face found")
        rng = np.random.default_rng(row.seed)
        person = job.people[row.person]
        points = (person.neutral * 10 + 32).astype(np.float32)
        face = Face(
            rng.integers(0, 256, (64, 64, 3), np.uint8), points, rng.random(52, np.float32), _pose(cell), (8, 8, 56, 56)
        )
        emotion = Emotion.from_words({"happy": 0.6, "neutral": 0.4})
        asked = {
            "id": row.id, "cell": row.cell, "attempt": 0, "seed": row.seed, "yaw": cell.yaw, "pitch": cell.pitch,
            "expression": cell.expression, "emotion": cell.emotion, "blendshapes": dict(cell.numbers),
            "valence": cell.valence, "arousal": cell.arousal,
        }  # fmt: skip
        noisy = person.embedding + 0.02 * rng.normal(size=person.embedding.shape).astype(np.float32)
        vectors = {name: unit(noisy[: DIMENSIONS[name]]) for name in self.making.recognisers}
        likeness = float(vectors[self.making.recognisers[0]] @ person.embedding)
        more = {"asked": asked, "likeness": likeness, "generated": True}
        sample = accepted(row.id, person.digest, f"{row.id}.png", face.resized(256), face, vectors, emotion, more)
        assert json.loads(sample.parts["json"])["asked"] == asked
        return Accepted(sample.row, sample.parts)


def _pose(cell: Cell) -> np.ndarray:
    """A head in the pose that was asked for."""
    pose = np.eye(4, dtype=np.float32)
    yaw, pitch = np.radians([cell.yaw, cell.pitch])
    forward = np.array([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)])
    right = np.array([np.cos(yaw), 0, -np.sin(yaw)])
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    return pose


def made(plan: Plan, out: Path, workers: int = 0, ray: str | None = None, **making: Any) -> Made:
    """A plan, made of noise by as many processes; by this one where that is none."""
    maker = Making(tuple(plan.cells), plan.config.recognisers, **making)
    engine = partial(engines.engine, maker, workers, ray) if workers else partial(here, maker)
    return run(plan, out, engine, workers or 1, settings_of(plan, 64, BASIS), progress=False)


@contextmanager
def here(maker: Making) -> Iterator[engines.Submit]:
    """What takes shards and makes them at once."""

    def submit(job: Job) -> Future[list[Result]]:
        future: Future[list[Result]] = Future()
        future.set_result(maker().read(job))
        return future

    yield submit
