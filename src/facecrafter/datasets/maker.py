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
from facecrafter.datasets.basis import Basis
from facecrafter.datasets.cells import Cell, Measured, missed
from facecrafter.datasets.config import PlanConfig
from facecrafter.datasets.identities import Person
from facecrafter.datasets.labels import Labeller, Reading
from facecrafter.datasets.plan import Row, seed_of
from facecrafter.errors import ConfigError, DataError
from facecrafter.estimators.blendshapes import network
from facecrafter.faces.asked import Asked, Pose, wanted
from facecrafter.faces.face import ALIGNED_SIZE
from facecrafter.faces.rig import load
from facecrafter.pipelines.generator import FaceCrafterGenerator
from facecrafter.pipelines.images import encoded
from facecrafter.pipelines.settings import Settings
from facecrafter.request import Portrait, Request, portrait_of

if TYPE_CHECKING:
    from facecrafter.pipelines.generate import FaceCrafter

Key = TypeVar("Key")

NO_FACE = "no face found"
# Faces that are kept for the next poses, and for images that are made again: 4 MB.
HELD = 256
# People whose identity's keys and values are held: 65 kB each of mini, 8 MB of arc2face. Images of one are neighbours.
PEOPLE = 32


@dataclass(frozen=True)
class Recipe:
    """What is the same for all shards, and travels to every worker once.

    Attributes:
        config: of the plan.
        cells: of the plan.
        device: of the model.
        basis: what images depend on beside the plan; a worker that has another one refuses.
    """

    config: PlanConfig
    cells: tuple[Cell, ...]
    device: str
    basis: Basis


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


def open_crafter(config: PlanConfig, device: str) -> FaceCrafter:
    """The model of a plan.

    Raises:
        CheckpointError: it, or the file of its recogniser, is missing or damaged.
        ConfigError: it reads other embeddings than the plan has, or has no controls, or the device does not compute in
            bfloat16.
    """
    from facecrafter.pipelines.generate import FaceCrafter

    crafter = FaceCrafter.from_pretrained(config.model, device, weights=config.weights, bfloat16=config.bfloat16)
    crafter.generator = FaceCrafterGenerator(crafter.model, crafter.name, people=PEOPLE)
    reads = crafter.model.scale.recogniser
    if reads != config.recogniser:
        raise ConfigError(
            f"the model {config.model} reads embeddings by {reads}, and the plan has {config.recogniser}'s"
        )
    if crafter.model.controls is None:
        raise ConfigError(
            f"the model {config.model} has no controls, without which no pose can be asked for; name the folder of a "
            "model that was trained with them"
        )
    return crafter


class Maker:
    """Makes shards, one at a time.

    An image depends on its row, the basis and the number of images that are sampled at once, whose order the plan
    alone decides: which worker makes a shard changes nothing. Computing is on one thread a worker, since more change
    the last digits.

    Args:
        recipe: what is the same for all shards.

    Attributes:
        crafter, labeller: what makes images and reads them.
        attempts: images that were made so far.
        faces: straightened ones with an expression, for the next poses; see :data:`HELD`.

    Raises:
        DataError: the model, or its recogniser's file, is not the one that the run began with.
    """

    def __init__(self, recipe: Recipe) -> None:
        import torch

        torch.set_num_threads(1)
        self.recipe, config = recipe, recipe.config
        self.crafter = open_crafter(config, recipe.device)
        if differs := Basis.of(self.crafter).difference(recipe.basis.content(), config.model):
            raise DataError(f"a worker has {differs}; give all machines the same")
        self._settings = Settings(**config.sampling.model_dump()).filled(self.crafter.model.scale)
        self.labeller = Labeller(config.recognisers, self.crafter.arcface)
        self.attempts = 0
        self._scores: dict[bytes, NDArray[np.float64]] = {}
        self.faces: dict[tuple[bytes, str], NDArray[np.float64]] = {}

    def close(self) -> None:
        """Free the landmark network."""
        self.labeller.close()

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
        readings = self.labeller.read([np.asarray(images[place]) for place in range(len(batch))])
        return [
            self._judged(row, attempt, people[row.person], images[place], readings[place])
            for place, (row, attempt) in enumerate(batch)
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
        """The landmarks whose image shows a cell, ``(478, 3)`` in pixels of an aligned image.

        As for every other request they are turned by the model's gain: further than the head that is to be shown.

        An expression is solved for once a neutral face, and then turned: the cells of a person that differ in the pose
        alone follow each other, and people of an array of embeddings all have the mean face.
        """
        asked = cell.asked(self.recipe.config.emotion_through)
        emotion = asked.emotion and asked.emotion.probabilities
        key = (person.neutral.tobytes(), json.dumps([sorted(asked.expression.items()), emotion]))
        face = _recent(self.faces, key, lambda: self._expressed(asked, person))
        turned = Pose(cell.yaw, cell.pitch).turned(self.crafter.gain)
        return load().posed(face, turned.yaw, turned.pitch, turned.roll)

    def _expressed(self, asked: Asked, person: Person) -> NDArray[np.float64]:
        """A person's straightened face ``(478, 3)`` with an expression."""
        rig, read, neutral = load(), network().scores, person.neutral.astype(np.float64)
        now = _recent(self._scores, person.neutral.tobytes(), lambda: np.asarray(read(neutral[None])[0], np.float64))
        return rig.expressed(neutral, wanted(asked, rig, now), now, read)[0]

    def _judged(self, row: Row, attempt: int, person: Person, image: Image.Image, found: Reading | None) -> Result:
        cell, config = self.recipe.cells[row.cell], self.recipe.config
        if found is None:
            return Rejected(row.id, f"{cell.name}: {NO_FACE}")
        likeness = float(found.embeddings[config.recogniser] @ person.embedding)
        measured = Measured(found.angles, found.stored.blendshapes, found.emotion, likeness)
        if reason := missed(cell, config.accept, measured):
            return Rejected(row.id, f"{cell.name}: {reason}")
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
        more: dict[str, Any] = {"asked": asked, "likeness": likeness, "generated": True}
        face = found.stored.resized(ALIGNED_SIZE)
        of = row.id, person.digest, f"{row.id}.png"
        return accepted(*of, face, found.stored, found.embeddings, found.emotion, more, encoded(image))


def _recent(held: dict[Key, NDArray[np.float64]], key: Key, make: Callable[[], NDArray[np.float64]]) -> Any:
    """What is held of a key, made where it is not; the :data:`HELD` that were made last are held."""
    if key not in held:
        if len(held) >= HELD:
            del held[next(iter(held))]
        held[key] = make()
    return held[key]
