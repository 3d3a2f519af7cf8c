"""What the stages that learn from a prepared folder share: which samples are for learning, and which are held out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from facecrafter.data import shards
from facecrafter.data.dataset import TrainingSet
from facecrafter.data.shards import Prepared
from facecrafter.errors import DataError
from facecrafter.models import scales
from facecrafter.training.config import RunConfig


class PreparedConfig(RunConfig):
    """A run that learns from the images of a prepared folder."""

    scale: Literal["mini", "arc2face"] = "mini"
    held_out: bool = True  # hold out the people that evaluation uses

    def read(self) -> tuple[Prepared, NDArray[np.bool_] | None]:
        """The folder's content, and which samples to learn from, ``(N,)`` bool; None for all."""
        prepared = shards.load(self.data, recogniser=scales.SCALES[self.scale].recogniser)
        return prepared, ~shards.held_out(prepared.persons) if self.held_out else None

    def read_at_scale(self) -> tuple[Prepared, NDArray[np.bool_] | None]:
        """The same, of images of the scale's size.

        Raises:
            DataError: they are of another size.
        """
        prepared, keep = self.read()
        size, wanted = prepared.images.shape[1], scales.SCALES[self.scale].size
        if size != wanted:
            raise DataError(
                f"the images in {self.data} are of {size} px, and the {self.scale} scale's of {wanted}; prepare them "
                f"with --size {wanted}"
            )
        return prepared, keep


def training_sets(
    prepared: Prepared, keep: NDArray[np.bool_] | None, make: Callable[..., TrainingSet] = TrainingSet, **options: Any
) -> tuple[TrainingSet, TrainingSet | None]:
    """What is learned from, made with the options, and the held-out people; None where nobody is."""
    pairs = options.pop("pairs", None)
    held = None if keep is None or keep.all() else make(prepared, ~keep, **options)
    return make(prepared, keep, **options, pairs=pairs), held
