"""What a table compares: anything that turns a request into an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from facecrafter.data.shards import Prepared


@dataclass(frozen=True)
class Portrait:
    """One photo with what perception read from it.

    Attributes:
        name: whose photo it is.
        file: the photo's path inside its data set.
        image: ``(S, S, 3)`` uint8 RGB, aligned.
        points: ``(478, 3)`` float32 landmarks in pixels of ``image``.
        blendshapes: ``(52,)`` float32 in [0, 1].
        angles: ``(3,)`` float32 yaw, pitch and roll in degrees.
        embedding: ``(D,)`` float32 of unit length, by the recogniser that conditions the methods.
        emotion: ``(10,)`` float32: valence, arousal, eight probabilities.
    """

    name: str
    file: str
    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    blendshapes: NDArray[np.float32]
    angles: NDArray[np.float32]
    embedding: NDArray[np.float32]
    emotion: NDArray[np.float32]

    @classmethod
    def of(cls, prepared: Prepared, row: int) -> Portrait:
        """A row of a prepared folder."""
        return cls(
            name=prepared.persons[row],
            file=prepared.files[row],
            image=prepared.images[row],
            points=prepared.points[row],
            blendshapes=prepared.blendshapes[row],
            angles=prepared.angles[row],
            embedding=prepared.identity[row],
            emotion=prepared.emotion[row],
        )


@dataclass(frozen=True)
class Request:
    """One image to be made.

    Attributes:
        identity: who.
        landmarks: whose pose and expression; None to leave them free.
        emotion: whose emotion; None to leave it free. In the tables both come from one target.
        seed: of the starting noise.
    """

    identity: Portrait
    landmarks: Portrait | None
    emotion: Portrait | None
    seed: int


def table_device() -> str:
    """Where all methods of a table compute, so that their times compare: ``cuda`` where there is one, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Generator(Protocol):
    """One row of a table.

    Attributes:
        name: what the table calls it.
        extra_parameters: beside the base model that generates a person.
        key: a digest of the weights and settings; images made under one key are the same.
        size: side of its images in pixels.
    """

    name: str
    extra_parameters: int
    key: str
    size: int

    def generate(self, requests: Sequence[Request]) -> NDArray[np.uint8]:
        """Images ``(B, S, S, 3)`` uint8 RGB, one a request. What a method cannot read of a request it ignores.
        An image depends on its own request, not on its neighbours.

        Raises:
            FaceCrafterError: one sentence on what is missing.
        """
        ...
