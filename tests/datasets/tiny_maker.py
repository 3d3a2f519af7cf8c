"""A maker of a tiny model of the arc2face scale, which worker processes import by its name.

The networks are random, so that what they sample is blended into a photo: an image shows a face, and follows from its
seed, its person and the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tiny_arc2face import TINY, tiny_autoencoder

from facecrafter.datasets.maker import Maker, Recipe
from facecrafter.models import scales
from facecrafter.request import Request

SHARE = 0.1  # of what is sampled


class TinyMaker(Maker):
    """A maker where the arc2face scale is the tiny one."""

    def __init__(self, recipe: Recipe) -> None:
        from skimage.data import astronaut

        scales.SCALES["arc2face"] = TINY  # in a worker of its own
        scales.build_autoencoder = tiny_autoencoder
        super().__init__(recipe)
        crop = Image.fromarray(astronaut()[30:230, 125:325]).resize((TINY.size, TINY.size), Image.Resampling.LANCZOS)
        photo, real = np.asarray(crop), self.crafter.generator.generate

        def generate(requests: Sequence[Request], progress: Any = None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
            for place, image in real(requests, progress):
                yield place, ((1 - SHARE) * photo + SHARE * image).astype(np.uint8)

        self.crafter.generator.generate = generate
