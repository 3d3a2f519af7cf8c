"""The rows of a shard to images with asked and measured labels; those that miss their cell are made again."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.data.prepare.reader import Rejected, Result, accepted
from facecrafter.data.prepare.stopping import check_leaving
from facecrafter.datasets.cells import Cell, Measured, missed
from facecrafter.datasets.config import PlanConfig
from facecrafter.datasets.identities import Person
from facecrafter.datasets.plan import Row, seed_of
from facecrafter.errors import ConfigError, DataError
from facecrafter.estimators.blendshapes import network
from facecrafter.estimators.emotion_estimator import estimator
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.estimators.identity import recogniser
from facecrafter.faces.asked import Asked, wanted
from facecrafter.faces.face import ALIGNED_SIZE, Detection, Face, align
from facecrafter.faces.rig import load
from facecrafter.pipelines.images import encoded
from facecrafter.pipelines.settings import Settings
from facecrafter.request import Portrait, Request, portrait_of

if TYPE_CHECKING:
    from facecrafter.pipelines.generate import FaceCrafter

Key = TypeVar("Key")

NO_FACE = "no face found"
# Faces that are kept for the next poses, and for images that are made again: 4 MB.
HELD = 256


@dataclass(frozen=True)
class Recipe:
    """What is the same for all shards, and travels to every worker once.

    Attributes:
        config: of the plan.
        cells: of the plan.
        device: of the model.
        digest: of the model's weights; a worker that has others refuses.
    """

    config: PlanConfig
    cells: tuple[Cell, ...]
    device: str
    digest: str


@dataclass(frozen=True)
class Job:
    """A shard to make.

    Attributes:
        number: of the shard.
        rows: of the plan.
        people: by their numbers.
    """

    number: int
    rows: tuple[Row, ...]
    people: Mapping[int, Person]


@dataclass(frozen=True)
class Reading:
    """A face that was found in an image.

    Attributes:
        stored: the whole image with the landmarks in its pixels.
        embeddings: by the recogniser's name.
        measured: what :func:`facecrafter.datasets.cells.missed` goes by.
    """

    stored: Face
    embeddings: Mapping[str, NDArray[np.float32]]
    measured: Measured


def open_crafter(config: PlanConfig, device: str) -> FaceCrafter:
    """The model of a plan.

    Raises:
        ConfigError: it reads other embeddings than the plan has.
    """
    from facecrafter.pipelines.generate import FaceCrafter

    crafter = FaceCrafter.from_pretrained(config.model, device)
    reads = crafter.model.scale.recogniser
    if reads != config.recogniser:
        raise ConfigError(
            f"the model {config.model} reads embeddings by {reads}, and the plan has {config.recogniser}'s"
        )
    return crafter


class Maker:
    """Makes shards, one at a time.

    An image depends on its row, the weights and the number of images that are sampled at once, whose order the plan
    alone decides: which worker makes a shard changes nothing. Computing is on one thread a worker, since more change
    the last digits.

    Args:
        recipe: what is the same for all shards.

    Attributes:
        crafter, finder, recognisers, estimator: what makes images and reads them.
        attempts: images that were made so far.
        faces: straightened ones with an expression, for the next poses; see :data:`HELD`.

    Raises:
        DataError: the model's weights are not those the run began with.
    """

    def __init__(self, recipe: Recipe) -> None:
        import torch

        torch.set_num_threads(1)
        self.recipe, config = recipe, recipe.config
        self.crafter = open_crafter(config, recipe.device)
        if self.crafter.digest != recipe.digest:
            raise DataError(f"a worker has other weights for the model '{config.model}'; give all machines the same")
        self._settings = Settings(**config.sampling.model_dump()).filled(self.crafter.model.scale)
        self.finder = FaceFinder()
        self.recognisers = {name: recogniser(name) for name in config.recognisers}
        self.estimator = estimator()
        self.attempts = 0
        self._scores: dict[bytes, NDArray[np.float64]] = {}
        self.faces: dict[tuple[bytes, str], NDArray[np.float64]] = {}

    def close(self) -> None:
        """Free the landmark network."""
        self.finder.close()

    def read(self, job: Job) -> list[Result]:
        """The samples of a shard in the order of its rows, and of those that missed their cell why."""
        results: dict[str, Result] = {}
        kinds: dict[bool, deque[tuple[Row, int]]] = {}
        for row in job.rows:  # images with and without an emotion are not sampled at once
            kinds.setdefault(self.recipe.cells[row.cell].target_emotion is None, deque()).append((row, 0))
        for queue in kinds.values():
            while queue:
                check_leaving()
                batch = [queue.popleft() for _ in range(min(len(queue), self._settings.batch_size))]
                for (row, attempt), result in zip(batch, self._batch(batch, job.people), strict=True):
                    if isinstance(result, Rejected) and attempt + 1 < self.recipe.config.attempts:
                        queue.append((row, attempt + 1))
                    else:
                        results[row.id] = result
        return [results[row.id] for row in job.rows]

    def _batch(self, batch: Sequence[tuple[Row, int]], people: Mapping[int, Person]) -> list[Result]:
        requests = [self._request(row, attempt, people[row.person]) for row, attempt in batch]
        images = dict(self.crafter.render(requests))
        self.attempts += len(batch)
        return [
            self._judged(row, attempt, people[row.person], images[place]) for place, (row, attempt) in enumerate(batch)
        ]

    def _request(self, row: Row, attempt: int, person: Person) -> Request:
        cell, through = self.recipe.cells[row.cell], self.recipe.config.emotion_through
        conditions = {"landmark": Portrait(points=self.points(cell, person))}
        if cell.target_emotion is not None and through != "landmarks":
            conditions["emotion"] = portrait_of(cell.target_emotion)
        described = {"identity": "an embedding", "landmarks": "by numbers", "asked": cell.name}
        return Request(
            Portrait(embedding=person.embedding), conditions, seed_of(row.id, attempt), self._settings, described
        )

    def points(self, cell: Cell, person: Person) -> NDArray[np.float32]:
        """The landmarks of a cell, ``(478, 3)`` in pixels of an aligned image.

        An expression is solved for once a neutral face, and then turned: the cells of a person that differ in the pose
        alone follow each other, and people of an array of embeddings all have the mean face.
        """
        asked = cell.asked(self.recipe.config.emotion_through)
        key = (person.neutral.tobytes(), json.dumps([sorted(asked.expression.items()), cell.emotion]))
        face = _recent(self.faces, key, lambda: self._expressed(asked, person))
        return load().posed(face, cell.yaw, cell.pitch)

    def _expressed(self, asked: Asked, person: Person) -> NDArray[np.float64]:
        """A person's straightened face ``(478, 3)`` with an expression."""
        rig, read, neutral = load(), network().scores, person.neutral.astype(np.float64)
        now = _recent(self._scores, person.neutral.tobytes(), lambda: np.asarray(read(neutral[None])[0], np.float64))
        return rig.expressed(neutral, wanted(asked, rig, now), now, read)[0]

    def _judged(self, row: Row, attempt: int, person: Person, image: Image.Image) -> Result:
        cell = self.recipe.cells[row.cell]
        found = self._measure(np.asarray(image), person)
        reason = NO_FACE if found is None else missed(cell, self.recipe.config.accept, found.measured)
        if found is None or reason:
            return Rejected(row.id, f"{cell.name}: {reason}")
        measured = found.measured
        asked = {
            "id": row.id,
            "cell": row.cell,
            "attempt": attempt,
            "seed": seed_of(row.id, attempt),
            "yaw": cell.yaw,
            "pitch": cell.pitch,
            "expression": cell.expression,
            "emotion": cell.emotion,
            "blendshapes": dict(cell.numbers),
            "valence": cell.valence,
            "arousal": cell.arousal,
        }
        more: dict[str, Any] = {"asked": asked, "likeness": measured.likeness, "generated": True}
        face = found.stored.resized(ALIGNED_SIZE)
        of = row.id, person.digest, f"{row.id}.png"
        return accepted(*of, face, found.stored, found.embeddings, measured.emotion, more, encoded(image))

    def _measure(self, image: NDArray[np.uint8], person: Person) -> Reading | None:
        """What is read off an image; None where it shows no face."""
        faces = self.finder.find_all(image)
        if not faces:
            return None
        nearest = min(faces, key=lambda face: _off_centre(face, image))
        aligned = align(image, nearest, ALIGNED_SIZE, len(faces) - 1)
        stored = Face(image, nearest.points, nearest.blendshapes, nearest.pose, nearest.box, len(faces) - 1)
        embeddings = {name: network.embed([aligned])[0] for name, network in self.recognisers.items()}
        likeness = float(embeddings[self.recipe.config.recogniser] @ person.embedding)
        # One at a time: of several the last digits depend on how many there are.
        emotion = self.estimator.estimate([aligned])[0]
        return Reading(stored, embeddings, Measured(aligned.angles, aligned.blendshapes, emotion, likeness))


def _recent(held: dict[Key, NDArray[np.float64]], key: Key, make: Callable[[], NDArray[np.float64]]) -> Any:
    """What is held of a key, made where it is not; the :data:`HELD` that were made last are held."""
    if key not in held:
        if len(held) >= HELD:
            del held[next(iter(held))]
        held[key] = make()
    return held[key]


def _off_centre(face: Detection, image: NDArray[np.uint8]) -> float:
    return float(np.linalg.norm(face.points[:, :2].mean(0) - np.array(image.shape[1::-1]) / 2))
