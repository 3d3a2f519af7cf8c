"""What can be read of numbers that are followed: in photos whose pixels are moved as the numbers say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facecrafter.estimators.blendshapes import network
from facecrafter.faces.asked import Asked, wanted
from facecrafter.faces.rig import Rig
from facecrafter.faces.warp import TORN, moved_points, warped
from facecrafter.request import Portrait


def moved(own: Portrait, asked: Sequence[Asked], rig: Rig, size: int) -> list[NDArray[np.uint8] | None]:
    """A person's photo with expressions, each ``(size, size, 3)`` uint8 RGB; None where it would be torn.

    The head keeps the photo's pose, and the expression starts from a neutral face, as it does for the images of a
    generator. Its light and its wrinkles stay.

    Args:
        own: the person, read from an aligned photo.
        asked: the expressions.
        rig: what moves the landmarks.
        size: of the generator's images in pixels; larger photos are made as small first.
    """
    side, read = min(size, len(own.image)), network().scores
    photo = np.asarray(Image.fromarray(own.image).resize((side, side), Image.Resampling.LANCZOS))
    points, neutral = own.points * np.float32(side / own.size), rig.neutral
    made: list[NDArray[np.uint8] | None] = []
    for one in asked:
        result = warped(
            photo, points, moved_points(points, own.blendshapes, wanted(one, rig, neutral), side, rig, read)
        )
        made.append(result.image if result.torn <= TORN else None)
    return made
