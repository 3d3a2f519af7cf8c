"""Photos moved to the landmarks asked for, as a generator: what judges can read of landmarks that are met exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facecrafter.faces.rig import Rig
from facecrafter.faces.warp import warped
from facecrafter.request import Progress, Request


@dataclass(frozen=True)
class MovedPhotos:
    """Gives back the identity's photo, its pixels moved to where the landmarks are wanted.

    Attributes:
        rig: whose mean face says which points a turn hides.
        size: side of the images in pixels, which is that of the photos.
    """

    rig: Rig
    size: int
    name: str = "moved photos"
    extra_parameters: int = 0

    @property
    def key(self) -> str:
        """What its images depend on beside the requests."""
        return f"{self.name} {self.rig.digest}"

    def generate(
        self, requests: Sequence[Request], progress: Progress | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The moved photos of some requests; see :class:`facecrafter.request.Generator`.

        Raises:
            KeyError: no landmarks are asked for.
        """
        for place, request in enumerate(requests):
            own, wanted = request.identity, request.conditions["landmark"]
            moved = wanted.points * np.float32(self.size / wanted.size)
            yield place, warped(own.image, own.points, moved, self.rig.mean).image
            if progress is not None:
                progress(1)
